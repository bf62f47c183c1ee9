"""Phrases: numbers agree with their nouns, and names are listed as in a sentence."""

from __future__ import annotations

import pytest

from virtomate.words import binary_size, counted, quoted


@pytest.mark.parametrize(
    ("number", "phrase"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (1.0, "1 second"),
        (0.1, "0.1 seconds"),
        (1.5, "1.5 seconds"),
        (2, "2 seconds"),
        (12345678, "12345678 seconds"),
    ],
)
def test_numbers_agree_with_their_nouns(number: float, phrase: str) -> None:
    """One is singular, everything else plural, and no number is rounded."""
    assert counted(number, "second") == phrase


def test_noun_that_ends_in_a_hiss() -> None:
    """Not every plural is made by one letter."""
    assert [counted(number, "address") for number in (1, 2)] == ["1 address", "2 addresses"]


@pytest.mark.parametrize(
    ("names", "phrase"), [(["a"], "'a'"), (["a", "b"], "'a' and 'b'"), (["a", "b", "c"], "'a', 'b' and 'c'")]
)
def test_names_of_a_sentence(names: list[str], phrase: str) -> None:
    """Names stand in quotes, the last one behind an "and"."""
    assert quoted(names) == phrase


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (10 * 1024**2, "10.0 MiB"),
        (20 * 1024**3, "20.0 GiB"),
        (1024**4, "1.0 TiB"),
        (1024**5, "1.0 PiB"),
        (2000 * 1024**5, "2000.0 PiB"),
    ],
)
def test_binary_size(size: int, expected: str) -> None:
    """A size stands in the largest unit that it fills, whole bytes without a fraction."""
    assert binary_size(size) == expected
