"""The fold: from the assertions about one subject to the windows in which its feed was off.

An assertion says of each flag on, off or nothing, at a time. Sorted, they are folded over two flags, each unknown,
on or off, unknown at first:

- a flag that is not mentioned keeps its value ("null" in a settings event means "not changed", never "false");
- a window opens where either flag turns off, and closes where neither is off any longer: switching logging on while
  the API is still off closes nothing.

The result depends on the set of assertions only, never on their order of arrival or on repetition.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import Final

from auditgap.core.inputs import NOBODY, Activity, Actor

API: Final = "api"
LOGGING: Final = "logging"

CAUSES: Final = {
    frozenset({LOGGING}): "LOGGING_DISABLED",
    frozenset({API}): "API_DISABLED",
    frozenset({API, LOGGING}): "BOTH_DISABLED",
}
"""Which flags were off at some time of a window: its cause."""

State = dict[str, tuple[bool | None, int | None]]
"""What is known of each flag, and the time of the last word about it; None: nothing was said."""

UNKNOWN: Final[State] = {API: (None, None), LOGGING: (None, None)}


@dataclass(frozen=True, slots=True)
class Assertion:
    """What one input says about the two flags: True on, False off, None nothing.

    `effective_at` is the time it counts from; `exact` tells whether the change happened right then, or only "by
    then". `append_time` is when its first copy was appended by the broker. `digest` is its content's.
    """

    effective_at: int
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

    @property
    def order(self) -> tuple[int, bool, bool, str, str]:
        """Where it stands in the fold: at equal times the exact ones, then those that say off, have the last word.

        No two assertions of different `key` share it.
        """
        return self.effective_at, self.exact, self.says_off, self.input_id, self.digest


def of_settings_event(activity: Activity, append_time: int) -> Assertion:
    """Assert what a readable settings event says: each flag that is present, at its time, exactly."""
    assert activity.created_at is not None  # noqa: S101 - settings_fault refused it before
    return Assertion(
        effective_at=activity.created_at,
        kind="settings_event",
        input_id=activity.id,
        digest=activity.digest,
        api=activity.api_enabled,
        logging=activity.logging_enabled,
        append_time=append_time,
        actor=activity.actor,
        organization_id=activity.organization_id,
        feed_id=activity.feed_id,
    )


def of_misdated_settings_event(activity: Activity, append_time: int) -> Assertion | None:
    """Assert the "off" of a settings event whose time cannot be: it counts from the append time, not exactly.

    Its "on" counts for nothing: "off" is believed from anyone, "on" only with proof.
    """
    if activity.api_enabled is not False and activity.logging_enabled is not False:
        return None
    return Assertion(
        effective_at=append_time,
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


@dataclass(slots=True)
class Window:
    """A stretch in which either flag was off; the closing side is None while it is open.

    `before` is what was known just before `opening`; `offs` are all assertions of an "off" in it, the first included.
    `gap_id` is for the ledger to fill in.
    """

    opening: Assertion
    before: State
    opened_at: int | None
    opened_at_latest: int
    off_flags: set[str] = field(default_factory=set)
    offs: list[Assertion] = field(default_factory=list)
    closing: Assertion | None = None
    gap_id: str = field(default="", compare=False)

    @property
    def cause(self) -> str:
        """Which flags were off during it."""
        return CAUSES[frozenset(self.off_flags)]

    @property
    def closed_at(self) -> int | None:
        """When it ended, None while it is open."""
        return None if self.closing is None else self.closing.effective_at


def fold(assertions: Iterable[Assertion], before: State = UNKNOWN) -> Iterator[Window]:
    """Fold assertions of one subject, sorted by `order`, into its windows, in the order of their openings.

    `before` is what was known before the first of them. A window comes out when it closes, the open one at the end.
    """
    state = dict(before)
    window: Window | None = None
    for assertion in assertions:
        told = ((API, assertion.api), (LOGGING, assertion.logging))
        said = [(flag, value) for flag, value in told if value is not None]
        turned_off = [flag for flag, value in said if value is False and state[flag][0] is not False]
        if turned_off:
            # Not exact: the change lies between the previous word about that flag and this one.
            earliest = assertion.effective_at if assertion.exact else _least(state[flag][1] for flag in turned_off)
            if window is None:
                window = Window(assertion, dict(state), earliest, assertion.effective_at)
            else:
                window.opened_at = _least((window.opened_at, earliest))
            window.off_flags.update(turned_off)
        for flag, value in said:
            state[flag] = value, assertion.effective_at
        if window is not None:
            if assertion.says_off:
                window.offs.append(assertion)
            elif state[API][0] is not False and state[LOGGING][0] is not False:
                window.closing = assertion
                yield window
                window = None
    if window is not None:
        yield window


def _least(moments: Iterable[int | None]) -> int | None:
    """The earliest, where None (unknown) is earlier than anything."""
    known = list(moments)
    return None if None in known else min(moment for moment in known if moment is not None)


_order = attrgetter("order")
_opening_order = attrgetter("opening.order")


class Timeline:
    """The assertions about one subject, sorted, and the windows they fold into, in the order of their openings.

    A new assertion is folded from the window before it to the first one after it that it leaves as it was: a flag
    that is switched all day costs no more at the end than at the beginning.
    """

    __slots__ = ("assertions", "windows")

    def __init__(self, assertions: Iterable[Assertion] = ()) -> None:
        self.assertions = sorted(assertions, key=_order)
        self.windows = list(fold(self.assertions))

    def window_of(self, off: Assertion) -> Window:
        """The window in which an assertion of the timeline says off."""
        return self.windows[bisect_right(self.windows, off.order, key=_opening_order) - 1]

    def put(self, new: Assertion, instead_of: Assertion | None = None) -> tuple[list[Window], list[Window]]:
        """Add an assertion, perhaps in the place of another; give the windows that went and those that came for them.

        Some of them may be equal. Raises ValueError where `instead_of` is none of the assertions.
        """
        orders = [new.order]
        if instead_of is not None:
            self.assertions.remove(instead_of)
            orders.append(instead_of.order)
        insort(self.assertions, new, key=_order)
        first, start, before = bisect_left(self.windows, min(orders), key=_opening_order) - 1, 0, UNKNOWN
        if first >= 0:
            start = bisect_left(self.assertions, self.windows[first].opening.order, key=_order)
            before = self.windows[first].before
        first, last = max(first, 0), len(self.windows)
        came = []
        for window in fold(islice(self.assertions, start, None), before):
            if window.opening.order > max(orders):
                at = bisect_left(self.windows, window.opening.order, key=_opening_order)
                if at < last and (self.windows[at].opening, self.windows[at].before) == (window.opening, window.before):
                    last = at
                    break
            came.append(window)
        gone = self.windows[first:last]
        self.windows[first:last] = came
        return gone, came
