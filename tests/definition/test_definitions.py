"""The written definitions use every device there is, and go through the codec and the rules."""

from __future__ import annotations

import copy
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.definition.trees import canonical
from tests.definition.written import DEFINITIONS
from virtomate.definition import codec, readers
from virtomate.definition import rewrite as clone

SCHEMAS = Path("/usr/share/libvirt/schemas")
RNG = "{http://relaxng.org/ns/structure/1.0}"


def schema_defines() -> dict[str, list[ET.Element]]:
    """Every named part of the schemas that the domain's includes; a later one may add to an earlier one."""
    defines: dict[str, list[ET.Element]] = {}
    for name in ("domaincommon", "basictypes", "storagecommon", "networkcommon", "cputypes"):
        for define in ET.parse(SCHEMAS / f"{name}.rng").getroot().iter(f"{RNG}define"):
            defines.setdefault(define.attrib["name"], []).append(define)
    return defines


def elements_below(part: ET.Element, defines: dict[str, list[ET.Element]], *, deep: bool) -> set[str]:
    """The names of elements in a part of the schema: its children, or with `deep` all descendants."""
    found: set[str] = set()
    seen: set[str] = set()
    rest = list(part)
    while rest:
        node = rest.pop()
        if node.tag == f"{RNG}element":
            found |= {node.attrib["name"]} if "name" in node.attrib else set()
            rest += node if deep else []
        elif node.tag == f"{RNG}ref" and node.attrib["name"] not in seen:
            seen.add(node.attrib["name"])
            rest += [child for define in defines.get(node.attrib["name"], []) for child in define]
        elif node.tag != f"{RNG}ref":
            rest += node
    return found


@pytest.mark.parametrize("deep", [False, True], ids=["devices", "whatever is in them"])
def test_the_definitions_use_all_there_is(deep: bool) -> None:
    """Every element that libvirt's schema knows below <devices> stands in one of the definitions."""
    if not SCHEMAS.is_dir():
        pytest.skip("needs libvirt's schemas")
    defines = schema_defines()
    (devices,) = (
        element
        for define in defines["devices"]
        for element in define.iter(f"{RNG}element")
        if element.get("name") == "devices"
    )

    used: set[str] = set()
    for text in DEFINITIONS.values():
        for parent in ET.fromstring(text).findall("devices"):
            used |= {element.tag for element in (parent.iter() if deep else parent)}

    assert elements_below(devices, defines, deep=deep) - used == set()


def test_there_are_enough() -> None:
    """Forty definitions are the least that says something."""
    assert len(DEFINITIONS) >= 40


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_round_trip_loses_nothing(name: str) -> None:
    """A definition that is read and written means what it meant, and reading it again gives the same."""
    text = DEFINITIONS[name]
    definition = codec.parse_definition(text)

    written = codec.unparse_definition(definition)

    assert canonical(written) == canonical(text)
    assert codec.parse_definition(written) == definition


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_every_rule_copes(name: str) -> None:
    """The rules take any definition as it is, leave the original's alone, and find nothing to do the second time."""
    domain = codec.parse_definition(DEFINITIONS[name]).domain
    untouched = copy.deepcopy(domain)
    identity = clone.Identity("clone", "uuid", dict(enumerate(readers.mac_addresses(domain))))

    once = clone.clone_domain_definition(clone.auto_allocated(domain), identity, {}, None)
    twice = clone.clone_domain_definition(clone.auto_allocated(once.domain), identity, {}, None)

    assert domain == untouched
    assert twice.domain == once.domain
    assert twice.warnings == once.warnings
