"""The benchmark computes and words its results rightly; nothing is measured here."""

import json

import pytest

from tests.bench.measure import Sample
from tests.bench.report import (
    MIB,
    Bar,
    CaseResult,
    Quantity,
    Series,
    at_most,
    describe_case,
    faster,
    judge,
    render_case,
)


def series(label: str, *seconds: float) -> Series:
    """A contender with these times."""
    samples = [Sample(value, 0.1, 40 * MIB, 2 * MIB) for value in seconds]
    return Series(label, tuple(samples))


FAILED = Series("other", (Sample(3.0), Sample(error="status 1: no")))


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (faster("other", 4, "ours"), 4.0, True),
        (faster("other", 4.1, "ours"), 4.0, False),
        (at_most(0.25, "other", "ours"), 0.25, True),
        (at_most(0.2, "other", "ours"), 0.25, False),
        (at_most(1, "other", "ours", Quantity.ALLOCATION), 1.0, True),
        (Bar("memory", "ours", high=40 * MIB, quantity=Quantity.MEMORY), 40 * MIB, True),
        (Bar("memory", "ours", high=39 * MIB, quantity=Quantity.MEMORY), 40 * MIB, False),
        (Bar("equal", "ours", "other", low=0.99, high=1.01), 0.25, False),
        (faster("nobody", 1, "ours"), None, False),
        (Bar("sum", "ours", "other", plus="other", high=0.125), 0.125, True),
        (Bar("sum", "ours", "other", plus="nobody", high=1), None, False),
        (Bar("difference", "other", minus="ours", high=6), 6.0, True),
        (Bar("difference", "other", minus="ours", high=5), 6.0, False),
        (Bar("difference", "other", minus="nobody", high=1), None, False),
    ],
)
def test_bars_compare_figures(bar: Bar, value: float | None, met: bool) -> None:
    """A bar holds the ratio of two figures, or one figure, against its bounds, which themselves are good enough."""
    verdict = judge(bar, [series("ours", 9.0, 1.0, 2.0), series("other", 8.0, 8.0, 1.0)])

    assert verdict.value == value
    assert verdict.met is met


def test_memory_counts_at_its_worst() -> None:
    """Of times and space the median counts, of memory the largest."""
    samples = [Sample(seconds, None, memory, memory) for seconds, memory in ((1.0, 5), (9.0, 1), (2.0, 2))]
    one = Series("ours", tuple(samples))

    assert [one.figure(quantity) for quantity in Quantity] == [2.0, 5, 2]


def test_what_failed_meets_no_bar() -> None:
    """A contender that failed in one round has no figure, and a bar that needs it is not met."""
    assert FAILED.figure(Quantity.SECONDS) is None
    verdict = judge(faster("other", 1, "ours"), [series("ours", 1.0), FAILED])
    assert not verdict.met
    assert verdict.describe() == "ours: at least 1x faster than other: not measured, NOT MET"


def test_table_names_figures_errors_and_verdicts() -> None:
    """The table has a row for every contender and a line for every bar."""
    bars = (faster("ours", 2, "best"), at_most(1, "other", "ours"))
    case = CaseResult("copy", "a copy", "warm", (series("ours", 2.0, 4.0), series("best", 0.5), FAILED), bars)

    assert render_case(case).splitlines() == [
        "copy: a copy",
        "  warm",
        "  contender  median     min     max    memory  allocated",
        "  ours       3.00 s  2.00 s  4.00 s  40.0 MiB    2.0 MiB",
        "  best       500 ms  500 ms  500 ms  40.0 MiB    2.0 MiB",
        "  other      failed                                       status 1: no",
        "  bar  best: at least 2x faster than ours: 6.00x, met",
        "  bar  ours: at most 1x other: not measured, NOT MET",
    ]


def test_json_holds_every_round() -> None:
    """The JSON document has all measurements, figures, and the verdicts with their bounds."""
    document = json.loads(json.dumps(describe_case(CaseResult("c", "t", "", (series("ours", 1, 3),), ()))))

    (ours,) = document["contenders"]
    assert [sample["seconds"] for sample in ours["rounds"]] == [1, 3]
    assert ours["figures"] == {"seconds": 2, "peak_memory_bytes": 40 * MIB, "allocated_bytes": 2 * MIB}


def test_skipped_case_says_why() -> None:
    """A case that could not be run says why, and has no figures."""
    assert render_case(CaseResult("copy", "a copy", skipped="no root")) == "copy: a copy\n  skipped: no root"
