"""The reading of a small file that an emulator may replace or write to meanwhile."""

import itertools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from virtomate.cancel import CancelToken
from virtomate.duplication.transfers import stream
from virtomate.errors import SourceChangedError


def reading(monkeypatch: pytest.MonkeyPatch, contents: Iterable[bytes]) -> Any:
    """Return what is read of a file whose content is another one at each look."""
    left, looks = iter(contents), []

    def document() -> str:
        looks.append(next(left))
        return f"<volume><physical>{len(looks[-1])}</physical></volume>"

    def read_head(_connection: object, _volume: object, length: int) -> bytes:
        return looks[-1][:length]

    monkeypatch.setattr(stream, "read_head", read_head)
    context: Any = SimpleNamespace(source=None, cancel=CancelToken())
    volume: Any = SimpleNamespace(document=document)
    return stream._read_still("/tpm2-00.permall", volume, context)


def test_two_readings_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that was replaced between two looks, by a longer one as well, is read again."""
    monkeypatch.setattr(stream, "_STILL_SECONDS", 600)
    assert reading(monkeypatch, [b"first", b"second state", b"second state", b"third"]) == b"second state"


def test_file_that_changes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No reading is taken that no other one confirms, and the error names the file."""
    monkeypatch.setattr(stream, "_STILL_SECONDS", 0.1)
    contents = (str(number).encode() for number in itertools.count())
    with pytest.raises(SourceChangedError, match="is written to all the time") as caught:
        reading(monkeypatch, contents)
    assert "'/tpm2-00.permall'" in caught.value.message
