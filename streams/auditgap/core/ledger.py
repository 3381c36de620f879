"""What is known about one subject (an organization, or a feed), and what each input makes of it.

Every input gives the records that have to be published because of it; nothing here knows where they go. A repeat
gives nothing. Late input re-folds: what changed comes out as a new revision, and nothing disappears without one.
"""

import json
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Final, NamedTuple

from auditgap.core import fold, inheritance, times
from auditgap.core.alerts import KINDS
from auditgap.core.coverage import Span, spans
from auditgap.core.fold import EVENTS, Assertion, Timeline, Window
from auditgap.core.inheritance import Inherited
from auditgap.core.inputs import (
    DEFAULT_FEED,
    FEED_SUBJECT_PREFIX,
    NOBODY,
    SETTINGS_TYPE,
    Activity,
    Actor,
    Rejection,
    admit,
    organization_of,
    parent_of,
)
from auditgap.core.observations import Observation
from auditgap.core.policy import (
    LISTED,
    NOT_LISTED,
    ChangeWindow,
    Policy,
    change_window_for,
    in_force,
    is_watcher_key,
    verdict,
)
from auditgap.core.recent import ALL, CHUNKS, NONE, Recent, Runs, end_of, id_of, start_of, time_of
from auditgap.core.records import (
    Alert,
    Emission,
    Gap,
    Severity,
    alert_from_dict,
    as_dict,
    digest,
    gap_from_dict,
    identifier,
)
from auditgap.core.topology import Stretch

HISTORICAL_AFTER: Final = 7 * 24 * 3600 * times.SECOND
"""An "off" or "on" heard of later than this is history being imported, nothing to page for: outages are shorter.

Age alone decides. A window that is already closed when it is first heard of is news all the same: while the API is
off the "off" itself may be readable only after it is on again, and which of the two is read first is chance.
"""

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


class Around(NamedTuple):
    """The last activity that was surely recorded before an "off" that is not exact, and the first surely after it."""

    before: bytes | None = None
    after: bytes | None = None


NOTHING_AROUND: Final = Around()

_compact = json.JSONEncoder(separators=(",", ":")).encode
_ASSERTION_FIELDS: Final = tuple(field.name for field in fields(Assertion) if field.init)
_ACTOR_FIELDS: Final = tuple(field.name for field in fields(Actor))
_BRACKET_FIELDS: Final = tuple(field.name for field in fields(Bracket))
_OF_KIND: Final = ("triage", "attack_ids")
"""Fields of an alert that its kind decides."""


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
        "around",
        "assertions",
        "brackets",
        "gaps",
        "heirs",
        "inherited",
        "members",
        "news",
        "policies",
        "previous_digest",
        "proofs",
        "recent",
        "replaced",
        "saved_chunk",
        "sequence",
        "stale",
        "subject",
        "timeline",
        "touched",
        "watermark",
        "windows",
    )

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.recent = Recent()
        self.watermark = NONE
        self.assertions: dict[str, dict[str, Assertion]] = {}
        self.policies: tuple[Policy, ...] = ()
        self.timeline = Timeline()
        self.around: dict[tuple[str, str], Around] = {}
        self.proofs: dict[bytes, Assertion] = {}
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
        self.sequence = 0
        self.previous_digest: str | None = None
        self.touched: set[tuple[str, str]] = set()
        self.saved_chunk = 0

    @property
    def organization_id(self) -> str | None:
        """The organization, None where the subject is a feed or a parent."""
        return organization_of(self.subject)

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

    def settings_event(self, activity: Activity, append_time: int, produced_at: int) -> list[Emission] | None:
        """Take in a readable settings event; None if it is a repeat."""
        return self._assert(fold.of_settings_event(activity, append_time), produced_at)

    def observation(self, seen: Observation, append_time: int, produced_at: int) -> list[Emission] | None:
        """Take in what a collector saw; None if it is a repeat."""
        assertion = fold.of_observation(seen, append_time)
        return [] if assertion is None else self._assert(assertion, produced_at)

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
        if rejection.reason == "time_in_future" and settings is not None:
            assertion = fold.of_misdated_settings_event(settings, append_time)
            if assertion is not None:
                out += self._assert(assertion, produced_at) or []
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

    def coverage(self, until: int) -> list[Span]:
        """Say what is known of every instant up to `until`."""
        return spans(self.timeline, self.recent.proofs(), until, [self.windows[gap_id] for gap_id in self.heirs])

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

    def _assert(self, assertion: Assertion, produced_at: int) -> list[Emission] | None:
        copies = self.assertions.setdefault(assertion.input_id, {})
        content = assertion.key[1]
        known = copies.get(content)
        # Of several copies the first one appended counts, so that the order in which they are read does not.
        if known is not None and _first_seen(known) <= _first_seen(assertion):
            return None
        copies[content] = assertion
        self.touched.add(("a", chr(0).join(assertion.key)))
        if known is None and self.timeline.is_idle(assertion):
            self.timeline.append(assertion)
            self._thin(assertion)
            return []
        new: list[Assertion] = [assertion]
        old = [] if known is None else [known]
        if assertion.says_off and assertion.kind not in EVENTS:
            entries = self.recent.entries()
            self.around[assertion.key] = _around(assertion, entries, self.recent.floor)
            proofs = self._proofs()
            new += [proof for key, proof in proofs.items() if key not in self.proofs]
            self.proofs = proofs
        self._refold(new, old)
        self._thin(assertion)
        return self._publish(produced_at, also=assertion if assertion.kind in EVENTS else None)

    def _proofs(self) -> dict[bytes, Assertion]:
        """Assert the activities that matter to the bounds of windows: around each "off" that is not exact."""
        entries = {entry for around in self.around.values() for entry in around if entry is not None}
        return {entry: fold.of_recording(id_of(entry), time_of(entry)) for entry in entries}

    def _thin(self, near: Assertion) -> None:
        """Keep first and last of equal observations, beyond the newest ones."""
        for gone in self.timeline.thin(near):
            copies = self.assertions[gone.input_id]
            del copies[gone.key[1]]
            if not copies:
                del self.assertions[gone.input_id]
            self.around.pop(gone.key, None)
            self.touched.add(("a", chr(0).join(gone.key)))

    def _refold(self, new: Iterable[Assertion], old: Iterable[Assertion]) -> None:
        """Fold assertions in, carry over what is known of each bracket, and mark the gaps that may have changed."""
        gone, came = self.timeline.put(new, old)
        before = {self._gap_id(window): window for window in gone}
        after = {self._gap_id(window): window for window in came}
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
            holding = self.timeline.holder_of(before[gap_id])
            holder = None if holding is None else self._gap_id(holding)
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
        if self.around:
            self._prove(entry, moment)
        windows = self.timeline.windows
        for gap_id in self.heirs:
            self._around_or_inside(self.windows[gap_id], entry, moment)
        if self.timeline.vague:
            for window in windows:
                self._around_or_inside(window, entry, moment)
            return
        opening_later, ended = bisect_left(windows, moment, key=_start), bisect_right(windows, moment, key=_end)
        for window in islice(windows, opening_later, None):
            if not self._before(window, entry):
                break
        for index in range(ended - 1, -1, -1):
            if not self._after(windows[index], entry):
                break
        if ended < opening_later:
            self._inside(windows[ended], entry)

    def _around_or_inside(self, window: Window, entry: bytes, moment: int) -> None:
        """Take an activity into the bracket of a window, wherever it lies."""
        before, after = moment <= _start(window), moment >= _end(window)
        if before:
            self._before(window, entry)
        if after:
            self._after(window, entry)
        if not before and not after:
            self._inside(window, entry)

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

    def _prove(self, entry: bytes, moment: int) -> None:
        """Let an activity narrow the bounds of the windows that are not exact, or close one."""
        changed = False
        for key, around in self.around.items():
            off = self.assertions[key[0]][key[1]]
            if moment < off.begins:
                closer = around.before is None or entry > around.before
            elif moment >= off.ends + fold.SETTLE:
                closer = around.after is None or entry < around.after
            else:
                continue
            if closer:
                self.around[key] = around._replace(**{"before" if moment < off.begins else "after": entry})
                self.touched.add(("a", chr(0).join(key)))
                changed = True
        if changed:
            before, self.proofs = self.proofs, self._proofs()
            self._refold(
                [proof for each, proof in self.proofs.items() if each not in before],
                [proof for each, proof in before.items() if each not in self.proofs],
            )

    def _set_watermark(self) -> None:
        """Above which entry nothing can change: the first activity after the latest window, once it is known."""
        self.watermark = NONE
        if any(around.after is None for around in self.around.values()):
            self.watermark = ALL
            return
        for gap_id in self.heirs:
            window, bracket = self.windows[gap_id], self.brackets[gap_id]
            if window.closed_at is None or (bracket.first is None and bracket.first_exact):
                self.watermark = ALL
                return
            self.watermark = max(self.watermark, bracket.first or start_of(window.closed_at))
        for window in reversed(self.timeline.windows):
            bracket = self.brackets[self._gap_id(window)]
            if window.closed_at is None or (bracket.first is None and bracket.first_exact):
                self.watermark = ALL
                return
            self.watermark = max(self.watermark, bracket.first or start_of(window.closed_at))
            if bracket.first is not None and not self.timeline.vague:
                # Those of earlier windows are no later.
                return
        self.watermark = max([self.watermark, *(around.after for around in self.around.values() if around.after)])

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
            if draft != published:
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
            state="OPEN" if closing is None else "CLOSED",
            confidence="CONFIRMED",
            cause=window.cause,
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

    def _incident(self, gap_id: str, published: Gap | None) -> str:
        """The incident goes on when a gap takes another's place; else it begins. No two standing gaps share one."""
        if published is None:
            replaced = [self.gaps[old] for old, new in self.replaced.items() if new == gap_id]
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
        if window is not None and (before is None or _facts_of(before) != _facts_of(gap)):
            for off in window.offs:
                if off is not also and (off.kind in EVENTS or off is window.opening):
                    yield from self._derived(self._disabled(off, gap), produced_at)
        if window is not None and window.closing is not None:
            yield from self._derived(self._restored(window.closing, gap), produced_at)
        else:
            standing = self.alerts.get(self._alert_id("logging_restored", gap.gap_id))
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
        input_id = assertion.input_id
        copies = sorted(self.assertions[input_id].values(), key=lambda each: each.order)
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
        how = f"switched off by {_who(off.actor)}" if off.kind in EVENTS else f"found off ({off.kind})"
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
            softened=planned is not None,
            summary=f"{self.name}: {what} {how} "
            f"{'at' if off.exact else 'by'} {times.text_of(off.ends)}; {_authority(allowed, planned)}{_state_of(gap)}"
            f"{self._members_in(gap)}",
        )

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
            summary=f"{self.name}: the feed is back, "
            f"{f'switched on by {_who(closing.actor)}' if closing.kind in EVENTS else f'seen by {closing.kind}'}; "
            f"{_state_of(gap)}; "
            f"{_bracket_of(gap)}{self._members_in(gap)}",
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
        return f"organization {self.subject}" if self.organization_id else self.subject.replace("/", " ", 1)

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
        softened: bool = False,
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
            severity=min(row.severity, Severity.HIGH) if softened else row.severity,
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

    def _derived(self, alert: Alert, produced_at: int) -> Iterator[Alert]:
        """Publish an alert if it is new or says something else than before."""
        if alert != self.alerts.get(alert.alert_id):
            yield self._record(alert, produced_at)

    def _record(self, alert: Alert, produced_at: int) -> Alert:
        """Number the revision of an alert, `alert.revision` being the one before it."""
        alert = replace(alert, revision=alert.revision + 1, produced_at=produced_at)
        self.alerts[alert.alert_id] = alert
        self.touched.add(("l", alert.alert_id))
        return alert

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        for kind, name in sorted(self.touched):
            shape = self._shape(kind, name)
            yield f"{kind}{name}", None if shape is None else _compact(shape).encode()
        self.touched.clear()
        if self.recent.runs_changed:
            yield "p", _compact(self.recent.runs.runs).encode()
            self.recent.runs_changed = False
        # Chunks that came and went between two calls are past keeping.
        for number in range(max(self.saved_chunk, self.recent.oldest), self.recent.number + 1):
            yield f"r{number % CHUNKS}", self.recent.dump(number)
        self.saved_chunk = self.recent.number

    def _shape(self, kind: str, name: str) -> dict[str, Any] | None:
        match kind:
            case "a":
                input_id, _, content = name.rpartition(chr(0))
                assertion = self.assertions.get(input_id, {}).get(content)
                if assertion is None:
                    return None
                around = self.around.get(assertion.key, NOTHING_AROUND)
                shape = {each: getattr(assertion, each) for each in _ASSERTION_FIELDS}
                actor = {each: getattr(assertion.actor, each) for each in _ACTOR_FIELDS}
                return {**shape, "actor": actor, "around": [None if each is None else _text(each) for each in around]}
            case "i":
                return self.inherited[name].shape
            case "g":
                bracket = self.brackets.get(name)
                return {"gap": as_dict(self.gaps[name]), "bracket": None if bracket is None else _texts(bracket)}
            case "l":
                # What the table of kinds says need not be said again in every organization's state.
                shape = as_dict(self.alerts[name])
                return {each: value for each, value in shape.items() if each not in _OF_KIND}
            case _:
                return {"sequence": self.sequence, "previous_digest": self.previous_digest}

    @classmethod
    def restore(cls, subject: str, records: Mapping[str, bytes], policies: tuple[Policy, ...] = ()) -> "Ledger":
        """Undo `changes`: `records` holds the latest value of each key. Raises ValueError for an unknown one."""
        ledger = cls(subject)
        ledger.policies = policies
        ledger.recent = Recent.restore(value for key, value in records.items() if key[0] == "r")
        ledger.saved_chunk = ledger.recent.number
        assertions = []
        for key, value in records.items():
            if key[0] in "ri":
                continue
            shape = json.loads(value)
            match key[0]:
                case "a":
                    around = Around(*(None if each is None else _entry(each) for each in shape.pop("around")))
                    assertion = Assertion(**{**shape, "actor": Actor(**shape["actor"])})
                    if assertion.says_off and assertion.kind not in EVENTS:
                        ledger.around[assertion.key] = around
                    assertions.append(assertion)
                    ledger.assertions.setdefault(assertion.input_id, {})[assertion.key[1]] = assertion
                case "g":
                    gap = gap_from_dict(shape["gap"])
                    ledger.gaps[gap.gap_id] = gap
                    if shape["bracket"] is not None:
                        ledger.brackets[gap.gap_id] = _bracket(shape["bracket"])
                case "l":
                    row = KINDS[shape["kind"]]
                    alert = alert_from_dict({**shape, **{each: getattr(row, each) for each in _OF_KIND}})
                    ledger.alerts[alert.alert_id] = alert
                case "p":
                    ledger.recent.runs = Runs((first, last) for first, last in shape)
                case "h":
                    ledger.sequence, ledger.previous_digest = shape["sequence"], shape["previous_digest"]
                case other:
                    raise ValueError(f"a state record of kind {other!r} was written by a newer version")
        ledger.proofs = ledger._proofs()
        ledger.timeline = Timeline([*assertions, *ledger.proofs.values()])
        ledger.windows = {ledger._gap_id(window): window for window in ledger.timeline.windows}
        ledger._restore_heirs(value for key, value in records.items() if key[0] == "i")
        for gap_id, window in ledger.windows.items():
            published = ledger.gaps[gap_id]
            # An activity may have changed the bracket after the last revision was published.
            if ledger._draft(gap_id, window, published) != published:
                ledger.stale.add(gap_id)
        ledger._set_watermark()
        return ledger

    def _restore_heirs(self, values: Iterable[bytes]) -> None:
        for told in (Inherited.read(json.loads(value)) for value in values):
            self.inherited[told.source] = told
            own = told.windows(self.subject)
            self.windows |= own
            self.heirs |= dict.fromkeys(own, told.source)


def _around(off: Assertion, entries: list[bytes], floor: bytes) -> Around:
    """Look up what the index of activities knows around an "off" that is not exact; None where it does not reach."""
    start, end = bisect_left(entries, start_of(off.begins)), bisect_left(entries, start_of(off.ends + fold.SETTLE))
    before = entries[start - 1] if start and floor < start_of(off.begins) else None
    after = entries[end] if end < len(entries) and floor < start_of(off.ends + fold.SETTLE) else None
    return Around(before, after)


def _start(window: Window) -> int:
    return window.opened_at_latest


def _end(window: Window) -> int:
    return sys.maxsize if window.closed_at is None else window.closed_at


def _first_seen(assertion: Assertion) -> tuple[int, str]:
    return assertion.append_time, assertion.feed_id or ""


def _facts_of(gap: Gap) -> tuple[str | int | None, ...]:
    """What the alert of an "off" says of its gap, and can change; the incident does only where the state does."""
    return gap.state, gap.opened_at, gap.opened_at_latest, gap.closed_at


def _text(entry: bytes) -> str:
    return entry.decode("utf-8", "surrogatepass")


def _entry(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _texts(bracket: Bracket) -> dict[str, Any]:
    return {
        name: _text(value) if isinstance(value, bytes) else value
        for name in _BRACKET_FIELDS
        for value in (getattr(bracket, name),)
    }


def _bracket(texts: Mapping[str, Any]) -> Bracket:
    entries: dict[str, Any] = {
        name: _entry(value) if isinstance(value, str) else value for name, value in texts.items()
    }
    return Bracket(**entries)


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
