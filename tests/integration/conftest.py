"""Workers, topics and a schema registry for these tests."""

from tests.support.fixtures import site, workers
from tests.support.registry import registry

__all__ = ["registry", "site", "workers"]
