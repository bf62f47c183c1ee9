"""Clones that are kept, and started if that was asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.output.records import CLONED, UNCHANGED
from virtomate.enums import IfExists, Status
from virtomate.errors import NotFoundError
from virtomate.services import clone
from virtomate.services.clone_records import CloneRequest
from virtomate.services.existing import ExistingClones

if TYPE_CHECKING:
    import pytest


def test_kept_clone_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept clone that somebody deletes while others are made has the error, and the others are told."""
    made = CLONED._replace(name="web-2")
    gone = NotFoundError("there is no domain 'web-1'")

    def find_domain(*_words: object) -> None:
        raise gone

    monkeypatch.setattr("virtomate.services.existing.run.find_kept", lambda *_words: {"web-1": UNCHANGED})
    monkeypatch.setattr("virtomate.services.existing.run.find_domain", find_domain)
    monkeypatch.setattr(clone, "clone_each", lambda *_words: (made,))
    run: Any = SimpleNamespace(target=SimpleNamespace(connection=None), cancel=None)
    request = CloneRequest("ubuntu", ("web-1", "web-2"), if_exists=IfExists.KEEP, start=True)

    results = ExistingClones(lambda _warnings: None).clone_each(run, (request,))

    assert results == (UNCHANGED._replace(error=gone), made)
    assert results[0].status is Status.UNCHANGED
