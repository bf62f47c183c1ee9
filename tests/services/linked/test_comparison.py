"""What has happened to an image, by what it was like and what it is like."""

from __future__ import annotations

import pytest

from virtomate.definition.lower_images import BaseFingerprint
from virtomate.enums import BaseProperty
from virtomate.notices import BaseFinding, Notice, notice
from virtomate.services.linked.comparison import compare

THEN = BaseFingerprint("1767225600.000000002", 4096, 11, 1767225500_000000001, "0123", "Uu-Id")
OLD = BaseFingerprint("1767225600.000000002", 4096)
PATH = "/p/base"


def written(what: str) -> Notice:
    """The finding of an image that was written to."""
    return notice(BaseFinding.WRITTEN, PATH, what=what)


REPLACED = notice(BaseFinding.REPLACED, PATH, where="")
TRUNCATED = notice(BaseFinding.TRUNCATED, PATH, now="512", then="4096")


@pytest.mark.parametrize(
    ("then", "changes", "finding"),
    [
        (THEN, {}, None),
        (OLD, {}, None),
        # libvirt leaves out trailing zeroes of no time, but another tool may
        (THEN._replace(modified="1767225600"), {"modified": "1767225600.000000000"}, None),
        (THEN, {"modified": "1767225600.000000003"}, written("modification time")),
        (THEN, {"size": 4097}, written("length")),
        (THEN, {"size": 4097, "modified": "1.0"}, written("length")),
        (THEN, {"header": "4567"}, written("qcow2 header")),
        (THEN, {"size": 512}, TRUNCATED),
        (THEN, {"size": 512, "modified": "1.0", "header": "4567"}, TRUNCATED),
        # a copy with the same bytes and times
        (THEN, {"inode": 12}, REPLACED),
        # a logical volume that was removed and made anew
        (THEN, {"key": "Other"}, REPLACED),
        # a file that has got the inode number of the deleted one
        (THEN, {"birth_time": 1}, REPLACED),
        (THEN, {"inode": 12, "birth_time": 1, "size": 512, "modified": "1.0", "header": "4567"}, REPLACED),
        # what the record does not have cannot have changed
        (OLD, {"inode": 12, "birth_time": 1, "header": "4567"}, None),
        (OLD, {"inode": 12, "modified": "1.0"}, written("modification time")),
        # what cannot be seen has not changed either
        (THEN, {"inode": None, "birth_time": None, "header": None}, None),
        (THEN, {"inode": None, "size": 512}, TRUNCATED),
    ],
)
def test_findings(then: BaseFingerprint, changes: dict[str, object], finding: Notice | None) -> None:
    """Another file outranks a shorter one, which outranks anything else that was written."""
    now = THEN._replace(**changes)  # type: ignore[arg-type]

    assert compare(PATH, then, now).finding == finding


@pytest.mark.parametrize(
    ("then", "now", "checked", "unchecked"),
    [
        (THEN, THEN, set(BaseProperty), set()),
        (OLD, THEN, {BaseProperty.SIZE, BaseProperty.MODIFIED}, set()),
        (
            THEN,
            OLD,
            {BaseProperty.SIZE, BaseProperty.MODIFIED},
            {BaseProperty.INODE, BaseProperty.BIRTH_TIME, BaseProperty.HEADER, BaseProperty.KEY},
        ),
        (THEN, BaseFingerprint(None, 1), {BaseProperty.SIZE}, set(BaseProperty) - {BaseProperty.SIZE}),
    ],
)
def test_what_is_compared(
    then: BaseFingerprint, now: BaseFingerprint, checked: set[BaseProperty], unchecked: set[BaseProperty]
) -> None:
    """What the record has and cannot be seen is told; what the record lacks is not."""
    found = compare(PATH, then, now)

    assert (set(found.checked), set(found.unchecked)) == (checked, unchecked)
