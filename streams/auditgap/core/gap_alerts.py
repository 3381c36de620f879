"""The alerts that quote a gap, and what they say: that it opened, closed, was refined or withdrawn, or contradicted.

Only from what it is given: a gap, its window and bracket, the alerts of the subject, and what else is known.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from auditgap.core import inheritance, times
from auditgap.core.alertbook import AlertBook
from auditgap.core.brackets import Bracket
from auditgap.core.fold import EVENTS, SETTLE, Assertion, Window
from auditgap.core.inputs import NOBODY, OPERATOR, Actor
from auditgap.core.policy import LISTED, NOT_LISTED, ChangeWindow, Policy, change_window_for, verdict
from auditgap.core.recent import time_of
from auditgap.core.records import Alert, Gap, Severity
from auditgap.core.topology import Stretch
from auditgap.core.track import LOST, SUSPECTED

MOST_NAMED: Final = 100
"""How many members a sentence names; their gaps, of the same incident, name them all."""


class Known(NamedTuple):
    """What is known of a subject beside a gap: its policies, its members and when, and how late it is."""

    policies: tuple[Policy, ...]
    members: Mapping[str, tuple[Stretch, ...]]
    clock: int


def of_gap(
    book: AlertBook,
    known: Known,
    before: Gap | None,
    gap: Gap,
    window: Window | None,
    bracket: Bracket | None,
    also: Assertion | None,
    produced_at: int,
) -> Iterator[Alert]:
    """Publish the alerts that quote a gap which changed from `before`; that of `also` comes by itself.

    `window` and `bracket` are None where the gap has lost its window.
    """
    if gap.inherited_from is not None:
        return  # that of the parent or feed speaks for all its members
    for kind, state in (("gap_refined", "SUPERSEDED"), ("gap_withdrawn", "RETRACTED")):
        if gap.state == state:
            yield from book.tell(_gone(book, known, kind, gap), produced_at)
        else:
            yield from book.withdraw(kind, gap.gap_id, produced_at=produced_at)
    if gap.state != "OPEN":
        yield from book.resolve(book.id_of("gap_still_open", "incident", gap.incident_id), produced_at)
    if window is not None and bracket is not None:
        yield from _conflicts(book, known, gap, window, bracket, produced_at)
        yield from overrun(book, known, gap, window, produced_at)
    if gap.confidence == SUSPECTED and (before is None or _facts_of(before) != _facts_of(gap)):
        yield from book.tell(_suspicious(book, known, gap, window), produced_at)
        return
    if window is not None and (before is None or _facts_of(before) != _facts_of(gap)):
        for off in window.offs:
            if off is not also and (off.kind in EVENTS or off is window.opening):
                yield from book.tell(disabled(book, known, off, gap), produced_at)
    if window is not None and window.closing is not None:
        yield from book.tell(_restored(book, known, window.closing, gap), produced_at)
    else:
        yield from book.withdraw("logging_restored", gap.gap_id, produced_at=produced_at)


def _conflicts(
    book: AlertBook, known: Known, gap: Gap, window: Window, bracket: Bracket, produced_at: int
) -> Iterator[Alert]:
    """Say that activities were recorded while an event says that nothing was; counted in powers of ten."""
    last = bracket.inside_last
    opening = window.opening
    if (
        opening.kind not in EVENTS
        or not opening.exact
        or last is None
        or time_of(last) <= window.opened_at_latest + SETTLE
    ):
        yield from book.withdraw("evidence_conflict", gap.gap_id, produced_at=produced_at)
        return
    count = 10 ** (len(str(gap.activity_inside_count)) - 1)
    told = book.standing("evidence_conflict", gap.gap_id)
    first = gap.activity_inside_first_id or ""
    if told is not None and f"{count:,} or more" in told.summary:
        return
    sentence = (
        f"{count:,} or more activities were recorded, the first {first}, while {_who(opening.actor)} had switched "
        "it off: one of the two is not true, and only a person can tell"
    )
    yield from book.tell(about(book, known, "evidence_conflict", gap, sentence, severity=None), produced_at)


def overrun(book: AlertBook, known: Known, gap: Gap, window: Window, produced_at: int) -> Iterator[Alert]:
    """Say that a gap outlives the change window that excused it."""
    actor = window.opening.actor
    planned = change_window_for(known.policies, window.opened_at, window.opened_at_latest, actor)
    ended = known.clock if gap.closed_at is None else gap.closed_at
    if planned is None or ended <= planned.end:
        yield from book.withdraw("change_window_overrun", gap.gap_id, produced_at=produced_at)
        return
    sentence = f"change window {planned.id} is over since {times.text_of(planned.end)}; {state_of(gap)}"
    yield from book.tell(about(book, known, "change_window_overrun", gap, sentence), produced_at)


def disabled(book: AlertBook, known: Known, off: Assertion, gap: Gap) -> Alert:
    """Say that an event, or an observation, tells of a gap: who, when, and whether it was allowed."""
    flags = ((off.api, "the Compliance API"), (off.logging, "the recording of activities"))
    what = " and ".join(name for value, name in flags if value is False)
    how_off = _how(off, "off")
    opened_at = off.ends if off.exact else None
    allowed = verdict(known.policies, off.actor, off.ends)
    planned = change_window_for(known.policies, opened_at, opened_at, off.actor) if allowed == LISTED else None
    # Found off first, and explained by an event later, it is one incident, and one page.
    identity: tuple[str, ...] = ("incident", gap.incident_id)
    if off.kind in EVENTS and (
        off.input_id != gap.opened_by_id or book.id_of("logging_disabled", *identity) not in book.alerts
    ):
        identity = off.key
    return book.write(
        "logging_disabled",
        identity,
        off.append_time,
        occurred_at=off.ends if off.exact else None,
        actor=off.actor,
        feed_id=off.feed_id,
        evidence=(off.input_id,),
        gap=gap,
        resolved=gap.state == "CLOSED",
        severity=None if planned is None else Severity.HIGH,
        summary=f"{book.name}: {what} {how_off} "
        f"{'at' if off.exact else 'by'} {times.text_of(off.ends)}; {_authority(allowed, planned)}{state_of(gap)}"
        f"{_members_in(gap, known.members)}",
    )


def about(
    book: AlertBook,
    known: Known,
    kind: str,
    gap: Gap,
    sentence: str,
    *,
    identity: tuple[str, ...] = (),
    severity: Severity | None = None,
    detected_at: int | None = None,
) -> Alert:
    """Write the alert of a kind about a gap."""
    return book.write(
        kind,
        identity or (gap.gap_id,),
        gap.first_evidence_at if detected_at is None else detected_at,
        occurred_at=None,
        actor=NOBODY,
        feed_id=gap.feed_id,
        evidence=tuple(each for each in (gap.opened_by_id, gap.closed_by_id) if each),
        gap=gap,
        resolved=gap.state != "OPEN",
        severity=severity,
        summary=f"{book.name}: {sentence}{_members_in(gap, known.members)}",
    )


def _suspicious(book: AlertBook, known: Known, gap: Gap, window: Window | None) -> Alert:
    """Say that the feed may be off, or was, and nobody knows."""
    results = sorted({off.result for off in window.offs if off.result}) if window is not None else []
    what = "calls of its own are missing in the feed" if gap.cause == "CANARY_MISSING" else "the feed is not seen"
    judged = {
        "OPEN": "whether anything is recorded is not known",
        "CLOSED": f"seen again, but not proven to have been recorded throughout; {state_of(gap)}",
        "SUPERSEDED": "explained by what is known to have been off",
        "RETRACTED": "recording is proven throughout",
    }[gap.state]
    lost = not LOST.isdisjoint(results)
    since = times.text_of(gap.opened_at) if gap.opened_at is not None else "an unknown time"
    how = f" ({', '.join(results)})" if results else ""
    return about(
        book,
        known,
        "feed_suspected_off",
        gap,
        f"{what} since {since}{how}; {judged}",
        severity=Severity.CRITICAL if lost else None,
    )


def _gone(book: AlertBook, known: Known, kind: str, gap: Gap) -> Alert:
    """Say why a gap does not stand any more."""
    if kind == "gap_withdrawn":
        why = "is withdrawn: recording is proven throughout"
    elif gap.superseded_by is not None:
        why = f"is replaced by gap {gap.superseded_by}, which knows more of the same incident"
    else:
        why = "is explained by what was learned later, and no gap holds its opening any more"
    return about(book, known, kind, gap, f"gap {gap.gap_id} {why}")


def _restored(book: AlertBook, known: Known, closing: Assertion, gap: Gap) -> Alert:
    ids = (gap.opened_by_id, gap.closed_by_id, gap.last_activity_id, gap.first_activity_id)
    return book.write(
        "logging_restored",
        (gap.gap_id,),
        closing.append_time,
        occurred_at=closing.ends,
        actor=closing.actor,
        feed_id=closing.feed_id,
        evidence=tuple(each for each in ids if each),
        gap=gap,
        resolved=True,
        summary=f"{book.name}: the feed is back, {_how(closing, 'on')}; {state_of(gap)}; {_bracket_of(gap)}"
        f"{_members_in(gap, known.members)}",
    )


def _members_in(gap: Gap, members: Mapping[str, tuple[Stretch, ...]]) -> str:
    """Name the members that inherit a gap, as the last clause of a sentence."""
    names = inheritance.concerned(gap, members)
    if not names:
        return ""
    rest = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return f"; so for {len(names):,} organization{'s'[: len(names) > 1]}: {', '.join(names[:MOST_NAMED])}{rest}"


def _facts_of(gap: Gap) -> tuple[str | int | None, ...]:
    """What the alert of an "off" says of its gap, and can change; the incident does only where the state does."""
    return gap.state, gap.opened_at, gap.opened_at_latest, gap.closed_at


def _how(assertion: Assertion, said: str) -> str:
    """Say how it came to be off or on."""
    if assertion.kind == OPERATOR:
        return f"{said} by the word of {_who(assertion.actor)} ({assertion.reason})"
    if assertion.kind in EVENTS:
        return f"switched {said} by {_who(assertion.actor)}"
    return f"found off ({assertion.kind})" if said == "off" else f"seen by {assertion.kind}"


def _who(actor: Actor) -> str:
    name = actor.email or actor.id
    kind = (actor.type or "an actor of unknown type").replace("_", " ")
    return f"{kind} {name}" if name else kind


def _authority(allowed: str, planned: ChangeWindow | None) -> str:
    listed = {LISTED: "listed in the policy; ", NOT_LISTED: "not listed in the policy; "}.get(allowed, "")
    return f"{listed}in change window {planned.id}; " if planned else listed


def state_of(gap: Gap) -> str:
    """Say from when until when a gap was."""
    opened = times.text_of(gap.opened_at) if gap.opened_at is not None else "an unknown time"
    if gap.closed_at is None:
        return f"not audited since {opened}"
    length = "" if gap.duration_seconds is None else f" ({gap.duration_seconds:,.0f} s)"
    return f"not audited from {opened} to {times.text_of(gap.closed_at)}{length}"


def _bracket_of(gap: Gap) -> str:
    unknown = "none known yet" if gap.bracket_exact else "no longer known"
    return f"last id before: {gap.last_activity_id or unknown}, first id after: {gap.first_activity_id or unknown}"
