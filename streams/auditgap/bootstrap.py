"""Puts the real adapters together. Nothing else chooses one."""

from auditgap import clock
from auditgap.adapters.avro import SchemaIds
from auditgap.adapters.job import Job
from auditgap.adapters.signing import Signer, Verifier
from auditgap.config import Settings
from auditgap.metrics import Metrics


def job(settings: Settings, metrics: Metrics) -> Job:
    """Make the worker's job. Raises BrokerError where the registry does not answer, UsageError for a wrong key file."""
    return Job(settings, schema_ids(settings), metrics, clock.now, Verifier.of(settings.signing))


def signer(settings: Settings) -> Signer | None:
    """Make what signs with the key that is set, None where none is. Raises UsageError for a wrong key file."""
    path = settings.signing.key_file
    return None if path is None else Signer.from_file(path)


def schema_ids(settings: Settings) -> SchemaIds:
    """Take the schema ids from the registry that is set, else from the bundled table. Raises BrokerError."""
    if settings.registry.url is None:
        return SchemaIds.bundled()
    from auditgap.adapters.registry import schema_ids as from_registry  # its client costs 16 MB

    return from_registry(settings.registry, settings.topics)
