"""What the tests of the core are made of: records in the vendor's shape at readable times, and a run over them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from auditgap.core import times
from auditgap.core.inputs import SETTINGS_TYPE, Activity, read_activity
from auditgap.core.intake import Outcome, observe, take
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation
from auditgap.core.records import Alert, Emission, Gap
from auditgap.core.shard import Shard

SECOND: Final = times.SECOND
T0: Final = times.of(datetime(2026, 11, 1, 12, tzinfo=UTC))
"""The second 0 of every test."""

ACTOR: Final = {
    "type": "user_actor",
    "user_id": "user_owner",
    "email_address": "owner@example.com",
    "ip_address": "203.0.113.7",
    "user_agent": "Mozilla/5.0",
}


def at(seconds: float) -> int:
    """Give a time by its distance from T0."""
    return T0 + round(seconds * SECOND)


def record(identifier: str, seconds: float, kind: str = "claude_user_login", **fields: object) -> dict[str, Any]:
    """Make a record of the vendor's API. Fields given as `...` are left out, null ones are there and null."""
    shape: dict[str, Any] = {
        "id": identifier,
        "type": kind,
        "created_at": times.text_of(at(seconds)),
        "organization_id": "org_1",
        "organization_uuid": "8f7e6a5b-1234-4cde-9abc-0123456789ab",
        "actor": ACTOR,
        **fields,
    }
    return {name: value for name, value in shape.items() if value is not ...}


def read(shape: object, feed_id: str | None = "feed_1") -> Activity:
    """Read a record that is readable."""
    activity = read_activity(shape, json.dumps(shape), feed_id)
    assert isinstance(activity, Activity)
    return activity


def act(identifier: str, seconds: float, **fields: Any) -> Activity:
    """Make an ordinary activity."""
    return read(record(identifier, seconds, **fields))


def setting(identifier: str, seconds: float, *, api: object = ..., logging: object = ..., **fields: Any) -> Activity:
    """Make a settings event; a flag that is not given is absent."""
    flags = {"compliance_api_enabled": api, "compliance_api_logging_enabled": logging}
    return read(record(identifier, seconds, SETTINGS_TYPE, **flags, **fields))


def saw(identifier: str, kind: str, result: str, seconds: float, **fields: Any) -> Observation:
    """Make an observation about org_1 by a call that took no time."""
    moment = at(seconds)
    shape = {"organization_id": "org_1", "feed_id": "feed_1", **fields}
    return Observation(id=identifier, kind=kind, result=result, observed_at=moment, sent_at=moment, **shape)


def caught_up(identifier: str, seconds: float, through: float) -> Observation:
    """Say that all is on the topic up to a time."""
    return saw(identifier, "caught_up", "complete", seconds, complete_through=at(through))


def canary(identifier: str, result: str, called: float) -> Observation:
    """Look, three minutes after a call, for its record."""
    return saw(identifier, "canary", result, called + 180, called_at=at(called))


def keep_changes(store: dict[str, bytes], changed: Ledger | Shard) -> None:
    """Write what changed of a ledger or shard as the compacted changelog would keep it."""
    for key, value in changed.changes():
        if value is None:
            store.pop(key, None)
        else:
            store[key] = value


@dataclass
class Run:
    """Takes inputs in, keeps what is published, and can be stopped and started anywhere."""

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    store: dict[str, dict[str, bytes]] = field(default_factory=dict)
    out: list[Emission] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def take(self, *activities: Activity, append: float | None = None) -> list[Emission]:
        """Take inputs in, each appended a second after it happened unless said; give what came out of them."""
        before = len(self.out)
        for activity in activities:
            appended = (activity.created_at or T0) + SECOND if append is None else at(append)
            outcome = take(self.ledgers, activity, appended, appended + SECOND)
            self.outcomes.append(outcome)
            self.out += outcome.emissions
        return self.out[before:]

    def observe(self, *observations: Observation, append: float | None = None) -> list[Emission]:
        """Take observations in, each appended a second after it was made unless said; give what came out of them."""
        before = len(self.out)
        for seen in observations:
            appended = seen.observed_at + SECOND if append is None else at(append)
            outcome = observe(self.ledgers, seen, appended, appended + SECOND)
            self.outcomes.append(outcome)
            self.out += outcome.emissions
        return self.out[before:]

    def tick(self, seconds: float) -> list[Emission]:
        """Let time go on to then, for all."""
        out = [each for ledger in self.ledgers.values() for each in ledger.tick(at(seconds), at(seconds))]
        self.out += out
        return out

    def settle(self) -> list[Emission]:
        """Publish what activities changed."""
        out = [each for ledger in self.ledgers.values() for each in ledger.settle(at(3600))]
        self.out += out
        return out

    def restart(self) -> None:
        """Write what changed to the store, forget everything, read the store."""
        for subject, ledger in self.ledgers.items():
            keep_changes(self.store.setdefault(subject, {}), ledger)
        self.ledgers = {subject: Ledger.restore(subject, records) for subject, records in self.store.items()}

    @property
    def ledger(self) -> Ledger:
        """The ledger of org_1."""
        return self.ledgers["org_1"]

    @property
    def latest(self) -> dict[str, Gap]:
        """The latest revision of each gap that was published."""
        return {gap.gap_id: gap for gap in gaps(self.out)}

    @property
    def standing(self) -> list[Gap]:
        """The gaps that stand in the end, by their openings."""
        left = [gap for gap in self.latest.values() if gap.state not in {"SUPERSEDED", "RETRACTED"}]
        return sorted(left, key=lambda gap: (gap.organization_id or "", gap.opened_at_latest or 0))

    @property
    def gap(self) -> Gap:
        """The only gap that stands."""
        (gap,) = self.standing
        return gap


def gaps(emissions: Iterable[Emission]) -> list[Gap]:
    """The gaps among what was published."""
    return [each for each in emissions if isinstance(each, Gap)]


def alerts(emissions: Iterable[Emission], *kinds: str) -> list[Alert]:
    """The alerts among what was published, of some kinds or of all."""
    return [each for each in emissions if isinstance(each, Alert) and (not kinds or each.kind in kinds)]
