"""`auditgap backtest`: the core over feed files, without a broker.

The API gives activities newest first, and files may hold any order; the ids that bracket a window must not depend on
it. So settings events are folded as they come, observations and ordinary activities are put by until all of them are
known, and then taken in by time, each once. (`--history` shows what a worker would have said, and takes everything as
it comes, observations last.) Parents and feeds of a topology go before the others, so that their windows are known when
the records of their members are taken in.
"""

import hashlib
import io
import marshal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Final

import click
import orjson

from auditgap import clock, feedfiles
from auditgap.adapters.policy_yaml import PolicyFile
from auditgap.adapters.topology_yaml import TopologyFile
from auditgap.core import policy as policy_core
from auditgap.core import times
from auditgap.core import topology as topology_core
from auditgap.core.inputs import OPERATOR, Activity, Rejection, canonical, read_activity
from auditgap.core.intake import observe, refused_time, take
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation, read_observation
from auditgap.core.records import Alert, Emission, Gap, Status
from auditgap.core.shard import Shard
from auditgap.entrypoints import policy, show, topology
from auditgap.entrypoints.sources import Sources
from auditgap.errors import UsageError

Tell = Callable[[str], None]

_SETTLE_EVERY: Final = 1000
"""Records between two revisions of a bracket in `--history`: a worker's batch."""

_PARTS: Final = 64
"""Files that hold what was put by: one of them at a time has to fit in memory, sorted."""

_HELD_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Findings:
    """What a backtest found. `records` is everything that was in the files, each counted once in the others."""

    records: int = 0
    duplicates: int = 0
    rejected: int = 0
    organizations: int = 0
    gaps: list[Gap] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    status: list[Status] = field(default_factory=list)

    def shape(self) -> dict[str, object]:
        """Give it under the field names of the schemas."""
        counts = {name: getattr(self, name) for name in ("records", "duplicates", "rejected", "organizations")}
        return counts | {
            name: [show.shape_of(each) for each in getattr(self, name)] for name in ("gaps", "alerts", "status")
        }


def run(
    files: Sequence[str],
    *,
    as_json: bool,
    history: bool,
    until: str | None,
    observations: Sequence[str] = (),
    policy_file: Path | None = None,
    topology_file: Path | None = None,
) -> int:
    """Run the command; gives its exit status. Raises UsageError."""
    now = clock.now() if until is None else times.parse(until)
    if now is None:
        raise UsageError(f"--until takes a time with a zone, such as 2026-11-23T17:00:00Z, not {until!r}")

    def say(line: str) -> None:
        click.echo(line, err=True)

    rules = None if policy_file is None else policy.read(policy_file, say)
    links = None if topology_file is None else topology.read(topology_file, say, now)
    if (policy_file is not None and rules is None) or (topology_file is not None and links is None):
        return UsageError.exit_status

    def show_now(emission: Emission) -> None:
        click.echo(show.json_of(show.shape_of(emission)) if as_json else "\n".join(_lines(emission, now)))

    with (
        Sources([*files, *observations], bar=not history) as sources,
        Backtest(now, sources.tell, show_now if history else None, rules, links) as test,
    ):
        unread = sum(
            not (test.observed(name, source) if name in observations else test.file(name, source))
            for name, source in sources
        )
        unread += sources.unopened
        found = test.findings()
    if unread == len(files) + len(observations):
        click.echo("auditgap: no file could be read", err=True)
        return UsageError.exit_status
    totals = " · ".join(
        (
            show.counted(found.records, "record"),
            show.counted(found.duplicates, "duplicate"),
            f"{found.rejected:,} rejected",
            show.counted(found.organizations, "organization"),
            show.counted(len(found.gaps), "gap"),
            show.counted(len(found.alerts), "alert"),
        )
    )
    if history:
        click.echo(totals, err=True)
    elif as_json:
        click.echo(show.json_of(found.shape()))
    else:
        records: list[Emission] = [*found.gaps, *found.alerts]
        for record in records:
            click.echo("\n".join(_lines(record, now)))
        click.echo(totals)
    return int(bool(found.gaps or test.cut_off or unread))


def _lines(emission: Emission, now: int) -> list[str]:
    return [*show.lines_of(emission, now), ""]


class Backtest:
    """Takes feed files in; `findings` folds what they hold. `now` stands for the append time of every record."""

    def __init__(
        self,
        now: int,
        tell: Tell,
        on_emission: Callable[[Emission], None] | None = None,
        rules: PolicyFile | None = None,
        links: TopologyFile | None = None,
    ) -> None:
        self._now = now
        self._shard = Shard()
        for subject, says in (links.subjects if links else {}).items():
            self._shard.topology(topology_core.successor(None, subject, says, "file", now), now)
        self._rules = rules
        self._observations: dict[str, list[Observation]] = {}
        self._tell = tell
        self._on_emission = on_emission
        self._ledgers = self._shard.ledgers
        self._put_by, self._put_by_first = _PutBy(), _PutBy()
        self._seen = _Seen()
        self._records = self._rejected = 0
        self.cut_off = False

    def __enter__(self) -> "Backtest":
        return self

    def __exit__(self, *_: object) -> None:
        self._put_by.close()
        self._put_by_first.close()

    def file(self, name: str, source: feedfiles.Source) -> bool:
        """Take in everything in a feed file; what is refused is told by line. False if it is no feed file."""
        return self.found(name, feedfiles.read(source))

    def found(self, name: str, found: Iterable[feedfiles.Found]) -> bool:
        """Take in what was found in a file; False if there was nothing but what cannot be read."""
        read = refused = 0
        now, ledgers, emit = self._now, self._ledgers, self._on_emission
        for line, item, raw, record in found:
            self._records += 1
            activity = record if isinstance(record, Rejection) else read_activity(record, raw, None)
            if isinstance(activity, Rejection):
                self._reject(name, line, item, activity)
                self.cut_off |= isinstance(activity, feedfiles.CutOff)
                refused += 1
                continue
            read += 1
            named = self._named(activity)
            self._ledger_of(named or activity.subject)
            outcome = take(ledgers, activity, now, now, organization_id=named)
            if outcome.rejection is not None:
                self._reject(name, line, item, outcome.rejection)
            else:
                self._seen.add(record)
            if emit is not None:
                for emission in outcome.emissions:
                    emit(emission)
                if outcome.emissions:
                    self._tell_members()
                if self._records % _SETTLE_EVERY == 0:
                    self._settle()
        self._settle()
        return bool(read) or not refused

    def observed(self, name: str, source: feedfiles.Source) -> bool:
        """Take in a file of observations; what is refused is told by line. False if it is none."""
        read = refused = 0
        for line, item, _, record in feedfiles.read(source):
            self._records += 1
            seen = record if isinstance(record, Rejection) else read_observation(record)
            if isinstance(seen, Observation):
                named = self._named(seen) if seen.parent_id is None else None
                seen = seen if named is None else replace(seen, organization_id=named)
                self._ledger_of(seen.subject)
                self._seen.add(record)
                refusal = refused_time(seen, self._now)
                if refusal is None:
                    read += 1
                    if seen.kind == OPERATOR:
                        # Its time is exact: what was recorded around it is looked for as around a settings event.
                        self._saw(seen)
                    else:
                        self._observations.setdefault(seen.subject, []).append(seen)
                    continue
                seen = refusal
            self._reject(name, line, item, seen)
            self.cut_off |= isinstance(seen, feedfiles.CutOff)
            refused += 1
        return bool(read) or not refused

    def _named(self, record: Activity | Observation) -> str | None:
        """Give the organization that a record names by its uuid only, where the topology knows it."""
        if record.organization_id is not None or record.organization_uuid is None:
            return None
        return self._shard.aliases.get(record.organization_uuid)

    def _ledger_of(self, subject: str) -> None:
        if subject not in self._ledgers:
            members = topology_core.members_of(self._shard.topologies.get(subject, ()))
            put_by = self._put_by_first if members else self._put_by
            fresh = Ledger(subject) if self._on_emission else _Waiting(subject, len(self._ledgers), put_by)
            fresh.members = members
            if self._rules is not None:
                # A file has one version: what it says counts from its valid_from, or always.
                rules = self._rules.organizations.get(subject, self._rules.defaults)
                since = self._rules.valid_from or 0
                version = policy_core.successor(None, fresh.organization_id, rules, "file", since, since)
                fresh.govern((version,))
            self._ledgers[subject] = fresh

    def _observe(self, ledger: Ledger, until: bytes | None = None) -> None:
        """Take in what was seen, up to the time of an entry, or all."""
        waiting = self._observations.get(ledger.subject)
        while waiting and (until is None or times.text_of(waiting[-1].ends).encode() < until):
            self._saw(waiting.pop())

    def _saw(self, seen: Observation) -> None:
        for emission in observe(self._ledgers, seen, self._now, self._now).emissions:
            if self._on_emission is not None:
                self._on_emission(emission)

    def _tell_members(self) -> None:
        """Let members know what changed about their parents and feeds."""
        shard = self._shard
        shard.touched.update(self._ledgers[name] for name in shard.topologies if name in self._ledgers)
        for mail in shard.letters():
            self._ledger_of(mail.body["subject"])
            for emission in shard.post(mail, self._now, self._now).emissions:
                if self._on_emission is not None:
                    self._on_emission(emission)
        shard.touched.clear()

    def findings(self) -> Findings:
        """Give the windows that stand after all, and what was raised about them."""
        for waiting in self._observations.values():
            waiting.sort(key=lambda seen: (seen.ends, seen.id), reverse=True)
        for put_by in (self._put_by_first, self._put_by):
            by_number = list(self._ledgers.values())
            for number, entry in put_by.in_order():
                if self._observations:
                    self._observe(by_number[number], entry)
                Ledger.activity(by_number[number], entry)
            for ledger in by_number:
                if ledger.members or put_by is self._put_by:
                    self._observe(ledger)
            self._settle()
        by_number = list(self._ledgers.values())
        for ledger in by_number:
            for emission in ledger.tick(self._now, self._now):
                if self._on_emission is not None:
                    self._on_emission(emission)
        found = Findings(
            records=self._records,
            duplicates=self._seen.repeats(),
            rejected=self._rejected,
            organizations=sum(ledger.organization_id is not None for ledger in by_number),
        )
        for ledger in by_number:
            found.gaps += [gap for gap in ledger.gaps.values() if gap.state not in ("SUPERSEDED", "RETRACTED")]
            found.status += [ledger.status] if ledger.status is not None else []
            found.alerts += [alert for alert in ledger.alerts.values() if alert.status != "WITHDRAWN"]
        found.gaps.sort(key=show.by_opening)
        found.alerts.sort(key=lambda alert: (_time_of(alert), alert.alert_id))
        return found

    def _settle(self) -> None:
        for ledger in self._ledgers.values():
            for emission in ledger.settle(self._now):
                if self._on_emission is not None:
                    self._on_emission(emission)
        self._tell_members()

    def _reject(self, name: str, line: int, item: int, rejection: Rejection) -> None:
        self._rejected += 1
        self._tell(f"{name}: {feedfiles.where(line, item)}: {rejection.detail}")


def _time_of(alert: Alert) -> int:
    return alert.occurred_at if alert.occurred_at is not None else alert.detected_at


class _Waiting(Ledger):
    """A ledger whose ordinary activities are put by."""

    __slots__ = ("_number", "_put_by")

    def __init__(self, subject: str, number: int, put_by: "_PutBy") -> None:
        super().__init__(subject)
        self._number = number
        self._put_by = put_by

    def activity(self, entry: bytes) -> None:
        self._put_by.add(self._number, entry)


class _PutBy:
    """Activities that wait: the number of their ledger, and their entry. On disk beyond a little."""

    def __init__(self) -> None:
        self._held = [bytearray() for _ in range(_PARTS)]
        self._files: dict[int, IO[bytes]] = {}
        self._open = ExitStack()

    def add(self, number: int, entry: bytes) -> None:
        held = self._held[number % _PARTS]
        held += marshal.dumps((number, entry))
        if len(held) > _HELD_BYTES:
            part = number % _PARTS
            if part not in self._files:
                self._files[part] = self._open.enter_context(TemporaryFile())  # noqa: SIM115 - closed by the stack
            self._files[part].write(held)
            held.clear()

    def in_order(self) -> Iterator[tuple[int, bytes]]:
        """Give what waits, each ledger's by time and each activity once, and forget it."""
        for part, held in enumerate(self._held):
            stored = b""
            if (file := self._files.get(part)) is not None:
                file.seek(0)
                stored = file.read()
                file.seek(0)
                file.truncate()
            stream = io.BytesIO(stored + held)
            held.clear()
            end = len(stream.getbuffer())
            entries = set()
            while stream.tell() < end:
                entries.add(marshal.load(stream))  # noqa: S302 - our own, of this very run
            yield from sorted(entries)

    def close(self) -> None:
        self._open.close()


class _Seen:
    """Counts records that were there before: 16 bytes of memory each, compared when all are in."""

    def __init__(self) -> None:
        self._digests = [bytearray() for _ in range(256)]

    def add(self, record: object) -> None:
        """Take in a record; key order and white space do not make another of it."""
        try:
            content = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            # Half of a surrogate pair, or a number of more than 64 bits.
            content = canonical(record).encode()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        self._digests[digest[0]] += digest

    def repeats(self) -> int:
        """Count the records that were not the first of their kind."""
        return sum(
            len(part) // 16 - len({bytes(part[at : at + 16]) for at in range(0, len(part), 16)})
            for part in self._digests
        )
