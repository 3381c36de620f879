"""What members inherit depends on the inputs only: not on who hears what first, how often, or dies in between."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.making import act, at, keep_changes, setting

from auditgap.core.coverage import OFF, Span
from auditgap.core.inputs import Activity
from auditgap.core.intake import Mail, Outcome
from auditgap.core.observations import Observation, read_observation
from auditgap.core.records import Alert, Emission, Gap, as_dict
from auditgap.core.shard import Shard, everywhere
from auditgap.core.times import text_of
from auditgap.core.topology import Link, Says, Topology, successor

EXAMPLES: Final = settings(max_examples=300, deadline=None, derandomize=True)

FREE: Final = frozenset({"incident_id", "revision", "produced_at", "history_sequence", "previous_digest"})
"""Fields of a gap that may depend on the order of arrival."""

PAGES: Final = frozenset({"logging_disabled", "feed_suspected_off"})

HOMES: Final = {"feed/feed_1": 0, "parent/p": 1, "org_1": 0, "org_2": 1, "org_3": 2}
UNTIL: Final = at(1000)

Input = Activity | Observation | Topology | Mail

moments = st.sampled_from([0, 1, 2, 3, 50, 100, 101, 150, 200])
flags = st.sampled_from([..., True, False])
organizations = st.sampled_from([None, None, "org_1", "org_2"])


@st.composite
def settings_events(draw: st.DrawFn) -> Input:
    """Draw a settings event of an organization or of the feed."""
    where = {"organization_id": draw(organizations), "organization_uuid": None}
    return setting(f"set_{draw(st.integers(0, 99))}", draw(moments), api=draw(flags), logging=draw(flags), **where)


@st.composite
def polls(draw: st.DrawFn) -> Input:
    """Draw a settings poll of the parent, of the feed or of an organization."""
    about = draw(st.sampled_from([{"parent_id": "p"}, {"parent_id": "p"}, {}, {"organization_id": "org_1"}]))
    seen = read_observation(
        {
            "kind": "settings_poll",
            "result": draw(st.sampled_from(["enabled", "disabled"])),
            "observed_at": text_of(at(draw(moments))),
            **about,
        },
        "feed_1",
    )
    assert isinstance(seen, Observation)
    return seen


@st.composite
def sights(draw: st.DrawFn) -> Input:
    """Draw what the collector saw of the feed, or that all is on the topic up to a time."""
    what = draw(
        st.sampled_from([("feed_answer", "unauthorized"), ("feed_answer", "ok"), ("caught_up", None), ("canary", None)])
    )
    seen = read_observation(
        {
            "kind": what[0],
            "result": what[1] or {"canary": draw(st.sampled_from(["seen", "missing"]))}.get(what[0]),
            "observed_at": text_of(at(250)),
            "sent_at": text_of(at(draw(moments))),
            "called_at": text_of(at(draw(moments))),
            "complete_through": text_of(at(draw(moments))),
        },
        "feed_1",
    )
    assert isinstance(seen, Observation)
    return seen


@st.composite
def activities(draw: st.DrawFn) -> Input:
    """Draw an ordinary activity."""
    where = {"organization_id": draw(organizations), "organization_uuid": None}
    return act(f"act_{draw(st.integers(0, 99))}", draw(moments), **where)


@st.composite
def chains(draw: st.DrawFn, subject: str) -> list[Input]:
    """Draw versions of who the members of a subject are, appended one after the other."""
    made: list[Topology] = []
    for appended in sorted(draw(st.lists(moments, min_size=1, max_size=3))):
        links = []
        for name in draw(st.lists(st.sampled_from(["org_1", "org_2", "org_3"]), unique=True)):
            since = draw(st.none() | st.integers(0, appended))
            until = draw(st.none() | st.integers((since or 0) + 1, appended + 2))
            links.append(
                Link(
                    subject=name,
                    valid_from=None if since is None else at(since),
                    valid_until=None if until is None else at(until),
                )
            )
        latest = made[-1] if made else None
        made.append(successor(latest, subject, Says(members=tuple(links)), "jane@example.com", at(appended)))
    return list(made)


@st.composite
def inputs(draw: st.DrawFn) -> list[Input]:
    """Draw the inputs of some organizations, their feed and their parent."""
    found = draw(chains("feed/feed_1")) + draw(chains("parent/p"))
    found += draw(st.lists(settings_events(), min_size=1, max_size=6))
    found += draw(st.lists(polls(), max_size=5)) + draw(st.lists(sights(), max_size=4))
    return found + draw(st.lists(activities(), max_size=6))


def appended_at(each: Activity | Observation) -> int:
    """Say when an input was appended: at its time."""
    return (each.created_at or 0) if isinstance(each, Activity) else each.observed_at


def taken(shard: Shard, each: Input) -> Outcome:
    """Take one input in."""
    match each:
        case Activity():
            return shard.activity(each, appended_at(each), at(2000))
        case Observation():
            return shard.observation(each, appended_at(each), at(2000))
        case Topology():
            return shard.topology(each, at(2000))
        case Mail():
            return shard.post(each, at(1500), at(2000))


def subject_of(each: Input) -> str:
    """Name where an input belongs."""
    return str(each.body["subject"]) if isinstance(each, Mail) else each.subject


@dataclass
class Part:
    """One partition: its records, how far they were read, and what was kept of them."""

    is_home: Any
    log: list[Input] = field(default_factory=list)
    position: int = 0
    kept: dict[str, bytes] = field(default_factory=dict)
    committed: int = 0
    out: list[Emission] = field(default_factory=list)
    pending: list[Emission] = field(default_factory=list)
    mail: list[Mail] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shard = Shard(self.is_home)

    def step(self) -> None:
        """Take in the next record."""
        outcome = taken(self.shard, self.log[self.position])
        assert outcome.rejection is None, outcome.rejection
        self.pending += outcome.emissions
        self.mail += outcome.mail
        self.position += 1

    def commit(self) -> list[Mail]:
        """Publish and keep all since the last commit; give the mail."""
        self.pending += self.shard.settle(at(2000))
        self.mail += self.shard.letters()
        keep_changes(self.kept, self.shard)
        self.out += self.pending
        self.committed = self.position
        mail, self.mail, self.pending = self.mail, [], []
        return mail

    def crash(self) -> None:
        """Lose all since the last commit."""
        self.shard = Shard.restore(self.kept, self.is_home)
        self.position, self.mail, self.pending = self.committed, [], []


@dataclass
class Workers:
    """All partitions, and the mail between them: in any order, some of it twice."""

    parts: list[Part]
    chance: random.Random
    homes: dict[str, int]

    def run(self, order: Iterable[Input]) -> "Workers":
        """Take in all of it."""
        for each in order:
            self.parts[self.homes[subject_of(each)]].log.append(each)
        while waiting := [each for each in self.parts if each.position < len(each.log) or each.mail or each.pending]:
            part = self.chance.choice(waiting)
            if part.position < len(part.log):
                part.step()
            what = self.chance.choice(["", "commit", "crash"])
            if what == "crash":
                part.crash()
            elif what == "commit" or part.position == len(part.log):
                self.deliver(part.commit())
        for part in self.parts:
            assert part.commit() == []
        return self

    def deliver(self, mail: Sequence[Mail]) -> None:
        """Put messages among the records that are still to be read. Those of triage have tests of their own."""
        for each in (each for each in mail if each.kind == "inherited"):
            copy = Mail(each.key, each.kind, json.loads(json.dumps(each.body)))
            part = self.parts[self.homes[subject_of(each)]]
            for _ in range(self.chance.choice([1, 1, 2])):
                part.log.insert(self.chance.randint(part.position, len(part.log)), copy)

    @property
    def out(self) -> list[Emission]:
        """All that was published."""
        return [each for part in self.parts for each in part.out]

    @property
    def latest(self) -> dict[str, Gap]:
        """The latest revision of each gap."""
        return {each.gap_id: each for each in self.out if isinstance(each, Gap)}

    @property
    def standing(self) -> dict[str, dict[str, Any]]:
        """The gaps that stand in the end, without what may differ."""
        return {
            gap_id: {name: value for name, value in as_dict(gap).items() if name not in FREE}
            for gap_id, gap in self.latest.items()
            if gap.state not in {"SUPERSEDED", "RETRACTED"}
        }

    @property
    def coverage(self) -> dict[str, list[Span]]:
        """What is known of each subject."""
        ledgers = {name: each for part in self.parts for name, each in part.shard.ledgers.items()}
        return {name: spans for name, ledger in ledgers.items() if (spans := ledger.coverage(UNTIL))}


def mixed(found: Sequence[Input], chance: random.Random) -> list[Input]:
    """Put inputs in any order, some twice; the versions of a chain stay in theirs."""
    again = [each for each in found if chance.random() < 0.2]
    order = [*found, *again]
    chance.shuffle(order)
    for subject in ("feed/feed_1", "parent/p"):
        places = [n for n, each in enumerate(order) if isinstance(each, Topology) and each.subject == subject]
        versions = sorted((order[n] for n in places), key=lambda each: each.version)  # type: ignore[union-attr]
        for place, version in zip(places, versions, strict=True):
            order[place] = version
    return order


@EXAMPLES
@given(inputs(), st.integers(0, 2**32))
def test_the_end_depends_on_the_inputs_only(found: list[Input], seed: int) -> None:
    """Three partitions, mail overtaken and repeated, crashes: the gaps and the coverage of one calm run."""
    unique = list({repr(each): each for each in found}.values())
    calm = Workers([Part(everywhere)], _Calm(), dict.fromkeys(HOMES, 0)).run(unique)
    chance = random.Random(seed)
    parts = [Part(partial(_is_home, number)) for number in range(3)]
    wild = Workers(parts, chance, HOMES).run(mixed(unique, chance))
    assert wild.standing == calm.standing
    assert wild.coverage == calm.coverage
    for workers in (calm, wild):
        _holds(workers)


def _holds(workers: Workers) -> None:
    """What holds of every end: each inherited gap has its parent's incident and bounds, and no alert."""
    latest, standing = workers.latest, workers.standing
    for gap_id in standing:
        gap = latest[gap_id]
        if gap.inherited_from is None:
            continue
        parent = latest[gap.inherited_from]
        assert parent.organization_id is None
        assert parent.state in {"OPEN", "CLOSED"}
        assert gap.incident_id == parent.incident_id
        assert (gap.confidence, gap.cause, gap.opened_by_id) == (parent.confidence, parent.cause, parent.opened_by_id)
        assert (gap.opened_at or 0) >= (parent.opened_at or 0)
        assert parent.closed_at is None or (gap.closed_at is not None and gap.closed_at <= parent.closed_at)
        for span in workers.coverage[gap.subject]:
            if span.end > (gap.opened_at or 0) and (gap.closed_at is None or span.begin < gap.closed_at):
                assert span.state in {OFF, "UNKNOWN"}, span
    alerts = {each.alert_id: each for each in workers.out if isinstance(each, Alert)}
    assert all(latest[each.gap_id].inherited_from is None for each in alerts.values() if each.gap_id)
    # One page lists all whose gaps are of its incident.
    for parent in (latest[gap_id] for gap_id in standing if latest[gap_id].organization_id is None):
        heirs = {each["organization_id"] for each in standing.values() if each["inherited_from"] == parent.gap_id}
        pages = [each for each in alerts.values() if each.gap_id == parent.gap_id and each.kind in PAGES]
        assert pages
        for name in heirs:
            assert any(str(name) in page.summary for page in pages)


def _is_home(number: int, subject: str) -> bool:
    return HOMES[subject] == number


class _Calm(random.Random):
    """No chance at all: everything in its order, once, without a crash."""

    def choice(self, seq: Any) -> Any:
        """Give the first, or the commit."""
        return "commit" if "commit" in seq else seq[0]

    def randint(self, a: int, b: int) -> int:  # noqa: ARG002
        """Give the end."""
        return b
