"""The documentation says what the code does: pages, options, JSON, error types and exit statuses agree with it."""

import ast
import logging
import re
import runpy
import types
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import click
import pytest

from tests.lab.examples import examples
from virtomate import enums, errors, notices
from virtomate.cli import clone_file, signals
from virtomate.cli import root as command_line
from virtomate.cli.options import CONTEXT_SETTINGS
from virtomate.definition import provenance, volume
from virtomate.hypervisor import agent, networks
from virtomate.notices import Code
from virtomate.output import json as documents
from virtomate.output.log import start_log
from virtomate.output.messages import SENTENCES
from virtomate.output.progress import JsonProgress
from virtomate.output.render import render_error, render_usage_error
from virtomate.output.streams import Format
from virtomate.services import clone_parts, clone_records, domain_tree, listings, pool_listings, volume_import
from virtomate.services.delete import records as delete_records
from virtomate.services.guest import PingResult
from virtomate.services.linked import flatten_records, rebase, reset, template, verify
from virtomate.services.storage import space

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "virtomate"
DOCS = ROOT / "docs"
PAGES = DOCS / "commands"
JSON_PAGES = DOCS / "reference" / "json"
NOTICES_PAGE = DOCS / "reference" / "notices.rst"
STATUS_PAGE = DOCS / "reference" / "exit-status.rst"
JSON_NAMES = {str: "string", bytes: "string or null", int: "integer", float: "number", bool: "boolean"}
# the base class, and what a transfer says that was stopped because another one failed; that one is reported
NEVER_REPORTED = {"VirtomateError", "StoppedError"}


def commands() -> dict[str, click.Command]:
    """Every command by the name of its manual page, the root included."""
    root = command_line.root
    found: dict[str, click.Command] = {"virtomate": root}
    for group in root.groups:
        found.update({f"virtomate-{group.name}-{name}": command for name, command in group.commands.items()})
    found.update({f"virtomate-{name}": command for name, command in root.commands.items()})
    return found


COMMANDS = commands()
# The tables of the documentation, and what gives their keys: a typed dictionary, or a record.
TABLES: dict[str, type] = {
    **{name: value for name, value in vars(documents).items() if is_typeddict(value)},
    "AddressDocument": agent.Address,
    "CloneDocument": clone_records.CloneResult,
    "DeletionDocument": delete_records.DeletionResult,
    "DiskDocument": clone_parts.DiskResult,
    "FrozenDiskDocument": clone_parts.FrozenDiskResult,
    "DomainDocument": listings.DomainListing,
    "FlattenDocument": flatten_records.FlattenResult,
    "FlattenedDiskDocument": flatten_records.FlattenedDisk,
    "RebaseDocument": rebase.RebaseResult,
    "DomainInterfaceDocument": agent.DomainInterface,
    "ImportDocument": volume_import.ImportResult,
    "InterfaceDocument": clone_parts.InterfaceResult,
    "LocationDocument": volume.Location,
    "NvramDocument": clone_parts.NvramResult,
    "PingDocument": PingResult,
    "PoolDocument": pool_listings.PoolListing,
    "RelatedImageDocument": listings.RelatedImage,
    "ReservedAddressDocument": networks.ReservedAddress,
    "RunDocument": agent.RunResult,
    "ReplacedDocument": clone_parts.ReplacedClone,
    "ReferenceDocument": provenance.DomainReference,
    "SpaceDocument": space.SpaceNeed,
    "SeedDocument": clone_parts.SeedResult,
    "PreparedDocument": clone_parts.PreparedResult,
    "CredentialDocument": clone_parts.CredentialResult,
    "SnapshotDocument": clone_parts.SnapshotReference,
    "ResetDocument": reset.ResetResult,
    "ResetDiskDocument": reset.ResetDisk,
    "TemplateDocument": template.TemplateResult,
    "TpmDocument": clone_parts.TpmResult,
    "VerificationDocument": verify.Verification,
    "VerifiedVolumeDocument": verify.VerifiedVolume,
    "VolumeDocument": clone_parts.VolumeReference,
    "VolumeNodeDocument": domain_tree.VolumeNode,
    "VolumeListingDocument": volume.VolumeListing,
}
# What the types of records are called where they stand for type checkers alone.
RECORDS = {
    name: value
    for module in (
        agent,
        clone_parts,
        clone_records,
        enums,
        errors,
        flatten_records,
        listings,
        networks,
        notices,
        provenance,
        space,
        volume,
    )
    for name, value in vars(module).items()
}
# What `clone_document` and `import_document` take away.
ONLY_IN_PLANS = {("CloneDocument", "space")}
NEVER_SHOWN = {("ImportDocument", "path"), ("CloneDocument", "leases"), ("DiskDocument", "base_path")}


def page_text(name: str) -> str:
    """The source of a manual page, with what it includes."""
    text = (PAGES / f"{name}.rst").read_text()
    return re.sub(r"^\.\. include:: (.+)$", lambda match: (PAGES / match[1]).read_text(), text, flags=re.MULTILINE)


def documented_options(name: str) -> dict[frozenset[str], tuple[bool, str]]:
    """The options of a page by all their names: whether each takes a value, and what the page says of it."""
    found = {}
    for block in re.split(r"^\.\. option:: ", page_text(name), flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("\n")
        words = [re.split(r" |(?=\[=)", word, maxsplit=1) for word in re.split(r",\s+(?=-)", head)]
        body = "\n".join(re.findall(r"^(?: {3}.*)?$", rest.split("\n\n.. ")[0], flags=re.MULTILINE))
        found[frozenset(word[0] for word in words)] = (all(len(word) > 1 for word in words), f"{head}\n{body}")
    return found


def real_options(command: click.Command) -> dict[frozenset[str], click.Option]:
    """The options of a command by all their names, help included."""
    with click.Context(command, **CONTEXT_SETTINGS) as context:
        options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    return {frozenset([*option.opts, *option.secondary_opts]): option for option in options}


def table(place: Path, name: str) -> dict[str, str]:
    """The first column of a list table (without its header) with the second one, both as plain text.

    Args:
        place: The page, or a directory of pages of which one has the table.
        name: The table's name.
    """
    pages = sorted(place.glob("*.rst")) if place.is_dir() else [place]
    pattern = re.compile(rf"^ +:name: {re.escape(name)}\n(.*?)^(?=\S)", re.DOTALL | re.MULTILINE)
    found = [match[1] for page in pages for match in pattern.finditer(page.read_text() + "\nend")]
    assert len(found) == 1, f"{place.name} has {len(found)} tables {name}"
    rows = re.findall(r"^ +\* - (.+)\n +- (.+)$", found[0], re.MULTILINE)[1:]
    return {first.strip("`"): second for first, second in rows}


def json_type(hint: Any) -> str:
    """What the documentation calls a type."""
    if get_origin(hint) in {Union, types.UnionType}:
        alternatives = [json_type(part) for part in get_args(hint) if part is not type(None)]
        return " or ".join([*alternatives, "null"])
    if get_origin(hint) in {list, tuple}:
        return f"array of {json_type(get_args(hint)[0])}s"
    if hint is notices.Notice or (isinstance(hint, type) and issubclass(hint, Enum)):
        return "string"
    return JSON_NAMES.get(hint, "object")


def error_types() -> set[str]:
    """The JSON type of every error class."""

    def classes(base: type[errors.VirtomateError]) -> Iterator[type[errors.VirtomateError]]:
        yield base
        for derived in base.__subclasses__():
            yield from classes(derived)

    # other tests have errors of their own
    ours = [error for error in classes(errors.VirtomateError) if error.__module__.startswith("virtomate.")]
    return {error.json_type for error in ours}


def exit_statuses() -> set[int]:
    """Every status that a run can end with."""
    own = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    return {0, *own, *(128 + number for number in signals._SIGNALS)}


def test_every_command_has_a_page() -> None:
    """There is one manual page for each command and for the program, and no other."""
    assert {page.stem for page in PAGES.glob("*.rst")} == COMMANDS.keys()


def test_every_page_becomes_a_manual_page() -> None:
    """The man builder knows every page, under its own name and in section 1."""
    settings = runpy.run_path(str(DOCS / "conf.py"))

    built = {document: (name, section) for document, name, _, _, section in settings["man_pages"]}

    assert built == {f"commands/{name}": (name, 1) for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_pages_document_the_real_options(name: str) -> None:
    """A page names exactly the options that the command has, and tells which of them take a value."""
    documented = {names: takes_value for names, (takes_value, _) in documented_options(name).items()}
    real = {names: not (option.is_flag or option.count) for names, option in real_options(COMMANDS[name]).items()}

    assert documented == real


@pytest.mark.parametrize("name", COMMANDS)
def test_pages_name_choices_and_defaults(name: str) -> None:
    """A page names every value that an option can have, and its default."""
    documented = documented_options(name)
    for names, option in real_options(COMMANDS[name]).items():
        _, text = documented[names]
        if isinstance(option.type, click.Choice):
            assert [choice for choice in option.type.choices if choice not in text] == []
            assert not isinstance(option.default, str) or f"default is ``{option.default}``" in text


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"virtomate"}))
def test_synopsis_names_the_arguments(name: str) -> None:
    """The synopsis has every argument under its real name, in the real order."""
    arguments = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Argument)]
    real = [(argument.metavar or "").strip("[].") for argument in arguments]
    synopsis = next(line for line in page_text(name).splitlines() if line.startswith("**virtomate "))

    assert synopsis.startswith(f"**{name.replace('-', ' ', 1)}**")
    assert re.findall(r"\*([A-Z]+)\*", synopsis) == real


def test_the_program_lists_its_commands() -> None:
    """virtomate(1) refers to the page of every command."""
    text = page_text("virtomate").partition("Options\n---")[0]

    assert set(re.findall(r":manpage:`(virtomate-[\w-]+)\(1\)`", text)) == COMMANDS.keys() - {"virtomate"}


def test_every_command_has_a_json_page() -> None:
    """There is one page for what each command prints with --json, and one for what they have in common."""
    names = {name.removeprefix("virtomate-") for name in COMMANDS.keys() - {"virtomate"}}

    assert {page.stem for page in JSON_PAGES.glob("*.rst")} == names | {"index"}


@pytest.mark.parametrize("page", sorted(JSON_PAGES.glob("[!i]*.rst")), ids=lambda page: page.stem)
def test_json_pages_have_examples(page: Path) -> None:
    """Every page shows how a script reads the JSON of its command; test_examples.py runs what it shows."""
    commands = [example.command for example in examples(page)]

    assert [command for command in commands if f"virtomate {page.stem}" in command and "jq" in command] != []


def documented_type(name: str, field: str, hint: Any) -> str:
    """What a table says of a field: its type, and whether it can be absent."""
    if get_origin(hint) is NotRequired:
        return f"{json_type(get_args(hint)[0])}, optional"
    if (name, field) in ONLY_IN_PLANS:
        return f"{json_type(hint)}, optional"
    can_be_absent = field in documents.OPTIONAL_FIELDS and type(None) in get_args(hint)
    return json_type(hint).replace(" or null", ", optional") if can_be_absent else json_type(hint)


@pytest.mark.parametrize("name", TABLES)
def test_json_tables_have_the_real_keys(name: str) -> None:
    """A table has the keys of its document with their types; what can be absent is called optional."""
    source = TABLES[name]
    hints = get_type_hints(source, localns=RECORDS, include_extras=True)
    real = {
        documents.key_of(source.__name__, field): documented_type(name, field, hint)
        for field, hint in hints.items()
        if (name, field) not in NEVER_SHOWN
    }
    if not {*documents.NOTICE_FIELDS}.isdisjoint(hints):
        real["notices"] = "array of objects"

    assert table(JSON_PAGES, name) == real


def test_every_json_table_is_held_to_the_code() -> None:
    """No table of keys stands beside the code."""
    pages = [page.read_text() for page in JSON_PAGES.glob("*.rst")]

    assert {name for page in pages for name in re.findall(r":name: (\w+Document)\n", page)} == TABLES.keys()


def test_error_types_are_documented() -> None:
    """Every error that can be reported is in the table, and nothing else is."""
    assert table(JSON_PAGES, "error-types").keys() == error_types() - NEVER_REPORTED


@pytest.mark.parametrize("kind", get_args(Code), ids=lambda kind: kind.__name__)
def test_notices_are_documented(kind: type[Code]) -> None:
    """Every code is in the reference with its sentence, and no other is."""
    sentences = {code.value: SENTENCES[code].replace("\0", "") for code in kind}

    assert table(NOTICES_PAGE, kind.__name__) == sentences


@pytest.mark.parametrize("code", SENTENCES, ids=str)
def test_notices_are_made(code: Code) -> None:
    """Every code is made somewhere in the program."""
    name = f"{type(code).__name__}.{code.name}"
    made = [path for path in PACKAGE.rglob("*.py") if path.name != "messages.py" and name in path.read_text()]

    assert made != []


def test_exit_statuses_are_documented() -> None:
    """Every status is in the reference and in virtomate(1), and no other is."""
    section = page_text("virtomate").partition("Exit status\n---")[2].partition("\n---")[0]
    heads = re.findall(r"^(\d[\d, ]*)$", section, re.MULTILINE)

    assert {int(status) for status in table(STATUS_PAGE, "exit-status")} == exit_statuses()
    assert {int(status) for head in heads for status in head.split(",")} == exit_statuses()


def test_events_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """Every event of --progress json is in the table with its keys."""
    progress = JsonProgress()
    progress.expected(2, 1)
    progress.started("vda", 2)
    progress.advanced("vda", 1)
    progress.finished("vda")
    progress.dropped("vda")
    progress.note("text")
    as_json = Format(has_json_messages=True)
    render_error(errors.VirtomateError("message"), as_json)
    render_usage_error("usage", "message", as_json)
    start_log("info", is_json=True)
    logger = logging.getLogger("virtomate")
    logger.info("message")
    logger.removeHandler(logger.handlers[-1])
    logger.setLevel(logging.NOTSET)
    lines = [ast.literal_eval(line) for line in capsys.readouterr().err.splitlines()]
    real = {line.pop("event"): ", ".join(f"``{key}``" for key in sorted(line)) for line in lines}

    documented = table(JSON_PAGES, "events")

    assert documented.pop("warning") == "``code``, ``message``, ``subject``"
    assert documented == real


def test_nox_sessions_are_documented() -> None:
    """The page for contributors lists every session."""
    functions = [
        node for node in ast.parse((ROOT / "noxfile.py").read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    sessions = {node.name for node in functions if any("nox.session" in ast.unparse(d) for d in node.decorator_list)}

    assert table(DOCS / "contributing.rst", "sessions").keys() == sessions


def test_changelog_names_commands_and_options() -> None:
    """Every command and every long option has its line in the changelog."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    names = {name.removeprefix("virtomate-") for name in COMMANDS}
    names |= {
        name for command in COMMANDS.values() for names in real_options(command) for name in names if len(name) > 2
    }

    assert sorted(name for name in names if f"`{name}" not in changelog and name != "virtomate") == []


def test_options_of_clone_files_are_documented() -> None:
    """The page about files of clones lists the options that stand only at the top, and those that stand nowhere."""
    page = " ".join((DOCS / "reference" / "clone-file.rst").read_text().split())
    for beginning, keys in (
        ("These options can only stand at the top:", clone_file._FOR_ALL),
        ("These cannot stand in a file:", clone_file._NOT_IN_FILE),
    ):
        listed = re.findall(r"``([a-z-]+)``", page.partition(beginning)[2].partition(".")[0])
        assert sorted(listed) == sorted(keys)
