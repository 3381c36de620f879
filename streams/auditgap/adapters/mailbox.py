"""The mailbox: what partitions tell each other, and ticks. A record is JSON; the key is whom it is for.

A tick is a message that the worker writes to each of its own partitions. What it says is when the broker appended it,
and where the other topics ended when it was written: it counts once these positions are reached.
"""

import json
from collections.abc import Mapping
from typing import Final

from auditgap.core.inputs import Rejection, shown
from auditgap.core.intake import Mail

FORMAT: Final = 1
"""Version of the records."""

TICK: Final = "tick"

_compact = json.JSONEncoder(separators=(",", ":")).encode


def key_bytes(mail: Mail) -> bytes | None:
    """Write the key of a message; a tick has none."""
    return None if mail.kind == TICK else mail.key.encode("utf-8", "surrogatepass")


def encode(mail: Mail) -> bytes:
    """Write a message."""
    return _compact({"format": FORMAT, "kind": mail.kind, "body": mail.body}).encode()


def tick(positions: Mapping[str, int]) -> Mail:
    """Make a tick out of where the topics end, by topic."""
    return Mail("", TICK, {"positions": dict(positions)})


def decode(key: bytes | None, value: bytes | None) -> Mail | Rejection:
    """Read a message. Raises ValueError for one that a newer version wrote."""
    if not value:
        return Rejection("empty_value", "the record has no value")
    try:
        shape = json.loads(value)
    except (ValueError, RecursionError):
        shape = None
    if not isinstance(shape, dict):
        return Rejection("not_json", "not a JSON object")
    written, kind, body = (shape.get(name) for name in ("format", "kind", "body"))
    if not isinstance(written, int) or not isinstance(kind, str) or not isinstance(body, dict):
        return Rejection("unreadable", "a message needs format, kind and body")
    if written > FORMAT:
        raise ValueError(f"mail of format {written} was written by a newer version")
    if kind == TICK:
        positions = body.get("positions")
        if not isinstance(positions, dict) or not all(type(each) is int for each in positions.values()):
            return Rejection("unreadable", f"a tick needs positions: {shown(positions)}")
        return Mail("", kind, body)
    if not key:
        return Rejection("unreadable", "a message needs a key: whom it is for")
    return Mail(key.decode("utf-8", "surrogatepass"), kind, body)


def named_in(value: bytes | None) -> Mapping[str, int]:
    """Give the positions that a record waits for, by topic: those of a tick."""
    try:
        mail = decode(b"-", value)
    except ValueError:  # it is read, and refused, when its turn comes
        return {}
    if isinstance(mail, Rejection) or mail.kind != TICK:
        return {}
    positions: dict[str, int] = mail.body["positions"]
    return positions
