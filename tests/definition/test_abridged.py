"""Definitions that stand for those that libvirt cannot send."""

from __future__ import annotations

import re

import pytest

from tests.definition.test_provenance import FULL, NASTY, UUID, definition
from virtomate.definition import codec, file_readers, readers
from virtomate.definition.placeholders import abridged_definition
from virtomate.definition.provenance import find_provenance, with_provenance

PATHS = ["/p/a.raw", f"/p/{NASTY}"]


def record() -> str:
    """Our element as a definition has it."""
    metadata = with_provenance(definition(), FULL).metadata
    assert metadata is not None
    return metadata.removeprefix("<metadata>").removesuffix("</metadata>")


def as_libvirt_tells_it() -> str:
    """The same without its namespace, which libvirt takes away."""
    return re.sub(r"(?<=[</])virtomate:", "", re.sub(r" xmlns:virtomate=['\"].*?['\"]", "", record()))


@pytest.mark.parametrize("element", [record(), as_libvirt_tells_it()], ids=["with namespace", "without"])
def test_record_and_disks_are_found(element: str) -> None:
    """What is known is read as from any other definition, whatever names and paths hold."""
    text = abridged_definition(NASTY, UUID, PATHS, element)

    domain = codec.parse_definition(text).domain
    assert (domain["name"], readers.uuid(domain)) == (NASTY, UUID)
    assert [disk.path for disk in file_readers.disks(domain)] == PATHS
    assert find_provenance(text, UUID) == FULL


def test_nothing_but_the_name_is_known() -> None:
    """Without disks and record there is nothing to be found."""
    text = abridged_definition("a", UUID, [], None)

    assert file_readers.disks(codec.parse_definition(text).domain) == ()
    assert find_provenance(text, UUID) is None
