"""How a volume will be duplicated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.duplication.volumes import QCOW2, RAW
from virtomate.definition.volume import NewVolume
from virtomate.duplication import select
from virtomate.duplication.image_headers import Qcow2Header
from virtomate.duplication.transfers.base import Duplication, Place
from virtomate.enums import Action, ArtifactKind, Mode, Transfer
from virtomate.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from virtomate.definition.volume import VolumeDescription

HOST, STREAM, SERVER, LINK = Transfer.HOST, Transfer.STREAM, Transfer.SERVER, Transfer.LINK
UNSEEN = "its file cannot be seen here"
COPY, SHALLOW, LINKED, REFLINK = Mode.COPY, Mode.SHALLOW, Mode.LINKED, Mode.REFLINK

PLAIN = Qcow2Header(
    has_backing_file=False,
    is_encrypted=False,
    snapshot_count=0,
    is_dirty=False,
    is_corrupt=False,
    has_data_file=False,
    has_bitmaps=False,
)
BACKED = PLAIN._replace(has_backing_file=True)
OVERLAY = QCOW2._replace(backing_path="/p/base.raw", backing_format="raw")
LUKS = RAW._replace(is_encrypted=True)
VMDK = RAW._replace(format="vmdk", name="a.vmdk", path="/p/a.vmdk")

ROWS: list[tuple[str, VolumeDescription, str, Qcow2Header | None, Mode, tuple[Transfer, ...], tuple[Transfer, ...]]] = [
    # what, volume, detected format, header, mode, transfers of a local daemon with visible files, of a remote one
    ("raw", RAW, "raw", None, COPY, (HOST, STREAM, SERVER), (SERVER, STREAM)),
    ("raw that looks like qcow2", RAW, "qcow2", None, COPY, (HOST, STREAM), (STREAM,)),
    ("encrypted raw", LUKS, "raw", None, COPY, (HOST, STREAM), (STREAM,)),
    ("qcow2", QCOW2, "qcow2", PLAIN, COPY, (HOST, SERVER, STREAM), (SERVER, STREAM)),
    ("snapshots", QCOW2, "qcow2", PLAIN._replace(snapshot_count=1), COPY, (HOST, STREAM), (STREAM,)),
    ("bitmaps", QCOW2, "qcow2", PLAIN._replace(has_bitmaps=True), COPY, (HOST, STREAM), (STREAM,)),
    ("dirty", QCOW2, "qcow2", PLAIN._replace(is_dirty=True), COPY, (HOST, STREAM), (STREAM,)),
    (
        "encrypted qcow2",
        QCOW2._replace(is_encrypted=True),
        "qcow2",
        PLAIN._replace(is_encrypted=True),
        COPY,
        (HOST, STREAM),
        (STREAM,),
    ),
    ("overlay", OVERLAY, "qcow2", BACKED, COPY, (SERVER,), (SERVER,)),
    ("overlay that libvirt does not show", QCOW2, "qcow2", BACKED, COPY, (SERVER,), (SERVER,)),
    ("encrypted overlay", OVERLAY._replace(is_encrypted=True), "qcow2", BACKED, COPY, (), ()),
    ("another format", VMDK, "vmdk", None, COPY, (SERVER,), (SERVER,)),
    ("overlay", OVERLAY, "qcow2", BACKED, SHALLOW, (HOST, STREAM), (STREAM,)),
    ("overlay that libvirt does not show", QCOW2, "qcow2", BACKED, SHALLOW, (HOST, STREAM), (STREAM,)),
    ("encrypted overlay", OVERLAY._replace(is_encrypted=True), "qcow2", BACKED, SHALLOW, (HOST, STREAM), (STREAM,)),
    ("another format", VMDK._replace(backing_path="/p/b"), "vmdk", None, SHALLOW, (), ()),
    ("raw", RAW, "raw", None, REFLINK, (HOST, SERVER), (SERVER,)),
    ("raw that looks like qcow2", RAW, "qcow2", None, REFLINK, (HOST,), ()),
    ("encrypted raw", LUKS, "raw", None, REFLINK, (HOST,), ()),
    ("qcow2", QCOW2, "qcow2", PLAIN, REFLINK, (HOST,), ()),
    ("snapshots", QCOW2, "qcow2", PLAIN._replace(snapshot_count=1), REFLINK, (HOST,), ()),
    ("overlay", OVERLAY, "qcow2", BACKED, REFLINK, (HOST,), ()),
    ("another format", VMDK, "vmdk", None, REFLINK, (), ()),
    ("raw", RAW, "raw", None, LINKED, (LINK,), (LINK,)),
    ("qcow2", QCOW2, "qcow2", None, LINKED, (LINK,), (LINK,)),
    ("overlay", OVERLAY, "qcow2", None, LINKED, (LINK,), (LINK,)),
    ("another format", VMDK, "vmdk", None, LINKED, (LINK,), (LINK,)),
]
NAMES = [f"{row[0]}, {row[4].value}" for row in ROWS]


@pytest.mark.parametrize("is_local", [True, False], ids=["local", "remote"])
@pytest.mark.parametrize(
    ("source", "detected", "header", "mode", "local", "remote"), [row[1:] for row in ROWS], ids=NAMES
)
def test_transfers(
    source: VolumeDescription,
    detected: str,
    header: Qcow2Header | None,
    mode: Mode,
    local: tuple[Transfer, ...],
    remote: tuple[Transfer, ...],
    is_local: bool,
) -> None:
    """The best transfer that keeps the volume as it is comes first; where there is none, it is refused with advice."""
    expected = local if is_local else remote

    def choose(forced: Transfer | None = None) -> tuple[Transfer, ...]:
        return select.choose_transfer(
            source, detected, header, mode, is_local=is_local, obstacle=None if is_local else UNSEEN, forced=forced
        )

    if expected:
        assert choose() == expected
    else:
        with pytest.raises(UnsupportedError, match=source.path) as caught:
            choose()
        assert caught.value.hint is not None
    for forced in (HOST, STREAM, SERVER):
        if forced in expected:
            assert choose(forced) == (forced,)
        else:
            with pytest.raises(UsageError if mode is Mode.LINKED else UnsupportedError):
                choose(forced)


def test_files_that_cannot_be_seen() -> None:
    """A local daemon whose files cannot be opened here is asked to do it, raw volumes by streams."""
    assert select.choose_transfer(RAW, "raw", None, COPY, is_local=True, obstacle=UNSEEN) == (STREAM, SERVER)
    assert select.choose_transfer(QCOW2, "qcow2", PLAIN, COPY, is_local=True, obstacle=UNSEEN) == (SERVER, STREAM)


@pytest.mark.parametrize(
    ("source", "header", "mode", "forced", "obstacle", "reasons"),
    [
        (QCOW2, PLAIN, REFLINK, SERVER, None, "it is qcow2, and libvirt reflinks raw volumes only"),
        (QCOW2, PLAIN._replace(snapshot_count=1), REFLINK, SERVER, None, "it is qcow2, and libvirt reflinks"),
        (QCOW2, PLAIN, REFLINK, STREAM, None, "a stream shares no data"),
        (QCOW2, PLAIN, COPY, HOST, "its file cannot be read here", "its file cannot be read here"),
        (QCOW2, PLAIN, REFLINK, None, UNSEEN, f"it is qcow2, and libvirt reflinks raw volumes only; {UNSEEN}"),
        (VMDK, None, REFLINK, None, None, "libvirt reflinks raw volumes only; a vmdk image may be more than one file"),
    ],
)
def test_reasons(
    source: VolumeDescription,
    header: Qcow2Header | None,
    mode: Mode,
    forced: Transfer | None,
    obstacle: str | None,
    reasons: str,
) -> None:
    """What is refused is refused for what is so: nobody is told that a file cannot be seen which can."""
    with pytest.raises(UnsupportedError) as caught:
        select.choose_transfer(source, source.format, header, mode, is_local=True, obstacle=obstacle, forced=forced)

    assert reasons in caught.value.message
    assert ("cannot be seen" in caught.value.message) is (obstacle == UNSEEN)


def test_advice_to_leave_the_choice_open_is_given_where_it_helps() -> None:
    """Where no transfer is possible, none is asked for in vain."""
    with pytest.raises(UnsupportedError) as caught:
        select.choose_transfer(QCOW2, "qcow2", PLAIN, REFLINK, is_local=True, obstacle=UNSEEN, forced=SERVER)

    assert caught.value.hint == "Use --mode copy or --mode linked."


@pytest.mark.parametrize(
    ("source", "header", "is_local", "forced", "expected"),
    [
        (RAW, None, True, None, (HOST, STREAM)),
        (QCOW2, PLAIN, True, None, (HOST, STREAM)),
        (QCOW2, PLAIN, False, STREAM, (STREAM,)),
    ],
)
def test_limited_copy_is_never_left_to_libvirt(
    source: VolumeDescription,
    header: Qcow2Header | None,
    is_local: bool,
    forced: Transfer | None,
    expected: tuple[Transfer, ...],
) -> None:
    """Under a limit, libvirt is not even asked where everything else turns out to be impossible."""
    obstacle = None if is_local else UNSEEN

    transfers = select.choose_transfer(
        source, source.format, header, COPY, is_local=is_local, obstacle=obstacle, is_limited=True, forced=forced
    )

    assert transfers == expected


@pytest.mark.parametrize(
    ("source", "header", "forced", "hint"),
    [
        (QCOW2, PLAIN, None, "Use --transfer stream."),
        (RAW, None, SERVER, "Use --transfer stream."),
        (OVERLAY, BACKED, None, "Leave out --bandwidth."),
    ],
)
def test_limit_that_libvirt_would_not_keep(
    source: VolumeDescription, header: Qcow2Header | None, forced: Transfer | None, hint: str
) -> None:
    """A copy that libvirt would make is refused under a limit, with the other way where there is one."""
    with pytest.raises(UnsupportedError, match="--bandwidth cannot limit libvirt") as caught:
        select.choose_transfer(
            source, source.format, header, COPY, is_local=False, obstacle=UNSEEN, is_limited=True, forced=forced
        )

    assert caught.value.hint == hint


def test_reflink_by_libvirt_needs_no_limit() -> None:
    """A reflink moves no bytes, so that libvirt may make it under a limit, too."""
    transfers = select.choose_transfer(RAW, "raw", None, REFLINK, is_local=False, obstacle=UNSEEN, is_limited=True)

    assert transfers == (SERVER,)


@pytest.mark.parametrize(
    ("is_local", "obstacle", "expected"),
    [
        (True, None, (HOST, STREAM, SERVER)),
        (True, "it cannot be read", (STREAM, SERVER)),
        # it would have to cross the network twice
        (False, "it cannot be seen", (SERVER, STREAM)),
    ],
)
def test_private_image_is_not_made_by_libvirt(
    is_local: bool, obstacle: str | None, expected: tuple[Transfer, ...]
) -> None:
    """What others could read while libvirt makes it goes another way, if that is not a much longer one."""
    transfers = select.choose_transfer(
        QCOW2, "qcow2", PLAIN, COPY, is_local=is_local, obstacle=obstacle, is_exposed=True
    )

    assert transfers == expected


@pytest.mark.parametrize(
    ("source", "mode", "directory_mode", "expected"),
    [
        (QCOW2, "0600", 0o711, True),
        (QCOW2, "0640", 0o710, True),
        (QCOW2, "0604", 0o755, True),
        (QCOW2, "0600", None, True),
        (VMDK, "0600", 0o755, True),
        (QCOW2, "0644", 0o755, False),
        (QCOW2, "0666", 0o755, False),
        (QCOW2, "0600", 0o700, False),
        (QCOW2, "0600", 0o744, False),
        (QCOW2, None, 0o755, False),
        # made without qemu-img, with its mode from the beginning
        (RAW, "0600", 0o755, False),
    ],
)
def test_exposure(source: VolumeDescription, mode: str | None, directory_mode: int | None, expected: bool) -> None:
    """Exposed is what is tighter than what qemu-img makes, in a directory that others can enter."""
    assert select.is_exposed(source._replace(mode=mode), directory_mode) is expected


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (None, "does not begin"),
        (PLAIN._replace(is_corrupt=True), "corrupt"),
        (PLAIN._replace(has_data_file=True), "external"),
    ],
)
def test_unsound_image_is_refused(header: Qcow2Header | None, word: str) -> None:
    """A qcow2 that is none, is corrupt or keeps its data elsewhere is not copied."""
    with pytest.raises(UnsupportedError, match=word):
        select.check_header(QCOW2, header, Mode.COPY)


@pytest.mark.parametrize("header", [PLAIN, BACKED, PLAIN._replace(snapshot_count=3), PLAIN._replace(is_dirty=True)])
def test_sound_image_is_accepted(header: Qcow2Header) -> None:
    """Every other qcow2 can be looked at."""
    select.check_header(QCOW2, header, Mode.COPY)


def test_raw_disk_is_described_by_its_length() -> None:
    """What a guest wrote into its raw disk is believed in nothing."""
    believed = OVERLAY._replace(is_encrypted=True, capacity=1 << 60)

    assert select.as_format(believed, "raw") == believed._replace(
        format="raw",
        capacity=believed.physical,
        compat=None,
        cluster_size=None,
        features=(),
        backing_path=None,
        backing_format=None,
        is_encrypted=False,
    )
    assert select.as_format(LUKS, "raw").is_encrypted
    assert select.as_format(OVERLAY, "qcow2") == OVERLAY


@pytest.mark.parametrize(
    ("header", "path", "format_"),
    [
        (PLAIN._replace(has_backing_file=False), None, None),
        (PLAIN._replace(has_backing_file=True, backing_file="new.raw", backing_format="raw"), "/p/new.raw", "raw"),
        (PLAIN._replace(has_backing_file=True, backing_file="/q/new", backing_format="qcow2"), "/q/new", "qcow2"),
        (PLAIN._replace(has_backing_file=True, backing_file=None), "/p/base.qcow2", "qcow2"),
        (PLAIN._replace(has_backing_file=True, backing_file="nbd://host/x"), "/p/base.qcow2", "qcow2"),
        (None, "/p/base.qcow2", "qcow2"),
    ],
)
def test_header_says_what_is_below(header: Qcow2Header | None, path: str | None, format_: str | None) -> None:
    """Libvirt remembers what was below an image before a block job; what cannot be read is left as libvirt has it."""
    remembered = QCOW2._replace(backing_path="/p/base.qcow2", backing_format="qcow2")

    headed = select.as_headed(remembered, header)

    assert (headed.backing_path, headed.backing_format) == (path, format_)


OWNED = {"mode": "0600", "owner": "64055", "group": "106"}
FULL_RAW = RAW._replace(allocation=10_000_000)
NEW_VOLUMES: list[tuple[str, VolumeDescription, Transfer, dict[str, object]]] = [
    ("raw, by libvirt", RAW, SERVER, {"format": "raw", "capacity": 10_000_000, "allocation": 0}),
    ("raw, by stream", RAW, STREAM, {"format": "raw", "capacity": 0, "allocation": 0}),
    ("raw, here", RAW, HOST, {"format": "raw", "capacity": 0, "allocation": 0}),
    (
        "preallocated raw, by libvirt",
        FULL_RAW,
        SERVER,
        {"format": "raw", "capacity": 10_000_000, "allocation": 10_000_000},
    ),
    (
        "preallocated raw, by stream",
        FULL_RAW,
        STREAM,
        {"format": "raw", "capacity": 10_000_000, "allocation": 10_000_000},
    ),
    ("preallocated raw, here", FULL_RAW, HOST, {"format": "raw", "capacity": 0, "allocation": 0}),
    (
        "qcow2, by libvirt",
        QCOW2,
        SERVER,
        {
            "format": "qcow2",
            "capacity": 10_000_000,
            "allocation": 0,
            "compat": "1.1",
            "cluster_size": 65536,
            "features": ("lazy_refcounts",),
        },
    ),
    (
        "qcow2 without a version, by libvirt",
        QCOW2._replace(compat=None, cluster_size=None, features=()),
        SERVER,
        {"format": "qcow2", "capacity": 10_000_000, "allocation": 0, "compat": "0.10"},
    ),
    (
        "full qcow2, by libvirt",
        QCOW2._replace(allocation=20_000_000, compat="0.10", cluster_size=None, features=()),
        SERVER,
        {"format": "qcow2", "capacity": 10_000_000, "allocation": 0, "compat": "0.10"},
    ),
    ("qcow2, by stream", QCOW2, STREAM, {"format": "raw", "capacity": 0, "allocation": 0}),
    ("another format, by libvirt", VMDK, SERVER, {"format": "vmdk", "capacity": 10_000_000, "allocation": 0}),
    ("qcow2, here", QCOW2, HOST, {"format": "raw", "capacity": 0, "allocation": 0}),
    ("overlay", QCOW2, LINK, {"format": "raw", "capacity": 0, "allocation": 0}),
]


def duplicating(source: VolumeDescription, transfer: Transfer) -> Duplication:
    """A duplication by one transfer, into a volume of the name `n`."""
    return Duplication(
        label="vda",
        kind=ArtifactKind.VOLUME,
        source=source,
        place=Place("p", "u", "/p", "n"),
        action=Action.COPIED,
        transfers=(transfer,),
        below=(),
        keep_owner=True,
        is_read_again=False,
    )


@pytest.mark.parametrize(
    ("source", "transfer", "expected"), [row[1:] for row in NEW_VOLUMES], ids=[row[0] for row in NEW_VOLUMES]
)
def test_new_volume(source: VolumeDescription, transfer: Transfer, expected: dict[str, object]) -> None:
    """What libvirt is asked for leaves nothing open; the new volume is like the original, its owner where possible."""
    duplication = duplicating(source, transfer)
    privileged = duplication.new
    unprivileged = duplication._replace(keep_owner=False).new

    assert privileged == NewVolume(name="n", **(expected | OWNED))  # type: ignore[arg-type]
    assert unprivileged == privileged._replace(owner=None, group=None)


@pytest.mark.parametrize(
    ("source", "below_bytes", "transfer", "action", "expected"),
    [
        (RAW, 0, STREAM, Action.COPIED, 4_000_000),
        (RAW, 0, HOST, Action.COPIED, 4_000_000),
        (RAW, 0, SERVER, Action.REFLINKED, 0),
        (QCOW2, 0, HOST, Action.REFLINKED, 0),
        (RAW, 0, LINK, Action.LINKED, 1024 * 1024),
        (OVERLAY, 2_000_000, SERVER, Action.COPIED, 6_000_000),
        (OVERLAY, 20_000_000, SERVER, Action.COPIED, 10_000_000),
        (QCOW2, 5, SERVER, Action.COPIED, 4_000_000),
        (OVERLAY, 20_000_000, HOST, Action.SHALLOW_COPIED, 4_000_000),
    ],
)
def test_bytes_to_write(
    source: VolumeDescription, below_bytes: int, transfer: Transfer, action: Action, expected: int
) -> None:
    """A copy takes what the original takes, a flattened chain at most its capacity, the rest next to nothing."""
    below = (RAW._replace(allocation=below_bytes),)

    assert duplicating(source, transfer)._replace(action=action, below=below).total_bytes == expected


def test_every_mode_has_an_action() -> None:
    """What a result says of a disk follows from the mode."""
    assert select.ACTIONS == {
        COPY: Action.COPIED,
        SHALLOW: Action.SHALLOW_COPIED,
        LINKED: Action.LINKED,
        REFLINK: Action.REFLINKED,
    }


def test_what_a_new_volume_rests_on() -> None:
    """An overlay rests on the original, the same bytes on what the original rests on, and a copy on nothing."""
    below = (RAW._replace(path="/p/base.raw"),)
    ways = {action: duplicating(OVERLAY, HOST)._replace(action=action, below=below) for action in Action}

    bases = {action: (way.base_path, way.rests_on) for action, way in ways.items()}

    assert bases[Action.LINKED] == (OVERLAY.path, (OVERLAY, *below))
    assert bases[Action.SHALLOW_COPIED] == bases[Action.REFLINKED] == ("/p/base.raw", below)
    assert bases[Action.COPIED] == (None, ())
    # an image outside of all pools is not described
    assert ways[Action.REFLINKED]._replace(below=()).rests_on == ()


def test_what_leaves_for_another_host() -> None:
    """Libvirt makes only what no stream can copy: the first step of a chain, and formats of several files."""
    words = {"is_local": False, "obstacle": UNSEEN, "is_leaving": True}
    chain = QCOW2._replace(backing_path="/p/base.qcow2")

    assert select.choose_transfer(RAW, "raw", None, COPY, **words) == (Transfer.STREAM,)  # type: ignore[arg-type]
    assert select.choose_transfer(chain, "qcow2", None, COPY, **words) == (Transfer.SERVER,)  # type: ignore[arg-type]
