"""What a shard holds for triage, and the alerts that come of it: `core.triage` has the rules.

Trails stand under keys of their own, on whatever shard those belong to; inquiries and reviews belong to a subject, and
stand where its ledger does. Between them go messages:

| kind | from | to | what it does there |
|---|---|---|---|
| `trail` | an activity of TRAIL_TYPES | each identity that it speaks of | its trail takes it in |
| `query` | an event that says "off", or an answer that leads further | a trail | it answers, now and on changes |
| `answer` | a trail | the subject that asked | the inquiry takes it in, and its alert may change |

Delivered late, in any order or more than once they lead to the same alerts. What is held is bounded; what was dropped
makes an answer "not checked" or "or more", never "nothing".
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from auditgap.core import times, triage
from auditgap.core.fold import EVENTS, Assertion, Window
from auditgap.core.inputs import NOBODY, Activity, Actor, key_of
from auditgap.core.intake import Mail
from auditgap.core.ledger import Ledger
from auditgap.core.recent import time_of
from auditgap.core.records import Alert, Emission, Gap, Severity, identifier
from auditgap.core.triage import FOUND, NONE_IN_RECORD, Answer, Inquiry, Part, Query, Review, Shelf, Trail

INQUIRIES: Final = 64
"""Inquiries of one subject that still listen: those about the latest times. The alerts of older ones stay."""

REVIEWS: Final = 64
"""Reviews of one organization that still count: those of the latest closes. The alerts of older ones stay."""

MEMORY: Final = 128
"""Activities of an organization that are kept for the review of a close that is heard of late: the newest."""

INDICATORS: Final = "actor_compromise_indicators"
REVIEW: Final = "post_gap_review"

_TRAIL: Final = "@trail"
_INQUIRY: Final = "@inquiry"
_REVIEW: Final = "@review"
_MEMORY: Final = "@memory"
_FORGOTTEN: Final = "@forgotten"

PREFIXES: Final = (_TRAIL, _INQUIRY, _REVIEW, _MEMORY, _FORGOTTEN)
"""What the keys of a desk's state begin with."""

_compact = json.JSONEncoder(separators=(",", ":")).encode

OffKey = tuple[str, str]
"""An assertion's key."""


class _Folder:
    """What belongs to one subject: inquiries by the "off" they are about, reviews by gap, and what those are fed.

    `untold` and `stale` name the inquiries, and the gaps, of which something changed since `settle`; `first` is when
    the subject's record begins, as the inquiries were last told.
    """

    __slots__ = ("first", "inquiries", "memory", "reviews", "stale", "untold")

    def __init__(self) -> None:
        self.inquiries: dict[OffKey, Inquiry] = {}
        self.reviews: dict[str, Review] = {}
        self.memory = Shelf()
        self.untold: set[OffKey] = set()
        self.stale: set[str] = set()
        self.first: int | None = None


class Desk:
    """See the module. `forgotten` is until when trails may have been forgotten: 0 if none was.

    Inputs only leave notes: what they change is published by `settle`, once for all of a batch.
    """

    __slots__ = ("_changed", "_folders", "forgotten", "trails")

    def __init__(self) -> None:
        self.trails: dict[str, Trail] = {}
        self.forgotten = 0
        self._folders: dict[str, _Folder] = {}
        self._changed: dict[str, Callable[[], Any] | None] = {}

    # --- inputs -----------------------------------------------------------------------------------------------------

    def activity(self, activity: Activity) -> tuple[Mail, ...]:
        """Take in an admitted activity of TRIAGE_TYPES. Give what to send."""
        entry = triage.review_entry(activity)
        if entry is not None:
            self._remember(activity.subject, entry)
        return tuple(Mail(key, "trail", part.to_dict()) for key, part in triage.parts_of(activity).items())

    def disabled(self, ledger: Ledger, input_id: str) -> tuple[Mail, ...]:
        """Begin the inquiries into the events of that id that say "off", unless they have begun. Give what to send."""
        queries: list[Query] = []
        folder = self._folder(ledger.subject)
        for off in ledger.known.assertions.get(input_id, {}).values():
            if off.kind not in EVENTS or not off.says_off or not triage.identities_of(off.actor):
                continue
            # A copy that was appended sooner may be of another feed, whose trails are others.
            name = identifier("inq", ledger.subject, *off.key, off.feed_id or "", str(off.ends))
            known = folder.inquiries.get(off.key)
            if known is None or known.id != name:
                inquiry = Inquiry(name, ledger.subject, off.feed_id, off.actor, off.ends)
                folder.inquiries[off.key] = inquiry
                self._keep_inquiry(off.key, inquiry)
                queries += inquiry.begin()
        while len(folder.inquiries) > INQUIRIES:
            oldest = min(folder.inquiries, key=lambda key: (folder.inquiries[key].at, key))
            del folder.inquiries[oldest]
            folder.untold.discard(oldest)
            self._changed[_INQUIRY + _compact([ledger.subject, *oldest])] = None
        folder.untold |= folder.inquiries.keys()
        return _queries(queries)

    def post(self, mail: Mail) -> tuple[Mail, ...]:
        """Take a message in. Give what to send. Raises ValueError for a kind that is not known."""
        match mail.kind:
            case "trail":
                return _answers(self._trail(mail.key).take(Part.from_dict(mail.body)))
            case "query":
                return _answers([self._trail(mail.key).ask(Query.from_dict(mail.body))])
            case "answer":
                return self._answered(Answer.from_dict(mail.body))
            case _:
                raise ValueError(f"mail of kind {mail.kind!r} was written by a newer version")

    def follow(self, ledger: Ledger, emissions: Iterable[Emission]) -> None:
        """Let inquiries and reviews follow the gaps that were published."""
        # An inherited gap has no alerts: those of the parent or feed speak for all its members.
        gaps = [each for each in emissions if isinstance(each, Gap) and each.inherited_from is None]
        if gaps:
            folder = self._folder(ledger.subject)
            folder.untold |= folder.inquiries.keys()
            # One that takes another's place takes over what the other's review knows: before that is dropped.
            for gap in sorted(gaps, key=lambda gap: gap.state != "CLOSED"):
                self._follow_close(folder, gap)

    def settle(self, ledger: Ledger, produced_at: int) -> Iterator[Emission]:
        """Publish what changed of a subject's alerts since, stamped `produced_at`."""
        folder = self._folders.get(ledger.subject)
        if folder is None:
            return
        if folder.inquiries and (first := _first_record(ledger)) != folder.first:
            folder.first = first
            folder.untold |= folder.inquiries.keys()
        for key in sorted(folder.untold):
            yield from _tell_inquiry(ledger, key, folder.inquiries[key], folder.first, produced_at)
        folder.untold.clear()
        for gap_id in sorted(folder.stale):
            yield from _tell_review(ledger, gap_id, folder.reviews.get(gap_id), produced_at)
        folder.stale.clear()

    def forget(self, moment: int) -> None:
        """Forget the trails that cannot matter any more at that time."""
        for key in [key for key, trail in self.trails.items() if trail.expired(moment)]:
            self.forgotten = max(self.forgotten, self.trails.pop(key).newest)
            self._changed |= {_TRAIL + key: None, _FORGOTTEN: self._until}

    def _until(self) -> int:
        return self.forgotten

    # --- trails and inquiries ---------------------------------------------------------------------------------------

    def _trail(self, key: str) -> Trail:
        """Find a trail, or begin it, to be changed."""
        trail = self.trails.get(key)
        if trail is None:
            trail = self.trails[key] = Trail(key, self.forgotten)
        self._changed[_TRAIL + key] = trail.to_dict
        return trail

    def _answered(self, answer: Answer) -> tuple[Mail, ...]:
        folder = self._folder(answer.query.subject)
        for key, inquiry in folder.inquiries.items():
            if inquiry.id == answer.query.inquiry_id:
                queries = inquiry.take(answer)
                self._keep_inquiry(key, inquiry)
                folder.untold.add(key)
                return _queries(queries)
        return ()

    def _keep_inquiry(self, key: OffKey, inquiry: Inquiry) -> None:
        self._changed[_INQUIRY + _compact([inquiry.subject, *key])] = inquiry.to_dict

    # --- reviews ----------------------------------------------------------------------------------------------------

    def _remember(self, subject: str, entry: triage.Entry) -> None:
        folder = self._folder(subject)
        if folder.memory.add(entry, MEMORY):
            self._changed[_MEMORY + _compact([subject])] = folder.memory.to_dict
        for gap_id, review in folder.reviews.items():
            if review.take(entry):
                folder.stale.add(gap_id)
                self._keep_review(subject, gap_id, review)

    def _follow_close(self, folder: _Folder, gap: Gap) -> None:
        """Let the review of a gap be about its close as it now is; there is none where it has none."""
        before = folder.reviews.get(gap.gap_id)
        if gap.state != "CLOSED" or gap.closed_at is None or gap.organization_id is None:
            if before is not None:
                self._end_review(gap.subject, folder, gap.gap_id)
            folder.stale.add(gap.gap_id)
            return
        if before is None or before.closed_at != gap.closed_at:
            review = _begun(folder, gap.closed_at)
            if review is None:
                return
            folder.reviews[gap.gap_id] = review
            self._keep_review(gap.subject, gap.gap_id, review)
        folder.stale.add(gap.gap_id)
        while len(folder.reviews) > REVIEWS:
            oldest = min(folder.reviews, key=lambda gap_id: (folder.reviews[gap_id].closed_at, gap_id))
            self._end_review(gap.subject, folder, oldest)

    def _keep_review(self, subject: str, gap_id: str, review: Review) -> None:
        self._changed[_REVIEW + _compact([subject, gap_id])] = review.to_dict

    def _end_review(self, subject: str, folder: _Folder, gap_id: str) -> None:
        del folder.reviews[gap_id]
        folder.stale.discard(gap_id)
        self._changed[_REVIEW + _compact([subject, gap_id])] = None

    # --- persisting -------------------------------------------------------------------------------------------------

    def _folder(self, subject: str) -> _Folder:
        folder = self._folders.get(subject)
        if folder is None:
            folder = self._folders[subject] = _Folder()
        return folder

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        for key, shape in self._changed.items():
            yield key, None if shape is None else _compact(shape()).encode()
        self._changed.clear()

    @classmethod
    def restore(cls, records: Mapping[str, bytes]) -> "Desk":
        """Undo `changes`: `records` holds the latest value of each key, and no others than PREFIXES tell."""
        desk = cls()
        for key, value in records.items():
            shape = json.loads(value)
            if key == _FORGOTTEN:
                desk.forgotten = shape
            elif key.startswith(_TRAIL):
                desk.trails[key.removeprefix(_TRAIL)] = Trail.from_dict(shape)
            elif key.startswith(_INQUIRY):
                subject, input_id, content = json.loads(key.removeprefix(_INQUIRY))
                desk._folder(subject).inquiries[input_id, content] = Inquiry.from_dict(shape)
            elif key.startswith(_REVIEW):
                subject, gap_id = json.loads(key.removeprefix(_REVIEW))
                desk._folder(subject).reviews[gap_id] = Review.from_dict(shape)
            else:
                (subject,) = json.loads(key.removeprefix(_MEMORY))
                desk._folder(subject).memory = Shelf.from_dict(shape)
        return desk


def _queries(queries: Iterable[Query]) -> tuple[Mail, ...]:
    return tuple(Mail(query.key, "query", query.to_dict()) for query in queries)


def _answers(answers: Iterable[Answer]) -> tuple[Mail, ...]:
    return tuple(Mail(key_of(answer.query.subject), "answer", answer.to_dict()) for answer in answers)


def _tell_inquiry(ledger: Ledger, key: OffKey, inquiry: Inquiry, first: int | None, produced_at: int) -> list[Alert]:
    """Publish the verdict of an inquiry if it changed: one alert per gap and actor, that of the actor's first "off".

    Until all answers are in, it is told only that something was found, and that once. `first` is when the subject's
    record begins.
    """
    off = ledger.known.assertions.get(key[0], {}).get(key[1])
    if off is None:
        return []
    window = ledger.timeline.window_of(off)
    if window is None or not _is_first(off, window):
        return ledger.book.withdraw(INDICATORS, *key, produced_at=produced_at)
    gap = ledger.gaps.get(window.gap_id)
    if gap is None:  # it came with an activity, and is published only when the ledger settles: then it is told
        return []
    finding = inquiry.finding(_known_from(ledger, window, first))
    if inquiry.pending:
        standing = ledger.book.standing(INDICATORS, *key)
        if finding.verdict != FOUND or (standing is not None and standing.severity > Severity.INFORMATIONAL):
            return []
    who = off.actor.email or off.actor.id or off.actor.ip
    return ledger.book.derive(
        INDICATORS,
        key,
        produced_at,
        gap=gap,
        detected_at=off.append_time,
        occurred_at=off.ends if off.exact else None,
        actor=off.actor,
        evidence=(off.input_id, *inquiry.ids(finding)),
        sentence=f"{who}, who switched it off {'at' if off.exact else 'by'} {times.text_of(off.ends)}: "
        f"{finding.summary}",
        severity=None if finding.verdict == FOUND else Severity.INFORMATIONAL,
        resolved=finding.verdict == NONE_IN_RECORD,
    )


def _is_first(off: Assertion, window: Window) -> bool:
    """Whether it is the first event of its actor that says "off" in a window."""
    name = _name_of(off.actor)
    return off == next(each for each in window.offs if each.kind in EVENTS and _name_of(each.actor) == name)


def _name_of(actor: Actor) -> str:
    return next(iter(triage.identities_of(actor)), "")


def _known_from(ledger: Ledger, window: Window, first: int | None) -> int | None:
    """Say from when on the record before a window is there: its beginning, or the close of the window before."""
    at = bisect_left(ledger.timeline.windows, window.opening.order, key=lambda each: each.opening.order)
    before = ledger.timeline.windows[at - 1].closed_at if at else None
    return first if first is None or before is None else max(first, before)


def _first_record(ledger: Ledger) -> int | None:
    """Say when the first ordinary activity was recorded, None where none was."""
    runs, entry = ledger.recent.runs.runs, ledger.recent.earliest()
    begins = ([runs[0][0]] if runs else []) + ([time_of(entry)] if entry else [])
    return min(begins, default=None)


def _begun(folder: _Folder, closed_at: int) -> Review | None:
    """Begin a review with all that is still known of the time it is about; None where that is nothing any more."""
    review = Review(closed_at)
    floor, others = folder.memory.floor, folder.reviews.values()
    if floor is not None and floor.at >= closed_at:
        reached = min(floor.at, review.until)
        review.lost = not any(each.whole and each.closed_at <= closed_at and reached <= each.until for each in others)
        if review.lost and floor.at > review.until:
            return None
    known = {*folder.memory.entries, *([floor] if floor is not None else ())}
    for entry in known.union(*(each.entries() for each in others)):
        review.take(entry)
    return review


def _tell_review(ledger: Ledger, gap_id: str, review: Review | None, produced_at: int) -> list[Alert]:
    """Publish what a review counts, if that changed; without a review, or anything in it, there is no alert."""
    content = None if review is None else review.content()
    if content is None:
        return ledger.book.withdraw(REVIEW, gap_id, produced_at=produced_at)
    gap = ledger.gaps[gap_id]
    # Where there are more than are counted the last one goes on changing: it is no news.
    ids = [each for part in content.categories for each in (part.first_id, None if part.more else part.last_id)]
    return ledger.book.derive(
        REVIEW,
        (gap_id,),
        produced_at,
        gap=gap,
        detected_at=max(gap.first_evidence_at, content.closed_at),
        occurred_at=content.closed_at,
        actor=NOBODY,
        evidence=tuple(dict.fromkeys(each for each in ids if each)),
        sentence=content.summary,
    )
