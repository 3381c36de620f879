"""Avro in the Confluent wire format: a zero byte, the schema id as big-endian uint32, the body.

Schema ids come from a table (`SchemaIds`): the bundled one, or a registry's. The bytes are the same either way.
"""

import io
import json
import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException

from auditgap import resources
from auditgap.core import times
from auditgap.core.inputs import Activity, Actor, Rejection
from auditgap.core.records import Emission, Gap, alert_from_dict, as_dict, gap_from_dict

MAGIC: Final = 0
PREFIX: Final = struct.Struct(">bI")

Schema = Any
"""A schema as fastavro parsed it."""


@cache
def schema(name: str) -> Schema:
    """Load a shipped schema: activity, alert or gap."""
    return fastavro.parse_schema(json.loads(schema_text(name)))


@cache
def schema_text(name: str) -> str:
    """Read a shipped schema as JSON text."""
    return resources.path("schemas", f"{name}.avsc").read_text()


class SchemaIds:
    """Which id stands for which schema. `lookup` gives the schema behind an id that is not in the table, or None."""

    def __init__(self, ids: Mapping[str, int], lookup: Callable[[int], Schema | None] = lambda _: None) -> None:
        self.ids = dict(ids)
        self._schemas: dict[int, Schema] = {number: schema(name) for name, number in ids.items()}
        self._lookup = lookup

    @classmethod
    def bundled(cls) -> "SchemaIds":
        """Use the table that ships: without a registry."""
        table: dict[str, str] = json.loads(resources.path("schemas", "ids.json").read_text())
        return cls({name: int(number) for number, name in table.items()})

    def prefix(self, name: str) -> bytes:
        """Give the five bytes in front of every body of this schema."""
        return PREFIX.pack(MAGIC, self.ids[name])

    def writer(self, number: int) -> Schema | None:
        """Give the schema behind an id, None where nobody knows it."""
        if number not in self._schemas:
            found = self._lookup(number)
            if found is None:
                return None
            self._schemas[number] = found
        return self._schemas[number]

    def decode(self, value: bytes | None, name: str) -> dict[str, Any] | Rejection:
        """Read a value as the shipped schema `name`, whatever version wrote it."""
        if not value:
            return Rejection("empty_value", "the record has no value")
        if len(value) < PREFIX.size or value[0] != MAGIC:
            return Rejection("bad_magic", f"the value begins with 0x{value[:5].hex()}, not with 0x00 and a schema id")
        _, number = PREFIX.unpack_from(value)
        writer = self.writer(number)
        if writer is None:
            return Rejection("unknown_schema_id", f"schema id {number} is not known")
        body = io.BytesIO(value)
        body.seek(PREFIX.size)
        try:
            shape = fastavro.schemaless_reader(body, writer, schema(name))
        except _UNREADABLE as error:
            return Rejection("not_avro", f"not a {name} by schema id {number}: {type(error).__name__}: {error}"[:300])
        if rest := len(value) - body.tell():
            return Rejection("not_avro", f"{rest} bytes are left over after a {name} by schema id {number}")
        if not isinstance(shape, dict):
            return Rejection("not_avro", f"schema id {number} is no record")
        return shape


# What fastavro raises on bytes that are no such record; anything else is a fault of ours and stops the worker.
_UNREADABLE: Final = (
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
    SchemaParseException,
    fastavro.read.SchemaResolutionError,
)


def _body(shape: Mapping[str, Any], name: str, prefix: bytes) -> bytes:
    out = io.BytesIO()
    out.write(prefix)
    fastavro.schemaless_writer(out, schema(name), shape)
    return out.getvalue()


_NULL: Final = b"\x00"
_OPTIONAL_BOOLEANS: Final = {None: _NULL, False: b"\x02\x00", True: b"\x02\x01"}


@lru_cache(1024)
def _varint(value: int) -> bytes:
    """Write seven bits a byte, least first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _long(value: int) -> bytes:
    """Write an Avro long. Times near each other, as in a feed, share all but their first four bytes."""
    zigzag = value << 1 if value >= 0 else (-value << 1) - 1
    if zigzag < 1 << 28:
        return _varint(zigzag)
    first = (zigzag & 0x7F | 0x80, zigzag >> 7 & 0x7F | 0x80, zigzag >> 14 & 0x7F | 0x80, zigzag >> 21 & 0x7F | 0x80)
    return bytes(first) + _varint(zigzag >> 28)


LENGTHS: Final = tuple(_long(length) for length in range(1 << 14))
"""How Avro writes the length of a text, by length."""


def _text(text: str) -> bytes:
    body = text.encode()
    length = len(body)
    return (LENGTHS[length] if length < len(LENGTHS) else _long(length)) + body


class _OptionalTexts(dict[str | None, bytes]):
    """Avro's `["null", "string"]` of a text: organizations, actors and their programs come again and again."""

    _MOST: Final = 50_000

    def __missing__(self, text: str | None) -> bytes:
        if len(self) >= self._MOST:
            self.clear()
        written = _NULL if text is None else b"\x02" + _text(text)
        if text is None or len(text) < 256:
            self[text] = written
        return written


class Encoder:
    """Writes activities, alerts and gaps with the ids of a table."""

    def __init__(self, ids: SchemaIds) -> None:
        self._prefixes = {name: ids.prefix(name) for name in ids.ids}
        self._activity_prefix = self._prefixes["activity"]
        self._optional = _OptionalTexts()

    def activity(self, activity: Activity) -> bytes:
        """Write an activity. Raises UnicodeEncodeError where a text holds half of a surrogate pair.

        Every field of this schema has one of four types, so it is written out here: fastavro tries the branches of
        each union in turn, which would be a third of what publishing a record costs. A test holds the two against
        each other.
        """
        optional, actor, created_at = self._optional, activity.actor, activity.created_at
        return b"".join(
            (
                self._activity_prefix,
                _text(activity.id),
                _text(activity.type),
                _NULL if created_at is None else b"\x02" + _long(created_at),
                optional[activity.organization_id],
                optional[activity.organization_uuid],
                optional[activity.feed_id],
                optional[actor.type],
                optional[actor.id],
                optional[actor.email],
                optional[actor.ip],
                optional[actor.user_agent],
                _OPTIONAL_BOOLEANS[activity.api_enabled],
                _OPTIONAL_BOOLEANS[activity.logging_enabled],
                _text(activity.raw),
            )
        )

    def emission(self, record: Emission) -> bytes:
        """Write a gap or an alert."""
        name = name_of(record)
        return _body(as_dict(record), name, self._prefixes[name])


def name_of(record: Emission) -> str:
    """Name the schema of a gap or an alert."""
    return "gap" if isinstance(record, Gap) else "alert"


def decode_activity(ids: SchemaIds, value: bytes | None) -> Activity | Rejection:
    """Read an activity from its wire format."""
    shape = ids.decode(value, "activity")
    if isinstance(shape, Rejection):
        return shape
    return Activity(
        id=shape["id"],
        type=shape["type"],
        created_at=_micros(shape["created_at"]),
        organization_id=shape["organization_id"],
        organization_uuid=shape["organization_uuid"],
        feed_id=shape["feed_id"],
        actor=Actor(
            type=shape["actor_type"],
            id=shape["actor_id"],
            email=shape["actor_email"],
            ip=shape["actor_ip"],
            user_agent=shape["actor_user_agent"],
        ),
        api_enabled=shape["compliance_api_enabled"],
        logging_enabled=shape["compliance_api_logging_enabled"],
        raw=shape["raw"],
    )


def decode_emission(ids: SchemaIds, value: bytes, name: str) -> Emission | Rejection:
    """Read a gap or an alert from its wire format."""
    shape = ids.decode(value, name)
    if isinstance(shape, Rejection):
        return shape
    plain = {field: _micros(value) if isinstance(value, datetime) else value for field, value in shape.items()}
    return gap_from_dict(plain) if name == "gap" else alert_from_dict(plain)


def _micros(moment: datetime | int | None) -> int | None:
    return times.of(moment) if isinstance(moment, datetime) else moment
