"""Images in a Ceph cluster, as definitions name them."""

from __future__ import annotations

import pytest

from virtomate.definition import codec
from virtomate.definition.network_images import NetworkImage, holds_image, image_of_disk, image_of_volume, is_encrypted

POOL = "<pool type='rbd'><name>ceph</name><source>{}<name>{}</name></source></pool>"


def image(name: str = "vms/root", source: str = "", above: str = "") -> NetworkImage | None:
    """Return the image of a disk with such a source."""
    return image_of_disk(parsed(name, source, above), 0)


def parsed(name: str = "vms/root", source: str = "", above: str = "", protocol: str = "rbd") -> codec.Document:
    """Return a domain with such a disk."""
    return codec.parse_definition(
        f"<domain><devices><disk type='network'>{above}<source protocol='{protocol}' name='{name}'>{source}</source>"
        "</disk></devices></domain>"
    ).domain


def test_image_without_monitors() -> None:
    """Ceph's own configuration tells the monitors where the definition has none."""
    found = image()

    assert found is not None
    assert found.url == "rbd:///vms/root"
    assert found.backing_name == 'json:{"driver":"raw","file":{"driver":"rbd","pool":"vms","image":"root"}}'
    assert found.source == {"@protocol": "rbd", "@name": "vms/root"}


def test_monitor_without_port() -> None:
    """Such a monitor listens where monitors do."""
    found = image(source="<host name='mon'/><snapshot name='s'/>")

    assert found is not None
    assert found.url == "rbd://mon:6789/vms/root@s"


@pytest.mark.parametrize("name", ["root", "/root", "vms/", ""])
def test_source_without_pool_or_image(name: str) -> None:
    """A source that names no image is not understood."""
    assert image(name) is None
    assert image_of_disk(parsed(protocol="nbd"), 0) is None


def test_what_belongs_to_the_disk_alone() -> None:
    """A backing store has the credentials, and no slices, reservations or encryption of the disk."""
    auth = "<auth username='u'><secret type='ceph' usage='x'/></auth>"
    domain = parsed(source="<slices/><encryption format='luks'/>", above=auth)
    found = image_of_disk(domain, 0)

    assert found is not None
    assert found.user == "u"
    assert set(found.source) == {"@protocol", "@name", "auth"}
    assert is_encrypted(domain, 0)
    assert not is_encrypted(parsed(), 0)


def test_volume_of_a_pool() -> None:
    """A volume is the image of its name in the pool of the cluster, which need not have the storage pool's name."""
    found = image_of_volume(POOL.format("<host name='mon' port='1'/>", "vms"), "root")

    assert found is not None
    assert found.url == "rbd://mon:1/vms/root"
    assert found.source["@name"] == "vms/root"


@pytest.mark.parametrize(
    ("host", "name", "holds"), [("mon", "vms", True), ("mon", "other", False), ("elsewhere", "vms", False)]
)
def test_pool_that_holds_an_image(host: str, name: str, holds: bool) -> None:
    """A storage pool has an image if it is over the same pool, by a monitor of the same cluster."""
    found = image(source="<host name='mon' port='6789'/><host name='mon2'/>")

    assert found is not None
    assert holds_image(POOL.format(f"<host name='{host}'/>", name), found) == holds
