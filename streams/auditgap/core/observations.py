"""What a collector saw for itself: answers of the API, its own footprint in the feed, and that it lives at all.

An observation is evidence about one subject, the organization it names or else its feed. It never says when a flag
changed, only that it was on or off at some moment between two times. An operator's statement comes the same way, but
says when: a named person answers for it, with a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from auditgap.core import times
from auditgap.core.inputs import OPERATOR, Rejection, canonical, is_organization, shown, subject_of, text
from auditgap.core.records import identifier

RESULTS: Final = {
    "settings_poll": ("enabled", "disabled"),
    "feed_answer": (
        "ok",
        "not_enabled",
        "unauthorized",
        "forbidden",
        "not_found",
        "rate_limited",
        "server_error",
        "unreachable",
        "other",
    ),
    "canary": ("seen", "missing", "delayed"),
    "collector": ("started", "stopped"),
    "caught_up": ("complete",),
    OPERATOR: ("on", "off"),
}
"""Kinds of observations, and what each can have seen."""

TIMES: Final = ("observed_at", "sent_at", "called_at", "complete_through", "effective_at")
"""Fields that are times."""

STATEMENT: Final = ("effective_at", "author", "api", "logging")
"""Fields that only an operator's statement has."""

MAX_SKEW: Final = 3600 * times.SECOND
"""A clock that is further off than an hour bounds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing a collector saw. All times are microseconds.

    The request was sent at `sent_at` and its answer received at `observed_at`, both by a clock that is within `skew` of
    the server's. `organization_id` is given where it is about exactly one organization, or only its
    `organization_uuid`; `parent_id` where it is about a parent that is no organization of a feed. `called_at` is when
    the call was made whose own record a canary looks for; up to `complete_through` everything the API had is on the
    topic.

    An operator, `author`, states with `message` as the reason that it is on or off from `effective_at`: both flags, or
    the one of `api` and `logging` that is not None, and then says the same as `result`.
    """

    id: str
    kind: str
    result: str
    observed_at: int
    sent_at: int
    skew: int = 0
    organization_id: str | None = None
    organization_uuid: str | None = None
    parent_id: str | None = None
    feed_id: str | None = None
    called_at: int | None = None
    complete_through: int | None = None
    request_id: str | None = None
    status: int | None = None
    message: str | None = None
    effective_at: int | None = None
    author: str | None = None
    api: bool | None = None
    logging: bool | None = None

    @property
    def subject(self) -> str:
        """What it is about: its organization or its parent, or its feed where it names none."""
        return subject_of(self.organization_id, self.feed_id, self.parent_id)

    @property
    def digest(self) -> str:
        """What tells two observations of one id apart."""
        return identifier("sha256", repr(self))

    @property
    def begins(self) -> int:
        """The earliest moment, by the server's clock, that it can speak of."""
        return self.sent_at - self.skew

    @property
    def ends(self) -> int:
        """The latest moment, by the server's clock, that it can speak of."""
        return self.observed_at + self.skew


def read_observation(record: object, feed_id: str | None = None) -> Observation | Rejection:
    """Read one observation as JSON has it; `feed_id` stands in where it names no feed.

    Without an `id` it gets one from its content, so that a copy is recognised.
    """
    if not isinstance(record, Mapping):
        return Rejection("not_json", "not a JSON object")
    shape = dict(record)
    for name in TIMES:
        value = record.get(name)
        shape[name] = times.parse(value) if isinstance(value, str) else None
        if shape[name] is None and value is not None:
            return Rejection("unreadable", f"{name} is not a time with a zone: {shown(value)}")
    shape["id"] = text(record.get("id")) or identifier("obs", canonical(record))
    shape["feed_id"] = text(record.get("feed_id")) or feed_id
    return from_shape(shape)


def as_shape(seen: Observation) -> dict[str, Any]:
    """Give an observation with the names of its JSON, times in microseconds."""
    shape = {field.name: getattr(seen, field.name) for field in fields(seen)}
    return {**shape, "skew_seconds": shape.pop("skew") / times.SECOND}


def from_shape(shape: Mapping[str, Any]) -> Observation | Rejection:
    """Undo `as_shape`, and check what anybody may have written; fields that it does not know are left out."""
    kind, result = shape.get("kind"), shape.get("result")
    if kind not in RESULTS:
        return Rejection("unreadable", f"kind is none of {', '.join(RESULTS)}: {shown(kind)}")
    if result is None and kind == "caught_up":
        result = "complete"
    if result not in RESULTS[kind]:
        return Rejection("unreadable", f"result of a {kind} is none of {', '.join(RESULTS[kind])}: {shown(result)}")
    observed_at, called_at, complete_through = (
        shape.get(name) for name in ("observed_at", "called_at", "complete_through")
    )
    if observed_at is None:
        return Rejection("unreadable", "observed_at is not a time with a zone: missing")
    for owner, name in (("canary", "called_at"), ("caught_up", "complete_through")):
        if kind == owner and shape.get(name) is None:
            return Rejection("unreadable", f"a {kind} needs {name}")
    stated: dict[str, Any] = {}
    if kind == OPERATOR:
        stated = {name: shape.get(name) for name in STATEMENT} | {"author": text(shape.get("author"))}
        fault = _statement_fault(stated, text(shape.get("message")), on=result == "on")
        if fault is not None:
            return Rejection("unreadable", fault)
    sent_at = observed_at if shape.get("sent_at") is None else shape["sent_at"]
    if sent_at > observed_at:
        return Rejection("unreadable", "sent_at is after observed_at")
    skew = shape.get("skew_seconds", 0)
    if not isinstance(skew, int | float) or isinstance(skew, bool) or not 0 <= skew * times.SECOND <= MAX_SKEW:
        return Rejection("unreadable", f"skew_seconds is not a number from 0 to 3600: {shown(skew)}")
    fault = _id_fault(shape)
    if fault is not None:
        return Rejection("unreadable", fault)
    status = shape.get("status")
    return Observation(
        id=text(shape.get("id")) or "",
        kind=str(kind),
        result=str(result),
        observed_at=observed_at,
        sent_at=sent_at,
        skew=round(skew * times.SECOND),
        organization_id=text(shape.get("organization_id")),
        organization_uuid=text(shape.get("organization_uuid")),
        parent_id=text(shape.get("parent_id")),
        feed_id=text(shape.get("feed_id")),
        called_at=called_at,
        complete_through=complete_through,
        request_id=text(shape.get("request_id")),
        status=status if isinstance(status, int) and not isinstance(status, bool) else None,
        message=text(shape.get("message")),
        **stated,
    )


def _id_fault(shape: Mapping[str, Any]) -> str | None:
    for name in ("organization_id", "organization_uuid", "parent_id"):
        value = shape.get(name)
        if value is not None and not (is_organization(value) if name == "organization_id" else text(value)):
            return f"{name} is not an id: {shown(value)}"
    return None if text(shape.get("id")) else "id is missing or not a string"


def _statement_fault(stated: Mapping[str, object], reason: str | None, *, on: bool) -> str | None:
    for name, value in (*stated.items(), ("message", reason)):
        if value is None and name not in ("api", "logging"):
            return f"a statement of an {OPERATOR} needs {name}"
    for name in ("api", "logging"):
        if (value := stated[name]) is not None and value is not on:
            return f"{name} says something else than result: {shown(value)}"
    return None
