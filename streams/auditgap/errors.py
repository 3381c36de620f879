"""Every error auditgap raises on purpose, one tree.

AuditgapError
├── UsageError            wrong use or wrong settings; exit status 2
└── FailureError          the work cannot be done now; exit status 1
    ├── BrokerError       Kafka, the registry, Kafka Connect or the embedded broker said no
    └── WorkerStop        the worker must not go on; nothing was committed past the last transaction
        └── InputChanged  the input topic is not the one the position and state belong to

The message of each is one line for a person and says what to do. Callers decide by class, never by text. A record
that cannot be used is no error but a value: core.inputs.Rejection, with its reason.
"""


class AuditgapError(Exception):
    """Root of the tree: everything below is shown as one line, without a traceback."""

    exit_status: int = 1


class UsageError(AuditgapError):
    """Wrong use or wrong settings; exit status 2."""

    exit_status = 2


class FailureError(AuditgapError):
    """The work cannot be done now; exit status 1."""


class BrokerError(FailureError):
    """Kafka, the registry, Kafka Connect or the embedded broker said no."""


class WorkerStop(FailureError):  # noqa: N818 - it names what happens
    """The worker must not go on; nothing was committed past the last transaction."""


class InputChanged(WorkerStop):
    """The input topic is not the one the position and state belong to."""
