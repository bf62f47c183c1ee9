"""rich's consoles, set up once: names are data and never markup."""

from __future__ import annotations

import os

from rich.console import Console


def stdout_console() -> Console:
    """The console for data; with NO_COLOR it writes no escape codes at all, bold ones included."""
    return Console(
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def stderr_console() -> Console:
    """The console for progress and notes; with NO_COLOR bars move as they do otherwise, and have no colours."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)
