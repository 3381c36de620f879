"""Puts the real adapters together. Nothing else chooses one."""

from auditgap import clock
from auditgap.adapters.avro import SchemaIds
from auditgap.adapters.job import Job
from auditgap.config import Settings
from auditgap.metrics import Metrics


def job(settings: Settings, metrics: Metrics) -> Job:
    """Make the worker's job. Raises BrokerError where the registry does not answer."""
    return Job(settings, schema_ids(settings), metrics, clock.now)


def schema_ids(settings: Settings) -> SchemaIds:
    """Take the schema ids from the registry that is set, else from the bundled table. Raises BrokerError."""
    if settings.registry.url is None:
        return SchemaIds.bundled()
    from auditgap.adapters.registry import schema_ids as from_registry  # its client costs 16 MB

    return from_registry(settings.registry, settings.topics)
