"""The file of `domain-clone --from`: clones, each with options of its own, that are the options of the command line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from virtomate.cli.clone_options import SECTIONS
from virtomate.cli.clone_request import clone_request
from virtomate.cli.optional_value import OptionalValue
from virtomate.errors import UsageError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from virtomate.services.clone_records import CloneRequest

# What is the same for all clones of a run.
_FOR_ALL = frozenset(
    {
        *("jobs", "bandwidth", "no-space-check", "outside-pools", "if-exists", "snapshot", "to"),
        *("shutdown", "shutdown-timeout", "no-restart", "wait"),
    }
)
# Options that make one image of the original for clones that are alike, or that are about the command alone.
_ALIKE = frozenset({"live", "live-devices", "risk-original", "quiesce", "freeze"})
_NOT_IN_FILE = _ALIKE | {"from", "auto-name", "dry-run", "print-xml"}
_STDIN = "-"


class _Entry(NamedTuple):
    """A table of the file.

    Attributes:
        where: How a sentence calls the table.
    """

    where: str
    values: Mapping[str, object]


def read_requests(context: click.Context, path: str, words: Mapping[str, Any]) -> tuple[CloneRequest, ...]:
    """Return the requests of a file, with the words of the command line.

    For a clone its own option counts, else that of the command line, else that of the file for all clones.

    Args:
        context: The command, which tells what the command line contains.
        path: The file, `-` for standard input.
        words: The words of the command line.

    Raises:
        click.UsageError: The file cannot be read, or something in it is not possible.
        UsageError: Likewise.
    """
    _refuse_words(context, words)
    name = "standard input" if path == _STDIN else f"'{path}'"
    values = _load(path, name)
    top = _Entry(name, {key: value for key, value in values.items() if key not in {"domain", "clones"}})
    options = {_key(option): option for section in SECTIONS.values() for option in section}
    directory = "" if path == _STDIN else os.path.dirname(path)

    def converted(entry: _Entry, known: Collection[str], others: Collection[str]) -> dict[str, Any]:
        _refuse_unknown(entry, known, options, others)
        return {
            str(options[key].name): _convert(entry, options[key], value, context, directory)
            for key, value in entry.values.items()
        }

    for_all = converted(top, options.keys() - _NOT_IN_FILE, {"clones", "domain"})
    given = {key for key in words if context.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    common = {**words, **{key: value for key, value in for_all.items() if key not in given}}
    common["source"] = _original(name, values.get("domain"), words["source"])
    requests, each = [], options.keys() - _NOT_IN_FILE - _FOR_ALL
    for entry in _entries(name, values.get("clones")):
        clone = _name(entry)
        own = _Entry(f"{name}, clone '{clone}'", {key: entry.values[key] for key in entry.values if key != "name"})
        merged = {**common, **converted(own, each, {"name"}), "names": (clone,)}
        requests.append(_told(own.where, lambda merged=merged: clone_request(**merged)))  # type: ignore[misc]
    return tuple(requests)


def _refuse_words(context: click.Context, words: Mapping[str, Any]) -> None:
    if words["names"]:
        raise click.UsageError(f"--from names the clones, but '{words['names'][0]}' is given.")
    for key in (*sorted(_ALIKE), "auto-name"):
        if context.get_parameter_source(key.replace("-", "_")) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{key} is for clones that are alike, and cannot be given with --from.")


def _key(option: click.Option) -> str:
    """Return the name of an option in the file."""
    return next(word for word in option.opts if word.startswith("--"))[2:]


def _load(path: str, name: str) -> Mapping[str, object]:
    """Return the content of a file: JSON or TOML by its name, else JSON if it begins with a brace."""
    try:
        if path == _STDIN:
            text = sys.stdin.buffer.read().decode()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
    except OSError as error:
        raise click.UsageError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{name} is not text in UTF-8.") from error
    is_json = path.endswith(".json") or (not path.endswith(".toml") and text.lstrip().startswith("{"))
    read: Callable[[str], object] = _read_json if is_json else _read_toml
    try:
        content = read(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{name} is not valid {'JSON' if is_json else 'TOML'}: {error}.") from error
    if not isinstance(content, dict):
        raise click.UsageError(f"{name} must contain an object with the key 'clones'.")
    return content


def _read_toml(text: str) -> object:
    import tomllib  # noqa: PLC0415 - few clones come from files

    return tomllib.loads(text)


def _read_json(text: str) -> object:
    import json  # noqa: PLC0415 - as above

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key '{key}' stands twice in one object")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=once)


def _original(name: str, in_file: object, on_command_line: str | None) -> str:
    if in_file is None:
        if on_command_line is None:
            raise click.UsageError(f"Missing argument 'DOMAIN'. Name the original, or give {name} the key 'domain'.")
        return on_command_line
    if not isinstance(in_file, str) or not in_file:
        raise click.UsageError(f"{name}, key 'domain': expected is the name or UUID of a domain, in quotes.")
    _word(in_file, f"{name}, key 'domain'")
    if on_command_line not in {None, in_file}:
        raise click.UsageError(f"{name} is for clones of '{in_file}', but '{on_command_line}' is given.")
    return in_file


def _entries(name: str, clones: object) -> list[_Entry]:
    if not isinstance(clones, list) or not clones:
        raise click.UsageError(f"{name} has no clones: expected is a list 'clones', with a table for each clone.")
    found = []
    for number, values in enumerate(clones, 1):
        if not isinstance(values, dict):
            raise click.UsageError(f"{name}, clone {number}: expected is a table with the key 'name'.")
        found.append(_Entry(f"{name}, clone {number}", values))
    return found


def _name(entry: _Entry) -> str:
    name = entry.values.get("name")
    if not isinstance(name, str):
        what = "is missing" if name is None else "is no text"
        raise click.UsageError(f"{entry.where}: the key 'name' {what}; expected is the name of the clone, in quotes.")
    return name


def _refuse_unknown(entry: _Entry, known: Collection[str], options: Collection[str], others: Collection[str]) -> None:
    """Refuse a key that is neither an option that may stand there, one of the `known`, nor one of the `others`."""
    for key in entry.values:
        if key in known:
            continue
        if key == "domain":
            reason = "all clones of a file have one original; it stands at the top"
        elif key in _FOR_ALL:
            reason = "it is the same for all clones, and stands at the top"
        elif key in options:
            what = "clones that are alike" if key in _ALIKE else "the command line"
            reason = f"it cannot stand in a file; --{key} is for {what}"
        else:
            import difflib  # noqa: PLC0415 - mistakes are rare

            similar = difflib.get_close_matches(key.replace("_", "-"), sorted({*known, *others}), n=1)
            reason = "there is no such key" + (f"; did you mean '{similar[0]}'?" if similar else "")
        raise click.UsageError(f"{entry.where}, key '{key}': {reason}{'' if reason.endswith('?') else '.'}")


def _convert(entry: _Entry, option: click.Option, value: object, context: click.Context, directory: str) -> Any:  # noqa: ANN401 - as the option has it
    """Return the value of an option as Click makes it of the words of a command line."""
    where = f"{entry.where}, key '{_key(option)}'"
    if option.is_flag:
        if not isinstance(value, bool):
            raise click.UsageError(f"{where}: expected is true or false, and not {value!r}.")
        return value
    if isinstance(option, OptionalValue) and isinstance(value, bool):
        return "" if value else None
    if isinstance(value, list) and not option.multiple:
        raise click.UsageError(f"{where}: expected is one value, and no list.")
    words = [_word(item, where) for item in (value if isinstance(value, list) else [value])]
    if isinstance(option.type, click.Path):
        words = [_beside(word, directory) for word in words]
    elif _key(option) == "credential":
        words = [_credential_beside(word, directory) for word in words]
    try:
        return option.type_cast_value(context, tuple(words) if option.multiple else words[0])
    except click.BadParameter as error:
        raise click.UsageError(f"{where}: {error.message}") from error


def _word(value: object, where: str) -> str:
    """Return a value as the word that it would be on a command line."""
    if isinstance(value, str):
        try:
            is_word = b"\0" not in os.fsencode(value)
        except UnicodeEncodeError:
            is_word = False
        if not is_word:
            raise click.UsageError(f"{where}: {value!r} has a character that no word of a command line can have.")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise click.UsageError(f"{where}: expected is a text in quotes, or a number.")


def _beside(word: str, directory: str) -> str:
    """Return the path of a file that is named in a file in a directory; a public key has blanks, and is no path."""
    path = os.path.join(directory, word)
    return word if " " in word and not os.path.lexists(path) else path


def _credential_beside(word: str, directory: str) -> str:
    """Return a credential; one of the form NAME=@FILE names a file."""
    name, sign, path = word.partition("=@")
    return f"{name}{sign}{os.path.join(directory, path)}" if sign and "=" not in name else word


def _told(where: str, make: Callable[[], CloneRequest]) -> CloneRequest:
    """Make a request; an error says where in the file its reason is."""
    try:
        return make()
    except click.UsageError as error:
        raise click.UsageError(f"{where}: {error.message}") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from error
