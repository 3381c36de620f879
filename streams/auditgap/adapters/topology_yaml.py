"""The topology file: YAML to what it says of each parent, feed and organization, or every fault with its line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, model_validator

from auditgap.adapters import yaml_file
from auditgap.adapters.yaml_file import Document, Path, Shape, Text, Time, checked, is_organization
from auditgap.core.inputs import ADMISSION_SKEW, FEED_SUBJECT_PREFIX, PARENT_SUBJECT_PREFIX, shown
from auditgap.core.topology import Alias, Link, Says, Stretch, overlap


@dataclass(frozen=True, slots=True)
class TopologyFile:
    """What a topology file says, by subject: every parent, feed and organization that it names."""

    author: str | None
    subjects: Mapping[str, Says]


def read(name: str, content: bytes, now: int) -> TopologyFile | list[str]:
    """Read a topology file at a time; where it is wrong, give all that is wrong as lines for a person."""
    return yaml_file.read(name, content, "topology", "organizations", partial(_understand, now=now))


# --- the shape --------------------------------------------------------------------------------------------------------

_ID: Final = re.compile(r"[A-Za-z0-9_.:@-]{1,200}")


def _id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise ValueError(f"{shown(value)} is no id: letters, digits and _ . : @ - are")
    return value


def _written_out(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


_Id = Annotated[str, AfterValidator(_id)]


class _Link(Shape):
    id: _Id
    valid_from: Time | None = None
    valid_until: Time | None = None

    @model_validator(mode="after")
    def _possible(self) -> "_Link":
        if self.valid_from is not None and self.valid_until is not None and self.valid_until <= self.valid_from:
            raise ValueError("valid_until is not after valid_from")
        return self

    @property
    def stretch(self) -> Stretch:
        return self.valid_from, self.valid_until


_Links = tuple[Annotated[_Link, BeforeValidator(_written_out)], ...]


class _Parent(Shape):
    feeds: _Links = ()


class _Organization(Shape):
    uuid: _Id | None = None
    parents: _Links = ()
    feeds: _Links = ()


class _File(Shape):
    author: Text | None = None
    feeds: tuple[_Id, ...] = ()
    parents: dict[str, Any] | None = None
    organizations: dict[str, Any]


# --- from shape to what it says ---------------------------------------------------------------------------------------


class _Made:
    """The parts of a file that have the right shape."""

    def __init__(self, head: _File | None) -> None:
        self.feeds = set(head.feeds) if head else set()
        self.parents: dict[str, _Parent] = {}
        self.organizations: dict[str, _Organization] = {}

    def parent_subject(self, parent: str) -> str:
        """Name the subject of a parent: itself where it is an organization."""
        return parent if parent in self.organizations else f"{PARENT_SUBJECT_PREFIX}{parent}"

    def links(self) -> Iterator[tuple[Path, str, _Link]]:
        """Give all links with their places, and what they lead to: "parents" or "feeds"."""
        for section, parts in (("organizations", self.organizations), ("parents", self.parents)):
            for name, part in parts.items():
                for kind in ("parents", "feeds"):
                    for number, link in enumerate(getattr(part, kind, ())):
                        yield (section, name, kind, number), kind, link


def _understand(data: dict[str, Any], document: Document, now: int) -> TopologyFile | None:
    """Make what the file says. Each part is looked at by itself, so that a fault in one hides none in another."""
    head = checked(_File, data, (), document)
    made = _Made(head)
    for name, given in _entries(data, "parents"):
        if not _ID.fullmatch(name) or name.startswith("org_"):
            document.fault(("parents", name), "is no id of a parent: one that the feed knows goes under organizations")
        if (parent := checked(_Parent, given, ("parents", name), document)) is not None:
            made.parents[name] = parent
    for name, given in _entries(data, "organizations"):
        path: Path = ("organizations", name)
        if not is_organization(name):
            document.fault(path, "is no id of an organization: give organization_id as the records of the feed have it")
        if name in made.parents:
            document.fault(path, "is under parents too: keep it here")
        if (organization := checked(_Organization, given, path, document)) is not None:
            made.organizations[name] = organization
    _refuse_uuids(made, document)
    _refuse_links(made, document, now)
    if head is None or document.faults:
        return None
    return TopologyFile(head.author, _said(made))


def _entries(data: dict[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    found = data.get(section)
    yield from found.items() if isinstance(found, dict) else ()


def _refuse_uuids(made: _Made, document: Document) -> None:
    """Refuse a uuid that two organizations have."""
    owners: dict[str, str] = {}
    for name, organization in made.organizations.items():
        if organization.uuid is not None and (other := owners.setdefault(organization.uuid, name)) != name:
            document.fault(("organizations", name, "uuid"), f"{organization.uuid} is the uuid of {other} as well")


def _refuse_links(made: _Made, document: Document, now: int) -> None:
    """Refuse links to what is not in the file, of a parent to a parent, at the same time twice, or ahead of time."""
    leading = {link.id for _, kind, link in made.links() if kind == "parents"}
    for name in sorted(leading & made.organizations.keys()):
        if made.organizations[name].parents:
            document.fault(("organizations", name, "parents"), f"{name} is a parent itself, so that it cannot have one")
    for path, kind, link in made.links():
        known = made.feeds if kind == "feeds" else made.parents.keys() | made.organizations.keys()
        if link.id not in known:
            where = "feeds" if kind == "feeds" else "parents or organizations"
            document.fault((*path, "id"), f"{link.id} is not listed under {where}")
        for name in ("valid_from", "valid_until"):
            if (getattr(link, name) or 0) > now + ADMISSION_SKEW:
                document.fault((*path, name), "lies ahead: say what is, and apply the change when it is made")
    for section, parts in (("organizations", made.organizations), ("parents", made.parents)):
        for name, part in parts.items():
            for kind in ("parents", "feeds"):
                links = enumerate(getattr(part, kind, ()))
                for (_, one), (number, other) in combinations(links, 2):
                    if one.id == other.id and overlap(one.stretch, other.stretch):
                        document.fault((section, name, kind, number), f"{other.id} is there twice at the same time")


def _said(made: _Made) -> dict[str, Says]:
    """Say it of every subject: of those that have members, and of the members."""
    members: dict[str, list[Link]] = {f"{FEED_SUBJECT_PREFIX}{feed}": [] for feed in made.feeds}
    members |= {f"{PARENT_SUBJECT_PREFIX}{parent}": [] for parent in made.parents}
    aliases: dict[str, list[Alias]] = {}
    over: dict[str, list[Link]] = {}
    for name, organization in made.organizations.items():
        own = [Alias(organization_uuid=organization.uuid, organization_id=name)] if organization.uuid else []
        aliases[name] = own
        over[name] = []
        stretches = [(made.parent_subject(link.id), link.stretch) for link in organization.parents]
        stretches += [(f"{FEED_SUBJECT_PREFIX}{link.id}", link.stretch) for link in organization.feeds]
        for link in organization.parents:
            # What a parent's feeds see, they see as long as the organization is of that parent.
            for feed in made.parents[link.id].feeds if link.id in made.parents else ():
                if overlap(link.stretch, feed.stretch):
                    stretches.append((f"{FEED_SUBJECT_PREFIX}{feed.id}", _within(link.stretch, feed.stretch)))
        for subject, (since, until) in stretches:
            over[name].append(Link(subject=subject, valid_from=since, valid_until=until))
            members.setdefault(subject, []).append(Link(subject=name, valid_from=since, valid_until=until))
            if subject.startswith(FEED_SUBJECT_PREFIX):
                aliases.setdefault(subject, []).extend(own)
    return {
        subject: Says(
            tuple(sorted(set(aliases.get(subject, ())))),
            tuple(sorted(set(members.get(subject, ())), key=lambda link: link.order)),
            tuple(sorted(set(over.get(subject, ())), key=lambda link: link.order)),
        )
        for subject in sorted(members.keys() | over.keys())
    }


def _within(one: Stretch, other: Stretch) -> Stretch:
    """Give what two stretches have in common."""
    begins = [each[0] for each in (one, other) if each[0] is not None]
    ends = [each[1] for each in (one, other) if each[1] is not None]
    return max(begins, default=None), min(ends, default=None)
