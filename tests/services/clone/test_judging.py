"""The judgement of libvirt on another host, which must not cost a domain there its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest

from virtomate.definition.codec import Definition
from virtomate.services.clone import run as cloning

if TYPE_CHECKING:
    from virtomate.services.clone.clone_plan import ClonePlan
    from virtomate.services.clone.planner import ClonePlanner
    from virtomate.services.transaction import Run


PROBE = "web.virtomate-check"


class Known(NamedTuple):
    """A domain on the other host."""

    name: str
    uuid: str


class Things(dict[str, Any]):
    """Anything with attributes."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ((), None),
        ((Known(PROBE, "1"),), None),
        ((Known(PROBE, "1"), Known("mail", "2")), (PROBE, "2")),
        ((Known("web", "1"),), (PROBE, "1")),
    ],
)
def test_no_domain_there_is_replaced(
    monkeypatch: pytest.MonkeyPatch, known: tuple[Known, ...], asked: tuple[str, str] | None
) -> None:
    """Name and UUID of one domain would be a definition of that domain; somebody may have taken the name just now."""
    probes: list[tuple[str, str]] = []

    def judged(_connection: object, _name: str, probe: Definition, _original: object) -> None:
        probes.append((probe.domain["name"], probe.domain["uuid"]))

    monkeypatch.setattr(cloning, "list_domains", lambda _connection: list(known))
    monkeypatch.setattr(cloning, "require_acceptable", judged)
    source = Things(reference=Known("original", "0"), definition=None)
    definition = Definition({"name": "web", "uuid": "9", "devices": {}}, None)
    plan = Things(name="web", source=source, hosts=Things(uri="there"), definition=definition)
    planner, run = Things(other_domain="mail"), Things(target=Things(connection=None))

    cloning.judge(cast("Run", run), cast("ClonePlanner", planner), cast("ClonePlan", plan))

    assert probes == ([] if asked is None else [asked])
