"""The options that change the guest of a clone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.cli.completion import DOMAIN
from virtomate.cli.optional_value import OptionalValue

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def _complete_next_word(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Complete the word after an option that may have no value, which is no value."""
    return [] if context.params.get("source") else DOMAIN.shell_complete(context, parameter, incomplete)


OPTIONS = (
    OptionalValue(
        ["--sysprep"],
        metavar="OPERATIONS",
        shell_complete=_complete_next_word,
        help="Have virt-sysprep give the guest a host name (see --hostname), machine ID, SSH host keys and DHCP "
        "identity of its own; OPERATIONS, after an equals sign, replace this selection of its operations. "
        "[default: the guest stays as it is]",
    ),
    click.Option(
        ["--customize"],
        metavar="ARGS",
        multiple=True,
        help="Options for virt-customize, in one word, such as '--install nginx'. Can be repeated. [default: none]",
    ),
)
