"""The command line: spellings, options, help and refusals. Nothing here needs a hypervisor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from virtomate import __version__
from virtomate.cli import run
from virtomate.cli.options import Settings
from virtomate.cli.root import root
from virtomate.words import Reach

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A definition file of libvirt's test driver, whose domains live in the process that asks.
NODE = """
<node>
  <domain type='test'>
    <name>{}</name>
    <memory>65536</memory>
    <os><type>hvm</type></os>
    <test:runstate xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>5</test:runstate>
  </domain>
</node>
"""


@pytest.fixture
def uris(tmp_path: Path) -> dict[str, str]:
    """Connections, each with a domain that is called after it, and one that cannot be made."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.xml").write_text(NODE.format(name))
    return {name: f"test://{tmp_path}/{name}.xml" for name in ("a", "b", "missing")}


def _commands() -> Iterator[tuple[str, click.Command]]:
    yield "", root
    yield from root.commands.items()
    for group in root.groups:
        yield str(group.name), group
        for name, command in group.commands.items():
            yield f"{group.name}-{name}", command


COMMANDS = dict(_commands())


def test_real_process(uris: dict[str, str]) -> None:
    """The installed entry point passes the arguments on and ends with the status."""
    command = [sys.executable, "-m", "virtomate"]
    good = subprocess.run([*command, "-c", uris["a"], "domain-list"], capture_output=True, text=True, check=False)
    bad = subprocess.run([*command, "domain-lst"], capture_output=True, text=True, check=False)

    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.splitlines()[1].split()[:2] == ["a", "shut-off"]
    assert (bad.returncode, bad.stdout) == (2, "")


def _run_in_shell(streams: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "virtomate", *arguments]
    return subprocess.run(
        ["bash", "-c", f'"$@" {streams}', "sh", *command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("streams", [">/dev/full", ">&-"])
@pytest.mark.parametrize("arguments", [["domain-list"], ["--json", "domain-list"], ["-h"]])
def test_result_that_cannot_be_written(streams: str, arguments: list[str], uris: dict[str, str]) -> None:
    """Where stdout takes nothing, one sentence on stderr says so, and the status is 1."""
    result = _run_in_shell(streams, "-c", uris["a"], *arguments)

    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"Error: stdout cannot be written: [\w ]+\n", result.stderr)


def test_who_stops_reading_gets_no_traceback(uris: dict[str, str]) -> None:
    """A result ends quietly when its reader has gone; an error is told on stderr then, also with --json."""
    listed = _run_in_shell("| true; exit ${PIPESTATUS[0]}", "-c", uris["a"], "domain-list")
    failed = _run_in_shell("| true; exit ${PIPESTATUS[0]}", "-c", uris["a"], "--json", "guest-ping", "nobody")

    assert (listed.returncode, listed.stderr) == (1, "")
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"Error: there is no domain 'nobody' on {uris['a']}\nHint: ")
    assert failed.stderr.count("\n") == 2


OTHER = "qemu+tcp://elsewhere/system"


@pytest.mark.parametrize(
    ("option", "variables"),
    [
        (True, {}),
        (True, {"LIBVIRT_DEFAULT_URI": OTHER, "VIRSH_DEFAULT_CONNECT_URI": OTHER}),
        (False, {"LIBVIRT_DEFAULT_URI": "{uri}"}),
        (False, {"LIBVIRT_DEFAULT_URI": "{uri}", "VIRSH_DEFAULT_CONNECT_URI": OTHER}),
    ],
)
def test_commands_of_hints_reach_the_connection(
    option: bool,
    variables: dict[str, str],
    uris: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a hint tells to do is done where the failed command looked, wherever that was said."""
    for name in ("LIBVIRT_DEFAULT_URI", "VIRSH_DEFAULT_CONNECT_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(uri=uris["a"]))
    words = ["-c", uris["a"]] if option else []

    assert run([*words, "guest-ping", "a"]) == 1
    assert run([*words, "guest-ping", "no-body"]) == 1
    assert run([*words, "--json", "guest-ping", "a"]) == 1
    assert run([*words, "--progress", "json", "guest-ping", "a"]) == 1

    captured = capsys.readouterr()
    start, listing = f"virsh -c {uris['a']} start a", f"virtomate -c {uris['a']} domain-list"
    assert f"\nHint: Start it: {start}\n" in captured.err
    assert f"\nHint: {listing} shows the domains of this connection.\n" in captured.err
    assert json.loads(captured.out)["hint"] == f"Start it: {start}"
    assert json.loads(captured.err.splitlines()[-1])["hint"] == f"Start it: {start}"


@pytest.mark.parametrize(("own", "virsh"), [(None, None), (OTHER, "")])
def test_commands_of_hints_where_libvirt_decides(
    own: str | None, virsh: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing was said, commands find the same; virsh alone must be kept from its own variable."""
    for name, value in (("LIBVIRT_DEFAULT_URI", None), ("VIRSH_DEFAULT_CONNECT_URI", own)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)

    assert Settings().format.reach == Reach(virtomate=None, virsh=virsh)


def test_names_that_are_near_are_suggested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is not there may be a misspelt one of that connection, whatever its case."""
    (tmp_path / "node.xml").write_text(NODE.format("Debian-13"))
    uri = f"test://{tmp_path}/node.xml"

    assert run(["-c", uri, "domain-clone", "debian13", "web"]) == 1

    listing = f"virtomate -c {uri} domain-list"
    assert capsys.readouterr().err == (
        f"Error: there is no domain 'debian13' on {uri}\n"
        f"Hint: Did you mean 'Debian-13'? {listing} shows all domains of this connection.\n"
    )


def test_missing_choice_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The values of an argument that is missing stand behind each other."""
    assert run(["completion"]) == 2

    assert capsys.readouterr().err.endswith("Error: Missing argument 'SHELL'. Choose from: bash, zsh, fish\n")


@pytest.mark.parametrize("words", [["domain-list"], ["domain", "list"]])
@pytest.mark.parametrize("options", [["-c"], ["--connection"], ["--connect"]])
def test_both_spellings_with_options_on_both_sides(
    words: list[str], options: list[str], uris: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """GROUP-COMMAND and GROUP COMMAND are one command, which takes the common options before its name and after it."""
    shown = []
    for before, after in (
        ([*options, uris["a"], "--json"], []),
        ([], [*options, uris["a"], "--json"]),
        ([*options, uris["a"]], ["--json"]),
        (["--json"], [*options, uris["a"]]),
    ):
        assert run([*before, *words, *after]) == 0
        shown.append(json.loads(capsys.readouterr().out))

    assert [domain["name"] for domain in shown[0]] == ["a"]
    assert all(document[0]["state"] == "shut-off" for document in shown)
    assert len(shown) == 4


def test_options_between_group_and_command(uris: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A group takes the options, too."""
    assert run(["domain", "-c", uris["a"], "--json", "list"]) == 0

    assert [domain["name"] for domain in json.loads(capsys.readouterr().out)] == ["a"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "missing", "domain-list", "-c", "b"],
        ["-c", "a", "domain", "-c", "missing", "list", "--connection", "b"],
        ["-c", "a", "domain", "-c", "b", "list"],
        ["domain-list", "-c", "a", "-c", "b"],
    ],
)
def test_inner_connection_wins(arguments: list[str], uris: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Of two connections the one nearer to the end is used."""
    assert run([*(uris.get(word, word) for word in arguments), "--json"]) == 0

    assert [domain["name"] for domain in json.loads(capsys.readouterr().out)] == ["b"]


def test_pretty_implies_json(uris: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Indented JSON is JSON."""
    assert run(["-p", "-c", uris["a"], "domain-list"]) == 0

    out = capsys.readouterr().out
    assert json.loads(out)[0]["name"] == "a"
    assert out.count("\n") > 1


LISTS = "domain-iface-list', 'domain-list', 'pool-list' or 'volume-list"


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        ("clone", "domain-clone"),
        ("clonee", "domain-clone"),
        ("cp", "domain-clone"),
        ("virt-clone", "domain-clone"),
        ("rm", "domain-delete"),
        ("vm-rm", "domain-delete"),
        ("domain rm", "domain-delete"),
        ("list", LISTS),
        ("ls", LISTS),
        ("lsit", "domain-list', 'pool-list' or 'volume-list"),
        ("vol-list", "volume-list"),
        ("domain ls", "domain-list"),
        ("import", "volume-import"),
        ("exec", "guest-run"),
        ("ping", "guest-ping"),
        ("interfaces", "domain-iface-list"),
        ("version", "--version"),
        ("domain version", "--version"),
        ("help frobnicate", None),
        ("help clone", "domain-clone"),
        ("domain-clon", "domain-clone"),
        ("domain-lst", "domain-list"),
        ("domian-clone", "domain-clone"),
        ("completions", "completion"),
        ("frobnicate", None),
        ("domain clon", "domain-clone"),
        ("domains", "domain-list"),
        ("clone-domain", "domain-clone"),
        ("domain-start", None),
        ("domain-suspend", None),
        ("volume-delete", None),
        ("pool-create", None),
        ("domain frobnicate", None),
    ],
)
def test_mistyped_command(words: str, suggestion: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that does not exist is answered with one that does, by its documented name, or with where to look."""
    *group, word = words.split()
    assert run([*group, word, "a", "b"]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"'{word}'" in captured.err
    where = " ".join(["virtomate", *(name for name in group if name != "help"), "-h lists the commands."])
    assert (f"Did you mean '{suggestion}'?" if suggestion else where) in captured.err


@pytest.mark.parametrize(
    ("words", "is_told"),
    [
        ("domain-clone debian -web", True),
        ("domain-clone debian --mod", False),
        ("domain-list -x", False),
        ("-x", False),
    ],
)
def test_unknown_option(words: str, is_told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a name may be meant, the error says how a name that begins with a hyphen is given."""
    assert run(words.split()) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: No such option")
    assert error.endswith(" A name that begins with - must stand behind --.") is is_told


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("help", ""),
        ("help --json", ""),
        ("help help", ""),
        ("-q help domain", "domain"),
        ("domain help", "domain"),
        ("help domain-clone", "domain-clone"),
        ("help domain clone a b", "domain-clone"),
        ("domain help clone", "domain-clone"),
        ("help guest-run web ls", "guest-run"),
    ],
)
def test_help_as_a_command(words: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`help` shows what -h does, and does nothing else, whatever follows it."""
    assert run([*([command] if command else []), "-h"]) == 0
    expected = capsys.readouterr()

    assert run(words.split()) == 0

    assert capsys.readouterr() == expected


@pytest.mark.parametrize("more", [[], ["--json"], ["--progress", "json"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["domain", "nothing"],
        ["domain-clone"],
        ["domain-clone", "a"],
        ["domain-clone", "a", "b", "--mode", "move"],
        ["domain-clone", "a", "b", "--mode"],
        ["domain-clone", "a", "b", "--nothing"],
        ["domain-list", "a"],
        ["domain-list", "--progress", "loud"],
        ["domain-list", "--log", "loud"],
        ["domain-delete"],
        ["completion"],
        ["completion", "tcsh"],
    ],
)
def test_usage_error(arguments: list[str], more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A call that cannot be meant ends with 2, says why on stderr and leaves stdout to scripts."""
    assert run([*more, *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    if "json" in more:
        assert [json.loads(line)["type"] for line in captured.err.splitlines()] == ["UsageError"]
    else:
        assert "Error: " in captured.err


@pytest.mark.parametrize(
    "arguments", [[], *([name] for name, command in COMMANDS.items() if name and isinstance(command, click.Group))]
)
def test_no_command_shows_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command there is help on stderr, and the status of a usage error."""
    assert run(arguments) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(" ".join(["Usage: virtomate", *arguments]))
    assert "commands:\n" in captured.err


BAD_NAMES = ["", ".", "..", "a/b", "/", "a\nb", "\x1b[31m", "ü" * 128]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unusable_clone_name_is_refused_before_libvirt_is_asked(
    name: str, uris: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that no clone can have is a usage error; no connection is made for it, let alone libvirt asked."""
    assert run(["-c", uris["missing"], "--json", "domain-clone", "--", "a", name]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "cannot" in captured.err or "too long" in captured.err
    assert "connect" not in captured.err
    assert "\x1b" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["domain-clone", "", "b"], "DOMAIN"),
        (["domain-clone", "--pool", "", "a", "b"], "--pool"),
        (["domain-list", "--clones-of", ""], "--clones-of"),
        (["domain-delete", "-y", "a", ""], "NAME..."),
        (["domain-verify", ""], "NAME..."),
        (["domain-iface-list", ""], "DOMAIN"),
        (["guest-ping", ""], "DOMAIN"),
        (["guest-run", "", "ls"], "DOMAIN"),
        (["guest-run", "a", ""], "PROGRAM"),
        (["volume-list", ""], "POOL"),
        (["volume-import", os.devnull, ""], "POOL"),
    ],
)
def test_empty_name(arguments: list[str], where: str, uris: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty name is a usage error of one sentence; no connection is made for it."""
    assert run(["-c", uris["missing"], "--json", *arguments]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"Error: Invalid value for '{where}': '' is not a name; expected: " in captured.err.splitlines()[-1]
    assert "connect" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["domain-list"],
        ["domain-clone", "a", "b"],
        ["domain-delete", "a"],
        ["domain-iface-list", "a"],
        ["guest-ping", "a"],
        ["guest-run", "a", "ls"],
    ],
)
def test_no_connection(arguments: list[str], uris: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Where libvirt cannot be reached the status is 1, and the error says what to do next, also as JSON."""
    assert run(["-c", uris["missing"], *arguments]) == 1
    shown = capsys.readouterr()
    assert run(["-c", uris["missing"], "--json", *arguments]) == 1
    document = json.loads(capsys.readouterr().out)

    assert shown.out == ""
    assert f"Error: cannot connect to {uris['missing']}" in shown.err
    assert "Hint: " in shown.err
    assert document.keys() == {"type", "message", "hint"}
    assert document["type"] == "libvirtError"


@pytest.mark.parametrize(
    "arguments",
    [
        ["domain-clone", "nobody", "b"],
        ["domain-delete", "nobody"],
        ["domain-iface-list", "nobody"],
        ["guest-ping", "nobody"],
        ["guest-run", "nobody", "ls"],
    ],
)
def test_missing_domain(arguments: list[str], uris: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """A domain that is not there is an error with its documented type and status 1."""
    assert run(["-c", uris["a"], "--json", *arguments]) == 1

    document = json.loads(capsys.readouterr().out)
    assert document["type"] == "NotFoundError"
    assert "nobody" in document["message"]


@pytest.mark.parametrize("option", ["-v", "--version"])
@pytest.mark.parametrize("name", COMMANDS)
def test_version(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command tells the version."""
    assert run([*([name] if name else []), option]) == 0

    assert capsys.readouterr().out == f"virtomate {__version__}\n"


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal(
    name: str, option: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command has help on stdout, which fits 80 columns whatever the terminal has."""
    monkeypatch.setenv("COLUMNS", columns)

    assert run([*([name] if name else []), option]) == 0

    out = capsys.readouterr().out
    assert out.startswith(f"Usage: virtomate {name}".rstrip())
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert "<=" not in out


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_has_help(name: str) -> None:
    """Every command says what it is for, and every option what it does and what happens without it."""
    command = COMMANDS[name]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    takes_value = [option for option in options if not (option.is_flag or option.count or option.required)]

    with click.Context(command) as context:
        shown = {option.name: (option.get_help_record(context) or ("", ""))[1] for option in options}

    assert (command.help or "").strip().endswith(".")
    assert command.get_short_help_str(200).endswith(".")
    assert [option for option, text in shown.items() if not text.strip()] == []
    assert [option.name for option in takes_value if "[default: " not in shown[option.name]] == []


@pytest.mark.parametrize("name", [name for name in COMMANDS if "-" in name])
def test_help_names_the_documented_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both spellings of a command show the same help, with the documented one; common options are elsewhere."""
    assert run([name, "-h"]) == 0
    hyphenated = capsys.readouterr().out
    assert run([*name.split("-", 1), "-h"]) == 0

    assert capsys.readouterr().out == hyphenated
    assert hyphenated.startswith(f"Usage: virtomate {name} [OPTIONS]")
    assert "--connection" not in hyphenated
    assert hyphenated.endswith("\nCommon options such as -c, --json and -q: see 'virtomate -h'.\n")


def test_help_of_cloning_is_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    """Options stand below headings, each in the same column; three examples follow, which can be run."""
    assert run(["domain-clone", "-h"]) == 0

    sections = re.split(r"^(\w+):\n", capsys.readouterr().out, flags=re.MULTILINE)
    names = ["Clone", "Storage", "Identity", "Shape", "Seed", "Guest", "Running", "Output", "Examples"]
    assert sections[1::2] == names
    *options, examples = sections[2::2]
    assert (
        len({len(found) for text in options for found in re.findall(r"^  --\S+(?: \S+)?  +", text, re.MULTILINE)}) == 1
    )
    lines = [line.split() for line in examples.splitlines() if line.startswith("  virtomate")]
    assert len(lines) == 3
    for line in lines:
        with root.make_context("virtomate", line[1:], obj=Settings()) as context:
            _, command, words = root.resolve_command(context, line[1:])
            assert command is not None
            command.make_context("domain-clone", words, parent=context).close()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_the_common_options(name: str) -> None:
    """No command forgets an option that is documented for all."""
    names = {name for parameter in COMMANDS[name].params for name in parameter.opts}

    assert names >= {
        *("-c", "--connection", "--connect", "--json", "-p", "--pretty", "-q", "--quiet", "--progress"),
        *("-l", "--log", "-v", "--version"),
    }


def test_root_help_lists_documented_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Help names commands as the documentation does."""
    assert run(["-h"]) == 0

    listed = re.findall(r"^  ([a-z][a-z-]*)  ", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(name for name, command in COMMANDS.items() if not isinstance(command, click.Group))
