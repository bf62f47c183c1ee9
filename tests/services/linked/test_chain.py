"""The names of bases, and the records of clones whose base gets another one."""

import pytest

from virtomate.definition.lower_images import BaseFingerprint, LowerImage
from virtomate.definition.provenance import Artifact
from virtomate.enums import ArtifactKind, ArtifactState
from virtomate.services.linked.chain import plain_path
from virtomate.services.linked.rebase_record import with_rebased

OLD, NEW = BaseFingerprint("1.5", 100, header="old"), BaseFingerprint("2.5", 100, header="new")
BOTTOM, OTHER = BaseFingerprint("0.5", 50), BaseFingerprint("0.7", 60)
NOW = (LowerImage("/srv/middle", NEW), LowerImage("/srv/moved", OTHER))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("base.qcow2", "/srv/base.qcow2"),
        ("../base.qcow2", "/base.qcow2"),
        ("/other/base.qcow2", "/other/base.qcow2"),
        ("./a:b.qcow2", "/srv/a:b.qcow2"),
        ("/other/a:b", "/other/a:b"),
        ("nbd:host:10809", None),
        ("file:/other/base", None),
        ('json:{"driver": "raw"}', None),
        ("", None),
    ],
)
def test_names_of_bases(name: str, path: str | None) -> None:
    """A relative name starts at the directory of the image; a name with a protocol is more than a path."""
    assert plain_path("/srv", name) == path


def made(base: str, fingerprint: BaseFingerprint, *below: LowerImage) -> Artifact:
    """Return a volume that rests on a chain."""
    return Artifact(
        ArtifactKind.VOLUME,
        ArtifactState.MADE,
        "images",
        "top",
        "/srv/top",
        base=base,
        base_fingerprint=fingerprint,
        below=below,
    )


def test_record_of_who_rests_on_the_image() -> None:
    """The image is what it is now, and so is what lies below."""
    before = made("/srv/middle", OLD, LowerImage("/srv/base", BOTTOM))

    after = with_rebased(before, LowerImage("/srv/middle", OLD), NOW)

    assert (after.base, after.base_fingerprint, after.below) == ("/srv/middle", NEW, NOW[1:])


def test_record_of_who_rests_on_it_further_up() -> None:
    """What lies between stays as it was recorded."""
    upper = LowerImage("/srv/middle", OLD)
    before = made("/srv/upper", BOTTOM, upper, LowerImage("/srv/base", BOTTOM))

    after = with_rebased(before, upper, NOW)

    assert (after.base, after.base_fingerprint, after.below) == ("/srv/upper", BOTTOM, NOW)


@pytest.mark.parametrize("image", [LowerImage("/srv/middle", NEW), LowerImage("/srv/other", OLD)])
def test_other_records_stay(image: LowerImage) -> None:
    """A record stays that knows another image, or of which the image was already another one."""
    before = made("/srv/middle", OLD, LowerImage("/srv/base", BOTTOM))

    assert with_rebased(before, image, NOW) == before
