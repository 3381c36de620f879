"""A window, and what was recorded around it, written as a gap record."""

from dataclasses import replace

from auditgap.core import times
from auditgap.core.brackets import Bracket, inside
from auditgap.core.fold import Window
from auditgap.core.inputs import NOBODY, organization_of, parent_of
from auditgap.core.policy import Policy, change_window_for, in_force, verdict
from auditgap.core.recent import id_of, time_of
from auditgap.core.records import Gap
from auditgap.core.track import CAUSES


def gap_of(
    subject: str,
    gap_id: str,
    incident_id: str,
    window: Window,
    bracket: Bracket,
    accesses: list[bytes],
    judged: tuple[str, str | None],
    policies: tuple[Policy, ...],
    published: Gap | None,
) -> Gap:
    """Write a window and its bracket as a gap; the stamps come from `published`, its latest revision.

    `accesses` are the Access Transparency records that are known; `judged` is the window's state, and the id of the gap
    that took its place.
    """
    opening, closing = window.opening, window.closing
    state, superseded_by = judged
    if state == "OPEN" and closing is not None:
        # The first good sight of it proves nothing yet: the window is not closed before all is on the topic.
        closing, bracket = None, replace(bracket, first=None)
        window = replace(window, closed_at=None, closed_at_earliest=None)
    ended = closing.actor if closing else NOBODY
    accesses = inside(window, accesses)
    moments = (window.opened_at, window.opened_at_latest)
    # Now is when the latest that is known was heard of: the same in every replay.
    now = max([opening.append_time, *(each.append_time for each in policies)])
    planned = change_window_for(policies, *moments, opening.actor)
    opened = window.opened_at_latest if window.opened_at is None else window.opened_at
    ruled = in_force(policies, opened)
    long = None if window.closed_at is None or window.opened_at is None else window.closed_at - window.opened_at
    return Gap(
        gap_id=gap_id,
        incident_id=incident_id,
        revision=published.revision if published else 0,
        organization_id=organization_of(subject),
        feed_id=opening.feed_id,
        parent_id=parent_of(subject),
        first_evidence_at=opening.append_time,
        produced_at=published.produced_at if published else 0,
        superseded_by=superseded_by,
        state=state,
        confidence=window.confidence,
        cause=CAUSES[window.confidence, frozenset(window.off_flags)],
        opened_at=window.opened_at,
        # While it is open that is to say "off from here on": not known where an "on" may have come since.
        opened_at_latest=window.opened_at_latest if window.sure or closing is not None else None,
        closed_at=window.closed_at,
        closed_at_earliest=window.closed_at_earliest,
        duration_seconds=None if long is None else long / times.SECOND,
        opened_by_kind=opening.kind,
        opened_by_id=opening.input_id,
        closed_by_kind=closing.kind if closing else None,
        closed_by_id=closing.input_id if closing else None,
        opened_actor_type=opening.actor.type,
        opened_actor_id=opening.actor.id,
        opened_actor_email=opening.actor.email,
        opened_actor_ip=opening.actor.ip,
        opened_actor_user_agent=opening.actor.user_agent,
        closed_actor_type=ended.type,
        closed_actor_id=ended.id,
        closed_actor_email=ended.email,
        closed_actor_ip=ended.ip,
        closed_actor_user_agent=ended.user_agent,
        last_activity_id=id_of(bracket.last) if bracket.last else None,
        last_activity_at=time_of(bracket.last) if bracket.last else None,
        first_activity_id=id_of(bracket.first) if bracket.first else None,
        first_activity_at=time_of(bracket.first) if bracket.first else None,
        bracket_exact=bracket.last_exact and bracket.first_exact,
        activity_inside_count=bracket.inside,
        activity_inside_first_id=id_of(bracket.inside_first) if bracket.inside_first else None,
        activity_inside_last_id=id_of(bracket.inside_last) if bracket.inside_last else None,
        access_inside_count=len(accesses) or None,
        access_inside_first_id=id_of(accesses[0]) if accesses else None,
        access_inside_last_id=id_of(accesses[-1]) if accesses else None,
        authorised_at_open=verdict(policies, opening.actor, opened),
        authorised_now=verdict(policies, opening.actor, now),
        change_window_id=planned.id if planned else None,
        change_window_reason=planned.reason if planned else None,
        policy_version=ruled.version if ruled else None,
        history_sequence=published.history_sequence if published else 0,
        previous_digest=published.previous_digest if published else None,
    )
