"""rich's consoles, set up once: names are data and never markup."""

from __future__ import annotations

from rich.console import Console


def stdout_console() -> Console:
    """The console for data."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=True)


def stderr_console() -> Console:
    """The console for progress and notes."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)
