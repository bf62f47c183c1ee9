"""Builds the package with hatchling, and puts the manual pages into the wheel: Sphinx makes them out of `docs`.

An editable installation has no manual pages and does not wait for Sphinx; `python3 noxfile.py -s docs` makes them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hatchling.build
from hatchling.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
)
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Name what is needed to build a wheel."""
    return [*hatchling.build.get_requires_for_build_wheel(config_settings), "sphinx>=8.1"]


class ManualPages(BuildHookInterface):
    """Adds `share/man/man1` to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the pages, before the wheel is written."""
        if version == "editable":
            return
        self._directory = TemporaryDirectory(prefix="virtomate-man-")
        pages = Path(self._directory.name) / "man"
        docs = Path(self.root) / "docs"
        subprocess.run(
            [sys.executable, "-m", "sphinx", "-q", "-b", "man", "-d", f"{pages}.doctrees", docs, pages],
            env=os.environ | {"PYTHONPATH": self.root},  # where docs/conf.py finds the version
            check=True,
        )
        for page in pages.glob("*.1"):
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what only the wheel needed."""
        del build_data, artifact_path
        if version != "editable":
            self._directory.cleanup()
