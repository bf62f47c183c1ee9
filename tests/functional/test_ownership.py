"""What belongs to whom: domain-delete, and a run that goes on elsewhere, where there is little to go by."""

import os
import socket
import time
from pathlib import Path

import pytest

from tests.functional.runs import error_of, make_big_source, paused
from tests.lab import Lab, Program, disk, domain, images
from tests.lab.images import MIB
from tests.lab.program import Background
from virtomate.definition import codec
from virtomate.definition.placeholders import claim_definition
from virtomate.definition.provenance import Artifact, DomainReference, Provenance
from virtomate.enums import ArtifactKind, ArtifactState, Mode

UUID = "11111111-2222-4333-8444-555555555555"


def define_claim(lab: Lab, path: Path, created: float) -> None:
    """Leave behind what a run leaves that is killed before it makes its one volume."""
    made = Artifact(ArtifactKind.VOLUME, ArtifactState.PLANNED, lab.pool.handle.name(), path.name, str(path))
    provenance = Provenance(
        finished=False,
        uuid=UUID,
        token="0" * 32,
        source=DomainReference("original", UUID),
        mode=Mode.COPY,
        created=created,
        made=(made,),
    )
    source: codec.Document = {"@type": "qemu", "os": {"type": {"@arch": "x86_64", "@machine": "q35", "#text": "hvm"}}}
    lab.define(codec.unparse_definition(claim_definition("left", provenance, source)))


@pytest.mark.parametrize("user", ["by path", "by pool and volume", "clone"])
def test_planned_volume_that_another_domain_uses_stays(lab: Lab, virtomate: Program, user: str) -> None:
    """A file younger than the claim proves nothing: what another domain names, or was made for it, is not ours."""
    path = lab.pool.path / "web-disk.raw"
    if user == "clone":
        original = lab.pool.raw("disk.raw", 4 * MIB)
        lab.define(domain("original", disks=[disk(original, "raw")]))
    # The clock of a file system may be a little behind.
    define_claim(lab, path, time.time() - 1)
    if user == "clone":
        assert virtomate("domain-clone", "original", "web").status == 0
    else:
        images.make_raw(path, 4 * MIB)
        lab.pool.refresh()
        source = path if user == "by path" else (lab.pool.handle.name(), path.name)
        lab.define(domain("web", disks=[disk(source, "raw")]))
    before = path.stat()

    result = virtomate("domain-delete", "left", json=True)

    assert result.status == 3, str(result)
    assert any(str(path) in leftover for leftover in error_of(result)["leftovers"]), result.json
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_planned_volume_older_than_the_claim_stays(lab: Lab, virtomate: Program) -> None:
    """What was there before the claim was made is somebody else's; it is named and left."""
    path = lab.pool.raw("web-disk.raw", 4 * MIB)
    define_claim(lab, path, time.time() + 3600)

    result = virtomate("domain-delete", "left", json=True)

    assert result.status == 3, str(result)
    assert any("not made for this clone" in leftover for leftover in error_of(result)["leftovers"]), result.json
    assert path.exists()


def test_run_on_another_host_finds_its_claim_taken(root_lab: Lab, virtomate: Program) -> None:
    """A run that domain-delete could not know of does not finish a clone whose volumes are gone; it undoes the rest."""
    make_big_source(root_lab, root_lab.pool)
    before = root_lab.inventory()
    words = virtomate.pausing("vda").argv("domain-clone", "big", "web", json=True)
    elsewhere = ["unshare", "--uts", "sh", "-ec", 'hostname elsewhere; exec "$@"', "sh", *words]

    assert socket.gethostname() != "elsewhere"
    with Background(elsewhere, virtomate.env(), Path(os.sep)) as run:
        with paused(run):
            deletion = virtomate("domain-delete", "web", json=True)
        result = run.wait()

    assert deletion.status == 0, str(deletion)
    assert result.status == 1, str(result)
    assert result.json[0]["status"] == "failed"
    assert "somebody else" in result.json[0]["error"]["message"]
    assert not before.difference(root_lab.inventory())
