"""The feed of the benchmarks, and what has to come of it.

The feed is deterministic: the same `Shape` gives the same bytes, and a shorter feed is the beginning of a longer one.
While an organization's feed is off, nothing else of it is recorded: the window is silent.

`Expectation` knows the answer by keeping account of what was written, record by record, in the simplest way; nothing
of auditgap is used here.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

SETTINGS_TYPE: Final = "org_compliance_api_settings_updated"

API, LOGGING = 0, 1
FIELDS: Final = ("compliance_api_enabled", "compliance_api_logging_enabled")

Flags = tuple[bool | None, bool | None]
"""What a settings event says of the API and of its logging; None: not changed."""

_STEP: Final = timedelta(milliseconds=1)
_MINUTE: Final = 60_000
"""How many records a minute of the feed has."""
_USERS: Final = 4

_TYPES: Final = (
    (30, "claude_chat_viewed", '"claude_chat_id":"claude_chat_{0}","claude_project_id":null'),
    (20, "claude_chat_created", '"claude_chat_id":"claude_chat_{0}","claude_project_id":"claude_proj_{1}"'),
    (12, "claude_chat_updated", '"claude_chat_id":"claude_chat_{0}","claude_project_id":null'),
    (10, "claude_file_uploaded", '"claude_file_id":"claude_file_{0}","filename":"notes {1}.md"'),
    (9, "claude_file_viewed", '"claude_file_id":"claude_file_{0}"'),
    (6, "claude_project_viewed", '"claude_project_id":"claude_proj_{0}"'),
    (4, "claude_project_document_uploaded", '"claude_project_document_id":"{0}","claude_project_id":"claude_proj_{1}"'),
    (4, "claude_chat_deleted", '"claude_chat_id":"claude_chat_{0}"'),
    (3, "platform_file_uploaded", '"file_id":"file_{0}"'),
    (2, "claude_project_created", '"claude_project_id":"claude_proj_{0}"'),
)
"""Ordinary activities: weight, type, fields of their own."""

_INDICATORS: Final = (
    (10, "sso_login_failed", '"client_platform":"web"'),
    (4, "claude_user_role_updated", '"user_id":"user_{0}","previous_role":"user","current_role":"admin"'),
    (3, "platform_api_key_created", '"api_key_id":"apikey_{0}"'),
    (2, "org_data_export_started", '"export_id":"{0}"'),
    (1, "claude_project_sharing_updated", '"claude_project_id":"claude_proj_{0}"'),
)
"""What triage looks at: weight, type, fields of their own. The first names no organization, as sign-ins do."""

_SWITCH_OFF: Final[tuple[tuple[int, Flags], ...]] = (
    (50, (None, False)),
    (20, (False, None)),
    (20, (False, False)),
    (5, (True, True)),
    (5, (None, True)),
)
"""What happens to a feed that is on; the last two change nothing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything that decides a feed. `begin` is the time of its first record; there is one record a millisecond."""

    records: int
    begin: datetime
    organizations: int = 2000
    settings_share: float = 0.005
    indicators: float = 0.0
    seed: int = 1


class Record(NamedTuple):
    """One line of the feed, and what the expectation has to know of it; `flags` is None for an ordinary activity."""

    line: str
    organization: str
    id: str
    flags: Flags | None


@dataclass(slots=True)
class Window:
    """One window as it has to be reported: the settings events around it, and the last id before, the first after."""

    organization: str
    opened_by: str
    last_before: str | None
    closed_by: str | None = None
    first_after: str | None = None
    switched_off_by: list[str] = field(default_factory=list)


class Expectation:
    """What has to be published once every record of the feed has been seen."""

    def __init__(self) -> None:
        self.records = 0
        self.settings_events = 0
        self.windows: list[Window] = []
        self._flags: dict[str, list[bool | None]] = {}
        self._open: dict[str, Window] = {}
        self._no_first_yet: dict[str, list[Window]] = {}
        self.last: dict[str, str] = {}

    def is_enabled(self, organization: str) -> bool:
        """Whether a poll sees the API switched on, as far as has been written: it does not see logging."""
        return organization not in self._flags or self._flags[organization][API] is not False

    @property
    def alerts(self) -> int:
        """Every settings event that says off, and every close, is one alert."""
        return sum(len(window.switched_off_by) + (window.closed_by is not None) for window in self.windows)

    def add(self, record: Record) -> None:
        """Keep account of one more record."""
        self.records += 1
        organization = record.organization
        if record.flags is None:
            self.last[organization] = record.id
            for window in self._no_first_yet.pop(organization, ()):
                window.first_after = record.id
            return
        self.settings_events += 1
        flags = self._flags.setdefault(organization, [None, None])
        for which, value in enumerate(record.flags):
            if value is not None:
                flags[which] = value
        window_now = self._open.get(organization)
        if window_now is None and False in flags:
            window_now = Window(organization, record.id, self.last.get(organization))
            self._open[organization] = window_now
            self.windows.append(window_now)
        if window_now is not None and False in record.flags:
            window_now.switched_off_by.append(record.id)
        if window_now is not None and False not in flags:
            window_now.closed_by = record.id
            self._no_first_yet.setdefault(organization, []).append(window_now)
            del self._open[organization]


def feed(shape: Shape) -> Iterator[Record]:
    """Make the feed, record by record."""
    chance = random.Random(shape.seed)
    names, uuids, actors = _population(chance, shape)
    weights = [weight for weight, _, _ in _TYPES]
    flags: list[list[bool | None]] = [[None, None] for _ in names]
    off: list[int] = []
    kinds: list[tuple[str, str]] = []
    for number in range(shape.records):
        said: Flags | None = None
        if chance.random() < shape.settings_share:
            # Not every event here closes its window: with this share about as many close as open.
            if off and chance.random() < 0.56:
                which = chance.choice(off)
                said = _said_while_off(chance, flags[which])
            else:
                which = _one_that_is_on(chance, flags)
                said = chance.choices([each for _, each in _SWITCH_OFF], [weight for weight, _ in _SWITCH_OFF])[0]
            was_off = False in flags[which]
            flags[which] = [old if new is None else new for old, new in zip(flags[which], said, strict=True)]
            if was_off and False not in flags[which]:
                off.remove(which)
            elif not was_off and False in flags[which]:
                off.append(which)
            kind, extra = SETTINGS_TYPE, _flag_fields(chance, said)
        elif shape.indicators and chance.random() < shape.indicators:
            which = _one_that_is_on(chance, flags)
            row = chance.choices(_INDICATORS, [weight for weight, _, _ in _INDICATORS])[0]
            kind, extra = row[1], row[2].format(f"{chance.getrandbits(88):022x}")
        else:
            which = _one_that_is_on(chance, flags)
            if not kinds:
                kinds = [(name, fields) for _, name, fields in chance.choices(_TYPES, weights, k=10_000)]
            kind, fields = kinds.pop()
            bits = f"{chance.getrandbits(176):044x}"
            extra = fields.format(bits[:24], bits[24:])
        moment = shape.begin + number * _STEP + timedelta(microseconds=chance.randrange(1000))
        identifier = f"activity_01{number:06x}{chance.getrandbits(64):016x}"
        actor = actors[which][chance.randrange(_USERS)]
        own = kind != _INDICATORS[0][1]
        whose = f'"{names[which]}","organization_uuid":"{uuids[which]}"' if own else 'null,"organization_uuid":null'
        yield Record(
            f'{{"id":"{identifier}","created_at":"{moment:%Y-%m-%dT%H:%M:%S.%f}Z","organization_id":{whose},'
            f'"actor":{actor},"type":"{kind}",{extra}}}\n',
            names[which] if own else "",
            identifier,
            said,
        )


def expect(shape: Shape) -> Expectation:
    """Work out what a feed has to give."""
    expectation = Expectation()
    for record in feed(shape):
        expectation.add(record)
    return expectation


def write(path: Path, shape: Shape) -> Expectation:
    """Write a feed as NDJSON, and work out what it has to give."""
    expectation = Expectation()
    with path.open("w", encoding="utf-8") as file:
        for record in feed(shape):
            file.write(record.line)
            expectation.add(record)
    return expectation


def minutes(shape: Shape, expectation: Expectation) -> Iterator[tuple[list[str], list[str]]]:
    """Write a feed minute by minute: the activities, and what a poll of every organization saw at the minute's end."""
    names = _population(random.Random(shape.seed), shape)[0]
    lines: list[str] = []
    for record in feed(shape):
        lines.append(record.line)
        expectation.add(record)
        if len(lines) == _MINUTE or expectation.records == shape.records:
            seen_at = shape.begin + expectation.records * _STEP
            yield lines, [_poll(name, expectation.is_enabled(name), seen_at) for name in names]
            lines = []


def _poll(name: str, enabled: bool, moment: datetime) -> str:
    shape = {"kind": "settings_poll", "organization_id": name, "result": "enabled" if enabled else "disabled"}
    return json.dumps({**shape, "observed_at": f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"}) + "\n"


def policy(shape: Shape) -> str:
    """Write a policy with rules of its own for every organization: one of its users may switch it off."""
    names, _, actors = _population(random.Random(shape.seed), shape)
    rules = {
        name: {"owners": {"emails": [json.loads(users[0])["email_address"]]}}
        for name, users in zip(names, actors, strict=True)
    }
    return json.dumps({"author": "benchmark", "defaults": {"settle": "60s"}, "organizations": rules}, indent=1)


def _population(chance: random.Random, shape: Shape) -> tuple[list[str], list[str], list[list[str]]]:
    """Make the organizations: their ids, their uuids and their users."""
    names = [f"org_01{chance.getrandbits(88):022x}" for _ in range(shape.organizations)]
    return names, [_uuid(chance) for _ in names], [[_actor(chance) for _ in range(_USERS)] for _ in names]


def _one_that_is_on(chance: random.Random, flags: list[list[bool | None]]) -> int:
    while True:
        which = chance.randrange(len(flags))
        if False not in flags[which]:
            return which


def _said_while_off(chance: random.Random, flags: list[bool | None]) -> Flags:
    """Mostly all is switched on again; else one flag of two, or off is said once more."""
    roll = chance.random()
    if roll < 0.10:
        return (False, None) if flags[API] is False else (None, False)
    if roll < 0.25:
        return (None, True) if flags[API] is False else (False, None)
    if roll < 0.60:
        return True, True
    return (True if flags[API] is False else None, True if flags[LOGGING] is False else None)


def _flag_fields(chance: random.Random, said: Flags) -> str:
    """Write the two flags; one that is not changed is null, or not there at all."""
    words = {True: "true", False: "false", None: "null"}
    shown = [
        f'"{name}":{words[value]}'
        for name, value in zip(FIELDS, said, strict=True)
        if value is not None or chance.random() < 0.5
    ]
    return ",".join(shown)


def _uuid(chance: random.Random) -> str:
    bits = f"{chance.getrandbits(128):032x}"
    return "-".join((bits[:8], bits[8:12], bits[12:16], bits[16:20], bits[20:]))


def _actor(chance: random.Random) -> str:
    user = f"{chance.getrandbits(88):022x}"
    address = f"203.0.113.{chance.randrange(1, 255)}"
    return (
        f'{{"type":"user_actor","email_address":"{user[:6]}@example.com","user_id":"user_01{user}",'
        f'"ip_address":"{address}","user_agent":"Mozilla/5.0 (X11)"}}'
    )
