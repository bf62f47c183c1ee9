"""Which part of virtomate may import which, and which commands load what."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import virtomate

PACKAGE = Path(virtomate.__file__).parent
SHARED = {"cancel", "enums", "errors", "names", "notices", "paths", "progress", "rollback", "tuples", "words"}

# What each part may import of ours; `virtomate` stands for the package itself, which holds the version.
ALLOWED: dict[str, set[str]] = {
    "virtomate": set(),
    "__main__": {"cli"},
    "cli": {"cli", "output", "services", "virtomate"} | SHARED,
    "output": {"output"} | SHARED,
    "services": {"services", "duplication", "definition", "hypervisor"} | SHARED,
    "duplication": {"duplication", "definition", "hypervisor"} | SHARED,
    "definition": {"definition"} | SHARED,
    "hypervisor": {"hypervisor"} | SHARED,
    **dict.fromkeys(SHARED, SHARED),
}
# What a single module may import besides: whoever opens connections has to name what they are kept in.
EXEMPT = {("virtomate.cli.app", "hypervisor")}
# What a part may import besides for types alone: output renders the records of those below it, and loads none of them.
TYPES_ONLY: dict[str, set[str]] = {"output": {"services", "definition", "hypervisor"}}
# Inside services, from the bottom up: what each may import of the others.
SERVICES: dict[str, set[str]] = {
    "definitions": set(),
    "firmware": set(),
    "origins": set(),
    "selection": set(),
    "trust": set(),
    "seed": set(),
    "sysprep": set(),
    "credentials": set(),
    "host_entries": set(),
    "address_wish": set(),
    "other_host": set(),
    "storage": {"definitions"},
    "quiesce": {"storage"},
    "transaction": {"definitions", "storage", "quiesce"},
    "guest": set(),
    "linked": {
        *("definitions", "firmware", "origins", "selection", "trust"),
        *("storage", "transaction", "guest", "quiesce"),
    },
    "restart": {"storage", "transaction"},
    "clone_parts": set(),
    "clone_records": {"clone_parts", "storage", "seed", "sysprep", "credentials", "address_wish", "other_host"},
    "same_machines": {"guest", "clone_records"},
    "clone_start": {"guest", "clone_records", "linked", "origins", "same_machines"},
    "clone": {
        *("definitions", "firmware", "trust", "storage", "transaction", "linked", "quiesce", "restart"),
        *(
            "clone_parts",
            "clone_records",
            "clone_start",
            "seed",
            "sysprep",
            "credentials",
            "host_entries",
            "address_wish",
            "other_host",
        ),
    },
    "delete": {"firmware", "origins", "selection", "storage", "linked", "restart", "quiesce", "host_entries"},
    "existing": {
        *(
            "clone",
            "clone_parts",
            "clone_records",
            "clone_start",
            "delete",
            "host_entries",
            "linked",
            "origins",
            "storage",
            "transaction",
        ),
    },
    "volume_import": {"trust", "storage", "transaction"},
    "listings": {"guest", "linked", "origins"},
    "inventory": {"listings"},
    "domain_tree": {"listings", "storage"},
    "pool_listings": {"storage"},
    "completion": set(),
}
# The one part that may import each thing of others.
OWNERS = {
    "click": "cli",
    "rich": "output",
    "libvirt": "hypervisor",
    "libvirt_qemu": "hypervisor",
    "libvirtmod": "hypervisor",
    "xmltodict": "definition",
    "pycdlib": "services",
}
FORBIDDEN = {"importlib"}


def imported_modules(source: str, module: str) -> set[str]:
    """Every module that a source text imports, wherever the import stands, for a type or to run.

    Args:
        source: Text of the module.
        module: Its dotted name; that of a package ends in `.__init__`.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Name) and node.id == "__import__":
            found.add("importlib")
    return found


def imported_for_types(source: str, module: str) -> set[str]:
    """Every module that a source text imports under `if TYPE_CHECKING:` and nowhere else."""
    tree = ast.parse(source)
    guarded = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for_types = imported_modules("\n".join(ast.unparse(part) for node in guarded for part in node.body), module)
    for node in guarded:
        node.body = [ast.Pass()]
    return for_types - imported_modules(ast.unparse(tree), module)


def part_of(module: str) -> str:
    """The part of virtomate that a module of ours belongs to; a name that is no module is the package's own."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] in ALLOWED else "virtomate"


def service_of(module: str) -> str | None:
    """The part of services that a module belongs to, None for any other module."""
    names = module.split(".")
    return names[2] if names[1:2] == ["services"] and len(names) > 2 and names[2] in SERVICES else None


def _is_below(name: str, module: str) -> bool:
    """Whether a part of services may import what it imports of services."""
    mine, other = service_of(module), service_of(name)
    return mine is None or other is None or other == mine or other in SERVICES[mine]


def violations(source: str, module: str) -> list[str]:
    """What a source text imports although its part may not."""
    part = part_of(module)
    for_types = imported_for_types(source, module)
    wrong = []
    for name in sorted(imported_modules(source, module)):
        top = name.partition(".")[0]
        if top == "virtomate":
            is_allowed = part_of(name) in ALLOWED[part] or (module, part_of(name)) in EXEMPT
            is_allowed = is_allowed or (name in for_types and part_of(name) in TYPES_ONLY.get(part, ()))
            is_allowed = is_allowed and _is_below(name, module)
        elif top in sys.stdlib_module_names:
            is_allowed = top not in FORBIDDEN
        else:
            is_allowed = OWNERS.get(top) == part
        if not is_allowed:
            wrong.append(f"{module} imports {name}")
    return wrong


@functools.cache
def _modules() -> dict[str, Path]:
    return {
        ".".join(("virtomate", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def past_doors(source: str, module: str) -> list[str]:
    """Return what a source text imports of packages of services, past their `__init__`, from outside of them."""
    wrong = []
    for name in sorted(imported_modules(source, module)):
        target = name if name in _modules() or f"{name}.__init__" in _modules() else name.rpartition(".")[0]
        package = target.rpartition(".")[0]
        is_inside = f"{module}.".startswith(f"{package}.")
        is_door = f"{target}.__init__" in _modules() or package == "virtomate.services"
        if package.startswith("virtomate.services") and not (is_inside or is_door):
            wrong.append(f"{module} imports {target}")
    return wrong


@pytest.mark.parametrize("module", _modules())
def test_packages_of_services_are_reached_by_their_door(module: str) -> None:
    """From outside, a package of services is imported itself, and none of its modules."""
    assert past_doors(_modules()[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("virtomate.services.delete.run", "from virtomate.services.storage.pools import PoolIndex", 1),
        ("virtomate.services.storage.space", "from virtomate.services.storage.references.graph import References", 1),
        ("virtomate.cli.domain", "def f():\n    from virtomate.services.delete import run", 1),
        ("virtomate.output.json", "if TYPE_CHECKING:\n    from virtomate.services.delete.records import X", 1),
        ("virtomate.services.delete.run", "from virtomate.services.storage import PoolIndex", 0),
        ("virtomate.services.delete.run", "from virtomate.services.storage.references import References", 0),
        (
            "virtomate.services.storage.references.graph",
            "from virtomate.services.storage.pools import PoolIndex",
            0,
        ),
        ("virtomate.services.delete.run", "from virtomate.services.delete.plan import plan_deletion", 0),
        ("virtomate.cli.domain", "from virtomate.services.listings import list_all_domains", 0),
    ],
)
def test_checker_sees_who_comes_past_a_door(module: str, source: str, count: int) -> None:
    """An import of a module is found wherever it stands, and that of a package passes."""
    assert len(past_doors(source, module)) == count


@pytest.mark.parametrize("module", _modules())
def test_module_imports_only_what_its_part_may(module: str) -> None:
    """A part imports the shared modules and the parts below it; click, rich, libvirt and xmltodict have one owner."""
    assert violations(_modules()[module].read_text(encoding="utf-8"), module) == []


def test_every_part_has_a_rule() -> None:
    """A new folder or module of the package needs a rule here before it can import anything."""
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}

    assert parts - {"__init__"} == ALLOWED.keys() - {"virtomate"}


def test_every_part_of_services_has_a_rule() -> None:
    """Likewise for a new part of services."""
    parts = {path.stem for path in (PACKAGE / "services").iterdir() if path.suffix == ".py" or path.is_dir()}

    assert parts - {"__init__", "__pycache__"} == SERVICES.keys()


def test_no_modules_import_each_other() -> None:
    """Nowhere is there a circle, not even of imports for types alone."""
    needs = {
        module.removesuffix(".__init__"): {
            name if name in _modules() else name.rpartition(".")[0]
            for name in imported_modules(path.read_text(encoding="utf-8"), module)
            if name.startswith("virtomate.")
        }
        for module, path in _modules().items()
    }
    while free := {name for name, others in needs.items() if not others & needs.keys()}:
        needs = {name: others - free for name, others in needs.items() if name not in free}

    assert sorted(needs) == []


def test_shared_modules_import_each_other_in_one_direction() -> None:
    """No two shared modules need each other when they run, or one could not be loaded first."""
    needs: dict[str, set[str]] = {}
    for name in SHARED:
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        runtime = "\n".join(ast.unparse(node) for node in tree.body if not isinstance(node, ast.If))
        needs[name] = {part_of(module) for module in imported_modules(runtime, f"virtomate.{name}")} & SHARED
    while free := {name for name, others in needs.items() if not others}:
        needs = {name: others - free for name, others in needs.items() if name not in free}

    assert needs == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("virtomate.definition.readers", "from virtomate.hypervisor import domains"),
        ("virtomate.hypervisor.domains", "import virtomate.definition.codec"),
        ("virtomate.services.clone.plan", "import rich"),
        ("virtomate.services.clone.plan", "from rich.console import Console"),
        ("virtomate.services.clone.plan", "import libvirt"),
        ("virtomate.services.clone.plan", "import libvirt_qemu"),
        ("virtomate.services.clone.plan", "from virtomate.output import text"),
        ("virtomate.services.clone.plan", "from virtomate import cli"),
        ("virtomate.services.clone.plan", "from ...cli import root"),
        ("virtomate.services.__init__", "from ..cli import root"),
        ("virtomate.services.clone.plan", "import click"),
        ("virtomate.output.render", "from virtomate.services.clone.run import clone_domains"),
        ("virtomate.output.render", "from virtomate import services"),
        (
            "virtomate.output.render",
            "from virtomate.services import listings\nif TYPE_CHECKING:\n    from virtomate.services import listings",
        ),
        ("virtomate.output.render", "if TYPE_CHECKING:\n    from virtomate.cli.root import main"),
        ("virtomate.definition.codec", "if TYPE_CHECKING:\n    from virtomate.services.listings import DomainListing"),
        ("virtomate.cli.domain", "from virtomate.hypervisor.connection import connect"),
        ("virtomate.cli.domain", "from virtomate.definition import codec"),
        ("virtomate.cli.domain", "from rich import print"),
        ("virtomate.duplication.select", "from virtomate.services import plan"),
        ("virtomate.duplication.select", "import xmltodict"),
        ("virtomate.services.storage.pools", "from virtomate.services.clone import plan"),
        ("virtomate.services.delete.plan", "from virtomate.services.clone.plan import ClonePlan"),
        ("virtomate.services.transaction.claim", "from virtomate.services import clone"),
        ("virtomate.errors", "from virtomate.output import text"),
        ("virtomate.errors", "from virtomate import __version__"),
        ("virtomate.definition.codec", "def f():\n    import libvirt"),
        ("virtomate.definition.codec", "if TYPE_CHECKING:\n    from virtomate.hypervisor.domains import Domain"),
        ("virtomate.definition.codec", "try:\n    import lxml.etree\nexcept ImportError:\n    pass"),
        ("virtomate.definition.codec", "import importlib\nimportlib.import_module('libvirt')"),
        ("virtomate.definition.codec", "__import__('libvirt')"),
    ],
)
def test_checker_sees_a_broken_rule(module: str, source: str) -> None:
    """Each way of breaking a rule is found, within functions and in blocks for type checkers too."""
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("virtomate.cli.root", "import click\nfrom virtomate import __version__"),
        ("virtomate.cli.root", "from virtomate.services.clone.run import clone_domains"),
        ("virtomate.services.clone.plan", "from . import pools\nfrom ..definition.codec import parse"),
        ("virtomate.services.__init__", "from .pools import read_pools"),
        ("virtomate.output.bars", "def f():\n    import rich.progress"),
        ("virtomate.output.render", "if TYPE_CHECKING:\n    from virtomate.services.listings import DomainListing"),
        ("virtomate.progress", "from virtomate.errors import VirtomateError\nimport dataclasses"),
    ],
)
def test_checker_lets_allowed_imports_pass(module: str, source: str) -> None:
    """What the rules allow is no violation."""
    assert violations(source, module) == []


_PROBE = """
import json, sys
before = set(sys.modules)
from virtomate.cli import run
status = run(sys.argv[1:])
heavy = sorted(
    {"ctypes", "dataclasses", "libvirt", "libvirtmod", "pathlib", "rich", "virtomate.services", "xmltodict"}
    & (sys.modules.keys() - before)
)
services = sorted(name for name in sys.modules if name.count(".") == 2 and name.startswith("virtomate.services."))
print(json.dumps({"status": status, "heavy": heavy, "services": services}), file=sys.stderr)
"""


def _probe(*arguments: str) -> dict[str, object]:
    run = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    report: dict[str, object] = json.loads(run.stderr.splitlines()[-1])
    return report


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("domain-clone", "-h"),
        ("domain", "clone", "--help"),
        ("domain-list", "--version"),
        ("pool-list", "-h"),
        ("volume-import", "-h"),
        ("volume-list", "-h"),
    ],
)
def test_help_and_version_load_nothing_heavy(arguments: tuple[str, ...]) -> None:
    """Help and version need neither libvirt nor rich nor xmltodict nor our services, and do not pay for them."""
    assert _probe(*arguments) == {"status": 0, "heavy": [], "services": []}


def _heavy_imports(line: str) -> list[str]:
    """What is loaded in order to complete a line in bash, by whatever process of ours."""
    environment = os.environ | {"_VIRTOMATE_COMPLETE": "bash_complete", "PYTHONPROFILEIMPORTTIME": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "virtomate", line], env=environment, capture_output=True, text=True, check=True
    )
    loaded = {report.rpartition("|")[2].strip() for report in run.stderr.splitlines()}
    assert "virtomate.cli.shells" in loaded
    return sorted({"libvirt", "rich", "xmltodict"} & loaded)


@pytest.mark.parametrize(
    "line",
    [
        *("virtomate dom", "virtomate domain ", "virtomate domain-clone --", "virtomate -c "),
        "virtomate domain-clone --disk vda=linked --wait ip,5 --mode ",
    ],
)
def test_completing_commands_and_options_loads_nothing_heavy(line: str) -> None:
    """A shell that completes a command, an option or its value waits for neither libvirt nor rich nor xmltodict."""
    assert _heavy_imports(line) == []


def test_completing_a_name_loads_libvirt_alone(tmp_path: Path) -> None:
    """A shell that completes the name of a domain waits for libvirt, and for nothing else."""
    assert _heavy_imports(f"virtomate -c test://{tmp_path}/missing.xml domain-clone ") == ["libvirt"]


@pytest.mark.parametrize(
    ("command", "has_documents", "services"),
    [
        (("domain-list",), False, ["listings", "origins"]),
        (("guest-ping", "a"), True, ["guest"]),
        (
            ("domain-clone", "a", "b"),
            True,
            [
                *("clone", "clone_parts", "clone_records", "definitions", "firmware", "restart", "storage"),
                "transaction",
                "trust",
            ],
        ),
    ],
)
def test_commands_load_what_they_need(
    command: tuple[str, ...], *, has_documents: bool, services: list[str], tmp_path: Path
) -> None:
    """A command loads only its own services, documents only where it reads them, and rich only at a terminal."""
    heavy = ["libvirt", "libvirtmod", "virtomate.services", *(["xmltodict"] if has_documents else [])]
    loaded = [f"virtomate.services.{name}" for name in services]

    report = _probe("-c", f"test://{tmp_path}/missing.xml", *command)

    assert report == {"status": 1, "heavy": heavy, "services": loaded}
