"""The words of `domain-clone` and the request that they make."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
import pytest

from virtomate.cli import run
from virtomate.cli.clone_options import SECTIONS
from virtomate.cli.clone_request import clone_request, numbered_names
from virtomate.cli.help import Command
from virtomate.enums import DiskAction, Mode, WaitFor
from virtomate.notices import CloneWarning
from virtomate.services.clone_records import CloneRequest, DiskOptions, NetworkChoice, Shape, Shutdown, Wait
from virtomate.services.credentials import Credential
from virtomate.services.seed import SeedFiles
from virtomate.services.sysprep import Preparation

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=Command, sections=SECTIONS)
@click.argument("names", nargs=-1)
def words(**parameters: Any) -> CloneRequest:
    """Make a request of words."""
    for preview in ("dry_run", "print_xml"):
        assert parameters.pop(preview) is False
    assert parameters.pop("from_file") is None
    return clone_request(source="src", **parameters)


def request(*arguments: str) -> CloneRequest:
    """The request that words make."""
    made = words.main(list(arguments), standalone_mode=False)
    assert isinstance(made, CloneRequest)
    return made


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("web", ("web-1", "web-2")),
        ("web-{}", ("web-1", "web-2")),
        ("{:02}.web", ("01.web", "02.web")),
        ("{}{:03}", ("1001", "2002")),
        ("{{}}", ("{1}", "{2}")),
        ("}web{", ("}web{-1", "}web{-2")),
    ],
)
def test_numbered_names(template: str, expected: tuple[str, ...]) -> None:
    """{} and {:0N} stand for the number; without either it follows the name."""
    assert numbered_names(template, 2) == expected


@pytest.mark.parametrize("place", ["{:2}", "{:02d}", "{:00}", "{:010}", "{0}", "{02}", "{n}", "{ }"])
def test_what_is_no_place_for_a_number(place: str) -> None:
    """Anything else in braces is refused, before it becomes a part of many names."""
    with pytest.raises(click.UsageError) as caught:
        numbered_names(f"w{{}}{place}", 2)

    assert caught.value.message.startswith(
        f"'{place}' in 'w{{}}{place}' is not understood; expected: {{}} for the number"
    )


def test_numbers_outgrow_their_digits() -> None:
    """A number that has more digits than asked for is written in full."""
    assert numbered_names("{:02}", 100)[-2:] == ("99", "100")


def test_help_names_every_way_to_handle_a_disk() -> None:
    """Who reads the help text of --disk need not try what --mode offers."""
    (said,) = (option.help or "" for option in SECTIONS["Storage"] if option.name == "disks")

    assert set(DiskAction) <= set(re.findall(r"\w+", said))


def test_what_is_asked_for() -> None:
    """Nothing is asked for that was not said, and all that was said is."""
    assert request("a") == CloneRequest("src", ("a",))
    assert request("a", "b").names == ("a", "b")
    assert request("--count", "2", "web-{:02}").names == ("web-01", "web-02")
    assert request("web-{a}", "{").names == ("web-{a}", "{")
    assert request("--freeze", "--mode", "linked", "a") == CloneRequest("src", ("a",), mode=Mode.LINKED, freeze=True)
    assert request("--freeze", "--disk", "vda=linked", "a").freeze
    assert request("--freeze", "--live", "--mode", "linked", "a").live
    assert request("--auto-name") == CloneRequest("src", auto_names=1)
    assert request("--auto-name", "--count", "3").auto_names == 3
    assert request("--mac", "keep", "a").keep_mac_addresses
    assert request("--mac", "02:00:00:00:00:0A", "a").mac_addresses == ("02:00:00:00:00:0a",)
    assert request("--start", "--wait", "agent", "a").wait == Wait(WaitFor.AGENT, 120)
    assert request("--start", "--wait", "ip,0.5", "a").wait == Wait(WaitFor.IP, 0.5)
    assert not request("a").start
    # who waits for a clone wants it to run
    assert request("--wait", "ip", "a").start
    assert request("--bandwidth", "100", "a").bandwidth_bytes == 100 * 1024 * 1024
    assert request("--bandwidth", "0", "a") == request("a")
    assert request("--shutdown", "a").shutdown == Shutdown(120, restarts=True)
    assert request("--shutdown", "--shutdown-timeout", "0.5", "--no-restart", "a").shutdown == Shutdown(
        0.5, restarts=False
    )
    assert request("--mode", "linked", "--title", "", "a") == CloneRequest("src", ("a",), mode=Mode.LINKED, title="")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("vda=linked", DiskOptions("vda", DiskAction.LINKED)),
        ("vda=drop", DiskOptions("vda", DiskAction.DROP)),
        ("vda=name=x.raw", DiskOptions("vda", None, "x.raw")),
        ("vda=copy,pool=my pool,name=a=b", DiskOptions("vda", DiskAction.COPY, "a=b", "my pool")),
        ("vda=copy,name=a,,b", DiskOptions("vda", DiskAction.COPY, "a,b")),
        ("vda=size=40G", DiskOptions("vda", size=40 << 30)),
        ("vda=linked,size=1.5GiB", DiskOptions("vda", DiskAction.LINKED, size=3 << 29)),
        ("vda=pool=x,size=512KB", DiskOptions("vda", None, None, "x", 512_000)),
    ],
)
def test_disk_choice(word: str, expected: DiskOptions) -> None:
    """A disk's treatment, and the place of its volume; a comma that is written twice is part of a name."""
    assert request("--disk", word, "a").disks == (expected,)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (("--memory", "2g"), Shape(memory_bytes=2 << 30)),
        (("--vcpus", "4", "--autostart"), Shape(vcpus=4, autostart=True)),
        (("--network", "lab"), Shape(networks=(NetworkChoice("lab", None, "network", "lab"),))),
        (
            ("--network", "1=bridge:br0", "--network", "52:54:00:AA:BB:02=lab"),
            Shape(
                networks=(
                    NetworkChoice("1=bridge:br0", "1", "bridge", "br0"),
                    NetworkChoice("52:54:00:AA:BB:02=lab", "52:54:00:AA:BB:02", "network", "lab"),
                )
            ),
        ),
    ],
)
def test_shape(arguments: tuple[str, ...], shape: Shape) -> None:
    """Memory, virtual CPUs, networks and autostart are those that were asked for."""
    assert request(*arguments, "a").shape == shape


def test_credentials() -> None:
    """A value is the same for all clones, or has the number of each clone; other braces are a part of it."""
    assert request("--credential", "key=a=b", "a").credentials == (Credential("key", (b"a=b",), is_secret=True),)
    made = request("--credential", 'system.hostname={"a"}-{:02}', "--count", "2", "a").credentials
    assert made == (Credential("system.hostname", (b'{"a"}-01', b'{"a"}-02'), is_secret=False),)


ONE_OF = "copy, shallow, linked, reflink, auto, share, drop"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ("NEWNAME", "--auto-name")),
        (("--auto-name", "a"), ("'a'", "--auto-name")),
        (("--count", "2", "a", "b"), ("--count", "2 are given")),
        (("--count", "2", "w{:2}"), ("'{:2}' in 'w{:2}'", "{:02}")),
        (("--count", "2", ""), ("'' is not a NEWNAME", "such as web")),
        (("a", "web{}"), ("'{}' in 'web{}'", "without --count")),
        (("web{:2}",), ("'{:2}' in 'web{:2}'", "without --count")),
        (("--count", "0", "a"), ("'0'", "from 1 to 9999")),
        (("--count", "many", "a"), ("'many'", "from 1 to 9999")),
        (("--jobs", "65", "a"), ("'65'", "from 1 to 64")),
        (("--bandwidth", "-1", "a"), ("'-1'", "from 0 to 1048576")),
        (("--bandwidth", "1.5", "a"), ("'1.5'", "whole number")),
        (("--no-restart", "a"), ("--no-restart is for an original that --shutdown",)),
        (("--shutdown-timeout", "9", "a"), ("--shutdown-timeout is for an original that --shutdown",)),
        (("--shutdown", "--snapshot", "s", "a"), ("--shutdown", "cannot be given with --snapshot")),
        (("--freeze", "a"), ("--freeze is for linked clones", "--mode linked or --disk TARGET=linked")),
        (("--freeze", "--mode", "reflink", "--disk", "vda=copy", "a"), ("--freeze is for linked clones",)),
        (("--freeze", "--mode", "linked", "--snapshot", "s", "a"), ("--freeze", "cannot be given with --snapshot")),
        (("--shutdown", "--shutdown-timeout", "soon", "a"), ("'soon'", "number of seconds")),
        (("--shutdown", "--shutdown-timeout", "0", "a"), ("'0'", "expected: a number of seconds greater than 0")),
        (("--shutdown", "--shutdown-timeout", "0.0", "a"), ("'0.0'", "a number of seconds greater than 0")),
        (("--shutdown", "--shutdown-timeout", "-1", "a"), ("'-1'", "number of seconds")),
        (("--shutdown", "--shutdown-timeout", "nan", "a"), ("'nan'", "number of seconds")),
        (("--shutdown", "--shutdown-timeout", "1_0", "a"), ("'1_0'", "number of seconds")),
        (("--shutdown", "--shutdown-timeout", "1e308", "a"), ("'1e308'", "number of seconds")),
        (("--shutdown", "--shutdown-timeout", "1234567890", "a"), ("'1234567890'", "number of seconds")),
        (("--start", "--wait", "agent,soon", "a"), ("'agent,soon'", "agent,SECONDS")),
        (("--start", "--wait", "agent,0", "a"), ("'agent,0'", "SECONDS greater than 0")),
        (("--start", "--wait", "ip,0.0", "a"), ("'ip,0.0'", "SECONDS greater than 0")),
        (("--start", "--wait", "ip,-1", "a"), ("'ip,-1'", "ip,SECONDS")),
        (("--start", "--wait", "ip,inf", "a"), ("'ip,inf'",)),
        (("--start", "--wait", "ip,1_0", "a"), ("'ip,1_0'", "ip,SECONDS")),
        (("--start", "--wait", "ssh", "a"), ("'ssh'", "agent or ip")),
        (("--uuid", "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "a", "b"), ("--uuid is for one clone",)),
        (("--uuid", "nonsense", "a"), ("'nonsense'", "hexadecimal")),
        (("--uuid", "00000000-0000-0000-0000-000000000000", "a"), ("is not a valid UUID",)),
        (("--mac", "02:00:00:00:00:01", "--count", "2", "a"), ("--mac with an address is for one clone",)),
        (("--mac", "02:00:00:00:00", "a"), ("'02:00:00:00:00'", "six octets")),
        (("--mac", "01:00:00:00:00:01", "a"), ("'01:00:00:00:00:01'", "multicast")),
        (("--mac", "00:00:00:00:00:00", "a"), ("is not a valid MAC address",)),
        (("--mac", "keep", "--mac", "02:00:00:00:00:01", "a"), ("--mac keep is for all",)),
        (("--mac", "02:00:00:00:00:01", "--mac", "02:00:00:00:00:01", "a"), ("02:00:00:00:00:01 is given twice",)),
        (("--nvram", "x", "a", "b"), ("--nvram is for one clone",)),
        (("--disk", "vda=copy,name=x", "--auto-name", "--count", "2"), ("name= of --disk is for one clone",)),
        (("--disk", "vda", "a"), ("'vda'", "TARGET=HOW")),
        (("--disk", "vda=", "a"), ("'vda='", "TARGET=HOW")),
        (("--disk", "=copy", "a"), ("'=copy'", "TARGET=HOW")),
        (("--disk", "vda=clone", "a"), ("'clone'", ONE_OF)),
        (("--disk", "vda=copy,linked", "a"), ("'linked'", ONE_OF)),
        (("--disk", "vda=copy,name=", "a"), ("'name='", ONE_OF)),
        (("--disk", "vda=copy,name=a,name=b", "a"), ("'name=b'", "each once")),
        (("--disk", "vda=share,name=x", "a"), ("with share there is none",)),
        (("--disk", "vda=drop,pool=x", "a"), ("with drop there is none",)),
        (("--disk", "vda=copy", "--disk", "vda=drop", "a"), ("twice for vda",)),
        (("--credential", "key", "a"), ("--credential 'key' has no value",)),
        (("--credential", "key=", "a"), ("--credential 'key' has no value", "NAME=@FILE")),
        (("--credential", "a/b=c", "a"), ("'a/b' cannot be the name of a credential",)),
        (("--credential", "k=a", "--credential", "k=b", "a"), ("--credential is given twice for 'k'",)),
        (("--credential", "k=w-{}", "a"), ("The value of --credential 'k' has a place for a number without --count",)),
        (("--credential", "k=@/nonexistent", "a"), ("'/nonexistent' for credential 'k' cannot be read",)),
        (("--disk", "vda=size=40", "a"), ("'40' is not a size", "such as 40G")),
        (("--disk", "vda=size=0G", "a"), ("'0G' cannot be the size here", "a multiple of 512 bytes")),
        (("--disk", "vda=size=1.0001K", "a"), ("'1.0001K' cannot be the size here",)),
        (("--disk", "vda=share,size=4G", "a"), ("names the size of a new volume, but with share there is none",)),
        (("--memory", "4096", "a"), ("'4096' is not a size",)),
        (("--memory", "1.5KB", "a"), ("'1.5KB' cannot be the size here", "a multiple of 1024 bytes")),
        (("--memory", "99999999T", "a"), ("'99999999T' cannot be the size here",)),
        (("--vcpus", "0", "a"), ("'0'", "from 1 to 4096")),
        (("--network", "=lab", "a"), ("'=lab' names no interface",)),
        (("--network", "1=", "a"), ("'' in '1=' cannot be the name of a network",)),
        (("--network", "bridge:a/b", "a"), ("'a/b' in 'bridge:a/b' cannot be the name of a bridge",)),
        (("--network", "lab", "--network", "2=lab", "a"), ("--network lab names no interface",)),
        (("--seed", "--user-data", "f", "--ssh-key", "k", "a"), ("--user-data", "cannot be given with --ssh-key")),
        (("--seed", "--user-data", "f", "--user", "u", "a"), ("--user-data", "cannot be given with --user")),
        (("--seed", "--seed-dir", "d", "--network-data", "n", "a"), ("--seed-dir", "given with --network-data")),
        (("--seed", "--seed-dir", "d", "--ssh-key", "k", "a"), ("--seed-dir", "given with --ssh-key")),
        (("--vendor-data", "f", "a"), ("--vendor-data is for a seed, and needs --seed",)),
        (("--seed", "--hostname", "w", "a", "b"), ("--hostname is for one clone",)),
        (("--seed", "--hostname", "w-{}", "a"), ("'w-{}' has no number without --count",)),
        (("--seed", "--hostname", "w-{x}", "--count", "2", "a"), ("'{x}' in 'w-{x}' is not understood",)),
        (("--seed", "--hostname", "web_1", "a"), ("'web_1' cannot be a host name",)),
        (("--seed", "web_1"), ("'web_1' cannot be a host name", "--hostname")),
        (("--seed", "--user", "a:b", "a"), ("'a:b' cannot be the name of a user",)),
        (("--sysprep", "web_1"), ("'web_1' cannot be a host name", "--hostname")),
        (("--sysprep=", "a"), ("'--sysprep'", "nothing after the equals sign", "OPERATIONS, or the option alone")),
        (("--sysprep=machine-id,", "a"), ("'' in --sysprep=machine-id, is not an operation", "machine-id")),
        (("--sysprep=MACHINE-ID", "a"), ("'MACHINE-ID'", "--list-operations")),
        (("--customize", "--add /dev/sda", "a"), ("'--add'", "--install")),
        (("--sysprep", "--hostname", "w", "a", "b"), ("--hostname is for one clone",)),
        (("--title", "two\nlines", "a"), ("control character",)),
        (("--description", "\x1b[31m", "a"), ("control character",)),
        (("--description", "\uffff", "a"), ("control character",)),
    ],
)
def test_words_that_make_no_request(
    arguments: tuple[str, ...], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be is a usage error that names the value and what was expected; libvirt is not asked."""
    assert run(["-c", "test:///nonexistent.xml", "--json", "domain-clone", "src", *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert all(part in captured.err for part in parts), captured.err
    assert "\x1b" not in captured.err


def test_refused_warnings() -> None:
    """Codes stand in one word or in several; any stands for all, and a mistyped code is told from its neighbour."""
    shared = {CloneWarning.SHARED, CloneWarning.SHARED_DISK}

    assert request("x").fail_on == frozenset()
    assert request("--fail-on", "shared-disk,shared-resource", "x").fail_on == shared
    assert request("--fail-on=shared-disk", "--fail-on=shared-resource", "x").fail_on == shared
    assert request("--fail-on=shared-disk,any", "x").fail_on == set(CloneWarning)
    for value, word, expected in (
        ("any,linked-orignal", "linked-orignal", "did you mean linked-original?"),
        ("any,", "", "expected: any, or a code"),
    ):
        with pytest.raises(click.BadParameter) as caught:
            request("--fail-on", value, "x")
        assert f"'{word}' is not the code of a warning; {expected}" in caught.value.message


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        ("linked", ["linked-original", "linked-snapshot"]),
        ("an", ["any"]),
        ("shared-disk,linked-o", ["shared-disk,linked-original"]),
        ("shared-disk,shared-d", []),
    ],
)
def test_codes_are_completed(begun: str, expected: list[str]) -> None:
    """A shell completes the last code of a list, and none that stands there already."""
    (option,) = (option for option in words.params if option.name == "fail_on")

    completed = option.shell_complete(click.Context(words), begun)

    assert [item.value for item in completed] == expected


@pytest.mark.parametrize(
    ("arguments", "operations", "names"),
    [
        (("--sysprep", "a"), (), ("a",)),
        (("--sysprep", "machine-id", "b"), (), ("machine-id", "b")),
        (("a", "--sysprep"), (), ("a",)),
        (("--sysprep=machine-id,-customize", "a"), ("machine-id", "-customize"), ("a",)),
        (("--sysprep", "--", "a"), (), ("a",)),
        (("a", "--sysprep", "--mode", "linked", "b"), (), ("a", "b")),
    ],
)
def test_word_after_sysprep_is_a_name(
    arguments: tuple[str, ...], operations: tuple[str, ...], names: tuple[str, ...]
) -> None:
    """The operations stand after an equals sign; the word after the option is what it would be without the option."""
    made = request(*arguments)

    assert made.names == names
    assert made.preparation == Preparation("virt-sysprep", operations)


def test_sysprep_as_a_value() -> None:
    """A value that looks like the option is a value, and after `--` the word is a name."""
    assert request("--title", "--sysprep", "a").title == "--sysprep"
    assert request("--title", "--sysprep", "a").preparation is None
    assert request("--", "a", "--sysprep").names == ("a", "--sysprep")


def test_customize() -> None:
    """The words of several options follow each other."""
    made = request("--customize", "--touch /a", "--customize=--touch '/b c'", "a").preparation

    assert made == Preparation("virt-customize", (), ("--touch", "/a", "--touch", "/b c"))


def test_seeds(tmp_path: Path) -> None:
    """A seed is read once, and host names are made like names; no word about seeds makes none."""
    path = tmp_path / "user-data"
    path.write_text("#!/bin/sh\n")

    assert request("a").seed is None
    assert request("--seed", "a").seed == SeedFiles()
    assert request("--seed", "--user-data", str(path), "a").seed == SeedFiles(user_data=b"#!/bin/sh\n")
    assert request("--seed", "a").host_names == ()
    assert request("--seed", "--hostname", "w", "a").host_names == ("w",)
    assert request("--seed", "--hostname", "w{:02}.x", "--count", "2", "a").host_names == ("w01.x", "w02.x")
    assert request("--seed", "--hostname", "w", "--auto-name", "--count", "2").host_names == ("w-1", "w-2")


def test_identity_in_a_directory(tmp_path: Path) -> None:
    """An identity in meta-data is for one clone, and contradicts --hostname."""
    (tmp_path / "meta-data").write_text("local-hostname: mine\n")
    given = ("--seed", "--seed-dir", str(tmp_path))

    assert request(*given, "a").seed == SeedFiles(b"local-hostname: mine\n")
    assert request(*given, "a").host_names == ("mine",)
    for more, message in (
        (("a", "b"), "has 'local-hostname', and each of several clones needs a host name of its own"),
        (("--hostname", "w", "a"), "--hostname contradicts 'local-hostname'"),
    ):
        with pytest.raises(click.UsageError, match=message):
            request(*given, *more)
