"""The record in a clone's metadata."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.definition.trees import canonical
from virtomate.definition import codec
from virtomate.definition.codec import Definition
from virtomate.definition.host_entries import HostEntry
from virtomate.definition.lower_images import BaseFingerprint, LowerImage, Rebasing
from virtomate.definition.placeholders import claim_definition, half_deleted_definition, restored_definition
from virtomate.definition.provenance import (
    NAMESPACE,
    Artifact,
    DomainReference,
    Fingerprint,
    Owner,
    Provenance,
    find_provenance,
    read_provenance,
    with_provenance,
    without_provenance,
)
from virtomate.enums import ArtifactKind, ArtifactState, Mode, TokenPlace, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

UUID = "6e0c7d7e-2c68-4d3e-a2f3-6d1c2f1f3a4b"
NASTY = """a&b<"c">'d' ü ]]>"""
NOTHING = BaseFingerprint(None, 0)
FULL = Provenance(
    finished=False,
    uuid=UUID,
    token="0123",
    source=DomainReference(NASTY, "5b3cf5b8-7d2c-4f4e-9a9f-0d6ab0f3c111"),
    mode=Mode.LINKED,
    created=1767225600.123,
    made=(
        Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, "virtomate-clone-x", None, "/nvram"),
        Artifact(ArtifactKind.VOLUME, ArtifactState.PLANNED, NASTY, NASTY, f"/p/{NASTY}"),
        Artifact(
            ArtifactKind.VOLUME,
            ArtifactState.MADE,
            "p",
            "\tv\n",
            "/p/\tv\n",
            Fingerprint("1767225600.000000001", 2**63, 1767225600000000001, directory=2),
            TokenPlace.ATTRIBUTE,
            Transfer.HOST,
        ),
        Artifact(
            ArtifactKind.VOLUME,
            ArtifactState.MADE,
            "p",
            "o",
            "/p/o",
            Fingerprint("1767225600", file_system_bytes=2**60),
            TokenPlace.HEADER,
            Transfer.LINK,
            NASTY,
            BaseFingerprint("1767225600.000000002", 2**60, 2**63, 1767225600_000000001, "0123456789abcdef"),
            (
                LowerImage(NASTY, BaseFingerprint("1767225600.000000003", 1)),
                LowerImage("/below/that", BaseFingerprint(None, 0, 7)),
            ),
            Rebasing(NASTY, "0123", (LowerImage("/x", BaseFingerprint(None, 0, 7)), LowerImage(NASTY, NOTHING))),
        ),
        Artifact(
            ArtifactKind.VOLUME,
            ArtifactState.PLANNED,
            "p",
            "q",
            "/p/q",
            base=NASTY,
            base_fingerprint=NOTHING,
            rebasing=Rebasing("/p/q", None, (LowerImage(NASTY, NOTHING),)),
        ),
        Artifact(ArtifactKind.VOLUME, ArtifactState.MADE, "p", "w", "/p/w", Fingerprint("1767225600")),
        Artifact(ArtifactKind.NVRAM, ArtifactState.MADE, "p", "n", "/p/n", Fingerprint(None)),
    ),
    maker=Owner("host.example", 4711, 123456789),
    mark="89ab",
)
FOREIGN = "<metadata>\n  <!-- theirs --><a:x xmlns:a='urn:a'>1 <b/> 2</a:x><c:clone xmlns:c='urn:c'/>\n</metadata>"


def definition(metadata: str | None = None, uuid: str = UUID) -> Definition:
    """A definition with this metadata."""
    return Definition({"name": "a", "uuid": uuid}, metadata)


RECORDS = {
    "unfinished": FULL,
    "finished": FULL._replace(finished=True, maker=None),
    "nothing made": FULL._replace(made=()),
    "of a snapshot": FULL._replace(snapshot=NASTY),
    "on another host": FULL._replace(host=NASTY),
    "one thing made": FULL._replace(made=FULL.made[:1]),
    "with DHCP entries": FULL._replace(
        entries=(HostEntry(NASTY, "52:54:00:00:00:01", "192.0.2.7", NASTY), HostEntry("n", "52:54:00:00:00:02", "::1"))
    ),
    "on frozen bases": FULL._replace(frozen=True),
    "freeze": FULL._replace(freezes=True, owner="5b3cf5b8-7d2c-4f4e-9a9f-0d6ab0f3c111"),
    **{f"mode {mode.value}": FULL._replace(mode=mode) for mode in Mode},
}


@pytest.mark.parametrize("metadata", [None, "<metadata/>", "<metadata></metadata>", FOREIGN])
@pytest.mark.parametrize("provenance", RECORDS.values(), ids=RECORDS.keys())
def test_record_survives(provenance: Provenance, metadata: str | None) -> None:
    """What is written into a definition is read from its text again, whatever names it holds."""
    text = codec.unparse_definition(with_provenance(definition(metadata), provenance))

    assert read_provenance(codec.parse_definition(text)) == provenance


def test_token_of_overlays_of_a_clone() -> None:
    """The overlays of a clone that is being frozen get the token of that clone."""
    assert FULL.artifact_token == f"{UUID}:89ab"
    assert RECORDS["freeze"].artifact_token == "5b3cf5b8-7d2c-4f4e-9a9f-0d6ab0f3c111:89ab"
    assert (RECORDS["freeze"].what, FULL.what) == ("freeze", "clone")


def test_foreign_metadata_are_kept() -> None:
    """Writing and removing our record leaves everybody else's as it was."""
    written = with_provenance(definition(FOREIGN), FULL)

    assert FOREIGN.removesuffix("</metadata>") in str(written.metadata)
    assert without_provenance(written).metadata == FOREIGN


def test_record_replaces_the_one_before() -> None:
    """A definition has one record: that of a clone of a clone replaces what the source said of its own origin."""
    again = with_provenance(with_provenance(definition(FOREIGN), FULL), RECORDS["finished"])

    assert str(again.metadata).count(NAMESPACE) == 1
    assert read_provenance(again) == RECORDS["finished"]


@pytest.mark.parametrize(
    "find", [lambda text: read_provenance(codec.parse_definition(text)), partial(find_provenance, domain_uuid=UUID)]
)
def test_program_that_moves_namespaces(find: Callable[[str], Provenance | None]) -> None:
    """A record is read and replaced where a program wrote the definition with all namespaces in its first tag."""
    connection = libvirt.open("test:///default")
    domain = {"@type": "test", "name": "a", "uuid": UUID, "memory": "1024", "os": {"type": "hvm"}}
    text = codec.unparse_definition(with_provenance(Definition(domain, None), FULL))
    try:
        moved = connection.defineXML(ET.tostring(ET.fromstring(text), encoding="unicode")).XMLDesc()
    finally:
        connection.close()

    assert f'<metadata xmlns:ns0="{NAMESPACE}">' in moved
    assert find(moved) == FULL
    again = with_provenance(without_provenance(codec.parse_definition(moved)), RECORDS["finished"])
    assert find(codec.unparse_definition(again)) == RECORDS["finished"]


def test_definitions_are_not_modified() -> None:
    """Writing makes a new definition."""
    before = definition(FOREIGN)
    with_provenance(before, FULL)
    without_provenance(before)

    assert before == definition(FOREIGN)


@pytest.mark.parametrize("metadata", [None, "<metadata/>", FOREIGN, f"<metadata><x xmlns='{NAMESPACE}'/></metadata>"])
def test_no_record(metadata: str | None) -> None:
    """A definition without a record of ours has none; nothing is taken away from it."""
    assert read_provenance(definition(metadata)) is None
    assert without_provenance(definition(metadata)) == definition(metadata)


def test_record_of_another_domain_counts_for_nothing() -> None:
    """A record whose UUID is not its domain's was carried over by another tool."""
    metadata = with_provenance(definition(), FULL).metadata

    assert read_provenance(definition(metadata, uuid="5b3cf5b8-7d2c-4f4e-9a9f-0d6ab0f3c222")) is None
    assert read_provenance(Definition({}, metadata)) is None


def _written(provenance: Provenance = FULL) -> str:
    return str(with_provenance(definition(), provenance).metadata)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("virtomate:", "ns0:"),
        (":virtomate=", ":ns0="),
    ],
)
def test_half_a_prefix_is_no_record(old: str, new: str) -> None:
    """Elements in no namespace of ours are not ours."""
    assert read_provenance(definition(_written().replace(old, new))) is None


@pytest.mark.parametrize("prefix", ["ns0:", "v:", ""])
def test_prefix_may_be_rewritten(prefix: str) -> None:
    """The namespace is what counts: another tool may have given it another prefix, or made it the default."""
    declaration = f"xmlns:{prefix[:-1]}=" if prefix else "xmlns="
    metadata = _written().replace("xmlns:virtomate=", declaration).replace("virtomate:", prefix)
    metadata = metadata.replace(NAMESPACE.replace("virtomate:", prefix), NAMESPACE)

    assert "virtomate:source" not in metadata
    assert read_provenance(definition(metadata)) == FULL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (' state="unfinished"', ""),
        (f' uuid="{UUID}"', ""),
        (' token="0123"', ""),
        (' mode="linked"', ' mode="moved"'),
        (' mode="linked"', ""),
        ('created="1767225600.123"', 'created="yesterday"'),
        ("virtomate:source", "virtomate:origin"),
        (' pid="4711"', ' pid="x"'),
        (' host="host.example"', ""),
        (' kind="pool"', ' kind="network"'),
        (' kind="pool"', ""),
        (' state="planned"', ' state="dreamt"'),
        (' inode="9223372036854775808"', ' inode="x"'),
        (' path="/nvram"', ""),
        ("<virtomate:maker", "<virtomate:made/><virtomate:maker"),
        ("<virtomate:maker", "<virtomate:made>text</virtomate:made><virtomate:maker"),
    ],
)
def test_malformed_record_counts_for_nothing(old: str, new: str) -> None:
    """A record that cannot be read in full says nothing that could be relied upon."""
    metadata = _written()
    assert old in metadata

    assert read_provenance(definition(metadata.replace(old, new))) is None


@pytest.mark.parametrize("content", ["<virtomate:made/>", "<virtomate:made>text</virtomate:made>"])
def test_record_that_made_something_unreadable_counts_for_nothing(content: str) -> None:
    """A single thing made, of which nothing can be read, is a malformed record and no crash."""
    metadata = _written(RECORDS["nothing made"]).replace("</virtomate:clone>", f"{content}</virtomate:clone>")
    assert content in metadata

    assert read_provenance(definition(metadata)) is None


SOURCE = codec.parse_definition(
    "<domain type='kvm'><name>a</name><memory unit='KiB'>4194304</memory>"
    "<os firmware='efi'><type arch='aarch64' machine='virt-9.2'>hvm</type><loader/></os>"
    "<devices><emulator>/usr/bin/qemu</emulator><disk type='file'><source file='/a'/></disk></devices></domain>"
).domain


def test_claim_has_no_disk_and_cannot_start() -> None:
    """A claim holds name, final UUID and record, what libvirt needs to accept it, and a kernel that does not exist."""
    claim = claim_definition("new", FULL, SOURCE)

    assert read_provenance(claim) == FULL
    assert canonical(codec.unparse_definition(claim._replace(metadata=None))) == canonical(
        f"<domain type='kvm'><name>new</name><uuid>{UUID}</uuid>"
        "<title>Unfinished clone of a&amp;b&lt;\"c\"&gt;'d' ü ]]&gt;</title><memory unit='MiB'>1</memory>"
        "<os><type arch='aarch64' machine='virt-9.2'>hvm</type>"
        "<kernel>/nonexistent/virtomate-unfinished-clone</kernel></os>"
        "<devices><emulator>/usr/bin/qemu</emulator></devices></domain>"
    )


def test_half_deleted_clone() -> None:
    """What takes the place of a clone that is being deleted is a claim that keeps the TPM, without which it stays."""
    tpm = [{"@model": "tpm-crb", "backend": {"@type": "emulator"}}]
    clone = {**SOURCE, "devices": {**SOURCE["devices"], "tpm": tpm, "disk": [{"source": {"@file": "/x"}}]}}

    definition = half_deleted_definition("web", FULL, clone)

    claim = claim_definition("web", FULL, clone)
    assert read_provenance(definition) == FULL
    assert definition.domain["title"].startswith("Half-deleted clone of ")
    assert definition.domain["devices"] == {**claim.domain["devices"], "tpm": tpm}
    assert definition.domain["os"] == claim.domain["os"]


def test_definition_that_was_put_aside() -> None:
    """The record holds the definition without passwords; libvirt hides those of the placeholder's displays."""
    vnc = {"@type": "vnc", "@port": "-1", "@passwd": "secret", "@passwdValidTo": "2030-01-01T00:00:00"}
    clone: codec.Document = {"@type": "kvm", "name": "web", "devices": {"graphics": [{"@type": "sdl"}, vnc]}}
    hidden = codec.unparse_definition(
        Definition({**clone, "devices": {"graphics": [{"@type": "sdl"}, {"@type": "vnc"}]}}, None)
    )
    placeholder = half_deleted_definition("web", FULL._replace(replaced=hidden), clone)
    assert "secret" not in (placeholder.metadata or "")
    assert placeholder.domain["devices"]["graphics"] == [{key: vnc[key] for key in vnc if key != "@port"}]

    record = read_provenance(codec.parse_definition(codec.unparse_definition(placeholder)))

    assert record is not None
    assert record.replaced == hidden
    restored = restored_definition(placeholder.domain, record.replaced).domain
    assert restored["devices"]["graphics"][1] == {
        "@type": "vnc",
        "@passwd": "secret",
        "@passwdValidTo": vnc["@passwdValidTo"],
    }


@pytest.mark.parametrize("packed", ["", "x", "eJw=", "!"])
def test_damaged_definition_that_was_put_aside(packed: str) -> None:
    """Nothing can be restored, and the rest of the record counts."""
    text = codec.unparse_definition(
        half_deleted_definition("web", FULL._replace(replaced="<domain/>"), {"name": "web"})
    )
    begin, end = text.index("replaced>") + len("replaced>"), text.index("</virtomate:replaced")

    record = read_provenance(codec.parse_definition(text[:begin] + packed + text[end:]))

    assert record is not None
    assert (record.replaced, record.made) == (None, FULL.made)


def test_claim_of_a_source_without_attributes() -> None:
    """What the source's definition leaves to libvirt, the claim leaves to it too."""
    claim = claim_definition("new", FULL, {"@type": "test", "os": {"type": "hvm"}})

    assert claim.domain["os"]["type"] == "hvm"
    assert "devices" not in claim.domain
