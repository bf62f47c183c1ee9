"""What a clone and a volume may be called, and which characters a definition can hold."""

from __future__ import annotations

import pytest

from virtomate.errors import UsageError
from virtomate.names import NOT_XML, check_clone_name, check_volume_name, has_unwritable, writable


@pytest.mark.parametrize(
    "name",
    [
        *("a", "web-1", ".a", "..a", "...", "a.", "with blank", " a ", "a&b<\"c\">'d'", "-a"),
        *("ü", "\u65e5\u672c", "$(x)", "%s", "a" * 236, "ü" * 118, "\U0001f600" * 59),
    ],
)
def test_usable_name(name: str) -> None:
    """Whatever a file can be called, with what libvirt adds, a clone can be called."""
    check_clone_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "\t", "\u3000", ".", "..", "/", "a/b", "/a", "a/", "../a"),
        *("a\n", "\na", "a\tb", "a\x00b", "\x1b[31m", "\x7f", "a\x85b", "\ud800", "a\udcff", "a\uffff", "\ufffe"),
        *("a" * 237, "a" * 256, "ü" * 118 + "a", "\U0001f600" * 60),
    ],
)
def test_unusable_name(name: str) -> None:
    """A name that libvirt or a file system would choke on is refused; the limit counts bytes and not characters."""
    with pytest.raises(UsageError) as caught:
        check_clone_name(name)

    assert caught.value.exit_status == 2


@pytest.mark.parametrize("name", ["a", ".a", "with blank", "ü" * 127 + "a", "a" * 255, "disk.xml.new"])
def test_usable_volume_name(name: str) -> None:
    """A volume can be called whatever a file can be called."""
    check_volume_name(name)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\n", "\x1b[31m", "a\udcff", "a" * 256, "ü" * 128])
def test_unusable_volume_name(name: str) -> None:
    """What no file can be called, no volume can be called; the sentence says what was expected."""
    with pytest.raises(UsageError, match="1 to 255 bytes"):
        check_volume_name(name)


@pytest.mark.parametrize("sign", [*"\x00\x08\x0b\x0c\x0e\x1f\ud800\udfff\ufffe\uffff"])
def test_not_xml(sign: str) -> None:
    """Each character that XML cannot hold is found, and no name has it."""
    assert NOT_XML.search(f"a{sign}b") is not None
    assert has_unwritable(f"a{sign}b")


@pytest.mark.parametrize("text", ["", "a b", "\t\n\r", "\x7f\x85\x9f", "\ud7ff\ue000\ufffd\U0001f600\U0001ffff"])
def test_xml(text: str) -> None:
    """What XML can hold passes, control characters of ISO 8859 included."""
    assert NOT_XML.search(text) is None


def test_allowed_control_characters() -> None:
    """A text of several lines may have tabs and line feeds, but nothing else of their kind."""
    assert not has_unwritable("a\tb\nc", "\t\n")
    assert has_unwritable("a\tb\nc\r", "\t\n")
    assert has_unwritable("a\tb")
    assert has_unwritable("\x7f", "\t\n")


def test_writable() -> None:
    """Whatever no definition or terminal can take is replaced, and nothing else."""
    assert (
        writable("/a ü/b\n\x01\udcff<&>")
        == "/a ü/b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}<&>"
    )
