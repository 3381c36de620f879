"""The fold: from the assertions about one subject to the windows in which its feed was off.

An assertion says of each flag on, off or nothing, at a time. Sorted, they are folded over two flags, each unknown,
on or off, unknown at first:

- a flag that is not mentioned keeps its value ("null" in a settings event means "not changed", never "false");
- a window opens where either flag turns off, and closes where neither is off any longer: switching logging on while
  the API is still off closes nothing.

The result depends on the set of assertions only, never on their order of arrival or on repetition.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
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
        """What makes two assertions one: same id and same content."""
        return self.input_id, self.digest

    @property
    def says_off(self) -> bool:
        """Whether it turns a flag off."""
        return self.api is False or self.logging is False

    @property
    def order(self) -> tuple[int, bool, bool, str, str]:
        """Where it stands in the fold: at equal times the exact ones, then those that say off, have the last word."""
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
    """A stretch in which either flag was off; the closing side is None while it is open."""

    opening: Assertion
    opened_at: int | None
    opened_at_latest: int
    off_flags: set[str] = field(default_factory=set)
    offs: list[Assertion] = field(default_factory=list)
    closing: Assertion | None = None

    @property
    def cause(self) -> str:
        """Which flags were off during it."""
        return CAUSES[frozenset(self.off_flags)]

    @property
    def closed_at(self) -> int | None:
        """When it ended, None while it is open."""
        return None if self.closing is None else self.closing.effective_at


def fold(assertions: Iterable[Assertion]) -> list[Window]:
    """Fold the assertions of one subject into its windows, in the order of their openings."""
    flags: dict[str, bool | None] = {API: None, LOGGING: None}
    told_at: dict[str, int | None] = {API: None, LOGGING: None}
    windows: list[Window] = []
    window: Window | None = None
    for assertion in sorted(assertions, key=lambda each: each.order):
        turned_off = []
        for flag, value in ((API, assertion.api), (LOGGING, assertion.logging)):
            if value is False and flags[flag] is not False:
                turned_off.append(flag)
            if value is not None:
                flags[flag] = value
        if turned_off:
            # Not exact: the change lies between the previous word about that flag and this one.
            earliest = assertion.effective_at if assertion.exact else _least(told_at[flag] for flag in turned_off)
            if window is None:
                window = Window(assertion, earliest, assertion.effective_at)
                windows.append(window)
            else:
                window.opened_at = _least((window.opened_at, earliest))
            window.off_flags.update(turned_off)
        if window is not None and assertion.says_off:
            window.offs.append(assertion)
        for flag, value in ((API, assertion.api), (LOGGING, assertion.logging)):
            if value is not None:
                told_at[flag] = assertion.effective_at
        if window is not None and False not in flags.values():
            window.closing = assertion
            window = None
    return windows


def _least(moments: Iterable[int | None]) -> int | None:
    """The earliest, where None (unknown) is earlier than anything."""
    known = list(moments)
    return None if None in known else min(moment for moment in known if moment is not None)
