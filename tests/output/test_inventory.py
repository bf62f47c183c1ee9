"""The inventory for Ansible: groups, variables, and names that Ansible would misread."""

import json
import re

import pytest

from tests.output.records import LISTING, SOURCE, UUID
from virtomate.definition.provenance import DomainReference
from virtomate.enums import Mode
from virtomate.output.inventory import inventory_document, render_inventory
from virtomate.output.streams import Format
from virtomate.services.inventory import InventoryHost
from virtomate.services.listings import CloneOrigin
from virtomate.words import Reach

REACH = Reach()
OTHER = "11111111-2222-4333-8444-555555555555"


def clone_of(original: str, name: str, uuid: str = SOURCE.uuid) -> InventoryHost:
    """Return a running clone of an original."""
    origin = CloneOrigin(True, DomainReference(original, uuid), Mode.LINKED, 1767225600.9)
    return InventoryHost(LISTING._replace(name=name, state="running", clone=origin), "192.0.2.7", ("192.0.2.7",))


def test_groups_and_variables() -> None:
    """Every domain is in a group, and its variables say what it is; without an address Ansible is told none."""
    plain = InventoryHost(LISTING._replace(name="db 1", state="paused", clone=None), None)

    document = inventory_document([clone_of("ubuntu-24.04", "web-1"), plain], REACH)

    assert document.pop("_meta") == {
        "hostvars": {
            "web-1": {
                "ansible_host": "192.0.2.7",
                "virtomate_addresses": ["192.0.2.7"],
                "virtomate_created": "2026-01-01T00:00:00+00:00",
                "virtomate_mode": "linked",
                "virtomate_original": "ubuntu-24.04",
                "virtomate_original_uuid": SOURCE.uuid,
                "virtomate_state": "running",
                "virtomate_uuid": UUID,
            },
            "db 1": {"virtomate_addresses": [], "virtomate_state": "paused", "virtomate_uuid": UUID},
        }
    }
    assert document == {
        "all": {"children": ["clones", "clones_of_ubuntu_24_04", "domains"]},
        "domains": {"hosts": ["web-1", "db 1"]},
        "clones": {"hosts": ["web-1"]},
        "clones_of_ubuntu_24_04": {"hosts": ["web-1"]},
    }


def test_no_domains() -> None:
    """Where nothing runs, the inventory is empty, and still one."""
    assert inventory_document([], REACH) == {"_meta": {"hostvars": {}}, "all": {"children": []}}


@pytest.mark.parametrize("original", ["ü ber/1", "a:b", "1", "", "debian-13", "a\nb"])
def test_names_of_groups_are_valid(original: str) -> None:
    """A group has no signs that Ansible replaces or refuses, whatever the original is called."""
    document = inventory_document([clone_of(original, "web")], REACH)

    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in document["all"]["children"])


def test_groups_of_two_originals_stay_apart() -> None:
    """Originals whose groups would have one name have groups of their own."""
    document = inventory_document([clone_of("a-1", "x"), clone_of("a_1", "y", OTHER)], REACH)

    assert document["clones_of_a_1_0a1b2c3d"] == {"hosts": ["x"]}
    assert document["clones_of_a_1_11111111"] == {"hosts": ["y"]}
    assert "clones_of_a_1" not in document


@pytest.mark.parametrize("sign", ["{{ 7*7 }}", "{% raw %}", "{# x #}"])
def test_templates_are_left_out(capsys: pytest.CaptureFixture[str], sign: str) -> None:
    """Ansible would evaluate such names, which another person may have given, on the machine that it runs on."""
    render_inventory([clone_of(sign, "web-1"), clone_of("x", sign), clone_of("x", "web-2")], Format())

    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["_meta"]["hostvars"]) == ["web-2"]
    assert captured.err.splitlines() == [
        f"Warning: '{name}' is left out, since Ansible would evaluate its name or its original's"
        for name in ("web-1", sign)
    ]
