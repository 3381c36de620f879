"""Every error auditgap raises on purpose, one tree.

AuditgapError
├── UsageError            wrong use or wrong settings; exit status 2
├── FailureError          the work cannot be done now; exit status 1
│   ├── BrokerError       Kafka, the registry or the embedded broker said no
│   └── WorkerStop        the worker must not go on; nothing was committed past the last transaction
│       └── InputChanged  the input topic is not the one the position and state belong to
└── InvalidRecord         one input record cannot be used; it goes to the dead letters with its reason

The message of each is one line for a person and says what to do. Callers decide by class, never by text.
"""

from typing import Final


class AuditgapError(Exception):
    """Root of the tree: everything below is shown as one line, without a traceback."""

    exit_status: int = 1


class UsageError(AuditgapError):
    """Wrong use or wrong settings; exit status 2."""

    exit_status = 2


class FailureError(AuditgapError):
    """The work cannot be done now; exit status 1."""


class BrokerError(FailureError):
    """Kafka, the registry or the embedded broker said no."""


class WorkerStop(FailureError):  # noqa: N818 - it names what happens
    """The worker must not go on; nothing was committed past the last transaction."""


class InputChanged(WorkerStop):
    """The input topic is not the one the position and state belong to."""


class InvalidRecord(AuditgapError):  # noqa: N818 - the record is the error
    """One input record cannot be used; it goes to the dead letters with its reason.

    `reason` is one of `REASONS`, a fixed word for metrics and headers; `detail` is a sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is no reason of the table")
        self.reason = reason
        self.detail = detail


REASONS: Final = {
    "empty_value": "the record has no value (a tombstone or zero bytes)",
    "bad_magic": "the value does not begin with the wire format's zero byte",
    "unknown_schema_id": "the schema id in the value is known neither to the bundled table nor to the registry",
    "truncated": "the value is shorter than its schema says, or not Avro at all",
    "trailing_bytes": "the value is longer than its schema says",
    "unreadable": "a field has a value that cannot be understood",
    "time_in_future": "its time lies more than the allowed skew after the broker's append time",
    "time_implausible": "its time lies before the feed can have existed",
    "settings_unreadable": "a settings event whose flags or time cannot be understood",
    "quarantined": "the worker died on this record twice",
}
"""Why a record goes to the dead letters: the word in the header and what it means."""
