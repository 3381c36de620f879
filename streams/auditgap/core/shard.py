"""Everything that one partition holds, and what each input makes of it: the worker, the backtest and the tests use it.

A shard has a ledger for each subject (organization, parent or feed) of its partition, and what all of them share: the
policies, the topology and the clock. Each method takes one input with the broker's append time of its record, and gives
what is to be published because of it, and messages for other partitions. Nothing here reads a clock. Times are
microseconds.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from auditgap.core import inheritance, intake, policy, times, topology
from auditgap.core.inheritance import Inherited
from auditgap.core.inputs import Activity, Actor, Rejection, key_of, organization_of
from auditgap.core.intake import APPLIED, REPEAT, Mail, Outcome
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation
from auditgap.core.policy import Policy
from auditgap.core.records import Emission
from auditgap.core.topology import Stretch, Topology

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


def everywhere(_: str) -> bool:
    """Say that every subject is at home here: for whoever has but one shard."""
    return True


class Shard:
    """See the module. `is_home` tells whether a subject belongs to this partition.

    `touched` holds the ledgers that took something in since the last `settle`. `topologies` are the chains of the
    subjects at home here, `aliases` the organizations that their uuids stand for. Persisting (`changes`, `restore`) is
    by small records under keys of their own: `<length of subject>:<subject><key in the ledger>`, or `@…` for what the
    ledgers share.
    """

    __slots__ = ("_changed", "aliases", "clock", "is_home", "ledgers", "policies", "topologies", "touched")

    def __init__(self, is_home: Callable[[str], bool] = everywhere) -> None:
        self.is_home = is_home
        self.ledgers: dict[str, Ledger] = {}
        self.policies: dict[str | None, tuple[Policy, ...]] = {}
        self.topologies: dict[str, tuple[Topology, ...]] = {}
        self.aliases: dict[str, str] = {}
        self.touched: set[Ledger] = set()
        self.clock = 0
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

    def activity(self, activity: Activity, append_time: int, produced_at: int) -> Outcome:
        """Take in one activity; revisions that follow are stamped `produced_at`.

        One that names its organization by uuid only is that organization's, wherever that is at home.
        """
        named = self._named_by_uuid(activity)
        if named is not None and not self.is_home(named):
            return Outcome(mail=(_handed("activity", named, activity, append_time),))
        return self._activity(activity, named, append_time, produced_at)

    def _activity(self, activity: Activity, named: str | None, append_time: int, produced_at: int) -> Outcome:
        ledger = self.ledger(named or activity.subject)
        self.touched.add(ledger)
        return self._told(ledger, intake.take(self.ledgers, activity, append_time, produced_at, named))

    def observation(self, seen: Observation, append_time: int, produced_at: int) -> Outcome:
        """Take in what a collector saw, as `activity` does."""
        named = self._named_by_uuid(seen) if seen.parent_id is None else None
        if named is not None:
            seen = replace(seen, organization_id=named)
            if not self.is_home(named):
                return Outcome(mail=(_handed("observation", named, seen, append_time),))
        ledger = self.ledger(seen.subject)
        self.touched.add(ledger)
        return self._told(ledger, intake.observe(self.ledgers, seen, append_time, produced_at))

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
            emissions += ledger.settle(produced_at)
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

        `mail` counts from the append time that it brings along, that of the record it is about.
        """
        try:
            match mail.kind:
                case "inherited":
                    ledger = self.ledger(mail.body["subject"])
                    told = Inherited.read(mail.body)
                    self.touched.add(ledger)
                    emissions = ledger.inherit(told, produced_at)
                    return REPEAT if emissions is None else Outcome(tuple(emissions))
                case "activity":
                    shape = mail.body["record"]
                    activity = Activity(**{**shape, "actor": Actor(**shape["actor"])})
                    return self._activity(activity, mail.body["subject"], mail.body["append_time"], produced_at)
                case "observation":
                    seen = Observation(**mail.body["record"])
                    return self.observation(seen, mail.body["append_time"], produced_at)
        except (KeyError, TypeError) as error:
            raise ValueError(f"mail of kind {mail.kind!r} is not as expected: {error}") from error
        raise ValueError(f"mail of kind {mail.kind!r} was written by a newer version")

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

    def tick(self, moment: int, produced_at: int) -> Outcome:  # noqa: ARG002
        """Let time go on: it is now at least `moment`, the append time of the tick."""
        self.clock = max(self.clock, min(moment, self.clock + TICK_LIMIT if self.clock else moment))
        self._changed[_CLOCK] = str(self.clock).encode()
        return APPLIED

    def refused(
        self, rejection: Rejection, subject: str, record_id: str, append_time: int, produced_at: int
    ) -> list[Emission]:
        """Say that a record that nobody can read went to the dead letters, where that is worth an alert."""
        ledger = self.ledger(subject)
        self.touched.add(ledger)
        return ledger.rejected(rejection, None, record_id, append_time, produced_at)

    def settle(self, produced_at: int) -> Iterator[Emission]:
        """Publish what ordinary activities changed since: brackets and counts, and the alerts that quote them."""
        for ledger in self.touched:
            if ledger.stale:
                yield from ledger.settle(produced_at)

    def _named(self, subject: str) -> Iterable[Ledger]:
        ledger = self.ledgers.get(subject)
        return () if ledger is None else (ledger,)

    def _policies_of(self, subject: str) -> tuple[Policy, ...]:
        own = () if organization_of(subject) is None else self.policies.get(subject, ())
        return (*self.policies.get(None, ()), *own)

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        yield from self._changed.items()
        self._changed.clear()
        for ledger in self.touched:
            prefix = f"{len(ledger.subject)}:{ledger.subject}"
            for key, value in ledger.changes():
                yield prefix + key, value
        self.touched.clear()

    @classmethod
    def restore(cls, records: Mapping[str, bytes], is_home: Callable[[str], bool] = everywhere) -> "Shard":
        """Undo `changes`: `records` holds the latest value of each key. Raises ValueError for an unknown one."""
        shard = cls(is_home)
        by_subject: dict[str, dict[str, bytes]] = {}
        policies = []
        topologies = []
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
            else:
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
        return shard


def _handed(kind: str, organization_id: str, record: Activity | Observation, append_time: int) -> Mail:
    """Hand a record on to its organization, with the time at which the broker had it."""
    body: dict[str, Any] = {"subject": organization_id, "append_time": append_time, "record": asdict(record)}
    return Mail(key_of(organization_id), kind, body)
