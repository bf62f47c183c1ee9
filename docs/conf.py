# ruff: noqa: INP001 - Sphinx runs this file; it is no package
"""Settings of the documentation: a site (html) and manual pages (man)."""

import re
from pathlib import Path

# Read as text, as hatchling does it, and not imported: a build has only what builds, and not what virtomate imports.
_package = Path(__file__).parents[1] / "virtomate" / "__init__.py"
_versions = re.findall(r'^__version__ = "(.+)"$', _package.read_text(encoding="utf-8"), re.MULTILINE)

project = "virtomate"
project_copyright = "the virtomate authors"
(version,) = _versions
release = version

exclude_patterns = ["_build"]
highlight_language = "none"
nitpicky = True

html_theme = "furo"
html_title = f"virtomate {version}"

# document, name of the manual page, its description, authors, section
man_pages = [
    ("commands/virtomate", "virtomate", "clone libvirt domains, and look after the clones", [], 1),
    ("commands/virtomate-completion", "virtomate-completion", "print the completion script for a shell", [], 1),
    ("commands/virtomate-domain-clone", "virtomate-domain-clone", "clone a domain", [], 1),
    ("commands/virtomate-domain-delete", "virtomate-domain-delete", "delete clones and what was made for them", [], 1),
    (
        "commands/virtomate-domain-flatten",
        "virtomate-domain-flatten",
        "make linked clones independent of their bases",
        [],
        1,
    ),
    (
        "commands/virtomate-domain-iface-list",
        "virtomate-domain-iface-list",
        "list a domain's network interfaces and addresses",
        [],
        1,
    ),
    ("commands/virtomate-domain-list", "virtomate-domain-list", "list domains, and say which are clones", [], 1),
    (
        "commands/virtomate-domain-rebase",
        "virtomate-domain-rebase",
        "give a linked clone another base with the same content",
        [],
        1,
    ),
    ("commands/virtomate-domain-reset", "virtomate-domain-reset", "reset linked clones to their first moment", [], 1),
    ("commands/virtomate-domain-template", "virtomate-domain-template", "make a domain one that is only cloned", [], 1),
    ("commands/virtomate-domain-verify", "virtomate-domain-verify", "tell whether linked clones are intact", [], 1),
    ("commands/virtomate-guest-ping", "virtomate-guest-ping", "see whether a guest's agent answers", [], 1),
    ("commands/virtomate-guest-run", "virtomate-guest-run", "run a program in a guest", [], 1),
    ("commands/virtomate-pool-list", "virtomate-pool-list", "list storage pools", [], 1),
    ("commands/virtomate-volume-import", "virtomate-volume-import", "import a local file as a volume", [], 1),
    ("commands/virtomate-volume-list", "virtomate-volume-list", "list the volumes of a storage pool", [], 1),
]
