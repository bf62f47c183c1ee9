"""Clones on another host that mounts the same directory of an NFS server, with a cache of its own.

The original's host is the storage host, the other is another client of its server (see `second_host`). What one client
writes, the other may see later: the kernel keeps attributes and listings of directories for up to a minute.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.functional.runs import error_of
from tests.functional.support import by_target, cloned
from tests.lab import Program, Result, disk, domain
from tests.lab.images import MIB, content
from tests.lab.second_host import SERVER_ADDRESS, SecondHost
from tests.lab.storage_host import OPEN_EXPORT, SQUASHED_EXPORT, StorageHost, content_digest

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

DATA = content(7, MIB)
HERE = "/srv/pool-nas"
NETFS = """
<pool type='netfs' xmlns:fs='http://libvirt.org/schemas/storagepool/fs/1.0'><name>nas</name>
<source><host name='{}'/><dir path='{}'/><format type='nfs'/></source><target><path>{}</path></target>
<fs:mount_opts>{}</fs:mount_opts></pool>"""


@pytest.fixture
def second_host(storage_host: StorageHost) -> Iterator[SecondHost]:
    """The second host."""
    with SecondHost(storage_host) as host:
        yield host


def mount(connection: Any, server: str, path: str, *, export: str = OPEN_EXPORT, options: Sequence[str] = ()) -> None:
    """Have a host mount what the server exports, as the storage pool `nas`."""
    words = "".join(f"<fs:option name='{option}'/>" for option in options)
    pool = connection.storagePoolDefineXML(NETFS.format(server, export, path, words))
    pool.build()
    pool.create()


def refresh(*connections: Any) -> list[list[str]]:
    """Have the hosts read the directory, and return the volumes that each of them sees."""
    pools = [connection.storagePoolLookupByName("nas") for connection in connections]
    for pool in pools:
        pool.refresh()
    return [sorted(pool.listVolumes()) for pool in pools]


def define(host: StorageHost, *, is_overlay: bool = False) -> None:
    """Define the domain `original` with a qcow2 volume on NFS, or an overlay on that."""
    base = f"{HERE}/{'base' if is_overlay else 'original'}.qcow2"
    host.write("/tmp/data", DATA)
    host.run(f"qemu-img create -q -f qcow2 {base} 16M && qemu-io -c 'write -s /tmp/data 1M 1M' {base}")
    if is_overlay:
        host.run(f"qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 {HERE}/original.qcow2")
    host.connection.defineXML(domain("original", disks=[disk(f"{HERE}/original.qcow2")], memory_mib=256))
    host.connection.storagePoolLookupByName("nas").refresh()


def send(host: StorageHost, second: SecondHost, program: Program | None, *words: str) -> Result:
    """Clone `original` to `clone` on the second host, by the program on the storage host or here."""
    uri = second.uri_on_host if program is None else second.uri
    argv = ("domain-clone", "--to", uri, "--trust-pool", *words, "original", "clone")
    return host.virtomate(*argv, json=True) if program is None else program(*argv, json=True, uri=host.uri)


@pytest.mark.parametrize("mode", ["linked", "shallow", "copy"])
@pytest.mark.parametrize(("path", "is_remote"), [(HERE, False), ("/srv/elsewhere", True)], ids=["there", "ssh"])
def test_clone_of_the_other_client(
    storage_host: StorageHost, second_host: SecondHost, virtomate: Program, path: str, mode: str, is_remote: bool
) -> None:
    """Each mode works at once, though both clients have just read the directory, and copies are not streamed."""
    near, far = storage_host.connection, second_host.connection
    mount(near, "127.0.0.1", HERE)
    mount(far, SERVER_ADDRESS, path)
    define(storage_host, is_overlay=mode == "shallow")
    sources = sorted(storage_host.run(f"ls {OPEN_EXPORT}").split())
    assert refresh(near, far) == [sources, sources]

    result = send(storage_host, second_host, virtomate if is_remote else None, "--mode", mode)

    found = by_target(cloned(result))["vda"]
    action = {"linked": "linked", "shallow": "shallow-copied", "copy": "copied"}[mode]
    assert (found["action"], found["clone"]["path"]) == (action, f"{path}/clone.qcow2")
    # nothing else makes a copy of an overlay whose files virtomate does not see
    assert found["transfer"] != "stream" or (mode, is_remote) == ("shallow", True)
    assert refresh(near, far) == [sorted([*sources, "clone.qcow2"])] * 2
    convert = f"qemu-img convert -O raw {path}/clone.qcow2 /tmp/second.raw"
    seen = second_host.run(f"{convert} && dd if=/tmp/second.raw bs=1M skip=1 count=1 status=none | sha256sum")
    assert seen.split()[0] == content_digest(DATA)
    deleted = virtomate("domain-delete", "--yes", "--yes-unproved", "clone", uri=second_host.uri)
    assert deleted.status == 0, str(deleted)
    assert refresh(near, far) == [sources, sources]


@pytest.mark.parametrize("mode", ["linked", "copy"])
def test_other_directory_of_the_server(
    storage_host: StorageHost, second_host: SecondHost, virtomate: Program, mode: str
) -> None:
    """Of what only one host has mounted, no overlay is made on the other, and a copy goes through virtomate."""
    mount(storage_host.connection, "127.0.0.1", HERE)
    storage_host.run(f"exportfs -o rw,no_root_squash,no_subtree_check,fsid=1 10.9.0.2:{SQUASHED_EXPORT}")
    mount(second_host.connection, SERVER_ADDRESS, HERE, export=SQUASHED_EXPORT)
    define(storage_host)
    second_host.run(f"cp --preserve {OPEN_EXPORT}/original.qcow2 {HERE}/")

    result = send(storage_host, second_host, virtomate, "--mode", mode)

    storage_host.run(f"exportfs -u 10.9.0.2:{SQUASHED_EXPORT}")
    if mode == "linked":
        assert "nothing shows that a storage pool there has the file" in result.json["message"], str(result)
    else:
        assert by_target(cloned(result))["vda"]["transfer"] == "stream"
    assert storage_host.run(f"ls {OPEN_EXPORT}").split() == ["original.qcow2"]


def test_client_that_does_not_look_again(
    storage_host: StorageHost, second_host: SecondHost, virtomate: Program
) -> None:
    """If the original's host goes by an old listing, the refusal names the mount option, and nothing is left."""
    near, far = storage_host.connection, second_host.connection
    mount(near, "127.0.0.1", HERE, options=["nocto", "actimeo=3600"])
    mount(far, SERVER_ADDRESS, HERE)
    define(storage_host)
    assert refresh(near, far) == [["original.qcow2"]] * 2

    refused = send(storage_host, second_host, virtomate, "--mode", "linked")
    document = cloned(send(storage_host, second_host, virtomate, "--mode", "copy"))

    assert "nothing shows that the hosts share" in error_of(refused)["message"], str(refused)
    assert "nocto" in error_of(refused)["hint"]
    assert by_target(document)["vda"]["transfer"] == "stream"
    assert virtomate("domain-delete", "--yes", "--yes-unproved", "clone", uri=second_host.uri).status == 0
    assert storage_host.run(f"ls {OPEN_EXPORT}").split() == ["original.qcow2"]
