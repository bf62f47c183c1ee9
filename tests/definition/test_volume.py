"""Volume and pool documents."""

from __future__ import annotations

import pytest

from tests.definition.trees import canonical
from virtomate.definition.volume import (
    NewVolume,
    PoolDescription,
    VolumeDescription,
    describe_pool,
    describe_volume,
    directory_pool_document,
    volume_document,
)
from virtomate.errors import MalformedDocumentError

FULL = """
<volume type='file'>
  <name>a&amp;b.qcow2</name>
  <key>/p/a&amp;b.qcow2</key>
  <capacity unit='bytes'>21474836480</capacity>
  <allocation unit='bytes'>200704</allocation>
  <physical unit='bytes'>196736</physical>
  <target>
    <path>/p//sub/../a&amp;b.qcow2</path>
    <format type='qcow2'/>
    <permissions>
      <mode>0600</mode>
      <owner>64055</owner>
      <group>106</group>
    </permissions>
    <timestamps>
      <atime>1767225600.1</atime>
      <mtime>1767225601.000000002</mtime>
      <ctime>1767225602.000000003</ctime>
    </timestamps>
    <compat>1.1</compat>
    <clusterSize unit='B'>65536</clusterSize>
    <features>
      <lazy_refcounts/>
      <extended_l2/>
    </features>
    <encryption format='luks'/>
  </target>
  <backingStore>
    <path>/p/base.img</path>
    <format type='raw'/>
  </backingStore>
</volume>
"""


def test_describe_volume() -> None:
    """Everything that libvirt tells of a volume is read; the path is normalised."""
    assert describe_volume("p", FULL) == VolumeDescription(
        pool="p",
        name="a&b.qcow2",
        path="/p/a&b.qcow2",
        capacity=21474836480,
        allocation=200704,
        physical=196736,
        format="qcow2",
        compat="1.1",
        cluster_size=65536,
        features=("lazy_refcounts", "extended_l2"),
        backing_path="/p/base.img",
        backing_format="raw",
        is_encrypted=True,
        mode="0600",
        owner="64055",
        group="106",
        changed="1767225602.000000003",
        modified="1767225601.000000002",
    )


def test_describe_devices() -> None:
    """A device is raw, whatever libvirt calls its content; a logical volume has a key, and a partition only a path."""
    documents = (
        f"<volume type='block'><name>v</name><key>{key}</key><capacity>8</capacity><allocation>8</allocation>"
        "<target><path>/dev/vg/v</path><format type='none'/></target></volume>"
        for key in ("/dev/vg/v", "Uu-Id")
    )

    partition, logical = (describe_volume("p", document) for document in documents)

    assert (partition.format, partition.key, logical.key) == ("raw", None, "Uu-Id")
    assert partition.is_device
    assert not partition.is_preallocated


def test_describe_sparse_document() -> None:
    """What libvirt does not tell is absent, and not made up."""
    described = describe_volume("p", "<volume><name>a</name><target><path>/p/a</path></target></volume>")

    assert described == VolumeDescription(
        pool="p",
        name="a",
        path="/p/a",
        capacity=0,
        allocation=0,
        physical=0,
        format="raw",
        compat=None,
        cluster_size=None,
        features=(),
        backing_path=None,
        backing_format=None,
        is_encrypted=False,
        mode=None,
        owner=None,
        group=None,
        changed=None,
        modified=None,
    )


def test_blanks_of_a_name_are_part_of_it() -> None:
    """A file may be called anything; its name and path are taken as they are."""
    described = describe_volume("p", "<volume><name> a </name><target><path>/p/ a </path></target></volume>")

    assert (described.name, described.path) == (" a ", "/p/ a ")


@pytest.mark.parametrize(
    ("capacity", "allocation", "expected"),
    [(10, 0, False), (10, 9, False), (10, 10, True), (10, 12, True), (0, 0, False)],
)
def test_is_preallocated(capacity: int, allocation: int, expected: bool) -> None:
    """A volume is preallocated when all of its capacity is taken; an empty one is not."""
    document = f"<volume><capacity>{capacity}</capacity><allocation>{allocation}</allocation></volume>"

    assert describe_volume("p", document).is_preallocated is expected


@pytest.mark.parametrize("document", ["", "<pool/>", "<volume>"])
def test_other_documents_are_refused(document: str) -> None:
    """Only a volume's document describes a volume."""
    with pytest.raises(MalformedDocumentError):
        describe_volume("p", document)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            "<pool type='dir'><name>a&amp;b</name><target><path>/srv//x/./y/</path></target></pool>",
            PoolDescription("a&b", "dir", "/srv/x/y"),
        ),
        (
            "<pool type='dir'><name>a</name><target><path>/srv/././.</path></target></pool>",
            PoolDescription("a", "dir", "/srv"),
        ),
        (
            (
                "<pool type='dir'><name>a</name><target><path>/srv</path><permissions><mode>0711</mode><owner>0</owner>"
                "<group>1001</group><label>x</label></permissions></target></pool>"
            ),
            PoolDescription("a", "dir", "/srv", 0o711, 0, 1001),
        ),
        (
            (
                "<pool type='dir'><name>a</name><target><path>/srv</path><permissions><mode>0755</mode>"
                "<owner>-1</owner><group>-1</group></permissions></target></pool>"
            ),
            PoolDescription("a", "dir", "/srv", 0o755),
        ),
        ("<pool type='rbd'><name>a</name><source/></pool>", PoolDescription("a", "rbd", None)),
        ("<pool type='iscsi-direct'><name>a</name><target/></pool>", PoolDescription("a", "iscsi-direct", None)),
    ],
)
def test_describe_pool(document: str, expected: PoolDescription) -> None:
    """A pool has a normalised path, or none, and its directory permissions as far as libvirt tells them."""
    assert describe_pool(document) == expected


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (
            NewVolume("a", 10, 0, "raw"),
            (
                "<volume><name>a</name><capacity unit='bytes'>10</capacity><allocation unit='bytes'>0</allocation>"
                "<target><format type='raw'/></target></volume>"
            ),
        ),
        (
            NewVolume(
                "a&b",
                10,
                10,
                "qcow2",
                "0640",
                "0",
                "107",
                "1.1",
                2097152,
                ("lazy_refcounts", "extended_l2"),
            ),
            (
                "<volume><name>a&amp;b</name><capacity unit='bytes'>10</capacity>"
                "<allocation unit='bytes'>10</allocation>"
                "<target><format type='qcow2'/>"
                "<permissions><mode>0640</mode><owner>0</owner><group>107</group></permissions><compat>1.1</compat>"
                "<clusterSize unit='B'>2097152</clusterSize><features><lazy_refcounts/><extended_l2/></features>"
                "</target></volume>"
            ),
        ),
        (
            NewVolume("a", 10, 0, "qcow2", mode="0600", compat="0.10"),
            (
                "<volume><name>a</name><capacity unit='bytes'>10</capacity><allocation unit='bytes'>0</allocation>"
                "<target><format type='qcow2'/><permissions><mode>0600</mode></permissions><compat>0.10</compat>"
                "</target></volume>"
            ),
        ),
    ],
)
def test_volume_document(volume: NewVolume, expected: str) -> None:
    """A document says what is given, and always how much to allocate, which would otherwise be everything."""
    assert canonical(volume_document(volume)) == canonical(expected)


def test_pool_document() -> None:
    """The spelling of a directory is kept, since libvirt allows no two pools over one spelling."""
    assert canonical(directory_pool_document("a&b", "/srv/./.")) == canonical(
        "<pool type='dir'><name>a&amp;b</name><target><path>/srv/./.</path></target></pool>"
    )
