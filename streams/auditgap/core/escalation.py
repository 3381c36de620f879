"""What time raises: steps of escalation, a silent collector, a feed that is behind.

Time comes in as the clock of the ticks, in microseconds; nothing here reads one.
"""

from dataclasses import dataclass, field
from typing import Final

from auditgap.core import times
from auditgap.core.alertbook import AlertBook
from auditgap.core.gap_alerts import Known, about, state_of
from auditgap.core.inputs import NOBODY
from auditgap.core.policy import Rules, length
from auditgap.core.records import Alert, Gap, Severity

SILENT: Final = 10 * 60 * times.SECOND
"""How long a collector that was heard of may say nothing: it polls every minute."""

DAY_SECONDS: Final = 24 * 3600


@dataclass(slots=True)
class Watched:
    """What is known of those who watch, and how far escalation went. Times are microseconds, 0 for never.

    `complete_through`: everything the API had up to then is on the topic. `seen_at` is when the latest observation was
    appended, `called_at` the latest of the collector's calls that was recorded, `delayed` the first and the last of
    those whose records are late. `unreadable` holds when settings events came that nobody understands, `escalated` the
    step in seconds that was told of each incident, `stalled` the alert about the collector's silence.
    """

    complete_through: int = 0
    seen_at: int = 0
    called_at: int = 0
    delayed: tuple[int, int] | None = None
    unreadable: list[int] = field(default_factory=list)
    escalated: dict[str, int] = field(default_factory=dict)
    stalled: str | None = None


def next_step(since: int, clock: int, rules: Rules) -> int:
    """Give the next step of escalation after a clock."""
    passed = rules.step_passed((clock - since) / times.SECOND)
    later = [step for step in rules.gap_still_open_seconds if step > (passed or 0)]
    return since + (later[0] if later else (passed or 0) + DAY_SECONDS) * times.SECOND


def rising(step: int | None, rules: Rules) -> Severity:
    """Give how bad a step of escalation is: it rises with the first three."""
    passed = 0 if step is None else sum(each <= step for each in rules.gap_still_open_seconds)
    return (Severity.MEDIUM, Severity.MEDIUM, Severity.HIGH)[passed] if passed < 3 else Severity.CRITICAL


def still_open(book: AlertBook, known: Known, gap: Gap, step: int, rules: Rules) -> Alert:
    """Say that a gap is still open, at a step that was passed."""
    return about(
        book,
        known,
        "gap_still_open",
        gap,
        f"not back after {length(step)}; {state_of(gap)}",
        identity=("incident", gap.incident_id),
        severity=rising(step, rules),
        detected_at=book.told_at(known.clock, "gap_still_open", "incident", gap.incident_id),
    )


def stalled(book: AlertBook, seen_at: int, clock: int, rules: Rules) -> Alert:
    """Say that nothing was heard of the collector since `seen_at`."""
    since = times.text_of(seen_at)
    return book.write(
        "feed_stalled",
        (since,),
        book.told_at(clock, "feed_stalled", since),
        occurred_at=seen_at,
        actor=NOBODY,
        feed_id=None,
        evidence=(),
        severity=rising(rules.step_passed((clock - seen_at) / times.SECOND), rules),
        summary=f"{book.name}: nothing was heard of the collector since {since}; what happens is not seen",
    )


def delayed(book: AlertBook, first: int, append_time: int, feed_id: str | None, *, over: bool) -> Alert:
    """Say that the feed is behind since a call of the collector at `first`, or was."""
    since = times.text_of(first)
    return book.write(
        "feed_delayed",
        (since,),
        book.told_at(append_time, "feed_delayed", since),
        occurred_at=first,
        actor=NOBODY,
        feed_id=feed_id,
        evidence=(),
        resolved=over,
        summary=f"{book.name}: the feed is behind for everybody; nothing since {since} is visible yet",
    )
