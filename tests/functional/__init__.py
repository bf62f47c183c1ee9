"""Tests of the whole program against the lab's real hypervisor."""

import pytest

# Its assertions are the tests' own, and should say as much when they fail.
pytest.register_assert_rewrite("tests.functional.support")
