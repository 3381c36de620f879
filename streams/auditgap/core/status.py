"""Whether a subject is audited now: YES, NO or UNKNOWN, and why. Silence is never taken for audited.

| audited | reason | when |
|---|---|---|
| NO | the cause of the gap | a CONFIRMED gap is open |
| UNKNOWN | DECOMMISSIONED | the policy says that the organization is no longer in use |
| UNKNOWN | FEED_BLOCKED, CANARY_MISSING | a SUSPECTED gap is open |
| UNKNOWN | SETTINGS_CHANGE_UNREADABLE | a settings event was not understood, and no proof of recording came since |
| UNKNOWN | FEED_STALLED | the collector is silent |
| UNKNOWN | NEVER_PROVEN | nothing was ever recorded |
| UNKNOWN | PROOF_TOO_OLD | the last proof of recording is older than the limit of the policy |
| YES | RECORDING_PROVEN | none of these: both flags were on when the last activity was recorded, a moment ago |
"""

from typing import Final, NamedTuple

from auditgap.core import times
from auditgap.core.records import Gap, Status

YES: Final = "YES"
NO: Final = "NO"
UNKNOWN: Final = "UNKNOWN"

REFRESH: Final = 5 * 60 * times.SECOND
"""How far the last proof may move on before a status is published again that says nothing else."""


class Facts(NamedTuple):
    """What the status follows from. Times are microseconds; `limit` is how long a proof holds."""

    clock: int
    limit: int
    open_gaps: tuple[Gap, ...]
    decommissioned: bool
    stalled_since: int | None
    unreadable_since: int | None
    proven_since: int | None
    last_proof_at: int | None
    last_proof_id: str | None


class Verdict(NamedTuple):
    """Audited or not, why, since when (None: not known), by what evidence, and which gap."""

    audited: str
    reason: str
    since: int | None = None
    evidence_id: str | None = None
    gap_id: str | None = None


def verdict(facts: Facts) -> Verdict:
    """Say what follows from the facts: the first row of the table that holds."""
    for confidence, audited in (("CONFIRMED", NO), ("SUSPECTED", UNKNOWN)):
        gaps = [gap for gap in facts.open_gaps if gap.confidence == confidence]
        if audited == UNKNOWN and facts.decommissioned:
            return Verdict(UNKNOWN, "DECOMMISSIONED", facts.last_proof_at)
        if gaps:
            gap = min(gaps, key=_opened)
            since = gap.opened_at if gap.opened_at is not None else gap.opened_at_latest
            return Verdict(audited, gap.cause, since, gap.opened_by_id, gap.gap_id)
    last = facts.last_proof_at
    if facts.unreadable_since is not None and (last is None or last < facts.unreadable_since):
        return Verdict(UNKNOWN, "SETTINGS_CHANGE_UNREADABLE", facts.unreadable_since)
    if facts.stalled_since is not None:
        return Verdict(UNKNOWN, "FEED_STALLED", facts.stalled_since)
    if last is None:
        return Verdict(UNKNOWN, "NEVER_PROVEN")
    if facts.clock - last > facts.limit:
        return Verdict(UNKNOWN, "PROOF_TOO_OLD", last, facts.last_proof_id)
    return Verdict(YES, "RECORDING_PROVEN", facts.proven_since, facts.last_proof_id)


def _opened(gap: Gap) -> tuple[int, str]:
    return gap.opened_at_latest or gap.opened_at or 0, gap.gap_id


def is_news(before: Status, new: Status) -> bool:
    """Whether a status says something else, or shows a proof or an observation much later than the one before."""
    return _says(before) != _says(new) or _is_older(before, new)


def _says(status: Status) -> tuple[str | int | None, ...]:
    return status.audited, status.reason, status.since, status.open_gap_id


def _is_older(before: Status, new: Status) -> bool:
    """Whether a status shows a proof or an observation that is old compared with the latest one."""
    return any(
        (later or 0) - (sooner or 0) >= REFRESH
        for sooner, later in (
            (before.last_proof_at, new.last_proof_at),
            (before.last_observation_at, new.last_observation_at),
        )
    )
