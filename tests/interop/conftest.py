"""Fixtures of the tests of interoperation."""

import pytest


@pytest.fixture
def torch():
    return pytest.importorskip("torch")
