"""What pytest has to know about the functional tests."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the long sweeps, which `nox -s stress` runs."""
    config.addinivalue_line("markers", "stress: a long sweep, of which the other tests are samples")
