"""Fixtures of the tests that run workers on a real broker; `kafka`, the broker's address, is tests/conftest.py's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.site import Site
from tests.support.workers import Workers


@pytest.fixture
def site(kafka: str) -> Iterator[Site]:
    """Topics and a group of the test's own."""
    made = Site(kafka)
    yield made
    made.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Starts workers, and kills what is left of them."""
    made = Workers(tmp_path)
    yield made
    made.kill_all()
