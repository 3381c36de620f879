"""A simulated truth: what really happened to some organizations, and what of it can be seen; and checks against it.

`history` draws one from a seed, `histories` is the strategy of it, `violations` tells where a final result contradicts
the truth, and `arrangements` gives other orders of arrival that must lead to the same result. Nothing here uses the
fold: it is written from the rules.

How the rules were taken:

- **Off** holds from the time of the settings event that turns a flag off, that moment included, to the time of the one
  that turns it on, that moment not included. A flag that is off when a history begins is off from its `start`.
- **Settle time.** An answer is that of one moment during its call. Up to the settle time after a real switch that
  moment may still give the old state. Activities are never recorded while off, not even then.
- **Delivered.** A stretch of one flag counts as told where the event that began it is among the inputs, however late.
- **Usable.** An observation can be relied on for a stretch where its call, by its own times and their skew, lies wholly
  inside the stretch and later than the settle time after its beginning.
- **Proviso of a window.** A true off-window is `complete` where each stretch of a flag in it is told, or began with the
  history (nothing was proved before), or holds a usable "off". A redundant exact "off" that comes before it spoils it:
  nobody can tell it from the switch that was lost.
- **Proviso of the certain part.** The same for what lies between: a result cannot know of a stretch of "on" whose
  switch was lost, up to the first exact word that confirms it; where a usable answer confirms it first, it has to.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from hypothesis import strategies as st

from auditgap.core import times
from auditgap.core.inputs import ACCESS_TRANSPARENCY_TYPES, SETTINGS_TYPE, Activity, Rejection, read_activity
from auditgap.core.observations import Observation
from auditgap.core.records import Gap

SECOND: Final = times.SECOND
MINUTE: Final = 60 * SECOND
START: Final = 1_793_534_400 * SECOND
"""When every history begins: 2026-11-01T12:00:00Z."""

HORIZON: Final = 10 * MINUTE
"""By how much append time an activity may be overtaken by another."""

API: Final = "api"
LOGGING: Final = "logging"
FLAGS: Final = (LOGGING, API)

PROVEN: Final = "PROVEN"
INFERRED: Final = "INFERRED"
UNKNOWN: Final = "UNKNOWN"
OFF: Final = "OFF"
STATES: Final = frozenset({PROVEN, INFERRED, UNKNOWN, OFF})

ORDINARY: Final = ("claude_user_login", "file_viewed", "claude_chat_viewed", "api_key_created")

Interval = tuple[int, int | None]
"""From its first moment to the first one after it; None: to the end of the history, and on."""


# --- what there is --------------------------------------------------------------------------------------------------


class Input(NamedTuple):
    """One input, and when the broker appended it, in microseconds."""

    record: Activity | Observation
    append_time: int

    @property
    def label(self) -> str:
        """A short name, for people."""
        each = self.record
        if isinstance(each, Observation):
            return f"{each.id} {each.kind} {each.result} {clock(each.sent_at)}..{clock(each.observed_at)}"
        said = f" api={each.api_enabled} logging={each.logging_enabled}" if each.type == SETTINGS_TYPE else ""
        return f"{each.id} {each.type}{said} {clock(each.created_at)}"


class Span(NamedTuple):
    """A stretch of time and what a result says of it: one of STATES."""

    begin: int
    end: int
    state: str


class Stretch(NamedTuple):
    """A stretch in which one flag was off; whether the events that began and ended it were delivered.

    `from_start` tells that it began with the history: there was no event.
    """

    flag: str
    begin: int
    end: int | None
    begin_told: bool
    end_told: bool
    from_start: bool


class Word(NamedTuple):
    """What one input says of the flags, for some moment from `begins` to `ends`; a proof is a record or canary seen."""

    begins: int
    ends: int
    exact: bool
    api: bool | None
    logging: bool | None
    proof: bool = False

    def of(self, flag: str) -> bool | None:
        """What it says of one flag."""
        return self.api if flag == API else self.logging

    @property
    def says_off(self) -> bool:
        """Whether it says that a flag is off."""
        return self.api is False or self.logging is False


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What really happened to one organization, from `start` to `until`; times and lengths are microseconds."""

    organization_id: str
    feed_id: str | None
    start: int
    until: int
    api: tuple[Interval, ...]
    logging: tuple[Interval, ...]
    off: tuple[Interval, ...]
    complete: tuple[bool, ...]
    """For each of `off`, whether the proviso holds."""
    stretches: tuple[Stretch, ...]
    recorded: tuple[int, ...]
    settle: int
    skew: int
    poll: int
    proof_limit: int

    def is_off(self, moment: int) -> bool:
        """Whether nothing was recorded at that moment."""
        return any(within(moment, each) for each in self.off)

    @property
    def on(self) -> list[tuple[int, int]]:
        """When both flags were on, up to `until`."""
        stretches, begin = [], self.start
        for since, end in self.off:
            if begin < since:
                stretches.append((begin, since))
            begin = self.until if end is None else end
        if begin < self.until:
            stretches.append((begin, self.until))
        return stretches


@dataclass(frozen=True, slots=True)
class History:
    """All inputs in the order of arrival, and the truth behind them, by organization."""

    inputs: tuple[Input, ...]
    truth: dict[str, Truth]

    @property
    def complete(self) -> bool:
        """Whether the proviso holds for every true off-window."""
        return all(all(truth.complete) for truth in self.truth.values())

    def __repr__(self) -> str:
        lines = [f"{clock(each.append_time)} {each.label}" for each in self.inputs]
        for name, truth in self.truth.items():
            told = zip(truth.off, truth.complete, strict=True)
            lines.append(
                f"{name} off: " + (", ".join(f"{shown(*off)}{'' if ok else ' (?)'}" for off, ok in told) or "-")
            )
        return "History(\n  " + "\n  ".join(lines) + "\n)"


def clock(moment: int | None) -> str:
    """Write a time as seconds since the start of every history."""
    return "…" if moment is None else f"{(moment - START) / SECOND:+.3f}s"


def shown(begin: int | None, end: int | None) -> str:
    """Write an interval."""
    return f"[{clock(begin)}, {clock(end)}]"


def within(moment: int, interval: Interval) -> bool:
    """Whether a moment lies in an interval."""
    return interval[0] <= moment and (interval[1] is None or moment < interval[1])


# --- from events to truth -------------------------------------------------------------------------------------------


def flag_of(event: Activity, flag: str) -> bool | None:
    """What a settings event says of a flag."""
    return event.api_enabled if flag == API else event.logging_enabled


def time_of(event: Activity) -> int:
    """When an activity happened."""
    assert event.created_at is not None
    return event.created_at


def stretches_of(
    flag: str, events: Iterable[Activity], delivered: frozenset[str], start: int, on_at_start: bool
) -> Iterator[Stretch]:
    """Find when a flag was off, by the events that really happened, in order of time."""
    begin = None if on_at_start else start
    told, from_start = False, not on_at_start
    for event in events:
        value, moment = flag_of(event, flag), time_of(event)
        if value is False and begin is None:
            begin, told, from_start = moment, event.id in delivered, False
        elif value is True and begin is not None:
            yield Stretch(flag, begin, moment, told, event.id in delivered, from_start)
            begin = None
    if begin is not None:
        yield Stretch(flag, begin, None, told, False, from_start)


def union_of(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Join intervals that touch or overlap."""
    joined: list[Interval] = []
    for begin, end in sorted(intervals, key=lambda each: each[0]):
        if joined and (joined[-1][1] is None or begin <= joined[-1][1]):
            last = joined[-1]
            joined[-1] = last[0], None if last[1] is None or end is None else max(last[1], end)
        else:
            joined.append((begin, end))
    return tuple(joined)


def words_of(inputs: Iterable[Input], organization_id: str) -> list[Word]:
    """Read what the inputs say of an organization's flags, in the order in which it begins."""
    words = set()
    for each in inputs:
        record = each.record
        if record.organization_id == organization_id:
            words.add(_word_of_activity(record) if isinstance(record, Activity) else _word_of_observation(record))
    return sorted((word for word in words if word is not None), key=lambda word: (word.begins, word.ends))


def _word_of_activity(activity: Activity) -> Word | None:
    moment = time_of(activity)
    if activity.type == SETTINGS_TYPE:
        return Word(moment, moment, True, activity.api_enabled, activity.logging_enabled)
    if activity.type in ACCESS_TRANSPARENCY_TYPES:
        return None
    return Word(moment, moment, False, True, True, proof=True)


_ANSWERS: Final = {
    ("settings_poll", "enabled"): True,
    ("settings_poll", "disabled"): False,
    ("feed_answer", "ok"): True,
    ("feed_answer", "not_enabled"): False,
}


def _word_of_observation(seen: Observation) -> Word | None:
    if (api := _ANSWERS.get((seen.kind, seen.result))) is not None:
        return Word(seen.begins, seen.ends, False, api, None)
    if (seen.kind, seen.result) == ("canary", "seen") and seen.called_at is not None:
        return Word(seen.called_at - seen.skew, seen.ends, False, True, True, proof=True)
    return None


def truth_of(
    organization_id: str,
    events: Sequence[Activity],
    inputs: Sequence[Input],
    *,
    until: int,
    start: int = START,
    feed_id: str | None = "feed_1",
    off_at_start: Sequence[str] = (),
    settle: int = MINUTE,
    skew: int = 0,
    poll: int = 5 * MINUTE,
    proof_limit: int = 15 * MINUTE,
) -> Truth:
    """Say what is true of an organization, given all settings events that happened, and which windows can be known."""
    events = sorted(events, key=time_of)
    delivered = frozenset(each.record.id for each in inputs)
    by_flag = {flag: tuple(stretches_of(flag, events, delivered, start, flag not in off_at_start)) for flag in FLAGS}
    stretches = by_flag[API] + by_flag[LOGGING]
    off = union_of((each.begin, each.end) for each in stretches)
    words = words_of(inputs, organization_id) if not all(each.begin_told for each in stretches) else []
    own = (each.record for each in inputs if each.record.organization_id == organization_id)
    return Truth(
        organization_id=organization_id,
        feed_id=feed_id,
        start=start,
        until=until,
        api=tuple((each.begin, each.end) for each in by_flag[API]),
        logging=tuple((each.begin, each.end) for each in by_flag[LOGGING]),
        off=off,
        complete=tuple(
            all(knowable(each, words, settle) for each in stretches if within(each.begin, window)) for window in off
        ),
        stretches=stretches,
        recorded=tuple(
            sorted(
                {
                    time_of(each)
                    for each in own
                    if isinstance(each, Activity) and each.type not in ACCESS_TRANSPARENCY_TYPES | {SETTINGS_TYPE}
                }
            )
        ),
        settle=settle,
        skew=skew,
        poll=poll,
        proof_limit=proof_limit,
    )


def knowable(stretch: Stretch, words: Iterable[Word], settle: int) -> bool:
    """Whether a result can and has to know of a stretch in which a flag was off: see the module."""
    if stretch.begin_told or stretch.from_start:
        return True
    said = [word for word in words if word.of(stretch.flag) is False and within(word.ends, stretch[1:3])]
    usable = min((word.ends for word in said if not word.exact and word.begins > stretch.begin + settle), default=None)
    return usable is not None and not any(word.exact and word.ends <= usable for word in said)


def unknowable_on(truth: Truth, words: Sequence[Word], stretch: tuple[int, int], proofs_count: bool) -> int:
    """Say up to when a result may take an organization for off that is on from `stretch[0]` to `stretch[1]`.

    That is so where the switch to on of a flag was lost: to the first exact word that it is on, or to the end. Where a
    usable answer says so first, nothing excuses it. An answer is not usable within the settle time of any word that
    says off. `proofs_count` tells whether proofs of recording are usable too: they are not within an exact window.
    """
    begin, end = stretch
    excused = begin
    for flag in FLAGS:
        past = [each for each in truth.stretches if each.flag == flag and each.end is not None and each.end <= begin]
        if not past or past[-1].end_told:
            continue
        switched = past[-1].end
        assert switched is not None
        until = end
        for word in words:
            if word.of(flag) is not True or word.begins < switched or word.ends >= end:
                continue
            if word.exact:
                until = word.ends
                break
            if (proofs_count or not word.proof) and _is_usable_on(word, words, switched, truth.settle):
                until = begin
                break
        excused = max(excused, until)
    return excused


def _is_usable_on(word: Word, words: Iterable[Word], switched: int, settle: int) -> bool:
    if word.begins <= switched + settle:
        return False
    return not any(off.says_off and off.begins <= word.ends and off.ends + settle >= word.begins for off in words)


# --- the checks -----------------------------------------------------------------------------------------------------


def violations(
    history: History, organization_id: str, gaps: Iterable[Gap], spans: Sequence[Span], resolution: int
) -> list[str]:
    """Tell each way in which one organization's final result contradicts the truth: invariant 2.

    - Every true off-window whose proviso holds is covered by reported `[opened_at, closed_at]` (None: unbounded) and
      UNKNOWN together. Only gaps that stand count: what holds a superseded one is the gap that took its place.
    - `[opened_at_latest, closed_at_earliest]` (`until` while open) of a CONFIRMED gap, where it is longer than nothing,
      lies inside one true off-window, but for stretches of "on" that nothing told of: see `unknowable_on`.
    - `[opened_at, closed_at]` of a CONFIRMED gap holds some true off time.
    - A true off-window that is longer than `resolution`, whether its proviso holds or not, has no PROVEN or INFERRED in
      it, however short.
    - The spans join, and end at `until`. Before the first of them all is UNKNOWN.
    """
    truth = history.truth[organization_id]
    standing = [gap for gap in gaps if gap.state not in {"SUPERSEDED", "RETRACTED"}]
    confirmed = [gap for gap in standing if gap.confidence == "CONFIRMED"]
    found = [*_bad_spans(truth, spans), *_not_covered(truth, standing, spans)]
    found += _too_certain(truth, history.inputs, confirmed)
    found += [
        f"{_named(gap)} is CONFIRMED, and nothing was off in {shown(gap.opened_at, gap.closed_at)}"
        for gap in confirmed
        if not any(_meets(gap.opened_at, gap.closed_at, each) for each in truth.off)
    ]
    for begin, end in ((begin, truth.until if end is None else end) for begin, end in truth.off):
        if end - begin > resolution:
            found += [
                f"{span.state} {shown(span.begin, span.end)}, but it was off {shown(begin, end)}, "
                f"longer than the resolution of {resolution / SECOND:g} s"
                for span in spans
                if span.state in {PROVEN, INFERRED} and max(begin, span.begin) < min(end, span.end)
            ]
    return found


def _named(gap: Gap) -> str:
    return f"{gap.organization_id}'s gap {gap.gap_id}"


def _meets(begin: int | None, end: int | None, off: Interval) -> bool:
    """Whether what is reported, both ends included, holds a moment of a true window."""
    return (off[1] is None or begin is None or begin < off[1]) and (end is None or off[0] <= end)


def _bad_spans(truth: Truth, spans: Sequence[Span]) -> Iterator[str]:
    for span in spans:
        if span.state not in STATES or span.begin > span.end:
            yield f"{span.state} {shown(span.begin, span.end)} is no span"
    for before, after in pairwise(spans):
        if before.end != after.begin:
            yield f"the spans do not join: one ends at {clock(before.end)}, the next begins at {clock(after.begin)}"
    if spans and spans[-1].end != truth.until:
        yield f"the spans end at {clock(spans[-1].end)}, not at {clock(truth.until)}"


def _not_covered(truth: Truth, standing: Sequence[Gap], spans: Sequence[Span]) -> Iterator[str]:
    forever = max([truth.until, *(gap.closed_at for gap in standing if gap.closed_at is not None)]) + 1
    cover: list[Interval] = [
        (truth.start if gap.opened_at is None else gap.opened_at, forever if gap.closed_at is None else gap.closed_at)
        for gap in standing
    ]
    cover += [(span.begin, span.end) for span in spans if span.state == UNKNOWN]
    cover.append((truth.start, spans[0].begin if spans else truth.until))
    joined = union_of(cover)
    for (begin, end), complete in zip(truth.off, truth.complete, strict=True):
        last = truth.until if end is None else end
        if complete and not any(each[0] <= begin and each[1] is not None and last <= each[1] for each in joined):
            reported = ", ".join(shown(gap.opened_at, gap.closed_at) for gap in standing) or "nothing"
            yield f"{truth.organization_id} was off {shown(begin, end)}; reported are {reported}, and it is not UNKNOWN"


def _too_certain(truth: Truth, inputs: Sequence[Input], confirmed: Iterable[Gap]) -> Iterator[str]:
    words: list[Word] | None = None
    for gap in confirmed:
        begin = gap.opened_at_latest
        end = truth.until if gap.closed_at is None else gap.closed_at_earliest
        if begin is None or end is None:
            continue
        for since, till in truth.on:
            if max(begin, since) >= min(end, till):
                continue
            if words is None:
                words = words_of(inputs, truth.organization_id)
            exact = any(
                word.exact and word.says_off and word.ends < till and _reaches(gap.opened_at, word.ends)
                for word in words
            )
            if min(end, till) > unknowable_on(truth, words, (since, till), not exact):
                yield (
                    f"{_named(gap)} is certain of {shown(begin, end)}, "
                    f"but it was on {shown(max(begin, since), min(end, till))}"
                )


def _reaches(begin: int | None, moment: int) -> bool:
    return begin is None or begin <= moment


# --- other orders ---------------------------------------------------------------------------------------------------


class Arrangement(NamedTuple):
    """An order of arrival: inputs, some repeated, and after how many of them to commit or start anew."""

    inputs: tuple[Input, ...]
    cuts: tuple[int, ...]


def arrangements(history: History, rng: random.Random, count: int = 3) -> Iterator[Arrangement]:
    """Give other orders of the same inputs. Each input keeps its append time: it is part of the record.

    No two activities change places that were appended further apart than HORIZON, copies included; settings events
    and observations go anywhere.
    """
    for _ in range(count):
        keyed: list[tuple[int, int, Input]] = []
        first, last = (history.inputs[0].append_time, history.inputs[-1].append_time) if history.inputs else (0, 0)
        for each in history.inputs:
            for _ in range(2 if rng.random() < 0.15 else 1):
                if isinstance(each.record, Activity) and each.record.type != SETTINGS_TYPE:
                    keyed.append((each.append_time + rng.randint(0, HORIZON), len(keyed), each))
                else:
                    keyed.append((rng.randint(first, last + HORIZON), len(keyed), each))
        inputs = tuple(each for _, _, each in sorted(keyed, key=lambda item: item[:2]))
        cuts = sorted(rng.sample(range(1, len(inputs)), min(rng.randint(0, 4), len(inputs) - 1))) if inputs else []
        yield Arrangement(inputs, tuple(cuts))


# --- drawing a history ----------------------------------------------------------------------------------------------

_ACTORS: Final = (
    {"type": "user_actor", "user_id": "user_owner", "email_address": "owner@example.com", "ip_address": "203.0.113.7"},
    {"type": "admin_api_key_actor", "admin_api_key_id": "admin_api_key_1"},
    {"type": "service_account_actor", "service_account_id": "svac_1"},
)
_FLAG_NAMES: Final = {API: "compliance_api_enabled", LOGGING: "compliance_api_logging_enabled"}


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a history is drawn by; None leaves it to chance. See `history`."""

    members: int
    lossless: bool
    switches: int | None
    activities: int | None
    rounds: int
    stale: bool
    stale_unheard: bool
    crowded: bool
    redundant: bool
    settle: int
    skew: int
    poll: int
    proof_limit: int

    @property
    def until(self) -> int:
        """When the history ends."""
        return START + (self.rounds + 1) * self.poll


@dataclass(slots=True)
class _Organization:
    name: str
    feed_id: str
    off_at_start: list[str]
    events: list[Activity] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    flags: dict[str, list[Interval]] = field(default_factory=dict)
    off: tuple[Interval, ...] = ()
    rows: list[Activity] = field(default_factory=list)


class _Row(NamedTuple):
    record: Activity
    append_time: int
    hidden: bool
    """Whether the API itself had it late, so that a collector cannot miss it."""


def _chance(rng: random.Random, probability: float) -> bool:
    """Say yes with this probability; the smallest draw is a no, so that what shrinks is rare things."""
    return rng.random() >= 1 - probability


def history(
    seed: int | random.Random,
    *,
    members: Sequence[int] | None = None,
    lossless: bool | None = None,
    switches: int | None = None,
    activities: int | None = None,
    rounds: int | None = None,
    stale: bool = True,
    stale_unheard: bool = True,
    crowded: bool = True,
    redundant: bool = True,
    settle: int = MINUTE,
    skew: int | None = None,
) -> History:
    """Draw a history.

    `members` has the number of organizations of each feed. `lossless` delivers every settings event in the end, else
    some are lost for good. `switches` and `activities` are those of each organization, the latter at most. `rounds` is
    how often the collector asks. These can be turned off, to see which of them a result cannot bear: `stale` answers
    at all, and `stale_unheard` those after a switch whose event is lost; `crowded` calls, which last longer or follow
    one another more closely than the skew; and `redundant` settings events, which repeat the present value.
    """
    rng = seed if isinstance(seed, random.Random) else random.Random(seed)
    if members is None:
        members = rng.choice([(1,), (1,), (1,), (1, 1), (2,), (1, 2)])
    drawn: list[Input] = []
    truth: dict[str, Truth] = {}
    total = 0
    for number, size in enumerate(members, 1):
        knobs = Knobs(
            members=size,
            lossless=not _chance(rng, 0.5) if lossless is None else lossless,
            switches=switches,
            activities=activities,
            rounds=rng.randint(2, 10) if rounds is None else rounds,
            stale=stale,
            stale_unheard=stale_unheard,
            crowded=crowded,
            redundant=redundant,
            settle=settle,
            skew=rng.choice([0, 1, 5, 20]) * SECOND if skew is None else skew,
            poll=rng.choice([5, 10, 15]) * MINUTE,
            proof_limit=rng.choice([10, 30]) * MINUTE,
        )
        names = [f"org_{total + index + 1}" for index in range(size)]
        total += size
        feed = _Feed(rng, knobs, f"feed_{number}", names)
        inputs = feed.draw()
        drawn += inputs
        for each in feed.organizations:
            truth[each.name] = truth_of(
                each.name,
                each.events,
                inputs,
                until=knobs.until,
                feed_id=feed.name,
                off_at_start=each.off_at_start,
                settle=knobs.settle,
                skew=knobs.skew,
                poll=knobs.poll,
                proof_limit=knobs.proof_limit,
            )
    drawn.sort(key=lambda each: each.append_time)
    return History(tuple(drawn), truth)


@st.composite
def histories(draw: st.DrawFn, /, **fixed: bool | int) -> History:
    """Draw a small history; a failing one shrinks to few switches, activities and calls. `fixed` are knobs."""
    choices: dict[str, int] = {
        "rounds": draw(st.integers(1, 4)),
    }
    members = draw(st.sampled_from([(1,), (2,), (1, 1)]))
    rng = draw(st.randoms(use_true_random=False))
    return history(rng, members=members, **(choices | fixed))  # type: ignore[arg-type]


class _Feed:
    """Draws what happens to the organizations of one feed, and what its collector sees."""

    def __init__(self, rng: random.Random, knobs: Knobs, name: str, names: Iterable[str]) -> None:
        self.rng, self.knobs, self.name = rng, knobs, name
        self.until = knobs.until
        self.offset = rng.randint(-knobs.skew, knobs.skew)
        """By how much the collector's clock is ahead of the server's."""
        self.organizations = [_Organization(each, name, self._off_at_start()) for each in names]
        self.outages: list[Interval] = []
        self.shut_out: list[Interval] = []
        self.sightings: list[Observation] = []
        self.rows: list[_Row] = []

    def draw(self) -> list[Input]:
        """Draw the inputs of this feed."""
        for organization in self.organizations:
            self._settings(organization)
            self._flags(organization)
            self._activities(organization)
        self._troubles()
        self._deliver()
        self._watch()
        inputs = [Input(row.record, row.append_time) for row in self.rows]
        inputs += [Input(each, self._appended(each)) for each in self.sightings]
        for each in list(inputs):
            if _chance(self.rng, 0.06):
                inputs.append(Input(each.record, each.append_time + self.rng.randint(0, HORIZON)))
        return inputs

    # What happens.

    def _off_at_start(self) -> list[str]:
        return self.rng.choice([[LOGGING], [API], [LOGGING, API]]) if _chance(self.rng, 0.08) else []

    def _more(self, most: int, wanted: int | None, probability: float) -> Iterator[int]:
        """Count as long as there are more: as many as are wanted, or left to chance, one by one, so that any can go."""
        for number in range(1, 1 + (most if wanted is None else wanted)):
            if wanted is None and not _chance(self.rng, probability):
                return
            yield number

    def _settings(self, organization: _Organization) -> None:
        rng, knobs = self.rng, self.knobs
        present = {flag: flag not in organization.off_at_start for flag in FLAGS}
        moment = START
        for number in self._more(6, knobs.switches, 0.85):
            moment += rng.randint(1, knobs.poll if _chance(rng, 0.3) else (self.until - START) // 3)
            if moment >= self.until:
                return
            if knobs.redundant and _chance(rng, 0.15):
                said = dict(present)
                if _chance(rng, 0.6):
                    del said[rng.choice(FLAGS)]
            else:
                changed = rng.choice([(LOGGING,), (API,), FLAGS])
                value = not all(present[flag] for flag in changed)
                said = {flag: value for flag in changed if present[flag] is not value}
                present |= said
                if _chance(rng, 0.3):
                    said = dict(present)
            event = self._record(organization, f"{organization.name}/set_{number}", SETTINGS_TYPE, moment, said)
            organization.events.append(event)
            if not knobs.lossless and _chance(rng, 0.4):
                organization.lost.add(event.id)

    def _flags(self, organization: _Organization) -> None:
        delivered = frozenset[str]()
        for flag in FLAGS:
            on = flag not in organization.off_at_start
            found = stretches_of(flag, organization.events, delivered, START, on)
            organization.flags[flag] = [(each.begin, each.end) for each in found]
        organization.off = union_of(organization.flags[API] + organization.flags[LOGGING])

    def _activities(self, organization: _Organization) -> None:
        rng = self.rng
        edges = [time_of(each) for each in organization.events]
        for number in self._more(20, self.knobs.activities, 0.88):
            if edges and _chance(rng, 0.3):
                moment = rng.choice(edges) + rng.randint(-90, 90) * SECOND + rng.randint(0, 1)
                moment = min(max(moment, START), self.until - 1)
            else:
                moment = rng.randint(START, self.until - 1)
            transparent = _chance(rng, 0.1)
            if transparent or not any(within(moment, each) for each in organization.off):
                kind = rng.choice(sorted(ACCESS_TRANSPARENCY_TYPES) if transparent else ORDINARY)
                organization.rows.append(
                    self._record(organization, f"{organization.name}/act_{number}", kind, moment, {})
                )

    def _record(
        self, organization: _Organization, name: str, kind: str, moment: int, said: dict[str, bool]
    ) -> Activity:
        shape: dict[str, object] = {
            "id": name,
            "type": kind,
            "created_at": times.text_of(moment),
            "organization_id": organization.name,
            "organization_uuid": None,
            "actor": _ACTORS[0],
        }
        if kind == SETTINGS_TYPE:
            shape["actor"] = self.rng.choice(_ACTORS)
            for flag in FLAGS:
                if flag in said or _chance(self.rng, 0.5):
                    shape[_FLAG_NAMES[flag]] = said.get(flag)
        activity = read_activity(shape, json.dumps(shape), self.name)
        assert not isinstance(activity, Rejection), activity
        return activity

    # How it comes to the topic.

    def _troubles(self) -> None:
        """Draw when the collector is down, and when it has lost access."""
        for troubles, probability in ((self.outages, 0.3), (self.shut_out, 0.25)):
            if _chance(self.rng, probability):
                begin = self.rng.randint(START + SECOND, self.until - 2 * SECOND)
                troubles.append((begin, min(begin + self.rng.randint(MINUTE, 40 * MINUTE), self.until - SECOND)))

    def _deliver(self) -> None:
        """Decide when each row is read and appended, if it is."""
        rng = self.rng
        blocked = self.outages + self.shut_out
        for organization in self.organizations:
            for row in (*organization.rows, *organization.events):
                if row.id in organization.lost:
                    continue
                settings, readable = row.type == SETTINGS_TYPE, time_of(row)
                hidden = settings and _chance(rng, 0.1)
                if hidden:
                    readable += rng.randint(MINUTE, 120 * MINUTE)
                at_once = settings and not hidden and _chance(rng, 0.5)
                readable = self._free(readable, blocked if at_once else blocked + organization.flags[API])
                delay = rng.randint(SECOND // 2, MINUTE)
                if _chance(rng, 0.15):
                    delay += rng.randint(0, HORIZON - MINUTE)
                self.rows.append(_Row(row, readable + delay, hidden))

    def _free(self, moment: int, blocked: Sequence[Interval]) -> int:
        """Find the first moment from which nothing is in the way; what is never over is over at the end."""
        while True:
            ends = [end for begin, end in blocked if within(moment, (begin, end))]
            if not ends:
                return moment
            if None in ends:
                return max(moment, self.until)
            moment = max(end for end in ends if end is not None)

    def _appended(self, seen: Observation) -> int:
        """Decide when an observation is appended, by the broker's clock, which is the server's."""
        delay = self.rng.randint(0, 2 * SECOND)
        if seen.kind != "caught_up" and _chance(self.rng, 0.05):
            delay += self.rng.randint(0, HORIZON)
        return seen.observed_at - self.offset + delay

    # What the collector sees.

    def _watch(self) -> None:
        rng, knobs = self.rng, self.knobs
        self._see("collector", "started", START, START)
        for begin, end in self.outages:
            if _chance(rng, 0.7):
                self._see("collector", "stopped", begin, begin)
            if end is not None:
                self._see("collector", "started", end, end)
                self._catch_up(end + rng.randint(MINUTE, 3 * MINUTE))
        apart = 0 if knobs.crowded else 2 * knobs.skew + 1
        free = START
        turns = [
            START + number * knobs.poll + rng.randint(0, knobs.poll // 10) for number in range(1, knobs.rounds + 1)
        ]
        # The times around a switch are where a result goes wrong.
        switched = [time_of(each) for organization in self.organizations for each in organization.events]
        turns += [each + rng.randint(-30, 90) * SECOND for each in switched if _chance(rng, 0.3)]
        for turn in sorted(turns):
            for call, probability in ((self._ask_feed, 0.6), (self._ask_settings, 0.5), (self._canary, 0.4)):
                if not _chance(rng, probability):
                    continue
                sent = max(turn, free) + rng.randint(0, SECOND)
                observed = sent + self._duration()
                if observed >= self.until or any(
                    end is None or (sent < end and begin <= observed) for begin, end in self.outages
                ):
                    continue
                if call(sent, observed):
                    free = observed + apart
            if _chance(rng, 0.3):
                self._catch_up(max(turn, free) + SECOND)

    def _duration(self) -> int:
        long = self.knobs.crowded and _chance(self.rng, 0.15)
        return self.rng.randint(2 * SECOND, 90 * SECOND) if long else self.rng.randint(SECOND // 20, 2 * SECOND)

    def _see(
        self,
        kind: str,
        result: str,
        sent: int,
        observed: int,
        *,
        about: _Organization | None = None,
        called_at: int | None = None,
        complete_through: int | None = None,
        status: int | None = None,
    ) -> bool:
        self.sightings.append(
            Observation(
                id=f"{self.name}/obs_{len(self.sightings) + 1}",
                kind=kind,
                result=result,
                observed_at=observed + self.offset,
                sent_at=sent + self.offset,
                skew=self.knobs.skew,
                organization_id=None if about is None else about.name,
                feed_id=self.name,
                called_at=None if called_at is None else called_at + self.offset,
                complete_through=complete_through,
                status=status,
            )
        )
        return True

    @property
    def _only(self) -> _Organization | None:
        """The organization of a feed of exactly one."""
        return self.organizations[0] if len(self.organizations) == 1 else None

    def _answer(self, organization: _Organization, offs: Sequence[Interval], flags: Sequence[str], moment: int) -> bool:
        """Give the state that the server tells, True for on: for a while after a switch perhaps the old one."""
        on = not any(within(moment, each) for each in offs)
        if not self.knobs.stale:
            return on
        recent = [
            each
            for each in organization.events
            if moment - self.knobs.settle < time_of(each) <= moment and any(flag_of(each, f) is not None for f in flags)
        ]
        if not recent or (not self.knobs.stale_unheard and any(each.id in organization.lost for each in recent)):
            return on
        if _chance(self.rng, 0.4):
            old = time_of(recent[0]) - 1
            return not any(within(old, each) for each in offs)
        return on

    def _ask_settings(self, sent: int, observed: int) -> bool:
        organization = self._only
        if organization is None:
            return False
        on = self._answer(organization, organization.flags[API], (API,), self.rng.randint(sent, observed))
        return self._see("settings_poll", "enabled" if on else "disabled", sent, observed, about=organization)

    def _ask_feed(self, sent: int, observed: int) -> bool:
        rng, organization = self.rng, self._only
        moment = rng.randint(sent, observed)
        if any(within(moment, each) for each in self.shut_out):
            result, status = rng.choice([("unauthorized", 401), ("forbidden", 403), ("not_found", 404)])
        elif _chance(rng, 0.1):
            result, status = rng.choice([("rate_limited", 429), ("server_error", 500), ("unreachable", 0)])
        elif organization is None or self._answer(organization, organization.flags[API], (API,), moment):
            result, status = "ok", 200
        else:
            result, status = "not_enabled", 400
        return self._see("feed_answer", result, sent, observed, about=organization, status=status or None)

    def _canary(self, sent: int, observed: int) -> bool:
        """Make a call, and look for its record a while later."""
        rng, organization = self.rng, self._only
        if organization is None:
            return False
        sent, observed, called = sent + 3 * MINUTE, observed + 3 * MINUTE, sent + rng.randint(0, 2 * MINUTE)
        blind = self.outages + self.shut_out
        if observed >= self.until or any(
            begin <= observed and (end is None or called < end) for begin, end in blind + organization.flags[API]
        ):
            return False
        moment = rng.randint(called, called + SECOND)
        if not self._answer(organization, organization.off, FLAGS, moment):
            off = any(within(moment, each) for each in organization.off)
            result = "missing" if off and not _chance(rng, 0.3) else "delayed"
        else:
            result = "delayed" if _chance(rng, 0.05) else "seen"
        return self._see("canary", result, sent, observed, about=organization, called_at=called)

    def _catch_up(self, moment: int) -> None:
        """Say that all is on the topic up to a time, where the API can be read; it is no more than what is true."""
        closed = self.outages + self.shut_out + (self._only.flags[API] if self._only else [])
        if moment >= self.until or any(within(moment, each) for each in closed):
            return
        missing = [time_of(row.record) for row in self.rows if row.append_time > moment and not row.hidden]
        complete = min([moment - MINUTE, *(each - 1 for each in missing)])
        if complete >= START:
            self._see("caught_up", "complete", moment, moment, about=self._only, complete_through=complete)
