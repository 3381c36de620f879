"""`auditgap report` and `auditgap report verify`: how much of a period was audited, recomputed from the inputs.

The input topics are replayed through the same shards that the worker runs, one for each partition, from the first
record that is still there to the end they have when the command begins; the worker's own state is not used. What the
worker published is compared with what the replay gave at the positions of the worker's group.

Of the mailbox only the ticks are taken in, at the times at which the broker appended them: they say when a worker let
time go on, and so which alerts time raised. What partitions tell each other the replay finds out for itself. The
alerts' own topic is not asked: it has no chain, and what is to be verified would be its own witness.

JSON: the keys of `core.report`, and

| key | what it holds |
|---|---|
| `format` | 1; another number is another report |
| `auditgap_version`, `produced_at` | what wrote it, and when |
| `inputs` | each partition: `topic`, `topic_id`, `partition`, offsets `begin` to before `end`, `worker`: its group's |
| `records` | how many inputs were `read`, and how many `not_used`, by reason |
| `ticks` | how many were `read`; `gone_before`: of earlier times some are gone, and alerts of time with them, or null |
| `history_ranges` | the same of the gap history |
| `latest_differences` | where the topic of the latest revisions was not what the history says |
"""

import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from confluent_kafka import Message

import auditgap
from auditgap import clock
from auditgap.adapters import avro, cloudevents, mailbox
from auditgap.adapters.cloudevents import headers_of
from auditgap.adapters.job import MARK, is_text
from auditgap.adapters.kafka import input_topics, is_home, partition_of
from auditgap.adapters.replay import Range, Topics, records
from auditgap.bootstrap import schema_ids
from auditgap.config import Settings
from auditgap.core import times
from auditgap.core.inputs import FEED_SUBJECT_PREFIX, SETTINGS_TYPE, Activity, Rejection, name_of, subject_of
from auditgap.core.intake import Outcome
from auditgap.core.ledger import Ledger
from auditgap.core.observations import Observation
from auditgap.core.policy import Policy
from auditgap.core.records import Gap
from auditgap.core.report import Evidence, Scope, build, history_shape, latest_of, standing
from auditgap.core.shard import Shard
from auditgap.core.topology import Topology
from auditgap.entrypoints import report_page, show
from auditgap.errors import FailureError, UsageError

Tell = Callable[[str], None]

_Input = Activity | Observation | Policy | Topology

FORMAT: Final = 1

_NOT_RECOMPUTED: Final = frozenset({"auditgap_version", "produced_at", "latest_differences"})
"""What a verification cannot find again: it is of the moment of the report."""

_SHOWN: Final = 50
"""Lines of differences that are told; more of them say nothing new."""


def run(settings: Settings, scope: Scope, since: str, until: str, form: str, tell: Tell) -> int:
    """Write a report to stdout. Exit status 1 if what was published does not hold. Raises UsageError, BrokerError."""
    begin, end = _moment("--from", since), _moment("--to", until)
    if begin >= end:
        raise UsageError("--from has to lie before --to")
    inputs, outputs = _inputs(settings), (settings.topics.gap, settings.topics.gap_history)
    topics = Topics(settings)
    ids = topics.identified((settings.topics.activity, *outputs), inputs)
    ranges, written, positions = topics.steady([name for name in inputs if name in ids], outputs)
    history = [each for each in written if each.topic == settings.topics.gap_history]
    report = {
        "format": FORMAT,
        "auditgap_version": auditgap.__version__,
        "produced_at": times.text_of(clock.now()),
        **_computed(settings, scope, begin, end, ranges, positions, history, ids),
        "latest_differences": _latest_differences(settings, written),
    }
    if form == "json":
        click.echo(show.json_of(report))
    else:
        page = report_page.document(report)
        click.echo(report_page.markdown(page) if form == "markdown" else report_page.html(page))
    faults = list(_faults(report))
    _tell_all(faults, tell)
    return int(bool(faults))


def verify(settings: Settings, path: Path, tell: Tell) -> int:
    """Recompute a report of `--json`, and check the history as it is now. Exit status 1 if anything differs."""
    claimed = _read(path)
    if claimed["auditgap_version"] != auditgap.__version__:
        tell(f"the report was written by auditgap {claimed['auditgap_version']}, this is {auditgap.__version__}")
    ranges, history = _ranges(claimed["inputs"]), _ranges(claimed["history_ranges"])
    _check_there(settings, claimed, [*ranges, *history])
    recomputed = _computed(
        settings,
        Scope(claimed["scope"]["kind"], claimed["scope"]["id"]),
        _moment("from", claimed["from"]),
        _moment("to", claimed["to"]),
        ranges,
        {
            (each["topic"], each["partition"]): each["worker"]
            for each in claimed["inputs"]
            if each["worker"] is not None
        },
        history,
        {each["topic"]: each["topic_id"] for each in (*claimed["inputs"], *claimed["history_ranges"])},
    )
    left_out = _NOT_RECOMPUTED | {"format"}
    faults = list(_faults(claimed))
    faults += _apart(
        {name: each for name, each in claimed.items() if name not in left_out}, json.loads(show.json_of(recomputed))
    )
    faults += _now(settings)
    faults = list(dict.fromkeys(faults))
    _tell_all(faults, click.echo)
    if faults:
        click.echo(f"the report does not hold: {show.counted(len(faults), 'finding')}")
        return 1
    of = show.counted(recomputed["records"]["read"], "record")
    click.echo(f"the report holds: recomputed from {of}, and the chain of the gap history is whole")
    return 0


def _moment(name: str, value: str) -> int:
    moment = times.parse(value)
    if moment is None:
        raise UsageError(f"{name} takes a time with a zone, such as 2026-11-23T17:00:00Z, not {value!r}")
    return moment


def _inputs(settings: Settings) -> tuple[str, ...]:
    """Name the topics that are replayed."""
    return tuple(input_topics(settings).values())


# --- replay -----------------------------------------------------------------------------------------------------------


class Replay:
    """Takes in records of the input topics as the worker does, with a shard for each partition.

    A record on a partition that its subject does not belong to counts where the worker handed it to; where that did
    not happen, it counts all the same (`late`). `awaited` names whom there was mail for that `take` was told of as not
    yet taken in by the worker.
    """

    def __init__(self, settings: Settings, ranges: Iterable[Range]) -> None:
        numbers = [each.partition for each in ranges if each.topic == settings.topics.activity]
        self._partitions = len(numbers)
        self._shards = [Shard(partial(is_home, number, self._partitions)) for number in range(self._partitions)]
        self.as_of = 0
        self.read = self.ticks = 0
        self.not_used: Counter[str] = Counter()
        self.awaited: set[str] = set()
        self.first: dict[tuple[str, int], int] = {}
        self._feeds: dict[str, set[str]] = defaultdict(set)
        self._ids = schema_ids(settings)
        self._topics = settings.topics
        self._mailbox = settings.worker.mailbox
        self._mislaid: dict[bytes, tuple[_Input, int]] = {}

    def take(self, message: Message, *, seen: bool) -> None:
        """Take in one record; `seen`: the worker had taken it in as well."""
        append_time = message.timestamp()[1] * 1000
        self.first.setdefault((message.topic() or "", message.partition() or 0), append_time)
        self.as_of = max(self.as_of, append_time)
        if message.topic() == self._mailbox:
            self._take_mail(message, append_time, seen=seen)
            return
        self.read += 1
        found = self._decoded(message, append_time)
        if isinstance(found, Rejection):
            self._unreadable(message, found, append_time)
        elif isinstance(found, Policy) and found.organization_id is None:
            # The defaults are at home in every partition.
            self._took(self._shards[message.partition() or 0].policy(found, append_time), append_time)
        elif self.home(_subject(found)) != message.partition():
            self._mislaid[_place(message)] = found, append_time
        else:
            for name, value in headers_of(message) or ():
                if name == "auditgap_forwarded_from":
                    self._mislaid.pop(value, None)
            self._take_input(found, append_time)

    def _decoded(self, message: Message, append_time: int) -> _Input | Rejection:
        if not is_text(message.key()):
            return Rejection("bad_key", "the key is not UTF-8")
        if message.topic() == self._topics.policy:
            return avro.decode_policy(self._ids, message.value(), append_time)
        if message.topic() == self._topics.topology:
            return avro.decode_topology(self._ids, message.value(), append_time)
        if message.topic() == self._topics.observation:
            return avro.decode_observation(self._ids, message.value())
        return avro.decode_activity(self._ids, message.value())

    def _unreadable(self, message: Message, why: Rejection, append_time: int) -> None:
        """Take in that there is a record that nobody can read: an activity may have been a settings event."""
        self.not_used[why.reason] += 1
        claimed = cloudevents.claims(headers_of(message))
        is_activity = message.topic() == self._topics.activity
        if is_activity and (
            (claimed is not None and claimed.type == SETTINGS_TYPE) or MARK in (message.value() or b"")
        ):
            subject = subject_of(None, "unknown")
            if claimed is not None and self.home(claimed.subject) == message.partition():
                subject = claimed.subject
            refusal = Rejection("settings_unreadable", why.detail)
            shard = self._shards[self.home(subject)]
            shard.refused(refusal, subject, _place(message).decode(), append_time, append_time)

    def _take_input(self, found: _Input, append_time: int) -> None:
        shard = self._shards[self.home(_subject(found))]
        match found:
            case Policy():
                outcome = shard.policy(found, append_time)
            case Topology():
                outcome = shard.topology(found, append_time)
            case Observation():
                outcome = shard.observation(found, append_time, append_time)
            case Activity():
                outcome = shard.activity(found, append_time, append_time)
        if isinstance(found, Activity | Observation) and found.feed_id is not None:
            self._feeds[found.subject].add(found.feed_id)
        self._took(outcome, append_time)

    def _took(self, outcome: Outcome, append_time: int) -> None:
        if outcome.rejection is not None:
            self.not_used[outcome.rejection.reason] += 1
        for mail in outcome.mail:
            self._took(self._shards[self.home(mail.key)].post(mail, append_time, append_time), append_time)

    def _take_mail(self, message: Message, append_time: int, *, seen: bool) -> None:
        """Let time go on with a tick; of what else is in the mailbox only note whom it is for."""
        try:
            mail = mailbox.decode(message.key(), message.value())
        except ValueError:
            raise FailureError(f"{_place(message).decode()} was written by a newer version of auditgap") from None
        if isinstance(mail, Rejection):
            return
        if mail.kind == mailbox.TICK:
            self.ticks += 1
            shard = self._shards[message.partition() or 0]
            self._settle(shard, append_time)
            shard.tick(append_time, append_time)
        elif not seen and "subject" in mail.body:
            self.awaited.add(str(mail.body["subject"]))

    def _settle(self, shard: Shard, now: int) -> None:
        """Do what the worker does at each commit: what changed is published, told to members, and let go of."""
        for each in (shard.settle(now), shard.changes()):
            deque(each, maxlen=0)
        self._took(Outcome(mail=tuple(shard.letters())), now)

    def late(self) -> None:
        """Take in what nobody has handed on yet."""
        for found, append_time in self._mislaid.values():
            self._take_input(found, append_time)
        self._mislaid.clear()

    def standing(self) -> dict[str, Gap]:
        """Give the gaps that stand now."""
        while touched := [shard for shard in self._shards if shard.touched]:
            for shard in touched:
                self._settle(shard, self.as_of)
        return standing(gap for ledger in self.ledgers().values() for gap in ledger.gaps.values())

    def ledgers(self) -> dict[str, Ledger]:
        """Give all ledgers, by subject."""
        return {name: ledger for shard in self._shards for name, ledger in shard.ledgers.items()}

    def named(self) -> frozenset[str]:
        """Name the organizations of the policy."""
        return frozenset(name for shard in self._shards for name in shard.policies if name is not None)

    def feeds(self) -> dict[str, frozenset[str]]:
        """Name the feeds of each subject: those of its records, and those whose keys can see it."""
        found = {name: {*feeds} for name, feeds in self._feeds.items()}
        for feed, ledger in self.ledgers().items():
            if feed.startswith(FEED_SUBJECT_PREFIX):
                for member in ledger.members:
                    found.setdefault(member, set()).add(feed.removeprefix(FEED_SUBJECT_PREFIX))
        return {name: frozenset(feeds) for name, feeds in found.items()}

    def members_of(self, subjects: Iterable[str]) -> set[str]:
        """Name these subjects and the members of those that are parents or feeds."""
        ledgers = self.ledgers()
        return {*subjects, *(name for each in subjects if each in ledgers for name in ledgers[each].members)}

    def home(self, subject: str) -> int:
        """Name the partition that a subject belongs to."""
        return partition_of(subject, self._partitions)


def _subject(found: _Input) -> str:
    """Name whose an input is; the defaults of the policy are everybody's."""
    return found.organization_id or "" if isinstance(found, Policy) else found.subject


def _place(message: Message) -> bytes:
    return f"{message.topic()}/{message.partition()}/{message.offset()}".encode()


def _computed(
    settings: Settings,
    scope: Scope,
    begin: int,
    end: int,
    ranges: list[Range],
    positions: dict[tuple[str, int], int],
    history_ranges: list[Range],
    ids: dict[str, str],
) -> dict[str, Any]:
    """Replay, and give all of the report that a verification can find again."""
    replay = Replay(settings, ranges)
    # First what the worker had taken in, so that what it had published can be compared with just that.
    reached = {each.place: min(max(positions.get(each.place, 0), each.begin), each.end) for each in ranges}
    for message in records(settings, [Range(*e.place, e.begin, reached[e.place]) for e in ranges]):
        replay.take(message, seen=True)
    compared = replay.standing()
    for message in records(settings, [Range(*e.place, reached[e.place], e.end) for e in ranges]):
        replay.take(message, seen=False)
    replay.late()
    replay.standing()
    if not replay.read:
        raise FailureError(
            "there is nothing to report on: no record is on "
            f"{' or '.join(sorted({e.topic for e in ranges} - {settings.worker.mailbox}))}"
        )
    history = list(_gaps(settings, history_ranges))
    ledgers, feeds = replay.ledgers(), replay.feeds()
    subjects = ledgers.keys() | {gap.subject for gap in history}
    if scope.kind != "all" and not any(scope.holds(name, feeds.get(name, ())) for name in subjects):
        named = scope.id in replay.named()
        raise UsageError(
            f"{scope.kind} {show.clean(scope.id or '')} was never seen on {settings.topics.activity}"
            f"{', though the policy names it' if named else ''}; "
            f"{len(ledgers):,} organizations, parents and feeds were"
        )
    evidence = Evidence(
        ledgers=ledgers,
        feeds=feeds,
        named=replay.named(),
        as_of=replay.as_of,
        compared=compared,
        history=history,
        kept_since=_kept_since(settings, replay, ranges, subjects),
        awaited=frozenset(replay.members_of(replay.awaited)),
    )
    return {
        **build(scope, begin, end, evidence),
        "inputs": [_range_shape(each, ids) | {"worker": positions.get(each.place)} for each in ranges],
        "records": {"read": replay.read, "not_used": dict(sorted(replay.not_used.items()))},
        "ticks": {"read": replay.ticks, "gone_before": _ticks_gone_before(settings, replay, ranges)},
        "history_ranges": [_range_shape(each, ids) for each in history_ranges],
    }


def _kept_since(settings: Settings, replay: Replay, ranges: Iterable[Range], subjects: Iterable[str]) -> dict[str, int]:
    """Say from when on the inputs of each subject are still there, for those of which some are gone."""
    evidence = (settings.topics.activity, settings.topics.observation)
    since: dict[int, int] = {}
    for each in ranges:
        if each.begin > 0 and each.topic in evidence:
            since[each.partition] = max(since.get(each.partition, 0), replay.first.get(each.place, replay.as_of + 1))
    homes = {name: replay.home(name) for name in subjects}
    return {name: since[home] for name, home in homes.items() if home in since}


def _ticks_gone_before(settings: Settings, replay: Replay, ranges: Iterable[Range]) -> str | None:
    """Say before when ticks are gone, None where every partition's mailbox is still there from its first record."""
    cut = [each.place for each in ranges if each.topic == settings.worker.mailbox and each.begin > 0]
    return times.text_of(max(replay.first.get(place, replay.as_of) for place in cut)) if cut else None


def _range_shape(each: Range, ids: dict[str, str]) -> dict[str, Any]:
    return {
        "topic": each.topic,
        "topic_id": ids[each.topic],
        "partition": each.partition,
        "begin": each.begin,
        "end": each.end,
    }


# --- what was published -----------------------------------------------------------------------------------------------


def _gaps(settings: Settings, ranges: Iterable[Range]) -> Iterator[Gap]:
    """Read the gaps of ranges. Raises FailureError at a record that is none: a stranger wrote it."""
    ids = schema_ids(settings)
    for message in records(settings, ranges):
        try:
            gap = avro.decode_emission(ids, message.value() or b"", "gap")
        except (KeyError, TypeError, ValueError) as error:
            gap = Rejection("not_avro", f"{type(error).__name__}: {error}")
        if not isinstance(gap, Gap):
            place = f"{message.topic()}, partition {message.partition()}, offset {message.offset()}"
            detail = gap.detail if isinstance(gap, Rejection) else "it is an alert"
            raise FailureError(f"{place} is no gap, so the history cannot be trusted: {detail}")
        yield gap


def _latest_differences(settings: Settings, written: list[Range]) -> list[dict[str, Any]]:
    """Compare the topic of the latest revisions with the history."""
    by_topic = {
        name: latest_of(_gaps(settings, [each for each in written if each.topic == name]))
        for name in (settings.topics.gap, settings.topics.gap_history)
    }
    latest, history = by_topic[settings.topics.gap], by_topic[settings.topics.gap_history]
    return [
        {
            "gap_id": gap_id,
            "what": f"its latest revision on {settings.topics.gap} is {_revision(latest.get(gap_id))}, "
            f"in {settings.topics.gap_history} it is {_revision(history.get(gap_id))}",
        }
        for gap_id in sorted(latest.keys() | history.keys())
        if latest.get(gap_id) != history.get(gap_id)
    ]


def _revision(gap: Gap | None) -> str:
    if gap is None:
        return "not there"
    return f"number {gap.revision} (sequence {gap.history_sequence}, {gap.state})"


def _faults(report: dict[str, Any]) -> Iterator[str]:
    """Say in a line each what a report itself finds wrong with what was published."""
    for fault in report["history"]["faults"]:
        yield f"gap history of {_whose(fault)}: {fault['what']}"
    for each in report["differences"]:
        yield f"gap {each['gap_id']} of {_whose(each)}: {each['what']}"
    for each in report["latest_differences"]:
        yield f"gap {each['gap_id']}: {each['what']}"


def _whose(shape: dict[str, Any]) -> str:
    return name_of(subject_of(shape["organization_id"], shape["feed_id"], shape["parent_id"]))


def _tell_all(faults: list[str], tell: Callable[[str], Any]) -> None:
    for fault in faults[:_SHOWN]:
        tell(show.clean(fault))
    if len(faults) > _SHOWN:
        tell(f"and {len(faults) - _SHOWN:,} more")


# --- verification -----------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is no report of `auditgap report --json`: it is not JSON") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UsageError(f"{path} is no report of `auditgap report --json`, or one of a newer version")
    return report


def _ranges(shapes: list[dict[str, Any]]) -> list[Range]:
    return [Range(each["topic"], each["partition"], each["begin"], each["end"]) for each in shapes]


def _check_there(settings: Settings, claimed: dict[str, Any], ranges: list[Range]) -> None:
    """See that all records that the report names are still there. Raises FailureError."""
    named = {each["topic"]: each["topic_id"] for each in (*claimed["inputs"], *claimed["history_ranges"])}
    expected = {*_inputs(settings), settings.topics.gap_history}
    if strangers := sorted(named.keys() - expected):
        raise UsageError(f"the report is of topic {strangers[0]}; the settings name {', '.join(sorted(expected))}")
    topics = Topics(settings)
    ids = topics.identified(sorted(named), ())
    for name, topic_id in named.items():
        if ids[name] != topic_id:
            raise FailureError(f"cannot be verified: topic {name} was made anew since, its records are others")
    now = {each.place: each for each in topics.ranges(named)}
    for each in ranges:
        there = now.get(each.place)
        if each.begin < each.end and (there is None or there.begin > each.begin or there.end < each.end):
            left = "none" if there is None else f"{there.begin} to {there.end}"
            raise FailureError(
                f"cannot be verified: records of {each.topic}, partition {each.partition}, offsets {each.begin} to "
                f"{each.end}, are no longer there (left: {left}); retention or somebody took them away"
            )


def _now(settings: Settings) -> Iterator[str]:
    """Check what is published at this moment: the chain of the whole history, and the latest revisions against it."""
    _, written, _ = Topics(settings).steady(
        (settings.topics.activity,), (settings.topics.gap, settings.topics.gap_history)
    )
    history = history_shape(_gaps(settings, [each for each in written if each.topic == settings.topics.gap_history]))
    yield from _faults(
        {"history": history, "differences": [], "latest_differences": _latest_differences(settings, written)}
    )


def _apart(claimed: Any, recomputed: Any, path: str = "") -> Iterator[str]:
    """Name every place where two values of JSON differ."""
    if isinstance(claimed, dict) and isinstance(recomputed, dict):
        for name in dict.fromkeys((*claimed, *recomputed)):
            here = f"{path}.{name}" if path else name
            if name not in recomputed or name not in claimed:
                yield f"{here}: only {'the report has it' if name in claimed else 'the recomputed report has it'}"
            else:
                yield from _apart(claimed[name], recomputed[name], here)
    elif isinstance(claimed, list) and isinstance(recomputed, list) and len(claimed) == len(recomputed):
        for number, (old, new) in enumerate(zip(claimed, recomputed, strict=True)):
            yield from _apart(old, new, f"{path}[{number}]")
    elif isinstance(claimed, list) and isinstance(recomputed, list):
        yield f"{path}: the report lists {len(claimed):,}, recomputed it is {len(recomputed):,}"
    elif claimed != recomputed:
        yield f"{path}: the report says {json.dumps(claimed)[:200]}, recomputed it is {json.dumps(recomputed)[:200]}"
