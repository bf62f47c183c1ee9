"""What the measurements say: medians, ratios, whether the bars are met; as a table and as JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tests.bench.measure import Sample

MIB = 1 << 20


class Quantity(StrEnum):
    """A figure of a sample, by the name of its field."""

    SECONDS = "seconds"
    MEMORY = "peak_memory_bytes"
    ALLOCATION = "allocated_bytes"


WORDS = {Quantity.SECONDS: "", Quantity.MEMORY: "memory ", Quantity.ALLOCATION: "space "}


@dataclass(frozen=True)
class Series:
    """All measurements of one contender in one case, a round each."""

    label: str
    samples: tuple[Sample, ...]

    def figure(self, quantity: Quantity) -> float | None:
        """Return what counts: the median of all rounds, of memory the maximum; None if there is none or one failed."""
        values = self.values(quantity)
        if not values or self.error is not None:
            return None
        return max(values) if quantity is Quantity.MEMORY else statistics.median(values)

    def values(self, quantity: Quantity) -> list[float]:
        """Return what was measured, in order of the rounds."""
        found = [getattr(sample, quantity.value) for sample in self.samples]
        return [float(value) for value in found if value is not None]

    @property
    def error(self) -> str | None:
        """Why the contender failed, if it did."""
        return next((sample.error for sample in self.samples if sample.error is not None), None)

    @property
    def note(self) -> str:
        """What is to be known about how it worked."""
        return "; ".join(sorted({sample.note for sample in self.samples if sample.note}))


@dataclass(frozen=True)
class Bar:
    """What a case is measured against: a bound on a contender's figure, or on how two contenders' figures relate.

    Attributes:
        text: The bar in words.
        over: Whose figure it is, or is divided.
        by: By whose figure it is divided; None for no one's.
        plus: Whose figure is added to that before; None for no one's.
        minus: Whose figure is subtracted from the first one before; None for no one's.
        low: The smallest value that meets the bar.
        high: The largest one.
        quantity: What is compared.
    """

    text: str
    over: str
    by: str | None = None
    plus: str | None = None
    minus: str | None = None
    low: float | None = None
    high: float | None = None
    quantity: Quantity = Quantity.SECONDS


@dataclass(frozen=True)
class Verdict:
    """A bar, the value that counts against it (None: could not be measured), and whether that is good enough."""

    bar: Bar
    value: float | None
    met: bool

    def describe(self) -> str:
        """Say it in a line."""
        if self.value is None:
            figure = "not measured"
        elif self.bar.by is not None:
            figure = f"{self.value:.2f}x"
        else:
            figure = format_figure(self.bar.quantity, self.value)
        return f"{self.bar.text}: {figure}, {'met' if self.met else 'NOT MET'}"


@dataclass(frozen=True)
class CaseResult:
    """One case with everything that was measured; `skipped` says why nothing was."""

    name: str
    title: str
    conditions: str = ""
    series: tuple[Series, ...] = ()
    bars: tuple[Bar, ...] = ()
    skipped: str | None = None

    def verdicts(self) -> list[Verdict]:
        """Hold the measurements against the bars."""
        return [judge(bar, self.series) for bar in self.bars]


def faster(than: str, times: float, subject: str) -> Bar:
    """The subject is at least so many times faster than the other contender."""
    return Bar(f"{subject}: at least {times:g}x faster than {than}", over=than, by=subject, low=times)


def at_most(times: float, than: str, subject: str, quantity: Quantity = Quantity.SECONDS) -> Bar:
    """The subject takes at most so many times what the other contender takes."""
    text = f"{subject}: {WORDS[quantity]}at most {times:g}x {than}"
    return Bar(text, over=subject, by=than, high=times, quantity=quantity)


def judge(bar: Bar, series: Sequence[Series]) -> Verdict:
    """Hold figures against a bar."""
    figures = {one.label: one.figure(bar.quantity) for one in series}
    value = figures.get(bar.over)
    if bar.minus is not None:
        less = figures.get(bar.minus)
        value = None if value is None or less is None else value - less
    if bar.by is not None:
        parts = [figures.get(label) for label in (bar.by, bar.plus) if label is not None]
        divisor = sum(part for part in parts if part is not None) if None not in parts else None
        value = value / divisor if value is not None and divisor else None
    met = value is not None and (bar.low is None or value >= bar.low) and (bar.high is None or value <= bar.high)
    return Verdict(bar, value, met)


def format_figure(quantity: Quantity, value: float | None) -> str:
    """Write a figure with its unit."""
    if value is None:
        return "-"
    if quantity is not Quantity.SECONDS:
        return f"{value / MIB:.1f} MiB"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def render_case(case: CaseResult) -> str:
    """Write a case as a table with its bars below."""
    lines = [f"{case.name}: {case.title}"]
    if case.skipped is not None:
        return "\n".join([*lines, f"  skipped: {case.skipped}"])
    if case.conditions:
        lines.append(f"  {case.conditions}")
    rows: list[tuple[str, ...]] = [("contender", "median", "min", "max", "memory", "allocated", "")]
    rows += [_row(one) for one in case.series]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
        ]
        lines.append("  ".join(["", *cells, row[-1]]).rstrip())
    lines += [f"  bar  {verdict.describe()}" for verdict in case.verdicts()]
    return "\n".join(lines)


def _row(one: Series) -> tuple[str, ...]:
    if one.error is not None:
        return (one.label, "failed", "", "", "", "", one.error)
    seconds = one.values(Quantity.SECONDS)
    times = [one.figure(Quantity.SECONDS), min(seconds, default=None), max(seconds, default=None)]
    figures = [format_figure(Quantity.SECONDS, value) for value in times]
    figures += [format_figure(quantity, one.figure(quantity)) for quantity in (Quantity.MEMORY, Quantity.ALLOCATION)]
    return (one.label, *figures, one.note)


def describe_case(case: CaseResult) -> dict[str, Any]:
    """Return a case as a JSON object, with every round."""
    return {
        "name": case.name,
        "title": case.title,
        "conditions": case.conditions,
        "skipped": case.skipped,
        "contenders": [
            {
                "label": one.label,
                "figures": {quantity.value: one.figure(quantity) for quantity in Quantity},
                "rounds": [asdict(sample) for sample in one.samples],
            }
            for one in case.series
        ],
        "bars": [asdict(verdict.bar) | {"value": verdict.value, "met": verdict.met} for verdict in case.verdicts()],
    }
