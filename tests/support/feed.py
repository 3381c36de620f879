"""Feeds to publish: API records, the wire records made of them, and a live feed that knows what has to come of it."""

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from confluent_kafka import Producer

from auditgap.adapters import cloudevents
from auditgap.adapters.avro import Encoder, SchemaIds
from auditgap.adapters.cloudevents import Headers
from auditgap.core import times
from auditgap.core.inputs import SETTINGS_TYPE, Rejection, key_of, read_activity
from auditgap.core.observations import read_observation
from auditgap.core.policy import Actors, Policy, Rules, successor
from auditgap.core.topology import Alias, Link, Topology

ORDINARY: Final = "claude_chat_viewed"

ENCODER: Final = Encoder(SchemaIds.bundled())

Record = dict[str, Any]
"""A record as the vendor's API gives it."""


class Wire(NamedTuple):
    """A record as it is put on the topic; a partition of -1 leaves the choice to the producer's partitioner."""

    key: bytes | None
    value: bytes | None
    headers: Headers | None
    partition: int = -1


def record(identifier: str, organization: str | None, at: int, kind: str = ORDINARY, **more: Any) -> Record:
    """Make an API record; `at` is microseconds since the epoch."""
    return {
        "id": identifier,
        "type": kind,
        "created_at": times.text_of(at),
        "organization_id": organization,
        "organization_uuid": None,
        "actor": {"type": "user_actor", "user_id": "user_1", "email_address": "who@example.com"},
        **more,
    }


def settings(
    identifier: str, organization: str | None, at: int, api: object = None, logging: object = None, **more: Any
) -> Record:
    """Make a settings event; a flag that is None is left out."""
    flags = {"compliance_api_enabled": api, "compliance_api_logging_enabled": logging}
    present = {name: value for name, value in flags.items() if value is not None}
    return record(identifier, organization, at, SETTINGS_TYPE, **present, **more)


def wire(shape: Record, feed_id: str | None = "feed_1", partition: int = -1) -> Wire:
    """Put an API record on the wire as `auditgap publish` does."""
    activity = read_activity(shape, json.dumps(shape), feed_id)
    assert not isinstance(activity, Rejection), activity
    key = key_of(activity.subject).encode()
    return Wire(key, ENCODER.activity(activity), cloudevents.of_activity(activity), partition)


def observed(organization: str | None, kind: str, result: str, at: int, **more: Any) -> Wire:
    """Put what a collector saw on the wire as `auditgap publish --observations` does; `at` is microseconds."""
    shape = {"kind": kind, "result": result, "observed_at": times.text_of(at), "organization_id": organization, **more}
    seen = read_observation(shape)
    assert not isinstance(seen, Rejection), seen
    return Wire(key_of(seen.subject).encode(), ENCODER.observation(seen), cloudevents.of_observation(seen))


def linked(subject: str, *members: str, uuid: str | None = None, version: int = 1) -> Wire:
    """Put a version of a topology on the wire; `uuid` is that of the first member."""
    made = Topology(
        subject=subject,
        version=version,
        previous_digest=None,
        author="jane@example.com",
        produced_at=ago(0),
        aliases=() if uuid is None else (Alias(organization_uuid=uuid, organization_id=members[0]),),
        members=tuple(Link(subject=each) for each in members),
        append_time=0,
    )
    return Wire(subject.encode(), ENCODER.topology(made), cloudevents.of_topology(made))


def ago(seconds: float) -> int:
    """Tell the time so many seconds ago, in microseconds."""
    return time.time_ns() // 1000 - int(seconds * times.SECOND)


# --- a live feed ------------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """What has to be known of one window in the end; named as the fields of a gap are."""

    organization_id: str
    opened_by_id: str
    closed_by_id: str | None
    last_activity_id: str | None
    first_activity_id: str | None
    activity_inside_count: int
    state: str


@dataclass(slots=True)
class _Organization:
    name: str
    api: bool | None = None
    logging: bool | None = None
    last: str | None = None
    windows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return bool(self.windows) and self.windows[-1]["closed_by_id"] is None

    def ordinary(self, identifier: str) -> None:
        if self.open:
            self.windows[-1]["activity_inside_count"] += 1
        for window in self.windows:
            if window["closed_by_id"] is not None and window["first_activity_id"] is None:
                window["first_activity_id"] = identifier
        self.last = identifier

    def switched(self, identifier: str, api: bool | None, logging: bool | None) -> None:
        self.api = self.api if api is None else api
        self.logging = self.logging if logging is None else logging
        off = False in (self.api, self.logging)
        if off and not self.open:
            new = {"organization_id": self.name, "opened_by_id": identifier, "closed_by_id": None, "state": "OPEN"}
            bracket = {"last_activity_id": self.last, "first_activity_id": None, "activity_inside_count": 0}
            self.windows.append(new | bracket)
        elif self.open and not off:
            self.windows[-1].update(closed_by_id=identifier, state="CLOSED")


def actor_of(organization: str) -> Record:
    """Give the only user of an organization, as an API record names it."""
    return {"type": "user_actor", "user_id": f"user_{organization}", "email_address": f"{organization}@example.com"}


class Feed:
    """An endless feed of many organizations, in order, with repeats, and a plain reckoning of what has to come of it.

    The reckoning is written without the product's core: two flags, and what stood before and after. `suspicious` are
    the organizations whose user was refused a sign-in.
    """

    def __init__(
        self, seed: int, organizations: int = 40, settings_share: float = 0.03, sign_ins: float = 0.01
    ) -> None:
        self._random = random.Random(seed)
        self._sign_ins = sign_ins
        self._organizations = [_Organization(f"org_{number:03d}") for number in range(organizations)]
        self._settings_share = settings_share
        self._clock = ago(24 * 3600)
        self.disabled: set[str] = set()
        self.suspicious: set[str] = set()
        self.count = 0

    def __iter__(self) -> Iterator[Wire]:
        choose = self._random
        while True:
            organization = choose.choice(self._organizations)
            self.count += 1
            self._clock += 1_000
            identifier = f"activity_{self.count:08d}"
            if choose.random() < self._settings_share:
                value = choose.random() < 0.5
                api, logging = choose.choice([(value, None), (None, value), (value, value), (True, True)])
                organization.switched(identifier, api, logging)
                if False in (api, logging):
                    self.disabled.add(identifier)
                shape = settings(identifier, organization.name, self._clock, api, logging)
            elif choose.random() < self._sign_ins and organization.name[-1] in "02468":
                # A sign-in names no organization, and is on another partition than what its actor did.
                self.suspicious.add(organization.name)
                shape = record(identifier, None, self._clock, "sso_login_failed")
            else:
                organization.ordinary(identifier)
                shape = record(identifier, organization.name, self._clock)
            made = wire({**shape, "actor": actor_of(organization.name)})
            yield made
            if choose.random() < 0.02:
                yield made  # the vendor's feed gives a record at least once

    @property
    def windows(self) -> list[Window]:
        """What has to be known of each window in the end."""
        return sorted(Window(**window) for each in self._organizations for window in each.windows)

    @property
    def restored(self) -> set[tuple[str, str]]:
        """What opened and closed each window that was closed."""
        return {(each.opened_by_id, each.closed_by_id) for each in self.windows if each.closed_by_id is not None}


class Polls:
    """Endless polls of the settings of organizations that publish nothing, each twice; `windows` counts what they saw.

    Each is found off every other time.
    """

    def __init__(self, organizations: int = 5) -> None:
        self._count, self._clock = organizations, ago(24 * 3600)
        self.windows: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Wire]:
        for number in itertools.count():
            turn, which = divmod(number, self._count)
            name = f"org_polled{which}"
            self._clock += 200 * times.SECOND // self._count
            self.windows[name] += turn % 2
            made = observed(name, "settings_poll", "disabled" if turn % 2 else "enabled", self._clock)
            yield made
            yield made


class Policies:
    """Versions of the policies of a feed's organizations, some of each; `listed` are whose user may switch it off."""

    def __init__(self, organizations: int = 40, versions: int = 4) -> None:
        self._names = [f"org_{number:03d}" for number in range(organizations)]
        self._versions = versions
        self.listed: set[str] = set()

    def __iter__(self) -> Iterator[Wire]:
        chain: dict[str, Policy] = {}
        for turn in range(self._versions):
            for number, name in enumerate(self._names):
                listed = number % 3 == turn % 3
                (self.listed.add if listed else self.listed.discard)(name)
                owner = actor_of(name)["email_address"] if listed else "nobody@example.com"
                rules = Rules(owners=Actors(emails=(owner,)))
                version = chain[name] = successor(chain.get(name), name, rules, "jane", ago(0), None)
                yield Wire(name.encode(), ENCODER.policy(version), cloudevents.of_policy(version))


class Live:
    """Publishes a feed at a steady rate, from a thread of its own, for as long as the context lasts.

    `aside` are other topics, and what is published there meanwhile: some hundred records a second.
    """

    def __init__(
        self, kafka: str, topic: str, feed: Feed, per_second: int, aside: Mapping[str, Iterator[Wire]]
    ) -> None:
        self._kafka, self._topic, self._feed, self._rate = kafka, topic, feed, per_second
        self._aside = aside
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="live feed")

    def __enter__(self) -> "Live":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _publish(self) -> None:
        began, sent = time.monotonic(), 0
        records = iter(self._feed)
        publisher = Publisher(self._kafka)
        while not self._over.wait(0.01):
            due = int((time.monotonic() - began) * self._rate)
            publisher.send(self._topic, [next(records) for _ in range(due - sent)])
            sent = due
            for topic, others in self._aside.items():
                publisher.send(topic, itertools.islice(others, 1))
        publisher.flush()


class Publisher:
    """A producer of wire records. `flush` sees to it that all are delivered."""

    def __init__(self, kafka: str, partitioner: str = "murmur2_random") -> None:
        self._failed: list[str] = []
        self._producer = Producer(
            {
                "bootstrap.servers": kafka,
                "enable.idempotence": True,
                "partitioner": partitioner,
                "linger.ms": 5,
                "message.max.bytes": 4 << 20,
                "queue.buffering.max.messages": 1_000_000,
                "on_delivery": self._on_delivery,
                "log_level": 0,
            }
        )

    def send(self, topic: str, wires: Iterable[Wire]) -> None:
        """Hand records to the producer."""
        for key, value, headers, partition in wires:
            self._producer.produce(topic, value, key, partition, headers=headers)  # type: ignore[arg-type]
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all are delivered."""
        left = self._producer.flush(30)
        assert left == 0
        assert not self._failed, self._failed[:3]

    def _on_delivery(self, error: object, _: object) -> None:
        if error is not None:
            self._failed.append(str(error))
