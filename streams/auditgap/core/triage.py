"""Who switched the feed off, and what else did they do: indicators joined by actor, and the review after a close.

Sign-ins carry no organization, so what speaks for or against an actor is kept on a second keyed path, by feed and
identity. Three pieces of state, none of which knows a clock or a topic (`core.desk` holds them for a shard):

- a `Trail` per (feed, identity) keeps the indicators and the links of that identity, and answers queries;
- an `Inquiry` per disable asks the trails of its actor, follows the links (key → its creator, service account → outside
  subject, e-mail ↔ user id; the address it came from), and holds the verdict;
- a `Review` per close counts what was done in the organization in the 24 hours after it.

What they hold depends only on the set of activities they were given, not on order or repetition. Memory is bounded
by keeping the newest: what no longer fits leaves a floor behind, and below it an answer is "or more", or not checked.
Times are microseconds.
"""

import json
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from auditgap.core.indicators import CATEGORIES, DAY, INDICATORS, LINK_TYPES, LONGEST_BEFORE, Category
from auditgap.core.inputs import Activity, Actor, text

KEPT: Final = 64
"""Indicators of one category that a trail or a review keeps: the newest."""

LISTED: Final = 32
"""Indicators of one category that an answer lists: the newest in its window."""

LINKS: Final = 16
"""Other identities that a trail keeps for its own: those seen last."""

QUERIES: Final = 32
"""Queries that a trail remembers, and answers again when something arrives: those about the latest times."""

KEYS: Final = 16
"""Trails that one inquiry asks."""

HOPS: Final = 2
"""How far an inquiry follows links: an outside subject behind a service account behind a key is two away."""

SUBJECTS: Final = 256
"""People that one record names, at most: those beyond it in a bulk change of a group have no indicator of it."""

ACTORS: Final = 32
"""Actors that a review names: those seen first."""

_NAMED: Final = 3
"""Actors that its sentence names."""

KEPT_FOR: Final = LONGEST_BEFORE + 7 * DAY
"""How long before its newest record a trail remembers: the longest look-back of a disable heard of a week late."""

REVIEW_FOR: Final = DAY
"""How long after a close the review lasts."""

LONGEST_IDENTITY: Final = 320
"""An e-mail address has at most 254 characters; what is longer identifies nobody and fills memory."""

FOUND: Final = "FOUND"
NONE_IN_RECORD: Final = "NONE_IN_RECORD"
NOT_CHECKED: Final = "NOT_CHECKED"

_COUNTED: Final = tuple(category for category in CATEGORIES.values() if category.before is not None)
_AT_ADDRESS: Final = frozenset({"sign_in", "second_factor"})
"""What counts by address alone: an office shares one, and its other admins' work is no sign of anything."""

TRAIL_TYPES: Final = LINK_TYPES | {
    indicator.type for indicator in INDICATORS.values() if CATEGORIES[indicator.category].before is not None
}
"""Activity types for which `parts_of` can name a trail: all others need not be looked at."""

REVIEW_TYPES: Final = frozenset(
    indicator.type for indicator in INDICATORS.values() if CATEGORIES[indicator.category].review
)
"""Activity types that a review counts: all others need not be looked at."""

TRIAGE_TYPES: Final = TRAIL_TYPES | REVIEW_TYPES
"""Activity types whose bodies triage has to see."""


# --- identities -----------------------------------------------------------------------------------------------------

_KEY_PREFIXES: Final = ("admin_api_key_", "apikey_")
_KIND_OF_FIELD: Final = {
    "user_id": "user",
    "admin_api_key_id": "key",
    "api_key_id": "key",
    "service_account_id": "service",
    "federated_identity_id": "federated",
    "subject": "federated",
    "directory_id": "directory",
    "device_id": "device",
    "email_address": "email",
    "email": "email",
    "unauthenticated_email_address": "email",
}
_KIND_OF_ACTOR: Final = {
    "api_actor": "key",
    "admin_api_key_actor": "key",
    "user_actor": "user",
    "service_account_actor": "service",
    "federated_identity_actor": "federated",
    "federated_actor": "federated",
    "scim_directory_sync_actor": "directory",
    "attested_device_actor": "device",
}


def _identity(kind: str, value: object) -> str | None:
    """Name one identity; the same key under its two prefixes is one, and so is an address in other case."""
    name = text(value)
    if name is None or len(name) > LONGEST_IDENTITY:
        return None
    if kind == "principal":
        kind = "key" if name.startswith(_KEY_PREFIXES) else "user"
    if kind == "key":
        for prefix in _KEY_PREFIXES:
            name = name.removeprefix(prefix)
    elif kind == "email":
        name = name.strip().lower()
    return f"{kind}:{name}" if name else None


def identities_of(actor: Actor) -> tuple[str, ...]:
    """Name an actor by all that a gap knows of it: its id, its e-mail, its address, in this order."""
    kind = _KIND_OF_ACTOR.get(actor.type or "", "principal")
    names = (_identity(kind, actor.id), _identity("email", actor.email), _identity("address", actor.ip))
    return tuple(name for name in names if name is not None)


def _is_address(identity: str) -> bool:
    return identity.startswith("address:")


def key_of(feed_id: str | None, identity: str) -> str:
    """Name the record key of an identity's trail."""
    return json.dumps([feed_id or "default", identity], separators=(",", ":"))


class Entry(NamedTuple):
    """One indicator: when, which record, where ("" if it names no organization), and by whom ("" if unknown)."""

    at: int
    id: str
    type: str
    organization_id: str
    by: str


@dataclass(slots=True)
class Part:
    """What one activity, at a time, tells one identity's trail: an indicator or none, and links with the reason."""

    at: int
    entry: Entry | None = None
    links: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {"at": self.at, "entry": self.entry and list(self.entry), "links": self.links}

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Part":
        """Undo `to_dict`."""
        return cls(shape["at"], Entry(*shape["entry"]) if shape["entry"] else None, dict(shape["links"]))


def _record_of(activity: Activity) -> Mapping[str, Any]:
    try:
        record = json.loads(activity.raw)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, Mapping) else {}


def _named(record: Mapping[str, Any], name: str, kind: str) -> list[str]:
    value = record.get(name)
    values = value if isinstance(value, list) else [value]
    return [found for each in values[:SUBJECTS] if (found := _identity(kind, each)) is not None]


def _actor_identities(activity: Activity, record: Mapping[str, Any]) -> list[str]:
    names = [name for name in identities_of(activity.actor) if not _is_address(name)]
    actor = record.get("actor")
    if isinstance(actor, Mapping):
        names += (found for key, kind in _KIND_OF_FIELD.items() for found in _named(actor, key, kind))
    return list(dict.fromkeys(names))


def _entry_of(activity: Activity, by: str) -> Entry:
    return Entry(activity.created_at or 0, activity.id, activity.type, activity.organization_id or "", by)


def parts_of(activity: Activity) -> dict[str, Part]:
    """Read what an activity tells, by the key of the trail it has to be sent to. Most tell nothing, and to none."""
    if activity.type not in TRAIL_TYPES or activity.created_at is None:
        return {}
    indicator = INDICATORS.get(activity.type)
    record = _record_of(activity)
    counts = indicator is not None and indicator.counts(record)
    actors = _actor_identities(activity, record)
    subjects = [x for name, kind in (indicator.subjects if indicator else ()) for x in _named(record, name, kind)]
    made = [x for name in (indicator.makes if indicator else ()) for x in _named(record, name, "key")]
    entry = _entry_of(activity, actors[0] if actors else "") if counts else None
    parts = {name: Part(activity.created_at, entry) for name in (*actors, *subjects, *made)}
    address = _identity("address", activity.actor.ip)
    if address is not None and counts and indicator is not None and indicator.category in _AT_ADDRESS:
        parts[address] = Part(activity.created_at, entry)

    def link(sources: Iterable[str], targets: Iterable[str], reason: str) -> None:
        for source in sources:
            parts[source].links.update({target: reason for target in targets if target != source})

    link(actors, actors, "the same actor, as a record says")
    link(made, actors, "created this key")
    # A refused sign-in leads nowhere: whoever was refused is not the account that was asked for.
    if activity.type == "platform_federated_authentication" and not counts:
        link(subjects, actors, "signed in as this service account")
    if sorted(name.partition(":")[0] for name in subjects) == ["email", "user"]:
        link(subjects, subjects, "the same person, as a record says")
    told = {name: part for name, part in parts.items() if part.entry is not None or part.links}
    return {key_of(activity.feed_id, name): part for name, part in told.items()}


def review_entry(activity: Activity) -> Entry | None:
    """Read what an activity tells a review, None where that is nothing. It names who did it, at least by type."""
    indicator = INDICATORS.get(activity.type)
    if indicator is None or not CATEGORIES[indicator.category].review:
        return None
    if activity.created_at is None or activity.organization_id is None:
        return None
    record = _record_of(activity)
    if not indicator.counts(record):
        return None
    names = _actor_identities(activity, record)
    return _entry_of(activity, names[0] if names else f"type:{activity.actor.type or 'unknown'}")


# --- bounded memory -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Shelf:
    """The newest entries, sorted, and the newest of those that were dropped: none above the floor is missing."""

    entries: list[Entry] = field(default_factory=list)
    floor: Entry | None = None

    def add(self, entry: Entry, limit: int) -> bool:
        """Take an entry in; False if it is a repeat or too old to be kept."""
        if self.floor is not None and entry <= self.floor:
            return False
        position = bisect_left(self.entries, entry)
        if self.entries[position : position + 1] == [entry]:
            return False
        self.entries.insert(position, entry)
        if len(self.entries) > limit:
            self.floor = self.entries.pop(0)
        return True

    def prune(self, before: int) -> None:
        """Drop the entries before that time."""
        dropped = bisect_left(self.entries, (before,))
        if dropped:
            self.floor = self.entries[dropped - 1]
            del self.entries[:dropped]

    def between(self, first: int, last: int) -> list[Entry]:
        """List the entries from `first` to `last`, both included."""
        return [entry for entry in self.entries if first <= entry.at <= last]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {"entries": [list(entry) for entry in self.entries], "floor": self.floor and list(self.floor)}

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Shelf":
        """Undo `to_dict`."""
        return cls([Entry(*entry) for entry in shape["entries"]], Entry(*shape["floor"]) if shape["floor"] else None)


def _shelves_to_dict(shelves: Mapping[str, Shelf]) -> dict[str, Any]:
    return {name: shelves[name].to_dict() for name in sorted(shelves)}


def _shelves_from_dict(shape: Mapping[str, Any]) -> dict[str, Shelf]:
    return {name: Shelf.from_dict(each) for name, each in shape.items()}


_NOTHING: Final = Shelf()
"""An empty one, to read only."""


# --- one identity ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Query:
    """What a disable at time `at` asks of the trail `key`, on behalf of an inquiry about `subject`."""

    at: int
    inquiry_id: str
    key: str
    subject: str

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {"at": self.at, "inquiry_id": self.inquiry_id, "key": self.key, "subject": self.subject}

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Query":
        """Undo `to_dict`."""
        return cls(shape["at"], shape["inquiry_id"], shape["key"], shape["subject"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a trail says: indicators in their look-back, newest of each category, and who else it leads to.

    `lost` names the categories of which something in the look-back may have been dropped, `more` those of which more
    is known than is listed. `links_lost` says that other identities were dropped.
    """

    query: Query
    entries: tuple[Entry, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    lost: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    links_lost: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "query": self.query.to_dict(),
            "entries": [list(entry) for entry in self.entries],
            "links": [list(link) for link in self.links],
            "lost": list(self.lost),
            "more": list(self.more),
            "links_lost": self.links_lost,
        }

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Answer":
        """Undo `to_dict`."""
        return cls(
            Query.from_dict(shape["query"]),
            tuple(Entry(*entry) for entry in shape["entries"]),
            tuple((identity, reason) for identity, reason in shape["links"]),
            tuple(shape["lost"]),
            tuple(shape["more"]),
            shape["links_lost"],
        )


class Trail:
    """What is known of one identity of one feed. It answers queries, and again whenever an answer changes.

    What happened up to `forgotten` may have been forgotten before this trail began: 0 where nothing was.
    """

    __slots__ = ("forgotten", "key", "links", "links_lost", "newest", "queries", "shelves")

    def __init__(self, key: str, forgotten: int = 0) -> None:
        self.key = key
        self.forgotten = forgotten
        self.shelves: dict[str, Shelf] = {}
        self.links: dict[str, tuple[int, str]] = {}
        self.links_lost = False
        self.newest = 0
        self.queries: list[Query] = []

    def take(self, part: Part) -> list[Answer]:
        """Take in what an activity tells under this key; give the answers that it changed."""
        before = [self._answer(query) for query in self.queries]
        # A type that is no indicator (any more) was sent by another version.
        if part.entry is not None and (indicator := INDICATORS.get(part.entry.type)) is not None:
            self.shelves.setdefault(indicator.category, Shelf()).add(part.entry, KEPT)
        for identity, reason in part.links.items():
            self._link(identity, part.at, reason)
        self.newest = max(self.newest, part.at)
        for shelf in self.shelves.values():
            shelf.prune(self.newest - KEPT_FOR)
        answers = [self._answer(query) for query in self.queries]
        return [answer for answer, old in zip(answers, before, strict=True) if answer != old]

    def ask(self, query: Query) -> Answer:
        """Answer a query, and remember it; a repeat is answered again."""
        if query not in self.queries:
            insort(self.queries, query)
            del self.queries[:-QUERIES]
        return self._answer(query)

    def expired(self, moment: int) -> bool:
        """Whether nothing here can matter at that time any more: the trail can be forgotten."""
        latest = max(self.newest, self.queries[-1].at if self.queries else 0)
        return latest + KEPT_FOR < moment

    def _link(self, identity: str, at: int, reason: str) -> None:
        self.links[identity] = max(self.links.get(identity, (at, reason)), (at, reason))
        if len(self.links) > LINKS:
            del self.links[min(self.links, key=lambda name: (self.links[name][0], name))]
            self.links_lost = True

    def _answer(self, query: Query) -> Answer:
        entries: list[Entry] = []
        lost, more = [], []
        for category in _COUNTED:
            shelf = self.shelves.get(category.name, _NOTHING)
            first, last = _window(category, query.at)
            found = shelf.between(first, last)
            entries += found[-LISTED:]
            if len(found) > LISTED:
                more.append(category.name)
            if max(self.forgotten, shelf.floor.at if shelf.floor is not None else 0) >= first:
                lost.append(category.name)
        links = tuple((identity, self.links[identity][1]) for identity in sorted(self.links))
        return Answer(query, tuple(entries), links, tuple(lost), tuple(more), self.links_lost)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "key": self.key,
            "forgotten": self.forgotten,
            "shelves": _shelves_to_dict(self.shelves),
            "links": {identity: list(self.links[identity]) for identity in sorted(self.links)},
            "links_lost": self.links_lost,
            "newest": self.newest,
            "queries": [query.to_dict() for query in self.queries],
        }

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Trail":
        """Undo `to_dict`."""
        trail = cls(shape["key"], shape["forgotten"])
        trail.shelves = _shelves_from_dict(shape["shelves"])
        trail.links = {identity: (at, reason) for identity, (at, reason) in shape["links"].items()}
        trail.links_lost = shape["links_lost"]
        trail.newest = shape["newest"]
        trail.queries = [Query.from_dict(query) for query in shape["queries"]]
        return trail


def _window(category: Category, at: int) -> tuple[int, int]:
    return at - (category.before or 0), at + (category.after or 0)


# --- one disable ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Evidence:
    """One indicator of a finding, with why it matters."""

    at: int
    id: str
    type: str
    category: str
    why: str
    organization_id: str
    by: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What `actor_compromise_indicators` says: the verdict, its evidence in order of time, and what was looked at.

    `asked` lists identities with how the actor leads to them. `unchecked` says in words what the record does not
    cover; it is empty under NONE_IN_RECORD, and may not be under FOUND. `more` names categories of which not all is
    listed.
    """

    verdict: str
    evidence: tuple[Evidence, ...]
    asked: tuple[tuple[str, str], ...]
    unchecked: tuple[str, ...]
    more: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One sentence for the alert."""
        if self.verdict == NONE_IN_RECORD:
            return "nothing in the record speaks against the actor"
        if self.verdict == NOT_CHECKED:
            return f"the actor could not be checked: {'; '.join(self.unchecked)}"
        counts = dict.fromkeys(CATEGORIES, 0)
        for each in self.evidence:
            counts[each.category] += 1
        return f"found about the actor: {_counted(counts, self.more)}"


def _counted(counts: Mapping[str, int], more: Iterable[str]) -> str:
    known = set(more)
    return ", ".join(
        f"{CATEGORIES[name].meaning}: {count}{' or more' if name in known else ''}"
        for name, count in counts.items()
        if count
    )


@dataclass(slots=True)
class _Heard:
    """What a trail has answered, apart from the indicators."""

    links: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    links_lost: bool = False


class Inquiry:
    """What one disable wants to know of its actor, and what it knows so far.

    It is about `subject`, whose feed `actor` switched off at time `at`. What a trail drops later stays here, up to
    LISTED of each category.
    """

    __slots__ = ("actor", "at", "feed_id", "first", "heard", "id", "more", "sent", "shelves", "subject")

    def __init__(self, name: str, subject: str, feed_id: str | None, actor: Actor, at: int) -> None:
        self.id = name
        self.subject = subject
        self.feed_id = feed_id
        self.actor = actor
        self.at = at
        self.heard: dict[str, _Heard] = {}
        self.sent: set[str] = set()
        self.first: dict[str, Entry] = {}
        self.shelves: dict[str, Shelf] = {}
        self.more: set[str] = set()

    def begin(self) -> list[Query]:
        """Give the first queries, each to be sent to the trail it names."""
        return self._queries()

    def take(self, answer: Answer) -> list[Query]:
        """Take an answer in, or an answer that changed; give the queries that follow from it."""
        if answer.query.inquiry_id != self.id:
            return []
        heard = self.heard.setdefault(str(json.loads(answer.query.key)[1]), _Heard())
        heard.links.update(answer.links)
        heard.lost.update(answer.lost)
        heard.links_lost = heard.links_lost or answer.links_lost
        self.more.update(answer.more)
        for entry in answer.entries:
            if (indicator := INDICATORS.get(entry.type)) is not None:
                name = indicator.category
                self.shelves.setdefault(name, Shelf()).add(entry, LISTED)
                self.first[name] = min(self.first.get(name, entry), entry)
        return self._queries()

    def _queries(self) -> list[Query]:
        new = [identity for identity in self._reached() if identity not in self.sent]
        self.sent.update(new)
        return [Query(self.at, self.id, key_of(self.feed_id, identity), self.subject) for identity in new]

    def _reached(self) -> dict[str, str]:
        """Follow the links, nearest first: each identity that the actor leads to, with how it does."""
        level = identities_of(self.actor)
        reached = {name: "the address it came from" if _is_address(name) else "the actor" for name in level}
        for _ in range(HOPS):
            links = [(target, source) for source in level for target in self._links(source)]
            level = ()
            for target, source in sorted(links):
                if target not in reached and len(reached) < KEYS:
                    reached[target] = f"{source}: {self._links(source)[target]}"
                    level += (target,)
        return reached

    def _links(self, identity: str) -> dict[str, str]:
        heard = self.heard.get(identity)
        return {} if heard is None else heard.links

    @property
    def pending(self) -> bool:
        """Whether some trail has not answered yet."""
        return not self._reached().keys() <= self.heard.keys()

    def finding(self, known_from: int | None) -> Finding:
        """Say what is known now. Before all answers are in, the verdict is FOUND or NOT_CHECKED.

        `known_from` is the time from which on the feed's record is there without a hole, as far as the asking side
        knows: its first record, or the close of an earlier gap, whichever is later; None if unknown.
        """
        evidence = sorted(
            Evidence(entry.at, entry.id, entry.type, name, INDICATORS[entry.type].why, entry.organization_id, entry.by)
            for name, shelf in self.shelves.items()
            for entry in shelf.entries
        )
        reached = self._reached()
        unchecked = tuple(self._unchecked(reached, known_from))
        lost = {name for heard in self.heard.values() for name in heard.lost}
        full = {name for name, shelf in self.shelves.items() if shelf.floor is not None}
        return Finding(
            FOUND if evidence else NOT_CHECKED if unchecked else NONE_IN_RECORD,
            tuple(evidence),
            tuple(sorted(reached.items())),
            unchecked,
            tuple(sorted(self.more | lost | full)),
        )

    def ids(self, finding: Finding) -> tuple[str, ...]:
        """Name the records of a finding for its alert, oldest first; of a category with more than is listed, the first.

        The newest of so many go on changing: each would make another revision of the alert.
        """
        many = [self.first[name] for name in finding.more if name in self.first]
        few = [each for each in finding.evidence if each.category not in finding.more]
        known = sorted([*((entry.at, entry.id) for entry in many), *((each.at, each.id) for each in few)])
        return tuple(dict.fromkeys(identifier for _, identifier in known))

    def _unchecked(self, reached: Mapping[str, str], known_from: int | None) -> Iterator[str]:
        if all(_is_address(identity) for identity in reached):
            yield "the actor is not known"
        if known_from is None:
            yield "it is not known from when on the record is there"
        else:
            for before in sorted({category.before or 0 for category in _COUNTED}):
                if known_from > self.at - before:
                    names = ", ".join(category.meaning for category in _COUNTED if category.before == before)
                    # Without the time: each older record that comes in late would make another revision.
                    yield f"the record begins too late for {names}"
        if not reached.keys() <= self.heard.keys():
            yield "not all answers are in yet"
        for identity in sorted(reached.keys() & self.heard.keys()):
            heard = self.heard[identity]
            for name in sorted(heard.lost):
                yield f"not all is kept of {identity}: {CATEGORIES[name].meaning}"
            if identity.startswith("key:") and not heard.links:
                yield f"who created {identity} is not in the record"
            if heard.links_lost or not heard.links.keys() <= reached.keys():
                yield f"{identity} leads to more identities than were asked about"

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        actor = self.actor
        return {
            "id": self.id,
            "subject": self.subject,
            "feed_id": self.feed_id,
            "actor": [actor.type, actor.id, actor.email, actor.ip, actor.user_agent],
            "at": self.at,
            "heard": {
                name: {"links": heard.links, "lost": sorted(heard.lost), "links_lost": heard.links_lost}
                for name, heard in self.heard.items()
            },
            "sent": sorted(self.sent),
            "first": {name: list(self.first[name]) for name in sorted(self.first)},
            "shelves": _shelves_to_dict(self.shelves),
            "more": sorted(self.more),
        }

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Inquiry":
        """Undo `to_dict`."""
        inquiry = cls(shape["id"], shape["subject"], shape["feed_id"], Actor(*shape["actor"]), shape["at"])
        for name, heard in shape["heard"].items():
            inquiry.heard[name] = _Heard(dict(heard["links"]), set(heard["lost"]), heard["links_lost"])
        inquiry.sent = set(shape["sent"])
        inquiry.first = {name: Entry(*entry) for name, entry in shape["first"].items()}
        inquiry.shelves = _shelves_from_dict(shape["shelves"])
        inquiry.more = set(shape["more"])
        return inquiry


# --- one close ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What was done of one category after a close; `more` where it is at least `count`."""

    category: str
    count: int
    more: bool
    first_id: str
    first_at: int
    last_id: str
    last_at: int


@dataclass(frozen=True, slots=True)
class ReviewContent:
    """What `post_gap_review` says: by category what was done, and by whom, those seen first first."""

    closed_at: int
    until: int
    categories: tuple[Reviewed, ...]
    actors: tuple[str, ...]
    more_actors: bool

    @property
    def summary(self) -> str:
        """One sentence for the alert."""
        counts = {each.category: each.count for each in self.categories}
        done = _counted(counts, [each.category for each in self.categories if each.more])
        others = len(self.actors) - _NAMED
        by = ", ".join(self.actors[:_NAMED])
        if others > 0:
            by += f" and {others}{' or more' if self.more_actors else ''} others"
        return f"in the 24 hours after the close: {done}; by {by}"


class Review:
    """What was done in an organization in the 24 hours after a gap's close, by anyone.

    `lost` says that the review began late: of what was done before that, some may be missing.
    """

    __slots__ = ("actors", "closed_at", "first", "lost", "more_actors", "shelves")

    def __init__(self, closed_at: int) -> None:
        self.closed_at = closed_at
        self.lost = False
        self.first: dict[str, Entry] = {}
        self.shelves: dict[str, Shelf] = {}
        self.actors: dict[str, int] = {}
        self.more_actors = False

    @property
    def until(self) -> int:
        """The last moment that counts."""
        return self.closed_at + REVIEW_FOR

    def take(self, entry: Entry) -> bool:
        """Take in what an activity of the organization tells (`review_entry`); False if that changes nothing."""
        indicator = INDICATORS.get(entry.type)
        if indicator is None or not self.closed_at <= entry.at <= self.until:
            return False
        category = indicator.category
        changed = self.shelves.setdefault(category, Shelf()).add(entry, KEPT)
        if category not in self.first or entry < self.first[category]:
            self.first[category] = entry
            changed = True
        if entry.at < self.actors.get(entry.by, self.until + 1):
            self._actor(entry.by, entry.at)
            changed = True
        return changed

    @property
    def whole(self) -> bool:
        """Whether it still knows all that it counts."""
        return not self.lost and all(shelf.floor is None for shelf in self.shelves.values())

    def entries(self) -> set[Entry]:
        """List what it still knows in full."""
        return {*self.first.values(), *(entry for shelf in self.shelves.values() for entry in shelf.entries)}

    def _actor(self, name: str, at: int) -> None:
        self.actors[name] = min(self.actors.get(name, at), at)
        if len(self.actors) > ACTORS:
            del self.actors[max(self.actors, key=lambda each: (self.actors[each], each))]
            self.more_actors = True

    def content(self) -> ReviewContent | None:
        """Say what is known now; None while there is nothing to tell."""
        if not self.shelves:
            return None
        found = []
        for name in CATEGORIES:
            if (shelf := self.shelves.get(name)) is not None:
                first, last = self.first[name], shelf.entries[-1]
                count, more = len(shelf.entries), shelf.floor is not None or self.lost
                found.append(Reviewed(name, count, more, first.id, first.at, last.id, last.at))
        actors = tuple(sorted(self.actors, key=lambda each: (self.actors[each], each)))
        return ReviewContent(self.closed_at, self.until, tuple(found), actors, self.more_actors)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "closed_at": self.closed_at,
            "lost": self.lost,
            "first": {name: list(self.first[name]) for name in sorted(self.first)},
            "shelves": _shelves_to_dict(self.shelves),
            "actors": {name: self.actors[name] for name in sorted(self.actors)},
            "more_actors": self.more_actors,
        }

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Review":
        """Undo `to_dict`."""
        review = cls(shape["closed_at"])
        review.lost = shape["lost"]
        review.first = {name: Entry(*entry) for name, entry in shape["first"].items()}
        review.shelves = _shelves_from_dict(shape["shelves"])
        review.actors = dict(shape["actors"])
        review.more_actors = shape["more_actors"]
        return review
