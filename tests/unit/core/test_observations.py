"""Observations as anybody may have written them: what is read, and what is refused with which words."""

from typing import Any

import pytest
from tests.unit.core.making import at

from auditgap.core.inputs import Rejection
from auditgap.core.observations import RESULTS, Observation, as_shape, from_shape, read_observation
from auditgap.core.times import text_of

SHAPE: dict[str, Any] = {
    "id": "obs_1",
    "kind": "settings_poll",
    "result": "enabled",
    "observed_at": text_of(at(10)),
    "sent_at": text_of(at(9)),
    "skew_seconds": 2.5,
    "organization_id": "org_1",
    "feed_id": "feed_1",
    "request_id": "req_1",
    "status": 200,
    "message": "fine",
}
STATEMENT: dict[str, Any] = {
    "kind": "operator",
    "result": "off",
    "message": "by telephone",
    "author": "jane@example.com",
    "effective_at": text_of(at(3)),
}


def read(**fields: object) -> Observation | Rejection:
    """Read an observation that differs by fields; those given as `...` are left out."""
    return read_observation({name: value for name, value in {**SHAPE, **fields}.items() if value is not ...})


def taken(**fields: object) -> Observation:
    """Read one that is readable."""
    seen = read(**fields)
    assert isinstance(seen, Observation), seen
    return seen


def test_every_field() -> None:
    """All that is said is kept; times and the clock's error in microseconds."""
    assert taken() == Observation(
        id="obs_1",
        kind="settings_poll",
        result="enabled",
        observed_at=at(10),
        sent_at=at(9),
        skew=2_500_000,
        organization_id="org_1",
        feed_id="feed_1",
        request_id="req_1",
        status=200,
        message="fine",
    )
    assert (taken().begins, taken().ends) == (at(6.5), at(12.5))
    stated = taken(**STATEMENT, logging=False)
    assert (stated.author, stated.effective_at, stated.api, stated.logging) == ("jane@example.com", at(3), None, False)
    by_uuid = taken(organization_id=..., organization_uuid="uuid_1", parent_id="p")
    assert (by_uuid.organization_uuid, by_uuid.parent_id) == ("uuid_1", "p")


def test_what_is_left_out() -> None:
    """A request without a time was sent when it was answered; a clock of which nothing is said is right."""
    seen = taken(sent_at=..., skew_seconds=..., status=True, message=3, request_id=None)
    assert (seen.sent_at, seen.skew, seen.status, seen.message, seen.request_id) == (at(10), 0, None, None, None)
    assert taken(kind="caught_up", result=..., complete_through=text_of(at(5))).result == "complete"


def test_its_id_and_its_feed() -> None:
    """Without an id it gets one from its content; without a feed it is of the one that it came from."""
    one, same, other = taken(id=...), taken(id=...), taken(id=..., result="disabled")
    assert one.id == same.id != other.id
    assert one.id.startswith("obs_")
    shape = {name: value for name, value in SHAPE.items() if name != "feed_id"}
    found = read_observation(shape, "feed_2")
    assert isinstance(found, Observation)
    assert found.feed_id == "feed_2"
    assert taken().digest != taken(status=201).digest


@pytest.mark.parametrize("fields", [{}, STATEMENT, {"kind": "canary", "result": "seen", "called_at": text_of(at(1))}])
def test_there_and_back(fields: dict[str, Any]) -> None:
    """What `as_shape` writes `from_shape` reads, and leaves out what it does not know."""
    seen = taken(**fields)
    assert as_shape(seen)["skew_seconds"] == 2.5
    assert from_shape({**as_shape(seen), "field_of_next_year": 1}) == seen


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        (
            {"kind": "poll"},
            f"kind is none of {', '.join(RESULTS)}: 'poll'",
        ),
        ({"kind": ...}, f"kind is none of {', '.join(RESULTS)}: missing"),
        ({"result": "on"}, "result of a settings_poll is none of enabled, disabled: 'on'"),
        ({"result": ...}, "result of a settings_poll is none of enabled, disabled: missing"),
        ({"observed_at": ...}, "observed_at is not a time with a zone: missing"),
        ({"observed_at": "2026-11-01"}, "observed_at is not a time with a zone: '2026-11-01'"),
        ({"sent_at": 5}, "sent_at is not a time with a zone: 5"),
        ({"sent_at": text_of(at(11))}, "sent_at is after observed_at"),
        ({"kind": "canary", "result": "seen"}, "a canary needs called_at"),
        ({"kind": "caught_up", "result": ...}, "a caught_up needs complete_through"),
        ({"skew_seconds": "1"}, "skew_seconds is not a number from 0 to 3600: '1'"),
        ({"skew_seconds": True}, "skew_seconds is not a number from 0 to 3600: True"),
        ({"skew_seconds": -0.1}, "skew_seconds is not a number from 0 to 3600: -0.1"),
        ({"skew_seconds": 3600.1}, "skew_seconds is not a number from 0 to 3600: 3600.1"),
        ({"organization_id": "feed/feed_1"}, "organization_id is not an id: 'feed/feed_1'"),
        ({"organization_id": 7}, "organization_id is not an id: 7"),
        ({"organization_uuid": ""}, "organization_uuid is not an id: ''"),
        ({"parent_id": []}, "parent_id is not an id: []"),
        ({**STATEMENT, "message": ...}, "a statement of an operator needs message"),
        ({**STATEMENT, "author": ...}, "a statement of an operator needs author"),
        ({**STATEMENT, "effective_at": ...}, "a statement of an operator needs effective_at"),
        ({**STATEMENT, "api": True}, "api says something else than result: True"),
    ],
)
def test_refused(fields: dict[str, Any], detail: str) -> None:
    """What cannot be used is refused in words that name the field and what is in it."""
    assert read(**fields) == Rejection("unreadable", detail)


def test_what_is_no_object() -> None:
    """A line that is no object is no observation."""
    assert read_observation([1]) == Rejection("not_json", "not a JSON object")
    assert from_shape({**as_shape(taken()), "id": None}) == Rejection("unreadable", "id is missing or not a string")


@pytest.mark.parametrize("seconds", [0, 3600])
def test_the_bounds_of_a_clock(seconds: int) -> None:
    """An hour is the most that a clock may be off."""
    assert taken(skew_seconds=seconds).skew == seconds * 1_000_000
