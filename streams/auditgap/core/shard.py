"""Everything that one partition holds, and what each input makes of it: the worker, the backtest and the tests use it.

A shard has a ledger for each subject (organization or feed) of its partition, and what all of them share: the
policies, the clock, and the desk for triage. Each method takes one input with the broker's append time of its record,
and gives what is to be published because of it, and messages for other partitions. Nothing here reads a clock. Times
are microseconds.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Final

from auditgap.core import desk, intake, policy, times
from auditgap.core.desk import Desk
from auditgap.core.indicators import DAY
from auditgap.core.inputs import FEED_SUBJECT_PREFIX, Activity, Rejection, is_settings
from auditgap.core.intake import APPLIED, REPEAT, Mail, Outcome
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation
from auditgap.core.policy import Policy
from auditgap.core.records import Emission
from auditgap.core.triage import TRIAGE_TYPES

_POLICY: Final = "@policy"
_CLOCK: Final = "@clock"

TICK_LIMIT: Final = 3600 * times.SECOND
"""How far one tick moves time forward: a broker's clock that jumps ahead does no more harm than that."""

_compact = json.JSONEncoder(separators=(",", ":")).encode


def split_key(key: str) -> tuple[str, str]:
    """Take the key of a ledger's record apart: subject, and key in the ledger. Raises ValueError for another one."""
    length, colon, rest = key.partition(":")
    if not (colon and length.isdecimal()):
        raise ValueError(f"a state record {key!r} was written by a newer version")
    return rest[: int(length)], rest[int(length) :]


def split_policy_key(key: str) -> tuple[str | None, int] | None:
    """Take the key of a version of a policy apart: whose (None: the defaults), and which; None for another key."""
    if not key.startswith(_POLICY):
        return None
    organization_id, version = json.loads(key.removeprefix(_POLICY))
    return organization_id, version


def everywhere(_: str) -> bool:
    """Say that every subject is at home here: for whoever has but one shard."""
    return True


class Shard:
    """See the module. `is_home` tells whether a subject belongs to this partition.

    `touched` holds the ledgers that took something in since their changes were last asked for, `_awake` those that the
    next tick has to look at, `_due` when the others want to be looked at. Persisting (`changes`, `restore`) is
    by small records under keys of their own: `<length of subject>:<subject><key in the ledger>`, or `@…` for what the
    ledgers share.
    """

    __slots__ = ("_awake", "_changed", "_due", "clock", "desk", "is_home", "ledgers", "policies", "touched")

    def __init__(self, is_home: Callable[[str], bool] = everywhere) -> None:
        self.is_home = is_home
        self.ledgers: dict[str, Ledger] = {}
        self.policies: dict[str | None, tuple[Policy, ...]] = {}
        self.touched: set[Ledger] = set()
        self.clock = 0
        self._awake: set[Ledger] = set()
        self._due: list[tuple[int, str]] = []
        self.desk = Desk()
        self._changed: dict[str, bytes | None] = {}

    def ledger(self, subject: str) -> Ledger:
        """Find a subject's ledger, or begin it."""
        ledger = self.ledgers.get(subject)
        if ledger is None:
            ledger = self.ledgers[subject] = Ledger(subject)
            ledger.policies = self._policies_of(subject)
        return ledger

    # --- inputs -----------------------------------------------------------------------------------------------------

    def activity(
        self,
        activity: Activity,
        append_time: int,
        produced_at: int,
        *,
        trusted: bool = True,
        fault: str | None = None,
    ) -> Outcome:
        """Take in one activity; revisions that follow are stamped `produced_at`. For the last two see intake.take."""
        ledger = self.ledger(activity.subject)
        self.touched.add(ledger)
        outcome = intake.take(self.ledgers, activity, append_time, produced_at, trusted=trusted, fault=fault)
        if outcome.repeat:
            return outcome
        self.desk.follow(ledger, outcome.emissions)
        mail: tuple[Mail, ...] = ()
        if is_settings(activity):
            mail = self.desk.disabled(ledger, activity.id)
        elif outcome.rejection is None and activity.type in TRIAGE_TYPES:
            mail = self.desk.activity(activity)
        return replace(outcome, mail=mail) if mail else outcome

    def observation(
        self,
        seen: Observation,
        append_time: int,
        produced_at: int,
        *,
        trusted: bool = True,
        fault: str | None = None,
    ) -> Outcome:
        """Take in what a collector saw, or an operator stated."""
        ledger = self.ledger(seen.subject)
        self.touched.add(ledger)
        outcome = intake.observe(self.ledgers, seen, append_time, produced_at, trusted=trusted, fault=fault)
        self.desk.follow(ledger, outcome.emissions)
        return outcome

    def policy(self, version: Policy, produced_at: int) -> Outcome:
        """Take in a version of the policy; its append time is its own."""
        chain = self.policies.get(version.organization_id, ())
        longer = policy.extended(chain, version)
        if isinstance(longer, Rejection):
            return Outcome(rejection=longer)
        if longer is chain:
            return REPEAT
        self.policies[version.organization_id] = longer
        name = json.dumps([version.organization_id, version.version])
        shape = {**policy.as_shape(version), "append_time": version.append_time}
        self._changed[f"{_POLICY}{name}"] = _compact(shape).encode()
        concerned = self.ledgers.values() if version.organization_id is None else self._named(version.organization_id)
        emissions: list[Emission] = []
        for ledger in concerned:
            self.touched.add(ledger)
            ledger.govern(self._policies_of(ledger.subject))
            out = ledger.settle(produced_at)
            self.desk.follow(ledger, out)
            emissions += out
            # The defaults concern everybody: it is said where it matters.
            if version.organization_id is not None or ledger.open:
                emissions += ledger.policy_changed(version, chain[-1] if chain else None, produced_at)
        return Outcome(tuple(emissions)) if emissions else APPLIED

    def post(self, mail: Mail, append_time: int, produced_at: int) -> Outcome:  # noqa: ARG002
        """Take in a message of another shard, or of this one. Raises ValueError for a kind that is not known.

        Alerts that follow from it are published by `settle`.
        """
        if mail.kind == "answer":
            self.touched.add(self.ledger(mail.body["query"]["subject"]))
        letters = self.desk.post(mail)
        return Outcome(mail=letters) if letters else APPLIED

    def deliver(self, outcome: Outcome, append_time: int, produced_at: int) -> Outcome:
        """Post the mail of an outcome here, and what follows from it, until none is left: for who has but one shard."""
        emissions, waiting = [*outcome.emissions], deque(outcome.mail)
        while waiting:
            then = self.post(waiting.popleft(), append_time, produced_at)
            emissions += then.emissions
            waiting += then.mail
        return replace(outcome, emissions=tuple(emissions), mail=()) if outcome.mail else outcome

    def tick(self, moment: int, produced_at: int) -> Outcome:
        """Let time go on: it is now at least `moment`, the append time of the tick."""
        before = self.clock
        self.clock = max(self.clock, min(moment, self.clock + TICK_LIMIT if self.clock else moment))
        self._changed[_CLOCK] = str(self.clock).encode()
        emissions: list[Emission] = []
        self._awake |= self.touched
        while self._due and self._due[0][0] <= self.clock:
            self._awake.add(self.ledgers[heappop(self._due)[1]])
        for ledger in sorted(self._awake, key=lambda each: each.subject):
            emissions += ledger.tick(self.clock, produced_at)
            self.touched.add(ledger)
            due = ledger.due()
            if due is not None:
                heappush(self._due, (max(due, self.clock + 1), ledger.subject))
        self._awake.clear()
        if self.clock // DAY > before // DAY:
            self.desk.forget(self.clock)
        return Outcome(tuple(emissions)) if emissions else APPLIED

    def refused(
        self, rejection: Rejection, subject: str, record_id: str, append_time: int, produced_at: int
    ) -> list[Emission]:
        """Say that a record that nobody can read went to the dead letters, where that is worth an alert."""
        ledger = self.ledger(subject)
        self.touched.add(ledger)
        return ledger.rejected(rejection, None, record_id, append_time, produced_at)

    def settle(self, produced_at: int) -> Iterator[Emission]:
        """Publish what ordinary activities and mail changed since: brackets, counts, triage, and alerts of them."""
        for ledger in self.touched:
            if ledger.stale:
                out = ledger.settle(produced_at)
                yield from out
                self.desk.follow(ledger, out)
            yield from self.desk.settle(ledger, produced_at)

    def _named(self, subject: str) -> Iterable[Ledger]:
        ledger = self.ledgers.get(subject)
        return () if ledger is None else (ledger,)

    def _policies_of(self, subject: str) -> tuple[Policy, ...]:
        own = () if subject.startswith(FEED_SUBJECT_PREFIX) else self.policies.get(subject, ())
        return (*self.policies.get(None, ()), *own)

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        yield from self._changed.items()
        self._changed.clear()
        yield from self.desk.changes()
        for ledger in self.touched:
            prefix = f"{len(ledger.subject)}:{ledger.subject}"
            for key, value in ledger.changes():
                yield prefix + key, value
        self._awake |= self.touched
        self.touched.clear()

    @classmethod
    def restore(cls, records: Mapping[str, bytes], is_home: Callable[[str], bool] = everywhere) -> "Shard":
        """Undo `changes`: `records` holds the latest value of each key. Raises ValueError for an unknown one."""
        shard = cls(is_home)
        by_subject: dict[str, dict[str, bytes]] = {}
        policies = []
        at_desk = {key: value for key, value in records.items() if key.startswith(desk.PREFIXES)}
        shard.desk = Desk.restore(at_desk)
        for key, value in records.items():
            if key.startswith(_POLICY):
                shape = json.loads(value)
                version = policy.from_shape(shape, shape["append_time"])
                if isinstance(version, Rejection):
                    raise ValueError(f"{key} in the state cannot be read: {version.detail}")
                policies.append(version)
            elif key == _CLOCK:
                shard.clock = int(value)
            elif key not in at_desk:
                subject, name = split_key(key)
                by_subject.setdefault(subject, {})[name] = value
        for version in sorted(policies, key=lambda each: each.version):
            chain = shard.policies.get(version.organization_id, ())
            shard.policies[version.organization_id] = (*chain, version)
        for subject, values in by_subject.items():
            shard.ledgers[subject] = Ledger.restore(subject, values, shard._policies_of(subject))
        shard._awake.update(shard.ledgers.values())
        return shard
