"""Records as JSON documents; their shapes are a contract that the documentation describes and tests pin.

A record becomes an object with a key for each of its fields. A typed dictionary stands only for a shape that differs
from its record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from virtomate.enums import Status
from virtomate.errors import VirtomateError
from virtomate.notices import Notice
from virtomate.output.messages import sentence, sentences

if TYPE_CHECKING:
    from virtomate.hypervisor.agent import RunResult
    from virtomate.services.clone_records import CloneResult
    from virtomate.services.listings import DomainListing
    from virtomate.services.volume_import import ImportResult
    from virtomate.words import Reach

Document = dict[str, Any]

# Exceptions from the keys that `key_of` makes of the names of fields.
_KEYS = {"volume_count": "number_of_volumes", ("Location", "format"): "format_type"}
# Fields whose key is left out if the value is None; other fields are null then.
OPTIONAL_FIELDS = frozenset(
    {
        *("addresses", "base", "credentials", "definition", "dependents", "dhcp_entry", "error", "host"),
        *("integrity",),
        *("prepared", "replaced"),
        *("restarted", "seed", "snapshot", "type"),
    }
)
# Fields in which a record carries what other parts of the program need, and nobody is told.
INTERNAL_FIELDS = frozenset({("CloneResult", "leases"), ("DiskResult", "base_path")})
# Fields that hold notices; a record that has any of them has the key `notices` as well.
NOTICE_FIELDS = ("warnings", "changes", "kept")


class NoticeDocument(TypedDict):
    """A warning or a change."""

    code: str
    subject: str
    message: str


class ErrorDocument(TypedDict):
    """An error; `hint`, `leftovers` and `notices` only if the error has any."""

    type: str
    message: str
    hint: NotRequired[str]
    leftovers: NotRequired[list[str]]
    notices: NotRequired[list[NoticeDocument]]


class OriginDocument(TypedDict):
    """The original of a clone."""

    status: str
    source: Document
    mode: str
    host: NotRequired[str]
    snapshot: NotRequired[str]
    images: NotRequired[list[str]]
    created: str


class CompletionDocument(TypedDict):
    """A completion script."""

    shell: str
    script: str


def dump(document: object, *, pretty: bool) -> str:
    """Return a document as JSON, with sorted keys."""
    import json  # noqa: PLC0415 - people read no JSON

    layout: Document = {"indent": 2} if pretty else {"separators": (",", ":")}
    return json.dumps(document, ensure_ascii=False, sort_keys=True, **layout)


def key_of(record_type: str, field: str) -> str:
    """Return the key of a field: `is_active` becomes `active`, `needed_bytes` becomes `needed`."""
    known = _KEYS.get((record_type, field)) or _KEYS.get(field)
    return known or field.removeprefix("is_").removesuffix("_bytes")


def document(record: Any, reach: Reach) -> Document:  # noqa: ANN401 - any named tuple
    """Return a record as an object, the records in it included; `reach` fills the commands in its texts."""
    name = type(record).__name__
    found = {
        key_of(name, field): _value(value, reach)
        for field, value in record._asdict().items()
        if (value is not None or field not in OPTIONAL_FIELDS) and (name, field) not in INTERNAL_FIELDS
    }
    if told := [field for field in NOTICE_FIELDS if field in found]:
        found["notices"] = [notice_document(item, reach) for field in told for item in getattr(record, field)]
    return found


def notice_document(notice: Notice, reach: Reach) -> NoticeDocument:
    """Return a notice."""
    return {"code": notice.code.value, "subject": reach.fill(notice.subject), "message": _value(notice, reach)}


def clone_document(result: CloneResult, reach: Reach) -> Document:
    """Return a clone; only a plan says how much space it needs, and a clone that does not exist has no disks."""
    clone = document(result, reach)
    if result.status in {Status.FAILED, Status.INTERRUPTED}:
        clone |= {"disks": [], "nvram": None, "tpm": None, "interfaces": [], "frozen": []}
        for made in ("seed", "prepared", "credentials"):
            clone.pop(made, None)
    if result.status is not Status.PLANNED:
        del clone["space"]
    return clone


def domain_document(listing: DomainListing, reach: Reach) -> Document:
    """Return a domain of a list."""
    from datetime import UTC, datetime  # noqa: PLC0415 - only lists contain times

    origin: OriginDocument | None = None
    if (clone := listing.clone) is not None:
        origin = {
            "status": "finished" if clone.finished else "unfinished",
            "source": document(clone.source, reach),
            "mode": clone.mode.value,
            "created": datetime.fromtimestamp(clone.created, UTC).isoformat(timespec="seconds"),
        }
        if clone.host is not None:
            origin["host"] = clone.host
        if clone.snapshot is not None:
            origin["snapshot"] = clone.snapshot
        if clone.images is not None:
            origin["images"] = [*clone.images]
    return document(listing, reach) | {"clone": origin}


def import_document(result: ImportResult, reach: Reach) -> Document:
    """Return an imported volume."""
    imported = document(result, reach)
    del imported["path"]
    return imported


def run_document(result: RunResult, *, encode: bool) -> Document:
    """Return how a program in a guest ended; its output in Base64 if `encode`, otherwise as far as it is UTF-8."""
    output = {name: _output(getattr(result, name), encode=encode) for name in ("stdout", "stderr")}
    return result._asdict() | output


def error_document(error: VirtomateError, reach: Reach) -> ErrorDocument:
    """Return an error."""
    found: ErrorDocument = {"type": error.json_type, "message": reach.fill(error.message)}
    if error.hint is not None:
        found["hint"] = reach.fill(error.hint)
    if error.leftovers:
        found["leftovers"] = [reach.fill(leftover) for leftover in sentences(error.leftovers)]
    if told := (*error.notices, *error.leftovers):
        found["notices"] = [notice_document(item, reach) for item in told]
    return found


def _value(value: object, reach: Reach) -> Any:  # noqa: ANN401 - JSON is what it is
    if isinstance(value, Notice):
        return reach.fill(sentence(value))
    if isinstance(value, str):
        return reach.fill(value)
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, VirtomateError):
        return error_document(value, reach)
    if isinstance(value, tuple) and not hasattr(value, "_asdict"):
        return [_value(item, reach) for item in value]
    return document(value, reach)


def _output(data: bytes, *, encode: bool) -> str | None:
    import base64  # noqa: PLC0415 - only what a guest writes may need it

    if not data:
        return None
    return base64.b64encode(data).decode("ascii") if encode else data.decode(errors="replace")
