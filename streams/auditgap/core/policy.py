"""Who may change the settings, planned changes, and limits: versions of a policy, and what they say of an actor.

Each organization has a chain of versions; those of the defaults, whose organization is None, speak for every
organization that has none of its own in force. A version counts from `valid_from`, but never from before it was
appended: what is written afterwards changes what is known now, not what was known at an opening.
"""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Final

from auditgap.core import times, versions
from auditgap.core.inputs import OPERATOR, Actor, Rejection
from auditgap.core.records import digest

LISTED: Final = "LISTED"
NOT_LISTED: Final = "NOT_LISTED"
UNKNOWN: Final = "UNKNOWN"

KEY_PREFIXES: Final = ("admin_api_key_", "apikey_")
"""One key goes by two ids (vendor's records): what follows the prefix is the same."""

LONGEST_WINDOW: Final = 24 * 3600 * times.SECOND

_DAY: Final = 24 * 3600

_ASCII_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Other letters stay: some that look like "k" or "i" become these in lower case, and are not."""


def key_suffix(identifier: str | None) -> str:
    """Give what the two ids of one key have in common; empty where it is no full id of a key."""
    for prefix in KEY_PREFIXES:
        if identifier is not None and identifier.startswith(prefix):
            return identifier.removeprefix(prefix)
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """A list of actors, sorted and without repeats; e-mail addresses in lower case, keys by their full id."""

    users: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if field.name == "emails":
                values = (each.translate(_ASCII_LOWER) for each in values)
            object.__setattr__(self, field.name, tuple(sorted(set(values))))
        if not all(map(key_suffix, self.keys)):
            raise ValueError(f"a key's full id begins with {' or '.join(KEY_PREFIXES)}")

    def __bool__(self) -> bool:
        return bool(self.users or self.emails or self.keys or self.service_accounts)

    def holds(self, actor: Actor) -> bool:
        """Whether an actor is one of them. Types that prove no identity, and unknown ones, are never."""
        match actor.type:
            case "user_actor":
                email = actor.email.translate(_ASCII_LOWER) if actor.email else None
                return actor.id in self.users or email in self.emails
            case "api_actor" | "admin_api_key_actor":
                return _is_one_of(actor, self.keys)
            case "service_account_actor":
                return actor.id in self.service_accounts
            case _:
                return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeWindow:
    """A planned change: these actors may switch the feed off between `start` and `end`. `id` names the ticket."""

    id: str
    reason: str
    actors: Actors
    registered_at: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if fault := self._fault():
            raise ValueError(f"change window {self.id}: {fault}")

    def _fault(self) -> str | None:
        if not self.actors:
            return "it names no actor: say who makes the change"
        if self.end <= self.start:
            return "its end is not after its start"
        if self.end - self.start > LONGEST_WINDOW:
            return "it is longer than 24 hours: split it"
        if self.registered_at >= self.start:
            return "it is not registered before its start: a change that is written down afterwards is not planned"
        return None

    def __str__(self) -> str:
        return f"{self.id} ({self.reason}), {times.text_of(self.start)} to {times.text_of(self.end)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Somebody knows of a gap: its escalation stops until then, its record stays."""

    gap_id: str
    until: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one version says, the defaults filled in. A field that is added later has to be None where it says nothing.

    `owners` and `authorised` are both LISTED; a feed's own keys (`watcher_keys`) never are. `proof_limit_seconds` is
    how long a proof of recording holds. `gap_still_open_seconds` are the steps of escalation; daily after the last.
    """

    owners: Actors = Actors()
    authorised: Actors = Actors()
    watcher_keys: tuple[str, ...] = ()
    proof_limit_seconds: int = 15 * 60
    settle_seconds: int = 60
    gap_still_open_seconds: tuple[int, ...] = (15 * 60, 3600, 4 * 3600, _DAY)
    decommissioned: bool = False
    acknowledged: tuple[Acknowledgement, ...] = ()
    change_windows: tuple[ChangeWindow, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "watcher_keys", tuple(sorted(set(self.watcher_keys))))
        object.__setattr__(self, "acknowledged", tuple(sorted(self.acknowledged, key=lambda each: each.gap_id)))
        object.__setattr__(self, "change_windows", tuple(sorted(self.change_windows, key=lambda each: each.id)))
        if not all(map(key_suffix, self.watcher_keys)):
            raise ValueError(f"a key's full id begins with {' or '.join(KEY_PREFIXES)}")
        steps = self.gap_still_open_seconds
        if not steps or steps[0] <= 0 or any(later <= sooner for sooner, later in pairwise(steps)):
            raise ValueError("the steps of gap_still_open do not rise from above 0")
        if self.proof_limit_seconds <= 0 or self.settle_seconds < 0:
            raise ValueError("proof_limit is not above 0, or settle is below it")
        for name, ids in (
            ("gap", [each.gap_id for each in self.acknowledged]),
            ("change window", [each.id for each in self.change_windows]),
        ):
            if len(set(ids)) < len(ids):
                raise ValueError(f"a {name} is named twice")

    def acknowledgement(self, gap_id: str, at: int) -> Acknowledgement | None:
        """Give what stops the escalation of a gap at a time."""
        return next((each for each in self.acknowledged if each.gap_id == gap_id and at < each.until), None)

    def step_passed(self, open_seconds: float) -> int | None:
        """Give the highest step, in seconds, that a gap open for so long has passed; None before the first."""
        last = self.gap_still_open_seconds[-1]
        if open_seconds >= last:
            return last + int(open_seconds - last) // _DAY * _DAY
        return max((step for step in self.gap_still_open_seconds if step <= open_seconds), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One version. `valid_from` None means from its append time. `organization_id` None: the defaults."""

    organization_id: str | None
    version: int
    previous_digest: str | None
    valid_from: int | None
    author: str
    produced_at: int
    rules: Rules
    append_time: int

    def __post_init__(self) -> None:
        if self.version < 1:
            raise ValueError("a version counts from 1")
        if not self.author:
            raise ValueError("it names no author")

    @property
    def counts_from(self) -> int:
        """When it comes into force: never before it was appended."""
        return self.append_time if self.valid_from is None else max(self.valid_from, self.append_time)

    @property
    def retroactive(self) -> bool:
        """Whether it claims a time before it was appended: it does not change what was authorised then."""
        return self.valid_from is not None and self.valid_from < self.append_time

    @property
    def digest(self) -> str:
        """What the next version has to name: SHA-256 over canonical JSON of all but the append time."""
        return digest(as_shape(self))


BEGINNING: Final = Rules()
"""The rules where there is no policy."""


# --- what a policy says -----------------------------------------------------------------------------------------------


def in_force(policies: Iterable[Policy], at: int) -> Policy | None:
    """Give the highest version that counts at a time, of the organization's own before the defaults."""
    counting = (each for each in policies if each.counts_from <= at)
    return max(counting, key=lambda each: (each.organization_id is not None, each.version), default=None)


def rules_at(policies: Iterable[Policy], at: int) -> Rules:
    """Give the rules at a time."""
    policy = in_force(policies, at)
    return BEGINNING if policy is None else policy.rules


def verdict(policies: Iterable[Policy], actor: Actor, at: int) -> str:
    """Say whether an actor was LISTED or NOT_LISTED at a time.

    UNKNOWN where no policy was in force, where it lists nobody, or where the actor is not known: an operator only
    stated that it was off. With the time of an opening this is `authorised_at_open`, which no later version changes;
    with the time that it is now `authorised_now`.
    """
    policy = in_force(policies, at)
    if policy is None or actor.type == OPERATOR or not (actor.id or actor.email):
        return UNKNOWN
    rules = policy.rules
    if _is_one_of(actor, rules.watcher_keys):
        return NOT_LISTED
    if not (rules.owners or rules.authorised):
        return UNKNOWN
    return LISTED if rules.owners.holds(actor) or rules.authorised.holds(actor) else NOT_LISTED


def is_watcher_key(policies: Iterable[Policy], actor: Actor, at: int) -> bool:
    """Whether an actor is a feed's own key, by the policy in force at a time."""
    return _is_one_of(actor, rules_at(policies, at).watcher_keys)


def change_window_for(
    policies: Sequence[Policy], opened_at: int | None, opened_at_latest: int | None, actor: Actor
) -> ChangeWindow | None:
    """Give the change window that the whole opening and its actor lie inside, the first by its id.

    It has to be in force then, and to stand in a version that was appended before its start: its own
    `registered_at` is only what its author says.
    """
    if opened_at is None or opened_at_latest is None or is_watcher_key(policies, actor, opened_at_latest):
        return None
    later = rules_at(policies, opened_at_latest).change_windows
    for window in rules_at(policies, opened_at).change_windows:
        planned = any(window in each.rules.change_windows and each.append_time < window.start for each in policies)
        inside = window.start <= opened_at and opened_at_latest <= window.end
        if inside and planned and window in later and window.actors.holds(actor):
            return window
    return None


def _is_one_of(actor: Actor, keys: Iterable[str]) -> bool:
    suffix = key_suffix(actor.id)
    return bool(suffix) and suffix in {key_suffix(each) for each in keys}


# --- versions ---------------------------------------------------------------------------------------------------------


def latest_of(policies: Iterable[Policy], organization_id: str | None) -> Policy | None:
    """Give the latest version of an organization's own chain, or of the defaults'."""
    own = (each for each in policies if each.organization_id == organization_id)
    return max(own, key=lambda each: each.version, default=None)


def extended(policies: tuple[Policy, ...], new: Policy) -> tuple[Policy, ...] | Rejection:
    """Take in a version as it was read: the policies with it, the very same ones if it is a repeat, or why not.

    It has to be the next one and to name the digest of the one before; a refused one changes nothing that follows.
    The first one that is known may be later than 1, as older ones may have been compacted away.
    """
    chain = [each for each in policies if each.organization_id == new.organization_id]
    whose = "the defaults" if new.organization_id is None else f"organization {new.organization_id}"
    follows = versions.follows(chain, new, whose, "policy_refused")
    if isinstance(follows, Rejection):
        return follows
    return (*policies, new) if follows else policies


def successor(
    latest: Policy | None, organization_id: str | None, rules: Rules, author: str, now: int, valid_from: int | None
) -> Policy:
    """Make the next version; its append time is only now until the broker says it."""
    return Policy(
        organization_id=organization_id,
        version=latest.version + 1 if latest else 1,
        previous_digest=latest.digest if latest else None,
        valid_from=valid_from,
        author=author,
        produced_at=now,
        rules=rules,
        append_time=now,
    )


def says_already(latest: Policy | None, rules: Rules, now: int, valid_from: int | None) -> bool:
    """Whether the latest version says this already, from that time on (None: from now on)."""
    if latest is None or latest.rules != rules:
        return False
    if valid_from is not None:
        return latest.valid_from == valid_from
    return latest.valid_from is None or latest.valid_from <= now


def as_shape(policy: Policy) -> dict[str, Any]:
    """Give a version in the shape of its Avro schema, times in microseconds. The append time is the broker's."""
    return {
        "organization_id": policy.organization_id,
        "version": policy.version,
        "previous_digest": policy.previous_digest,
        "valid_from": policy.valid_from,
        "author": policy.author,
        "produced_at": policy.produced_at,
        **asdict(policy.rules),
    }


def from_shape(shape: Mapping[str, Any], append_time: int) -> Policy | Rejection:
    """Undo `as_shape`; fields that it does not know are left out (a newer schema added them)."""
    try:
        known = {field.name: shape[field.name] for field in fields(Rules)}
        rules = Rules(
            **{
                **known,
                "owners": Actors(**known["owners"]),
                "authorised": Actors(**known["authorised"]),
                "watcher_keys": tuple(known["watcher_keys"]),
                "gap_still_open_seconds": tuple(known["gap_still_open_seconds"]),
                "acknowledged": tuple(Acknowledgement(**each) for each in known["acknowledged"]),
                "change_windows": tuple(
                    ChangeWindow(**{**each, "actors": Actors(**each["actors"])}) for each in known["change_windows"]
                ),
            }
        )
        own = {field.name: shape[field.name] for field in fields(Policy) if field.name not in {"rules", "append_time"}}
        return Policy(**own, rules=rules, append_time=append_time)
    except (KeyError, TypeError, ValueError) as error:
        return Rejection("policy_refused", f"it is no policy that can be used: {error}")


# --- in words ---------------------------------------------------------------------------------------------------------


def difference(old: Policy | None, new: Policy) -> tuple[str, ...]:
    """Say what a version changes, a clause for each thing."""
    before, after = old.rules if old else BEGINNING, new.rules
    said = [
        *_moved("owner", names(before.owners), names(after.owners)),
        *_moved("authorised actor", names(before.authorised), names(after.authorised)),
        *_moved("watcher key", before.watcher_keys, after.watcher_keys),
        *_changed("proof limit", length(before.proof_limit_seconds), length(after.proof_limit_seconds)),
        *_changed("settle time", length(before.settle_seconds), length(after.settle_seconds)),
        *_changed("steps of gap_still_open", steps(before), steps(after)),
    ]
    if before.decommissioned != after.decommissioned:
        said.append("decommissioned" if after.decommissioned else "no longer decommissioned")
    said += _moved("acknowledgement", map(_acknowledged, before.acknowledged), map(_acknowledged, after.acknowledged))
    said += _moved("change window", map(_window, before.change_windows), map(_window, after.change_windows))
    if not said:
        said.append("the rules stay as they were")
    if new.valid_from is not None:
        late = ", which was past when it was published: openings before that are judged as before"
        said.append(f"valid from {times.text_of(new.valid_from)}{late if new.retroactive else ''}")
    return tuple(said)


def length(seconds: int) -> str:
    """Write a length of time as a policy file does: 15m, 4h."""
    unit, size = next(
        (unit, size) for unit, size in (("d", _DAY), ("h", 3600), ("m", 60), ("s", 1)) if not seconds % size
    )
    return f"{seconds // size}{unit}" if seconds else "0s"


def steps(rules: Rules) -> str:
    """Write the steps of escalation."""
    return f"{', '.join(map(length, rules.gap_still_open_seconds))}, then daily"


def names(actors: Actors) -> list[str]:
    """Name actors, each with its kind."""
    kinds = (("user", actors.users), ("e-mail", actors.emails), ("key", actors.keys))
    return [
        f"{kind} {each}" for kind, names in (*kinds, ("service account", actors.service_accounts)) for each in names
    ]


def _acknowledged(each: Acknowledgement) -> str:
    return f"{each.gap_id} until {times.text_of(each.until)} ({each.reason})"


def _window(window: ChangeWindow) -> str:
    return f"{window} for {', '.join(names(window.actors))}, registered {times.text_of(window.registered_at)}"


def _moved(what: str, before: Iterable[str], after: Iterable[str]) -> list[str]:
    was, is_now = dict.fromkeys(before), dict.fromkeys(after)
    added = [f"{what} added: {each}" for each in is_now if each not in was]
    return added + [f"{what} removed: {each}" for each in was if each not in is_now]


def _changed(what: str, before: str, after: str) -> list[str]:
    return [] if before == after else [f"{what} {after} instead of {before}"]
