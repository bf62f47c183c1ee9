"""The examples of the documentation: how they are found, and what makes them disagree with what is printed."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.examples import Example, examples, masked, rewrite
from tests.lab.stage import Printed
from tests.lab.workspace import CHECKOUT

PAGE = """Title
=====

.. setup: make something

Text:

.. code-block:: console

   $ first
   one

     two
   $ second |
   >   third
   $ false
   $ echo $?
   1

Text.

```console
$ fourth
```
"""

EXAMPLE = Example(CHECKOUT / "README.md", "command", ("web-1  4.0 MiB",), 0, "")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with examples."""
    path = tmp_path / "page.rst"
    path.write_text(PAGE)
    return path


def test_examples_are_found(page: Path) -> None:
    """Commands, of several lines where they are continued, each with what stands below it, and setups between them."""
    found = [(example.command, example.printed) for example in examples(page)]

    assert found == [
        ("make something", ()),
        ("first", ("one", "", "  two")),
        ("second |\n  third", ()),
        ("false", ()),
        ("echo $?", ("1",)),
        ("fourth", ()),
    ]
    assert [example.command for example in examples(page) if example.is_setup] == ["make something"]
    assert [example.command for example in examples(page) if example.shows_status] == ["false"]


def test_what_was_printed_is_written(page: Path) -> None:
    """The page then has it, indented as its block is, and is otherwise the same."""
    new = {"first": ("uno",), "second |\n  third": ("", "dos"), "fourth": ("tres",)}
    rewrite(page, [(example, Printed(new[example.command], 0)) for example in examples(page) if example.command in new])

    assert page.read_text() == PAGE.replace("   one\n\n     two\n", "   uno\n").replace(
        "   >   third\n", "   >   third\n\n   dos\n"
    ).replace("$ fourth\n", "$ fourth\ntres\n")


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("web-1", "web-2"),
        ("web-1  running", "web-1  shut-off"),
        ("copied to /a, 1.0 GiB (host)", "copied to /a, 1.0 GiB (server)"),
        ('"bytes_copied": 1', '"bytes_written": 1'),
        ("52:54:00:00:00:01", "00:16:3e:00:00:01"),
        ("one", ""),
    ],
)
def test_changes_are_noticed(documented: str, printed: str) -> None:
    """What is not masked has to be the same."""
    assert not replace(EXAMPLE, printed=(documented,)).agrees(Printed((printed,), 0))


@pytest.mark.parametrize(
    ("documented", "printed"),
    [
        ("in 1.0 s", "in 12.5 s"),
        ("1.0 MiB  a", "15.0 GiB   a"),
        ('"seconds":1.5,"total":3', '"seconds":0.1,"total":12'),
        ("52:54:00:00:00:01", "52:54:00:ff:ff:ff"),
        ("5d4ae0f4-51fa-48d2-8ffa-af20a4f51740", "1769ab72-6773-4048-ba8d-a249b10ff93c"),
    ],
)
def test_what_is_never_the_same_is_masked(documented: str, printed: str) -> None:
    """Times, sizes, addresses and UUIDs may differ."""
    assert replace(EXAMPLE, printed=(documented,)).agrees(Printed((printed,), 0))
    assert masked((documented, printed)) == masked((documented,))


@pytest.mark.parametrize(
    ("example", "status", "agrees"),
    [
        (EXAMPLE, 0, True),
        (EXAMPLE, 1, False),
        (replace(EXAMPLE, printed=("Error: no",)), 1, True),
        (replace(EXAMPLE, printed=("Error: no",)), 0, False),
        (replace(EXAMPLE, shows_status=True), 3, True),
        (replace(EXAMPLE, printed=(), is_setup=True), 1, False),
    ],
)
def test_failures_are_noticed(example: Example, status: int, agrees: bool) -> None:
    """A command may fail only where the page shows an error or the status, and a setup never."""
    assert example.agrees(Printed(example.printed, status)) == agrees
