"""What is known about one subject (an organization, or a feed), and what each input makes of it.

Every input gives the records that have to be published because of it; nothing here knows where they go. A repeat
gives nothing. Late input re-folds: what changed comes out as a new revision, and nothing disappears without one.
"""

import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from itertools import islice
from typing import Any, Final

from auditgap.core import escalation, fold, gap_alerts, inheritance, times
from auditgap.core.alertbook import AlertBook
from auditgap.core.alerts import KINDS
from auditgap.core.brackets import Bracket, bracket_of_texts, end, look_around, start, texts_of
from auditgap.core.coverage import Span, spans
from auditgap.core.escalation import SILENT, Watched
from auditgap.core.fold import EVENTS, Assertion, Timeline, Window
from auditgap.core.inheritance import Inherited
from auditgap.core.inputs import (
    NOBODY,
    OPERATOR,
    SETTINGS_TYPE,
    Activity,
    Actor,
    Rejection,
    admit,
    feed_of,
    organization_of,
    parent_of,
)
from auditgap.core.observations import Observation
from auditgap.core.policy import (
    ChangeWindow,
    Policy,
    Rules,
    change_window_for,
    difference,
    is_watcher_key,
    rules_at,
)
from auditgap.core.recent import ALL, CHUNKS, NONE, PROOF_LIMIT, Recent, id_of, start_of, time_of
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
from auditgap.core.rendering import gap_of
from auditgap.core.status import YES, Facts, is_news
from auditgap.core.status import verdict as status_verdict
from auditgap.core.topology import Stretch
from auditgap.core.track import CONFIRMED, KNOWN, SUSPECTED, WATCHED, Change, Track, entry_of_text, resolved, text_of

UNREADABLE_KEPT: Final = 100
"""How many settings events that nobody understands are remembered: the latest."""

ACCESSES: Final = 1000
"""Access Transparency records that are remembered: there are few."""

FLAPPING: Final = 50
"""Changes of the settings within an hour of the clock that are no longer anybody's intention."""

HOUR: Final = 3600 * times.SECOND

ALERT_OF_REASON: Final = {
    "settings_unreadable": "settings_change_unreadable",
    "time_in_future": "clock_anomaly",
    "quarantined": "record_quarantined",
}
"""Which refusals are alerts besides being dead letters."""

_compact = json.JSONEncoder(separators=(",", ":")).encode
_OF_KIND: Final = ("triage", "attack_ids")
"""Fields of an alert that its kind decides."""

_WATCHED_FIELDS: Final = tuple(field.name for field in fields(Watched))


class Ledger:
    """One subject's state. All times, given and returned, are microseconds.

    `watermark` is for the worker's fast path: an activity whose entry sorts above it changes no gap, and only has to
    be added to `recent`. `stale` names the gaps that may have changed since they were published, `replaced` those among
    them that lost their window, and the gap that holds their opening now.

    `known` and `suspected` hold the evidence, `windows` and `brackets` the windows that stand now, `gaps` and `book`
    the latest revision of every gap and alert that was ever published. Persisting (`changes`, `restore`) is by small
    records under keys of their own.

    `members` are those of a parent or feed, and when; `news` names its gaps of which they are to be told. `inherited`
    is what a member was told, by the gap it is about; `heirs` are the standing gaps that it made of it, among
    `windows` too.
    """

    __slots__ = (
        "accesses",
        "book",
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
        self.accesses: list[bytes] = []
        self.recent = Recent()
        self.watermark = NONE
        self.known = Track(KNOWN)
        self.suspected = Track(WATCHED)
        self.policies: tuple[Policy, ...] = ()
        self.windows: dict[str, Window] = {}
        self.brackets: dict[str, Bracket] = {}
        self.gaps: dict[str, Gap] = {}
        self.book = AlertBook(subject)
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
    def alerts(self) -> dict[str, Alert]:
        """The latest revision of each alert that was ever published, by id."""
        return self.book.alerts

    # --- inputs -----------------------------------------------------------------------------------------------------

    def activity(self, entry: bytes) -> None:
        """Take in one ordinary activity, as `recent.entry_of` writes it; `settle` publishes what it changes."""
        if entry <= self.watermark:
            self._improve(entry)
        self.recent.add(entry)

    def access(self, entry: bytes) -> None:
        """Take in one Access Transparency record, by when the access was; `settle` publishes what it changes."""
        position = bisect_left(self.accesses, entry)
        if self.accesses[position : position + 1] == [entry]:
            return
        self.accesses.insert(position, entry)
        del self.accesses[:-ACCESSES]
        self.touched.add(("t", ""))
        # Also those that end before: a suspicion is shown as open for longer.
        later = {gap_id for gap_id, window in self.windows.items() if start_of(window.opened_at_latest) < entry}
        self.stale |= later

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
                yield from self.book.resolve(watched.stalled, produced_at)
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
            alert = escalation.delayed(self.book, first, append_time, seen.feed_id, over=over)
            yield from self.book.tell(alert, produced_at)

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
        made = self.book.write(
            kind,
            (identity,),
            append_time,
            occurred_at=occurred_at,
            actor=activity.actor if activity else NOBODY,
            feed_id=activity.feed_id if activity else None,
            evidence=(record_id or identity,),
            summary=f"{self.book.name}: {sentence}",
        )
        return [*self.book.tell_once(made, produced_at)]

    def govern(self, policies: tuple[Policy, ...]) -> None:
        """Take these versions of the policy for all verdicts; `settle` publishes what they change."""
        self.policies = policies
        self.stale |= self.windows.keys()

    def policy_changed(self, version: Policy, before: Policy | None, produced_at: int) -> list[Emission]:
        """Say what a version of the policy changed; it is critical while a gap is open."""
        alert = self.book.write(
            "policy_changed",
            (version.organization_id or "", str(version.version), version.digest),
            version.append_time,
            occurred_at=None,
            actor=Actor(type="policy_author", id=version.author),
            feed_id=None,
            evidence=(version.digest,),
            severity=Severity.CRITICAL if self.open else None,
            summary=f"{self.book.name}: version {version.version} of the "
            f"{'defaults' if version.organization_id is None else 'policy'} by {version.author}: "
            f"{'; '.join(difference(before, version))}{' (a gap is open)' if self.open else ''}",
        )
        return [*self.book.tell_once(alert, produced_at)]

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
                out += gap_alerts.overrun(self.book, self._known, gap, self.windows[gap.gap_id], produced_at)
        return out + self._told_status(rules, produced_at)

    def due(self) -> int | None:
        """Give when the next tick matters, None where nothing waits for time."""
        rules = rules_at(self.policies, self.clock)
        waits = [self._opened(self.gaps[gap_id]) for gap_id in self._paged()]
        if self.watched.seen_at:
            waits.append(self.watched.seen_at + (0 if self.watched.stalled else SILENT))
        moments = [escalation.next_step(since, self.clock, rules) for since in waits]
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
        yield from self.book.tell(escalation.still_open(self.book, self._known, gap, step, rules), produced_at)

    def _stalled(self, rules: Rules, produced_at: int) -> Iterator[Alert]:
        """Say that nothing was heard of the collector for too long."""
        seen_at = self.watched.seen_at
        if not seen_at or self.clock < seen_at + SILENT:
            return
        alert = escalation.stalled(self.book, seen_at, self.clock, rules)
        self.watched.stalled = alert.alert_id
        self.touched.add(("w", ""))
        yield from self.book.tell(alert, produced_at)

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
            feed_id=feed_of(self.subject),
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
        if before is not None and not is_news(before, new):
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
        return [alert for gap in standing for alert in self._quoting(None, gap, None, produced_at)]

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
            if was is None or (start(was), end(was)) != (start(window), end(window)):
                self.brackets[gap_id] = look_around(window, entries, self.recent.floor, around)
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
            self.brackets |= {
                gap_id: look_around(window, entries, self.recent.floor, told) for gap_id, window in moved.items()
            }
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
        opening_later, ended = bisect_left(windows, moment, key=start), bisect_right(windows, moment, key=end)
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
            before, after = moment <= start(window), moment >= end(window)
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
        alerts = [alert for published, gap in gaps for alert in self._quoting(published, gap, also, produced_at)]
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
        state, holder = self._judge(window)
        gap = gap_of(
            self.subject,
            gap_id,
            self._incident(gap_id, published),
            window,
            self.brackets[gap_id],
            self.accesses,
            (state, None if holder is None else self._gap_id(holder)),
            self.policies,
            published,
        )
        source = self.heirs.get(gap_id)
        return gap if source is None else self.inherited[source].onto(gap, window)

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

    @property
    def _known(self) -> gap_alerts.Known:
        return gap_alerts.Known(self.policies, self.members, self.clock)

    def _quoting(self, before: Gap | None, gap: Gap, also: Assertion | None, produced_at: int) -> Iterator[Alert]:
        """Publish the alerts that quote a gap."""
        window, bracket = self.windows.get(gap.gap_id), self.brackets.get(gap.gap_id)
        return gap_alerts.of_gap(self.book, self._known, before, gap, window, bracket, also, produced_at)

    def _alerts_of_assertion(self, assertion: Assertion, produced_at: int) -> Iterator[Alert]:
        """Publish the alerts that follow from one assertion, whether it moved a window or not."""
        window = self.timeline.window_of(assertion) if assertion.says_off else None
        if window is not None and is_watcher_key(self.policies, assertion.actor, assertion.ends):
            by_watcher = self.book.write(
                "disabled_by_watcher_key",
                assertion.key,
                assertion.append_time,
                occurred_at=assertion.ends if assertion.exact else None,
                actor=assertion.actor,
                feed_id=assertion.feed_id,
                evidence=(assertion.input_id,),
                gap=self.gaps[self._gap_id(window)],
                summary=f"{self.book.name}: the key that watches the feed was used to switch it off",
            )
            yield from self.book.tell(by_watcher, produced_at)
        if window is not None:
            gap_id = self._gap_id(window)
            yield from self.book.tell(
                gap_alerts.disabled(self.book, self._known, assertion, self.gaps[gap_id]), produced_at
            )
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
            yield from self.book.tell(conflict, produced_at)
        if self.recent.has_id(input_id):
            conflict = self._conflict(
                assertion,
                (input_id, "activity"),
                assertion.append_time,
                (input_id,),
                f"a settings event has the id {input_id}, and so has an activity of another type; both count",
            )
            yield from self.book.tell(conflict, produced_at)

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
        alert = self.book.write(
            "flapping",
            (since,),
            self.book.told_at(assertion.append_time, "flapping", since),
            occurred_at=hour,
            actor=assertion.actor,
            feed_id=assertion.feed_id,
            evidence=(),
            summary=f"{self.book.name}: more than {least:,} changes of the settings in the hour from {since}",
        )
        known = self.alerts.get(alert.alert_id)
        if known is None or known.summary != alert.summary:
            yield self.book.record(alert, produced_at)

    def _conflict(
        self, about: Assertion, identity: tuple[str, ...], detected_at: int, evidence: tuple[str, ...], sentence: str
    ) -> Alert:
        return self.book.write(
            "conflicting_record",
            identity,
            detected_at,
            occurred_at=about.ends if about.exact else None,
            actor=about.actor,
            feed_id=about.feed_id,
            evidence=evidence,
            summary=f"{self.book.name}: {sentence}",
        )

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        for letter, track in (("a", self.known), ("b", self.suspected)):
            if track.touched:
                for name, value in track.changes():
                    yield letter + name, value
        alerts = {("l", alert_id) for alert_id in self.book.touched}
        for kind, name in sorted(self.touched | alerts):
            yield f"{kind}{name}", _compact(self._shape(kind, name)).encode()
        self.touched.clear()
        self.book.touched.clear()
        for month, runs in self.recent.months():
            yield f"p{month}", _compact(runs).encode()
        # Chunks that came and went between two calls are past keeping.
        for number in range(max(self.saved_chunk, self.recent.oldest), self.recent.number + 1):
            yield f"r{number % CHUNKS}", self.recent.dump(number)
        self.saved_chunk = self.recent.number

    def _shape(self, kind: str, name: str) -> dict[str, Any] | list[str]:
        match kind:
            case "i":
                return self.inherited[name].shape
            case "g":
                bracket = self.brackets.get(name)
                gap = self.gaps.get(name)
                return {
                    "gap": None if gap is None else as_dict(gap),
                    "bracket": None if bracket is None else texts_of(bracket),
                }
            case "l":
                # What the table of kinds says need not be said again in every organization's state.
                shape = as_dict(self.alerts[name])
                return {each: value for each, value in shape.items() if each not in _OF_KIND}
            case "s" if self.status is not None:
                return as_dict(self.status)
            case "t":
                return [text_of(each) for each in self.accesses]
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
                    self.brackets[gap_id] = bracket_of_texts(shape["bracket"])
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
            case "t":
                self.accesses = [entry_of_text(each) for each in shape]
            case "i":
                self.inherited[key[1:]] = Inherited.read(shape)
            case "s":
                self.status = Status(**shape)
            case other:
                raise ValueError(f"a state record of kind {other!r} was written by a newer version")


def _is_near(window: Window, moment: int) -> bool:
    """Whether a proof of recording at that time may say something about a suspicion."""
    begin = window.opened_at_latest if window.opened_at is None else window.opened_at
    return begin - PROOF_LIMIT <= moment <= end(window) + PROOF_LIMIT
