"""The words of `domain-clone` about another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from tests.cli.test_request import request
from virtomate.cli.host_options import OPTIONS
from virtomate.enums import MapKind
from virtomate.services.other_host import HostMap, OtherHost

if TYPE_CHECKING:
    from pathlib import Path

URI = "qemu+ssh://b/system"


def test_another_host() -> None:
    """The URI goes with the mappings; what stands before the last equals sign is the name here."""
    words = ["--to", URI, "--map", "file:/a=b.iso=/c.iso", "--map", "hostdev:pci_0000_03_00_0=none", "a"]

    assert request(*words).to == OtherHost(
        URI,
        (HostMap(MapKind.FILE, "/a=b.iso", "/c.iso"), HostMap(MapKind.HOSTDEV, "pci_0000_03_00_0", "none")),
    )
    assert request("a").to is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--map", "pool:a=b"], "--map pool:a=b is for another host, and needs --to"),
        (["--to", ""], "'' is not a URI; expected: the URI of another libvirt"),
        (["--to", URI, "--map", "pool"], "'pool' is not of the form KIND:A=B"),
        (["--to", URI, "--map", "pool:a"], "'pool:a' is not of the form KIND:A=B"),
        (["--to", URI, "--map", "pool:a="], "'pool:a=' is not of the form KIND:A=B"),
        (["--to", URI, "--map", "disk:a=b"], "'disk' in 'disk:a=b' is not known; expected: pool, network"),
        (["--to", URI, "--map", "pool:a=b", "--map", "pool:a=c"], "--map is given twice for pool 'a'"),
        (["--to", URI, "--block", "linked"], "--block linked cannot be given with --to: an overlay rests on a device"),
    ],
)
def test_what_is_refused(words: list[str], reason: str) -> None:
    """What cannot be meant is refused with the value and what was expected."""
    with pytest.raises(click.UsageError) as caught:
        request(*words, "a")

    assert reason in caught.value.message


def test_aliases_of_libvirt_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completion knows the aliases of libvirt's client; comments and a missing file complete nothing."""
    settings = tmp_path / "libvirt" / "libvirt.conf"
    settings.parent.mkdir()
    settings.write_text(
        '# uri_aliases = [ "old=x" ]\nuri_aliases = [\n  "hail=qemu+ssh://hail/system",\n  "sleet=x",\n]\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    to = next(option for option in OPTIONS if option.name == "to")
    context = click.Context(click.Command("clone"))

    assert {item.value for item in to.shell_complete(context, "h")} == {"hail"}
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "missing"))
    assert "hail" not in {item.value for item in to.shell_complete(context, "")}
