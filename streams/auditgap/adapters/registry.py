"""Schema ids from a registry with Confluent's API."""

import json
from http import HTTPStatus

import fastavro
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.common._httpx_compat import httpx  # it decides which httpx it speaks
from confluent_kafka.schema_registry.error import SchemaRegistryError

from auditgap.adapters import avro
from auditgap.config import RegistrySettings, TopicSettings
from auditgap.errors import BrokerError


def schema_ids(settings: RegistrySettings, topics: TopicSettings) -> avro.SchemaIds:
    """Ask which id stands for which schema. Registers nothing: that is a deploy step. Raises BrokerError."""
    url = settings.url
    config: dict[str, object] = {"url": url}
    if settings.username and settings.password:
        config["basic.auth.user.info"] = f"{settings.username}:{settings.password.get_secret_value()}"
    subjects = {
        "activity": topics.activity,
        "observation": topics.observation,
        "alert": topics.alert,
        "gap": topics.gap,
        "policy": topics.policy,
        "status": topics.status,
        "topology": topics.topology,
    }
    try:
        client = SchemaRegistryClient(config)
        ids: dict[str, int] = {}
        for name, topic in subjects.items():
            subject = f"{topic}-value"
            try:
                registered = client.lookup_schema(subject, Schema(avro.schema_text(name), "AVRO"))
                ids[name] = registered.schema_id or 0
            except SchemaRegistryError as error:
                if error.http_status_code != HTTPStatus.NOT_FOUND:
                    raise
                raise BrokerError(
                    f"the registry at {url} does not know the schema of {subject}: register schemas/{name}.avsc "
                    "under that subject before starting"
                ) from None
    except SchemaRegistryError as error:
        raise BrokerError(f"the registry at {url} refuses: {error.error_message}") from None
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise BrokerError(f"the registry at {url} does not answer: {error}") from None

    def lookup(number: int) -> avro.Schema | None:
        try:
            found = client.get_schema(number)
        except SchemaRegistryError as error:
            if error.http_status_code == HTTPStatus.NOT_FOUND:
                return None
            raise BrokerError(f"the registry at {url} refuses schema id {number}: {error.error_message}") from None
        except (httpx.HTTPError, OSError) as error:
            raise BrokerError(f"the registry at {url} does not answer for schema id {number}: {error}") from None
        if found.schema_type != "AVRO" or found.schema_str is None:
            return None
        return fastavro.parse_schema(json.loads(found.schema_str))

    return avro.SchemaIds(ids, lookup)
