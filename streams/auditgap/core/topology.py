"""Which organizations belong to a parent, and which a feed's key can see: versions per subject, and what they mean.

Each subject has a chain of versions of its own: that of a parent or a feed names its members, that of an organization
what it belongs to and the uuids that stand for it. What is said of the past is believed where it makes a window longer,
never where it takes one back:

| a version says | it counts |
|---|---|
| a member from a time | from that time, also if it was past when the version was appended |
| a member from no time | always in the first version; in a later one from its append time, if it is new |
| a member until a time | until then in the first version; later on never from before the append time |
| a member no longer | until the append time |
| a uuid | for what is read after it |

A time that lies ahead is refused: a topology says what is, not what is planned.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from auditgap.core import times, versions
from auditgap.core.inputs import ADMISSION_SKEW, Rejection
from auditgap.core.records import digest

REFUSED: Final = "topology_refused"

Stretch = tuple[int | None, int | None]
"""From when until when, in microseconds; None: always, and still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A member of a parent or feed, or what an organization belongs to; None: no time is said, and it still is."""

    subject: str
    valid_from: int | None = None
    valid_until: int | None = None

    def __post_init__(self) -> None:
        if not self.subject:
            raise ValueError("a link names nobody")
        if self.valid_from is not None and self.valid_until is not None and self.valid_until <= self.valid_from:
            raise ValueError(f"the link to {self.subject} ends before it begins")

    @property
    def order(self) -> tuple[str, bool, int]:
        """Sort key: by subject, then by beginning."""
        return self.subject, self.valid_from is not None, self.valid_from or 0

    def __str__(self) -> str:
        since = "" if self.valid_from is None else f" from {times.text_of(self.valid_from)}"
        return self.subject + since + ("" if self.valid_until is None else f" until {times.text_of(self.valid_until)}")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Alias:
    """The uuid of an organization, and the id that its activities carry."""

    organization_uuid: str
    organization_id: str

    def __post_init__(self) -> None:
        if not (self.organization_uuid and self.organization_id):
            raise ValueError("an alias lacks an id")


class Says(NamedTuple):
    """What a version says, as Topology has it."""

    aliases: tuple[Alias, ...] = ()
    members: tuple[Link, ...] = ()
    belongs_to: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """One version of what is known about one subject. Links and aliases are sorted, each once.

    `members` are those of a parent, a feed, or an organization that is a parent; `belongs_to` are the parents and feeds
    of an organization; `aliases` its own uuids, or those of a feed's members.
    """

    subject: str
    version: int
    previous_digest: str | None
    author: str
    produced_at: int
    aliases: tuple[Alias, ...] = ()
    members: tuple[Link, ...] = ()
    belongs_to: tuple[Link, ...] = ()
    append_time: int

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError("a version counts from 1")
        if not (self.subject and self.author):
            raise ValueError("it names no subject, or no author")
        object.__setattr__(self, "aliases", tuple(sorted(set(self.aliases))))
        for name in ("members", "belongs_to"):
            links = tuple(sorted(set(getattr(self, name)), key=lambda link: link.order))
            object.__setattr__(self, name, links)

    @property
    def digest(self) -> str:
        """What the next version has to name: SHA-256 over canonical JSON of all but the append time."""
        return digest({name: _said(value) for name, value in as_shape(self).items()})

    @property
    def says(self) -> Says:
        """What it says, without its stamps."""
        return Says(self.aliases, self.members, self.belongs_to)


def _said(value: object) -> object:
    """Leave out what is None, so that a field added later changes no digest."""
    if isinstance(value, list):
        return [{name: each for name, each in item.items() if each is not None} for item in value]
    return value


# --- what it means ----------------------------------------------------------------------------------------------------


def members_of(chain: Iterable[Topology]) -> dict[str, tuple[Stretch, ...]]:
    """Give the members of a subject, by the versions of its chain in order: when each was one, see the module."""
    members: dict[str, tuple[Stretch, ...]] = {}
    first = True
    for version in chain:
        said: dict[str, list[Stretch]] = {}
        now = version.append_time
        for link in version.members:
            since = now if link.valid_from is None and not first else link.valid_from
            # One that ended before it was said, without a time of its beginning, had ended already.
            if since is None or link.valid_until is None or since < link.valid_until:
                said.setdefault(link.subject, []).append((since, link.valid_until))
        kept = {name: _until(stretches, now) for name, stretches in members.items()}
        names = sorted(said.keys() | kept.keys())
        members = {name: joined for name in names if (joined := _joined([*kept.get(name, ()), *said.get(name, ())]))}
        first = False
    return members


def _until(stretches: Iterable[Stretch], end: int) -> list[Stretch]:
    """Cut off what lies after a time."""
    return [
        (since, end if until is None else min(until, end)) for since, until in stretches if since is None or since < end
    ]


def _joined(stretches: Iterable[Stretch]) -> tuple[Stretch, ...]:
    """Join those that touch; in order."""
    joined: list[Stretch] = []
    for since, until in sorted(stretches, key=lambda each: (each[0] is not None, each[0] or 0)):
        if joined:
            begin, end = joined[-1]
            if end is None or since is None or since <= end:
                joined[-1] = (begin, None if end is None or until is None else max(end, until))
                continue
        joined.append((since, until))
    return tuple(joined)


def overlap(stretch: Stretch, other: Stretch) -> bool:
    """Whether two stretches have a moment in common."""
    (begin, end), (since, until) = stretch, other
    return (begin is None or until is None or begin < until) and (since is None or end is None or since < end)


# --- versions ---------------------------------------------------------------------------------------------------------


def extended(chain: tuple[Topology, ...], new: Topology) -> tuple[Topology, ...] | Rejection:
    """Take in a version of a subject's chain: the chain with it, the very same one if it is a repeat, or why not."""
    follows = versions.follows(chain, new, new.subject, REFUSED)
    if isinstance(follows, Rejection):
        return follows
    if not follows:
        return chain
    for link in (*new.members, *new.belongs_to):
        if max(link.valid_from or 0, link.valid_until or 0) > new.append_time + ADMISSION_SKEW:
            return Rejection(REFUSED, f"version {new.version} of {new.subject} tells of a time that lies ahead: {link}")
    return (*chain, new)


def successor(latest: Topology | None, subject: str, says: Says, author: str, now: int) -> Topology:
    """Make the next version; its append time is only now until the broker says it."""
    return Topology(
        subject=subject,
        version=latest.version + 1 if latest else 1,
        previous_digest=latest.digest if latest else None,
        author=author,
        produced_at=now,
        **says._asdict(),
        append_time=now,
    )


def as_shape(topology: Topology) -> dict[str, Any]:
    """Give a version in the shape of its Avro schema, times in microseconds. The append time is the broker's."""
    shape = asdict(topology)
    del shape["append_time"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in shape.items()}


def from_shape(shape: Mapping[str, Any], append_time: int) -> Topology | Rejection:
    """Undo `as_shape`; fields that it does not know are left out (a newer schema added them)."""
    try:
        return Topology(
            subject=shape["subject"],
            version=shape["version"],
            previous_digest=shape["previous_digest"],
            author=shape["author"],
            produced_at=shape["produced_at"],
            aliases=tuple(
                Alias(organization_uuid=each["organization_uuid"], organization_id=each["organization_id"])
                for each in shape["aliases"]
            ),
            members=_links(shape["members"]),
            belongs_to=_links(shape["belongs_to"]),
            append_time=append_time,
        )
    except (KeyError, TypeError, ValueError) as error:
        return Rejection(REFUSED, f"it is no topology that can be used: {error}")


def _links(shapes: Iterable[Mapping[str, Any]]) -> tuple[Link, ...]:
    return tuple(
        Link(subject=each["subject"], valid_from=each["valid_from"], valid_until=each["valid_until"]) for each in shapes
    )


# --- in words ---------------------------------------------------------------------------------------------------------


def difference(old: Topology | None, new: Topology) -> tuple[str, ...]:
    """Say what a version changes, a clause for each thing."""
    said: list[str] = []
    for what, name in (("member", "members"), ("belongs to", "belongs_to")):
        said += _moved(what, getattr(old, name, ()), getattr(new, name))
    said += _moved("uuid", _uuids(old), _uuids(new))
    return tuple(said) or ("it says what it said",)


def _uuids(topology: Topology | None) -> tuple[str, ...]:
    aliases = topology.aliases if topology else ()
    return tuple(f"{each.organization_uuid} is {each.organization_id}" for each in aliases)


def _moved(what: str, before: Iterable[object], after: Iterable[object]) -> list[str]:
    was, is_now = dict.fromkeys(map(str, before)), dict.fromkeys(map(str, after))
    added = [f"{what} added: {each}" for each in is_now if each not in was]
    return added + [f"{what} removed: {each}" for each in was if each not in is_now]
