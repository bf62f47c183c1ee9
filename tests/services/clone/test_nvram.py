"""Where the NVRAM of a clone goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from virtomate.errors import ConnectionLostError, HypervisorError
from virtomate.services.clone import nvram


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (HypervisorError("no"), "Name a place for the clone's NVRAM: --nvram PATH."),
        # a place does not bring it back
        (ConnectionLostError("the connection was lost"), None),
    ],
)
def test_place_that_libvirt_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, error: HypervisorError, hint: str | None
) -> None:
    """The option that names the place is offered where it helps."""

    def fail(*_: object) -> str:
        raise error

    monkeypatch.setattr(nvram, "own_nvram_path", fail)
    survey = SimpleNamespace(
        target=SimpleNamespace(connection=None),
        source=SimpleNamespace(definition=SimpleNamespace(domain={})),
        request=SimpleNamespace(nvram=None),
        crossing=SimpleNamespace(domain={}),
    )

    with pytest.raises(type(error)) as caught:
        nvram._model(cast("Any", survey), "/nvram/web_VARS.fd")

    assert (type(caught.value), caught.value.hint) == (type(error), hint)
