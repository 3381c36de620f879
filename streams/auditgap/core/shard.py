"""Everything that one partition holds, and what each input makes of it: the worker, the backtest and the tests use it.

A shard has a ledger for each subject (organization, parent or feed) of its partition, and what all of them share: the
policies, the topology, the clock, and the desk for triage. Each method takes one input with the broker's append time of
its record, and gives what is to be published because of it, and messages for other partitions. Nothing here reads a
clock. Times are microseconds.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple

from auditgap.core import desk, inheritance, intake, notify, policy, times, topology
from auditgap.core.desk import Desk
from auditgap.core.indicators import DAY
from auditgap.core.inheritance import Inherited
from auditgap.core.inputs import Activity, Actor, Rejection, is_settings, key_of, organization_of
from auditgap.core.intake import APPLIED, REPEAT, Mail, Outcome
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation
from auditgap.core.policy import Policy
from auditgap.core.records import Emission
from auditgap.core.topology import Stretch, Topology
from auditgap.core.triage import TRIAGE_TYPES

_POLICY: Final = "@policy"
_TOPOLOGY: Final = "@topology"
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


def split_topology_key(key: str) -> tuple[str, int] | None:
    """Take the key of a version of the topology apart: whose, and which; None for another key."""
    if not key.startswith(_TOPOLOGY):
        return None
    subject, version = json.loads(key.removeprefix(_TOPOLOGY))
    return subject, version


class Sizes(NamedTuple):
    """How much a shard holds, by what it is: the parts of its state that grow."""

    assertions: int
    gaps: int
    alerts: int


def everywhere(_: str) -> bool:
    """Say that every subject is at home here: for whoever has but one shard."""
    return True


class Shard:
    """See the module. `is_home` tells whether a subject belongs to this partition.

    `touched` holds the ledgers that took something in since their changes were last asked for, `_awake` those that the
    next tick has to look at, `_due` when the others want to be looked at. `topologies` are the chains of the subjects
    at home here, `aliases` the organizations that their uuids stand for. Persisting (`changes`, `restore`) is
    by small records under keys of their own: `<length of subject>:<subject><key in the ledger>`, or `@…` for what the
    ledgers share.
    """

    __slots__ = (
        "_awake",
        "_changed",
        "_due",
        "aliases",
        "clock",
        "desk",
        "is_home",
        "ledgers",
        "policies",
        "topologies",
        "touched",
    )

    def __init__(self, is_home: Callable[[str], bool] = everywhere) -> None:
        self.is_home = is_home
        self.ledgers: dict[str, Ledger] = {}
        self.policies: dict[str | None, tuple[Policy, ...]] = {}
        self.topologies: dict[str, tuple[Topology, ...]] = {}
        self.aliases: dict[str, str] = {}
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
            ledger.members = topology.members_of(self.topologies.get(subject, ()))
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
        """Take in one activity; revisions that follow are stamped `produced_at`. For the last two see intake.take.

        One that names its organization by uuid only is that organization's, wherever that is at home.
        """
        named = self._named_by_uuid(activity)
        if named is not None and not self.is_home(named):
            return Outcome(mail=(_handed("activity", named, activity, append_time, trusted, fault),))
        return self._activity(activity, named, append_time, produced_at, trusted=trusted, fault=fault)

    def _activity(
        self,
        activity: Activity,
        named: str | None,
        append_time: int,
        produced_at: int,
        *,
        trusted: bool,
        fault: str | None,
    ) -> Outcome:
        subject = named or activity.subject
        if fault is None and (beat := notify.heartbeat(activity, subject, append_time, produced_at)) is not None:
            return Outcome(beat) if beat else APPLIED
        ledger = self.ledger(subject)
        self.touched.add(ledger)
        outcome = intake.take(
            self.ledgers, activity, append_time, produced_at, trusted=trusted, fault=fault, organization_id=named
        )
        if outcome.repeat:
            return outcome
        self.desk.follow(ledger, outcome.emissions)
        mail: tuple[Mail, ...] = ()
        if is_settings(activity):
            mail = self.desk.disabled(ledger, activity.id)
        elif outcome.rejection is None and activity.type in TRIAGE_TYPES:
            mail = self.desk.activity(activity if named is None else replace(activity, organization_id=named))
        return self._told(ledger, replace(outcome, mail=mail) if mail else outcome)

    def observation(
        self,
        seen: Observation,
        append_time: int,
        produced_at: int,
        *,
        trusted: bool = True,
        fault: str | None = None,
    ) -> Outcome:
        """Take in what a collector saw, or an operator stated; for its uuid see `activity`."""
        named = self._named_by_uuid(seen) if seen.parent_id is None else None
        if named is not None:
            seen = replace(seen, organization_id=named)
            if not self.is_home(named):
                return Outcome(mail=(_handed("observation", named, seen, append_time, trusted, fault),))
        ledger = self.ledger(seen.subject)
        self.touched.add(ledger)
        outcome = intake.observe(self.ledgers, seen, append_time, produced_at, trusted=trusted, fault=fault)
        self.desk.follow(ledger, outcome.emissions)
        return self._told(ledger, outcome)

    def _named_by_uuid(self, record: Activity | Observation) -> str | None:
        """Give the organization that a record names by its uuid only, where the topology knows it."""
        if record.organization_id is not None or record.organization_uuid is None:
            return None
        return self.aliases.get(record.organization_uuid)

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

    def topology(self, version: Topology, produced_at: int) -> Outcome:
        """Take in a version of the topology of a subject at home here; its append time is its own."""
        subject = version.subject
        chain = self.topologies.get(subject, ())
        longer = topology.extended(chain, version)
        if isinstance(longer, Rejection):
            return Outcome(rejection=longer)
        if longer is chain:
            return REPEAT
        self.topologies[subject] = longer
        self._changed[f"{_TOPOLOGY}{json.dumps([subject, version.version])}"] = _compact(
            {**topology.as_shape(version), "append_time": version.append_time}
        ).encode()
        self._learn_aliases()
        ledger = self.ledgers.get(subject)
        if ledger is None:
            return APPLIED
        self.touched.add(ledger)
        before, after = topology.members_of(chain), topology.members_of(longer)
        emissions = ledger.lead(after, produced_at)
        moved = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
        gaps = [gap_id for gap_id, gap in ledger.gaps.items() if gap.inherited_from is None]
        return Outcome(tuple(emissions), mail=tuple(self._letters(ledger, gaps, moved)))

    def post(self, mail: Mail, append_time: int, produced_at: int) -> Outcome:  # noqa: ARG002
        """Take in a message of another shard, or of this one. Raises ValueError for one that is not known.

        Alerts of triage that follow from it are published by `settle`. A record that was handed on counts from its own
        append time.
        """
        body = mail.body
        try:
            match mail.kind:
                case "inherited":
                    ledger = self.ledger(body["subject"])
                    self.touched.add(ledger)
                    emissions = ledger.inherit(Inherited.read(body), produced_at)
                    return REPEAT if emissions is None else Outcome(tuple(emissions))
                case "activity":
                    record, how = body["record"], {"trusted": body["trusted"], "fault": body["fault"]}
                    activity = Activity(**{**record, "actor": Actor(**record["actor"])})
                    return self._activity(activity, body["subject"], body["append_time"], produced_at, **how)
                case "observation":
                    how = {"trusted": body["trusted"], "fault": body["fault"]}
                    return self.observation(Observation(**body["record"]), body["append_time"], produced_at, **how)
                case "answer":
                    self.touched.add(self.ledger(body["query"]["subject"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"mail of kind {mail.kind!r} is not as expected: {error}") from error
        letters = self.desk.post(mail)
        return Outcome(mail=letters) if letters else APPLIED

    def letters(self) -> list[Mail]:
        """Tell the members of what `settle` changed about their parents and feeds: to be called after it."""
        return [mail for ledger in self.touched if ledger.news for mail in self._news(ledger)]

    def _told(self, ledger: Ledger, outcome: Outcome) -> Outcome:
        """Add to an outcome the messages to the members of its parent or feed."""
        return replace(outcome, mail=(*outcome.mail, *self._news(ledger))) if ledger.news else outcome

    def _news(self, ledger: Ledger) -> Iterator[Mail]:
        yield from self._letters(ledger, sorted(ledger.news), ledger.members)
        ledger.news.clear()

    def _letters(self, ledger: Ledger, gaps: Iterable[str], members: Iterable[str]) -> Iterator[Mail]:
        """Write to members about gaps of their parent or feed."""
        version = self.topologies[ledger.subject][-1].version
        for gap_id in gaps:
            gap, window = ledger.gaps[gap_id], ledger.windows.get(gap_id)
            for name in members:
                links: tuple[Stretch, ...] = ledger.members.get(name, ())
                told = inheritance.told(gap, sure=window is not None and window.sure, version=version, links=links)
                yield Mail(key_of(name), "inherited", {"subject": name, **told})

    def _learn_aliases(self) -> None:
        """Look up whom each uuid stands for; one that stands for several says nothing."""
        found: dict[str, set[str]] = {}
        for chain in self.topologies.values():
            for alias in chain[-1].aliases:
                found.setdefault(alias.organization_uuid, set()).add(alias.organization_id)
        self.aliases = {uuid: min(names) for uuid, names in found.items() if len(names) == 1}

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
        own = () if organization_of(subject) is None else self.policies.get(subject, ())
        return (*self.policies.get(None, ()), *own)

    def sizes(self) -> Sizes:
        """Say how much is held, all subjects together. Nothing is walked through but the list of subjects."""
        ledgers = list(self.ledgers.values())
        return Sizes(
            sum(len(track.timeline.assertions) for each in ledgers for track in (each.known, each.suspected)),
            sum(len(each.gaps) for each in ledgers),
            sum(len(each.alerts) for each in ledgers),
        )

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
        topologies = []
        at_desk = {key: value for key, value in records.items() if key.startswith(desk.PREFIXES)}
        shard.desk = Desk.restore(at_desk)
        for key, value in records.items():
            if key.startswith(_POLICY):
                shape = json.loads(value)
                version = policy.from_shape(shape, shape["append_time"])
                if isinstance(version, Rejection):
                    raise ValueError(f"{key} in the state cannot be read: {version.detail}")
                policies.append(version)
            elif key.startswith(_TOPOLOGY):
                shape = json.loads(value)
                known = topology.from_shape(shape, shape["append_time"])
                if isinstance(known, Rejection):
                    raise ValueError(f"{key} in the state cannot be read: {known.detail}")
                topologies.append(known)
            elif key == _CLOCK:
                shard.clock = int(value)
            elif key not in at_desk:
                subject, name = split_key(key)
                by_subject.setdefault(subject, {})[name] = value
        for version in sorted(policies, key=lambda each: each.version):
            chain = shard.policies.get(version.organization_id, ())
            shard.policies[version.organization_id] = (*chain, version)
        for known in sorted(topologies, key=lambda each: each.version):
            shard.topologies[known.subject] = (*shard.topologies.get(known.subject, ()), known)
        shard._learn_aliases()
        for subject, values in by_subject.items():
            ledger = shard.ledgers[subject] = Ledger.restore(subject, values, shard._policies_of(subject))
            ledger.members = topology.members_of(shard.topologies.get(subject, ()))
        shard._awake.update(shard.ledgers.values())
        return shard


def _handed(
    kind: str,
    organization_id: str,
    record: Activity | Observation,
    append_time: int,
    trusted: bool,
    fault: str | None,
) -> Mail:
    """Hand a record on to its organization, with the time at which the broker had it, and what its signature said."""
    body: dict[str, Any] = {"subject": organization_id, "append_time": append_time, "record": asdict(record)}
    return Mail(key_of(organization_id), kind, {**body, "trusted": trusted, "fault": fault})
