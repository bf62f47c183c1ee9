"""What a snapshot's document says."""

import pytest

from virtomate.definition.snapshot import read_snapshot
from virtomate.errors import MalformedDocumentError

DISK = """
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/><target dev='{target}'/>
</disk>"""
DOMAIN = """
  <{tag} type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <name>web</name><uuid>6e0c7d7e-2c68-4d3e-a2f3-6d1c2f1f3a4b</uuid><title>{tag}</title>
    <metadata><a:x xmlns:a='urn:a'><domain>theirs</domain></a:x></metadata>
    <devices>{disks}</devices>
    <qemu:commandline><qemu:arg value='-x'/></qemu:commandline>
  </{tag}>"""
DOCUMENT = """
<domainsnapshot>
  <name>&lt;s 1&gt;</name><state>{state}</state><creationTime>1767225600</creationTime>
  <memory snapshot='{memory}'/>
  <disks>
    <disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/p/web.s1'/></disk>
    <disk name='vdb' snapshot='internal'/>
    <disk name='vdc' snapshot='no'/>
    <disk name='vdd' snapshot='external' type='block'><source dev='/dev/x'/></disk>
  </disks>
  <revertDisks><disk name='vda' snapshot='external' type='file'><source file='/p/web.s2'/></disk></revertDisks>
  {domains}
  <cookie><domain/></cookie>
</domainsnapshot>"""


def domain(tag: str, **disks: str) -> str:
    """The definition, with these disks by target."""
    return DOMAIN.format(tag=tag, disks="".join(DISK.format(target=key, path=path) for key, path in disks.items()))


def test_running_domain() -> None:
    """The definition is the one for the next start; the images are those that were in use."""
    domains = domain("domain", vda="/p/web.qcow2", vdd="/dev/y") + domain("inactiveDomain", vda="/p/other.qcow2")
    snapshot = read_snapshot(DOCUMENT.format(state="disk-snapshot", memory="no", domains=domains))

    assert (snapshot.name, snapshot.created, snapshot.memory) == ("<s 1>", 1767225600, "no")
    assert snapshot.is_of_running_domain
    assert snapshot.definition.domain["title"] == "inactiveDomain"
    assert snapshot.definition.domain["qemu:commandline"] == {"qemu:arg": [{"@value": "-x"}]}
    assert "<domain>theirs</domain>" in str(snapshot.definition.metadata)
    assert {target: disk.kind for target, disk in snapshot.disks.items()} == {
        "vda": "external",
        "vdb": "internal",
        "vdc": "no",
        "vdd": "external",
    }
    vda, vdb = snapshot.disks["vda"], snapshot.disks["vdb"]
    assert vda.frozen is not None
    assert (vda.frozen.path, vda.overlays) == ("/p/web.qcow2", frozenset({"/p/web.s1", "/p/web.s2"}))
    assert vdb.frozen is None
    assert not vdb.overlays
    assert snapshot.disks["vdd"].overlays == {"/dev/x"}


def test_domain_that_was_off() -> None:
    """There is one definition."""
    domains = domain("domain", vda="/p/web.qcow2")
    snapshot = read_snapshot(DOCUMENT.format(state="shutoff", memory="internal", domains=domains))

    assert not snapshot.is_of_running_domain
    assert (snapshot.definition.domain["title"], snapshot.memory) == ("domain", "internal")


@pytest.mark.parametrize("domains", ["", domain("inactiveDomain")])
def test_no_definition(domains: str) -> None:
    """Very old snapshots have none."""
    with pytest.raises(MalformedDocumentError):
        read_snapshot(DOCUMENT.format(state="shutoff", memory="no", domains=domains))
