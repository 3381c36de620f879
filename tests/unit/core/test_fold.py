import random
from dataclasses import replace
from itertools import permutations

import pytest
from tests.unit.core.making import at, setting

from auditgap.core.fold import (
    SETTLE,
    Assertion,
    Timeline,
    Window,
    of_misdated_settings_event,
    of_observation,
    of_recording,
    of_settings_event,
)
from auditgap.core.observations import Observation
from auditgap.core.times import SECOND
from auditgap.core.track import CAUSES, CONFIRMED

ON, OFF, BOTH_OFF = {"logging": True}, {"logging": False}, {"api": False, "logging": False}


def say(identifier: str, seconds: float, **flags: bool | None) -> Assertion:
    """Assert exactly."""
    return of_settings_event(setting(identifier, seconds, **flags), at(seconds))


def misdated(identifier: str, append: float, **flags: bool | None) -> Assertion:
    """Assert what a settings event dated far into the future says."""
    assertion = of_misdated_settings_event(setting(identifier, append + 9999, **flags), at(append))
    assert assertion is not None
    return assertion


def windows(*assertions: Assertion) -> list[Window]:
    """Fold, and see that the order of arrival does not matter."""
    folded = Timeline(assertions).windows
    for order in list(permutations(assertions))[:24]:
        timeline = Timeline()
        for assertion in order:
            timeline.put([assertion])
        assert timeline.windows == folded
    return folded


def cause_of(window: Window) -> str:
    """Name what was off in a window."""
    return CAUSES[CONFIRMED, frozenset(window.off_flags)]


def spans(*assertions: Assertion) -> list[tuple[str, float | None, float | None]]:
    """Give cause, opening and close of each window, in seconds."""

    def seconds(moment: int | None) -> float | None:
        return None if moment is None else (moment - at(0)) / 1_000_000

    return [(cause_of(w), seconds(w.opened_at), seconds(w.closed_at)) for w in windows(*assertions)]


def test_nothing_said() -> None:
    """Without assertions, or with nothing but "on", there is no window."""
    assert spans() == []
    assert spans(say("a", 1, api=True, logging=True), say("b", 2, logging=True)) == []


def test_a_window() -> None:
    """An "off" opens a window at its time and an "on" closes it at its own."""
    assert spans(say("a", 1, **OFF), say("b", 5, **ON)) == [("LOGGING_DISABLED", 1, 5)]


def test_an_open_window() -> None:
    """Without an "on" the window stays open."""
    (window,) = windows(say("a", 1, **OFF))
    assert (window.closing, window.closed_at, window.opened_at_latest) == (None, None, at(1))


def test_api_only() -> None:
    """Switching off the API alone, with logging not mentioned or null, opens a window."""
    assert spans(say("a", 1, api=False)) == [("API_DISABLED", 1, None)]
    assert spans(say("a", 1, api=False, logging=None)) == [("API_DISABLED", 1, None)]


def test_api_only_is_not_closed_by_logging() -> None:
    """Switching on logging while the API is off closes nothing."""
    assert spans(say("a", 1, api=False), say("b", 2, logging=True)) == [("API_DISABLED", 1, None)]
    assert spans(say("a", 1, api=False), say("b", 2, logging=True), say("c", 3, api=True)) == [("API_DISABLED", 1, 3)]


def test_null_is_not_false() -> None:
    """A flag that is null or absent keeps its value, whichever that was."""
    assert spans(say("a", 1, api=None, logging=None)) == []
    assert spans(say("a", 1, **OFF), say("b", 2, api=True, logging=None)) == [("LOGGING_DISABLED", 1, None)]


def test_both_flags() -> None:
    """A window in which both flags were off, together or one after the other, is BOTH_DISABLED."""
    assert spans(say("a", 1, **BOTH_OFF), say("b", 5, api=True, logging=True)) == [("BOTH_DISABLED", 1, 5)]
    one_by_one = (say("a", 1, api=False), say("b", 2, **OFF), say("c", 3, api=True), say("d", 4, **ON))
    assert spans(*one_by_one) == [("BOTH_DISABLED", 1, 4)]


def test_one_event_switches_over() -> None:
    """An event that switches one flag on and the other off leaves the window open."""
    assert spans(say("a", 1, api=False), say("b", 2, api=True, logging=False)) == [("BOTH_DISABLED", 1, None)]


def test_the_causes_of_a_later_window() -> None:
    """A window tells of its own flags only, not of those of the window before."""
    assert spans(say("a", 1, api=False), say("b", 2, api=True), say("c", 3, **OFF)) == [
        ("API_DISABLED", 1, 2),
        ("LOGGING_DISABLED", 3, None),
    ]


def test_off_has_the_last_word_at_equal_times() -> None:
    """Of "on" and "off" at the same time "off" comes after, whatever their ids."""
    assert spans(say("a", 1, **OFF), say("z", 1, **ON)) == [("LOGGING_DISABLED", 1, None)]
    assert spans(say("z", 1, **OFF), say("a", 1, **ON)) == [("LOGGING_DISABLED", 1, None)]
    assert spans(say("a", 1, **OFF), say("b", 3, **ON), say("c", 3, **OFF)) == [
        ("LOGGING_DISABLED", 1, 3),
        ("LOGGING_DISABLED", 3, None),
    ]


def test_exact_has_the_last_word_at_equal_times() -> None:
    """An exact "on" at the time of a misdated "off" comes after it."""
    assert spans(misdated("a", 2, **OFF), say("b", 2, **ON)) == [("LOGGING_DISABLED", None, 2)]


def test_the_least_id_opens() -> None:
    """Of several "off" at one time the least id is the opening one, and all are kept."""
    (window,) = windows(say("b", 1, **OFF), say("a", 1, **OFF), say("c", 1, api=False))
    assert (window.opening.input_id, [each.input_id for each in window.offs]) == ("a", ["a", "b", "c"])


def test_repeated_offs_are_one_window() -> None:
    """Further "off" within a window open nothing, and belong to it."""
    (window,) = windows(say("a", 1, **OFF), say("b", 2, **OFF), say("c", 3, **ON))
    assert (window.opening.input_id, [each.input_id for each in window.offs]) == ("a", ["a", "b"])


@pytest.mark.parametrize(
    ("earlier", "opened_at"),
    [
        ([], None),
        ([say("x", 1, api=True)], None),
        ([say("x", 1, logging=True)], at(1)),
        ([say("x", 1, logging=True), say("y", 3, logging=True)], at(3)),
    ],
    ids=["nothing said before", "only of the other flag", "on before", "the last word before"],
)
def test_a_misdated_off_opens_at_an_uncertain_time(earlier: list[Assertion], opened_at: int | None) -> None:
    """A misdated "off" says that the change lies between the last word about that flag and its append time."""
    (window,) = windows(*earlier, misdated("m", 5, **OFF))
    assert (window.opened_at, window.opened_at_latest) == (opened_at, at(5))


def test_an_exact_off_before_a_misdated_one() -> None:
    """An exact "off" before the append time of a misdated one makes the opening certain."""
    (window,) = windows(say("a", 2, **OFF), misdated("m", 5, **OFF))
    assert (window.opened_at, window.opened_at_latest) == (at(2), at(2))


def test_a_misdated_off_of_the_other_flag() -> None:
    """A misdated "off" of the other flag within a window can move its earliest opening, not the certain one."""
    (window,) = windows(say("x", 1, api=True), say("a", 2, **OFF), misdated("m", 5, api=False))
    assert (window.opened_at, window.opened_at_latest, cause_of(window)) == (at(1), at(2), "BOTH_DISABLED")


def test_a_misdated_on_counts_for_nothing() -> None:
    """Of a misdated event only the "off" counts: "on" needs a time that can be."""
    assert of_misdated_settings_event(setting("m", 9999, logging=True), at(1)) is None
    both = misdated("m", 1, api=True, logging=False)
    assert (both.api, both.logging, both.exact) == (None, False, False)


def test_an_assertion_in_the_place_of_another() -> None:
    """An assertion that moves to another time changes the windows there and here, and those between stay right."""
    fixed = (say("a", 1, **ON), say("b", 5, **ON), say("c", 10, **OFF), say("d", 12, **ON), say("e", 30, **ON))
    late, early = misdated("m", 20, **OFF), misdated("m", 3, **OFF)
    for old, new in ((late, early), (early, late)):
        timeline = Timeline((*fixed, old))
        timeline.put([new], [old])
        assert timeline.windows == Timeline((*fixed, new)).windows


def test_a_timeline_needs_what_it_replaces() -> None:
    """Replacing an assertion that is not there is an error."""
    with pytest.raises(ValueError, match="not in list"):
        Timeline([say("a", 1, **OFF)]).put([say("b", 1, **OFF)], [say("c", 1, **OFF)])


def test_only_what_changes_is_folded_anew() -> None:
    """An assertion far from all others leaves their windows alone: the very same objects stay."""
    flips = [say(f"{n:03d}", n, logging=n % 2 == 1) for n in range(300)]
    random.Random(1).shuffle(flips)
    timeline = Timeline(flips)
    before = list(timeline.windows)
    gone, came = timeline.put([say("late", 100.5, **OFF)])
    assert len(gone) + len(came) < 6
    assert sum(window in before and any(window is each for each in before) for window in timeline.windows) > 140


# --- what is not exact ------------------------------------------------------------------------------------------------

S = SETTLE // SECOND


def poll(identifier: str, seconds: float, *, on: bool, lasted: float = 0, kind: str = "settings_poll") -> Assertion:
    """Assert what a call says that was sent then, and answered so much later."""
    words = {
        "settings_poll": ("disabled", "enabled"),
        "feed_answer": ("not_enabled", "ok"),
        "canary": ("missing", "seen"),
    }
    seen = Observation(
        id=identifier,
        kind=kind,
        result=words[kind][on],
        observed_at=at(seconds + lasted),
        sent_at=at(seconds),
        called_at=at(seconds) if kind == "canary" else None,
        organization_id="org_1",
    )
    assertion = of_observation(seen, at(seconds + lasted))
    assert assertion is not None
    return assertion


def recorded(identifier: str, seconds: float) -> Assertion:
    """Assert what a recorded activity proves."""
    return of_recording(identifier, at(seconds))


def bounds(*assertions: Assertion) -> list[tuple[float | None, ...]]:
    """Give the four bounds of each window, in seconds."""
    return [bounds_of(window) for window in windows(*assertions)]


def bounds_of(window: Window) -> tuple[float | None, ...]:
    """Give its four bounds, in seconds."""
    moments = (window.opened_at, window.opened_at_latest, window.closed_at_earliest, window.closed_at)
    return tuple(None if moment is None else (moment - at(0)) / SECOND for moment in moments)


def test_found_off_by_polls() -> None:
    """A window lies between the answers around it, each as old as the settle time at the most."""
    polls = (poll("a", 1000, on=True), poll("b", 2000, on=False), poll("c", 3000, on=False), poll("d", 4000, on=True))
    assert bounds(*polls) == [(1000 - S, 2000, 3000 - S, 4000)]


def test_what_was_recorded_narrows_a_window() -> None:
    """Records are before a window that was found off later, and the first one a settle time after it closes it."""
    found = (poll("a", 1000, on=True), poll("b", 2000, on=False), poll("d", 4000, on=True))
    assert bounds(*found, recorded("x", 1900), recorded("y", 2100)) == [(1900 - S, 2000, 2000 - S, 2100)]
    # Within the settle time it says nothing: servers do not switch all at once.
    assert bounds(*found, recorded("x", 1950), recorded("y", 2050)) == [(1000 - S, 2000, 2000 - S, 4000)]


def test_an_event_makes_the_bound_exact() -> None:
    """An exact "off" or "on" inside what answers left open is the bound, and the event opens the window."""
    found = (poll("a", 1000, on=True), poll("b", 2000, on=False), poll("d", 4000, on=True))
    (window,) = windows(*found, say("off", 1500, api=False), say("on", 3500, api=True))
    assert (window.opening.input_id, window.closing and window.closing.input_id) == ("off", "on")
    assert bounds(*found, say("off", 1500, api=False), say("on", 3500, api=True)) == [(1500, 1500, 3500, 3500)]


def test_recorded_activity_does_not_close_what_an_event_opened() -> None:
    """Against the "off" of an event neither a record nor a canary counts; the API saying so does, for its own flag."""
    weak = (recorded("x", 2000), poll("c", 3000, on=True, kind="canary"))
    assert bounds(say("off", 1000, **OFF), *weak) == [(1000, 1000, None, None)]
    assert bounds(say("off", 1000, api=False), *weak) == [(1000, 1000, None, None)]
    assert bounds(say("off", 1000, api=False), *weak, poll("p", 4000, on=True)) == [(1000, 1000, 1000, 4000)]
    assert bounds(say("off", 1000, **OFF), *weak, poll("p", 4000, on=True)) == [(1000, 1000, None, None)]


def test_a_stale_answer_opens_nothing() -> None:
    """An "off" within the settle time after an exact "on" was so before it."""
    exact = (say("off", 1000, api=False), say("on", 2000, api=True))
    assert bounds(*exact, poll("p", 2000 + S - 1, on=False)) == [(1000, 1000, 2000, 2000)]
    assert bounds(*exact, poll("p", 2000 + S, on=False)) == [(1000, 1000, 2000, 2000), (2000, 2000 + S, None, None)]


def test_a_stale_answer_closes_nothing() -> None:
    """An "on" within the settle time after an "off" was so before it."""
    assert bounds(say("off", 1000, api=False), poll("p", 1000 + S - 1, on=True)) == [(1000, 1000, None, None)]
    assert bounds(poll("a", 1000, on=False), poll("p", 1000 + S - 1, on=True)) == [(None, 1000, None, None)]


def test_an_answer_over_an_exact_on() -> None:
    """An "off" seen in a call that an "on" lies in is explained by an "off" before; alone it makes nothing certain."""
    over = poll("p", 1900, on=False, lasted=200)
    (window,) = windows(poll("a", 1000, on=False), say("on", 2000, api=True), over)
    assert (window.closed_at, over in window.offs) == (at(2000), False)
    (window,) = windows(say("on", 2000, api=True), over)
    assert (window.opened_at, window.closing, window.sure) == (None, None, False)


def test_an_on_in_between_limits_what_is_certain() -> None:
    """Where an "on" may lie between two "off" that do not keep it apart, certain is only what comes before it."""
    slow = poll("on", 2000, on=True, lasted=500)
    assert bounds(poll("a", 1000, on=False), slow, poll("b", 2520, on=False), poll("c", 3000, on=True)) == [
        (None, 1000, 2000 - S, 3000)
    ]


def test_an_api_found_on_does_not_close_logging() -> None:
    """An answer speaks of the API only: a window of the other flag stays, and the two are one window."""
    off = (say("off", 1000, **OFF), poll("p", 2000, on=False))
    (window,) = windows(*off, poll("q", 3000, on=True))
    assert (cause_of(window), window.closing) == ("BOTH_DISABLED", None)


def test_answers_of_a_feed_of_several() -> None:
    """From a feed of several organizations an "on" says nothing: any one may have answered."""
    several = Observation(id="o", kind="feed_answer", result="ok", observed_at=at(1), sent_at=at(1), feed_id="feed_1")
    assert of_observation(several, at(1)) is None
    missing = Observation(id="o", kind="canary", result="missing", observed_at=at(1), sent_at=at(1), called_at=at(0))
    assert of_observation(missing, at(1)) is None


def test_a_timeline_folds_locally_around_answers() -> None:
    """With a poll between all flips, an assertion far away leaves the other windows alone, and nothing else changes."""
    flips = [say(f"{n:03d}", n * 300, api=n % 2 == 1) for n in range(100)]
    polls = [poll(f"p{n:03d}", n * 300 + 150, on=n % 2 == 1) for n in range(100)]
    timeline = Timeline([*flips, *polls])
    late = poll("late", 9000 + 200, on=True)
    gone, came = timeline.put([late])
    assert len(gone) + len(came) < 12
    assert timeline.windows == Timeline([*flips, *polls, late]).windows


@pytest.mark.parametrize("begins", [100, 120])
def test_what_reaches_over_an_exact_close_bounds_what_comes_later(begins: float) -> None:
    """An answer that began before, or when, a window was closed, and ended after it, is not forgotten behind it."""
    closed = [say("a", 10, api=True, logging=False), say("b", 120, logging=True)]
    over = replace(poll("over", 150, on=True), begins=at(begins))
    timeline = Timeline([*closed, poll("new", 2000, on=False)])
    timeline.put([over])
    whole = Timeline(timeline.assertions).windows
    assert timeline.windows == whole
    assert whole[-1].opened_at == at(begins)

    timeline = Timeline(closed[:1])
    timeline.append(over)
    timeline.put(closed[1:])
    timeline.put([poll("new", 2000, on=False)])
    assert timeline.windows == whole


@pytest.mark.parametrize("every", [20, 60, 300])
def test_equal_observations_are_thinned_out(every: int) -> None:
    """Of many equal answers the newest are kept, and those around a change that bound it; the windows stay."""
    timeline, all_of_them = Timeline(), []
    for n in range(500):
        each = poll(f"p{n:03d}", n * every, on=not 200 <= n < 300)
        all_of_them.append(each)
        timeline.put([each])
        timeline.thin(each)
    assert len(timeline.assertions) < 90
    (window,), (whole,) = timeline.windows, Timeline(all_of_them).windows
    assert bounds_of(window) == bounds_of(whole)


@pytest.mark.parametrize("seed", range(60))
def test_what_is_polled_in_turn_is_thinned_out_too(seed: int) -> None:
    """Polls, answers and canaries in turn, some late, among events: the windows stay as if nothing were thinned."""
    rng = random.Random(seed)
    switches = sorted(rng.sample(range(30_000), rng.randint(0, 6)))
    arriving: list[tuple[float, Assertion]] = []
    for n in range(400):
        moment = n * 60 + rng.randint(0, 40)
        on = sum(each <= moment for each in switches) % 2 == 0
        kind = rng.choice(["settings_poll", "feed_answer", "canary"])
        if kind != "canary" or on:
            said = poll(f"p{n:03d}", moment, on=on, kind=kind, lasted=rng.choice([0, 0, 30]))
            arriving.append((moment + (rng.randint(0, 3000) if rng.random() < 0.1 else 0), said))
    for number, moment in enumerate(switches):
        if rng.random() < 0.5:
            arriving.append((moment + rng.randint(0, 2000), say(f"s{number}", moment, api=number % 2 == 1)))
    timeline = Timeline()
    thinned = 0
    everything = [each for _, each in sorted(arriving, key=lambda each: (each[0], each[1].input_id))]
    for each in everything:
        if timeline.is_idle(each):
            timeline.append(each)
        else:
            timeline.put([each])
        thinned += len(timeline.thin(each))
    whole = Timeline(everything).windows
    assert [bounds_of(window) for window in timeline.windows] == [bounds_of(window) for window in whole]
    again = Timeline(timeline.assertions).windows
    assert [bounds_of(window) for window in again] == [bounds_of(window) for window in whole]
    assert thinned > 100
