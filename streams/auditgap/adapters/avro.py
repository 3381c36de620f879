"""Avro in the Confluent wire format: a zero byte, the schema id as big-endian uint32, the body.

Schema ids come from a table (`SchemaIds`): the bundled one, or a registry's. The bytes are the same either way.
`schemas/NAME.avsc` is what is written now; `schemas/released/NAME/vN.avsc` are the versions that records may have been
written with, and never change.
"""

import io
import json
import struct
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import fastavro
from fastavro.schema import SchemaParseException

from auditgap import resources
from auditgap.adapters.avro_flat import record_writer
from auditgap.core import observations, policy, times, topology
from auditgap.core.inputs import Activity, Actor, Rejection
from auditgap.core.observations import Observation
from auditgap.core.records import (
    Alert,
    Emission,
    Gap,
    Status,
    alert_from_dict,
    as_dict,
    gap_from_dict,
    status_from_dict,
)

MAGIC: Final = 0
PREFIX: Final = struct.Struct(">bI")

Schema = Any
"""A schema as fastavro parsed it."""


@cache
def schema(name: str) -> Schema:
    """Load a shipped schema by its name in schemas/."""
    return fastavro.parse_schema(json.loads(schema_text(name)))


@cache
def schema_text(name: str) -> str:
    """Read a shipped schema as JSON text."""
    return resources.path("schemas", f"{name}.avsc").read_text()


def released(directory: Path, name: str) -> dict[int, str]:
    """Read the released versions of a schema, oldest first: JSON text by number. `directory` is that of schemas/."""
    found = {int(path.stem[1:]): path for path in (directory / "released" / name).glob("v[0-9]*.avsc")}
    return {number: found[number].read_text() for number in sorted(found)}


def shape_of(text: str) -> Any:
    """Give what a schema's JSON text says but for its explanations."""

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: told(each) for name, each in value.items() if name != "doc"}
        return [told(each) for each in value] if isinstance(value, list) else value

    return told(json.loads(text))


class SchemaIds:
    """Which id stands for which schema. `lookup` gives the schema behind an id that is not in the table, or None."""

    def __init__(self, ids: Mapping[str, int], lookup: Callable[[int], Schema | None] = lambda _: None) -> None:
        self.ids = dict(ids)
        self._schemas: dict[int, Schema] = {number: schema(name) for name, number in ids.items()}
        self._lookup = lookup

    @classmethod
    def bundled(cls) -> "SchemaIds":
        """Use the table that ships: without a registry. Each version has an id of its own, for good.

        Raises RuntimeError where schemas/NAME.avsc was changed and has no id yet: its records could not be told apart.
        """
        directory = resources.path("schemas")
        table: dict[str, str] = json.loads((directory / "ids.json").read_text())
        by_name: dict[str, dict[int, int]] = {}
        for number, title in table.items():
            name, _, version = title.partition("/v")
            by_name.setdefault(name, {})[int(version)] = int(number)
        ids: dict[str, int] = {}
        texts: dict[int, str] = {}
        for name, numbers in by_name.items():
            texts |= {numbers[version]: text for version, text in released(directory, name).items()}
            newest = max(numbers)
            ids[name] = numbers[newest]
            if shape_of(texts.get(ids[name], schema_text(name))) != shape_of(schema_text(name)):
                raise RuntimeError(
                    f"schemas/{name}.avsc is not version {newest} any more: give {name}/v{newest + 1} an id in "
                    "schemas/ids.json"
                )
        return cls(ids, lambda number: fastavro.parse_schema(json.loads(texts[number])) if number in texts else None)

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


class Encoder:
    """Writes activities, observations, alerts, gaps and policies with the ids of a table."""

    def __init__(self, ids: SchemaIds) -> None:
        self._prefixes = {name: ids.prefix(name) for name in ids.ids}
        self._fields = {name: [field["name"] for field in schema(name)["fields"]] for name in ids.ids}
        self._write = {name: record_writer(schema(name)) for name in ids.ids}
        self._activity_prefix, self._write_activity = self._prefixes["activity"], self._write["activity"]

    def activity(self, activity: Activity) -> bytes:
        """Write an activity. Raises UnicodeEncodeError where a text holds half of a surrogate pair."""
        actor = activity.actor
        return self._activity_prefix + self._write_activity(
            (
                activity.id,
                activity.type,
                activity.created_at,
                activity.organization_id,
                activity.organization_uuid,
                activity.feed_id,
                actor.type,
                actor.id,
                actor.email,
                actor.ip,
                actor.user_agent,
                activity.api_enabled,
                activity.logging_enabled,
                activity.raw,
            )
        )

    def observation(self, seen: Observation) -> bytes:
        """Write an observation. Raises UnicodeEncodeError where a text holds half of a surrogate pair."""
        unsaid = dict.fromkeys(self._fields["observation"])
        return self._shape("observation", {**unsaid, **observations.as_shape(seen)})

    def emission(self, record: Emission) -> bytes:
        """Write a gap, an alert or a status."""
        return self._shape(name_of(record), as_dict(record))

    def policy(self, version: policy.Policy) -> bytes:
        """Write a version of a policy. Raises UnicodeEncodeError where a text holds half of a surrogate pair."""
        return self._shape("policy", policy.as_shape(version))

    def topology(self, version: topology.Topology) -> bytes:
        """Write a version of the topology. Raises UnicodeEncodeError as `policy` does."""
        return self._shape("topology", topology.as_shape(version))

    def _shape(self, name: str, shape: dict[str, Any]) -> bytes:
        return self._prefixes[name] + self._write[name]([shape[field] for field in self._fields[name]])


_NAMES: Final = {Gap: "gap", Alert: "alert", Status: "status"}
_FROM_DICT: Final[Mapping[str, Callable[[dict[str, Any]], Emission]]] = {
    "gap": gap_from_dict,
    "alert": alert_from_dict,
    "status": status_from_dict,
}


def name_of(record: Emission) -> str:
    """Name the schema of a gap, an alert or a status."""
    return _NAMES[type(record)]


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


def decode_observation(ids: SchemaIds, value: bytes | None) -> Observation | Rejection:
    """Read an observation from its wire format."""
    shape = ids.decode(value, "observation")
    return shape if isinstance(shape, Rejection) else observations.from_shape(_plain(shape))


def decode_emission(ids: SchemaIds, value: bytes, name: str) -> Emission | Rejection:
    """Read a gap, an alert or a status from its wire format."""
    shape = ids.decode(value, name)
    if isinstance(shape, Rejection):
        return shape
    plain = {field: _micros(value) if isinstance(value, datetime) else value for field, value in shape.items()}
    return _FROM_DICT[name](plain)


def decode_policy(ids: SchemaIds, value: bytes | None, append_time: int) -> policy.Policy | Rejection:
    """Read a version of a policy from its wire format; the broker says when it was appended."""
    shape = ids.decode(value, "policy")
    return shape if isinstance(shape, Rejection) else policy.from_shape(_plain(shape), append_time)


def decode_topology(ids: SchemaIds, value: bytes | None, append_time: int) -> topology.Topology | Rejection:
    """Read a version of the topology from its wire format; the broker says when it was appended."""
    shape = ids.decode(value, "topology")
    return shape if isinstance(shape, Rejection) else topology.from_shape(_plain(shape), append_time)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case datetime():
            return times.of(value)
    return value


def _micros(moment: datetime | int | None) -> int | None:
    return times.of(moment) if isinstance(moment, datetime) else moment
