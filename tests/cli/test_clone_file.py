"""The file of --from: its keys are the options of the command line, converted in the same way."""

import io
import json
import sys
from pathlib import Path

import click
import pytest

from virtomate.cli import clone_file
from virtomate.cli.clone_options import SECTIONS
from virtomate.cli.domain import clone
from virtomate.cli.root import run
from virtomate.enums import DiskAction, IfExists, Mode, WaitFor
from virtomate.errors import UsageError
from virtomate.services.clone_records import CloneRequest, DiskOptions, Wait


def read(path: Path | str, *arguments: str) -> tuple[CloneRequest, ...]:
    """Return the requests of a command line with a file."""
    context = clone.make_context("domain-clone", ["--from", str(path), *arguments])
    words = {key: value for key, value in context.params.items() if key not in {"dry_run", "print_xml", "from_file"}}
    return clone_file.read_requests(context, str(path), words)


def written(directory: Path, text: str, name: str = "clones.toml") -> Path:
    """Write a file and return its path."""
    path = directory / name
    path.write_text(text)
    return path


EVERYTHING = """
domain = "debian"
mode = "linked"
jobs = 2
if-exists = "keep"
wait = "ip,5"
disk = "vdb=drop"

[[clones]]
name = "web"
mac = ["52:54:00:00:00:01", "52:54:00:00:00:02"]
start = true

[[clones]]
name = "db-{}"
count = 2
mode = "copy"
disk = ["vdb=copy,pool=fast", "vda=linked"]
title = "Databases"
"""


def test_options_of_each_clone(tmp_path: Path) -> None:
    """What stands at the top holds for all clones that do not say otherwise."""
    web, databases = read(written(tmp_path, EVERYTHING))

    assert (web.source, web.names, web.mode) == ("debian", ("web",), Mode.LINKED)
    assert web.mac_addresses == ("52:54:00:00:00:01", "52:54:00:00:00:02")
    assert web.disks == (DiskOptions("vdb", DiskAction.DROP),)
    assert (databases.names, databases.mode, databases.title) == (("db-1", "db-2"), Mode.COPY, "Databases")
    assert [disk.pool for disk in databases.disks] == ["fast", None]
    for request in (web, databases):
        assert (request.jobs, request.if_exists, request.wait) == (2, IfExists.KEEP, Wait(WaitFor.IP, 5.0))


def test_command_line_counts_more_than_the_top(tmp_path: Path) -> None:
    """A word of the command line replaces what the file says for all clones, and not what it says for one."""
    web, databases = read(written(tmp_path, EVERYTHING), "--mode", "reflink", "--jobs", "7", "debian")

    assert (web.mode, databases.mode, web.jobs) == (Mode.REFLINK, Mode.COPY, 7)


def test_json_and_toml_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name or the content of a file tells its form, also on standard input."""
    uuid = "11111111-1111-1111-1111-111111111111"
    content = {"domain": "debian", "clones": [{"name": "a", "mode": "linked"}, {"name": "b", "uuid": uuid}]}
    toml = 'domain = "debian"\n[[clones]]\nname = "a"\nmode = "linked"\n[[clones]]\nname = "b"\nuuid = "'
    toml += f'{uuid}"\n'
    expected = read(written(tmp_path, json.dumps(content), "clones.json"))

    assert expected == read(written(tmp_path, toml)) == read(written(tmp_path, toml, "clones"))
    assert expected == read(written(tmp_path, json.dumps(content), "other"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(toml.encode())))
    assert expected == read("-")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the file names are found beside it, wherever the command is run; a key is no path."""
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzUqYBhWnkrwVLmHWyy8GIkbEGPQw9Ll1K6YtNhVQ3f ada@example.org"
    (tmp_path / "elsewhere").mkdir()
    written(tmp_path, f"{key}\n", "key.pub")
    written(tmp_path, "#cloud-config\n{}\n", "user-data")
    path = written(
        tmp_path,
        'seed = true\n[[clones]]\nname = "a"\nuser-data = "user-data"\n'
        f'[[clones]]\nname = "b"\nssh-key = ["key.pub", "{key}"]\n',
    )
    monkeypatch.chdir(tmp_path / "elsewhere")

    one, two = read(path, "debian")

    assert one.seed is not None
    assert one.seed.user_data == b"#cloud-config\n{}\n"
    assert two.seed is not None
    assert key.encode() in two.seed.user_data


NO_CLONES = " has no clones: expected is a list 'clones', with a table for each clone."
NO_TEXT = "expected is a text in quotes, or a number."


def mistake(path: Path) -> str:
    """Return the sentence about a file with a mistake."""
    with pytest.raises((click.UsageError, UsageError)) as caught:
        read(path, "debian")
    assert isinstance(caught.value, click.UsageError | UsageError)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NO_CLONES),
        ("clones = []", NO_CLONES),
        ("clones = 1", NO_CLONES),
        ("clones = [1]", ", clone 1: expected is a table with the key 'name'."),
        ("[[clones]]", ", clone 1: the key 'name' is missing; expected is the name of the clone, in quotes."),
        (
            "[[clones]]\nname=1",
            ", clone 1: the key 'name' is no text; expected is the name of the clone, in quotes.",
        ),
        ("domain = 1", ", key 'domain': expected is the name or UUID of a domain, in quotes."),
        ('domain = "other"', " is for clones of 'other', but 'debian' is given."),
        ("mod = 1", ", key 'mod': there is no such key; did you mean 'mode'?"),
        ("ssh_key = 1", ", key 'ssh_key': there is no such key; did you mean 'ssh-key'?"),
        ('[[clone]]\nname = "a"', ", key 'clone': there is no such key; did you mean 'clones'?"),
        ("zzz = 1", ", key 'zzz': there is no such key."),
        ("dry-run = true", ", key 'dry-run': it cannot stand in a file; --dry-run is for the command line."),
        ("a = ", " is not valid TOML: Invalid value (at end of document)."),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, expected: str) -> None:
    """One sentence names the file and the key, and what was expected."""
    path = written(tmp_path, text)

    assert mistake(path) == f"'{path}'{expected}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jobs = 2", ", key 'jobs': it is the same for all clones, and stands at the top."),
        ('domain = "b"', ", key 'domain': all clones of a file have one original; it stands at the top."),
        ("mode = 'X'", ", key 'mode': 'X' is not one of 'copy', 'shallow', 'linked', 'reflink', 'auto'."),
        ("mode = ['copy']", ", key 'mode': expected is one value, and no list."),
        ("mode = true", f", key 'mode': {NO_TEXT}"),
        ("mac = [['x']]", f", key 'mac': {NO_TEXT}"),
        ("start = 'yes'", ", key 'start': expected is true or false, and not 'yes'."),
        ("count = 0", ", key 'count': '0' is not a whole number from 1 to 9999."),
        ("user = 'ada'", ": --user is for a seed, and needs --seed."),
        ("live = true", ", key 'live': it cannot stand in a file; --live is for clones that are alike."),
    ],
)
def test_mistakes_in_a_clone(tmp_path: Path, line: str, expected: str) -> None:
    """Likewise with the clone."""
    path = written(tmp_path, f"[[clones]]\nname = 'first'\n[[clones]]\nname = 'web'\n{line}\n")

    assert mistake(path) == f"'{path}', clone 'web'{expected}"


def test_missing_file_of_a_clone(tmp_path: Path) -> None:
    """A file that a clone names and that is missing is told with the clone."""
    path = written(tmp_path, "[[clones]]\nname = 'web'\nseed = true\nssh-key = 'no'\n")

    expected = f"'{path}', clone 'web': '{tmp_path / 'no'}' is neither a file nor a public key of SSH"
    assert mistake(path).startswith(expected)


def test_option_that_needs_no_value(tmp_path: Path) -> None:
    """An option whose value may be left out is true, false, or its value."""
    values = ("true", "false", "'machine-id'")
    entries = [f"[[clones]]\nname = 'c{number}'\nsysprep = {value}\n" for number, value in enumerate(values)]
    usual, none, listed = read(written(tmp_path, "".join(entries)), "debian")

    assert usual.preparation is not None
    assert usual.preparation.operations == ()
    assert none.preparation is None
    assert listed.preparation is not None
    assert listed.preparation.operations == ("machine-id",)
    empty = written(tmp_path, "[[clones]]\nname = 'web'\nsysprep = ''\n")
    assert mistake(empty).startswith(f"'{empty}', clone 'web', key 'sysprep': there is nothing after the equals sign")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"clones": [], "clones": []}', "is not valid JSON: the key 'clones' stands twice in one object."),
        ("{", "is not valid JSON: Expecting property name enclosed in double quotes"),
        ("[]", "must contain an object with the key 'clones'."),
        ("[" * 100_000, "is not valid JSON: "),
        (r'{"domain": "d\u0000", "clones": [{"name": "web"}]}', r"key 'domain': 'd\x00' has a character that no word"),
        (r'{"clones": [{"name": "web", "user-data": "d\u0000"}]}', r"key 'user-data': 'd\x00' has a character that no"),
        (r'{"clones": [{"name": "web", "seed-dir": "d\ud800"}]}', r"key 'seed-dir': 'd\ud800' has a character that no"),
    ],
)
def test_json_that_is_no_request(tmp_path: Path, text: str, expected: str) -> None:
    """Likewise what is no object."""
    with pytest.raises(click.UsageError) as caught:
        read(written(tmp_path, text, "clones.json"), "debian")

    assert expected in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("debian", "web"), "--from names the clones, but 'web' is given."),
        (("debian", "--auto-name"), "--auto-name is for clones that are alike, and cannot be given with --from."),
        (("debian", "--live"), "--live is for clones that are alike, and cannot be given with --from."),
        ((), "Missing argument 'DOMAIN'. Name the original, or give '{}' the key 'domain'."),
    ],
)
def test_words_that_do_not_go_together(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    """The file names the clones; who the original is, either says."""
    path = written(tmp_path, '[[clones]]\nname = "a"\n')

    with pytest.raises(click.UsageError) as caught:
        read(path, *arguments)

    assert caught.value.message == expected.replace("{}", str(path))


def test_files_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing, and one that is no text, is a mistake in the command line."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, expected in (
        ("missing", "cannot be read: No such file or directory"),
        ("binary", "is not text in UTF-8"),
    ):
        assert run(["domain-clone", "--from", str(tmp_path / name), "debian"]) == 2
        captured = capsys.readouterr()
        assert (captured.out, f"'{tmp_path / name}' {expected}." in captured.err) == ("", True)


def test_every_option_has_its_place() -> None:
    """Each option is for a clone, for all clones of a file, or for the command line alone, and says so in one list."""
    keys = {clone_file._key(option) for options in SECTIONS.values() for option in options}

    assert keys >= clone_file._FOR_ALL | clone_file._NOT_IN_FILE
    assert not clone_file._FOR_ALL & clone_file._NOT_IN_FILE


def test_domain_is_required_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --from the original has to be named."""
    assert run(["domain-clone"]) == 2
    assert "Missing argument 'DOMAIN'." in capsys.readouterr().err
