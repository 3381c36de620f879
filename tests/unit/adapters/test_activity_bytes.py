"""`Encoder.activity` is written by `avro_flat`, for speed: fastavro says what is right."""

import io
from dataclasses import asdict

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditgap.adapters import avro
from auditgap.adapters.job import NEVER_SKIPPED
from auditgap.core.inputs import Activity, Actor
from auditgap.core.triage import TRIAGE_TYPES

IDS = avro.SchemaIds.bundled()
ENCODER = avro.Encoder(IDS)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
optional = st.none() | texts
flags = st.none() | st.booleans()
times = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
activities = st.builds(
    Activity,
    id=texts,
    type=texts,
    created_at=st.none() | times,
    organization_id=optional,
    organization_uuid=optional,
    feed_id=optional,
    actor=st.builds(Actor, type=optional, id=optional, email=optional, ip=optional, user_agent=optional),
    api_enabled=flags,
    logging_enabled=flags,
    raw=texts,
)


def by_fastavro(activity: Activity) -> bytes:
    """Write an activity by its schema."""
    shape = asdict(activity)
    actor = {f"actor_{name}": value for name, value in shape.pop("actor").items()}
    shape["compliance_api_enabled"] = shape.pop("api_enabled")
    shape["compliance_api_logging_enabled"] = shape.pop("logging_enabled")
    out = io.BytesIO()
    fastavro.schemaless_writer(out, avro.schema("activity"), shape | actor, strict=True)
    return IDS.prefix("activity") + out.getvalue()


@given(activities)
def test_bytes_are_those_of_fastavro(activity: Activity) -> None:
    """Every activity is written as fastavro writes it, and read again as it was."""
    value = ENCODER.activity(activity)
    assert value == by_fastavro(activity)
    assert avro.decode_activity(IDS, value) == activity


@pytest.mark.parametrize("length", [0, 63, 64, 127, 128, 4095, 4096, 8191, 8192, 1_048_575, 1_048_576])
def test_lengths_are_those_of_fastavro(length: int) -> None:
    """Texts of every size of length prefix are written as fastavro writes them."""
    text = "x" * length
    activity = Activity(text, text, None, text, None, text, Actor(id=text), None, None, text)
    assert ENCODER.activity(activity) == by_fastavro(activity)


def test_many_different_texts_are_written_right() -> None:
    """What is remembered of texts written before is bounded, and never taken for another's."""
    encoder = avro.Encoder(IDS)
    for number in range(120_000):
        activity = Activity("a", "t", 0, f"org_{number}", None, None, Actor(), None, None, "{}")
        assert f"org_{number}".encode() in encoder.activity(activity)
    assert encoder.activity(activity) == by_fastavro(activity)


def test_half_of_a_surrogate_pair_is_refused() -> None:
    """Text that UTF-8 cannot hold is an error, not other text."""
    with pytest.raises(UnicodeEncodeError):
        ENCODER.activity(Activity("\ud800", "t", 0, None, None, None, Actor(), None, None, "{}"))


def test_never_skipped() -> None:
    """The worker decodes every type that triage reads, whatever its headers say."""
    assert TRIAGE_TYPES <= NEVER_SKIPPED
