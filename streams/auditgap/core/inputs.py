"""What enters the core: frozen values, checked once, when they are built from an API record."""

import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from auditgap.core import times

SETTINGS_TYPE: Final = "org_compliance_api_settings_updated"
"""The activity type that changes the two flags (vendor's API reference)."""

ACCESS_TRANSPARENCY_TYPES: Final = frozenset({"anthropic_access", "cmek_preserve"})
"""Records that may be captured while the feed is off: no proof of recording, and never part of a bracket."""

FEED_SUBJECT_PREFIX: Final = "feed/"

PARENT_SUBJECT_PREFIX: Final = "parent/"
"""A parent that is no organization of a feed itself: its records name it by an id that no activity carries."""

DEFAULT_FEED: Final = "default"
"""What stands in the subject of a record that names neither organization nor feed."""

ADMISSION_SKEW: Final = 5 * 60 * times.SECOND
"""How far a time may lie after the broker's append time. Clocks of honest machines differ by less."""

EARLIEST_TIME: Final = times.SECOND * 1_577_836_800
"""2020-01-01: before the vendor existed. Rows are kept six years; an older time is a default, not a time."""

REASONS: Final = {
    "empty_value": "the record has no value (a tombstone or zero bytes)",
    "bad_key": "the record's key is not UTF-8: no producer of this topic writes such a key",
    "bad_magic": "the value does not begin with the wire format's zero byte and schema id",
    "unknown_schema_id": "the schema id in the value is known neither to the bundled table nor to the registry",
    "not_avro": "the value is shorter or longer than its schema says, or not Avro at all",
    "not_json": "the line or the original record is not a JSON object",
    "unreadable": "a field that every activity needs is missing or has a value that cannot be understood",
    "time_in_future": "its time lies more than the allowed skew after the broker's append time",
    "time_implausible": "its time lies before 2020, when no feed existed",
    "settings_unreadable": "a settings event whose id, flags or time cannot be understood",
    "quarantined": "the worker died on this record twice",
    "policy_refused": "a version of a policy that is not the next one, or cannot be used",
    "topology_refused": "a version of the topology that is not the next one, or cannot be used",
}
"""Why an input is refused: the word in headers and metrics, and what it means."""


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Writes JSON as it goes into digests and ids: neither the order of keys nor white space makes a difference."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input that cannot be used: `reason` is a key of REASONS, `detail` a sentence for people."""

    reason: str
    detail: str

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is no reason of the table")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did it, as far as the record says; every field None where it does not."""

    type: str | None = None
    id: str | None = None
    email: str | None = None
    ip: str | None = None
    user_agent: str | None = None


NOBODY: Final = Actor()

OPERATOR: Final = "operator"
"""Type of an actor who stated how it was and need not have switched anything; also the kind of such a statement."""


@dataclass(frozen=True, slots=True)
class Activity:
    """One record of the feed. `created_at` is None, or `id` empty, only in a settings event that is unreadable.

    `digest` is a SHA-256 over the original record in canonical JSON: two copies of one record agree in it.
    """

    id: str
    type: str
    created_at: int | None
    organization_id: str | None
    organization_uuid: str | None
    feed_id: str | None
    actor: Actor
    api_enabled: bool | None
    logging_enabled: bool | None
    raw: str

    @property
    def subject(self) -> str:
        """What it is about: its organization, or its feed where the record names none."""
        return subject_of(self.organization_id, self.feed_id)

    @property
    def digest(self) -> str:
        """See the class: 64 hexadecimal digits. Falls back to the text as it is where `raw` is not JSON."""
        try:
            content = canonical(json.loads(self.raw))
        except (ValueError, RecursionError):
            content = self.raw
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def subject_of(organization_id: str | None, feed_id: str | None, parent_id: str | None = None) -> str:
    """Name what a record is folded under; also its CloudEvents subject."""
    if organization_id is not None:
        return organization_id
    if parent_id is not None:
        return f"{PARENT_SUBJECT_PREFIX}{parent_id}"
    return f"{FEED_SUBJECT_PREFIX}{feed_id or DEFAULT_FEED}"


def organization_of(subject: str) -> str | None:
    """Give the organization that a subject is, None for a feed or a parent."""
    return None if subject.startswith((FEED_SUBJECT_PREFIX, PARENT_SUBJECT_PREFIX)) else subject


def feed_of(subject: str) -> str | None:
    """Give the id of the feed that a subject is, None for an organization, a parent or the feed without a name."""
    feed_id = subject.removeprefix(FEED_SUBJECT_PREFIX)
    return None if feed_id in (subject, DEFAULT_FEED) else feed_id


def parent_of(subject: str) -> str | None:
    """Give the id of the parent that a subject is, None for an organization or a feed."""
    return subject.removeprefix(PARENT_SUBJECT_PREFIX) if subject.startswith(PARENT_SUBJECT_PREFIX) else None


def name_of(subject: str) -> str:
    """Name a subject in a sentence: organization, parent or feed, and its id."""
    return subject.replace("/", " ", 1) if organization_of(subject) is None else f"organization {subject}"


def key_of(subject: str) -> str:
    """Name the record key of a subject: the organization's or the feed's id, or the subject of a parent."""
    return subject.removeprefix(FEED_SUBJECT_PREFIX)


REPLACEMENT: Final = "\ufffd"
"""What stands in for what cannot be written."""


def text(value: object) -> str | None:
    """Give a string that is not empty as text that can be written anywhere, None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    # JSON can escape half of a surrogate pair ("\\ud800"): it is not text, and could not be written anywhere. NUL could
    # not be written to PostgreSQL, whose sink would stop for good at what anybody can put into a user agent.
    whole = value if value.isascii() else value.encode("utf-8", "replace").decode()
    return whole.replace("\0", REPLACEMENT) if "\0" in whole else whole


# The identifying field of each actor type (vendor's API reference); the first one present is taken.
_ACTOR_ID_FIELDS: Final = (
    "user_id",
    "admin_api_key_id",
    "api_key_id",
    "service_account_id",
    "federated_identity_id",
    "device_id",
    "directory_id",
    "subject",
)
_ACTOR_EMAIL_FIELDS: Final = ("email_address", "email", "unauthenticated_email_address")


def _first(value: Mapping[str, object], names: Iterable[str]) -> str | None:
    for name in names:
        if (found := text(value.get(name))) is not None:
            return found
    return None


def read_actor(value: object) -> Actor:
    """Read the actor union; unknown types keep whatever of the common fields they carry."""
    if not isinstance(value, (dict, Mapping)):  # asking an abstract class takes five times as long
        return NOBODY
    identifier = _first(value, _ACTOR_ID_FIELDS)
    if identifier is None:
        identifier = _first(value, sorted(name for name in value if str(name).endswith("_id")))
    return Actor(
        type=text(value.get("type")),
        id=identifier,
        email=_first(value, _ACTOR_EMAIL_FIELDS),
        ip=text(value.get("ip_address")),
        user_agent=text(value.get("user_agent")),
    )


def read_activity(record: object, raw: str, feed_id: str | None) -> Activity | Rejection:
    """Read one record of the vendor's API; `raw` is its JSON text, kept as it came.

    A settings event always gives an Activity, however broken: somebody has to hear of it (`read_settings`). For
    other types `id`, `type` and `created_at` are needed; all else may be missing or unknown.
    """
    if not isinstance(record, (dict, Mapping)):
        return Rejection("not_json", "not a JSON object")
    kind = text(record.get("type"))
    if kind is None:
        return Rejection("unreadable", "type is missing or not a string")
    identifier = text(record.get("id"))
    created = record.get("created_at")
    created_at = times.parse(created) if isinstance(created, str) else None
    organization = record.get("organization_id")
    organization_id = text(organization) if is_organization(organization) else None
    if kind != SETTINGS_TYPE:
        if identifier is None:
            return Rejection("unreadable", "id is missing or not a string")
        if created_at is None:
            return Rejection("unreadable", f"created_at is not a time with a zone: {shown(created)}")
        if organization is not None and organization_id is None:
            return Rejection("unreadable", f"organization_id is not an id: {shown(organization)}")
    api, logging = record.get("compliance_api_enabled"), record.get("compliance_api_logging_enabled")
    return Activity(
        id=identifier or "",
        type=kind,
        created_at=created_at,
        organization_id=organization_id,
        organization_uuid=text(record.get("organization_uuid")),
        feed_id=feed_id,
        actor=read_actor(record.get("actor")),
        api_enabled=api if isinstance(api, bool) else None,
        logging_enabled=logging if isinstance(logging, bool) else None,
        raw=raw,
    )


def is_organization(value: object) -> bool:
    """Whether a value can be an organization's id."""
    return isinstance(value, str) and 0 < len(value) <= 255 and "\0" not in value and organization_of(value) is not None


def shown(value: object) -> str:
    """Show a wrong value in a message."""
    return "missing" if value is None else reprlib.repr(value)[:60]


def accessed_at(activity: Activity) -> int:
    """Say when the access was that an Access Transparency record tells of; when it was recorded, if it does not say."""
    try:
        record = json.loads(activity.raw)
    except (ValueError, RecursionError):
        record = None
    told = record.get("accessed_at") if isinstance(record, Mapping) else None
    moment = times.parse(told) if isinstance(told, str) else None
    return moment if moment is not None else activity.created_at or 0


def is_settings(activity: Activity) -> bool:
    """Whether it is a settings event, by its typed field or by its original record: either is enough."""
    if activity.type == SETTINGS_TYPE:
        return True
    if SETTINGS_TYPE not in activity.raw:
        return False
    try:
        record: Any = json.loads(activity.raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, Mapping) and record.get("type") == SETTINGS_TYPE


def read_settings(activity: Activity) -> Activity | Rejection:
    """Read a settings event once more, from its original record, which decides; its actor is the original's too.

    The Rejection of one that cannot be understood is "settings_unreadable": no id, no time, a flag that is no boolean,
    or a typed field that says something else than `raw`. A flag that is null or absent is readable: "not changed".
    """
    try:
        record: Any = json.loads(activity.raw)
    except (ValueError, RecursionError):
        return Rejection("settings_unreadable", "the original record is not JSON")
    original = read_activity(record, activity.raw, activity.feed_id)
    if isinstance(original, Rejection):
        return Rejection("settings_unreadable", original.detail)
    fault = _settings_fault(record, original, activity)
    return original if fault is None else Rejection("settings_unreadable", fault)


def _settings_fault(record: Mapping[str, object], original: Activity, typed: Activity) -> str | None:
    for name in ("compliance_api_enabled", "compliance_api_logging_enabled"):
        if (value := record.get(name)) is not None and not isinstance(value, bool):
            return f"{name} is not a boolean: {shown(value)}"
    if not original.id:
        return "id is missing or not a string"
    if original.created_at is None:
        return f"created_at is not a time with a zone: {shown(record.get('created_at'))}"
    organization_id = record.get("organization_id")
    if organization_id is not None and not is_organization(organization_id):
        return f"organization_id is not an id: {shown(organization_id)}"
    for field in ("id", "type", "created_at", "organization_id", "api_enabled", "logging_enabled"):
        if getattr(original, field) != getattr(typed, field):
            return f"the record's {field} is not what its original says"
    return None


def admit(created_at: int, append_time: int) -> Rejection | None:
    """Refuse a time that cannot be: after the broker's append time by more than the skew, or before any feed."""
    if created_at > append_time + ADMISSION_SKEW:
        return Rejection(
            "time_in_future",
            f"created_at {_safe_text(created_at)} is more than {ADMISSION_SKEW // times.SECOND} s after the broker's "
            f"append time {_safe_text(append_time)}",
        )
    if created_at < EARLIEST_TIME:
        return Rejection("time_implausible", f"created_at {_safe_text(created_at)} is before any feed existed")
    return None


def _safe_text(micros: int) -> str:
    try:
        return times.text_of(micros)
    except OverflowError:
        return f"{micros} us"
