"""Observations on the wire: read back as they were, and checked as their JSON is."""

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditgap.adapters import avro
from auditgap.core import observations
from auditgap.core.inputs import Rejection
from auditgap.core.observations import Observation, read_observation

IDS = avro.SchemaIds.bundled()

POLL = {"id": "obs_1", "kind": "settings_poll", "result": "disabled", "observed_at": "2026-11-23T12:00:01.5Z"}
CANARY = {
    "kind": "canary",
    "result": "seen",
    "organization_id": "org_1",
    "feed_id": "feed_1",
    "skew_seconds": 0.29,
    "observed_at": "2026-11-23T12:00:01Z",
    "sent_at": "2026-11-23T12:00:00Z",
    "called_at": "2026-11-23T11:59:00Z",
}
ANSWER = {
    "kind": "feed_answer",
    "result": "forbidden",
    "observed_at": "2026-11-23T12:00:01Z",
    "feed_id": "feed_1",
    "request_id": "req_1",
    "status": 403,
    "message": "no",
}
CAUGHT_UP = {
    "kind": "caught_up",
    "observed_at": "2026-11-23T12:00:01Z",
    "complete_through": "2026-11-23T12:00:00Z",
}


def written(shape: dict[str, Any]) -> bytes:
    """Write a record of the schema, whatever it says."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, avro.schema("observation"), shape, strict_allow_default=True)
    return IDS.prefix("observation") + out.getvalue()


@pytest.mark.parametrize("record", [POLL, CANARY, ANSWER, CAUGHT_UP], ids=lambda each: each["kind"])
def test_round_trip(record: dict[str, Any]) -> None:
    """What is written of an observation is what is read of it."""
    seen = read_observation(record)
    assert isinstance(seen, Observation)
    assert avro.decode_observation(IDS, avro.Encoder(IDS).observation(seen)) == seen


@given(skew=st.integers(0, observations.MAX_SKEW))
def test_skew(skew: int) -> None:
    """No microsecond of a clock's bound is lost on the way."""
    seen = Observation(id="o", kind="collector", result="started", observed_at=10**15, sent_at=10**15, skew=skew)
    assert avro.decode_observation(IDS, avro.Encoder(IDS).observation(seen)) == seen


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"id": ""}, "id is missing"),
        ({"kind": "guess"}, "kind is none of"),
        ({"result": "perhaps"}, "result of a settings_poll is none of"),
        ({"observed_at": None}, "observed_at is not a time"),
        ({"sent_at": 2 * 10**15}, "sent_at is after observed_at"),
        ({"skew_seconds": float("nan")}, "skew_seconds is not a number"),
        ({"organization_id": "feed/other"}, "organization_id is not an id"),
        ({"kind": "canary", "result": "seen"}, "a canary needs called_at"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused(wrong: dict[str, Any], said: str) -> None:
    """What no honest publisher writes is refused, with what is wrong."""
    right = {"id": "obs_1", "kind": "settings_poll", "result": "enabled", "observed_at": 10**15, "skew_seconds": 0.0}
    assert isinstance(avro.decode_observation(IDS, written(right)), Observation)
    refused = avro.decode_observation(IDS, written({**right, **wrong}))
    assert isinstance(refused, Rejection)
    assert refused.reason == "unreadable"
    assert said in refused.detail


def test_not_avro() -> None:
    """Other bytes are refused as other records' are."""
    for value, reason in ((None, "empty_value"), (b"\x01", "bad_magic"), (IDS.prefix("observation"), "not_avro")):
        refused = avro.decode_observation(IDS, value)
        assert isinstance(refused, Rejection)
        assert refused.reason == reason
