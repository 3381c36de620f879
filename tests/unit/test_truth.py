"""The simulated truth is one, and its checks can fail."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from tests.support import truth
from tests.support.truth import INFERRED, OFF, PROVEN, SECOND, START, UNKNOWN, History, Input, Span, Truth, Word
from tests.unit.core.making import act, at, setting

from auditgap.core.inputs import ACCESS_TRANSPARENCY_TYPES, ADMISSION_SKEW, SETTINGS_TYPE, Activity, read_settings
from auditgap.core.observations import RESULTS, Observation
from auditgap.core.records import Gap

SEEDS = range(400)

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def gap(
    opened: float | None,
    latest: float | None,
    earliest: float | None,
    closed: float | None,
    *,
    state: str = "",
    confidence: str = "CONFIRMED",
) -> Gap:
    """Make a gap with these bounds, in seconds from the start."""
    moments = [None if each is None else at(each) for each in (opened, latest, earliest, closed)]
    return gap_at(moments, state=state, confidence=confidence)


def gap_at(moments: Sequence[int | None], *, state: str = "", confidence: str = "CONFIRMED") -> Gap:
    """Make a gap with these bounds."""
    opened, latest, earliest, closed = moments
    return Gap(
        gap_id=f"gap_{latest}",
        incident_id="inc_1",
        organization_id="org_1",
        feed_id="feed_1",
        first_evidence_at=START,
        state=state or ("OPEN" if closed is None else "CLOSED"),
        confidence=confidence,
        cause="LOGGING_DISABLED",
        opened_at=opened,
        opened_at_latest=latest,
        closed_at_earliest=earliest,
        closed_at=closed,
        opened_by_kind="settings_event",
        opened_by_id="set_1",
    )


def spans(*edges: tuple[float, str], until: float = 4000) -> list[Span]:
    """Make spans that join, each from its second on."""
    ends = [at(second) for second, _ in edges[1:]] + [at(until)]
    return [Span(at(second), end, state) for (second, state), end in zip(edges, ends, strict=True)]


def poll(name: str, seconds: float, result: str, *, lasts: float = 1, skew: float = 0) -> Observation:
    """Make a settings poll of org_1."""
    return Observation(
        id=name,
        kind="settings_poll",
        result=result,
        sent_at=at(seconds),
        observed_at=at(seconds + lasts),
        skew=round(skew * SECOND),
        organization_id="org_1",
        feed_id="feed_1",
    )


def made(events: Sequence[Activity], *others: Activity | Observation, lost: Sequence[str] = ()) -> History:
    """Make a history of org_1 by hand, up to second 4000, with a settle time of 60 s."""
    records = [*(each for each in events if each.id not in lost), *others]
    inputs = [
        Input(each, (each.observed_at if isinstance(each, Observation) else truth.time_of(each)) + SECOND)
        for each in records
    ]
    inputs.sort(key=lambda each: each.append_time)
    return History(tuple(inputs), {"org_1": truth.truth_of("org_1", events, inputs, until=at(4000))})


# --- a window made by hand ------------------------------------------------------------------------------------------

WINDOW = made(
    [setting("off", 1000, logging=False), setting("on", 2000, logging=True)],
    *(act(f"act_{second}", second) for second in (100, 900, 2100, 3900)),
)
"""Off from 1000 to 2000, exactly known."""

RIGHT = gap(1000, 1000, 2000, 2000)
COVERED = spans((100, PROVEN), (1000, OFF), (2000, INFERRED), (3900, UNKNOWN))


def found(history: History, gaps: Sequence[Gap], covered: Sequence[Span], resolution: float = 60) -> list[str]:
    """Check a result about org_1."""
    return truth.violations(history, "org_1", gaps, covered, round(resolution * SECOND))


def test_a_right_result() -> None:
    """The exact window passes, and so does one that claims less, or nothing where it is UNKNOWN."""
    assert found(WINDOW, [RIGHT], COVERED) == []
    assert found(WINDOW, [gap(900, 1100, 1900, 2100)], COVERED) == []
    assert found(WINDOW, [gap(None, 1100, None, 2100)], COVERED) == []
    assert found(WINDOW, [gap(900, 1500, 1400, 2100)], COVERED) == []
    assert found(WINDOW, [], spans((100, PROVEN), (900, UNKNOWN), (2100, INFERRED))) == []
    assert found(WINDOW, [], []) == []


def test_gap_and_unknown_join() -> None:
    """A window that is partly in a gap and partly UNKNOWN is covered."""
    halves = spans((100, PROVEN), (1000, OFF), (1500, UNKNOWN), (2000, INFERRED))
    assert found(WINDOW, [gap(1000, 1000, 1500, 1500)], halves) == []
    assert len(found(WINDOW, [gap(1000, 1000, 1499, 1499)], halves)) == 1


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        pytest.param([], "reported are nothing", id="none"),
        pytest.param([gap(1000.001, 1100, 1900, 2100)], "was off", id="opened late"),
        pytest.param([gap(900, 1100, 1900, 1999.999)], "was off", id="closed early"),
        pytest.param([gap(900, 1100, 1400, 1400), gap(1401, 1401, 2000, 2000)], "was off", id="a hole"),
        pytest.param([replace(RIGHT, state="RETRACTED")], "reported are nothing", id="retracted"),
        pytest.param([replace(RIGHT, state="SUPERSEDED")], "reported are nothing", id="superseded by nothing"),
        pytest.param([gap(900, 999.999, 1900, 2100)], "certain", id="certain too early"),
        pytest.param([gap(900, 1100, 2000.001, 2100)], "certain", id="certain too long"),
        pytest.param([gap(1000, 1000, None, None)], "certain", id="never closed"),
        pytest.param([RIGHT, gap(3000, 3100, 3100, 3200)], "nothing was off", id="false"),
        pytest.param([RIGHT, gap(2000, 2000, 2000, 2100)], "nothing was off", id="false from the close on"),
    ],
)
def test_wrong_gaps(gaps: list[Gap], words: str) -> None:
    """Each kind of wrong gap is told, in one sentence."""
    (sentence,) = found(WINDOW, gaps, COVERED)
    assert words in sentence


@pytest.mark.parametrize(
    ("covered", "words"),
    [
        pytest.param(spans((100, PROVEN), (1001, OFF), (2000, INFERRED)), "PROVEN", id="proven while off"),
        pytest.param(spans((100, PROVEN), (1000, OFF), (1999, INFERRED)), "INFERRED", id="inferred while off"),
        pytest.param(spans((100, PROVEN), (1000, OFF), until=3000), "the spans end", id="they end early"),
        pytest.param([*spans((100, OFF), until=300), *spans((301, OFF))], "do not join", id="a hole"),
        pytest.param(spans((100, "GOOD"), (1000, OFF)), "is no span", id="an unknown state"),
    ],
)
def test_wrong_spans(covered: list[Span], words: str) -> None:
    """Each kind of wrong span is told."""
    (sentence,) = found(WINDOW, [RIGHT], covered)
    assert words in sentence


def test_only_the_confirmed_are_certain() -> None:
    """A suspected gap may be wrong; it counts as reported nevertheless."""
    assert found(WINDOW, [RIGHT, gap(3000, 3000, 3100, 3200, confidence="SUSPECTED")], COVERED) == []
    assert found(WINDOW, [replace(RIGHT, confidence="SUSPECTED")], COVERED) == []


def test_within_the_resolution() -> None:
    """What is no longer than the stated resolution may have been taken for audited."""
    inferred = spans((100, INFERRED), (3900, UNKNOWN))
    assert found(WINDOW, [RIGHT], inferred, resolution=1000) == []
    assert len(found(WINDOW, [RIGHT], inferred, resolution=999)) == 1


def test_open_to_the_end() -> None:
    """A window that nobody closed is reported by an open gap, and by no closed one."""
    history = made([setting("off", 1000, api=False)], act("act", 500))
    covered = spans((500, PROVEN), (1000, OFF))
    assert found(history, [gap(1000, 1000, None, None)], covered) == []
    assert found(history, [gap(900, 1000, 4000, 4000)], covered) == []
    assert len(found(history, [gap(1000, 1000, 3000, 3000)], covered)) == 1


def test_union_of_flags() -> None:
    """A window lasts until neither flag is off; a null flag says nothing."""
    history = made(
        [
            setting("1", 1000, logging=False, api=None),
            setting("2", 1500, api=False),
            setting("3", 2000, logging=True),
            setting("4", 2500, api=True, logging=None),
        ]
    )
    assert history.truth["org_1"].off == ((at(1000), at(2500)),)
    assert history.truth["org_1"].api == ((at(1500), at(2500)),)
    assert history.truth["org_1"].logging == ((at(1000), at(2000)),)


# --- what can be known ----------------------------------------------------------------------------------------------

API_OFF = [setting("off", 1000, api=False), setting("on", 2000, api=True)]


@pytest.mark.parametrize(
    ("others", "lost", "complete"),
    [
        pytest.param([], [], True, id="all delivered"),
        pytest.param([], ["on"], True, id="the off delivered"),
        pytest.param([], ["off"], False, id="the off lost"),
        pytest.param([poll("p", 1061, "disabled")], ["off"], True, id="seen by a poll"),
        pytest.param([poll("p", 1059, "disabled")], ["off"], False, id="within the settle time"),
        pytest.param([poll("p", 1062, "disabled", skew=3)], ["off"], False, id="within it by the skew"),
        pytest.param([poll("p", 1990, "disabled", lasts=20)], ["off"], False, id="not wholly inside"),
        pytest.param([setting("again", 1500, api=False)], ["off"], False, id="a redundant off"),
        pytest.param(
            [setting("again", 1500, api=False), poll("p", 1600, "disabled")], ["off"], False, id="spoilt by it"
        ),
        pytest.param(
            [setting("again", 1500, api=False), poll("p", 1400, "disabled")], ["off"], True, id="not spoilt by it"
        ),
    ],
)
def test_the_proviso(others: list[Activity | Observation], lost: list[str], complete: bool) -> None:
    """A window is left out only where nothing that counts told of it."""
    redundant = [each for each in others if isinstance(each, Activity)]
    observed = [each for each in others if isinstance(each, Observation)]
    history = made([*API_OFF, *redundant], *observed, lost=lost)
    assert history.truth["org_1"].complete == (complete,)
    nothing = found(history, [], spans((0, INFERRED)), resolution=1000)
    assert (nothing == []) is not complete
    assert len(found(history, [], spans((0, INFERRED)), resolution=999)) == 1 + complete


def test_the_proviso_is_of_each_flag() -> None:
    """A poll tells nothing of a logging flag that was off for longer than the API."""
    events = [
        setting("1", 1000, api=False),
        setting("2", 1900, api=True, logging=False),
        setting("3", 2500, logging=True),
    ]
    history = made(events, poll("p", 1500, "disabled"), lost=["1", "2"])
    assert history.truth["org_1"].off == ((at(1000), at(2500)),)
    assert history.truth["org_1"].complete == (False,)


def test_off_from_the_start() -> None:
    """What was off before anything was proved has to be UNKNOWN, or reported."""
    events = [setting("on", 1000, logging=True)]
    history = History((), {"org_1": truth.truth_of("org_1", events, (), until=at(4000), off_at_start=["logging"])})
    assert history.truth["org_1"].off == ((START, at(1000)),)
    assert history.truth["org_1"].complete == (True,)
    assert found(history, [gap(None, 500, 500, 1000)], spans((500, OFF), (1000, INFERRED))) == []
    assert found(history, [], spans((1000, INFERRED))) == []
    assert len(found(history, [], spans((900, INFERRED)))) == 2


@pytest.mark.parametrize(
    ("others", "lost", "excused"),
    [
        pytest.param([], [], False, id="all delivered"),
        pytest.param([], ["on"], True, id="nothing told of the on"),
        pytest.param([poll("p", 2500, "enabled")], ["on"], False, id="a poll told of it"),
        pytest.param([poll("p", 2050, "enabled")], ["on"], True, id="within the settle time"),
        pytest.param([poll("q", 2040, "disabled"), poll("p", 2080, "enabled")], ["on"], True, id="after a stale one"),
        pytest.param([act("a", 2500)], ["on"], True, id="a proof in an exact window"),
        pytest.param([act("a", 2500), poll("q", 1500, "disabled")], ["on", "off"], False, id="a proof in another"),
        pytest.param([setting("again", 3000, api=True)], ["on"], True, id="up to a redundant on"),
    ],
)
def test_the_certain_part(others: list[Activity | Observation], lost: list[str], excused: bool) -> None:
    """Between two windows a result may be certain of "off" only where nothing told of the "on"."""
    events = [*API_OFF, setting("off again", 3000, api=False)]
    redundant = [each for each in others if isinstance(each, Activity) and each.type == SETTINGS_TYPE]
    if redundant:
        events[2:] = redundant
    history = made(events, *(each for each in others if each not in redundant), lost=lost)
    one = [gap(900, 1500, 2999, 4000 if not redundant else 3000)]
    certain = [each for each in found(history, one, spans((0, UNKNOWN))) if "certain" in each]
    assert (certain == []) is excused


def test_a_redundant_on_excuses_no_more() -> None:
    """After the first exact word that it is on, nothing is excused."""
    history = made([*API_OFF, setting("again", 3000, api=True)], lost=["on"])
    assert found(history, [gap(1000, 1000, 3000, 3000)], spans((0, UNKNOWN))) == []
    assert len(found(history, [gap(1000, 1000, 3001, 3001)], spans((0, UNKNOWN)))) == 1


# --- what is drawn --------------------------------------------------------------------------------------------------


def drawn() -> Iterator[History]:
    """Give some histories."""
    return (truth.history(seed) for seed in SEEDS)


def test_a_seed_decides() -> None:
    """The same seed gives the same history, another seed another one."""
    assert truth.history(7) == truth.history(7) == truth.history(random.Random(7))
    assert len({repr(truth.history(seed)) for seed in range(50)}) == 50


def test_the_order_of_arrival() -> None:
    """Inputs come as they were appended, and no time in them is more than five minutes after that."""
    for history in drawn():
        appended = [each.append_time for each in history.inputs]
        assert appended == sorted(appended)
        for record, append_time in history.inputs:
            if isinstance(record, Activity):
                moments = [truth.time_of(record)]
            else:
                moments = [record.ends, record.called_at or 0, record.complete_through or 0]
                assert record.result in RESULTS[record.kind]
                assert record.sent_at <= record.observed_at
            assert max(moments) <= append_time + ADMISSION_SKEW


def test_recorded_only_while_on() -> None:
    """No ordinary activity lies in a true off-window; Access Transparency records do."""
    transparent = 0
    for history in drawn():
        for record, _ in history.inputs:
            if isinstance(record, Activity) and record.type != SETTINGS_TYPE:
                about = history.truth[record.organization_id or ""]
                if record.type in ACCESS_TRANSPARENCY_TYPES:
                    transparent += about.is_off(truth.time_of(record))
                else:
                    assert not about.is_off(truth.time_of(record))
                    assert truth.time_of(record) in about.recorded
    assert transparent > 20


def test_settings_events_are_readable() -> None:
    """Every settings event is one that the product takes as it is."""
    for history in drawn():
        for record, _ in history.inputs:
            if isinstance(record, Activity) and record.type == SETTINGS_TYPE:
                assert read_settings(record) == record


def test_answers_are_true_or_stale() -> None:
    """An answer is true of some moment of its call, or of one that lies at most the settle time before."""
    stale = 0
    for history in drawn():
        for about in history.truth.values():
            for word in truth.words_of(history.inputs, about.organization_id):
                if word.exact:
                    continue
                offs = about.off if word.proof and not word.says_off else about.api
                stale += not _holds(word, offs, word.begins, word.ends)
                assert _holds(word, offs, word.begins - about.settle, word.ends), (word, history)
    assert stale > 5


def _holds(word: Word, offs: Sequence[truth.Interval], begin: int, end: int) -> bool:
    """Whether what a word says of the API, or of both flags, held at some moment from begin to end."""
    edges = {begin, end, *(edge for off in offs for edge in off if edge is not None and begin <= edge <= end)}
    moments = edges | {edge - 1 for edge in edges if edge > begin}
    return any(any(truth.within(moment, off) for off in offs) is word.says_off for moment in moments)


def test_missing_is_never_wrong() -> None:
    """A canary is missing only where nothing was recorded at the call."""
    missing = 0
    for history in drawn():
        for record, _ in history.inputs:
            if isinstance(record, Observation) and record.result == "missing":
                about, called = history.truth[record.organization_id or ""], record.called_at or 0
                missing += 1
                moments = range(called - record.skew, called + record.skew + SECOND + 1, SECOND // 4)
                assert any(about.is_off(moment) for moment in moments)
    assert missing > 5


def test_caught_up_is_true() -> None:
    """What the collector vouches for was on the topic before, but for settings events that the API had late."""
    for history in drawn():
        first: dict[str, int] = {}
        for record, append_time in history.inputs:
            first.setdefault(record.id, append_time)
        for record, append_time in history.inputs:
            if isinstance(record, Observation) and record.complete_through is not None:
                late = [
                    each.id
                    for each, _ in history.inputs
                    if isinstance(each, Activity)
                    and each.feed_id == record.feed_id
                    and each.type != SETTINGS_TYPE
                    and truth.time_of(each) <= record.complete_through
                    and first[each.id] > append_time
                ]
                assert late == []


def test_everything_is_drawn() -> None:
    """Each thing that can go wrong is there: repeats, late events, losses, lost access, long calls, overtaking."""
    seen: Counter[str] = Counter()
    for history in drawn():
        ids = Counter(each.record.id for each in history.inputs)
        seen["repeated"] += max(ids.values()) > 1
        for before, after in pairwise(history.inputs):
            if isinstance(before.record, Activity) and isinstance(after.record, Activity):
                seen["overtaken"] += truth.time_of(before.record) > truth.time_of(after.record)
        for record, append_time in history.inputs:
            if isinstance(record, Observation):
                seen[f"{record.kind} {record.result}"] += 1
                seen["feed"] += record.organization_id is None
                seen["long"] += record.observed_at - record.sent_at > 30 * SECOND
            elif record.type == SETTINGS_TYPE:
                seen["late"] += append_time - truth.time_of(record) > 1800 * SECOND
        for about in history.truth.values():
            seen["open"] += any(end is None for _, end in about.off)
            seen["from the start"] += any(each.from_start for each in about.stretches)
            seen["short"] += any(end is not None and end - begin < about.poll for begin, end in about.off)
            seen["two flags"] += bool(about.api and about.logging)
            seen["complete"] += about.complete.count(True)
            seen["incomplete"] += about.complete.count(False)
            seen["seen only"] += any(not each.begin_told and not each.from_start for each in _told(about))
    # A feed that is simulated needs nobody to say how it was.
    of_collectors = {kind: results for kind, results in RESULTS.items() if kind != "operator"}
    expected = {
        f"{kind} {result}" for kind, results in of_collectors.items() for result in results if result != "other"
    }
    assert expected <= set(seen)
    assert min(seen.values()) > 5, seen


def _told(about: Truth) -> Iterator[truth.Stretch]:
    """Give the stretches of windows whose proviso holds."""
    for window, complete in zip(about.off, about.complete, strict=True):
        if complete:
            yield from (each for each in about.stretches if truth.within(each.begin, window))


def test_lossless() -> None:
    """Where every settings event is delivered, every window can be known."""
    assert all(truth.history(seed, lossless=True).complete for seed in SEEDS)
    assert not all(truth.history(seed, lossless=False).complete for seed in SEEDS)


@EXAMPLES
@given(truth.histories(switches=2))
def test_the_strategy(history: History) -> None:
    """The strategy gives small histories, in order."""
    assert len(history.inputs) < 60
    assert list(history.inputs) == sorted(history.inputs, key=lambda each: each.append_time)


# --- other orders ---------------------------------------------------------------------------------------------------


def test_arrangements() -> None:
    """Each has the same inputs, perhaps more than once; activities are overtaken only within the horizon."""
    orders = repeats = 0
    for history in drawn():
        for inputs, cuts in truth.arrangements(history, random.Random(1), count=2):
            assert set(inputs) == set(history.inputs)
            assert all(0 < cut < len(inputs) for cut in cuts)
            orders += inputs != history.inputs
            repeats += len(inputs) > len(history.inputs)
            latest = 0
            for record, append_time in inputs:
                if isinstance(record, Activity) and record.type != SETTINGS_TYPE:
                    assert append_time >= latest - truth.HORIZON
                    latest = max(latest, append_time)
    assert orders > 400
    assert repeats > 400


# --- a careful reader -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Reads the inputs in small, without the core: what it claims is true. Each field is a care that it can forget."""

    settles: bool = True
    """An answer tells of a moment up to the settle time before its call."""
    lasts: bool = True
    """An answer "on" tells of a moment up to the end of its call."""
    waits: bool = True
    """Stale answers after an exact word are not believed."""
    both_flags: bool = True
    """The API flag counts too."""
    keeps_null: bool = True
    """A flag that is not mentioned is not switched on."""

    def windows(self, words: Sequence[Word], flag: str, settle: int) -> Iterator[list[int | None]]:
        """Find the windows of one flag: opened_at, opened_at_latest, closed_at_earliest, closed_at."""
        margin = settle if self.settles else 0
        exact = [word for word in words if word.exact and word.of(flag) is not None]
        offs = [word for word in words if word.of(flag) is False]
        ons = [word for word in words if word.of(flag) is True]
        window: list[int | None] | None = None
        last: Word | None = None
        by_exact = False
        for word in words:
            says = word.of(flag)
            if word.exact and not self.keeps_null:
                says = says is not False
            if says is False:
                stale = any(e.of(flag) and e.ends <= word.ends and word.begins <= e.ends + settle for e in exact)
                if not word.exact and stale and self.waits:
                    continue
                if window is None:
                    before = [
                        each.begins - (0 if each.begins == each.ends else margin)
                        for each in ons
                        if each.ends <= word.begins - (0 if word.exact else margin)
                    ]
                    opened = word.begins if word.exact else max(before, default=None)
                    window, by_exact = [opened, word.ends, None, None], False
                elif word.exact:
                    window[1] = min(window[1] or 0, word.ends)
                by_exact |= word.exact
                last = word
            elif says is True and window is not None and last is not None:
                stale = any(off.begins <= word.ends and word.begins <= off.ends + settle for off in offs)
                if not word.exact and ((word.proof and by_exact) or (stale and self.waits)):
                    continue
                if word.exact:
                    yield [*window[:2], word.begins, word.begins]
                else:
                    closed = word.ends if self.lasts else word.begins
                    yield [*window[:2], last.begins - (0 if last.exact else margin), closed]
                window = None
        if window is not None:
            yield window

    def read(self, history: History, about: Truth) -> tuple[list[Gap], list[Span], int]:
        """Give gaps, spans and the resolution."""
        words = truth.words_of(history.inputs, about.organization_id)
        flags = truth.FLAGS if self.both_flags else truth.FLAGS[:1]
        gaps = [gap_at(each) for flag in flags for each in self.windows(words, flag, about.settle)]
        covered = []
        for begin, end in pairwise([about.start, *about.recorded, about.until]):
            state = INFERRED if begin in about.recorded and end in about.recorded else UNKNOWN
            edges = {begin, end, *(each for gap in gaps for each in (gap.opened_at, gap.closed_at) if each is not None)}
            for since, till in pairwise(sorted(each for each in edges if begin <= each <= end)):
                off = any((each.opened_at or 0) <= since and (each.closed_at or till) >= till for each in gaps)
                covered.append(Span(since, till, OFF if off else state))
        unproved = max((end - begin for begin, end in pairwise(about.recorded)), default=0)
        return gaps, covered, 0 if all(about.complete) else unproved

    def violations(self, history: History) -> list[str]:
        """Check what it reads in a history."""
        return [
            sentence
            for name, about in history.truth.items()
            for sentence in truth.violations(history, name, *self.read(history, about))
        ]


def test_a_careful_reader() -> None:
    """What can be claimed with care contradicts no truth: the checks ask for nothing that cannot be had."""
    for seed in range(1500):
        history = truth.history(seed)
        assert Reader().violations(history) == [], history


@pytest.mark.parametrize("care", ["settles", "lasts", "waits", "both_flags", "keeps_null"])
def test_a_careless_reader(care: str) -> None:
    """A reader that forgets one care is caught."""
    careless = replace(Reader(), **{care: False})
    assert any(careless.violations(truth.history(seed)) for seed in range(4000))
