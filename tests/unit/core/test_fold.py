import random
from itertools import permutations

import pytest
from tests.unit.core.making import at, setting

from auditgap.core.fold import Assertion, Timeline, Window, of_misdated_settings_event, of_settings_event

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


def spans(*assertions: Assertion) -> list[tuple[str, float | None, float | None]]:
    """Give cause, opening and close of each window, in seconds."""

    def seconds(moment: int | None) -> float | None:
        return None if moment is None else (moment - at(0)) / 1_000_000

    return [(w.cause, seconds(w.opened_at), seconds(w.closed_at)) for w in windows(*assertions)]


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
    assert (window.opened_at, window.opened_at_latest, window.cause) == (at(1), at(2), "BOTH_DISABLED")


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
