"""Options that may stand without their value."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# No word of a command line can be this.
_NO_VALUE = "\0"


class OptionalValue(click.Option):
    """An option whose value stands after an equals sign or not at all, as `--colour[=WHEN]` of other programs.

    Click would take the next word for the value, which may be the name of a domain. An option without a value has an
    empty value; an empty value after an equals sign is an error.
    """

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401 - Click's own
        """Return the value, which is empty for an option without a value."""
        if value == "":
            raise click.BadParameter(
                f"there is nothing after the equals sign; expected: {self.metavar}, or the option alone.", ctx, self
            )
        return "" if value == _NO_VALUE else super().type_cast_value(ctx, value)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:  # noqa: ARG002 - Click's own
        """Return the option with its value in brackets, and its help."""
        return f"{self.opts[0]}[={self.metavar}]", self.help or ""


def with_equals_signs(parameters: Iterable[click.Parameter], words: Iterable[str]) -> Iterator[str]:
    """Yield the words of a command line; each option that has no value and may have one gets a value for that."""
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    optional = {name for option in options if isinstance(option, OptionalValue) for name in option.opts}
    with_value = {name for option in options if not option.is_flag and not option.count for name in option.opts}
    left = iter(words)
    for word in left:
        yield f"{word}={_NO_VALUE}" if word in optional else word
        if word == "--":
            break
        if word in with_value - optional:
            # a value may look like an option
            yield from islice(left, 1)
    yield from left
