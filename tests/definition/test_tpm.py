"""The TPM of a definition, and the TPM of a claim."""

import pytest

from virtomate.definition import codec
from virtomate.definition.placeholders import claim_definition, half_deleted_definition
from virtomate.definition.provenance import DomainReference, Provenance, read_provenance
from virtomate.definition.tpm import TpmDefinition, read_tpm, with_place_of_tpm
from virtomate.enums import Mode

UUID = "11111111-2222-4333-8444-555555555555"
RECORD = Provenance(False, UUID, "t", DomainReference("a", UUID.replace("1", "2")), Mode.COPY, 1.0, ())
EMULATED = (
    "<tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes' debug='3'>"
    "<encryption secret='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/><active_pcr_banks><sha256/></active_pcr_banks>"
    "</backend></tpm>"
)


def parse(devices: str) -> codec.Document:
    """Return a domain with these devices."""
    text = f"<domain type='qemu'><name>a</name><os><type>hvm</type></os><devices>{devices}</devices></domain>"
    return codec.parse_definition(text).domain


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("", None),
        ("<tpm model='tpm-tis'/>", TpmDefinition("", "2.0", None)),
        (EMULATED, TpmDefinition("emulator", "2.0", None)),
        ("<tpm><backend type='emulator' version='1.2'/></tpm>", TpmDefinition("emulator", "1.2", None)),
        (
            "<tpm><backend type='emulator' version='2.0'><source type='dir' path='/t'/></backend></tpm>",
            TpmDefinition("emulator", "2.0", "/t", "dir"),
        ),
        (
            "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>",
            TpmDefinition("passthrough", "2.0", "/dev/tpm0"),
        ),
        (
            (
                "<tpm model='spapr-tpm-proxy'><backend type='passthrough'><device path='/dev/tpmrm0'/></backend></tpm>"
                "<tpm model='tpm-spapr'><backend type='emulator' version='2.0'/></tpm>"
            ),
            TpmDefinition("emulator", "2.0", None),
        ),
    ],
    ids=["none", "no backend", "emulator", "1.2", "own place", "device", "proxy"],
)
def test_tpm_of_a_definition(devices: str, expected: TpmDefinition | None) -> None:
    """The emulated TPM counts, also beside a proxy."""
    assert read_tpm(parse(devices)) == expected


def test_claim_has_a_tpm_while_it_holds_state() -> None:
    """Libvirt removes the state with a definition that has an emulated TPM and does not keep its state."""
    source = parse(f"{EMULATED}<tpm model='spapr-tpm-proxy'><backend type='passthrough'/></tpm>")

    assert "tpm" not in claim_definition("b", RECORD, source).domain.get("devices", {})
    for make in (claim_definition, half_deleted_definition):
        definition = make("b", RECORD._replace(tpm=True), source)
        text = codec.unparse_definition(definition)
        assert text.count("<tpm") == 1
        assert "debug='3'" in text.replace('"', "'")
        assert "persistent_state" not in text
        assert "secret" not in text
        record = read_provenance(codec.parse_definition(text))
        assert record is not None
        assert record.tpm
    kept = half_deleted_definition("b", RECORD, source).domain["devices"]["tpm"]
    assert kept == source["devices"]["tpm"]


NAMED = (
    "<tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'>"
    "<encryption secret='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/><active_pcr_banks><sha256/></active_pcr_banks>"
    "<source type='file' path='/srv/a.tpm'/><profile source='local:restricted' name='custom'/></backend></tpm>"
)


def test_place_of_the_state() -> None:
    """Only the place changes, and only where the definition names one; the original's definition stays."""
    source = parse(NAMED)

    named = codec.unparse(with_place_of_tpm(source, "/srv/b.tpm", "dir"), "domain")
    left = codec.unparse(with_place_of_tpm(source, None, None), "domain")

    place = '<source type="file" path="/srv/a.tpm"/>'
    before = codec.unparse(source, "domain")
    assert place in before
    assert named == before.replace(place, '<source type="dir" path="/srv/b.tpm"/>')
    assert left == before.replace(place, "")
    for other in (EMULATED, "<tpm><backend type='external'><source type='unix' path='/s'/></backend></tpm>", "<tpm/>"):
        assert with_place_of_tpm(parse(other), "/srv/b.tpm", "dir") == parse(other)


@pytest.mark.parametrize("tpm", [False, True])
def test_placeholders_name_no_place(tpm: bool) -> None:
    """Libvirt removes what is at the place with the definition, whoever has put it there."""
    for make in (claim_definition, half_deleted_definition):
        text = codec.unparse_definition(make("b", RECORD._replace(tpm=tpm), parse(NAMED)))
        assert "/srv/a.tpm" not in text
        assert "<tpm" not in text
