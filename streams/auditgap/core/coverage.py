"""How much of a period is known to have been audited, from one subject's windows and proofs of recording.

Every instant is one of:

| state | when |
|---|---|
| PROVEN | between two proofs of recording that are no further apart than the proof limit |
| INFERRED | between two proofs that are further apart, and nothing speaks against it |
| UNKNOWN | before the first proof, after the last; where a window may have begun or ended; in a suspected gap |
| OFF | in the certain part of a window |

A proof is a recorded activity (not a settings event, not Access Transparency), or a canary that was seen.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from auditgap.core.fold import Timeline, Window
from auditgap.core.recent import Runs

PROVEN: Final = "PROVEN"
INFERRED: Final = "INFERRED"
UNKNOWN: Final = "UNKNOWN"
OFF: Final = "OFF"


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one state, from `begin` to `end`, in microseconds."""

    begin: int
    end: int
    state: str


def spans(
    timeline: Timeline,
    proofs: Runs,
    until: int,
    doubts: Iterable[tuple[int | None, int | None]] = (),
    inherited: Iterable[Window] = (),
) -> list[Span]:
    """Say what is known of a subject, from its first proof or window to `until`, in order and without a hole.

    `doubts` are stretches in which nobody could see, None where a bound is not known; `inherited` the windows of its
    parent and feeds, as long as it was a member.
    """
    changes: list[tuple[int, str, int]] = []

    def put(state: str, begin: int, end: int) -> None:
        if begin < end:
            changes.extend(((begin, state, 1), (end, state, -1)))

    runs = [run for run in proofs.runs if run[0] <= until]
    for first, last in runs:
        put(PROVEN, first, min(last, until))
    for (_, last), (first, _) in pairwise(runs):
        put(INFERRED, last, first)
    begin = min([until, *(run[0] for run in runs)])
    for window in sorted([*timeline.windows, *inherited], key=lambda each: each.opened_at_latest):
        opened = begin if window.opened_at is None else window.opened_at
        closed = until if window.closed_at is None else window.closed_at
        certain = until if window.closed_at_earliest is None else window.closed_at_earliest
        put(UNKNOWN, opened, closed)
        if window.sure:
            put(OFF, window.opened_at_latest, certain)
        begin = min(begin, opened, window.opened_at_latest)
    for off in timeline.assertions:
        if off.says_off and not off.exact and timeline.window_of(off) is None:
            after = (each.ends for each in timeline.assertions if each.begins >= off.ends and not each.says_off)
            put(UNKNOWN, off.begins, min(after, default=until))
    for since, end in doubts:
        put(UNKNOWN, begin if since is None else since, until if end is None else end)
    return list(_laid_out(changes, begin, until))


def _laid_out(changes: list[tuple[int, str, int]], begin: int, until: int) -> Iterator[Span]:
    depth = {OFF: 0, UNKNOWN: 0, PROVEN: 0, INFERRED: 0}
    span: Span | None = None
    moment = begin
    for at, state, step in [*sorted(changes), (until, UNKNOWN, 0)]:
        end = min(max(at, begin), until)
        if end > moment:
            now = next((name for name, count in depth.items() if count), UNKNOWN)
            if span is not None and span.state == now:
                span = Span(span.begin, end, now)
            else:
                if span is not None:
                    yield span
                span = Span(moment, end, now)
            moment = end
        depth[state] += step
    if span is not None:
        yield span
