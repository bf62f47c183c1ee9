"""Whether an image that clones rest on is what it was when a clone was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtomate.duplication.hostfs import nanoseconds
from virtomate.enums import BaseProperty
from virtomate.notices import BaseFinding, Notice, notice
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from virtomate.definition.lower_images import BaseFingerprint

_WORDS = {
    BaseProperty.SIZE: "length",
    BaseProperty.MODIFIED: "modification time",
    BaseProperty.HEADER: "qcow2 header",
}
# Who writes to an image changes one of these, from the plainest on.
_CHANGED_BY_WRITING = tuple(_WORDS)
# Another file differs in one of these.
_OF_ANOTHER_FILE = frozenset({BaseProperty.INODE, BaseProperty.BIRTH_TIME, BaseProperty.KEY})


class Comparison(NamedTuple):
    """What a comparison of two looks at an image has found.

    Attributes:
        finding: What has happened to the image, None if nothing has.
        checked: The properties that were compared.
        unchecked: The properties that are recorded and could not be seen now.
    """

    finding: Notice | None
    checked: frozenset[BaseProperty]
    unchecked: frozenset[BaseProperty]


def compare(path: str, then: BaseFingerprint, now: BaseFingerprint) -> Comparison:
    """Compare an image with its properties in the record of a clone, as far as both are known."""
    before, after = _properties(then), _properties(now)
    checked = before.keys() & after.keys()
    changed = {item for item in checked if before[item] != after[item]}
    return Comparison(_finding(path, changed, then, now), frozenset(checked), frozenset(before.keys() - checked))


def _finding(path: str, changed: set[BaseProperty], then: BaseFingerprint, now: BaseFingerprint) -> Notice | None:
    if changed & _OF_ANOTHER_FILE:
        return notice(BaseFinding.REPLACED, path, where="")
    if BaseProperty.SIZE in changed and now.size < then.size:
        return notice(BaseFinding.TRUNCATED, path, now=str(now.size), then=str(then.size))
    written = next((item for item in _CHANGED_BY_WRITING if item in changed), None)
    return None if written is None else notice(BaseFinding.WRITTEN, path, what=_WORDS[written])


def _properties(image: BaseFingerprint) -> dict[BaseProperty, object]:
    values = {
        BaseProperty.SIZE: image.size,
        BaseProperty.MODIFIED: None if image.modified is None else nanoseconds(image.modified),
        BaseProperty.INODE: image.inode,
        BaseProperty.BIRTH_TIME: image.birth_time,
        BaseProperty.HEADER: image.header,
        BaseProperty.KEY: image.key,
    }
    return {item: value for item, value in values.items() if value is not None}
