"""One line of evidence about a subject: its assertions, what was recorded around them, and the windows they fold into.

A ledger has two. What is *known* is about the two flags. What is *suspected* uses the same fold for two other
questions, which stand in the flags' places: whether the feed could be read (in the place of the API), and whether the
collector's own calls were recorded (in the place of logging). A suspicion never overrides what is known.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any, Final, NamedTuple

from auditgap.core import times
from auditgap.core.fold import (
    API,
    EVENTS,
    LOGGING,
    SETTLE,
    Assertion,
    Timeline,
    Window,
    merged,
    of_observation,
    of_recording,
)
from auditgap.core.inputs import Actor
from auditgap.core.observations import Observation
from auditgap.core.recent import Recent, Runs, id_of, start_of, time_of

CONFIRMED: Final = "CONFIRMED"
SUSPECTED: Final = "SUSPECTED"

CAUSES: Final = {
    (CONFIRMED, frozenset({LOGGING})): "LOGGING_DISABLED",
    (CONFIRMED, frozenset({API})): "API_DISABLED",
    (CONFIRMED, frozenset({API, LOGGING})): "BOTH_DISABLED",
    (SUSPECTED, frozenset({LOGGING})): "CANARY_MISSING",
    (SUSPECTED, frozenset({API})): "FEED_BLOCKED",
    (SUSPECTED, frozenset({API, LOGGING})): "FEED_BLOCKED",
}
"""What a gap's cause is called, by its confidence and what was off at some time of it."""

LOST: Final = frozenset({"unauthorized", "forbidden", "not_found", "other"})
"""Answers after which the feed is unseen at once: the collector may have lost its credential."""

FAILING: Final = frozenset({"rate_limited", "server_error", "unreachable"})
"""Answers that are everyday, unless nothing else comes for FAILING_LIMIT."""

FAILING_LIMIT: Final = 15 * 60 * times.SECOND

SUSPICIONS: Final = {
    **{("feed_answer", result): (False, None) for result in LOST | FAILING},
    ("feed_answer", "ok"): (True, None),
    ("feed_answer", "not_enabled"): (True, None),
    ("canary", "missing"): (None, False),
    ("canary", "seen"): (True, True),
}
"""What an observation says of the feed being read and of own calls being recorded; others say nothing.

That the API is not enabled was read from the feed's own answer: it is the flag that is off, not the sight of it.
"""


def suspicion_of(seen: Observation, append_time: int) -> Assertion | None:
    """Assert what an observation says of being able to see, None where it says nothing."""
    feed, calls = SUSPICIONS.get((seen.kind, seen.result), (None, None))
    if feed is None and calls is None:
        return None
    called_at = seen.called_at if seen.kind == "canary" else None
    return Assertion(
        begins=seen.begins if called_at is None else called_at - seen.skew,
        ends=seen.ends if called_at is None else called_at + seen.skew,
        kind=seen.kind,
        input_id=seen.id,
        digest=seen.digest,
        api=feed,
        logging=calls,
        append_time=append_time,
        exact=False,
        organization_id=seen.organization_id,
        feed_id=seen.feed_id,
        result=seen.result,
    )


def _recorded(identifier: str, moment: int) -> Assertion:
    """Assert that calls were recorded: nothing about the feed, which may have been read much later."""
    return Assertion(moment, moment, "activity", identifier, "", None, True, moment, exact=False)


class Kind(NamedTuple):
    """What makes the two tracks different: confidence, how observations and recorded activities are asserted."""

    confidence: str
    of_observation: Callable[[Observation, int], Assertion | None]
    of_recording: Callable[[str, int], Assertion]


KNOWN: Final = Kind(CONFIRMED, of_observation, of_recording)
WATCHED: Final = Kind(SUSPECTED, suspicion_of, _recorded)


def resolved(
    suspected: Window, known: Iterable[Window], complete_through: int, proofs: Runs
) -> tuple[str, Window | None]:
    """Judge a suspicion: the state of its gap, and the window that takes its place where it is SUPERSEDED.

    OPEN until all that was recorded up to its end is on the topic, unless what is known explains all of it before that.
    Then SUPERSEDED by what is known to have been off in it, RETRACTED where recording is proven throughout, else
    CLOSED: whether anything was recorded, nobody knows.
    """
    near = [window for window in known if window.overlaps(suspected)]
    for window in near:
        begins = window.opened_at is None or window.opened_at <= suspected.opened_at_latest
        ends = window.closed_at is None or (
            suspected.closed_at_earliest is not None and suspected.closed_at_earliest <= window.closed_at
        )
        if begins and ends:
            return "SUPERSEDED", window
    if suspected.closed_at is None or complete_through < suspected.closed_at:
        return "OPEN", None
    if near:
        return "SUPERSEDED", near[0]
    begin = suspected.opened_at_latest if suspected.opened_at is None else suspected.opened_at
    if proofs.hold(begin, suspected.closed_at):
        return "RETRACTED", None
    return "CLOSED", None


class Around(NamedTuple):
    """The last activity that was surely recorded before an "off" that is not exact, and the first surely after it."""

    before: bytes | None = None
    after: bytes | None = None


NOTHING_AROUND: Final = Around()

Change = tuple[list[Window], list[Window]]
"""Windows that went, and those that came for them."""

_ASSERTION_FIELDS: Final = tuple(field.name for field in fields(Assertion) if field.init)
_ACTOR_FIELDS: Final = tuple(field.name for field in fields(Actor))
_compact = json.JSONEncoder(separators=(",", ":")).encode


class Track:
    """See the module. `assertions` is by input id, then by content.

    `around` says for each "off" that is not exact what was recorded about it, and `proofs` asserts these records.
    """

    __slots__ = ("around", "assertions", "kind", "proofs", "timeline", "touched")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.assertions: dict[str, dict[str, Assertion]] = {}
        self.timeline = Timeline()
        self.around: dict[tuple[str, str], Around] = {}
        self.proofs: dict[bytes, Assertion] = {}
        self.touched: set[tuple[str, str]] = set()

    def take(self, assertion: Assertion, recent: Recent) -> Change | None:
        """Fold an assertion in; give the windows that this changed, None if it is a repeat."""
        copies = self.assertions.setdefault(assertion.input_id, {})
        content = assertion.key[1]
        known = copies.get(content)
        if known is not None and (assertion := merged(known, assertion)) == known:
            return None
        copies[content] = assertion
        self.touched.add(assertion.key)
        if known is None and self.timeline.is_idle(assertion):
            self.timeline.append(assertion)
            self._thin(assertion)
            return [], []
        new: list[Assertion] = [assertion]
        if self._is_bounded(assertion):
            self.around[assertion.key] = _around(assertion, recent)
            proofs = self._proofs()
            new += [proof for key, proof in proofs.items() if key not in self.proofs]
            self.proofs = proofs
        change = self._put(new, [] if known is None else [known])
        self._thin(assertion)
        return change

    def prove(self, entry: bytes) -> Change:
        """Let an activity narrow the bounds of the windows that are not exact, or close one."""
        moment = time_of(entry)
        changed = False
        for key, around in self.around.items():
            off = self.assertions[key[0]][key[1]]
            if moment < off.begins:
                closer = around.before is None or entry > around.before
            elif moment >= off.ends + SETTLE:
                closer = around.after is None or entry < around.after
            else:
                continue
            if closer:
                self.around[key] = around._replace(**{"before" if moment < off.begins else "after": entry})
                self.touched.add(key)
                changed = True
        if not changed:
            return [], []
        before, self.proofs = self.proofs, self._proofs()
        return self._put(
            [proof for each, proof in self.proofs.items() if each not in before],
            [proof for each, proof in before.items() if each not in self.proofs],
        )

    def stands(self, window: Window) -> bool:
        """Whether a window is more than everyday failures of the API."""
        offs = window.offs
        return offs[-1].ends - offs[0].begins >= FAILING_LIMIT or any(off.result not in FAILING for off in offs)

    def _is_bounded(self, off: Assertion) -> bool:
        """Whether recorded activities say something about the bounds of an "off"."""
        if off.kind in EVENTS:
            return False
        return off.says_off if self.kind is KNOWN else off.logging is False

    def _proofs(self) -> dict[bytes, Assertion]:
        """Assert the activities that matter to the bounds of windows: around each "off" that is not exact."""
        entries = {entry for around in self.around.values() for entry in around if entry is not None}
        return {entry: self.kind.of_recording(id_of(entry), time_of(entry)) for entry in entries}

    def _put(self, new: list[Assertion], old: list[Assertion]) -> Change:
        if not (new or old):
            return [], []
        gone, came = self.timeline.put(new, old)
        self._name(came)
        return gone, came

    def _name(self, windows: Iterable[Window]) -> None:
        for window in windows:
            window.confidence = self.kind.confidence

    def _thin(self, near: Assertion) -> None:
        """Keep first and last of equal observations, beyond the newest ones."""
        for gone in self.timeline.thin(near):
            copies = self.assertions[gone.input_id]
            del copies[gone.key[1]]
            if not copies:
                del self.assertions[gone.input_id]
            self.around.pop(gone.key, None)
            self.touched.add(gone.key)

    # --- persisting -------------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Give what changed since the last call, as (key, value) pairs that `restore` understands; None: it is gone."""
        for key in sorted(self.touched):
            shape = self._shape(*key)
            yield chr(0).join(key), None if shape is None else _compact(shape).encode()
        self.touched.clear()

    def _shape(self, input_id: str, content: str) -> dict[str, Any] | None:
        assertion = self.assertions.get(input_id, {}).get(content)
        if assertion is None:
            return None
        around = self.around.get(assertion.key, NOTHING_AROUND)
        shape = {each: getattr(assertion, each) for each in _ASSERTION_FIELDS}
        actor = {each: getattr(assertion.actor, each) for each in _ACTOR_FIELDS}
        return {**shape, "actor": actor, "around": [None if each is None else text_of(each) for each in around]}

    @classmethod
    def restore(cls, kind: Kind, values: Iterable[bytes]) -> "Track":
        """Undo `changes`: `values` holds the latest of each key."""
        track = cls(kind)
        assertions = []
        for value in values:
            shape = json.loads(value)
            around = Around(*(None if each is None else entry_of_text(each) for each in shape.pop("around")))
            assertion = Assertion(**{**shape, "actor": Actor(**shape["actor"])})
            if track._is_bounded(assertion):
                track.around[assertion.key] = around
            assertions.append(assertion)
            track.assertions.setdefault(assertion.input_id, {})[assertion.key[1]] = assertion
        track.proofs = track._proofs()
        track.timeline = Timeline([*assertions, *track.proofs.values()])
        track._name(track.timeline.windows)
        return track


def _around(off: Assertion, recent: Recent) -> Around:
    """Look up what the index of activities knows around an "off" that is not exact; None where it does not reach."""
    entries, floor = recent.entries(), recent.floor
    start, end = bisect_left(entries, start_of(off.begins)), bisect_left(entries, start_of(off.ends + SETTLE))
    before = entries[start - 1] if start and floor < start_of(off.begins) else None
    after = entries[end] if end < len(entries) and floor < start_of(off.ends + SETTLE) else None
    return Around(before, after)


def text_of(entry: bytes) -> str:
    """Write an entry of the index as text, whatever bytes its id holds."""
    return entry.decode("utf-8", "surrogatepass")


def entry_of_text(text: str) -> bytes:
    """Undo `text_of`."""
    return text.encode("utf-8", "surrogatepass")
