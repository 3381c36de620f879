"""The end depends on the set of inputs only; an oracle written from the rules, not from the code, says the same."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.core.making import SECOND, act, at, gaps, keep_changes, setting

from auditgap.core import times
from auditgap.core.fold import Assertion, Timeline, of_misdated_settings_event, of_settings_event
from auditgap.core.inputs import ACCESS_TRANSPARENCY_TYPES, SETTINGS_TYPE, Activity
from auditgap.core.intake import take
from auditgap.core.ledger import Ledger
from auditgap.core.records import Alert, Emission, Gap, as_dict, digest

EXAMPLES: Final = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

FREE: Final = frozenset({"incident_id", "revision", "produced_at", "history_sequence", "previous_digest"})
"""Fields of a gap that may depend on the order of arrival."""

SKEW: Final = 300
"""Seconds by which a time may lie after the append time of its record."""


@dataclass(frozen=True)
class Input:
    """One record of the topic: the activity and when the broker appended it, in microseconds."""

    activity: Activity
    append_time: int


# --- feeds ----------------------------------------------------------------------------------------------------------

flag = st.sampled_from([..., None, True, False, False])
organization = st.sampled_from(["org_1", "org_1", "org_1", "org_2", None])
feed = st.sampled_from(["feed_1", "feed_2"])
# Few moments, so that ties are common; some 305 s ahead, which is misdated or not, as the append time goes.
moment = st.sampled_from([0, 1, 2, 3, 4, 5, 6, 303, 305, 307])
appended = st.sampled_from([0, 3, 4, 5, 6, 20]).map(at)


@st.composite
def setting_inputs(draw: st.DrawFn) -> Input:
    """Draw a settings event; few ids, so that some have several contents."""
    activity = setting(
        f"set_{draw(st.integers(0, 9))}",
        draw(moment),
        api=draw(flag),
        logging=draw(flag),
        organization_id=draw(organization),
    )
    return Input(activity, draw(appended))


@st.composite
def activity_inputs(draw: st.DrawFn) -> Input:
    """Draw an ordinary activity, or an Access Transparency record."""
    kind = draw(st.sampled_from(["claude_user_login", "file_viewed", "claude_user_login", "anthropic_access"]))
    activity = act(f"act_{draw(st.integers(0, 9))}", draw(moment), kind=kind, organization_id=draw(organization))
    return Input(activity, draw(appended))


@st.composite
def copies_of(draw: st.DrawFn, inputs: Sequence[Input]) -> Input:
    """Draw a copy of an input: appended once more, and perhaps read from another feed."""
    activity = draw(st.sampled_from(inputs)).activity
    # What names no organization belongs to its feed: from another one it would be another record.
    feed_id = activity.feed_id if activity.organization_id is None else draw(feed)
    return Input(replace(activity, feed_id=feed_id), draw(appended))


@st.composite
def feeds(draw: st.DrawFn) -> list[Input]:
    """Draw the inputs of some subjects."""
    inputs = draw(st.lists(setting_inputs(), min_size=1, max_size=14))
    inputs += draw(st.lists(activity_inputs(), max_size=10))
    return inputs + draw(st.lists(copies_of(inputs), max_size=6))


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Input], list[tuple[Input, str]]]:
    """Draw inputs, and how they are delivered: in any order, some repeated, with something done after each."""
    inputs = draw(feeds())
    repeats = draw(st.lists(st.sampled_from(inputs), max_size=8))
    order = draw(st.permutations(inputs + repeats))
    cuts = draw(
        st.lists(
            st.sampled_from(["", "", "settle", "commit", "keep", "crash"]), min_size=len(order), max_size=len(order)
        )
    )
    return inputs, list(zip(order, cuts, strict=True))


# --- a worker in small ------------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """Publishes and keeps state in transactions, as the real one does, and may die between two."""

    ledgers: dict[str, Ledger] = field(default_factory=dict)
    store: dict[str, dict[str, bytes]] = field(default_factory=dict)
    committed: list[tuple[str, Emission]] = field(default_factory=list)
    pending: list[tuple[str, Emission]] = field(default_factory=list)
    since: list[Input] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, each: Input) -> None:
        """Take one input in."""
        self.since.append(each)
        outcome = take(self.ledgers, each.activity, each.append_time, at(5000))
        self.counts["refused" if outcome.rejection else "repeats" if outcome.repeat else "applied"] += 1
        self.pending += [(each.activity.subject, record) for record in outcome.emissions]

    def settle(self) -> None:
        """Publish what activities changed."""
        for subject, ledger in self.ledgers.items():
            self.pending += [(subject, record) for record in ledger.settle(at(5000))]

    def keep(self) -> None:
        """Commit what is pending, and go on with what is read back."""
        for subject, ledger in self.ledgers.items():
            keep_changes(self.store.setdefault(subject, {}), ledger)
        self.committed += self.pending
        self.pending, self.since = [], []
        self._read_back()

    def crash(self) -> None:
        """Lose all since the last commit, and take it in again."""
        again, self.pending, self.since = self.since, [], []
        self._read_back()
        for each in again:
            self.take(each)

    def _read_back(self) -> None:
        self.ledgers = {subject: Ledger.restore(subject, dict(records)) for subject, records in self.store.items()}

    def run(self, order: Iterable[tuple[Input, str]]) -> "Worker":
        """Take in a whole delivery, and commit in the end."""
        for each, cut in order:
            self.take(each)
            if cut in {"settle", "commit"}:
                self.settle()
            if cut in {"keep", "commit"}:
                self.keep()
            if cut == "crash":
                self.crash()
        self.settle()
        self.keep()
        return self

    def of(self, subject: str) -> list[Emission]:
        """All that was committed about a subject, in order."""
        return [record for each, record in self.committed if each == subject]

    @property
    def standing(self) -> dict[str, list[Gap]]:
        """By subject, the gaps that stand in the end."""
        latest = {(subject, gap.gap_id): gap for subject, gap in self.committed if isinstance(gap, Gap)}
        standing: dict[str, list[Gap]] = {}
        for (subject, _), gap in latest.items():
            if gap.state not in {"SUPERSEDED", "RETRACTED"}:
                standing.setdefault(subject, []).append(gap)
        return standing

    @property
    def alerts(self) -> dict[str, Alert]:
        """The latest revision of each alert."""
        return {record.alert_id: record for _, record in self.committed if isinstance(record, Alert)}


def in_order(inputs: Sequence[Input]) -> Worker:
    """Run over the inputs as they come, without a stop."""
    return Worker().run((each, "") for each in inputs)


def end_of(worker: Worker) -> dict[str, dict[str, object]]:
    """What is left: the standing gaps without the fields that may depend on the order."""
    return {
        gap.gap_id: {name: value for name, value in as_dict(gap).items() if name not in FREE}
        for standing in worker.standing.values()
        for gap in standing
    }


# --- the oracle -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """What one accepted settings event says, for the oracle: `api` and `logging` True, False or None."""

    time: int
    exact: bool
    identifier: str
    content: str
    append_time: int
    api: bool | None
    logging: bool | None

    @property
    def off(self) -> bool:
        """Whether it turns something off."""
        return False in (self.api, self.logging)


def words_of(inputs: Iterable[Input]) -> list[Word]:
    """Read the settings events of one subject as the table of assertions says, and sort them as the fold says."""
    words: dict[tuple[str, str, bool], Word] = {}
    for each in inputs:
        activity, append_time = each.activity, each.append_time
        if activity.type != SETTINGS_TYPE or activity.created_at is None:
            continue
        exact = activity.created_at <= append_time + SKEW * SECOND
        api, logging = activity.api_enabled, activity.logging_enabled
        if not exact:
            api, logging = (False if api is False else None), (False if logging is False else None)
            if api is None and logging is None:
                continue
        word = Word(
            activity.created_at if exact else append_time,
            exact,
            activity.id,
            activity.digest,
            append_time,
            api,
            logging,
        )
        key = (activity.id, activity.digest, exact)
        if key not in words or append_time < words[key].append_time:
            words[key] = word
    return sorted(words.values(), key=lambda word: (word.time, word.exact, word.off, word.identifier, word.content))


def last_word(words: Sequence[Word], name: str) -> tuple[bool | None, int | None]:
    """What was said last about a flag, and when."""
    for word in reversed(words):
        value = getattr(word, name)
        if value is not None:
            return bool(value), word.time
    return None, None


def is_off(words: Sequence[Word]) -> bool:
    """Whether the feed is off after these words."""
    return last_word(words, "api")[0] is False or last_word(words, "logging")[0] is False


def oracle(inputs: Sequence[Input]) -> Iterator[dict[str, object]]:
    """Say naively which windows one subject has, and what lies around them."""
    words = words_of(inputs)
    recorded = sorted(
        {
            (each.activity.created_at, each.activity.id)
            for each in inputs
            if each.activity.type != SETTINGS_TYPE
            and each.activity.type not in ACCESS_TRANSPARENCY_TYPES
            and each.activity.created_at is not None
            and each.activity.created_at <= each.append_time + SKEW * SECOND
        }
    )
    starts = [n for n in range(len(words)) if is_off(words[: n + 1]) and not is_off(words[:n])]
    for start in starts:
        end = next((n for n in range(start, len(words)) if not is_off(words[: n + 1])), None)
        during = range(start, len(words) if end is None else end)
        bounds: list[int | None] = []
        causes = set()
        for n in during:
            for name in ("api", "logging"):
                value, told_at = last_word(words[:n], name)
                if getattr(words[n], name) is False:
                    causes.add(name)
                    if value is not False:
                        bounds.append(words[n].time if words[n].exact else told_at)
        opened, opened_latest = (None if None in bounds else min(b for b in bounds if b is not None)), words[start].time
        closed = None if end is None else words[end].time
        before = [each for each in recorded if each[0] <= opened_latest]
        after = [each for each in recorded if closed is not None and each[0] >= closed]
        inside = [each for each in recorded if opened_latest < each[0] and (closed is None or each[0] < closed)]
        yield {
            "state": "OPEN" if end is None else "CLOSED",
            "confidence": "CONFIRMED",
            "cause": "BOTH_DISABLED" if len(causes) > 1 else f"{causes.pop().upper()}_DISABLED",
            "opened_at": opened,
            "opened_at_latest": opened_latest,
            "closed_at": closed,
            "closed_at_earliest": closed,
            "duration_seconds": None if opened is None or closed is None else (closed - opened) / SECOND,
            "first_evidence_at": words[start].append_time,
            "opened_by_id": words[start].identifier,
            "closed_by_id": None if end is None else words[end].identifier,
            "last_activity_id": before[-1][1] if before else None,
            "last_activity_at": before[-1][0] if before else None,
            "first_activity_id": after[0][1] if after else None,
            "first_activity_at": after[0][0] if after else None,
            "bracket_exact": True,
            "activity_inside_count": len(inside),
            "activity_inside_first_id": inside[0][1] if inside else None,
            "activity_inside_last_id": inside[-1][1] if inside else None,
        }


def by_subject(inputs: Iterable[Input]) -> dict[str, list[Input]]:
    """Part the inputs by what they are about."""
    parted: dict[str, list[Input]] = {}
    for each in inputs:
        parted.setdefault(each.activity.subject, []).append(each)
    return parted


# --- the properties ---------------------------------------------------------------------------------------------------


@EXAMPLES
@given(deliveries())
def test_the_end_is_the_same(delivery: tuple[list[Input], list[tuple[Input, str]]]) -> None:
    """Order, repetition, settling, stops and crashes change nothing of what is left in the end."""
    inputs, order = delivery
    assert end_of(Worker().run(order)) == end_of(in_order(inputs))


@EXAMPLES
@given(deliveries())
def test_the_oracle_agrees(delivery: tuple[list[Input], list[tuple[Input, str]]]) -> None:
    """Windows, bounds and brackets are those that the rules, applied naively, give."""
    inputs, order = delivery
    standing = Worker().run(order).standing
    for subject, about in by_subject(inputs).items():
        expected = list(oracle(about))
        found = sorted(standing.get(subject, []), key=lambda gap: expected_order(gap, expected))
        names = expected[0] if expected else ["gap_id"]
        assert [{name: getattr(gap, name) for name in names} for gap in found] == expected


def expected_order(gap: Gap, expected: list[dict[str, object]]) -> int:
    """Where a gap stands among those that are expected; behind them if it does not."""
    keys = [(each["opened_at_latest"], each["opened_by_id"], each["closed_at"]) for each in expected]
    key = (gap.opened_at_latest, gap.opened_by_id, gap.closed_at)
    return keys.index(key) if key in keys else len(keys)


@EXAMPLES
@given(deliveries())
def test_every_off_is_alerted(delivery: tuple[list[Input], list[tuple[Input, str]]]) -> None:
    """Each settings event with a false has an alert, which names the standing gap it lies in and its state."""
    inputs, order = delivery
    worker = Worker().run(order)
    standing = {gap.gap_id: gap for each in worker.standing.values() for gap in each}
    disabled = [alert for alert in worker.alerts.values() if alert.kind == "logging_disabled"]
    words = [word for about in by_subject(inputs).values() for word in words_of(about) if word.off]
    assert sorted(alert.evidence[0] for alert in disabled) == sorted(word.identifier for word in words)
    for alert in disabled:
        assert alert.gap_id is not None
        gap = standing[alert.gap_id]
        assert (alert.status, alert.incident_id) == ("RESOLVED" if gap.state == "CLOSED" else "FIRING", gap.incident_id)
        happened = alert.occurred_at if alert.occurred_at is not None else alert.detected_at
        assert gap.opened_at_latest is not None
        assert gap.opened_at_latest <= happened
        assert gap.closed_at is None or happened <= gap.closed_at


@EXAMPLES
@given(deliveries())
def test_history_is_contiguous_and_chained(delivery: tuple[list[Input], list[tuple[Input, str]]]) -> None:
    """A subject's history has no hole, each revision carries the digest of the one before, revisions count up."""
    inputs, order = delivery
    worker = Worker().run(order)
    for subject in by_subject(inputs):
        out = worker.of(subject)
        before = None
        for position, gap in enumerate(gaps(out), 1):
            assert (gap.history_sequence, gap.previous_digest) == (position, before)
            before = digest(as_dict(gap))
        revisions: Counter[str] = Counter()
        for each in out:
            assert isinstance(each, Gap | Alert)
            identifier = each.gap_id if isinstance(each, Gap) else each.alert_id
            revisions[identifier] += 1
            assert each.revision == revisions[identifier]


@EXAMPLES
@given(deliveries())
def test_nothing_disappears(delivery: tuple[list[Input], list[tuple[Input, str]]]) -> None:
    """A published gap stands in the end, or its last revision is SUPERSEDED by a gap that was published."""
    inputs, order = delivery
    worker = Worker().run(order)
    for subject, about in by_subject(inputs).items():
        latest = {gap.gap_id: gap for gap in gaps(worker.of(subject))}
        left = [gap for gap in latest.values() if gap.state != "SUPERSEDED"]
        assert len(left) == len(list(oracle(about)))
        assert len({gap.incident_id for gap in left}) == len(left)
        for gap in latest.values():
            assert gap.superseded_by in (latest.keys() if gap.state == "SUPERSEDED" else {None})


@EXAMPLES
@given(deliveries())
def test_counts_add_up(delivery: tuple[list[Input], list[tuple[Input, str]]]) -> None:
    """Each input is applied, a repeat, or refused, and a settings event taken in twice is a repeat."""
    inputs, order = delivery
    worker = Worker()
    for each, _ in order:
        worker.take(each)
    assert sum(worker.counts.values()) == len(order)
    refused = [
        each
        for each, _ in order
        if each.activity.created_at is not None and each.activity.created_at > each.append_time + SKEW * SECOND
    ]
    assert worker.counts["refused"] == len(refused)
    before = Counter(worker.counts)
    for each in inputs:
        if each.activity.type == SETTINGS_TYPE and each not in refused:
            worker.take(each)
    assert worker.counts["applied"] == before["applied"]


@pytest.mark.parametrize("seed", range(24))
def test_never_a_wrong_id(seed: int) -> None:
    """Beyond the reach of the index a bracket's id is the true one or null and said to be not exact."""
    rng = random.Random(seed)
    inputs = [
        Input(act(f"act_{n:04d}", rng.randrange(0, 400) / 2, organization_id="org_1"), at(500))
        for n in range(rng.randrange(321, 900))
    ]
    flags = [
        Input(
            setting(f"set_{n}", rng.randrange(0, 200), api=rng.choice([None, True]), logging=rng.choice([True, False])),
            at(500),
        )
        for n in range(rng.randrange(2, 14))
    ]
    # Roughly in time, as a feed is; settings events come anywhere, often late.
    inputs.sort(key=lambda each: (each.activity.created_at or 0) + rng.randrange(0, 30 * SECOND))
    for each in flags:
        inputs.insert(rng.randrange(0, len(inputs) + 1), each)
    cuts = [rng.choice(["", "", "", "", "settle", "keep", "crash"]) for _ in inputs]
    worker = Worker().run(zip(inputs, cuts, strict=True))
    found = sorted(worker.standing.get("org_1", []), key=lambda gap: gap.opened_at_latest or 0)
    expected = list(oracle(inputs))
    assert [(gap.opened_at, gap.closed_at) for gap in found] == [(e["opened_at"], e["closed_at"]) for e in expected]
    recorded = {each.activity.id: each.activity.created_at or 0 for each in inputs}
    for gap, true in zip(found, expected, strict=True):
        for side in ("last_activity_id", "first_activity_id"):
            if getattr(gap, side) is None:
                assert true[side] is None or not gap.bracket_exact
            else:
                assert getattr(gap, side) == true[side]
        assert gap.activity_inside_count <= int(str(true["activity_inside_count"]))
        for identifier in (gap.activity_inside_first_id, gap.activity_inside_last_id):
            if identifier is not None:
                assert gap.opened_at_latest is not None
                assert gap.opened_at_latest < recorded[identifier] < (gap.closed_at or at(1000))


@EXAMPLES
@given(feeds(), st.randoms(use_true_random=False))
def test_folding_one_by_one(inputs: list[Input], rng: random.Random) -> None:
    """A timeline that takes its assertions one by one has the windows of one that had them all at once."""
    assertions: dict[tuple[str, str], Assertion] = {}
    timeline = Timeline()
    for each in inputs:
        if each.activity.type != SETTINGS_TYPE:
            continue
        misdated = (each.activity.created_at or 0) > each.append_time + SKEW * SECOND
        make = of_misdated_settings_event if misdated else of_settings_event
        assertion = make(each.activity, each.append_time)
        if assertion is None:
            continue
        windows = list(timeline.windows)
        gone, came = timeline.put([assertion], [known] if (known := assertions.get(assertion.key)) else [])
        assertions[assertion.key] = assertion
        assert timeline.windows == Timeline(rng.sample(list(assertions.values()), len(assertions))).windows
        kept = [window for window in windows if not any(window is other for other in gone)]
        assert len(kept) + len(came) == len(timeline.windows)


def test_the_oracle_sees_windows() -> None:
    """The oracle itself is no empty word: it tells an "off" from an "on", and the ids around them."""
    inputs = [
        Input(act("a", 1), at(1)),
        Input(setting("off", 2, logging=False), at(2)),
        Input(setting("on", 4, logging=True), at(4)),
        Input(act("b", 5), at(5)),
    ]
    (window,) = oracle(inputs)
    assert (window["opened_at"], window["closed_at"]) == (at(2), at(4))
    assert (window["last_activity_id"], window["first_activity_id"]) == ("a", "b")
    assert times.text_of(at(0)) == "2026-11-01T12:00:00.000000Z"
