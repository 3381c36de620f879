"""A registry with Confluent's API: the ids of schemas, their versions, and registering, which is a deploy step."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Self

import fastavro
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.common._httpx_compat import httpx  # it decides which httpx it speaks
from confluent_kafka.schema_registry.error import SchemaRegistryError

from auditgap.adapters import avro
from auditgap.adapters.compatibility import LEVEL
from auditgap.config import RegistrySettings, TopicSettings
from auditgap.errors import BrokerError

_ANSWER_SECONDS = 10.0
"""How long a registry may take to answer; the client itself would wait for ever."""


def subjects(topics: TopicSettings) -> dict[str, str]:
    """Name the schema of each topic whose values are Avro, by subject (TopicNameStrategy)."""
    names = {
        topics.activity: "activity",
        topics.observation: "observation",
        topics.policy: "policy",
        topics.topology: "topology",
        topics.alert: "alert",
        topics.gap: "gap",
        topics.gap_history: "gap",
        topics.status: "status",
    }
    return {f"{topic}-value": name for topic, name in names.items()}


class Registry:
    """What is asked of a registry. Everything raises BrokerError where it refuses or does not answer.

    As a context it lets go of its connections.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self.url = settings.url
        # It tells of every request, in a log that speaks of what matters.
        logging.getLogger(httpx.__name__).setLevel(logging.WARNING)
        config: dict[str, object] = {"url": settings.url, "timeout": _ANSWER_SECONDS}
        if settings.username and settings.password:
            config["basic.auth.user.info"] = f"{settings.username}:{settings.password.get_secret_value()}"
        with self._translated():
            self._client = SchemaRegistryClient(config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def id_of(self, subject: str, text: str) -> int | None:
        """Ask for the id of a schema under a subject; None where it is not registered there."""
        with self._translated(f" {subject}"):
            try:
                return self._client.lookup_schema(subject, Schema(text, "AVRO")).schema_id
            except SchemaRegistryError as error:
                if error.http_status_code != HTTPStatus.NOT_FOUND:
                    raise
                return None

    def schema(self, number: int) -> avro.Schema | None:
        """Ask for the schema behind an id; None where there is none, or it is not Avro."""
        with self._translated(f" schema id {number}"):
            try:
                found = self._client.get_schema(number)
            except SchemaRegistryError as error:
                if error.http_status_code != HTTPStatus.NOT_FOUND:
                    raise
                return None
        if found.schema_type != "AVRO" or found.schema_str is None:
            return None
        return fastavro.parse_schema(json.loads(found.schema_str))

    def versions(self, subject: str) -> dict[int, str]:
        """Ask for every version of a subject, as JSON text by number; none where the subject is not known."""
        with self._translated(f" {subject}"):
            try:
                numbers = self._client.get_versions(subject)
            except SchemaRegistryError as error:
                if error.http_status_code != HTTPStatus.NOT_FOUND:
                    raise
                return {}
            found = {number: self._client.get_version(subject, number).schema for number in sorted(numbers)}
        return {number: schema.schema_str or "" for number, schema in found.items() if schema is not None}

    def guarded(self, subject: str) -> bool:
        """Whether the registry itself refuses what is not compatible with every version of the subject."""
        with self._translated(f" {subject}"):
            try:
                return self._client.get_compatibility(subject) == LEVEL
            except SchemaRegistryError as error:
                if error.http_status_code != HTTPStatus.NOT_FOUND:
                    raise
                return False

    def guard(self, subject: str) -> None:
        """Have the registry refuse what is not compatible with every version of the subject."""
        with self._translated(f" {subject}"):
            self._client.set_compatibility(subject, LEVEL)

    def register(self, subject: str, text: str) -> int:
        """Register a schema as the next version of a subject, which may be there already; gives its id."""
        with self._translated(f" {subject}"):
            return self._client.register_schema(subject, Schema(text, "AVRO"))

    @contextmanager
    def _translated(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except SchemaRegistryError as error:
            raise BrokerError(f"the registry at {self.url} refuses{what}: {error.error_message}") from None
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise BrokerError(f"the registry at {self.url} does not answer: {error}") from None


def schema_ids(settings: RegistrySettings, topics: TopicSettings) -> avro.SchemaIds:
    """Ask which id stands for which schema. Registers nothing: that is a deploy step. Raises BrokerError."""
    registry = Registry(settings)
    ids: dict[str, int] = {}
    for subject, name in subjects(topics).items():
        number = registry.id_of(subject, avro.schema_text(name))
        if number is None:
            raise BrokerError(
                f"the registry at {registry.url} does not know the schema of {subject} as this version writes it: "
                "run `auditgap schemas register` before starting"
            )
        ids.setdefault(name, number)
    return avro.SchemaIds(ids, registry.schema)
