"""Workers and topics for these tests."""

from tests.support.fixtures import site, workers

__all__ = ["site", "workers"]
