"""The codec: what goes through it comes out again."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.definition.trees import canonical
from virtomate.definition import codec
from virtomate.definition.codec import Definition
from virtomate.errors import MalformedDocumentError

NAMESPACE = "urn:ours"


def round_trip(text: str) -> str:
    """The document after it was read and written."""
    return codec.unparse_definition(codec.parse_definition(text))


ROUND_TRIPS = {
    "blanks around a leaf's text": "<domain><name>a</name><title>  two blanks  </title></domain>",
    "a leaf of blanks": "<domain><title>   </title></domain>",
    "a serial with a leading blank": "<domain><devices><disk><serial> 1 </serial></disk></devices></domain>",
    "line breaks": "<domain><description>\n  one\n\ttwo\n</description></domain>",
    "carriage returns": "<domain><description>one&#13;\ntwo&#13;</description></domain>",
    "a carriage return in an attribute": "<domain><x a='1&#13;2'/></domain>",
    "quotes in attributes": """<domain><x a='"' b="'" c='&quot;&apos;'/></domain>""",
    "tabs and line breaks in attributes": "<domain><x a='1&#9;2&#10;3'/></domain>",
    "blanks around an attribute": "<domain><x a='  1  '/></domain>",
    "an empty attribute": "<domain><x a=''/></domain>",
    "markup as text": "<domain><description>&lt;metadata&gt;&amp;amp;&lt;/domain&gt;]]&gt;</description></domain>",
    "CDATA in a leaf": "<domain><description><![CDATA[<a> & </domain>]]></description></domain>",
    "an empty element": "<domain><features><acpi/><apic></apic></features><genid/></domain>",
    "an element that has only attributes": "<domain><devices><vsock model='virtio'/></devices></domain>",
    "text beside attributes": "<domain><memory unit='KiB'>1024</memory></domain>",
    "text that begins like an attribute": "<domain><title>@type</title><name>#text</name></domain>",
    "repeated elements": "<domain><devices><disk type='b'/><disk type='a'/><disk type='b'/></devices></domain>",
    "repeated elements that nobody foresaw": "<domain><new>2</new><new>1</new><new>2</new></domain>",
    "repeated elements with others between": "<domain><boot dev='a'/><x/><boot dev='b'/></domain>",
    "text outside the basic plane": "<domain><title>\U0001f600 ü \u200e</title></domain>",
    "a vendor's namespace on the root": (
        "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:commandline><qemu:arg value='-a'/>"
        "<qemu:arg value='b c'/></qemu:commandline></domain>"
    ),
    "a namespace within": "<domain><x xmlns:y='urn:y' y:a='1'><y:b/></x></domain>",
    "a default namespace within": "<domain><x xmlns='urn:y'><b/></x></domain>",
    "an empty metadata at the beginning": "<domain><metadata/><name>a</name></domain>",
    "an empty metadata in the middle": "<domain><title/><metadata/><name>a</name></domain>",
    "an empty metadata at the end": "<domain><name>a</name><metadata/></domain>",
    "an empty metadata with two tags": "<domain><name>a</name><metadata></metadata></domain>",
    "nothing but metadata": "<domain><metadata><a/></metadata></domain>",
    "an empty domain": "<domain/>",
    "attributes of the domain": "<domain type='kvm' id='1'><name>a</name></domain>",
}


@pytest.mark.parametrize("text", ROUND_TRIPS.values(), ids=ROUND_TRIPS.keys())
def test_round_trip_loses_nothing(text: str) -> None:
    """A definition that is read and written means what it meant."""
    assert canonical(round_trip(text)) == canonical(text)


def test_leaf_differs_from_its_stripped_self() -> None:
    """The comparison of these tests sees blanks in a leaf, a lost element, and the order of equal names."""
    assert canonical("<a><b> 1</b></a>") != canonical("<a><b>1</b></a>")
    assert canonical("<a><b/></a>") != canonical("<a/>")
    assert canonical("<a><b>1</b><b>2</b></a>") != canonical("<a><b>2</b><b>1</b></a>")
    assert canonical("<a>\n<b/> <c/></a>") == canonical("<a><c/><b/></a>")


METADATA = {
    "interleaved elements": "<metadata><a xmlns='urn:a'/><b xmlns='urn:b'/><a xmlns='urn:a'>2</a></metadata>",
    "mixed content": "<metadata><a:x xmlns:a='urn:a'>one <b>two</b> three</a:x></metadata>",
    "CDATA": "<metadata><a:x xmlns:a='urn:a'><![CDATA[</metadata> & <b>]]></a:x></metadata>",
    "comments": "<metadata><!-- </metadata> <metadata/> --><a:x xmlns:a='urn:a'/></metadata>",
    "processing instructions": "<metadata><?x </metadata> ?></metadata>",
    "metadata within": "<metadata><a:x xmlns:a='urn:a'><metadata>1</metadata></a:x></metadata>",
    "metadata directly within": "<metadata><metadata><metadata/></metadata></metadata>",
    "blanks and line breaks": "<metadata>\n    <a:x   xmlns:a='urn:a' >\r\n  </a:x>\n  </metadata >",
    "quotes and angle brackets in attributes": """<metadata a='>"' b="/>'"><x/></metadata>""",
    "references": "<metadata><x>&#13;&#x41;&lt;&quot;</x></metadata>",
    "more than one byte a character": "<metadata><x>äöü\u20ac\U0001f600</x></metadata>",
    "an empty element": "<metadata/>",
    "an empty element with a blank": "<metadata />",
    "an empty element with attributes": """<metadata a="/>" b='>'/>""",
    "two tags": "<metadata></metadata>",
    "a prefix of the domain": "<metadata><qemu:x/></metadata>",
}


@pytest.mark.parametrize("behind", ["", "<name>ü</name>", "\n  <name>a</name>\n", "<!-- <metadata/> -->"])
@pytest.mark.parametrize("before", ["", "\n  <title>ä &lt;metadata></title>\n  ", "<!-- <metadata> --><x a='>'/>"])
@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
def test_metadata_is_kept_verbatim(metadata: str, before: str, behind: str) -> None:
    """Metadata belong to others: not a byte of them changes, wherever they stand."""
    text = f"<domain xmlns:qemu='urn:qemu'>{before}{metadata}{behind}</domain>"

    definition = codec.parse_definition(text)

    assert definition.metadata == metadata
    assert "metadata" not in definition.domain
    assert metadata in codec.unparse_definition(definition)
    assert codec.parse_definition(codec.unparse_definition(definition)) == definition


def test_metadata_elsewhere_is_no_metadata() -> None:
    """Only the domain's own child is the metadata."""
    definition = codec.parse_definition("<domain><x><metadata>1</metadata></x></domain>")

    assert definition == Definition({"x": {"metadata": "1"}}, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<domain><genid/></domain>", {"genid": None}),
        ("<domain><genid></genid></domain>", {"genid": None}),
        ("<domain><a> </a></domain>", {"a": " "}),
        ("<domain>\n  <a>\n    <b/>\n  </a>\n</domain>", {"a": {"b": None}}),
        ("<domain/>", {}),
        ("<domain>\n</domain>", {}),
        ("<domain><devices><emulator>x</emulator></devices></domain>", {"devices": {"emulator": "x"}}),
        ("<domain><devices><disk/></devices></domain>", {"devices": {"disk": [None]}}),
        ("<domain><devices><new a='1'/></devices></domain>", {"devices": {"new": [{"@a": "1"}]}}),
        ("<domain><os><boot dev='hd'/></os></domain>", {"os": {"boot": [{"@dev": "hd"}]}}),
        (
            "<domain><sysinfo><system><entry>1</entry></system></sysinfo></domain>",
            {"sysinfo": [{"system": {"entry": ["1"]}}]},
        ),
        ("<domain><seclabel type='none'/></domain>", {"seclabel": [{"@type": "none"}]}),
        (
            "<domain><devices><interface><ip address='::1'/></interface></devices></domain>",
            {"devices": {"interface": [{"ip": [{"@address": "::1"}]}]}},
        ),
    ],
)
def test_shape_of_parsed_definition(text: str, expected: dict[str, object]) -> None:
    """Elements that may be repeated are lists even alone, empty ones are None and not absent, blanks stay in leaves."""
    assert codec.parse_definition(text).domain == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "domain",
        "<domain>",
        "<domain></domian>",
        "<domain/><domain/>",
        "<network/>",
        "<domainsnapshot><domain/></domainsnapshot>",
        "<!DOCTYPE d [<!ENTITY e 'x'>]><domain>&e;</domain>",
        "<domain>\x01</domain>",
    ],
)
def test_malformed_document_is_refused(text: str) -> None:
    """What is no document of the kind is an error of its own, also where entities would be expanded."""
    with pytest.raises(MalformedDocumentError):
        codec.parse_definition(text)


@pytest.mark.parametrize("character", ["\x00", "\x08", "\x0b", "\x1f"])
@pytest.mark.parametrize("place", ["a", "@a", "#text"])
def test_control_character_cannot_be_written(character: str, place: str) -> None:
    """A character that XML cannot hold is refused instead of making a broken document."""
    codec.unparse({place: "12"}, "x")

    with pytest.raises(ValueError, match="control character"):
        codec.unparse({place: f"1{character}2"}, "x")


CUTS = [
    (
        "<metadata><o:r xmlns:o='urn:ours'>1</o:r></metadata>",
        "<metadata></metadata>",
        "<o:r xmlns:o='urn:ours'>1</o:r>",
    ),
    ("<metadata><r xmlns='urn:ours'/></metadata>", "<metadata></metadata>", "<r xmlns='urn:ours'/>"),
    ("<metadata><r xmlns='urn:ours'/> </metadata>", "<metadata> </metadata>", "<r xmlns='urn:ours'/>"),
    ("<metadata><r xmlns='urn:ours'/><a/></metadata>", "<metadata><a/></metadata>", "<r xmlns='urn:ours'/>"),
    (
        "<metadata><a/><r xmlns='urn:ours'></r><b/></metadata>",
        "<metadata><a/><b/></metadata>",
        "<r xmlns='urn:ours'></r>",
    ),
    (
        "<metadata>ä<o:r xmlns:o='urn:ours' a='/>'>ü<o:r/></o:r>ö</metadata>",
        "<metadata>äö</metadata>",
        "<o:r xmlns:o='urn:ours' a='/>'>ü<o:r/></o:r>",
    ),
    ("<metadata xmlns:o='urn:ours'><o:r/></metadata>", "<metadata xmlns:o='urn:ours'></metadata>", "<o:r/>"),
    ("<metadata xmlns='urn:ours'><r/></metadata>", "<metadata xmlns='urn:ours'></metadata>", "<r/>"),
    ("<metadata xmlns:o='urn:ours'><o:r xmlns:o='urn:theirs'/></metadata>", None, None),
    ("<metadata xmlns:o='urn:ours'><r/></metadata>", None, None),
    ("<metadata><o:r xmlns:o='urn:theirs'/></metadata>", None, None),
    ("<metadata><r/></metadata>", None, None),
    ("<metadata><o:r/></metadata>", None, None),
    ("<metadata><x><o:r xmlns:o='urn:ours'/></x></metadata>", None, None),
    ("<metadata><o:s xmlns:o='urn:ours'/></metadata>", None, None),
    ("<metadata><!-- <o:r xmlns:o='urn:ours'/> --></metadata>", None, None),
    ("<metadata/>", None, None),
]


@pytest.mark.parametrize(("fragment", "rest", "element"), CUTS)
def test_cut_element(fragment: str, rest: str | None, element: str | None) -> None:
    """Only a direct child with our name and namespace is cut out, and nothing but it."""
    assert codec.cut_element(fragment, NAMESPACE, "r") == (fragment if rest is None else rest, element)


@pytest.mark.parametrize(
    ("fragment", "expected"),
    [
        ("<metadata/>", "<metadata><r/></metadata>"),
        ("<metadata />", "<metadata><r/></metadata>"),
        ("<metadata a='/>' />", "<metadata a='/>'><r/></metadata>"),
        ("<metadata></metadata>", "<metadata><r/></metadata>"),
        ("<metadata><a/></metadata>", "<metadata><a/><r/></metadata>"),
        ("<metadata>\n  <a/>\n</metadata >", "<metadata>\n  <a/>\n<r/></metadata >"),
        ("<metadata><!-- </metadata> --></metadata>", "<metadata><!-- </metadata> --><r/></metadata>"),
        ("<m:metadata xmlns:m='urn:m'/>", "<m:metadata xmlns:m='urn:m'><r/></m:metadata>"),
    ],
)
def test_append_element(fragment: str, expected: str) -> None:
    """The new child comes last, whatever way an element is written."""
    assert codec.append_element(fragment, "<r/>") == expected


@pytest.mark.parametrize("fragment", [*METADATA.values()], ids=METADATA.keys())
@pytest.mark.parametrize("child", ["<r xmlns='urn:ours'/>", "<o:r xmlns:o='urn:ours' a='/>'>&lt;<o:s/></o:r>"])
def test_what_was_appended_can_be_cut_again(fragment: str, child: str) -> None:
    """Appending and cutting leave everybody else's metadata as they were."""
    appended = codec.append_element(fragment, child)

    rest, element = codec.cut_element(appended, NAMESPACE, "r")

    assert element == child
    assert canonical(f"<x xmlns:qemu='urn:qemu'>{rest}</x>") == canonical(f"<x xmlns:qemu='urn:qemu'>{fragment}</x>")


# Generated definitions: names that the codec treats in different ways, and any text that XML can hold.
_NAMES = st.sampled_from(
    [
        "devices",
        "disk",
        "interface",
        "source",
        "os",
        "boot",
        "sysinfo",
        "system",
        "entry",
        "name",
        "qemu:arg",
        "emulator",
        "x",
    ]
)
_CHARACTERS = st.characters(
    exclude_categories=["Cs", "Cc"], include_characters="\t\n\r", exclude_characters="\ufffe\uffff"
)
_TEXT = st.text(_CHARACTERS, max_size=8)
_BLANKS = st.sampled_from(["", " ", "\n  ", "\t"])
_ATTRIBUTES = st.dictionaries(st.sampled_from(["type", "file", "qemu:a", "b-c"]), _TEXT, max_size=3)


def _element(name: str, attributes: dict[str, str], content: str) -> str:
    written = "".join(f" {key}={_quoted(value)}" for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>"


def _quoted(value: str) -> str:
    return quoteattr(value, {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


_LEAVES = st.builds(_element, _NAMES, _ATTRIBUTES, _TEXT.map(lambda text: escape(text, {"\r": "&#13;"})))
_ELEMENTS = st.recursive(
    _LEAVES,
    lambda inner: st.builds(
        lambda name, attributes, children, blank: _element(name, attributes, blank + blank.join([*children, ""])),
        _NAMES,
        _ATTRIBUTES,
        st.lists(inner, min_size=1, max_size=4),
        _BLANKS,
    ),
    max_leaves=12,
)
_DEFINITIONS = st.builds(
    lambda attributes, before, metadata, behind: _element(
        "domain", {"xmlns:qemu": "urn:qemu"} | attributes, "".join([*before, metadata, *behind])
    ),
    _ATTRIBUTES,
    st.lists(_ELEMENTS, max_size=4),
    st.sampled_from(["", *METADATA.values()]),
    st.lists(_ELEMENTS, max_size=2),
)


# The same documents in every run, however busy the machine is.
_STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@_STEADY
@given(_DEFINITIONS)
def test_any_definition_survives_a_round_trip(text: str) -> None:
    """Whatever libvirt may come up with: a definition that is read and written means what it meant."""
    assert canonical(round_trip(text)) == canonical(text)


@_STEADY
@given(_DEFINITIONS)
def test_reading_what_was_written_gives_the_same(text: str) -> None:
    """Writing and reading again changes nothing any more: the dicts hold all there is."""
    definition = codec.parse_definition(text)

    assert codec.parse_definition(codec.unparse_definition(definition)) == definition
