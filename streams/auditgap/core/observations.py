"""What a collector saw for itself: answers of the API, its own footprint in the feed, and that it lives at all.

An observation is evidence about one subject, the organization it names or else its feed. It never says when a flag
changed, only that it was on or off at some moment between two times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from auditgap.core import times
from auditgap.core.inputs import Rejection, canonical, shown, subject_of, text
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
}
"""Kinds of observations, and what each can have seen."""

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
    kind, result = record.get("kind"), record.get("result")
    if kind not in RESULTS:
        return Rejection("unreadable", f"kind is none of {', '.join(RESULTS)}: {shown(kind)}")
    if result is None and kind == "caught_up":
        result = "complete"
    if result not in RESULTS[kind]:
        return Rejection("unreadable", f"result of a {kind} is none of {', '.join(RESULTS[kind])}: {shown(result)}")
    moments: dict[str, int | None] = {}
    for name in ("observed_at", "sent_at", "called_at", "complete_through"):
        value = record.get(name)
        moments[name] = times.parse(value) if isinstance(value, str) else None
        if moments[name] is None and (value is not None or name == "observed_at"):
            return Rejection("unreadable", f"{name} is not a time with a zone: {shown(value)}")
    for owner, name in (("canary", "called_at"), ("caught_up", "complete_through")):
        if kind == owner and moments[name] is None:
            return Rejection("unreadable", f"a {kind} needs {name}")
    observed_at = moments["observed_at"] or 0
    sent_at = observed_at if moments["sent_at"] is None else moments["sent_at"]
    if sent_at > observed_at:
        return Rejection("unreadable", "sent_at is after observed_at")
    skew = record.get("skew_seconds", 0)
    if not isinstance(skew, int | float) or isinstance(skew, bool) or not 0 <= skew * times.SECOND <= MAX_SKEW:
        return Rejection("unreadable", f"skew_seconds is not a number from 0 to 3600: {shown(skew)}")
    ids = {name: text(record.get(name)) for name in ("organization_id", "organization_uuid", "parent_id")}
    for name, known in ids.items():
        if known is None and record.get(name) is not None:
            return Rejection("unreadable", f"{name} is not an id: {shown(record.get(name))}")
    status = record.get("status")
    return Observation(
        id=text(record.get("id")) or identifier("obs", canonical(record)),
        kind=str(kind),
        result=str(result),
        observed_at=observed_at,
        sent_at=sent_at,
        skew=int(skew * times.SECOND),
        **ids,
        feed_id=text(record.get("feed_id")) or feed_id,
        called_at=moments["called_at"],
        complete_through=moments["complete_through"],
        request_id=text(record.get("request_id")),
        status=status if isinstance(status, int) and not isinstance(status, bool) else None,
        message=text(record.get("message")),
    )
