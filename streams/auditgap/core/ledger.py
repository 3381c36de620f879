"""What is known about one subject (an organization, or a feed), and what each input makes of it.

Every input gives the records that have to be published because of it; nothing here knows where they go. A repeat
gives nothing. Late input re-folds: what changed comes out as a new revision, and nothing disappears without one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from auditgap.core import fold, times
from auditgap.core.alerts import KINDS
from auditgap.core.fold import Assertion, Window
from auditgap.core.inputs import FEED_SUBJECT_PREFIX, NOBODY, SETTINGS_TYPE, Activity, Actor, Rejection
from auditgap.core.recent import CHUNKS, NONE, Recent, entry_of, id_of, time_of
from auditgap.core.records import (
    Alert,
    Emission,
    Gap,
    alert_from_dict,
    as_dict,
    digest,
    gap_from_dict,
    identifier,
)

HISTORICAL_AFTER: Final = 7 * 24 * 3600 * times.SECOND
"""An event heard of later than this is history being imported, not something to page for: outages are shorter."""

HOUR: Final = 3600 * times.SECOND

ALWAYS: Final = b"\xff"
"""A watermark above every entry: each activity has to be looked at."""

ALERT_OF_REASON: Final = {
    "settings_unreadable": "settings_change_unreadable",
    "time_in_future": "clock_anomaly",
    "quarantined": "record_quarantined",
}
"""Which refusals are alerts besides being dead letters."""


@dataclass(slots=True)
class Bracket:
    """What was recorded around one window, and inside it: entries of `recent`, None where there is none.

    `last_exact` and `first_exact` are False where the index no longer reached far enough; the entry is then None.
    """

    last: bytes | None = None
    last_exact: bool = True
    first: bytes | None = None
    first_exact: bool = True
    inside: int = 0
    inside_first: bytes | None = None
    inside_last: bytes | None = None

    def take(self, entry: bytes, window: Window, *, repeat: bool) -> bool:
        """Take in one activity; True if it changed something."""
        moment = time_of(entry)
        if moment <= window.opened_at_latest:
            if self.last_exact and (self.last is None or entry > self.last):
                self.last = entry
                return True
        elif window.closed_at is not None and moment >= window.closed_at:
            if self.first_exact and (self.first is None or entry < self.first):
                self.first = entry
                return True
        elif not repeat:
            self.inside += 1
            self.inside_first = entry if self.inside_first is None else min(self.inside_first, entry)
            self.inside_last = entry if self.inside_last is None else max(self.inside_last, entry)
            return True
        return False


class Ledger:
    """One subject's state.

    `watermark` is for the worker's fast path: an activity whose entry sorts above it changes no gap, and only has to
    be added to `recent`. Persisting (`changes`, `restore`) is by small records under keys of their own.
    """

    __slots__ = (
        "alerts",
        "assertions",
        "brackets",
        "gaps",
        "previous_digest",
        "recent",
        "saved_chunk",
        "sequence",
        "stale",
        "subject",
        "touched",
        "watermark",
        "windows",
    )

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.recent = Recent()
        self.watermark = NONE
        self.assertions: dict[tuple[str, str], Assertion] = {}
        self.windows: dict[str, Window] = {}
        self.brackets: dict[str, Bracket] = {}
        self.gaps: dict[str, Gap] = {}
        self.alerts: dict[str, Alert] = {}
        self.stale: set[str] = set()
        self.sequence = 0
        self.previous_digest: str | None = None
        self.touched: set[tuple[str, str]] = set()
        self.saved_chunk = 0

    @property
    def organization_id(self) -> str | None:
        """The organization, None where the subject is a feed."""
        return None if self.subject.startswith(FEED_SUBJECT_PREFIX) else self.subject

    # --- inputs -----------------------------------------------------------------------------------------------------

    def activity(self, entry: bytes) -> None:
        """Take in one ordinary activity. What it changes is published by the next `settle`."""
        if entry <= self.watermark:
            repeat = self.recent.has(entry)
            for gap_id, window in self.windows.items():
                if self.brackets[gap_id].take(entry, window, repeat=repeat):
                    self.stale.add(gap_id)
        self.recent.add(entry)

    def settle(self, produced_at: int) -> list[Emission]:
        """Publish what ordinary activities changed since: brackets and counts, and the alerts that quote them."""
        return self._publish(produced_at) if self.stale else []

    def settings_event(self, activity: Activity, append_time: int, produced_at: int) -> list[Emission] | None:
        """Take in a readable settings event; None if it is a repeat."""
        return self._assert(fold.of_settings_event(activity, append_time), produced_at)

    def rejected(
        self,
        rejection: Rejection,
        activity: Activity | None,
        record_id: str,
        append_time: int,
        produced_at: int,
    ) -> list[Emission]:
        """Say that an input about this subject went to the dead letters, where that is worth an alert.

        A settings event dated into the future that says off still counts as off, from its append time.
        """
        kind = ALERT_OF_REASON.get(rejection.reason)
        if kind is None:
            return []
        is_settings = activity is not None and activity.type == SETTINGS_TYPE
        flood = rejection.reason == "time_in_future" and not is_settings
        # Ordinary records with a broken clock come in floods: one alert per subject and hour speaks for them.
        identity = f"hour {append_time // HOUR}" if flood else record_id
        out = self.alert(
            kind,
            identity,
            f"record {record_id} was refused: {rejection.detail}",
            append_time,
            produced_at,
            activity=activity,
            record_id=record_id,
        )
        if rejection.reason == "time_in_future" and activity is not None:
            assertion = fold.of_misdated_settings_event(activity, append_time)
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
        """Raise an alert about an input, once per identity."""
        made = self._alert(
            kind,
            (identity,),
            append_time,
            occurred_at=activity.created_at if activity and kind != "clock_anomaly" else None,
            actor=activity.actor if activity else NOBODY,
            feed_id=activity.feed_id if activity else None,
            evidence=(record_id or identity,),
            summary=f"{self.name}: {sentence}",
        )
        return [] if made.alert_id in self.alerts else [self._record(made, 1, produced_at)]

    # --- the fold and what follows ----------------------------------------------------------------------------------

    def _assert(self, assertion: Assertion, produced_at: int) -> list[Emission] | None:
        known = self.assertions.get(assertion.key)
        if known is not None and known.append_time <= assertion.append_time:
            return None
        self.assertions[assertion.key] = assertion
        self.touched.add(("a", chr(0).join(assertion.key)))
        self._refold()
        return self._publish(produced_at, also=assertion)

    def _refold(self) -> None:
        """Fold anew, carry over what is known of each bracket, and mark the gaps that may have changed."""
        before = self.windows
        self.windows = {self._gap_id(window): window for window in fold.fold(self.assertions.values())}
        for gap_id, window in self.windows.items():
            old = before.get(gap_id)
            if gap_id not in self.brackets:
                self.brackets[gap_id] = Bracket()
            if old is None or (old.opened_at_latest, old.closed_at) != (
                window.opened_at_latest,
                window.closed_at,
            ):
                self._look_around(self.brackets[gap_id], window, old)
            if old != window:
                self.stale.add(gap_id)
        self.stale.update(gap_id for gap_id in before if gap_id not in self.windows)
        self._set_watermark()

    def _gap_id(self, window: Window) -> str:
        return identifier("gap", self.subject, *window.opening.key)

    def _look_around(self, bracket: Bracket, window: Window, old: Window | None) -> None:
        """Answer from the index what was recorded around a window and inside it."""
        entries = self.recent.entries()
        if old is None or old.opened_at_latest != window.opened_at_latest:
            bracket.last, bracket.last_exact = self._before(window.opened_at_latest, entries)
        if window.closed_at is None:
            bracket.first, bracket.first_exact = None, True
        elif old is None or old.closed_at != window.closed_at:
            bracket.first, bracket.first_exact = self._after(window.closed_at, entries)
        inside = [
            entry
            for entry in entries
            if window.opened_at_latest < (moment := time_of(entry))
            and (window.closed_at is None or moment < window.closed_at)
        ]
        if self.recent.reaches(window.opened_at_latest) or len(inside) > bracket.inside:
            bracket.inside = len(inside)
            bracket.inside_first, bracket.inside_last = (inside[0], inside[-1]) if inside else (None, None)

    def _before(self, moment: int, entries: list[bytes]) -> tuple[bytes | None, bool]:
        """The last activity at or before a time, and whether that is certain."""
        if self.recent.reaches(moment):
            return max((entry for entry in entries if time_of(entry) <= moment), default=None), True
        for gap_id, window in self.windows.items():
            # Nothing was recorded between a window's last activity and its opening: that may answer for us.
            known = self.brackets.get(gap_id)
            if known and known.last and known.last_exact and time_of(known.last) <= moment <= window.opened_at_latest:
                return known.last, True
        return None, False

    def _after(self, moment: int, entries: list[bytes]) -> tuple[bytes | None, bool]:
        """The first activity at or after a time, and whether that is certain."""
        if self.recent.reaches(moment):
            return min((entry for entry in entries if time_of(entry) >= moment), default=None), True
        for gap_id, window in self.windows.items():
            known = self.brackets.get(gap_id)
            if (
                known
                and known.first
                and known.first_exact
                and window.closed_at is not None
                and window.closed_at <= moment <= time_of(known.first)
            ):
                return known.first, True
        return None, False

    def _set_watermark(self) -> None:
        """Above which entry nothing can change: the first activity after the latest window, once it is known."""
        mark = NONE
        for gap_id, window in self.windows.items():
            bracket = self.brackets[gap_id]
            if window.closed_at is None or (bracket.first is None and bracket.first_exact):
                mark = ALWAYS
                break
            mark = max(mark, bracket.first or entry_of(window.closed_at, ""))
        self.watermark = mark

    # --- publishing -------------------------------------------------------------------------------------------------

    def _publish(self, produced_at: int, also: Assertion | None = None) -> list[Emission]:
        """Publish a revision of each stale gap that did change, and before them the alerts that follow."""
        gaps: list[Emission] = []
        changed: list[str] = []
        drafts = []
        for gap_id in sorted(self.stale):
            window, published = self.windows.get(gap_id), self.gaps.get(gap_id)
            if window is not None:
                draft = self._render(gap_id, window, published)
            elif published is not None:
                draft = replace(published, state="SUPERSEDED", superseded_by=self._successor(published))
            else:
                continue
            if draft != published:
                drafts.append(draft)
        for draft in drafts:
            gaps.append(self._stamp(draft, produced_at))
            changed.append(draft.gap_id)
        alerts: list[Emission] = [alert for gap_id in changed for alert in self._alerts_of(gap_id, produced_at)]
        if also is not None:
            alerts += self._alerts_of_assertion(also, produced_at)
        self.stale.clear()
        self._set_watermark()
        return [*alerts, *gaps]

    def _stamp(self, gap: Gap, produced_at: int) -> Gap:
        """Number the revision and chain it to the one before it in the subject's history."""
        self.sequence += 1
        gap = replace(
            gap,
            revision=gap.revision + 1,
            produced_at=produced_at,
            history_sequence=self.sequence,
            previous_digest=self.previous_digest,
        )
        self.previous_digest = digest(as_dict(gap))
        self.gaps[gap.gap_id] = gap
        self.touched.update((("g", gap.gap_id), ("h", "")))
        return gap

    def _render(self, gap_id: str, window: Window, published: Gap | None) -> Gap:
        """Write a window and its bracket as a gap; what never changes, and the stamps, come from `published`."""
        opening, closing, bracket = window.opening, window.closing, self.brackets[gap_id]
        ended = closing.actor if closing else NOBODY
        long = None if window.closed_at is None or window.opened_at is None else window.closed_at - window.opened_at
        return Gap(
            gap_id=gap_id,
            incident_id=published.incident_id if published else self._incident(gap_id),
            revision=published.revision if published else 0,
            organization_id=self.organization_id,
            feed_id=opening.feed_id,
            first_evidence_at=opening.append_time,
            produced_at=published.produced_at if published else 0,
            state="OPEN" if closing is None else "CLOSED",
            confidence="CONFIRMED",
            cause=window.cause,
            opened_at=window.opened_at,
            opened_at_latest=window.opened_at_latest,
            closed_at=window.closed_at,
            closed_at_earliest=window.closed_at,
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
            history_sequence=published.history_sequence if published else 0,
            previous_digest=published.previous_digest if published else None,
        )

    def _successor(self, gap: Gap) -> str | None:
        """The gap that holds a replaced gap's opening, else the first that overlaps it, else none."""
        opened = gap.opened_at_latest or 0
        for gap_id, window in self.windows.items():
            if window.opened_at_latest <= opened and (window.closed_at is None or opened < window.closed_at):
                return gap_id
        for gap_id, window in self.windows.items():
            if (window.closed_at is None or window.closed_at > opened) and (
                gap.closed_at is None or window.opened_at_latest < gap.closed_at
            ):
                return gap_id
        return None

    def _incident(self, gap_id: str) -> str:
        """The incident goes on when a gap takes another's place; else it begins."""
        replaced = [
            gap
            for old, gap in self.gaps.items()
            if old not in self.windows
            and old in self.stale
            and gap.state != "SUPERSEDED"
            and self._successor(gap) == gap_id
        ]
        if replaced:
            return min(replaced, key=lambda gap: (gap.opened_at_latest or 0, gap.gap_id)).incident_id
        return identifier("inc", gap_id)

    # --- alerts -----------------------------------------------------------------------------------------------------

    def _alerts_of(self, gap_id: str, produced_at: int) -> Iterator[Alert]:
        """Publish the alerts that quote a gap which changed."""
        gap, window = self.gaps[gap_id], self.windows.get(gap_id)
        for off in window.offs if window else ():
            yield from self._derived(self._disabled(off, gap), produced_at)
        if window and window.closing:
            yield from self._derived(self._restored(window.closing, gap), produced_at)
        else:
            standing = self.alerts.get(self._alert_id("logging_restored", gap_id))
            if standing is not None and standing.status != "WITHDRAWN":
                yield self._record(replace(standing, status="WITHDRAWN"), standing.revision + 1, produced_at)

    def _alerts_of_assertion(self, assertion: Assertion, produced_at: int) -> Iterator[Alert]:
        """Publish the alerts that follow from one assertion, whether it moved a window or not."""
        if assertion.says_off:
            for gap_id, window in self.windows.items():
                if assertion in window.offs:
                    yield from self._derived(self._disabled(assertion, self.gaps[gap_id]), produced_at)
        copies = sorted(
            (each for each in self.assertions.values() if each.input_id == assertion.input_id),
            key=lambda each: each.order,
        )
        if len(copies) > 1:
            yield from self._derived(
                self._alert(
                    "conflicting_record",
                    (assertion.input_id,),
                    max(each.append_time for each in copies),
                    occurred_at=copies[0].effective_at,
                    actor=copies[0].actor,
                    feed_id=copies[0].feed_id,
                    evidence=tuple(f"{each.input_id} sha256:{each.digest}" for each in copies),
                    summary=f"{self.name}: {len(copies)} settings events have the id {assertion.input_id} and "
                    "different content; all of them count",
                ),
                produced_at,
            )

    def _disabled(self, off: Assertion, gap: Gap) -> Alert:
        flags = ((off.api, "the Compliance API"), (off.logging, "the recording of activities"))
        what = " and ".join(name for value, name in flags if value is False)
        return self._alert(
            "logging_disabled",
            off.key,
            off.append_time,
            occurred_at=off.effective_at if off.exact else None,
            actor=off.actor,
            feed_id=off.feed_id,
            evidence=(off.input_id,),
            gap=gap,
            resolved=gap.state == "CLOSED",
            summary=f"{self.name}: {what} switched off by {_who(off.actor)} "
            f"{'at' if off.exact else 'by'} {times.text_of(off.effective_at)}; {_state_of(gap)}",
        )

    def _restored(self, closing: Assertion, gap: Gap) -> Alert:
        ids = (gap.opened_by_id, gap.closed_by_id, gap.last_activity_id, gap.first_activity_id)
        return self._alert(
            "logging_restored",
            (gap.gap_id,),
            closing.append_time,
            occurred_at=closing.effective_at,
            actor=closing.actor,
            feed_id=closing.feed_id,
            evidence=tuple(each for each in ids if each),
            gap=gap,
            resolved=True,
            summary=f"{self.name}: the feed is back, switched on by {_who(closing.actor)}; {_state_of(gap)}; "
            f"{_bracket_of(gap)}",
        )

    @property
    def name(self) -> str:
        """The subject in a sentence."""
        return f"organization {self.subject}" if self.organization_id else self.subject.replace("/", " ", 1)

    def _alert_id(self, kind: str, *identity: str) -> str:
        return identifier("alert", kind, self.subject, *identity)

    def _alert(
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
    ) -> Alert:
        row = KINDS[kind]
        return Alert(
            alert_id=self._alert_id(kind, *identity),
            status="RESOLVED" if resolved else "FIRING",
            kind=kind,
            severity=row.severity,
            gap_id=gap.gap_id if gap else None,
            incident_id=gap.incident_id if gap else None,
            organization_id=self.organization_id,
            feed_id=feed_id,
            occurred_at=occurred_at,
            detected_at=detected_at,
            historical=(occurred_at is not None and detected_at - occurred_at > HISTORICAL_AFTER)
            or (resolved and kind == "logging_disabled"),
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
        before = self.alerts.get(alert.alert_id)
        if before is None:
            yield self._record(alert, 1, produced_at)
            return
        # What was current when first computed stays so: it was paged for.
        alert = replace(alert, historical=before.historical)
        if replace(alert, revision=before.revision, produced_at=before.produced_at) != before:
            yield self._record(alert, before.revision + 1, produced_at)

    def _record(self, alert: Alert, revision: int, produced_at: int) -> Alert:
        alert = replace(alert, revision=revision, produced_at=produced_at)
        self.alerts[alert.alert_id] = alert
        self.touched.add(("l", alert.alert_id))
        return alert

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands."""
        for kind, name in sorted(self.touched):
            yield f"{kind}{name}", self._dump(kind, name)
        self.touched.clear()
        # Chunks that came and went between two calls are past keeping.
        for number in range(max(self.saved_chunk, self.recent.oldest), self.recent.number + 1):
            yield f"r{number % CHUNKS}", self.recent.dump(number)
        self.saved_chunk = self.recent.number

    def _dump(self, kind: str, name: str) -> bytes:
        shape: dict[str, Any]
        match kind:
            case "a":
                input_id, _, content = name.rpartition(chr(0))
                shape = asdict(self.assertions[input_id, content])
            case "g":
                bracket = self.brackets[name]
                texts = {
                    field: value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value
                    for field, value in asdict(bracket).items()
                }
                shape = {"gap": as_dict(self.gaps[name]), "bracket": texts}
            case "l":
                shape = as_dict(self.alerts[name])
            case _:
                shape = {"sequence": self.sequence, "previous_digest": self.previous_digest}
        return json.dumps(shape, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, subject: str, records: Mapping[str, bytes]) -> "Ledger":
        """Undo `changes`: `records` holds the latest value of each key."""
        ledger = cls(subject)
        ledger.recent = Recent.restore(value for key, value in records.items() if key[0] == "r")
        ledger.saved_chunk = ledger.recent.number
        for key, value in records.items():
            if key[0] == "r":
                continue
            shape = json.loads(value)
            match key[0]:
                case "a":
                    assertion = Assertion(**{**shape, "actor": Actor(**shape["actor"])})
                    ledger.assertions[assertion.key] = assertion
                case "g":
                    entries: dict[str, Any] = {
                        field: value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
                        for field, value in shape["bracket"].items()
                    }
                    gap = gap_from_dict(shape["gap"])
                    ledger.gaps[gap.gap_id] = gap
                    ledger.brackets[gap.gap_id] = Bracket(**entries)
                case "l":
                    alert = alert_from_dict(shape)
                    ledger.alerts[alert.alert_id] = alert
                case "h":
                    ledger.sequence, ledger.previous_digest = shape["sequence"], shape["previous_digest"]
                case other:
                    raise ValueError(f"a state record of kind {other!r} was written by a newer version")
        windows = fold.fold(ledger.assertions.values())
        ledger.windows = {ledger._gap_id(window): window for window in windows}
        ledger._set_watermark()
        return ledger


def _who(actor: Actor) -> str:
    name = actor.email or actor.id
    kind = (actor.type or "an actor of unknown type").replace("_", " ")
    return f"{kind} {name}" if name else kind


def _state_of(gap: Gap) -> str:
    opened = times.text_of(gap.opened_at) if gap.opened_at is not None else "an unknown time"
    if gap.closed_at is None:
        return f"not audited since {opened}"
    length = "" if gap.duration_seconds is None else f" ({gap.duration_seconds:,.0f} s)"
    return f"not audited from {opened} to {times.text_of(gap.closed_at)}{length}"


def _bracket_of(gap: Gap) -> str:
    unknown = "none known yet" if gap.bracket_exact else "no longer known"
    return f"last id before: {gap.last_activity_id or unknown}, first id after: {gap.first_activity_id or unknown}"
