"""`auditgap notify`: tells people of alerts. Delivers, then checkpoints: after a crash it delivers again."""

import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import click
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from auditgap import bootstrap, clock, subscribe
from auditgap.adapters import avro, kafka, notify_yaml
from auditgap.adapters.notify_send import NotDelivered, Send, ping, sender
from auditgap.adapters.notify_yaml import FALLBACK, Heartbeat, NotifyFile, Target
from auditgap.config import Settings
from auditgap.core import notify, times
from auditgap.core.inputs import SETTINGS_TYPE, Rejection, read_activity
from auditgap.core.notify import Notice, NoticeBook
from auditgap.core.records import Alert
from auditgap.entrypoints import show, version_file
from auditgap.entrypoints.publish import Publisher
from auditgap.errors import UsageError
from auditgap.subscribe import Subscription, UnreadableError

Tell = Callable[[str], None]

_log = logging.getLogger("auditgap.notify")

_POLL_SECONDS: Final = 0.2
_FIRST_WAIT: Final = 0.5
_MOST_WAIT: Final = 15.0
"""Seconds between attempts: doubled from the first to the most."""

_LETTER_SECONDS: Final = 30.0


def check(path: Path, tell: Tell) -> int:
    """Show what a file means, secrets looked for but not shown. Exit status 2 if it is wrong. Raises UsageError."""
    file = version_file.read(path, tell, notify_yaml.read)
    if file is None:
        return UsageError.exit_status
    for route in file.routes:
        sender(route.target, clock.now)
        whom = "all" if route.rule.subjects is None else ", ".join(sorted(route.rule.subjects))
        click.echo(show.clean(f"{route.target.name}: {route.rule.severity.name.lower()} or worse of {whom}"))
    sender(file.fallback, clock.now)
    click.echo(f"{FALLBACK}: what a route does not take within {file.retry_seconds:g} s")
    if file.heartbeat is not None:
        click.echo(f"heartbeat: every {file.heartbeat.period_seconds:g} s, by {file.heartbeat.organization}")
    return 0


def run(settings: Settings, path: Path, tell: Tell) -> int:
    """Tell people of alerts until a signal; gives the exit status. Raises UsageError and BrokerError."""
    file = version_file.read(path, tell, notify_yaml.read)
    if file is None:
        return UsageError.exit_status
    logging.basicConfig(
        stream=sys.stderr, level=settings.worker.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines hold URLs, which are secrets
    stop = threading.Event()

    def end(_: int, __: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        Notifier(settings, file, stop).run()
    except _Stopped:
        _log.info("ended in the middle of a delivery: it is done again at the next start")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


class _Stopped(Exception):  # noqa: N818 - a signal is no error
    """A signal came while something was being delivered."""


class Notifier:
    """One member of the group: reads alerts, delivers what people are to be told, and keeps its place."""

    def __init__(self, settings: Settings, file: NotifyFile, stop: threading.Event) -> None:
        self._settings, self._file, self._stop = settings, file, stop
        self._topic = settings.topics.alert
        self._ids = bootstrap.schema_ids(settings)
        self._courier = Courier(file, stop)
        self._letters = Letters(settings)
        self._books: dict[int, NoticeBook] = {}
        self._taken_away = 0

    def run(self) -> None:
        """Work until a signal. Raises BrokerError, and _Stopped in the middle of a delivery."""
        notify_settings = self._settings.notify
        self._first_start()
        with (
            subscribe.alerts(
                notify_settings.group, self._settings, instance_id=notify_settings.instance_id
            ) as subscription,
            Beats(self._settings, self._file.heartbeat) as beats,
        ):
            _log.info("telling of alerts on %s as group %s", self._topic, notify_settings.group)
            kept_at = time.monotonic()
            while not self._stop.is_set():
                beats.due()
                told, alert = self._next(subscription, beats)
                if told or alert is None or time.monotonic() - kept_at > 1:
                    subscription.checkpoint()
                    kept_at = time.monotonic()
            subscription.checkpoint()

    def _next(self, subscription: "Subscription[Alert]", beats: "Beats") -> tuple[bool, Alert | None]:
        """Deal with the next alert, if one comes; also gives whether anybody was told."""
        try:
            alert = subscription.poll(_POLL_SECONDS)
        except UnreadableError as error:
            _log.error("%s", error)
            if subscription.latest is not None:
                self._letters.write(subscription.latest, "unreadable", str(error))
            return True, None
        message = subscription.latest
        if alert is None or message is None:
            return False, None
        beats.seen(alert)
        if subscription.taken_away != self._taken_away:
            self._taken_away = subscription.taken_away
            self._books.clear()  # what others told meanwhile is not in them
        notice = self._book(message).take(alert)
        if notice is None:
            return False, alert
        self._tell(notice, message)
        return True, alert

    def _tell(self, notice: Notice, message: Message) -> None:
        reason = self._courier.deliver(notice)
        if reason is not None:
            self._letters.write(message, "not_delivered", reason)

    def _book(self, message: Message) -> NoticeBook:
        """Give the book of a message's partition: what the alerts before it made known is what was told."""
        number, offset = message.partition() or 0, message.offset() or 0
        if number not in self._books:
            book = self._books[number] = NoticeBook()
            for _, alert in self._before(number, offset):
                book.take(alert)
        return self._books[number]

    def _before(self, number: int, offset: int | None) -> Iterator[tuple[Message, Alert]]:
        """Give the alerts of a partition before an offset, or all there are. Raises BrokerError."""
        with kafka.translated(f"cannot read {self._topic}", self._settings.kafka):
            reader = kafka.committed_reader(self._settings, self._settings.notify.group)
            try:
                reader.assign([TopicPartition(self._topic, number, OFFSET_BEGINNING)])
                while True:
                    for message in reader.consume(1000, 0.05):
                        error = message.error()
                        if error is not None:
                            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - a name of librdkafka
                                return
                            if not error.retriable() and error.code() not in kafka.AWAY:
                                raise KafkaException(error)
                            continue
                        if offset is not None and (message.offset() or 0) >= offset:
                            return
                        alert = self._decoded(message)
                        if alert is not None:
                            yield message, alert
            finally:
                reader.close()

    def _decoded(self, message: Message) -> Alert | None:
        try:
            found = avro.decode_emission(self._ids, message.value() or b"", "alert")
        except (KeyError, TypeError, ValueError):
            return None
        return found if isinstance(found, Alert) else None

    def _first_start(self) -> None:
        """Tell a group without any place what still fires, and give it its place behind that. Raises BrokerError."""
        settings = self._settings
        with kafka.translated(f"cannot read {self._topic}", settings.kafka):
            consumer = Consumer(
                {
                    **kafka.client_config(settings.kafka),
                    "group.id": settings.notify.group,
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                }
            )
            try:
                found = consumer.list_topics(self._topic, timeout=kafka.TIMEOUT).topics[self._topic]
                if found.error is not None:
                    return  # the subscription says it
                parts = [TopicPartition(self._topic, number) for number in found.partitions]
                if any(each.offset >= 0 for each in consumer.committed(parts, timeout=kafka.TIMEOUT)):
                    return
                for part in parts:
                    part.offset = consumer.get_watermark_offsets(part, timeout=kafka.TIMEOUT)[0]
                    self._catch_up(part)
                try:
                    consumer.commit(offsets=parts, asynchronous=False)
                except KafkaException as exception:
                    # Somebody else of the group came first; they have told it, and their place stands.
                    if exception.args[0].code() not in subscribe.TAKEN_OVER:
                        raise
            finally:
                consumer.close()

    def _catch_up(self, part: TopicPartition) -> None:
        """Tell what still fires in a partition, and move the place behind what was read."""
        messages: dict[str, Message] = {}
        alerts = []
        for message, alert in self._before(part.partition, None):
            alerts.append(alert)
            messages[alert.alert_id] = message
            part.offset = (message.offset() or 0) + 1
        book = NoticeBook()
        for alert in notify.still_firing(alerts):
            if (notice := book.take(alert)) is not None:
                self._tell(notice, messages[alert.alert_id])


# --- delivery ---------------------------------------------------------------------------------------------------------


class Courier:
    """Delivers notices: by each route that matches, with retries, then by the second route."""

    def __init__(self, file: NotifyFile, stop: threading.Event) -> None:
        self._file, self._stop = file, stop
        self._senders: dict[str, Send] = {}
        targets: Iterable[Target] = (*(route.target for route in file.routes), file.fallback)
        for target in targets:
            self._senders[target.name] = sender(target, clock.now)
        self._down: set[str] = set()

    def deliver(self, notice: Notice) -> str | None:
        """Deliver a notice; gives what went wrong, None where every route took it. Raises _Stopped."""
        names = [route.target.name for route in self._file.routes if route.rule.matches(notice)]
        failed = self._try(names, notice)
        if not failed:
            return None
        second = self._try([FALLBACK], notice)
        told = f"; the {FALLBACK} took it" if not second else f"; {FALLBACK}: {second[FALLBACK]}"
        reason = "; ".join(f"{name}: {why}" for name, why in failed.items()) + told
        _log.error("%s was not delivered: %s", notice.id, reason)
        return reason

    def _try(self, names: list[str], notice: Notice) -> dict[str, str]:
        """Try until all took it or the time is over; gives those that did not, and why.

        One that did not take the notice before in all that time gets one attempt: it must not hold back the others.
        """
        until = time.monotonic() + self._file.retry_seconds
        failed: dict[str, str] = {}
        given_up: dict[str, str] = {}
        left, wait = list(names), _FIRST_WAIT
        while left:
            for name in list(left):
                try:
                    self._senders[name](notice)
                except NotDelivered as error:
                    failed[name] = str(error)
                    if name in self._down:
                        left.remove(name)
                        given_up[name] = str(error)
                else:
                    left.remove(name)
                    self._down.discard(name)
            rest = until - time.monotonic()
            if not left or rest <= 0:
                break
            if self._stop.wait(min(wait, rest)):
                raise _Stopped
            wait = min(wait * 2, _MOST_WAIT)
        self._down.update(left)
        return given_up | {name: failed[name] for name in left}


class Letters:
    """Writes what could not be delivered to the topic of dead letters, and waits until it is there."""

    def __init__(self, settings: Settings) -> None:
        self._topic, self._kafka = settings.topics.notification_dlq, settings.kafka
        self._producer = Producer(
            {
                **kafka.client_config(settings.kafka),
                "enable.idempotence": True,
                "partitioner": kafka.PARTITIONER,
                "delivery.timeout.ms": int(_LETTER_SECONDS * 1000),
                "message.max.bytes": 4_194_304,
            }
        )

    def write(self, message: Message, reason: str, detail: str) -> None:
        """Write the alert as it came, and why it was not delivered. Raises BrokerError: then it is not kept as told."""
        headers = [
            *(message.headers() or []),
            ("auditgap_dlq_reason", reason.encode()),
            ("auditgap_dlq_detail", detail.encode("utf-8", "backslashreplace")[:4000]),
            ("auditgap_dlq_topic", (message.topic() or "").encode()),
            ("auditgap_dlq_partition", str(message.partition()).encode()),
            ("auditgap_dlq_offset", str(message.offset()).encode()),
            ("auditgap_dlq_append_time", times.text_of(message.timestamp()[1] * 1000).encode()),
        ]
        errors: list[KafkaError] = []

        def answered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                errors.append(error)

        with kafka.translated(f"cannot write to {self._topic}", self._kafka):
            self._producer.produce(
                self._topic,
                message.value(),
                message.key(),
                headers=headers,
                on_delivery=answered,
            )
            if self._producer.flush(_LETTER_SECONDS + 1):
                raise TimeoutError
            if errors:
                raise KafkaException(errors[0])


# --- the dead man's switch --------------------------------------------------------------------------------------------


class Beats:
    """Has a synthetic organization switched off and on, and pings when the alert of that comes back in time."""

    def __init__(self, settings: Settings, heartbeat: Heartbeat | None) -> None:
        self._heartbeat = heartbeat
        self._publisher = None if heartbeat is None else Publisher(settings, partial(_log.error, "%s"))
        self._next = time.monotonic()
        self._pinged = 0

    def __enter__(self) -> "Beats":
        return self

    def __exit__(self, *_: object) -> None:
        if self._publisher is not None:
            self._publisher.flush()

    def due(self) -> None:
        """Publish a switch-off and a switch-on, if it is time."""
        if self._heartbeat is None or self._publisher is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._heartbeat.period_seconds
        now = clock.now()
        for number, enabled in enumerate((False, True)):
            shape = {
                "id": f"{self._heartbeat.organization}-{now}-{'on' if enabled else 'off'}",
                "type": SETTINGS_TYPE,
                "created_at": times.text_of(now + number),
                "organization_id": self._heartbeat.organization,
                "actor": {"type": "auditgap_heartbeat"},
                "compliance_api_enabled": enabled,
            }
            activity = read_activity(shape, json.dumps(shape), None)
            if isinstance(activity, Rejection):
                raise UsageError(f"the heartbeat's organization cannot be used: {activity.detail}")
            self._publisher.send(activity)
        self._publisher.flush()

    def seen(self, alert: Alert) -> None:
        """Ping, if this is the alert of a switch-off that is no older than the period."""
        beat = self._heartbeat
        if beat is None or alert.organization_id != beat.organization or alert.kind != "logging_disabled":
            return
        moment = alert.occurred_at or 0
        if moment <= self._pinged or clock.now() - moment > beat.period_seconds * times.SECOND:
            return
        self._pinged = moment
        try:
            ping(beat.url)
        except NotDelivered as error:
            _log.warning("heartbeat: %s", error)
