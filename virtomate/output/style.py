"""Colours of messages, where a terminal shows them; written by hand, since rich takes a tenth of a second to load."""

from __future__ import annotations

import os
import sys

_BOLD_RED = "1;31"
_BOLD_YELLOW = "1;33"
_STYLES = {"error": _BOLD_RED, "warning": _BOLD_YELLOW}


def styled(text: str, kind: str) -> str:
    """The beginning of a message on stderr, coloured as errors and warnings usually are."""
    style = _STYLES.get(kind)
    if style is None or not _shows_colours():
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


def _shows_colours() -> bool:
    """Whether stderr is a terminal with colours, and nobody has taken them away (https://no-color.org)."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return not is_plain and sys.stderr.isatty()
