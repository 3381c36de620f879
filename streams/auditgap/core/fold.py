"""The fold: from the assertions about one subject to the windows in which its feed was off.

An assertion says of each flag on, off or nothing. An *exact* one says when it was switched: a settings event, an
operator. One that is *not exact* says that it was so at some moment between `begins` and `ends`: an answer of the API,
a recorded activity. Each flag is unknown, on or off, unknown at first, and is folded by itself:

- exact assertions part time into regions, one wherever the flag is switched; a flag that is not mentioned keeps its
  value ("null" in a settings event means "not changed", never "false");
- an assertion that is not exact and reaches over a switch was so on one side of it: it says nothing new;
- within a region, offs that no "on" keeps apart are one stretch. It began after the last "on" that surely came before
  and ended before the first "on" that surely came after;
- where an event said "off", a recorded activity (or a canary) is no proof of the contrary: only an exact "on", or the
  API saying so, ends it.

The windows are the stretches of both flags, joined where they touch: switching logging on while the API is still off
closes nothing. The result depends on the set of assertions only, never on their order of arrival or on repetition.
"""

import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple

from auditgap.core import times
from auditgap.core.inputs import NOBODY, OPERATOR, Activity, Actor
from auditgap.core.observations import Observation

API: Final = "api"
LOGGING: Final = "logging"
FLAGS: Final = (API, LOGGING)

SETTLE: Final = 60 * times.SECOND
"""How long servers may go on answering, and recording, as before a switch: they do not all switch at once."""


Order = tuple[int, bool, bool, str, str]


@dataclass(frozen=True, slots=True)
class Assertion:
    """What one input says about the two flags: True on, False off, None nothing.

    Exact: it was switched at `begins`, which is `ends`. Not exact: it was so at some moment from `begins` to `ends`.
    `append_time` is when its first copy was appended by the broker. `digest` is its content's, `result` what an
    observation found. It is not `whole` where the input also said "on" and nothing proved that: that part is left out.
    `reason` is an operator's.
    """

    begins: int
    ends: int
    kind: str
    input_id: str
    digest: str
    api: bool | None
    logging: bool | None
    append_time: int
    exact: bool = True
    actor: Actor = NOBODY
    organization_id: str | None = None
    feed_id: str | None = None
    result: str | None = None
    whole: bool = True
    reason: str | None = None
    order: Order = field(init=False, repr=False, compare=False)
    """Where it stands: at equal times the exact ones, then those that say off, have the last word.

    An "off" stands where it is certain, an "on" no later than it can be. No two of different `key` share their place.
    """

    def __post_init__(self) -> None:
        off = self.says_off
        order = (self.ends if off else self.begins, self.exact, off, self.input_id, self.digest)
        object.__setattr__(self, "order", order)

    @property
    def key(self) -> tuple[str, str]:
        """What makes two assertions one: same id, same content, and both dated by the record or neither.

        A copy that was misdated and one that was not are two: the first says only "off", the second all it says.
        """
        return self.input_id, self.digest if self.exact else f"~{self.digest}"

    @property
    def says_off(self) -> bool:
        """Whether it turns a flag off."""
        return self.api is False or self.logging is False


ACTIVITY: Final = "activity"

EVENTS: Final = frozenset({"settings_event", OPERATOR})
"""Kinds of assertions that say what somebody did, not what was seen."""

WEAK: Final = frozenset({ACTIVITY, "canary"})
"""Kinds of proofs that records still come; against the "off" of an event they count for nothing."""


def of_settings_event(activity: Activity, append_time: int, *, trusted: bool = True) -> Assertion:
    """Assert what a readable settings event says: each flag that is present, at its time, exactly.

    Of one that is not `trusted` only the "off" counts; it is an assertion even where that leaves nothing.
    """
    assert activity.created_at is not None  # noqa: S101 - settings_fault refused it before
    said = (activity.api_enabled, activity.logging_enabled)
    api, logging = (flag if trusted or flag is False else None for flag in said)
    return Assertion(
        begins=activity.created_at,
        ends=activity.created_at,
        kind="settings_event",
        input_id=activity.id,
        digest=activity.digest,
        api=api,
        logging=logging,
        append_time=append_time,
        actor=activity.actor,
        organization_id=activity.organization_id,
        feed_id=activity.feed_id,
        whole=(api, logging) == said,
    )


def of_misdated_settings_event(activity: Activity, append_time: int) -> Assertion | None:
    """Assert the "off" of a settings event whose time cannot be: it counts from the append time, not exactly.

    Its "on" counts for nothing: "off" is believed from anyone, "on" only with proof.
    """
    if activity.api_enabled is not False and activity.logging_enabled is not False:
        return None
    return Assertion(
        begins=append_time,
        ends=append_time,
        kind="settings_event",
        input_id=activity.id,
        digest=activity.digest,
        api=False if activity.api_enabled is False else None,
        logging=False if activity.logging_enabled is False else None,
        append_time=append_time,
        exact=False,
        actor=activity.actor,
        organization_id=activity.organization_id,
        feed_id=activity.feed_id,
    )


ASSERTED: Final = {
    ("settings_poll", "enabled"): (True, None),
    ("settings_poll", "disabled"): (False, None),
    ("feed_answer", "ok"): (True, None),
    ("feed_answer", "not_enabled"): (False, None),
    ("canary", "seen"): (True, True),
    (OPERATOR, "on"): (True, True),
    (OPERATOR, "off"): (False, False),
}
"""What an observation says about the API and about logging, by its kind and result; others say nothing."""


def of_observation(seen: Observation, append_time: int) -> Assertion | None:
    """Assert what an observation says, None where it says nothing about the flags.

    An answer may be as old as the settle time. "On" is believed only about exactly one organization: of a feed of
    several, any one may have answered. An operator's statement is exact, and about one flag where it names one.
    """
    api, logging = ASSERTED.get((seen.kind, seen.result), (None, None))
    if api is None:
        return None
    if seen.kind == OPERATOR:
        return _of_operator(seen, append_time, on=api)
    if api and seen.organization_id is None and seen.kind != "settings_poll":
        return None
    return of_sight(seen, append_time, api, logging, SETTLE)


def of_sight(seen: Observation, append_time: int, api: bool | None, logging: bool | None, settle: int = 0) -> Assertion:
    """Assert what was seen by a call, or of one (a canary); it may be as old as `settle` microseconds before that."""
    called_at = seen.called_at if seen.kind == "canary" else None
    return Assertion(
        begins=(seen.begins if called_at is None else called_at - seen.skew) - settle,
        ends=seen.ends if called_at is None else called_at + seen.skew,
        kind=seen.kind,
        input_id=seen.id,
        digest=seen.digest,
        api=api,
        logging=logging,
        append_time=append_time,
        exact=False,
        organization_id=seen.organization_id,
        feed_id=seen.feed_id,
        result=seen.result,
    )


def _of_operator(seen: Observation, append_time: int, *, on: bool) -> Assertion:
    assert seen.effective_at is not None  # noqa: S101 - read_observation refused it before
    both = seen.api is None and seen.logging is None
    return Assertion(
        begins=seen.effective_at,
        ends=seen.effective_at,
        kind=OPERATOR,
        input_id=seen.id,
        digest=seen.digest,
        api=on if both else seen.api,
        logging=on if both else seen.logging,
        append_time=append_time,
        actor=Actor(type=OPERATOR, id=seen.author),
        organization_id=seen.organization_id,
        feed_id=seen.feed_id,
        reason=seen.message,
    )


def merged(one: Assertion, other: Assertion) -> Assertion:
    """Make one of two copies of an assertion: the first one appended counts, but for an "on" that only one proves.

    So the order in which copies are read makes no difference.
    """
    first, second = sorted((one, other), key=_first_seen)
    if first.whole or not second.whole:
        return first
    # Its "off" was known from the first copy on, its "on" is only now.
    return replace(second, append_time=first.append_time, feed_id=first.feed_id) if second.says_off else second


def _first_seen(assertion: Assertion) -> tuple[int, str]:
    return assertion.append_time, assertion.feed_id or ""


def of_recording(identifier: str, moment: int) -> Assertion:
    """Assert what a recorded activity proves: both flags were on, a settle time before it at the earliest."""
    return Assertion(moment - SETTLE, moment, ACTIVITY, identifier, "", True, True, moment, exact=False)


KEPT: Final = 64
"""How many of the newest assertions are kept whatever they say: an hour of a poll a minute."""


NEAR: Final = 32
"""How far away an equal observation is looked for: collectors poll several things in turn."""


class Known(NamedTuple):
    """What is known of a flag at some moment: the last exact word, and since when at the least it was surely on."""

    exact: Assertion | None = None
    since: int | None = None


State = Mapping[str, Known]

NOTHING: Final[State] = {API: Known(), LOGGING: Known()}


@dataclass(slots=True)
class Stretch:
    """A stretch of one flag being off; `closing` is None while it is. Times as in Window.

    It is `sure` where something in it is certain.
    """

    flag: str
    offs: list[Assertion]
    opened_at: int | None
    opened_at_latest: int
    closed_at: int | None
    closed_at_earliest: int | None
    closing: Assertion | None
    sure: bool


@dataclass(slots=True)
class Window:
    """A stretch in which either flag was off; the closing side is None while it is open.

    It began between `opened_at` (None: unknown) and `opened_at_latest`, and ended between `closed_at_earliest` and
    `closed_at`: where the middle two are the wrong way round, or it is not `sure`, no moment is certain. `offs` are all
    assertions of an "off" in it; `after` is what was known when `closing` came.
    `confidence` and `gap_id` are for others to fill in (core.track, core.ledger).
    """

    opening: Assertion
    opened_at: int | None
    opened_at_latest: int
    closed_at: int | None
    closed_at_earliest: int | None
    closing: Assertion | None
    off_flags: set[str]
    offs: list[Assertion]
    sure: bool
    after: State = field(default_factory=dict, compare=False)
    confidence: str = field(default="", compare=False)
    gap_id: str = field(default="", compare=False)

    def overlaps(self, other: "Window") -> bool:
        """Whether the two can have had a moment in common."""
        begin, end, since, until = self.opened_at, self.closed_at, other.opened_at, other.closed_at
        return (until is None or begin is None or begin <= until) and (end is None or since is None or since <= end)


@dataclass(slots=True)
class _Region:
    """Time from one exact switch of a flag to the next; `start` is None before the first.

    `since` is when at the least it was surely on before all that follows.
    """

    start: Assertion | None
    off: bool
    since: int | None
    offs: list[Assertion] = field(default_factory=list)
    ons: list[Assertion] = field(default_factory=list)
    _heard: "_Ons | None" = None

    @property
    def heard(self) -> "_Ons":
        """What says "on" and counts."""
        if self._heard is None:
            self._heard = _Ons(_heard(self), self.since)
        return self._heard


class _Flag:
    """One flag: its regions, and what follows from them."""

    def __init__(self, assertions: Iterable[Assertion], name: str, before: Known) -> None:
        self._name = name
        self._regions = _regions(assertions, name, before)

    def stretches(self) -> Iterator[Stretch]:
        """Give the stretches in which it was off, in order."""
        carried: Stretch | None = None
        for region, after in zip(self._regions, [*self._regions[1:], None], strict=True):
            for stretch in _within(region, self._name, after.start if after is not None else None):
                if carried is not None:
                    stretch = _joined(carried, stretch)  # noqa: PLW2901
                    carried = None
                if stretch.closing is None and after is not None:
                    carried = stretch  # off it was already, when an exact "off" came
                else:
                    yield stretch
        if carried is not None:
            yield carried

    def known_at(self, close: Assertion) -> Known:
        """Say what is known when a window closes."""
        at = bisect_right(self._regions, close.order, lo=1, key=_start_order) - 1
        region = self._regions[at]
        return Known(region.start, region.heard.last(close.ends + 1))


def _start_order(region: "_Region") -> Order:
    return region.start.order if region.start is not None else _FIRST


_FIRST: Final[Order] = (-(2**63), False, False, "", "")


def _regions(assertions: Iterable[Assertion], flag: str, before: Known) -> list[_Region]:
    start = before.exact
    regions = [_Region(start, start is not None and getattr(start, flag) is False, before.since)]
    vague = []
    for assertion in assertions:
        value = getattr(assertion, flag)
        if value is None:
            continue
        if not assertion.exact:
            vague.append(assertion)
            continue
        if regions[-1].off == value:
            regions.append(_Region(assertion, not value, assertion.ends if value else None))
        (regions[-1].ons if value else regions[-1].offs).append(assertion)
    if vague:
        switches = [region.start.ends for region in regions[1:] if region.start is not None]
        for assertion in vague:
            if start is not None and assertion.begins < start.ends < assertion.ends:
                continue
            first, last = bisect_right(switches, assertion.begins), bisect_left(switches, assertion.ends)
            # Over a switch, it says nothing new: the flag had either value within that time.
            if first >= last:
                region = regions[min(first, last)]
                (region.ons if getattr(assertion, flag) else region.offs).append(assertion)
    return regions


def _heard(region: _Region) -> list[Assertion]:
    """Leave out the recordings and canaries that an event's "off" contradicts: one that no strong "on" came after."""
    sworn = sorted(off.ends for off in region.offs if off.kind in EVENTS)
    if not sworn:
        return region.ons
    strong = [on for on in region.ons if on.kind not in WEAK]
    heard = []
    for on in region.ons:
        before = bisect_right(sworn, on.begins)
        if (
            on.kind not in WEAK
            or not before
            or any(sworn[before - 1] <= s.begins and s.ends <= on.begins for s in strong)
        ):
            heard.append(on)
    return heard


def _within(region: _Region, flag: str, end: Assertion | None) -> list[Stretch]:
    """Fold one region; where no "on" ends the last stretch, `end` does if it is one."""
    if not region.offs:
        return []
    ons = region.heard
    switched = [on.ends for on in ons.by_end if on.exact]
    over: list[Assertion] = []
    offs: list[Assertion] = []
    for off in sorted(region.offs, key=_ends):
        reaches_over = bisect_right(switched, off.begins) < bisect_left(switched, off.ends)
        (over if reaches_over else offs).append(off)
    found = _grouped(offs, ons, region, flag, end)
    # Over an exact "on", it is new only where nothing says that it was off before that.
    fresh = [off for off in over if not any(_explains(stretch, off) for stretch in found)]
    return _grouped(sorted([*offs, *fresh], key=_ends), ons, region, flag, end) if fresh else found


def _explains(stretch: Stretch, off: Assertion) -> bool:
    return stretch.offs[0].begins <= off.ends and (stretch.closed_at is None or off.begins <= stretch.closed_at)


class _Ons:
    """What says "on" in a region, for looking up what surely came before a moment and after it."""

    def __init__(self, ons: Iterable[Assertion], since: int | None) -> None:
        self.by_end, self.by_begin = sorted(ons, key=_ends), sorted(ons, key=_begins)
        self._since = since

    def last(self, moment: int) -> int | None:
        """Give the latest time at which it was surely on before a moment, None where it is not known."""
        best = self._since
        for on in reversed(self.by_end[: bisect_left(self.by_end, moment, key=_ends)]):
            if best is not None and on.ends <= best:
                break
            best = on.begins if best is None else max(best, on.begins)
        return best

    def first(self, moment: int) -> Assertion | None:
        """Give the "on" that is sure the soonest after a moment."""
        best: Assertion | None = None
        for on in self.by_begin[bisect_left(self.by_begin, moment, key=_begins) :]:
            if best is not None and on.begins > best.ends:
                break
            if best is None or (on.ends, on.order) < (best.ends, best.order):
                best = on
        return best


def _grouped(offs: Iterable[Assertion], ons: _Ons, region: _Region, flag: str, end: Assertion | None) -> list[Stretch]:
    """Join those, sorted by their ends, that no "on" keeps apart."""
    groups: list[list[Assertion]] = []
    until = 0
    for off in offs:
        between = ons.first(until) if groups else None
        if groups and (between is None or between.ends > off.begins):
            groups[-1].append(off)
            until = max(until, off.ends)
        else:
            groups.append([off])
            until = off.ends
    return [_stretch(group, ons, flag, end if region.off else None) for group in groups]


def _stretch(offs: list[Assertion], ons: _Ons, flag: str, end: Assertion | None) -> Stretch:
    """Work out the bounds of a stretch from its offs, sorted by their ends."""
    opening = min(offs, key=_opens)
    closing = ons.first(offs[-1].ends) or end
    opened_at = opening.ends if opening.exact else _least(ons.last(off.begins) for off in offs)
    # An "on" that is neither surely before nor surely after may part it: certain is only what has none in it.
    begins = min(off.begins for off in offs)
    doubtful = [on for on in ons.by_end if on is not closing and on.ends > begins and on.begins < offs[-1].ends]
    clean = [off for off in offs if all(on.ends <= off.begins or off.ends <= on.begins for on in doubtful)]
    if closing is None:
        clean = [off for off in clean if all(on.ends <= off.begins for on in doubtful)]
    latest = clean[0].ends if clean else offs[-1].ends
    if closing is None:
        return Stretch(flag, offs, opened_at, latest, None, None, None, sure=bool(clean))
    certain = closing.ends if closing.exact else max(off.begins for off in offs)
    later = (on.begins for on in doubtful if on.begins >= latest)
    certain = min([certain, *later]) if clean else begins
    return Stretch(flag, offs, opened_at, latest, closing.ends, certain, closing, sure=bool(clean))


def _joined(first: Stretch, second: Stretch) -> Stretch:
    """One stretch that was open when an exact "off" came, and the one that this began."""
    return Stretch(
        first.flag,
        first.offs + second.offs,
        first.opened_at,
        first.opened_at_latest if first.sure else second.opened_at_latest,
        second.closed_at,
        second.closed_at_earliest,
        second.closing,
        sure=second.sure,
    )


def _least(moments: Iterable[int | None]) -> int | None:
    """The earliest, where None (unknown) is earlier than anything."""
    known = list(moments)
    return None if None in known else min(moment for moment in known if moment is not None)


_order = attrgetter("order")
_begins = attrgetter("begins")
_ends = attrgetter("ends")
_opening_order = attrgetter("opening.order")


def _opens(off: Assertion) -> tuple[int, bool, Order]:
    return off.ends, not off.exact, off.order


def fold(
    assertions: Sequence[Assertion], before: State = NOTHING, until: Assertion | None = None
) -> tuple[list[Window], State]:
    """Fold assertions of one subject, sorted by `order`, into its windows, in the order of their openings.

    `before` is what was known before the first of them; what is known at `until`, the last one, comes with the windows.
    """
    flags = {name: _Flag(assertions, name, before[name]) for name in FLAGS}
    parts = [(min(part.offs, key=_order), part) for flag in flags.values() for part in flag.stretches()]
    parts.sort(key=lambda each: each[0].order)
    groups: list[tuple[Assertion, list[Stretch]]] = []
    end: Order | None = _FIRST
    for opening, part in parts:
        if groups and (end is None or opening.order <= end):
            groups[-1][1].append(part)
        else:
            groups.append((opening, [part]))
            end = _FIRST
        if end is not None:
            end = None if part.closing is None else max(end, part.closing.order)
    windows = [_window(opening, joined) for opening, joined in groups]

    def known_at(close: Assertion | None) -> State:
        return NOTHING if close is None else {name: flag.known_at(close) for name, flag in flags.items()}

    for window in windows:
        if window.closing is not None and window.closing.exact:
            window.after = known_at(window.closing)
    return windows, known_at(until)


def _window(opening: Assertion, parts: list[Stretch]) -> Window:
    """Join stretches of the flags that touch, sorted by their opening."""
    closing = None
    if all(part.closing is not None for part in parts):
        closing = max((part.closing for part in parts if part.closing is not None), key=lambda on: (on.ends, on.order))
    latest, certain = _certain(parts, closed=closing is not None)
    offs = {off.key: off for part in parts for off in part.offs}
    return Window(
        opening=opening,
        opened_at=_least(part.opened_at for part in parts),
        opened_at_latest=latest,
        closed_at=None if closing is None else closing.ends,
        closed_at_earliest=certain,
        closing=closing,
        off_flags={part.flag for part in parts},
        offs=sorted(offs.values(), key=_order),
        sure=any(part.sure and (part.closing is None) == (closing is None) for part in parts),
    )


def _certain(parts: list[Stretch], *, closed: bool) -> tuple[int, int | None]:
    """Give the certain part of stretches that touch: as long as no moment lies between that was certainly neither."""
    sure = [part for part in parts if part.sure] or parts
    ends = [(part.opened_at_latest, part.closed_at_earliest) for part in sure]
    if closed:
        latest, certain = min(ends, key=lambda each: each[0])
        for begin, end in sorted(ends, key=lambda each: each[0]):
            if begin <= (certain or 0):
                certain = max(certain or 0, end or 0)
        return latest, certain
    latest = min((begin for begin, end in ends if end is None), default=max(begin for begin, _ in ends))
    for begin, end in sorted(((begin, end) for begin, end in ends if end is not None), reverse=True):
        if end >= latest:
            latest = min(latest, begin)
    return latest, None


class Timeline:
    """The assertions about one subject, sorted, and the windows they fold into, in the order of their openings.

    A new one is folded from the last exact "on" that closed a window before it to the first one after it that leaves
    what is known as it was: a flag that is switched all day costs no more at the end than at the beginning. `vague`
    counts those that are not exact, none of which is longer than `_reach`.
    """

    __slots__ = ("_reach", "assertions", "vague", "windows")

    def __init__(self, assertions: Iterable[Assertion] = ()) -> None:
        self.assertions = sorted(assertions, key=_order)
        self.vague = sum(not each.exact for each in self.assertions)
        self._reach = max((each.ends - each.begins for each in self.assertions), default=0)
        self.windows, _ = fold(self.assertions)

    def window_of(self, off: Assertion) -> Window | None:
        """The window that holds an assertion of an "off", None where there is none: another explains it."""
        at = bisect_right(self.windows, off.order, key=_opening_order) - 1
        for window in reversed(self.windows[max(0, at - 8) : at + 1]):
            place = bisect_left(window.offs, off.order, key=_order)
            if place < len(window.offs) and window.offs[place] == off:
                return window
        return None

    def holder_of(self, gone: Window) -> Window | None:
        """The window that took the place of one: the one with its opening, else the first that overlaps, else None."""
        holder = self.window_of(gone.opening)
        if holder is None:
            for window in self.windows:
                ends_before = window.closed_at is not None and window.closed_at < gone.opening.begins
                if not ends_before and (gone.closed_at is None or window.opened_at_latest <= gone.closed_at):
                    return window
        return holder

    def is_idle(self, new: Assertion) -> bool:
        """Whether it only says once more, after all others, that the flags are on, or off: then no bound changes.

        What reaches over an exact one is read otherwise because of it: then it is not idle.
        """
        if self.assertions and self.assertions[-1].order > new.order:
            return False
        latest = self.windows[-1] if self.windows else None
        if new.says_off:
            return latest is not None and latest.closing is None and self._is_off_again(new)
        closed = latest is None or (latest.closed_at is not None and latest.closed_at <= new.begins)
        return closed and not (new.exact and self._is_reached(new.begins))

    def _is_off_again(self, new: Assertion) -> bool:
        """Whether of each flag that it says is off the last word was the same, as exact, and nothing came between."""
        flags = _offs(new)
        if not new.exact or flags != _flags(new):
            return False
        for each in islice(reversed(self.assertions), NEAR):
            if not each.exact or each.ends >= new.begins or _offs(each) != _flags(each):
                return False
            flags -= _offs(each)
            if not flags:
                return not self._is_reached(each.ends)
        return False

    def _is_reached(self, moment: int) -> bool:
        """Whether anything that is not exact reaches a time."""
        near = self._near(moment - self._reach, sys.maxsize) if self.vague else ()
        return any(not each.exact and each.ends >= moment for each in near)

    def append(self, new: Assertion) -> None:
        """Add an idle assertion: no bound of a window changes."""
        self.assertions.append(new)
        self.vague += not new.exact
        self._reach = max(self._reach, new.ends - new.begins)
        if new.says_off:
            self.windows[-1].offs.append(new)

    def count_exact(self, low: int, high: int) -> int:
        """Count the exact assertions between two times, both included."""
        if not self.vague:
            return bisect_right(self.assertions, high, key=_place) - bisect_left(self.assertions, low, key=_place)
        return sum(each.exact for each in self._near(low, high))

    def thin(self, near: Assertion) -> list[Assertion]:
        """Take out what lies within a run of equal observations: what just left the newest ones, or came behind."""
        gone: list[Assertion] = []
        newest = len(self.assertions) - KEPT
        if newest < 1:
            return gone
        at = bisect_left(self.assertions, near.order, key=_order)
        for index in sorted({newest, *(range(at - 1, at + 2) if at < newest else ())}, reverse=True):
            if 0 < index <= newest and index + 1 < len(self.assertions) and self._is_spare(index):
                gone.append(self.assertions.pop(index))
                self.vague -= 1
        return gone

    def _is_spare(self, index: int) -> bool:
        """Whether equal ones before and after it serve as well to bound what lies beyond them.

        Nothing that speaks of the same flags may come between, but what agrees with it and is not exact either.
        """
        each = self.assertions[index]
        if each.exact or each.kind == ACTIVITY:
            return False
        before, after = self._equal(each, range(index - 1, -1, -1)), self._equal(each, range(index + 1, index + NEAR))
        if before is None or after is None:
            return False
        for other in self._near(before.begins - self._reach, after.ends + self._reach):
            beyond = other.ends <= before.begins or other.begins > after.ends
            if not beyond and (_contradict(each, other) or (other.exact and _meet(each, other))):
                return False
        return True

    def _equal(self, each: Assertion, indices: range) -> Assertion | None:
        """Find one that says the same, of the same kind, among the nearest."""
        said = _says(each)
        for index in indices[:NEAR]:
            if index >= len(self.assertions):
                break
            if _says(self.assertions[index]) == said and not self.assertions[index].exact:
                return self.assertions[index]
        return None

    def put(self, new: Iterable[Assertion] = (), gone: Iterable[Assertion] = ()) -> tuple[list[Window], list[Window]]:
        """Add assertions and take others out; give the windows that went and those that came for them.

        Some of them may be equal. Raises ValueError where one of `gone` is none of the assertions.
        """
        changed = [*new, *gone]
        for each in gone:
            self.assertions.remove(each)
            self.vague -= not each.exact
        for each in new:
            insort(self.assertions, each, key=_order)
            self.vague += not each.exact
            self._reach = max(self._reach, each.ends - each.begins)
        first = self._cut_before(min(each.order for each in changed), min(each.begins for each in changed))
        start, known = 0, NOTHING
        over: list[Assertion] = []
        if first and (on := self.windows[first - 1].closing) is not None:
            known = self.windows[first - 1].after
            start = bisect_right(self.assertions, on.order, key=_order)
            # What stands before the cut and reaches over it speaks of what comes after it.
            near = islice(self.assertions, bisect_left(self.assertions, on.ends - self._reach, key=_place), start)
            over = [each for each in near if each.ends > on.ends]
        last, step = first, 1
        least, soonest = max(each.order for each in changed), max(each.ends for each in changed)
        while True:
            last = self._cut_after(last, least, soonest)
            until, end = None, None
            if last < len(self.windows) and (until := self.windows[last - 1].closing) is not None:
                end = bisect_right(self.assertions, until.order, key=_order)
            came, known_then = fold([*over, *self.assertions[start:end]], known, until)
            closed = not came or came[-1].closing is not None
            if until is None or (closed and known_then == self.windows[last - 1].after):
                break
            last, step = last + step, step * 4
        went = self.windows[first:last]
        self.windows[first:last] = came
        return went, came

    def _cut_before(self, order: Order, moment: int) -> int:
        """Count the windows up to the last one whose close parts what was before from a place and moment."""
        at = bisect_left(self.windows, order, key=_opening_order)
        while at and not self._is_cut(self.windows[at - 1], lambda on: on.order < order and on.ends <= moment):
            at -= 1
        return at

    def _cut_after(self, at: int, order: Order, moment: int) -> int:
        """Count the windows up to the first one, from `at`, whose close parts what is after from a place and moment."""
        at = max(at, bisect_left(self.windows, order, key=_opening_order))
        while at < len(self.windows) and not (
            at and self._is_cut(self.windows[at - 1], lambda on: on.order > order and on.ends >= moment)
        ):
            at += 1
        return at

    def _is_cut(self, window: Window, where: Callable[[Assertion], bool]) -> bool:
        """Whether the close of a window is exact, and no "off" reaches over it."""
        on = window.closing
        if on is None or not on.exact or not where(on):
            return False
        near = self._near(on.ends, on.ends + self._reach) if self.vague else ()
        return not any(each.says_off and each.begins < on.ends < each.ends for each in near)

    def _near(self, low: int, high: int) -> Iterable[Assertion]:
        """Give what stands between two times, both included."""
        return islice(
            self.assertions,
            bisect_left(self.assertions, low, key=_place),
            bisect_right(self.assertions, high, key=_place),
        )


def _place(assertion: Assertion) -> int:
    return assertion.order[0]


def _contradict(one: Assertion, other: Assertion) -> bool:
    """Whether one says on and the other off of the same flag."""
    return (one.api is not other.api and None not in (one.api, other.api)) or (
        one.logging is not other.logging and None not in (one.logging, other.logging)
    )


def _meet(one: Assertion, other: Assertion) -> bool:
    """Whether both speak of a flag."""
    return (one.api is not None and other.api is not None) or (one.logging is not None and other.logging is not None)


def _flags(assertion: Assertion) -> set[str]:
    """Name the flags that it speaks of."""
    return {flag for flag in FLAGS if getattr(assertion, flag) is not None}


def _offs(assertion: Assertion) -> set[str]:
    """Name the flags that it says are off."""
    return {flag for flag in FLAGS if getattr(assertion, flag) is False}


def _says(assertion: Assertion) -> tuple[str, str | None, bool | None, bool | None]:
    return assertion.kind, assertion.result, assertion.api, assertion.logging
