"""Puts the real adapters together. Nothing else chooses one."""

from auditgap import clock
from auditgap.adapters.job import Job
from auditgap.adapters.registry import schema_ids
from auditgap.config import Settings
from auditgap.metrics import Metrics


def job(settings: Settings, metrics: Metrics) -> Job:
    """Make the worker's job. Raises BrokerError where the registry does not answer."""
    return Job(settings, schema_ids(settings), metrics, clock.now)
