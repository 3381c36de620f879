"""The pages for subscribers say what the code does, and the AsyncAPI document is one."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import fastavro
import jsonschema
import pytest
import yaml

from auditgap.adapters.kafka import topic_table
from auditgap.config import Settings

HERE: Final = Path(__file__).parent

OFFICIAL: Final[dict[str, Any]] = json.loads((HERE / "asyncapi-3.0.0.schema.json").read_text())
"""The published JSON Schema of AsyncAPI 3.0.0, with its parts inside: `schemas/3.0.0-without-$id.json` of
@asyncapi/specs 6.11.1 from npm (Apache-2.0)."""


@pytest.fixture(scope="module")
def topics() -> ModuleType:
    """The module that writes the pages."""
    spec = importlib.util.spec_from_file_location("topics", HERE / "topics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_current(topics: ModuleType) -> None:
    """docs/topics.md and docs/asyncapi.yaml are what the tables, schemas and examples give now (`make docs`)."""
    assert topics.PAGE.read_text() == topics.page()
    assert topics.DOCUMENT.read_text() == topics.document()


def test_document_is_asyncapi(topics: ModuleType) -> None:
    """The document is valid by AsyncAPI's own schema, bindings and all."""
    jsonschema.Draft7Validator(OFFICIAL).validate(yaml.safe_load(topics.DOCUMENT.read_text()))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("asyncapi",), "2.6.0"),
        (("channels", "compliance_gap", "bindings", "kafka", "partitions"), 0),
        (("channels", "compliance_gap", "messages", "record", "bindings", "kafka", "schemaIdLocation"), "nowhere"),
        (("channels", "compliance_gap", "surplus"), 1),
        (("operations", "send_compliance_gap", "action"), "publish"),
    ],
)
def test_validation_finds_faults(topics: ModuleType, path: tuple[str, ...], value: object) -> None:
    """The validation is none that passes everything."""
    document = yaml.safe_load(topics.DOCUMENT.read_text())
    place = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(OFFICIAL).validate(document)


def test_references_lead_somewhere(topics: ModuleType) -> None:
    """Every reference of the document is to something that is in it."""
    document = yaml.safe_load(topics.DOCUMENT.read_text())

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if "$ref" in value else []
            return own + [each for inner in value.values() for each in references(inner)]
        return [each for inner in value for each in references(inner)] if isinstance(value, list) else []

    found = references(document)
    assert found
    for reference in found:
        place = document
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_every_topic_is_described(topics: ModuleType) -> None:
    """No topic of the table is left out: it has a contract, or it is the worker's own."""
    settings = Settings()
    own = {settings.worker.mailbox, settings.worker.mailbox_dlq, settings.worker.changelog}
    assert {spec.name for spec in topic_table(settings)} == own | topics.CONTRACTS.keys()
    channels = yaml.safe_load(topics.DOCUMENT.read_text())["channels"]
    assert {each["address"] for each in channels.values()} == topics.CONTRACTS.keys()
    assert set(topics._EXAMPLES) == {
        name for name in topics.CONTRACTS if not name.endswith(".dlq") or name == settings.topics.activity_dlq
    }


def test_examples_are_as_described(topics: ModuleType) -> None:
    """The headers of each example are those that the document tells of, and its value is one of its schema."""
    document = yaml.safe_load(topics.DOCUMENT.read_text())
    for channel in document["channels"].values():
        message = channel["messages"]["record"]
        for example in message.get("examples", []):
            jsonschema.Draft7Validator(message["headers"]).validate(example["headers"])
            assert example["headers"].keys() <= message["headers"]["properties"].keys()
            if "$ref" in message["payload"]:
                schema = document["components"]["schemas"][message["payload"]["$ref"].rpartition("/")[2]]["schema"]
                assert [each["name"] for each in schema["fields"]] == list(example["payload"])
                assert fastavro.validate(example["payload"], fastavro.parse_schema(schema), strict=True)
