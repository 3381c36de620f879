"""What is known about one subject (an organization, or a feed), and what each input makes of it.

Every input gives the records that have to be published because of it; nothing here knows where they go. A repeat
gives nothing. Late input re-folds: what changed comes out as a new revision, and nothing disappears without one.
"""

import json
import sys
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, Final

from auditgap.core import fold, inheritance, times
from auditgap.core.alerts import KINDS
from auditgap.core.coverage import Span, spans
from auditgap.core.fold import EVENTS, Assertion, Timeline, Window
from auditgap.core.inheritance import Inherited
from auditgap.core.inputs import (
    DEFAULT_FEED,
    FEED_SUBJECT_PREFIX,
    NOBODY,
    OPERATOR,
    SETTINGS_TYPE,
    Activity,
    Actor,
    Rejection,
    admit,
    name_of,
    organization_of,
    parent_of,
)
from auditgap.core.observations import Observation
from auditgap.core.policy import (
    LISTED,
    NOT_LISTED,
    ChangeWindow,
    Policy,
    Rules,
    change_window_for,
    difference,
    in_force,
    is_watcher_key,
    length,
    rules_at,
    verdict,
)
from auditgap.core.recent import ALL, CHUNKS, NONE, PROOF_LIMIT, Recent, end_of, id_of, start_of, time_of
from auditgap.core.records import (
    Alert,
    Emission,
    Gap,
    Severity,
    Status,
    alert_from_dict,
    as_dict,
    digest,
    gap_from_dict,
    identifier,
)
from auditgap.core.status import YES, Facts
from auditgap.core.status import verdict as status_verdict
from auditgap.core.topology import Stretch
from auditgap.core.track import (
    CAUSES,
    CONFIRMED,
    KNOWN,
    LOST,
    SUSPECTED,
    WATCHED,
    Change,
    Track,
    entry_of_text,
    resolved,
    text_of,
)

HISTORICAL_AFTER: Final = 7 * 24 * 3600 * times.SECOND
"""An "off" or "on" heard of later than this is history being imported, nothing to page for: outages are shorter.

Age alone decides. A window that is already closed when it is first heard of is news all the same: while the API is
off the "off" itself may be readable only after it is on again, and which of the two is read first is chance.
"""

DAY_SECONDS: Final = 24 * 3600

UNREADABLE_KEPT: Final = 100
"""How many settings events that nobody understands are remembered: the latest."""

SILENT: Final = 10 * 60 * times.SECOND
"""How long a collector that was heard of may say nothing: it polls every minute."""

FLAPPING: Final = 50
"""Changes of the settings within an hour of the clock that are no longer anybody's intention."""

REFRESH: Final = 5 * 60 * times.SECOND
"""How far the last proof may move on before a status is published again that says nothing else."""

HOUR: Final = 3600 * times.SECOND

MOST_NAMED: Final = 100
"""How many members a sentence names; their gaps, of the same incident, name them all."""

ALERT_OF_REASON: Final = {
    "settings_unreadable": "settings_change_unreadable",
    "time_in_future": "clock_anomaly",
    "quarantined": "record_quarantined",
}
"""Which refusals are alerts besides being dead letters."""


@dataclass(slots=True)
class Bracket:
    """What was recorded around one window, and inside it: entries of `recent`, None where there is none.

    Before is at or before its certain opening, after at or after its close, inside strictly between. `last_exact` and
    `first_exact` are False where the index no longer reached far enough; the entry is then None.
    """

    last: bytes | None = None
    last_exact: bool = True
    first: bytes | None = None
    first_exact: bool = True
    inside: int = 0
    inside_first: bytes | None = None
    inside_last: bytes | None = None


_compact = json.JSONEncoder(separators=(",", ":")).encode
_BRACKET_FIELDS: Final = tuple(field.name for field in fields(Bracket))
_OF_KIND: Final = ("triage", "attack_ids")
"""Fields of an alert that its kind decides."""


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


_WATCHED_FIELDS: Final = tuple(each.name for each in fields(Watched))


class Ledger:
    """One subject's state. All times, given and returned, are microseconds.

    `watermark` is for the worker's fast path: an activity whose entry sorts above it changes no gap, and only has to
    be added to `recent`. `stale` names the gaps that may have changed since they were published, `replaced` those among
    them that lost their window, and the gap that holds their opening now.

    `assertions` is by input id, then by content; `windows` and `brackets` hold the windows that stand now, `gaps` and
    `alerts` the latest revision of all that was ever published. Persisting (`changes`, `restore`) is by small records
    under keys of their own.

    `members` are those of a parent or feed, and when; `news` names its gaps of which they are to be told. `inherited`
    is what a member was told, by the gap it is about; `heirs` are the standing gaps that it made of it, among
    `windows` too.
    """

    __slots__ = (
        "alerts",
        "brackets",
        "clock",
        "gaps",
        "heirs",
        "inherited",
        "known",
        "members",
        "news",
        "open",
        "policies",
        "previous_digest",
        "recent",
        "replaced",
        "saved_chunk",
        "sequence",
        "stale",
        "status",
        "subject",
        "suspected",
        "touched",
        "watched",
        "watermark",
        "windows",
    )

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.recent = Recent()
        self.watermark = NONE
        self.known = Track(KNOWN)
        self.suspected = Track(WATCHED)
        self.policies: tuple[Policy, ...] = ()
        self.windows: dict[str, Window] = {}
        self.brackets: dict[str, Bracket] = {}
        self.gaps: dict[str, Gap] = {}
        self.alerts: dict[str, Alert] = {}
        self.members: dict[str, tuple[Stretch, ...]] = {}
        self.news: set[str] = set()
        self.inherited: dict[str, Inherited] = {}
        self.heirs: dict[str, str] = {}
        self.stale: set[str] = set()
        self.replaced: dict[str, str | None] = {}
        self.open: set[str] = set()
        self.clock = 0
        self.watched = Watched()
        self.status: Status | None = None
        self.sequence = 0
        self.previous_digest: str | None = None
        self.touched: set[tuple[str, str]] = set()
        self.saved_chunk = 0

    @property
    def organization_id(self) -> str | None:
        """The organization, None where the subject is a feed or a parent."""
        return organization_of(self.subject)

    @property
    def timeline(self) -> Timeline:
        """What is known of the two flags."""
        return self.known.timeline

    @property
    def _own_feed(self) -> str | None:
        feed_id = self.subject.removeprefix(FEED_SUBJECT_PREFIX)
        return None if feed_id in (self.subject, DEFAULT_FEED) else feed_id

    # --- inputs -----------------------------------------------------------------------------------------------------

    def activity(self, entry: bytes) -> None:
        """Take in one ordinary activity, as `recent.entry_of` writes it; `settle` publishes what it changes."""
        if entry <= self.watermark:
            self._improve(entry)
        self.recent.add(entry)

    def settle(self, produced_at: int) -> list[Emission]:
        """Publish what ordinary activities changed since: brackets and counts, and the alerts that quote them."""
        return self._publish(produced_at) if self.stale else []

    def settings_event(
        self, activity: Activity, append_time: int, produced_at: int, *, trusted: bool = True
    ) -> list[Emission] | None:
        """Take in a readable settings event; None if it is a repeat. Of one that is not `trusted` only "off" counts."""
        return self._assert(self.known, fold.of_settings_event(activity, append_time, trusted=trusted), produced_at)

    def observation(
        self, seen: Observation, append_time: int, produced_at: int, *, trusted: bool = True
    ) -> list[Emission] | None:
        """Take in what a collector saw, as `settings_event` does."""
        said = [
            (track, assertion)
            for track in (self.known, self.suspected)
            if (assertion := track.kind.of_observation(seen, append_time)) is not None
            and (trusted or assertion.says_off)
        ]
        told = [self._assert(track, assertion, produced_at) for track, assertion in said]
        if seen.kind == "caught_up" and trusted:
            told.append(self._caught_up(seen.complete_through or 0, produced_at))
        out = [emission for each in told if each is not None for emission in each]
        if trusted and seen.kind != OPERATOR:
            out += self._watched(seen, append_time, produced_at)
        return None if told and all(each is None for each in told) and not out else out

    def _watched(self, seen: Observation, append_time: int, produced_at: int) -> Iterator[Alert]:
        """Note that the collector lives, and what its own calls tell of delays."""
        watched = self.watched
        if append_time > watched.seen_at:
            watched.seen_at = append_time
            self.touched.add(("w", ""))
            if watched.stalled is not None:
                yield from self._resolved(watched.stalled, produced_at)
                watched.stalled = None
        called_at = seen.called_at or 0
        if seen.kind == "canary" and seen.result == "seen":
            # On at some moment between the two: see Runs.add.
            if self.recent.prove(called_at + seen.skew, called_at - seen.skew - fold.SETTLE):
                self.stale.update(gap_id for gap_id, window in self._suspicions() if _is_near(window, called_at))
            if called_at > watched.called_at:
                watched.called_at = called_at
                self.touched.add(("w", ""))
        if seen.kind == "canary" and seen.result == "delayed":
            first, last = watched.delayed or (called_at, called_at)
            watched.delayed = min(first, called_at), max(last, called_at)
            self.touched.add(("w", ""))
        if watched.delayed is not None:
            first, last = watched.delayed
            over = last <= max(watched.called_at, watched.complete_through)
            if over:
                watched.delayed = None
                self.touched.add(("w", ""))
            since = times.text_of(first)
            alert = self._alert(
                "feed_delayed",
                (since,),
                self._told_at(append_time, "feed_delayed", since),
                occurred_at=first,
                actor=NOBODY,
                feed_id=seen.feed_id,
                evidence=(),
                resolved=over,
                summary=f"{self.name}: the feed is behind for everybody; nothing since {since} is visible yet",
            )
            yield from self._derived(alert, produced_at)

    def _caught_up(self, complete_through: int, produced_at: int) -> list[Emission] | None:
        """Judge the suspicions that ended before what is complete now."""
        if complete_through <= self.watched.complete_through:
            return None
        since, self.watched.complete_through = self.watched.complete_through, complete_through
        self.touched.add(("w", ""))
        for gap_id, window in self._suspicions():
            if window.closed_at is not None and since < window.closed_at <= complete_through:
                self.stale.add(gap_id)
        return self._publish(produced_at) if self.stale else []

    def rejected(
        self,
        rejection: Rejection,
        activity: Activity | None,
        record_id: str,
        append_time: int,
        produced_at: int,
    ) -> list[Emission]:
        """Say that an input about this subject went to the dead letters, where that is worth an alert.

        `record_id` names the record in the alert; `activity` is None where it could not even be decoded. A settings
        event dated into the future that says off still counts as off, from its append time.
        """
        kind = ALERT_OF_REASON.get(rejection.reason)
        if kind is None:
            return []
        settings = activity if activity is not None and activity.type == SETTINGS_TYPE else None
        flood = rejection.reason == "time_in_future" and settings is None
        # Ordinary records with a broken clock come in floods: one alert per subject and hour speaks for them.
        identity = f"hour {append_time // HOUR}" if flood else record_id
        if settings is not None:
            identity = f"{record_id} sha256:{settings.digest}"
        out = self.alert(
            kind,
            identity,
            f"record {record_id} was refused: {rejection.detail}",
            append_time,
            produced_at,
            activity=activity,
            record_id=record_id,
        )
        if rejection.reason == "settings_unreadable" and append_time not in self.watched.unreadable:
            insort(self.watched.unreadable, append_time)
            del self.watched.unreadable[:-UNREADABLE_KEPT]
            self.touched.add(("w", ""))
        if rejection.reason == "time_in_future" and settings is not None:
            assertion = fold.of_misdated_settings_event(settings, append_time)
            if assertion is not None:
                out += self._assert(self.known, assertion, produced_at) or []
        return out

    def alert(
        self,
        kind: str,
        identity: str,
        sentence: str,
        append_time: int,
        produced_at: int,
        *,
        activity: Activity | None = None,
        record_id: str | None = None,
    ) -> list[Emission]:
        """Raise an alert about an input, once per identity. Raises KeyError for a kind that is not in the table."""
        occurred_at = activity.created_at if activity else None
        if occurred_at is not None and admit(occurred_at, append_time) is not None:
            occurred_at = None
        made = self._alert(
            kind,
            (identity,),
            append_time,
            occurred_at=occurred_at,
            actor=activity.actor if activity else NOBODY,
            feed_id=activity.feed_id if activity else None,
            evidence=(record_id or identity,),
            summary=f"{self.name}: {sentence}",
        )
        return [] if made.alert_id in self.alerts else [self._record(made, produced_at)]

    def govern(self, policies: tuple[Policy, ...]) -> None:
        """Take these versions of the policy for all verdicts; `settle` publishes what they change."""
        self.policies = policies
        self.stale |= self.windows.keys()

    def policy_changed(self, version: Policy, before: Policy | None, produced_at: int) -> list[Emission]:
        """Say what a version of the policy changed; it is critical while a gap is open."""
        alert = self._alert(
            "policy_changed",
            (version.organization_id or "", str(version.version), version.digest),
            version.append_time,
            occurred_at=None,
            actor=Actor(type="policy_author", id=version.author),
            feed_id=None,
            evidence=(version.digest,),
            severity=Severity.CRITICAL if self.open else None,
            summary=f"{self.name}: version {version.version} of the "
            f"{'defaults' if version.organization_id is None else 'policy'} by {version.author}: "
            f"{'; '.join(difference(before, version))}{' (a gap is open)' if self.open else ''}",
        )
        return [] if alert.alert_id in self.alerts else [self._record(alert, produced_at)]

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, clock: int, produced_at: int) -> list[Emission]:
        """Let time go on to `clock`: escalate what is open, notice a silent collector, and say what is known now."""
        self.clock = clock
        rules = rules_at(self.policies, clock)
        out: list[Emission] = []
        if not rules.decommissioned:
            for gap_id in self._paged():
                out += self._escalated(self.gaps[gap_id], rules, produced_at)
            out += self._stalled(rules, produced_at)
            for gap, _ in list(self._planned()):
                out += self._overrun(gap, self.windows[gap.gap_id], produced_at)
        return out + self._told_status(rules, produced_at)

    def due(self) -> int | None:
        """Give when the next tick matters, None where nothing waits for time."""
        rules = rules_at(self.policies, self.clock)
        waits = [self._opened(self.gaps[gap_id]) for gap_id in self._paged()]
        if self.watched.seen_at:
            waits.append(self.watched.seen_at + (0 if self.watched.stalled else SILENT))
        moments = [_next(since, self.clock, rules) for since in waits]
        if self.watched.seen_at and not self.watched.stalled:
            moments.append(self.watched.seen_at + SILENT)
        if self.status is not None and self.status.audited == YES:
            moments.append((self._last_proof()[0] or 0) + rules.proof_limit_seconds * times.SECOND + 1)
        moments += [planned.end + 1 for _, planned in self._planned() if planned.end >= self.clock]
        return min(moments, default=None)

    def _paged(self) -> list[str]:
        """Name the open gaps that are told of here: an inherited one is told of where it comes from."""
        return sorted(gap_id for gap_id in self.open if self.gaps[gap_id].inherited_from is None)

    def _opened(self, gap: Gap) -> int:
        return gap.first_evidence_at if gap.opened_at_latest is None else gap.opened_at_latest

    def _planned(self) -> Iterator[tuple[Gap, ChangeWindow]]:
        """Give the open gaps that lie in a change window."""
        for gap_id in self._paged():
            window, gap = self.windows.get(gap_id), self.gaps[gap_id]
            if window is not None and gap.change_window_id is not None:
                actor = window.opening.actor
                planned = change_window_for(self.policies, window.opened_at, window.opened_at_latest, actor)
                if planned is not None:
                    yield gap, planned

    def _escalated(self, gap: Gap, rules: Rules, produced_at: int) -> Iterator[Alert]:
        """Say that a gap is still open, at the highest step that was passed, once."""
        told = self.watched.escalated
        step = rules.step_passed((self.clock - self._opened(gap)) / times.SECOND)
        if step is None or step <= told.get(gap.incident_id, 0) or rules.acknowledgement(gap.gap_id, self.clock):
            return
        told[gap.incident_id] = step
        self.touched.add(("w", ""))
        alert = self._about(
            "gap_still_open",
            gap,
            f"not back after {length(step)}; {_state_of(gap)}",
            identity=("incident", gap.incident_id),
            severity=_rising(step, rules),
            detected_at=self._told_at(self.clock, "gap_still_open", "incident", gap.incident_id),
        )
        yield from self._derived(alert, produced_at)

    def _stalled(self, rules: Rules, produced_at: int) -> Iterator[Alert]:
        """Say that nothing was heard of the collector for too long."""
        seen_at = self.watched.seen_at
        if not seen_at or self.clock < seen_at + SILENT:
            return
        since = times.text_of(seen_at)
        alert = self._alert(
            "feed_stalled",
            (since,),
            self._told_at(self.clock, "feed_stalled", since),
            occurred_at=seen_at,
            actor=NOBODY,
            feed_id=None,
            evidence=(),
            severity=_rising(rules.step_passed((self.clock - seen_at) / times.SECOND), rules),
            summary=f"{self.name}: nothing was heard of the collector since {since}; what happens is not seen",
        )
        self.watched.stalled = alert.alert_id
        self.touched.add(("w", ""))
        yield from self._derived(alert, produced_at)

    def _last_proof(self) -> tuple[int | None, str | None]:
        """Give the last proof of recording: when, and the activity's id (None for a call of the collector's own)."""
        latest = self.recent.latest()
        recorded = None if latest is None else time_of(latest)
        if self.watched.called_at > (recorded or 0):
            return self.watched.called_at, None
        return recorded, None if latest is None else id_of(latest)

    def _told_status(self, rules: Rules, produced_at: int) -> list[Status]:
        """Publish the status, if it says something else than before."""
        last_proof_at, last_proof_id = self._last_proof()
        unreadable = self.watched.unreadable
        if last_proof_at is None and not (self.windows or unreadable or self.watched.seen_at):
            return []
        told = status_verdict(
            Facts(
                clock=self.clock,
                limit=rules.proof_limit_seconds * times.SECOND,
                open_gaps=tuple(self.gaps[gap_id] for gap_id in self.open),
                decommissioned=rules.decommissioned,
                stalled_since=self.watched.seen_at if self.watched.stalled else None,
                unreadable_since=unreadable[-1] + fold.SETTLE if unreadable else None,
                proven_since=self._proven_since(),
                last_proof_at=last_proof_at,
                last_proof_id=last_proof_id,
            )
        )
        before = self.status
        new = Status(
            organization_id=self.organization_id,
            feed_id=self._own_feed,
            parent_id=parent_of(self.subject),
            revision=before.revision if before else 0,
            produced_at=before.produced_at if before else 0,
            audited=told.audited,
            reason=told.reason,
            since=told.since,
            evidence_id=told.evidence_id,
            last_proof_at=last_proof_at,
            last_observation_at=self.watched.seen_at or None,
            open_gap_id=told.gap_id,
        )
        if before is not None and _says(before) == _says(new) and not _is_older(before, new):
            return []
        self.status = replace(new, revision=new.revision + 1, produced_at=produced_at)
        self.touched.add(("s", ""))
        return [self.status]

    def _proven_since(self) -> int | None:
        """Give since when it has been on as far as is known: the latest close, or the first proof of all."""
        closed = max((window.closed_at or 0 for _, window in self._standing()), default=0)
        if closed:
            return closed
        runs = self.recent.runs.runs
        if runs:
            return runs[0][0]
        entries = self.recent.entries()
        return time_of(entries[0]) if entries else None

    def coverage(self, until: int) -> list[Span]:
        """Say what is known of every instant up to `until`."""
        doubts = [
            (window.opened_at, window.closed_at if state == "CLOSED" else None)
            for _, window in self._suspicions()
            for state, _ in (self._judge(window),)
            if state in ("OPEN", "CLOSED")
        ]
        proofs = self.recent.proofs()
        doubts += [doubt for each in self.watched.unreadable for doubt in proofs.around(each)]
        return spans(self.timeline, proofs, until, doubts, [self.windows[gap_id] for gap_id in self.heirs])

    def lead(self, members: dict[str, tuple[Stretch, ...]], produced_at: int) -> list[Emission]:
        """Take these members of a parent or feed; the alerts that name them follow."""
        self.members = members
        standing = [gap for gap_id in self.windows if (gap := self.gaps.get(gap_id)) is not None]
        return [alert for gap in standing for alert in self._alerts_of(None, gap, None, produced_at)]

    def inherit(self, told: Inherited, produced_at: int) -> list[Emission] | None:
        """Take in what a parent or feed says of one of its gaps; None where as much or more is known."""
        known = self.inherited.get(told.source)
        if known is not None and told.revision <= known.revision:
            return None
        self.inherited[told.source] = told
        self.touched.add(("i", told.source))
        before = {gap_id: self.windows[gap_id] for gap_id, source in self.heirs.items() if source == told.source}
        after = told.windows(self.subject)
        entries = self.recent.entries()
        around = [(window, self.brackets[gap_id]) for gap_id, window in before.items()]
        for gap_id in before.keys() - after.keys():
            del self.windows[gap_id], self.brackets[gap_id], self.heirs[gap_id]
        for gap_id, window in after.items():
            was = before.get(gap_id)
            if was is None or (_start(was), _end(was)) != (_start(window), _end(window)):
                self.brackets[gap_id] = self._look_around(window, entries, around)
            self.windows[gap_id] = window
            self.heirs[gap_id] = told.source
        # Those whose place it takes name its gap.
        replaced = [source for source, each in self.inherited.items() if each.successor == told.source]
        named = [gap_id for gap_id, gap in self.gaps.items() if gap.inherited_from in replaced]
        self.stale |= {*before, *after, *named} & (self.windows.keys() | self.gaps.keys())
        return self._publish(produced_at)

    # --- the fold and what follows ----------------------------------------------------------------------------------

    def _assert(self, track: Track, assertion: Assertion, produced_at: int) -> list[Emission] | None:
        change = track.take(assertion, self.recent)
        if change is None:
            return None
        # What counts is what its copies say together.
        assertion = track.assertions.get(assertion.input_id, {}).get(assertion.key[1], assertion)
        if change == ([], []) and assertion.kind not in EVENTS:
            return []
        self._changed(track, change)
        return self._publish(produced_at, also=assertion if assertion.kind in EVENTS else None)

    def _changed(self, track: Track, change: Change) -> None:
        """Carry over what is known of each bracket, and mark the gaps that may have changed."""
        gone, came = change
        before = {self._gap_id(window): window for window in gone if track.stands(window)}
        after = {self._gap_id(window): window for window in came if track.stands(window)}
        changed = {gap_id: window for gap_id, window in after.items() if before.get(gap_id) != window}
        moved = {
            gap_id: window
            for gap_id, window in changed.items()
            if (was := before.get(gap_id)) is None
            or (was.opened_at_latest, was.closed_at) != (window.opened_at_latest, window.closed_at)
        }
        if moved:
            entries = self.recent.entries()
            told = [(window, self.brackets[gap_id]) for gap_id, window in before.items()]
            self.brackets |= {gap_id: self._look_around(window, entries, told) for gap_id, window in moved.items()}
        for gap_id in before.keys() - after.keys():
            del self.windows[gap_id], self.brackets[gap_id]
            holding = track.timeline.holder_of(before[gap_id])
            holder = None if holding is None or not track.stands(holding) else self._gap_id(holding)
            self.replaced |= {old: holder for old, new in self.replaced.items() if new == gap_id}
            if gap_id in self.gaps:
                self.replaced[gap_id] = holder
            else:  # it came and went between two publications
                self.stale.discard(gap_id)
                self.touched.discard(("g", gap_id))
        for gap_id in after:
            self.replaced.pop(gap_id, None)
        self.windows |= after
        self.stale |= changed.keys() | self.replaced.keys()
        if track is self.known:
            for gap_id, window in self._suspicions():
                if any(window.overlaps(each) for each in (*gone, *came)):
                    self.stale.add(gap_id)

    def _suspicions(self) -> Iterator[tuple[str, Window]]:
        """Give the suspected windows that stand."""
        for window in self.suspected.timeline.windows:
            if self.suspected.stands(window):
                yield self._gap_id(window), window

    def _standing(self) -> Iterator[tuple[str, Window]]:
        """Give all windows that stand."""
        for window in self.timeline.windows:
            yield self._gap_id(window), window
        yield from self._suspicions()
        yield from ((gap_id, self.windows[gap_id]) for gap_id in self.heirs)

    def _gap_id(self, window: Window) -> str:
        if not window.gap_id:
            window.gap_id = identifier("gap", self.subject, *window.opening.key)
        return window.gap_id

    def _look_around(self, window: Window, entries: list[bytes], told: list[tuple[Window, Bracket]]) -> Bracket:
        """Say what was recorded around a window and in it.

        The index tells, and where it no longer reaches, the brackets of the windows that this one takes the place of.
        """
        low = end_of(window.opened_at_latest)
        high = ALL if window.closed_at is None else start_of(window.closed_at)
        start, end = bisect_left(entries, low), bisect_left(entries, high)
        inside = list(dict.fromkeys(entries[start:end]))
        bracket = Bracket(inside=len(inside))
        # No entry that was dropped sorts after the floor, and the floor itself is among the entries.
        floor = self.recent.floor
        if floor < low:
            bracket.last = entries[start - 1] if start else None
        else:
            # Nothing was recorded between the last activity before a window and its opening.
            later = (b.last for old, b in told if _start(old) >= _start(window))
            bracket.last = next((entry for entry in later if entry and entry < low), None)
            bracket.last_exact = bracket.last is not None
            # The windows in whose place this one is may know more of what was inside.
            within = [b for old, b in told if _start(old) >= _start(window) and _end(old) <= _end(window)]
            known = {each for _, b in told for each in (b.last, b.inside_first, b.inside_last, b.first) if each}
            inside = sorted(known.union(inside) - {each for each in known if not low < each < high})
            bracket.inside = max(len(inside), *(b.inside for b in within), 0)
            if floor < high:
                # A window that only ends sooner: what it no longer holds is all still in the index.
                for old, b in told:
                    if _start(old) == _start(window) and _end(old) > _end(window):
                        until = ALL if old.closed_at is None else start_of(old.closed_at)
                        beyond = dict.fromkeys(entries[end : bisect_left(entries, until)])
                        bracket.inside = max(bracket.inside, b.inside - len(beyond))
        if floor < high:
            bracket.first = entries[end] if end < len(entries) else None
        else:
            # Nor was anything between the close of a window and the first activity after it.
            earlier = (b.first for old, b in told if _end(old) <= _end(window))
            bracket.first = next((entry for entry in earlier if entry and entry >= high), None)
            bracket.first_exact = bracket.first is not None
        if inside:
            bracket.inside_first, bracket.inside_last = inside[0], inside[-1]
        return bracket

    def _improve(self, entry: bytes) -> None:
        """Take one activity into the brackets of the windows around it.

        The entries of brackets are in the order of their windows: where one is not improved, those further away in
        the same direction are not either.
        """
        moment = time_of(entry)
        for track in (self.known, self.suspected):
            if track.around:
                self._changed(track, track.prove(entry))
        if self.timeline.vague or self.suspected.timeline.windows or self.heirs:
            self._improve_each(entry, moment)
            return
        windows = self.timeline.windows
        opening_later, ended = bisect_left(windows, moment, key=_start), bisect_right(windows, moment, key=_end)
        for window in islice(windows, opening_later, None):
            if not self._before(window, entry):
                break
        for index in range(ended - 1, -1, -1):
            if not self._after(windows[index], entry):
                break
        if ended < opening_later:
            self._inside(windows[ended], entry)

    def _improve_each(self, entry: bytes, moment: int) -> None:
        """Take one activity into the brackets of all windows: those that are not exact may overlap."""
        for gap_id, window in self._standing():
            before, after = moment <= _start(window), moment >= _end(window)
            if before:
                self._before(window, entry)
            if after:
                self._after(window, entry)
            if not before and not after:
                self._inside(window, entry)
            if window.confidence == SUSPECTED and _is_near(window, moment):
                self.stale.add(gap_id)

    def _before(self, window: Window, entry: bytes) -> bool:
        """Take an activity before a window into its bracket; False if a later one is known."""
        bracket = self.brackets[self._gap_id(window)]
        if bracket.last is not None and entry <= bracket.last:
            return False
        if bracket.last_exact:
            bracket.last = entry
            self._improved(window)
        return True

    def _after(self, window: Window, entry: bytes) -> bool:
        """Take an activity after a window into its bracket; False if an earlier one is known."""
        bracket = self.brackets[self._gap_id(window)]
        if bracket.first is not None and entry >= bracket.first:
            return False
        if bracket.first_exact:
            bracket.first = entry
            self._improved(window)
        return True

    def _inside(self, window: Window, entry: bytes) -> None:
        """Count an activity inside a window."""
        bracket = self.brackets[self._gap_id(window)]
        if bracket.inside_last is None or entry > bracket.inside_last or not self.recent.has(entry):
            bracket.inside += 1
            bracket.inside_first = min(entry, bracket.inside_first or entry)
            bracket.inside_last = max(entry, bracket.inside_last or entry)
            self._improved(window)

    def _improved(self, window: Window) -> None:
        self.stale.add(window.gap_id)
        self.touched.add(("g", window.gap_id))

    def _set_watermark(self) -> None:
        """Above which entry nothing can change: the first activity after the latest window, once it is known."""
        self.watermark = NONE
        arounds = [around for track in (self.known, self.suspected) for around in track.around.values()]
        if any(around.after is None for around in arounds):
            self.watermark = ALL
            return
        simple = not (self.timeline.vague or self.suspected.timeline.windows or self.heirs)
        for window in reversed(self.timeline.windows) if simple else [window for _, window in self._standing()]:
            bracket = self.brackets[self._gap_id(window)]
            if window.closed_at is None or (bracket.first is None and bracket.first_exact):
                self.watermark = ALL
                return
            self.watermark = max(self.watermark, bracket.first or start_of(window.closed_at))
            if bracket.first is not None and simple:
                # Those of earlier windows are no later.
                return
        self.watermark = max([self.watermark, *(around.after for around in arounds if around.after)])

    # --- publishing -------------------------------------------------------------------------------------------------

    def _publish(self, produced_at: int, also: Assertion | None = None) -> list[Emission]:
        """Publish a revision of each stale gap that did change, and before them the alerts that follow."""
        drafts = []
        for gap_id in sorted(self.stale):
            window, published = self.windows.get(gap_id), self.gaps.get(gap_id)
            if window is not None:
                draft = self._draft(gap_id, window, published)
            elif (source := self.gaps[gap_id].inherited_from) is not None:
                draft = self.inherited[source].without(self.gaps[gap_id], self.inherited)
            else:
                draft = replace(self.gaps[gap_id], state="SUPERSEDED", superseded_by=self.replaced[gap_id])
            # What is explained when it is first seen was never a gap of its own.
            stillborn = published is None and draft.state in ("SUPERSEDED", "RETRACTED")
            if stillborn:
                self.touched.add(("g", gap_id))
            elif draft != published:
                drafts.append((published, draft))
        gaps = [(published, self._stamp(draft, produced_at)) for published, draft in drafts]
        if self.members:
            changed = (gap for was, gap in gaps if inheritance.facts(was) != inheritance.facts(gap))
            self.news.update(gap.gap_id for gap in changed if gap.inherited_from is None)
        alerts = [alert for published, gap in gaps for alert in self._alerts_of(published, gap, also, produced_at)]
        if also is not None:
            alerts += self._alerts_of_assertion(also, produced_at)
        self.stale.clear()
        self.replaced.clear()
        self._set_watermark()
        return [*alerts, *(gap for _, gap in gaps)]

    def _stamp(self, gap: Gap, produced_at: int) -> Gap:
        """Number the revision and chain it to the one before it in the subject's history."""
        self.sequence += 1
        shape = as_dict(gap)
        shape["revision"] += 1
        shape["produced_at"] = produced_at
        shape["history_sequence"] = self.sequence
        shape["previous_digest"] = self.previous_digest
        gap = Gap(**shape)
        self.previous_digest = digest(shape)
        self.gaps[gap.gap_id] = gap
        (self.open.add if gap.state == "OPEN" else self.open.discard)(gap.gap_id)
        self.touched.update((("g", gap.gap_id), ("h", "")))
        return gap

    def _draft(self, gap_id: str, window: Window, published: Gap | None) -> Gap:
        """Write a window as a gap, an inherited one with what is its parent's."""
        gap = self._render(gap_id, window, published)
        source = self.heirs.get(gap_id)
        return gap if source is None else self.inherited[source].onto(gap, window)

    def _render(self, gap_id: str, window: Window, published: Gap | None) -> Gap:
        """Write a window and its bracket as a gap; what never changes, and the stamps, come from `published`."""
        opening, closing, bracket = window.opening, window.closing, self.brackets[gap_id]
        state, holder = self._judge(window)
        if state == "OPEN" and closing is not None:
            # The first good sight of it proves nothing yet: the window is not closed before all is on the topic.
            closing, bracket = None, replace(bracket, first=None)
            window = replace(window, closed_at=None, closed_at_earliest=None)
        ended = closing.actor if closing else NOBODY
        moments = (window.opened_at, window.opened_at_latest)
        # Now is when the latest that is known was heard of: the same in every replay.
        now = max([opening.append_time, *(each.append_time for each in self.policies)])
        planned = change_window_for(self.policies, *moments, opening.actor)
        opened = window.opened_at_latest if window.opened_at is None else window.opened_at
        ruled = in_force(self.policies, opened)
        long = None if window.closed_at is None or window.opened_at is None else window.closed_at - window.opened_at
        return Gap(
            gap_id=gap_id,
            incident_id=self._incident(gap_id, published),
            revision=published.revision if published else 0,
            organization_id=self.organization_id,
            feed_id=opening.feed_id,
            parent_id=parent_of(self.subject),
            first_evidence_at=opening.append_time,
            produced_at=published.produced_at if published else 0,
            superseded_by=None if holder is None else self._gap_id(holder),
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
            authorised_at_open=verdict(self.policies, opening.actor, opened),
            authorised_now=verdict(self.policies, opening.actor, now),
            change_window_id=planned.id if planned else None,
            change_window_reason=planned.reason if planned else None,
            policy_version=ruled.version if ruled else None,
            history_sequence=published.history_sequence if published else 0,
            previous_digest=published.previous_digest if published else None,
        )

    def _judge(self, window: Window) -> tuple[str, Window | None]:
        """Give the state of a window's gap, and the window that took its place."""
        if window.confidence == CONFIRMED:
            return "OPEN" if window.closing is None else "CLOSED", None
        return resolved(window, self.timeline.windows, self.watched.complete_through, self.recent.proofs())

    def _incident(self, gap_id: str, published: Gap | None) -> str:
        """The incident goes on when a gap takes another's place; else it begins. No two standing gaps share one."""
        if published is None:
            replaced = [self.gaps[old] for old, new in self.replaced.items() if new == gap_id]
            window = self.windows[gap_id]
            if window.confidence == CONFIRMED:
                replaced += [
                    self.gaps[each]
                    for each, suspected in self._suspicions()
                    if each in self.gaps and self.gaps[each].state == "OPEN" and suspected.overlaps(window)
                ]
            if replaced:
                return min(replaced, key=lambda gap: (gap.opened_at_latest or 0, gap.gap_id)).incident_id
            return identifier("inc", gap_id)
        if published.state == "SUPERSEDED" and any(
            gap.incident_id == published.incident_id and gap.state != "SUPERSEDED" for gap in self.gaps.values()
        ):
            # It is back, and the gap that took its place goes on with the incident.
            return identifier("inc", gap_id, str(published.revision))
        return published.incident_id

    # --- alerts -----------------------------------------------------------------------------------------------------

    def _alerts_of(self, before: Gap | None, gap: Gap, also: Assertion | None, produced_at: int) -> Iterator[Alert]:
        """Publish the alerts that quote a gap which changed from `before`; that of `also` comes by itself."""
        if gap.inherited_from is not None:
            return  # that of the parent or feed speaks for all its members
        window = self.windows.get(gap.gap_id)
        for kind, state in (("gap_refined", "SUPERSEDED"), ("gap_withdrawn", "RETRACTED")):
            if gap.state == state:
                yield from self._derived(self._gone(kind, gap), produced_at)
            else:
                yield from self._withdrawn(kind, gap.gap_id, produced_at)
        if gap.state != "OPEN":
            yield from self._resolved(self._alert_id("gap_still_open", "incident", gap.incident_id), produced_at)
        if window is not None:
            yield from self._conflicts(gap, window, produced_at)
            yield from self._overrun(gap, window, produced_at)
        if gap.confidence == SUSPECTED and (before is None or _facts_of(before) != _facts_of(gap)):
            yield from self._derived(self._suspicious(gap, window), produced_at)
            return
        if window is not None and (before is None or _facts_of(before) != _facts_of(gap)):
            for off in window.offs:
                if off is not also and (off.kind in EVENTS or off is window.opening):
                    yield from self._derived(self._disabled(off, gap), produced_at)
        if window is not None and window.closing is not None:
            yield from self._derived(self._restored(window.closing, gap), produced_at)
        else:
            yield from self._withdrawn("logging_restored", gap.gap_id, produced_at)

    def _conflicts(self, gap: Gap, window: Window, produced_at: int) -> Iterator[Alert]:
        """Say that activities were recorded while an event says that nothing was; counted in powers of ten."""
        last = self.brackets[gap.gap_id].inside_last
        opening = window.opening
        if (
            opening.kind not in EVENTS
            or not opening.exact
            or last is None
            or time_of(last) <= window.opened_at_latest + fold.SETTLE
        ):
            yield from self._withdrawn("evidence_conflict", gap.gap_id, produced_at)
            return
        count = 10 ** (len(str(gap.activity_inside_count)) - 1)
        known = self.alerts.get(self._alert_id("evidence_conflict", gap.gap_id))
        first = gap.activity_inside_first_id or ""
        if known is not None and known.status != "WITHDRAWN" and f"{count:,} or more" in known.summary:
            return
        sentence = (
            f"{count:,} or more activities were recorded, the first {first}, while {_who(opening.actor)} had switched "
            "it off: one of the two is not true, and only a person can tell"
        )
        yield from self._derived(self._about("evidence_conflict", gap, sentence, severity=None), produced_at)

    def _overrun(self, gap: Gap, window: Window, produced_at: int) -> Iterator[Alert]:
        """Say that a gap outlives the change window that excused it."""
        actor = window.opening.actor
        planned = change_window_for(self.policies, window.opened_at, window.opened_at_latest, actor)
        ended = self.clock if gap.closed_at is None else gap.closed_at
        if planned is None or ended <= planned.end:
            yield from self._withdrawn("change_window_overrun", gap.gap_id, produced_at)
            return
        sentence = f"change window {planned.id} is over since {times.text_of(planned.end)}; {_state_of(gap)}"
        yield from self._derived(self._about("change_window_overrun", gap, sentence), produced_at)

    def _withdrawn(self, kind: str, gap_id: str, produced_at: int) -> Iterator[Alert]:
        """Take back an alert about a gap, if there is one."""
        standing = self.alerts.get(self._alert_id(kind, gap_id))
        if standing is not None and standing.status != "WITHDRAWN":
            yield self._record(replace(standing, status="WITHDRAWN"), produced_at)

    def _alerts_of_assertion(self, assertion: Assertion, produced_at: int) -> Iterator[Alert]:
        """Publish the alerts that follow from one assertion, whether it moved a window or not."""
        window = self.timeline.window_of(assertion) if assertion.says_off else None
        if window is not None and is_watcher_key(self.policies, assertion.actor, assertion.ends):
            by_watcher = self._alert(
                "disabled_by_watcher_key",
                assertion.key,
                assertion.append_time,
                occurred_at=assertion.ends if assertion.exact else None,
                actor=assertion.actor,
                feed_id=assertion.feed_id,
                evidence=(assertion.input_id,),
                gap=self.gaps[self._gap_id(window)],
                summary=f"{self.name}: the key that watches the feed was used to switch it off",
            )
            yield from self._derived(by_watcher, produced_at)
        if window is not None:
            gap_id = self._gap_id(window)
            yield from self._derived(self._disabled(assertion, self.gaps[gap_id]), produced_at)
        yield from self._flapping(assertion, produced_at)
        input_id = assertion.input_id
        copies = sorted(self.known.assertions[input_id].values(), key=lambda each: each.order)
        contents = len({each.digest for each in copies})
        if contents > 1:
            conflict = self._conflict(
                copies[0],
                (input_id,),
                max(each.append_time for each in copies),
                tuple(f"{input_id} sha256:{each.digest}" for each in copies),
                f"{contents} settings events have the id {input_id} and different content; all of them count",
            )
            yield from self._derived(conflict, produced_at)
        if self.recent.has_id(input_id):
            conflict = self._conflict(
                assertion,
                (input_id, "activity"),
                assertion.append_time,
                (input_id,),
                f"a settings event has the id {input_id}, and so has an activity of another type; both count",
            )
            yield from self._derived(conflict, produced_at)

    def _flapping(self, assertion: Assertion, produced_at: int) -> Iterator[Alert]:
        """Say that the settings are changed more often than anybody means to; counted in doublings."""
        hour = assertion.ends // HOUR * HOUR
        count = self.timeline.count_exact(hour, hour + HOUR - 1)
        if count <= FLAPPING:
            return
        least = FLAPPING
        while least * 2 < count:
            least *= 2
        since = times.text_of(hour)
        alert = self._alert(
            "flapping",
            (since,),
            self._told_at(assertion.append_time, "flapping", since),
            occurred_at=hour,
            actor=assertion.actor,
            feed_id=assertion.feed_id,
            evidence=(),
            summary=f"{self.name}: more than {least:,} changes of the settings in the hour from {since}",
        )
        known = self.alerts.get(alert.alert_id)
        if known is None or known.summary != alert.summary:
            yield self._record(alert, produced_at)

    def _conflict(
        self, about: Assertion, identity: tuple[str, ...], detected_at: int, evidence: tuple[str, ...], sentence: str
    ) -> Alert:
        return self._alert(
            "conflicting_record",
            identity,
            detected_at,
            occurred_at=about.ends if about.exact else None,
            actor=about.actor,
            feed_id=about.feed_id,
            evidence=evidence,
            summary=f"{self.name}: {sentence}",
        )

    def _disabled(self, off: Assertion, gap: Gap) -> Alert:
        flags = ((off.api, "the Compliance API"), (off.logging, "the recording of activities"))
        what = " and ".join(name for value, name in flags if value is False)
        how = _how(off, "off")
        opened_at = off.ends if off.exact else None
        allowed = verdict(self.policies, off.actor, off.ends)
        planned = change_window_for(self.policies, opened_at, opened_at, off.actor) if allowed == LISTED else None
        # Found off first, and explained by an event later, it is one incident, and one page.
        identity: tuple[str, ...] = ("incident", gap.incident_id)
        if off.kind in EVENTS and (
            off.input_id != gap.opened_by_id or self._alert_id("logging_disabled", *identity) not in self.alerts
        ):
            identity = off.key
        return self._alert(
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
            summary=f"{self.name}: {what} {how} "
            f"{'at' if off.exact else 'by'} {times.text_of(off.ends)}; {_authority(allowed, planned)}{_state_of(gap)}"
            f"{self._members_in(gap)}",
        )

    def _about(
        self,
        kind: str,
        gap: Gap,
        sentence: str,
        *,
        identity: tuple[str, ...] = (),
        severity: Severity | None = None,
        detected_at: int | None = None,
    ) -> Alert:
        """Write the alert of a kind about a gap."""
        return self._alert(
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
            summary=f"{self.name}: {sentence}{self._members_in(gap)}",
        )

    def _suspicious(self, gap: Gap, window: Window | None) -> Alert:
        """Say that the feed may be off, or was, and nobody knows."""
        results = sorted({off.result for off in window.offs if off.result}) if window is not None else []
        what = "calls of its own are missing in the feed" if gap.cause == "CANARY_MISSING" else "the feed is not seen"
        verdict = {
            "OPEN": "whether anything is recorded is not known",
            "CLOSED": f"seen again, but not proven to have been recorded throughout; {_state_of(gap)}",
            "SUPERSEDED": "explained by what is known to have been off",
            "RETRACTED": "recording is proven throughout",
        }[gap.state]
        lost = not LOST.isdisjoint(results)
        since = times.text_of(gap.opened_at) if gap.opened_at is not None else "an unknown time"
        how = f" ({', '.join(results)})" if results else ""
        return self._about(
            "feed_suspected_off",
            gap,
            f"{what} since {since}{how}; {verdict}",
            severity=Severity.CRITICAL if lost else None,
        )

    def _gone(self, kind: str, gap: Gap) -> Alert:
        """Say why a gap does not stand any more."""
        if kind == "gap_withdrawn":
            why = "is withdrawn: recording is proven throughout"
        elif gap.superseded_by is not None:
            why = f"is replaced by gap {gap.superseded_by}, which knows more of the same incident"
        else:
            why = "is explained by what was learned later, and no gap holds its opening any more"
        return self._about(kind, gap, f"gap {gap.gap_id} {why}")

    def _restored(self, closing: Assertion, gap: Gap) -> Alert:
        ids = (gap.opened_by_id, gap.closed_by_id, gap.last_activity_id, gap.first_activity_id)
        return self._alert(
            "logging_restored",
            (gap.gap_id,),
            closing.append_time,
            occurred_at=closing.ends,
            actor=closing.actor,
            feed_id=closing.feed_id,
            evidence=tuple(each for each in ids if each),
            gap=gap,
            resolved=True,
            summary=f"{self.name}: the feed is back, {_how(closing, 'on')}; {_state_of(gap)}; {_bracket_of(gap)}"
            f"{self._members_in(gap)}",
        )

    def _members_in(self, gap: Gap) -> str:
        """Name the members that inherit a gap, as the last clause of a sentence."""
        names = inheritance.concerned(gap, self.members)
        if not names:
            return ""
        rest = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
        return f"; so for {len(names):,} organization{'s'[: len(names) > 1]}: {', '.join(names[:MOST_NAMED])}{rest}"

    @property
    def name(self) -> str:
        """The subject in a sentence."""
        return name_of(self.subject)

    def _alert_id(self, kind: str, *identity: str) -> str:
        return identifier("alert", kind, self.subject, *identity)

    def _alert(  # noqa: PLR0913 - they are the fields of an alert
        self,
        kind: str,
        identity: tuple[str, ...],
        detected_at: int,
        *,
        occurred_at: int | None,
        actor: Actor,
        feed_id: str | None,
        evidence: tuple[str, ...],
        summary: str,
        gap: Gap | None = None,
        resolved: bool = False,
        severity: Severity | None = None,
    ) -> Alert:
        """Write an alert with the stamps of its latest revision, if it has one: unchanged, the two are equal."""
        row = KINDS[kind]
        alert_id = self._alert_id(kind, *identity)
        before = self.alerts.get(alert_id)
        happened = gap.opened_at_latest if gap is not None and occurred_at is None else occurred_at
        late = gap is not None and happened is not None and detected_at - happened > HISTORICAL_AFTER
        return Alert(
            alert_id=alert_id,
            revision=before.revision if before else 0,
            status="RESOLVED" if resolved else "FIRING",
            kind=kind,
            severity=row.severity if severity is None else severity,
            gap_id=gap.gap_id if gap else None,
            incident_id=gap.incident_id if gap else None,
            organization_id=self.organization_id,
            feed_id=feed_id or self._own_feed,
            parent_id=parent_of(self.subject),
            occurred_at=occurred_at,
            detected_at=detected_at,
            produced_at=before.produced_at if before else 0,
            # What was current when first computed stays so: it was paged for.
            historical=before.historical if before else late,
            actor_type=actor.type,
            actor_id=actor.id,
            actor_email=actor.email,
            actor_ip=actor.ip,
            actor_user_agent=actor.user_agent,
            evidence=evidence,
            summary=summary,
            triage=row.triage,
            attack_ids=row.attack_ids,
            dedup_key=f"{kind}:{gap.incident_id if gap else self.subject}",
        )

    def derive(  # noqa: PLR0913 - they are the fields of an alert
        self,
        kind: str,
        identity: tuple[str, ...],
        produced_at: int,
        *,
        gap: Gap,
        detected_at: int,
        occurred_at: int | None,
        actor: Actor,
        evidence: tuple[str, ...],
        sentence: str,
        severity: Severity | None = None,
        resolved: bool = False,
    ) -> list[Emission]:
        """Publish an alert about a gap that follows from more than the gap, if it is new or says something else.

        `severity` is given where it is not that of its kind. Raises KeyError for a kind that is not in the table.
        """
        alert = self._alert(
            kind,
            identity,
            detected_at,
            occurred_at=occurred_at,
            actor=actor,
            feed_id=gap.feed_id,
            evidence=evidence,
            gap=gap,
            resolved=resolved,
            summary=f"{self.name}: {sentence}",
        )
        return list(self._derived(alert if severity is None else replace(alert, severity=severity), produced_at))

    def withdraw(self, kind: str, identity: tuple[str, ...], produced_at: int) -> list[Emission]:
        """Take back an alert that `derive` published, where it stands."""
        standing = self.standing(kind, identity)
        return [] if standing is None else [self._record(replace(standing, status="WITHDRAWN"), produced_at)]

    def standing(self, kind: str, identity: tuple[str, ...]) -> Alert | None:
        """Find the latest revision of an alert; None where it was never published, or was taken back."""
        alert = self.alerts.get(self._alert_id(kind, *identity))
        return None if alert is None or alert.status == "WITHDRAWN" else alert

    def _derived(self, alert: Alert, produced_at: int) -> Iterator[Alert]:
        """Publish an alert if it is new or says something else than before."""
        if alert != self.alerts.get(alert.alert_id):
            yield self._record(alert, produced_at)

    def _told_at(self, now: int, kind: str, *identity: str) -> int:
        """Give when an alert was first raised: now, if it was not yet."""
        before = self.alerts.get(self._alert_id(kind, *identity))
        return now if before is None else before.detected_at

    def _resolved(self, alert_id: str, produced_at: int) -> Iterator[Alert]:
        """Say that what an alert told is over, if it was told."""
        standing = self.alerts.get(alert_id)
        if standing is not None and standing.status == "FIRING":
            yield self._record(replace(standing, status="RESOLVED"), produced_at)

    def _record(self, alert: Alert, produced_at: int) -> Alert:
        """Number the revision of an alert, `alert.revision` being the one before it."""
        alert = replace(alert, revision=alert.revision + 1, produced_at=produced_at)
        self.alerts[alert.alert_id] = alert
        self.touched.add(("l", alert.alert_id))
        return alert

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        for letter, track in (("a", self.known), ("b", self.suspected)):
            if track.touched:
                for name, value in track.changes():
                    yield letter + name, value
        for kind, name in sorted(self.touched):
            yield f"{kind}{name}", _compact(self._shape(kind, name)).encode()
        self.touched.clear()
        for month, runs in self.recent.months():
            yield f"p{month}", _compact(runs).encode()
        # Chunks that came and went between two calls are past keeping.
        for number in range(max(self.saved_chunk, self.recent.oldest), self.recent.number + 1):
            yield f"r{number % CHUNKS}", self.recent.dump(number)
        self.saved_chunk = self.recent.number

    def _shape(self, kind: str, name: str) -> dict[str, Any]:
        match kind:
            case "i":
                return self.inherited[name].shape
            case "g":
                bracket = self.brackets.get(name)
                gap = self.gaps.get(name)
                return {
                    "gap": None if gap is None else as_dict(gap),
                    "bracket": None if bracket is None else _texts(bracket),
                }
            case "l":
                # What the table of kinds says need not be said again in every organization's state.
                shape = as_dict(self.alerts[name])
                return {each: value for each, value in shape.items() if each not in _OF_KIND}
            case "s" if self.status is not None:
                return as_dict(self.status)
            case "w":
                return {name: getattr(self.watched, name) for name in _WATCHED_FIELDS}
            case _:
                return {"sequence": self.sequence, "previous_digest": self.previous_digest}

    @classmethod
    def restore(cls, subject: str, records: Mapping[str, bytes], policies: tuple[Policy, ...] = ()) -> "Ledger":
        """Undo `changes`: `records` holds the latest value of each key. Raises ValueError for an unknown one."""
        ledger = cls(subject)
        ledger.policies = policies
        ledger.recent = Recent.restore(value for key, value in records.items() if key[0] == "r")
        ledger.saved_chunk = ledger.recent.number
        ledger.known = Track.restore(KNOWN, [value for key, value in records.items() if key[0] == "a"])
        ledger.suspected = Track.restore(WATCHED, [value for key, value in records.items() if key[0] == "b"])
        for key, value in records.items():
            if key[0] not in "abr":
                ledger._restore_one(key, json.loads(value))
        ledger.recent.runs.runs.sort()
        ledger._restore_heirs()
        ledger.windows = dict(ledger._standing())
        for gap_id, window in ledger.windows.items():
            published = ledger.gaps.get(gap_id)
            # An activity may have changed the bracket after the last revision was published.
            if ledger._draft(gap_id, window, published) != published:
                ledger.stale.add(gap_id)
        ledger._set_watermark()
        return ledger

    def _restore_heirs(self) -> None:
        for source, told in self.inherited.items():
            own = told.windows(self.subject)
            self.windows |= own
            self.heirs |= dict.fromkeys(own, source)

    def _restore_one(self, key: str, shape: Any) -> None:
        match key[0]:
            case "g":
                gap_id = key[1:]
                if shape["gap"] is not None:
                    gap = self.gaps[gap_id] = gap_from_dict(shape["gap"])
                    if gap.state == "OPEN":
                        self.open.add(gap_id)
                if shape["bracket"] is not None:
                    self.brackets[gap_id] = _bracket(shape["bracket"])
            case "l":
                row = KINDS[shape["kind"]]
                alert = alert_from_dict({**shape, **{each: getattr(row, each) for each in _OF_KIND}})
                self.alerts[alert.alert_id] = alert
            case "p":
                self.recent.runs.runs += [(first, last) for first, last in shape]
            case "h":
                self.sequence, self.previous_digest = shape["sequence"], shape["previous_digest"]
            case "w":
                delayed = shape.pop("delayed")
                self.watched = Watched(**shape, delayed=delayed and (delayed[0], delayed[1]))
            case "i":
                self.inherited[key[1:]] = Inherited.read(shape)
            case "s":
                self.status = Status(**shape)
            case other:
                raise ValueError(f"a state record of kind {other!r} was written by a newer version")


def _next(since: int, clock: int, rules: Rules) -> int:
    """Give the next step of escalation after a clock."""
    passed = rules.step_passed((clock - since) / times.SECOND)
    later = [step for step in rules.gap_still_open_seconds if step > (passed or 0)]
    return since + (later[0] if later else (passed or 0) + DAY_SECONDS) * times.SECOND


def _rising(step: int | None, rules: Rules) -> Severity:
    """Give how bad a step of escalation is: it rises with the first three."""
    passed = 0 if step is None else sum(each <= step for each in rules.gap_still_open_seconds)
    return (Severity.MEDIUM, Severity.MEDIUM, Severity.HIGH)[passed] if passed < 3 else Severity.CRITICAL


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


def _is_near(window: Window, moment: int) -> bool:
    """Whether a proof of recording at that time may say something about a suspicion."""
    begin = window.opened_at_latest if window.opened_at is None else window.opened_at
    return begin - PROOF_LIMIT <= moment <= _end(window) + PROOF_LIMIT


def _start(window: Window) -> int:
    return window.opened_at_latest


def _end(window: Window) -> int:
    return sys.maxsize if window.closed_at is None else window.closed_at


def _facts_of(gap: Gap) -> tuple[str | int | None, ...]:
    """What the alert of an "off" says of its gap, and can change; the incident does only where the state does."""
    return gap.state, gap.opened_at, gap.opened_at_latest, gap.closed_at


def _texts(bracket: Bracket) -> dict[str, Any]:
    return {
        name: text_of(value) if isinstance(value, bytes) else value
        for name in _BRACKET_FIELDS
        for value in (getattr(bracket, name),)
    }


def _bracket(texts: Mapping[str, Any]) -> Bracket:
    entries: dict[str, Any] = {
        name: entry_of_text(value) if isinstance(value, str) else value for name, value in texts.items()
    }
    return Bracket(**entries)


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


def _state_of(gap: Gap) -> str:
    opened = times.text_of(gap.opened_at) if gap.opened_at is not None else "an unknown time"
    if gap.closed_at is None:
        return f"not audited since {opened}"
    length = "" if gap.duration_seconds is None else f" ({gap.duration_seconds:,.0f} s)"
    return f"not audited from {opened} to {times.text_of(gap.closed_at)}{length}"


def _bracket_of(gap: Gap) -> str:
    unknown = "none known yet" if gap.bracket_exact else "no longer known"
    return f"last id before: {gap.last_activity_id or unknown}, first id after: {gap.first_activity_id or unknown}"
