"""Puts the manual pages into the wheel: Sphinx makes them out of `docs`. The rest is hatchling's.

An editable installation has no manual pages and does not wait for Sphinx; `python3 noxfile.py -s docs` makes them.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.build import *  # noqa: F403 - this is hatchling's build backend with one answer changed
from hatchling.builders.constants import EDITABLES_REQUIREMENT
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """Name what an editable installation needs: not what pyproject.toml names for the manual pages."""
    del config_settings
    return [EDITABLES_REQUIREMENT]


class ManualPages(BuildHookInterface):
    """Adds `share/man/man1` to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the pages, before the wheel is written."""
        if version == "editable":
            return
        # Imported here, since an editable installation has no Sphinx; and called here, since only this process is sure
        # to find it: builders put what a build needs where the environment of a further process may not lead.
        from sphinx.cmd.build import build_main  # noqa: PLC0415

        self._directory = TemporaryDirectory(prefix="virtomate-man-")
        pages = Path(self._directory.name) / "man"
        status = build_main(["-q", "-b", "man", "-d", f"{pages}.doctrees", str(Path(self.root) / "docs"), str(pages)])
        if status:
            raise RuntimeError(f"Sphinx could not make the manual pages (status {status})")
        for page in pages.glob("*.1"):
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what only the wheel needed."""
        del build_data, artifact_path
        if version != "editable":
            self._directory.cleanup()
