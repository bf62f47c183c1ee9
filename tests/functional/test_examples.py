"""The examples of the documentation print what it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.examples import NOT_RUN, boots_guest, examples, masked, pages, run_page
from tests.lab.stage import Stage
from tests.lab.workspace import CHECKOUT


@pytest.fixture(scope="module")
def host(session_lab: Lab) -> Iterator[Stage]:
    """The host on which all examples run."""
    if not session_lab.privileged:
        pytest.skip("needs root: a host of its own")
    with Stage(session_lab) as stage:
        yield stage


@pytest.fixture
def stage(host: Stage) -> Iterator[Stage]:
    """The host, for one page."""
    yield host
    host.clear()


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_examples_print_what_the_page_says(stage: Stage, page: Path) -> None:
    """Every command on a page prints what stands below it, apart from what is never the same."""
    # Tests run side by side do not come in the order of the pages.
    if not boots_guest(page):
        stage.forget_guest()

    for example, printed in run_page(stage, page):
        if not example.agrees(printed):
            assert masked(example.printed) == masked(printed.lines), f"{example}: run nox -s examples"
            pytest.fail(f"{example} ended with {printed.status}: {printed.lines}")


def test_what_is_not_run_is_there() -> None:
    """The list of commands that are not run names none that the documentation lacks."""
    every = [*CHECKOUT.joinpath("docs").rglob("*.rst"), CHECKOUT / "README.md"]
    commands = [example.command for page in every for example in examples(page)]

    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)] == []
