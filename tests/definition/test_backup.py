"""Documents of backup jobs."""

import pytest

from tests.definition.trees import canonical
from virtomate.definition.backup import BackupTarget, backup_document, backup_paths

PUSH = """
<domainbackup mode='push'>
  <disks>
    <disk name='vda' backup='yes' type='file' backupmode='full' index='3'>
      <driver type='qcow2'/><target file='/p/a&amp;b.qcow2'/>
    </disk>
    <disk name='vdb' backup='yes' type='block' backupmode='full'><driver type='raw'/><target dev='/dev/vg/b'/></disk>
    <disk name='vdc' backup='no'/>
  </disks>
</domainbackup>"""

PULL = """
<domainbackup mode='pull'>
  <server transport='unix' socket='/run/backup'/>
  <disks><disk name='vda' backup='yes' type='file'><scratch file='/p/scratch'/></disk></disks>
</domainbackup>"""


def test_document() -> None:
    """A job fills the images that are given, and says of every other disk that it is not read."""
    document = backup_document([BackupTarget("vda", "qcow2", "/p/a&b.qcow2")], ["sda", "vdb"])

    assert canonical(document) == canonical(
        "<domainbackup mode='push'><disks>"
        "<disk name='vda' type='file' backup='yes'><driver type='qcow2'/><target file='/p/a&amp;b.qcow2'/></disk>"
        "<disk name='sda' backup='no'/><disk name='vdb' backup='no'/></disks></domainbackup>"
    )


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        (PUSH, {"/p/a&b.qcow2", "/dev/vg/b"}),
        (PULL, {"/p/scratch"}),
        ("<domainbackup mode='push'><disks><disk name='vda' backup='no'/></disks></domainbackup>", set()),
        ("<domainbackup/>", set()),
    ],
    ids=["push", "pull", "nothing", "empty"],
)
def test_paths(document: str, paths: set[str]) -> None:
    """Whatever a job writes to is found: files, devices, scratch images."""
    assert backup_paths(document) == paths
