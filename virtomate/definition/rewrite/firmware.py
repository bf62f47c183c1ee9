"""Rule: the firmware is one that the host has, and the NVRAM is the clone's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from virtomate.definition import nvram_readers
from virtomate.definition.codec import copied
from virtomate.definition.readers import child
from virtomate.definition.rewrite.outcome import Outcome
from virtomate.notices import Change, Notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.codec import Document


class NewNvram(NamedTuple):
    """Where the clone's NVRAM lies."""

    path: str
    format: str


def with_named_firmware(prepared: Outcome) -> Outcome:
    """Turn firmware selection off where libvirt would find no firmware and refuse to define the clone.

    The clone keeps the firmware that the definition names, which libvirt selected once. libvirt before 9.2 names none
    and does not look for firmware when a domain is defined.
    """
    domain = prepared.domain
    path = nvram_readers.loader_path(domain)
    if path is None or not nvram_readers.selects_firmware(domain):
        return prepared
    named = {key: value for key, value in domain["os"].items() if key not in {"@firmware", "firmware"}}
    change = Notice(Change.NAMED_FIRMWARE, path)
    return Outcome(copied({**domain, "os": named}), (*prepared.changes, change), prepared.warnings)


def with_nvram(domain: Document, nvram: NewNvram) -> Document:
    """Return the definition with this NVRAM, in the spelling that the definition uses.

    An NVRAM that libvirt placed itself (firmware autoselection) is not in the definition; the clone's is.
    """
    domain = copied(domain)
    os_element = child(domain, "os")
    element: Any = os_element.get("nvram")
    if isinstance(element, dict) and "@type" in element:
        element["source"] = {**child(element, "source"), "@file": nvram.path}
    elif isinstance(element, dict):
        element["#text"] = nvram.path
    else:
        os_element["nvram"] = nvram.path if nvram.format == "raw" else {"@format": nvram.format, "#text": nvram.path}
    return domain
