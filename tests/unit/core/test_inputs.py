import json
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.making import act, at, read, record, setting

from auditgap.core.inputs import (
    ADMISSION_SKEW,
    EARLIEST_TIME,
    NOBODY,
    REASONS,
    SETTINGS_TYPE,
    Activity,
    Actor,
    Rejection,
    admit,
    is_settings,
    key_of,
    read_activity,
    read_actor,
    read_settings,
    subject_of,
)

# --- activities -----------------------------------------------------------------------------------------------------


def test_an_activity() -> None:
    """All that the core uses of a record is read from it, and the record itself is kept as it came."""
    shape = record("act_1", 5)
    raw = json.dumps(shape, indent=1)
    assert read_activity(shape, raw, "feed_1") == Activity(
        id="act_1",
        type="claude_user_login",
        created_at=at(5),
        organization_id="org_1",
        organization_uuid="8f7e6a5b-1234-4cde-9abc-0123456789ab",
        feed_id="feed_1",
        actor=Actor("user_actor", "user_owner", "owner@example.com", "203.0.113.7", "Mozilla/5.0"),
        api_enabled=None,
        logging_enabled=None,
        raw=raw,
    )


UNREADABLE: dict[str, object] = {
    "no object": [],
    "null": None,
    "no type": record("act_1", 0, type=...),
    "type is no string": record("act_1", 0, type=7),
    "empty type": record("act_1", 0, type=""),
    "no id": record("act_1", 0, id=...),
    "null id": record("act_1", 0, id=None),
    "empty id": record("", 0),
    "id is no string": record("act_1", 0, id=1),
    "no time": record("act_1", 0, created_at=...),
    "null time": record("act_1", 0, created_at=None),
    "time without a zone": record("act_1", 0, created_at="2026-11-01T12:00:00"),
    "time is a number": record("act_1", 0, created_at=1_793_534_400),
    "organization is no string": record("act_1", 0, organization_id=5),
    "organization is empty": record("act_1", 0, organization_id=""),
    "organization is endless": record("act_1", 0, organization_id="o" * 256),
    "organization poses as a feed": record("act_1", 0, organization_id="feed/feed_1"),
}


@pytest.mark.parametrize("shape", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_an_unreadable_activity(shape: object) -> None:
    """A record without a usable type, id, time or organization is refused for a reason of the table."""
    refusal = read_activity(shape, json.dumps(shape), None)
    assert isinstance(refusal, Rejection)
    assert refusal.reason in {"not_json", "unreadable"}


def test_an_unknown_activity_type() -> None:
    """A type that is not in the catalogue, with fields nobody knows, passes through."""
    activity = act("act_1", 0, kind="something_of_next_year", zones=[{"a": 1}], actor=None, organization_uuid=None)
    assert (activity.type, activity.actor, activity.organization_uuid) == ("something_of_next_year", NOBODY, None)


def test_a_rejection_without_a_reason() -> None:
    """A reason that is not in the table cannot be given."""
    with pytest.raises(ValueError, match="no reason of the table"):
        Rejection("mood", "because")
    assert all(REASONS.values())


# --- subjects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("organization_id", "feed_id", "subject", "key"),
    [
        ("org_1", "feed_1", "org_1", "org_1"),
        (None, "feed_1", "feed/feed_1", "feed_1"),
        (None, None, "feed/default", "default"),
    ],
    ids=["organization", "feed", "neither"],
)
def test_subjects(organization_id: str | None, feed_id: str | None, subject: str, key: str) -> None:
    """A record is about its organization, and where it names none about its feed."""
    activity = read(record("act_1", 0, organization_id=organization_id), feed_id)
    assert activity.subject == subject == subject_of(organization_id, feed_id)
    assert key_of(subject) == key


# --- digests --------------------------------------------------------------------------------------------------------


def test_a_digest_of_content() -> None:
    """Two copies of a record have one digest, however they are spaced and sorted; other content has another."""
    shape = record("act_1", 0)
    copy = dict(reversed(shape.items()))
    one, two = read(shape), read_activity(copy, json.dumps(copy, indent=2), "feed_2")
    assert isinstance(two, Activity)
    assert one.digest == two.digest
    assert one.digest != read(record("act_1", 0, actor=None)).digest


@pytest.mark.parametrize("raw", ["not json", "\ud800", "[" * 100_000], ids=["text", "half a surrogate", "too deep"])
def test_a_digest_of_anything(raw: str) -> None:
    """A record that is not JSON has a digest too."""
    assert len(replace(act("act_1", 0), raw=raw).digest) == 64


# --- actors ---------------------------------------------------------------------------------------------------------

ACTORS: dict[str, tuple[object, Actor]] = {
    "user": (
        {"type": "user_actor", "user_id": "u", "email_address": "e", "ip_address": "i", "user_agent": "a"},
        Actor("user_actor", "u", "e", "i", "a"),
    ),
    "unauthenticated user": (
        {"type": "unauthenticated_user_actor", "unauthenticated_email_address": "e"},
        Actor("unauthenticated_user_actor", None, "e"),
    ),
    "api key": ({"type": "api_actor", "api_key_id": "k"}, Actor("api_actor", "k")),
    "admin key": ({"type": "admin_api_key_actor", "admin_api_key_id": "k"}, Actor("admin_api_key_actor", "k")),
    "service account": (
        {"type": "service_account_actor", "service_account_id": "s"},
        Actor("service_account_actor", "s"),
    ),
    "federated": ({"type": "federated_actor", "subject": "s"}, Actor("federated_actor", "s")),
    "directory": (
        {"type": "scim_directory_sync_actor", "directory_id": "d"},
        Actor("scim_directory_sync_actor", "d"),
    ),
    "device": ({"type": "attested_device_actor", "device_id": "d"}, Actor("attested_device_actor", "d")),
    "anthropic": ({"type": "anthropic_actor"}, Actor("anthropic_actor")),
    "unknown type": (
        {"type": "oracle_actor", "zebra_id": "z", "oracle_id": "o", "email": "e"},
        Actor("oracle_actor", "o", "e"),
    ),
    "its own id first": ({"type": "user_actor", "a_id": "a", "user_id": "u"}, Actor("user_actor", "u")),
    "null id": ({"type": "user_actor", "user_id": None, "api_key_id": "k"}, Actor("user_actor", "k")),
    "wrong types": ({"type": 1, "user_id": 2, "email_address": [], "ip_address": {}, "user_agent": 0}, NOBODY),
    "half a surrogate": ({"type": "user_actor", "user_agent": "a\ud800b"}, Actor("user_actor", user_agent="a?b")),
    "empty": ({}, NOBODY),
    "null": (None, NOBODY),
    "a string": ("user_1", NOBODY),
}


@pytest.mark.parametrize(("value", "actor"), ACTORS.values(), ids=ACTORS.keys())
def test_actors(value: object, actor: Actor) -> None:
    """Of each kind of actor, known or not, what it says is read; what cannot be written is not kept."""
    assert read_actor(value) == actor


def test_actors_whatever_the_order_of_fields() -> None:
    """Two copies of a record whose fields come in another order have the same actor."""
    value = {"type": "oracle_actor", "b_id": "b", "a_id": "a"}
    assert read_actor(value) == read_actor(dict(reversed(value.items())))


# --- settings events ------------------------------------------------------------------------------------------------

FLAGS: dict[str, tuple[object, bool | None]] = {
    "true": (True, True),
    "false": (False, False),
    "null": (None, None),
    "absent": (..., None),
}


@pytest.mark.parametrize(("given", "flag"), FLAGS.values(), ids=FLAGS.keys())
def test_flags(given: object, flag: bool | None) -> None:
    """A flag is true, false, or not mentioned; null is not mentioned, never false."""
    event = setting("set_1", 0, api=given, logging=given)
    assert (event.api_enabled, event.logging_enabled) == (flag, flag)
    assert read_settings(event) == event


BROKEN: dict[str, dict[str, Any]] = {
    "flag is a string": {"compliance_api_enabled": "false"},
    "flag is a number": {"compliance_api_logging_enabled": 0},
    "flag is an object": {"compliance_api_logging_enabled": {}},
    "no id": {"id": ...},
    "id is a number": {"id": 5},
    "no time": {"created_at": ...},
    "null time": {"created_at": None},
    "naive time": {"created_at": "2026-11-01T12:00:00"},
    "organization is a number": {"organization_id": 5},
    "organization poses as a feed": {"organization_id": "feed/x"},
}


@pytest.mark.parametrize("fields", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_settings_event(fields: dict[str, Any]) -> None:
    """A settings event that cannot be understood is read all the same, so that somebody hears of it."""
    event = read(record("set_1", 0, SETTINGS_TYPE, **fields))
    refusal = read_settings(event)
    assert isinstance(refusal, Rejection)
    assert refusal.reason == "settings_unreadable"
    name = next(iter(fields))
    assert name in refusal.detail


LIES: dict[str, dict[str, Any]] = {
    "another id": {"id": "set_2"},
    "another type": {"type": "claude_user_login"},
    "another time": {"created_at": at(9)},
    "another organization": {"organization_id": "org_2"},
    "no organization": {"organization_id": None},
    "another flag": {"logging_enabled": True},
    "a flag more": {"api_enabled": True},
    "no flag": {"logging_enabled": None},
    "no json": {"raw": "off"},
    "no object": {"raw": "[]"},
    "too deep": {"raw": "[" * 100_000},
    "another record": {"raw": "{}"},
}


@pytest.mark.parametrize("fields", LIES.values(), ids=LIES.keys())
def test_typed_fields_that_lie(fields: dict[str, Any]) -> None:
    """Typed fields that say something else than the original record make it unreadable."""
    refusal = read_settings(replace(setting("set_1", 0, logging=False), **fields))
    assert isinstance(refusal, Rejection)
    assert refusal.reason == "settings_unreadable"


def test_the_actor_is_the_original_s() -> None:
    """Whom a settings event blames is read from its original record, not from the typed copy."""
    event = setting("set_1", 0, logging=False)
    assert read_settings(replace(event, actor=Actor("user_actor", "user_scapegoat"))) == event


def test_settings_events_are_known_by_either() -> None:
    """A record is a settings event if its typed field says so, or its original record does; a mention is not enough."""
    event = setting("set_1", 0, logging=False)
    assert is_settings(event)
    assert is_settings(replace(event, type="claude_user_login"))
    assert is_settings(replace(event, raw="{}"))
    assert not is_settings(act("act_1", 0))
    assert not is_settings(act("act_1", 0, path=f"/v1/compliance/activities?activity_types[]={SETTINGS_TYPE}"))
    assert not is_settings(replace(act("act_1", 0), raw=f"not json, but {SETTINGS_TYPE}"))


# --- admission ------------------------------------------------------------------------------------------------------

TIMES: dict[str, tuple[int, str | None]] = {
    "before": (at(-1), None),
    "long before": (EARLIEST_TIME, None),
    "the very time": (at(0), None),
    "at the skew": (at(0) + ADMISSION_SKEW, None),
    "beyond the skew": (at(0) + ADMISSION_SKEW + 1, "time_in_future"),
    "never": (10**18, "time_in_future"),
    "before any feed": (EARLIEST_TIME - 1, "time_implausible"),
    "the epoch": (0, "time_implausible"),
    "before the year 1": (-(10**18), "time_implausible"),
}


@pytest.mark.parametrize(("created_at", "reason"), TIMES.values(), ids=TIMES.keys())
def test_admission(created_at: int, reason: str | None) -> None:
    """A time is admitted from 2020 on, up to five minutes after the append time and not a microsecond more."""
    refusal = admit(created_at, at(0))
    assert (refusal.reason if refusal else None) == reason
