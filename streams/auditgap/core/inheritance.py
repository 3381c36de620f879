"""What a member gets of the gaps of its parent or feed: the same window, as long as it was a member.

A parent or feed is folded once. Of each of its gaps every member is told what it is now and when the member was one
(`told`); the member makes gaps of its own of it (`Inherited`), one for each time that it was a member. They have the
parent's incident, and no alert. A message may come again, or after a later one: the highest revision counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from auditgap.core.fold import API, Assertion, Window
from auditgap.core.inputs import NOBODY, Actor
from auditgap.core.records import Gap, identifier
from auditgap.core.topology import Stretch, overlap
from auditgap.core.track import CONFIRMED

SUPERSEDED: Final = "SUPERSEDED"
GONE: Final = frozenset({SUPERSEDED, "RETRACTED"})
"""States of a gap that does not stand."""

LEFT: Final = "topology"
"""What closed a gap where its organization left what it inherited from."""

FACTS: Final = (
    "gap_id",
    "incident_id",
    "feed_id",
    "first_evidence_at",
    "state",
    "confidence",
    "cause",
    "opened_at",
    "opened_at_latest",
    "closed_at",
    "closed_at_earliest",
    "opened_by_kind",
    "opened_by_id",
    "opened_actor_type",
    "opened_actor_id",
    "opened_actor_email",
    "opened_actor_ip",
    "opened_actor_user_agent",
    "closed_by_kind",
    "closed_by_id",
    "closed_actor_type",
    "closed_actor_id",
    "closed_actor_email",
    "closed_actor_ip",
    "closed_actor_user_agent",
    "superseded_by",
)
"""What members are told of a gap: when it changes, they are told again."""

_ACTOR: Final = ("type", "id", "email", "ip", "user_agent")


def facts(gap: Gap | None) -> list[Any] | None:
    """Give what members are told of a gap."""
    return None if gap is None else [getattr(gap, name) for name in FACTS]


def stretch_of(gap: Gap) -> Stretch:
    """From when until when a gap can have been."""
    return gap.opened_at, gap.closed_at


def told(gap: Gap, *, sure: bool, version: int, links: Iterable[Stretch]) -> dict[str, Any]:
    """Write the message about a gap to one member, for JSON. `version` is that of the topology with these `links`.

    `sure`: between its certain bounds there is a moment at which it was certainly off.
    """
    return {
        "revision": [gap.revision, version],
        "by": gap.subject,
        "sure": sure,
        "gap": dict(zip(FACTS, facts(gap) or (), strict=True)),
        "links": [list(link) for link in links],
    }


@dataclass(frozen=True, slots=True)
class Inherited:
    """The latest that a member was told of one gap; the fields are those of the message."""

    revision: tuple[int, int]
    by: str
    sure: bool
    gap: Mapping[str, Any]
    links: tuple[Stretch, ...]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "Inherited":
        """Read a message. Raises KeyError, TypeError or ValueError for one that is none."""
        revision, version = body["revision"]
        links = tuple((since, until) for since, until in body["links"])
        return cls((revision, version), body["by"], body["sure"], {name: body["gap"][name] for name in FACTS}, links)

    @property
    def shape(self) -> dict[str, Any]:
        """What `read` reads."""
        return {
            "revision": list(self.revision),
            "by": self.by,
            "sure": self.sure,
            "gap": dict(self.gap),
            "links": [list(link) for link in self.links],
        }

    @property
    def source(self) -> str:
        """The gap that is inherited from."""
        return str(self.gap["gap_id"])

    @property
    def successor(self) -> str | None:
        """The gap that took the place of that."""
        return self.gap["superseded_by"] if self.gap["state"] == SUPERSEDED else None

    def windows(self, subject: str) -> dict[str, Window]:
        """Give the member's windows by their gap ids, in order: none where the gap does not stand."""
        if self.gap["state"] in GONE:
            return {}
        whole: Stretch = self.gap["opened_at"], self.gap["closed_at"]
        pieces = [self._window(link) for link in self.links if overlap(whole, link)]
        for number, window in enumerate(pieces):
            window.gap_id = identifier("gap", subject, self.source, *([str(number)] if number else []))
        return {window.gap_id: window for window in pieces}

    def _window(self, link: Stretch) -> Window:
        since, until = link
        gap = self.gap
        opened_at, closed_at, earliest = gap["opened_at"], gap["closed_at"], gap["closed_at_earliest"]
        # Only where nothing about it is certain there is no such time; then it places the bracket, and is not shown.
        certain = next(
            each for each in (gap["opened_at_latest"], opened_at, gap["first_evidence_at"]) if each is not None
        )
        if since is not None:
            opened_at = since if opened_at is None else max(opened_at, since)
            certain = max(certain, since)
        left = until is not None and (closed_at is None or until < closed_at)
        if left:
            closed_at = until
            earliest = until if earliest is None else min(earliest, until)
        if closed_at is not None:
            certain = min(certain, closed_at)
            earliest = certain if earliest is None else earliest
        if earliest is not None and opened_at is not None:
            earliest = max(earliest, opened_at)
        closing = None
        if closed_at is not None:
            closing = self._end(LEFT, self.by, NOBODY, closed_at) if left else self._side("closed", closed_at)
        return Window(
            opening=self._side("opened", certain),
            opened_at=opened_at,
            opened_at_latest=certain,
            closed_at=closed_at,
            closed_at_earliest=earliest,
            closing=closing,
            off_flags={API},
            offs=[],
            sure=self.sure and gap["confidence"] == CONFIRMED,
            # What the parent's is stands in the gap; a suspicion was judged where it comes from.
            confidence=CONFIRMED,
        )

    def _side(self, side: str, moment: int) -> Assertion:
        gap = self.gap
        actor = Actor(**{name: gap[f"{side}_actor_{name}"] for name in _ACTOR})
        return self._end(gap[f"{side}_by_kind"] or "", gap[f"{side}_by_id"] or "", actor, moment)

    def _end(self, kind: str, by: str, actor: Actor, moment: int) -> Assertion:
        return Assertion(
            begins=moment,
            ends=moment,
            kind=kind,
            input_id=by,
            digest="",
            api=None,
            logging=None,
            append_time=self.gap["first_evidence_at"],
            actor=actor,
            feed_id=self.gap["feed_id"],
        )

    def onto(self, gap: Gap, window: Window) -> Gap:
        """Write into a member's gap, made of one of its windows, what is the parent's."""
        known = self.gap["opened_at_latest"] is not None
        return replace(
            gap,
            incident_id=self.gap["incident_id"],
            inherited_from=self.source,
            confidence=self.gap["confidence"],
            cause=self.gap["cause"],
            opened_at_latest=window.opened_at_latest if known else None,
            opened_by_kind=self.gap["opened_by_kind"],
            opened_by_id=self.gap["opened_by_id"],
        )

    def without(self, gap: Gap, inherited: Mapping[str, "Inherited"]) -> Gap:
        """Write a member's gap that no longer stands; `inherited` holds all that the member was told of, by gap."""
        taking = inherited.get(self.successor or "")
        heirs = list(taking.windows(gap.subject)) if taking else []
        if self.successor is None:
            return replace(gap, state="RETRACTED", superseded_by=None, incident_id=self.gap["incident_id"])
        return replace(
            gap,
            state=SUPERSEDED,
            superseded_by=heirs[0] if heirs else None,
            incident_id=self.gap["incident_id"],
        )


def concerned(gap: Gap, members: Mapping[str, Sequence[Stretch]]) -> list[str]:
    """Name the members that inherit a gap."""
    whole = stretch_of(gap)
    return sorted(name for name, links in members.items() if any(overlap(whole, link) for link in links))
