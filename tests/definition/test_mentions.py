"""What is read from any document of libvirt, and that nothing in it stops or slows the reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.definition.written import DEFINITIONS
from virtomate.definition import PROVENANCE_NAMESPACE, codec, file_readers, readers
from virtomate.definition.mentions import DEEPEST_RECORD, DiskMention, read_mentions

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = f"<v:clone xmlns:v='{PROVENANCE_NAMESPACE}' uuid='u'><v:made path='/recorded'/></v:clone>"


def places(element: Any) -> Iterator[str | tuple[str, str]]:
    """The absolute paths in a document, and the volumes named by pool and name."""
    if isinstance(element, list):
        for item in element:
            yield from places(item)
    elif isinstance(element, dict):
        if "@pool" in element and "@volume" in element:
            yield element["@pool"], element["@volume"]
        for value in element.values():
            yield from places(value)
    elif isinstance(element, str) and element.strip().startswith("/"):
        yield element.strip()


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_nothing_is_missed(name: str) -> None:
    """Whatever stands in a definition as a document is mentioned in it."""
    definition = codec.parse_definition(DEFINITIONS[name])
    found = set(places(definition.domain))

    mentions = read_mentions(DEFINITIONS[name])

    assert mentions.is_whole
    assert {place for place in found if isinstance(place, str)} <= mentions.paths
    assert {place for place in found if not isinstance(place, str)} <= mentions.volumes
    arguments = readers.as_list(readers.child(definition.domain, "qemu:commandline").get("qemu:arg"))
    assert {argument["@value"] for argument in arguments} <= set(mentions.arguments)
    assert set(readers.mac_addresses(definition.domain)) <= mentions.mac_addresses
    assert mentions.name == readers.name(definition.domain)
    assert (mentions.uuid or "") == readers.uuid(definition.domain)
    disks = file_readers.disks(definition.domain)
    assert [disk.target for disk in mentions.disks] == [disk.target for disk in disks]
    for disk, mention in zip(disks, mentions.disks, strict=True):
        top = disk.path or (disk.pool, disk.volume)
        assert disk.is_empty or disk.type not in {"file", "volume"} or mention.places[0] == top


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        ("<a b='/x'/>", {"/x"}),
        ("<a b='relative/x' c='x/'/>", set()),
        ("<a>/x<b/></a>", {"/x"}),
        ("<a>\n  /x y\n</a>", {"/x y"}),
        ("<a>/x<!-- no -->/y</a>", {"/x/y"}),
        ("<a><![CDATA[/<x>]]></a>", {"/<x>"}),
        ("<a b='/it&apos;s &amp; &#233;'/>", {"/it's & é"}),
        ("<a b='/ends in a blank '/>", {"/ends in a blank", "/ends in a blank "}),
        ("<source file='below/root'/>", {"/below/root"}),
        ("<source file='x'/>", {"/x"}),
        ("<source file=''/>", set()),
        ("<source name='json:{&quot;file.filename&quot;: &quot;/x&quot;}'/>", {"/x"}),
        ("<source name='file:/x%20y'/>", {"/x%20y", "/x y"}),
        ("<source name='fat:rw:/x'/>", {"/x"}),
        ("<source name='nbd://host/x'/>", set()),
        ("<description>about: /x, and http://host/y</description>", set()),
        ("<metadata><m:x xmlns:m='urn:m' path='/of others'>/of others</m:x></metadata>", set()),
        ("<future><unknown path='/x'/></future>", {"/x"}),
    ],
)
def test_paths(content: str, paths: set[str]) -> None:
    """A path is found wherever it stands, and whatever stands around it, but not in what others keep in metadata."""
    assert read_mentions(f"<domain>{content}</domain>").paths == paths


@pytest.mark.parametrize(
    ("argument", "paths"),
    [
        ("file=/x,if=virtio", {"/x"}),
        ("if=virtio,file=/x,,y", {"/x,y"}),
        ("/x", {"/x"}),
        ("file=json:{&quot;driver&quot;:&quot;raw&quot;,,&quot;file.filename&quot;:&quot;/x&quot;}", {"/x"}),
        (
            "{&quot;driver&quot;:&quot;qcow2&quot;,&quot;file&quot;:{&quot;filename&quot;:&quot;file:/x&quot;}}",
            {"/x"},
        ),
        ("{'driver':'file','filename':'/x'}", {"/x"}),
        ("driver=nbd,host=/", {"/"}),
        ("none", set()),
    ],
)
def test_arguments(argument: str, paths: set[str]) -> None:
    """What is added to QEMU's command line is read as QEMU reads it."""
    content = f"""<qemu:commandline xmlns:qemu='q'><qemu:arg value="{argument}"/></qemu:commandline>"""

    mentions = read_mentions(f"<domain>{content}</domain>")

    assert mentions.paths == paths
    assert len(mentions.arguments) == 1


def test_disks() -> None:
    """Of each disk its own source comes first, then what is below it."""
    document = """<domain><devices>
      <disk type='file'><source file='/top'/><backingStore type='volume'><source pool='p' volume='v'/>
        <backingStore><source dev='/dev/sda'/></backingStore></backingStore><target dev='vda'/></disk>
      <disk device='cdrom'><target dev='sda'/></disk><disk/></devices></domain>"""

    assert read_mentions(document).disks == (
        DiskMention("vda", ("/top", ("p", "v"), "/dev/sda")),
        DiskMention("sda", (), is_cdrom=True),
        DiskMention(None, ()),
    )


def test_raw_images() -> None:
    """Each image has the format before it in its own element; one that is also called otherwise is not raw."""
    document = """<domain><devices>
      <disk><driver type='raw'/><source dev='/dev/a'/><backingStore/><target dev='vda'/></disk>
      <disk><driver type='qcow2'/><source file='/b'/><backingStore><format type='raw'/>
        <source pool='p' volume='v'/></backingStore><mirror><source file='/m'/></mirror></disk>
      <disk><driver type='raw'/><source file='/c'/><backingStore><source file='/d'/></backingStore></disk>
      <disk><driver type='raw'/><source file='/e'/><mirror><format type='qcow2'/><source file='/e'/></mirror></disk>
      <disk><source file='/f'/></disk></devices></domain>"""

    raw = [disk.raw for disk in read_mentions(document).disks]

    assert raw == [{"/dev/a"}, {("p", "v")}, {"/c"}, set(), set()]


@pytest.mark.parametrize(
    "document",
    [
        (
            "<domainsnapshot><name>snapshot</name><disks><disk name='vda'><source file='/overlay'/></disk></disks>"
            "<domain><name>web</name><uuid>u</uuid><metadata>{record}</metadata><a b='/then'/></domain>"
            "<inactiveDomain><name>other</name><uuid>o</uuid><a b='/inactive'/></inactiveDomain></domainsnapshot>"
        ),
        (
            "<domaincheckpoint><name>checkpoint</name><domain><name>web</name><uuid>u</uuid>"
            "<metadata>{record}</metadata><a b='/then' c='/overlay'/><d>/inactive</d></domain></domaincheckpoint>"
        ),
        (
            "<domain><name>web</name><uuid>u</uuid><metadata>{record}</metadata>"
            "<a b='/then' c='/overlay'/><d>/inactive</d></domain>"
        ),
    ],
    ids=["snapshot", "checkpoint", "domain"],
)
def test_any_document(document: str) -> None:
    """A snapshot and a checkpoint are about the domain in them, and mention what both of its definitions do."""
    mentions = read_mentions(document.format(record=RECORD))

    assert (mentions.name, mentions.uuid) == ("web", "u")
    assert mentions.paths == {"/then", "/overlay", "/inactive"}
    assert mentions.records == (RECORD,)


@pytest.mark.parametrize(
    ("metadata", "records"),
    [
        (f"<other xmlns='urn:o'/>{RECORD}<more xmlns='urn:m'/>", (RECORD,)),
        (f"<clone xmlns='{PROVENANCE_NAMESPACE}' a='/>'/>", (f"<clone xmlns='{PROVENANCE_NAMESPACE}' a='/>'/>",)),
        (f"<clone xmlns='{PROVENANCE_NAMESPACE}'></clone >", (f"<clone xmlns='{PROVENANCE_NAMESPACE}'></clone >",)),
        ("<clone xmlns='urn:o'/>", ()),
        (f"<other xmlns='{PROVENANCE_NAMESPACE}'/>", ()),
        (f"<v:clone xmlns='{PROVENANCE_NAMESPACE}' xmlns:v='urn:o'/>", ()),
        (f"<other xmlns='urn:o'>{RECORD}</other>", ()),
        (RECORD.replace("/recorded", "/ä&lt;"), (RECORD.replace("/recorded", "/ä&lt;"),)),
    ],
)
def test_records(metadata: str, records: tuple[str, ...]) -> None:
    """Our element is cut out of the metadata as it stands there, whatever its prefix; others' elements are not."""
    mentions = read_mentions(f"<domain><title>é</title><metadata>{metadata}</metadata><a>/x</a></domain>")

    assert mentions.records == records
    assert not mentions.has_deep_record
    assert mentions.paths == {"/x"}


@pytest.mark.parametrize(
    ("attributes", "record", "is_ours"),
    [
        (f"xmlns:v='{PROVENANCE_NAMESPACE}'", "<v:clone/>", True),
        (f"xmlns='{PROVENANCE_NAMESPACE}'", "<clone/>", True),
        (f"xmlns:v='{PROVENANCE_NAMESPACE}'", "<clone/>", False),
        (f"xmlns:v='{PROVENANCE_NAMESPACE}'", "<v:clone xmlns:v='urn:o'/>", False),
    ],
)
def test_namespace_of_the_metadata(attributes: str, record: str, is_ours: bool) -> None:
    """An element of ours is also known by a namespace that the metadata around it declares."""
    text = f"<domain><metadata {attributes}>{record}</metadata></domain>"

    assert read_mentions(text).records == ((record,) if is_ours else ())


def test_deep_record_is_left_out() -> None:
    """Ours are never nested so deep; nothing that recurses gets to see one that is."""
    deep = "<a>" * DEEPEST_RECORD + "</a>" * DEEPEST_RECORD
    metadata = RECORD.replace("</v:clone>", f"{deep}</v:clone>")

    mentions = read_mentions(f"<domain><metadata>{metadata}</metadata><a>/x</a></domain>")

    assert mentions.records == ()
    assert mentions.has_deep_record
    assert mentions.is_whole
    assert mentions.paths == {"/x"}


@pytest.mark.parametrize(
    ("document", "paths"),
    [
        ("", set()),
        ("no document", set()),
        ("<domain><a b='/x'/><c>/y", {"/x", "/y"}),
        ("<domain><disk><source file='/x'/></domain>", {"/x"}),
        ("<domain><a b='/x'/>\x00</domain>", {"/x"}),
        ("<domain><a b='/x'/>\udcff</domain>", {"/x"}),
        ("<!DOCTYPE d [<!ENTITY e '/x'>]><domain><a>&e;</a></domain>", set()),
        ("<domain><a b='/x'/></domain><domain/>", {"/x"}),
        (f"<domain><a b='/x'/><metadata>{RECORD[:-1]}", {"/x"}),
    ],
)
def test_malformed(document: str, paths: set[str]) -> None:
    """What stands before the fault is read, and that there is one is told."""
    mentions = read_mentions(document)

    assert mentions.paths == paths
    assert mentions.is_whole == ("\udcff" in document)
    assert mentions.records == ()


ATTRIBUTES = " ".join(f"a{index}='/x'" for index in range(50_000))
SOURCES = "".join(f"<source file='/x{index}'/>" for index in range(100_000))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content",
    [
        "<a>" * 300_000 + "/x" + "</a>" * 300_000,
        f"<metadata>{'<a>' * 300_000}{'</a>' * 300_000}</metadata><a>/x</a>",
        f"<description>/{' ' * 2_000_000}/</description><a>/x</a>",
        f"<description>{'/ ' * 1_000_000}</description><a>/x</a>",
        f"<a {ATTRIBUTES}/>",
        f"<disk>{SOURCES}</disk><a>/x</a>",
        f"<source name='json:{'[' * 500_000}'/><a>/x</a>",
        f"<source name='{'fat:' * 300_000}'/><a>/x</a>",
        f"<qemu:commandline><qemu:arg value='{'a=/x,' * 200_000}'/></qemu:commandline>",
        f"<metadata><clone xmlns='{PROVENANCE_NAMESPACE}' {ATTRIBUTES}/></metadata><a>/x</a>",
    ],
    ids=["deep", "deep metadata", "blanks", "slashes", "attributes", "sources", "json", "protocols", "argument", "tag"],
)
def test_size_is_no_matter(content: str) -> None:
    """Depth and length of a document cost no more than time that grows with them."""
    mentions = read_mentions(f"<domain>{content}</domain>")

    assert mentions.is_whole
    assert "/x" in mentions.paths
