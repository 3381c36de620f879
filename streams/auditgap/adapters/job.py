"""The job: batches of input records in, one transaction out. Knows Kafka, nothing of Faust.

What is owned right now is a `Part` per partition: its shard, its position, what changed since the last commit.
Positions are the job's own, set when a batch is wholly taken in. The path of an ordinary record is short: its
CloudEvents headers say what it is, and the beginning of its body is searched for the settings event's name. Whatever
is not plain, and every settings event, is decoded and goes through `core.shard`.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from auditgap.adapters import avro, cloudevents, signing, state, takeover
from auditgap.adapters.avro_flat import LENGTHS
from auditgap.adapters.cloudevents import ACTIVITY_TYPE_PREFIX, Headers, headers_of
from auditgap.adapters.kafka import AWAY, TopicIdentity, client_config, explain, partition_of
from auditgap.adapters.outbox import Outbox
from auditgap.adapters.takeover import DEATHS, STEPS, Part
from auditgap.config import Settings
from auditgap.core import times
from auditgap.core.inputs import (
    ACCESS_TRANSPARENCY_TYPES,
    ADMISSION_SKEW,
    EARLIEST_TIME,
    SETTINGS_TYPE,
    Activity,
    Rejection,
    is_settings,
    key_of,
    subject_of,
)
from auditgap.core.ledger import Ledger
from auditgap.core.recent import CHUNK
from auditgap.core.records import Emission, Gap
from auditgap.errors import BrokerError, WorkerStop
from auditgap.metrics import Metrics

MARK: Final = SETTINGS_TYPE.encode()
"""What the body of every settings event contains near its beginning: Avro writes id and type first, as plain UTF-8."""

LONG_ID: Final = 0x80
"""An id of 64 bytes or more has a length of two bytes in Avro; such a record is decoded, wherever its type stands."""

TYPE_ENDS: Final = 5 + 1 + 63 + 1 + len(MARK)
"""Where the type of a settings event has ended at the latest: prefix, id with its length, type with its length."""

NEVER_SKIPPED: Final = ACCESS_TRANSPARENCY_TYPES | {SETTINGS_TYPE}
"""Types whose body is always decoded."""

EARLIEST_TEXT: Final = times.text_of(EARLIEST_TIME).encode()

MAX_KINDS: Final = 10_000
"""How many activity types are remembered as ordinary; the catalogue has some 500."""

Clock = Callable[[], int]

fromisoformat = datetime.fromisoformat


class Job:
    """See the module. All methods block; `take_batch` is the hot one and touches no network.

    `membership` gives the group metadata that fences each commit (adapters.group_metadata).
    """

    def __init__(
        self, settings: Settings, ids: avro.SchemaIds, metrics: Metrics, clock: Clock, verifier: signing.Verifier
    ) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._changelog = settings.worker.changelog
        self._ids = ids
        self._encoder = avro.Encoder(ids)
        self._metrics = metrics
        self._clock = clock
        self._verifier = verifier
        self.membership: Callable[[], bytes] = lambda: b""
        self._outbox = Outbox(settings, settings.worker.instance_id)
        self._reader = Consumer(
            {
                **client_config(settings.kafka),
                "group.id": settings.worker.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "queued.min.messages": 10_000,
                "queued.max.messages.kbytes": 16_384,
                # The default of a second leaves the loop idle whenever the queue ran full once.
                "fetch.queue.backoff.ms": 10,
            }
        )
        self.batch_records = settings.worker.batch_records
        self._prefix = ids.prefix("activity")
        self._ordinary: set[bytes] = set()
        self._trust_headers = settings.worker.trust_headers
        # Where a producer puts the four headers that matter, by the number of headers it writes.
        self._layouts: dict[int, cloudevents.Layout] = {}
        self._until_sample = settings.worker.sample_every
        self._identity = TopicIdentity("", 0, "")
        self.parts: dict[int, Part] = {}
        self.urgent = False
        self.trouble: str | None = None

    # --- life cycle ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check the topics and become the one transactional producer of this instance id. Raises BrokerError."""
        self._identity = takeover.check_topics(self._settings)
        self._outbox.start()
        self._metrics.skipping.set(self._trust_headers)

    def check_input(self) -> None:
        """Look whether the input topic is still the one that was started with. Raises InputChanged."""
        takeover.check_input(self._settings, self._identity)

    def assign(self, numbers: list[int]) -> None:
        """Take over these partitions: restore their state and go to their positions. Raises WorkerStop."""
        topic = self._topics.activity
        self.parts = {}
        self.check_input()
        parts = takeover.take_over(self._settings, self._reader, self._identity, numbers)
        for part in parts:
            self._save(part, state.START_KEY, takeover.started(part))
            self._save(part, state.INPUT_KEY, state.input_value(self._identity, topic))
        if parts:
            # With the very first position, so that state and position are never found one without the other.
            new = [TopicPartition(topic, part.number, part.position) for part in parts if part.committed < 0]
            self._outbox.commit(new, self.membership())
        self.parts = {part.number: part for part in parts}
        self._reader.assign([TopicPartition(topic, part.number, part.position) for part in parts])
        self._metrics.partitions.set(len(parts))

    def release(self) -> None:
        """Commit what was done and give all partitions back: this worker did not die. Raises WorkerStop."""
        for part in self.parts.values():
            self._save(part, state.START_KEY, takeover.left(part))
        self.commit()
        self._reader.unassign()
        self.parts = {}
        self._metrics.partitions.set(0)

    def close(self) -> None:
        """Leave in order. Raises WorkerStop."""
        # A batch may have been taken in after Faust's last commit: outputs never leave without their positions.
        self.release()
        self._reader.close()

    # --- records in ---------------------------------------------------------------------------------------------------

    def poll(self) -> dict[int, list[Message]]:
        """Give what librdkafka has fetched, by partition; empty if nothing. Does not wait."""
        batches: dict[int, list[Message]] = {}
        most = self.batch_records
        for part in list(self.parts.values()):
            if part.position < part.careful_until:
                most = min(most, part.step)
        for message in self._reader.consume(most, 0):
            error, number = message.error(), message.partition() or 0
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    self._note(error)
                elif owned := self.parts.get(number):
                    owned.end = message.offset() or 0
            elif number in batches:
                batches[number].append(message)
            else:
                batches[number] = [message]
        for number, messages in batches.items():
            # None where the partitions are given back at this moment, on another thread.
            if owned := self.parts.get(number):
                owned.handed = (messages[-1].offset() or 0) + 1
            self.trouble = None
        return batches

    def _note(self, error: KafkaError) -> None:
        topic = self._topics.activity
        if error.code() in _LOST_POSITION | _NO_TOPIC:
            with suppress(BrokerError):
                self.check_input()  # it says more
        if error.code() in _LOST_POSITION:
            raise takeover.changed(f"the position in {topic} is no longer there ({error.str()})")
        if error.code() in _NO_TOPIC:
            raise takeover.changed(f"topic {topic} was deleted")
        if not error.retriable() and error.code() not in AWAY:
            raise WorkerStop(f"cannot read {topic}: {explain(error)}")
        self.trouble = f"cannot read {topic}: {explain(error)}"

    def take_batch(self, part: Part, messages: list[Message]) -> None:
        """Take in consecutive records of one partition. Raises WorkerStop; the position then stays where it was."""
        first, last = messages[0].offset() or 0, messages[-1].offset() or 0
        suspect = part.attempt["offset"] if part.attempt.get("tries", 0) >= DEATHS else -1
        careful = first < part.careful_until
        if careful and part.step == STEPS[-1]:
            for message in messages:
                self._take_cautiously(part, message)
        elif first <= suspect <= last:
            for message in messages:
                if message.offset() == suspect:
                    self._quarantine(part, message)
                    part.position = suspect + 1
                    self.commit()  # or another record that kills would make this one forgotten
                else:
                    self._take(part, [message])
        else:
            self._take(part, messages)
        if part.oldest_uncommitted is None:
            part.oldest_uncommitted = self._clock()
        part.position = last + 1
        if careful:
            self.commit()

    def _take(self, part: Part, messages: list[Message]) -> None:
        """The hot loop: some six microseconds a record, so every call in it was weighed (benchmarks/)."""
        known, touch, ordinary, prefix = part.known, part.shard.touched.add, self._ordinary, self._prefix
        layouts, sample, lengths = self._layouts, self._until_sample, LENGTHS
        # Times are compared as text; the broker's append times do not fall within a batch, so its first one serves.
        limit = times.text_of(_append_time(messages[0]) + ADMISSION_SKEW).encode()
        second = b""
        plain = 0
        message = messages[0]
        headers: Headers | None
        try:
            for message in messages:
                headers = message.headers()  # type: ignore[assignment]  # see cloudevents.headers_of
                value = message.value()
                if headers is not None and value is not None:
                    layout = layouts.get(len(headers))
                    if layout is not None:
                        at_type, at_id, at_time, at_subject = layout
                        named_type, kind = headers[at_type]
                        named_id, identifier = headers[at_id]
                        named_time, time = headers[at_time]
                        named_subject, subject = headers[at_subject]
                        ledger = known.get(subject)
                        if (
                            ledger is not None
                            and kind in ordinary
                            and named_type == "ce_type"
                            and named_id == "ce_id"
                            and named_time == "ce_time"
                            and named_subject == "ce_subject"
                            and identifier
                            and value.startswith(prefix)
                            and value[5] < LONG_ID
                            and value.find(MARK, 5, TYPE_ENDS) < 0
                            # Whole: the original record comes last, and its length in front of it is what is left.
                            and (begins := value.find(b"{", 5)) > 0
                            and (length := len(value) - begins) < len(lengths)
                            and value.endswith(lengths[length], 0, begins)
                            and ((key := message.key()) is None or key.isascii())
                            and time is not None
                            and EARLIEST_TEXT <= time <= limit
                        ):
                            if time[:20] != second and is_canonical(time):
                                second = time[:20]
                            if time[:20] == second and time[20:26].isdigit() and time[26:] == b"Z":
                                sample -= 1
                                if sample:
                                    entry = time + identifier
                                    if entry > ledger.watermark:
                                        recent = ledger.recent
                                        recent.chunk.append(entry)
                                        if len(recent.chunk) >= CHUNK:
                                            recent.rotate()
                                    else:
                                        ledger.activity(entry)
                                    touch(ledger)
                                    plain += 1
                                    continue
                                sample = self._settings.worker.sample_every
                self._take_decoded(part, message)
        except WorkerStop:
            self._absolve()
            raise
        except Exception as error:
            raise self._died_on(part, message, error) from error
        self._until_sample = sample
        self._metrics.records.labels("applied").inc(plain)

    def _take_decoded(self, part: Part, message: Message) -> None:
        """Take in one record by its body."""
        self._metrics.decoded.inc()
        append_time, now = _append_time(message), self._clock()
        activity: Activity | Rejection
        if is_text(message.key()):
            activity = avro.decode_activity(self._ids, message.value())
        else:
            activity = Rejection("bad_key", f"the key is not UTF-8: 0x{(message.key() or b'').hex()[:60]}")
        claimed = cloudevents.claims(headers_of(message))
        if isinstance(activity, Rejection):
            self._dead_letter(part, message, activity)
            if (claimed is not None and claimed.type == SETTINGS_TYPE) or MARK in (message.value() or b""):
                subject = self._subject_for(part, claimed.subject if claimed else None)
                refusal = Rejection("settings_unreadable", activity.detail)
                self._send(part, part.shard.refused(refusal, subject, _place(message), append_time, now))
            return
        subject = activity.subject
        if self._partition_of(subject) != part.number:
            self._forward(message, activity)
            return
        trusted, fault = self._believed(message, subject, signing.ACTIVITY) if is_settings(activity) else (True, None)
        outcome = part.shard.activity(activity, append_time, now, trusted=trusted, fault=fault)
        part.known[subject.encode("utf-8", "surrogatepass")] = part.shard.ledgers[subject]
        self._send(part, outcome.emissions)
        if outcome.rejection is not None:
            self._dead_letter(part, message, outcome.rejection)
            return
        self._metrics.records.labels("repeat" if outcome.repeat else "applied").inc()
        if claimed is None:
            return
        # A time that the headers do not speak of is no lie.
        created_at = None if claimed.created_at is None else activity.created_at
        if claimed != cloudevents.Claims(activity.type, activity.id, created_at, subject):
            self._mismatch(part, part.shard.ledgers[subject], message, append_time, now)
        elif (
            self._trust_headers
            and created_at is not None
            and activity.type not in NEVER_SKIPPED
            and len(self._ordinary) < MAX_KINDS
        ):
            self._ordinary.add(ACTIVITY_TYPE_PREFIX + activity.type.encode("utf-8", "surrogatepass"))
            headers = headers_of(message) or []
            self._layouts[len(headers)] = cloudevents.layout_of(headers)

    def _mismatch(self, part: Part, ledger: Ledger, message: Message, append_time: int, now: int) -> None:
        """Headers that say something else than their body: believe bodies only from here on."""
        self._trust_headers = False
        self._layouts.clear()
        self._metrics.skipping.set(0)
        sentence = f"the headers of record {_place(message)} differ from its body; from here on bodies decide"
        self._send(part, ledger.alert("header_mismatch", _place(message), sentence, append_time, now))

    def _believed(self, message: Message, subject: str, domain: bytes) -> tuple[bool, str | None]:
        """Tell whether an "on" in a record counts, and what is wrong with its signature."""
        verdict = self._verifier.check(headers_of(message), subject, message.value() or b"", domain)
        return self._verifier.believes(verdict), signing.fault_of(verdict)

    def _subject_for(self, part: Part, subject: str | None) -> str:
        """Name whose ledger speaks of a record that nobody can read: its claimed subject, if that belongs here."""
        if subject is None or self._partition_of(subject) != part.number:
            return subject_of(None, "unknown")
        return subject

    def _partition_of(self, subject: str) -> int:
        return partition_of(subject, self._identity.partitions)

    # --- records that kill --------------------------------------------------------------------------------------------

    def _take_cautiously(self, part: Part, message: Message) -> None:
        """Take in one record as if it could kill: that it is tried is committed before it is tried."""
        offset = message.offset() or 0
        tries = part.attempt["tries"] if part.attempt.get("offset") == offset else 0
        if tries >= DEATHS:
            self._quarantine(part, message)
        else:
            self._save(part, state.ATTEMPT_KEY, state.dumps({"offset": offset, "tries": tries + 1}))
            self.commit()
            self._take(part, [message])
        part.position = offset + 1
        self.commit()

    def _quarantine(self, part: Part, message: Message) -> None:
        rejection = Rejection("quarantined", f"{DEATHS} workers died on it")
        claimed = cloudevents.claims(headers_of(message))
        subject = self._subject_for(part, claimed.subject if claimed else None)
        self._dead_letter(part, message, rejection)
        place = _place(message)
        self._send(part, part.shard.refused(rejection, subject, place, _append_time(message), self._clock()))

    def _died_on(self, part: Part, message: Message, error: Exception) -> WorkerStop:
        """Write down, in a transaction of its own, which record this worker dies on."""
        offset = message.offset() or 0
        tries = part.attempt["tries"] + 1 if part.attempt.get("offset") == offset else 1
        part.attempt = {"offset": offset, "tries": tries}
        self._leave_word()
        return WorkerStop(
            f"an unexpected error at record {_place(message)}: {type(error).__name__}: {error}; nothing after the last "
            f"commit is kept. Start the worker again: a record that kills {DEATHS} times is put aside"
        )

    def _absolve(self) -> None:
        """Write down that this worker stops for no record's sake, if the cluster takes even that."""
        with suppress(WorkerStop):
            self._leave_word()

    def _leave_word(self) -> None:
        self._outbox.abort()
        for part in self.parts.values():
            self._save(part, state.START_KEY, takeover.left(part))
            self._save(part, state.ATTEMPT_KEY, state.dumps(part.attempt))
        self._outbox.commit([], self.membership())

    # --- records out --------------------------------------------------------------------------------------------------

    def _send(self, part: Part, emissions: Iterable[Emission]) -> None:
        for record in emissions:
            subject = record.subject
            key = key_of(subject).encode("utf-8", "surrogatepass")
            value, headers = self._encoder.emission(record), cloudevents.of_emission(record, subject)
            if isinstance(record, Gap):
                self._outbox.send(self._topics.gap, record.gap_id.encode(), value, headers, part.number)
                self._outbox.send(self._topics.gap_history, key, value, headers, part.number)
                self._metrics.gap_revisions.inc()
            else:
                self._outbox.send(self._topics.alert, key, value, headers, part.number)
                self._metrics.alerts.labels(record.kind).inc()
                self.urgent = True

    def _dead_letter(self, part: Part, message: Message, rejection: Rejection) -> None:
        """Send a record to the dead letters: original bytes, key and headers, and why."""
        why: Headers = [
            ("auditgap_dlq_reason", rejection.reason.encode()),
            ("auditgap_dlq_detail", rejection.detail.encode("utf-8", "backslashreplace")),
            ("auditgap_dlq_topic", (message.topic() or "").encode()),
            ("auditgap_dlq_partition", str(message.partition()).encode()),
            ("auditgap_dlq_offset", str(message.offset()).encode()),
            ("auditgap_dlq_append_time", times.text_of(_append_time(message)).encode()),
        ]
        headers = [*(headers_of(message) or []), *why]
        self._outbox.send(self._topics.activity_dlq, message.key(), message.value(), headers, part.number)
        self._metrics.records.labels("dead_letter").inc()
        self._metrics.dead_letters.labels(rejection.reason).inc()

    def _forward(self, message: Message, activity: Activity) -> None:
        """Hand a record to the partition that its organization belongs to."""
        headers = [
            *(each for each in headers_of(message) or [] if not each[0].startswith("ce_")),
            *cloudevents.of_activity(activity),
            ("auditgap_forwarded_from", _place(message).encode()),
        ]
        key = key_of(activity.subject).encode("utf-8", "surrogatepass")
        target = self._partition_of(activity.subject)
        self._outbox.send(self._topics.activity, key, message.value(), headers, target)
        self._metrics.records.labels("forwarded").inc()
        # The partition it belongs to has to wait for the commit.
        self.urgent = self.urgent or is_settings(activity)

    def _save(self, part: Part, key: bytes, value: bytes | None) -> None:
        self._outbox.send(self._changelog, key, value, None, part.number)
        self._metrics.state_bytes.inc(len(value or b""))

    def _save_shard(self, part: Part) -> int:
        """Write what changed of a partition's state; gives how many bytes that was."""
        written = 0
        send, changelog, number = self._outbox.send, self._changelog, part.number
        for key, value in part.shard.changes():
            send(changelog, key.encode("utf-8", "surrogatepass"), value, None, number)
            written += len(value or b"")
        return written

    def commit(self) -> None:
        """Commit outputs, changed state and positions together, or nothing. Blocks. Raises WorkerStop."""
        self.prepare()
        self.finish()

    def prepare(self) -> None:
        """Write outputs and changed state into the transaction; `finish` has to follow. Raises WorkerStop.

        Runs where records are taken in: on another thread the two would only wait for each other. It waits for the
        network only where the producer's queue is full. Nothing may be taken in until `finish` is done.
        """
        now = self._clock()
        written = 0
        try:
            for part in self.parts.values():
                self._send(part, part.shard.settle(now))
                written += self._save_shard(part)
                if part.position == part.handed < part.end:
                    # What lies between is no record but the mark of a transaction: a position before it would look
                    # like lag, and like a loss once retention takes it.
                    part.position = part.end
        except WorkerStop:
            self._absolve()
            raise
        self._metrics.state_bytes.inc(written)

    def finish(self) -> None:
        """Commit what `prepare` wrote, and the positions. Blocks. Raises WorkerStop."""
        topic = self._topics.activity
        moved = [part for part in self.parts.values() if part.position != part.committed]
        if not moved and not self._outbox.open:
            return
        try:
            with self._metrics.commits.time():
                self._outbox.commit([TopicPartition(topic, p.number, p.position) for p in moved], self.membership())
        except WorkerStop:
            self._absolve()
            raise
        for part in self.parts.values():
            part.committed = part.position
            part.oldest_uncommitted = None
        self.urgent = False

    # --- health -------------------------------------------------------------------------------------------------------

    def commit_age(self) -> float:
        """Tell the age in seconds of the oldest processed record that is not committed; 0 if none."""
        oldest = [p.oldest_uncommitted for p in list(self.parts.values()) if p.oldest_uncommitted is not None]
        return (self._clock() - min(oldest)) / times.SECOND if oldest else 0.0

    def behind(self) -> bool:
        """Whether a whole batch waits to be taken in. Asks nothing of the network."""
        return sum(self._lags().values()) >= self.batch_records

    def _lags(self) -> dict[int, int]:
        """How many records are not taken in yet, by partition, as far as the last answer to a fetch told."""
        lags = {}
        for part in list(self.parts.values()):
            place = TopicPartition(self._topics.activity, part.number)
            _, high = self._reader.get_watermark_offsets(place, cached=True)
            if high >= 0:
                lags[part.number] = max(0, high - part.position)
        return lags

    def measure(self) -> None:
        """Bring the gauges up to date. Asks nothing of the network."""
        self._metrics.commit_age.set(self.commit_age())
        parts = list(self.parts.values())
        self._metrics.subjects.set(sum(len(part.shard.ledgers) for part in parts))
        self._metrics.lag.clear()
        for number, lag in self._lags().items():
            self._metrics.lag.labels(str(number)).set(lag)


_LOST_POSITION: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_NO_TOPIC: Final = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID})


def is_canonical(time: bytes) -> bool:
    """Whether a header's time is text that sorts as its time does (core.times.text_of)."""
    try:
        return (
            len(time) == times.TEXT_LENGTH and time[10] == _T and time[26] == _Z and bool(fromisoformat(time.decode()))
        )
    except ValueError:
        return False


_T: Final = ord("T")
_Z: Final = ord("Z")


def is_text(key: bytes | None) -> bool:
    """Whether a key is one that a producer of ours could have written, or none."""
    try:
        return key is None or key.isascii() or bool(key.decode())
    except UnicodeDecodeError:
        return False


def _append_time(message: Message) -> int:
    return message.timestamp()[1] * 1000


def _place(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"
