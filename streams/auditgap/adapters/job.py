"""The job: batches of input records in, one transaction out. Knows Kafka, nothing of Faust.

What is owned right now is a `Part` per partition: its shard, its place in each input topic, what waits to be taken in.
Activities come through a consumer of their own; policies, topologies, observations and mail (the sides) through a
second one, and `merge` says in which order. Positions are the job's own, set when a batch is wholly taken in. The path
of an ordinary activity is short: its CloudEvents headers say what it is, and the beginning of its body is searched for
the settings event's name. Whatever is not plain, every settings event, and all else, is decoded and goes through
`core.shard`.
"""

import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import orjson
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

import auditgap
from auditgap.adapters import avro, cloudevents, mailbox, merge, signing, state, takeover
from auditgap.adapters.avro_flat import LENGTHS
from auditgap.adapters.cloudevents import ACTIVITY_TYPE_PREFIX, Headers, headers_of
from auditgap.adapters.kafka import (
    AWAY,
    TopicIdentity,
    client_config,
    dead_letters_of,
    explain,
    input_topics,
    partition_of,
)
from auditgap.adapters.outbox import Outbox
from auditgap.adapters.takeover import DEATHS, STEPS, Part, Place
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
    organization_of,
    subject_of,
)
from auditgap.core.intake import Mail, Outcome
from auditgap.core.ocsf import finding_of
from auditgap.core.recent import CHUNK
from auditgap.core.records import Emission, Gap, Status
from auditgap.core.shard import Sizes
from auditgap.core.triage import TRIAGE_TYPES
from auditgap.errors import BrokerError, WorkerStop
from auditgap.metrics import Metrics

MARK: Final = SETTINGS_TYPE.encode()
"""What the body of every settings event contains near its beginning: Avro writes id and type first, as plain UTF-8."""

LONG_ID: Final = 0x80
"""An id of 64 bytes or more has a length of two bytes in Avro; such a record is decoded, wherever its type stands."""

TYPE_ENDS: Final = 5 + 1 + 63 + 1 + len(MARK)
"""Where the type of a settings event has ended at the latest: prefix, id with its length, type with its length."""

NEVER_SKIPPED: Final = ACCESS_TRANSPARENCY_TYPES | TRIAGE_TYPES | {SETTINGS_TYPE}
"""Types whose body is always decoded."""

EARLIEST_TEXT: Final = times.text_of(EARLIEST_TIME).encode()

MAX_KINDS: Final = 10_000
"""How many activity types are remembered as ordinary; the catalogue has some 500."""

TICK_EVERY: Final = times.SECOND
"""How often time is told to go on."""

MOST_WAITING: Final = 10
"""How many batches of activities may wait for what comes before them."""

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
        self._applied, self._repeated = (metrics.records.labels(name) for name in ("applied", "repeat"))
        self._clock = clock
        self._verifier = verifier
        self.membership: Callable[[], bytes] = lambda: b""
        self._outbox = Outbox(settings, settings.worker.instance_id)
        self._inputs = input_topics(settings)
        self._mailbox = settings.worker.mailbox
        self._dead_letters = dead_letters_of(settings)
        self._reader = _consumer(settings, {"queued.min.messages": 10_000, "queued.max.messages.kbytes": 16_384})
        # That a topic is at its end is told by an answer that is held back for so long where there is nothing new.
        small = {"queued.min.messages": 1000, "queued.max.messages.kbytes": 4096, "fetch.wait.max.ms": 100}
        self._side = _consumer(settings, small)
        self._paused: set[tuple[str, int]] = set()
        self._sides = {
            self._topics.policy: self._take_policy,
            self._topics.topology: self._take_topology,
            self._topics.observation: self._take_observation,
            self._mailbox: self._take_mail,
        }
        self._ticked_at = 0
        self.batch_records = settings.worker.batch_records
        self._prefix = ids.prefix("activity")
        self._ordinary: set[bytes] = set()
        self._trust_headers = settings.worker.trust_headers
        # Where a producer puts the four headers that matter, by the number of headers it writes.
        self._layouts: dict[int, cloudevents.Layout] = {}
        self._until_sample = settings.worker.sample_every
        self._identities: dict[str, TopicIdentity] = {}
        self.parts: dict[int, Part] = {}
        self.urgent = False
        self.trouble: str | None = None

    # --- life cycle ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Check the topics and become the one transactional producer of this instance id. Raises BrokerError."""
        self._identities = takeover.check_topics(self._settings)
        self._outbox.start()
        self._metrics.skipping.set(self._trust_headers)

    def check_input(self) -> None:
        """Look whether the input topics are still those that were started with. Raises InputChanged."""
        takeover.check_input(self._settings, self._identities)

    def assign(self, numbers: list[int]) -> None:
        """Take over these partitions: restore their state and go to their positions. Raises WorkerStop."""
        self.parts = {}
        self.check_input()
        parts = takeover.take_over(self._settings, self._reader, self._identities, numbers)
        for part in parts:
            self._save(part, state.START_KEY, takeover.started(part))
            self._save(part, state.INPUT_KEY, state.input_value(self._inputs, self._identities))
        if parts:
            # With the very first position, so that state and position are never found one without the other.
            new = [_at(part, place) for part in parts for place in part.places.values() if place.committed < 0]
            self._outbox.commit(new, self.membership())
        self.parts = {part.number: part for part in parts}
        self._paused.clear()
        self._reader.assign([_at(part, part.activity) for part in parts])
        self._side.assign([_at(part, part.places[topic]) for part in parts for topic in self._sides])
        self._metrics.partitions.set(len(parts))

    def release(self) -> None:
        """Commit what was done and give all partitions back: this worker did not die. Raises WorkerStop."""
        for part in self.parts.values():
            self._save(part, state.START_KEY, takeover.left(part))
        self.commit()
        self._resume([*self._paused])
        self._reader.unassign()
        self._side.unassign()
        self.parts = {}
        self._metrics.partitions.set(0)

    def close(self) -> None:
        """Leave in order. Raises WorkerStop."""
        # A batch may have been taken in after Faust's last commit: outputs never leave without their positions.
        self.release()
        self._reader.close()
        self._side.close()

    # --- records in ---------------------------------------------------------------------------------------------------

    def poll(self) -> list[tuple[int, list[Message]]]:
        """Give what may be taken in now: partition and consecutive records of one topic. Does not wait."""
        parts, activity = list(self.parts.values()), self._topics.activity
        if sum(part.merge.waiting(activity) for part in parts) < MOST_WAITING * self.batch_records:
            self._sort(self._reader.consume(self.batch_records, 0), Message.partition)
        self._sort(self._side.consume(merge.MOST_WAITING, 0), _place_of)
        self._hold_back(parts)
        now = time.monotonic()
        runs = []
        for part in parts:
            if part.merge.needs_end() and 0 <= self._end(self._reader, part, activity) <= part.activity.fetched:
                part.merge.ended(activity)
            runs += [(part.number, messages) for _, messages in part.merge.take(now)]
        return runs

    def _sort(self, messages: list[Message], key: Callable[[Message], Hashable]) -> None:
        """Let records wait in the merge of their partition. `key` tells apart topics and partitions."""
        batches: dict[Hashable, list[Message]] = {}
        ends = []
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    ends.append(message)
                else:
                    self._note(message.topic() or self._topics.activity, error)
            elif (name := key(message)) in batches:
                batches[name].append(message)
            else:
                batches[name] = [message]
        for batch in batches.values():
            topic, number = _place_of(batch[0])
            # None where the partitions are given back at this moment, on another thread.
            if part := self.parts.get(number):
                part.places[topic].fetched = (batch[-1].offset() or 0) + 1
                part.merge.put(topic, batch)
            self.trouble = None
        for message in ends:
            topic, number = _place_of(message)
            if part := self.parts.get(number):
                place = part.places[topic]
                place.end = message.offset() or 0
                if place.end >= place.fetched:
                    part.merge.ended(topic)

    def _hold_back(self, parts: list[Part]) -> None:
        """Read no further in a side of which much waits, and go on where that is done."""
        full, done = set(), set()
        for part in parts:
            for topic in self._sides:
                waiting, name = part.merge.waiting(topic), (topic, part.number)
                if name in self._paused:
                    if waiting < merge.MOST_WAITING // 2:
                        done.add(name)
                elif waiting >= merge.MOST_WAITING:
                    full.add(name)
        if full:
            self._side.pause([TopicPartition(*each) for each in full])
            self._paused |= full
        self._resume(done)

    def _resume(self, names: Iterable[tuple[str, int]]) -> None:
        if places := [TopicPartition(*each) for each in names]:
            self._side.resume(places)
            self._paused -= {*names}

    def _note(self, topic: str, error: KafkaError) -> None:
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
        """Take in consecutive records of one topic. Raises WorkerStop; the position then stays where it was."""
        place = part.places[messages[0].topic() or ""]
        if (messages[0].offset() or 0) >= place.careful_until:
            self._take_some(part, place, messages)
            return
        for start in range(0, len(messages), place.step):
            self._take_some(part, place, messages[start : start + place.step])

    def _take_some(self, part: Part, place: Place, messages: list[Message]) -> None:
        first, last = messages[0].offset() or 0, messages[-1].offset() or 0
        tried_to_death = part.attempt.get("tries", 0) >= DEATHS and part.attempt["topic"] == place.topic
        suspect = part.attempt["offset"] if tried_to_death else -1
        careful = first < place.careful_until
        if careful and place.step == STEPS[-1]:
            for message in messages:
                self._take_cautiously(part, place, message)
        elif first <= suspect <= last:
            for message in messages:
                if message.offset() == suspect:
                    self._quarantine(part, message)
                    place.position = suspect + 1
                    self.commit()  # or another record that kills would make this one forgotten
                else:
                    self._take_in(part, place, [message])
        else:
            self._take_in(part, place, messages)
        if part.oldest_uncommitted is None:
            part.oldest_uncommitted = self._clock()
        place.position = last + 1
        if careful:
            self.commit()

    def _take_in(self, part: Part, place: Place, messages: list[Message]) -> None:
        if place is part.activity:
            self._take(part, messages)
        else:
            self._take_side(part, place.topic, messages)

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
        self._applied.inc(plain)

    def _take_decoded(self, part: Part, message: Message) -> None:
        """Take in one record by its body."""
        self._metrics.decoded.inc()
        append_time, now = _append_time(message), self._clock()
        activity: Activity | Rejection
        activity = avro.decode_activity(self._ids, message.value()) if is_text(message.key()) else _bad_key(message)
        claimed = cloudevents.claims(headers_of(message))
        if isinstance(activity, Rejection):
            self._dead_letter(part, message, activity)
            if (claimed is not None and claimed.type == SETTINGS_TYPE) or MARK in (message.value() or b""):
                subject = self._subject_for(part, claimed.subject if claimed else None)
                refusal = Rejection("settings_unreadable", activity.detail)
                self._send(part, part.shard.refused(refusal, subject, _place_text(message), append_time, now))
            return
        subject = activity.subject
        if self._partition_of(subject) != part.number:
            self._forward(message, subject, cloudevents.of_activity(activity), urgent=is_settings(activity))
            return
        trusted, fault = self._believed(message, subject, signing.ACTIVITY) if is_settings(activity) else (True, None)
        outcome = part.shard.activity(activity, append_time, now, trusted=trusted, fault=fault)
        if organization_of(subject) is not None and (ledger := part.shard.ledgers.get(subject)) is not None:
            part.known[subject.encode("utf-8", "surrogatepass")] = ledger
        self._follow(part, message, outcome)
        if outcome.rejection is not None:
            return
        if claimed is None:
            return
        # A time that the headers do not speak of is no lie.
        created_at = None if claimed.created_at is None else activity.created_at
        if claimed != cloudevents.Claims(activity.type, activity.id, created_at, subject):
            self._mismatch(part, subject, message, append_time, now)
        elif (
            self._trust_headers
            and created_at is not None
            and activity.type not in NEVER_SKIPPED
            and len(self._ordinary) < MAX_KINDS
        ):
            self._ordinary.add(ACTIVITY_TYPE_PREFIX + activity.type.encode("utf-8", "surrogatepass"))
            headers = headers_of(message) or []
            self._layouts[len(headers)] = cloudevents.layout_of(headers)

    def _mismatch(self, part: Part, subject: str, message: Message, append_time: int, now: int) -> None:
        """Headers that say something else than their body: believe bodies only from here on."""
        self._trust_headers = False
        self._layouts.clear()
        self._metrics.skipping.set(0)
        ledger = part.shard.ledger(subject)
        part.shard.touched.add(ledger)
        sentence = f"the headers of record {_place_text(message)} differ from its body; from here on bodies decide"
        self._send(part, ledger.alert("header_mismatch", _place_text(message), sentence, append_time, now))

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
        return partition_of(subject, self._identities[self._topics.activity].partitions)

    def _follow(self, part: Part, message: Message, outcome: Outcome) -> None:
        """Send what an input led to, and count it."""
        self._send(part, outcome.emissions)
        self._post(outcome.mail)
        if outcome.rejection is not None:
            self._dead_letter(part, message, outcome.rejection)
        elif message.topic() != self._mailbox:
            (self._repeated if outcome.repeat else self._applied).inc()

    # --- the sides ----------------------------------------------------------------------------------------------------

    def _take_side(self, part: Part, topic: str, messages: list[Message]) -> None:
        take = self._sides[topic]
        message = messages[0]
        try:
            for message in messages:
                if is_text(message.key()):
                    take(part, message, _append_time(message), self._clock())
                else:
                    self._dead_letter(part, message, _bad_key(message))
        except WorkerStop:
            self._absolve()
            raise
        except Exception as error:
            raise self._died_on(part, message, error) from error

    def _take_policy(self, part: Part, message: Message, append_time: int, now: int) -> None:
        version = avro.decode_policy(self._ids, message.value(), append_time)
        if isinstance(version, Rejection):
            self._dead_letter(part, message, version)
        # The defaults are at home in every partition.
        elif version.organization_id is not None and self._partition_of(version.organization_id) != part.number:
            self._forward(message, version.organization_id, cloudevents.of_policy(version), urgent=True)
        else:
            self._follow(part, message, part.shard.policy(version, now))

    def _take_topology(self, part: Part, message: Message, append_time: int, now: int) -> None:
        version = avro.decode_topology(self._ids, message.value(), append_time)
        if isinstance(version, Rejection):
            self._dead_letter(part, message, version)
        elif self._partition_of(version.subject) != part.number:
            self._forward(message, version.subject, cloudevents.of_topology(version), urgent=True)
        else:
            self._follow(part, message, part.shard.topology(version, now))

    def _take_observation(self, part: Part, message: Message, append_time: int, now: int) -> None:
        seen = avro.decode_observation(self._ids, message.value())
        if isinstance(seen, Rejection):
            self._dead_letter(part, message, seen)
        elif self._partition_of(seen.subject) != part.number:
            self._forward(message, seen.subject, cloudevents.of_observation(seen), urgent=True)
        else:
            trusted, fault = self._believed(message, seen.subject, signing.OBSERVATION)
            outcome = part.shard.observation(seen, append_time, now, trusted=trusted, fault=fault)
            self._follow(part, message, outcome)

    def _take_mail(self, part: Part, message: Message, append_time: int, now: int) -> None:
        mail = mailbox.decode(message.key(), message.value())
        if isinstance(mail, Rejection):
            self._dead_letter(part, message, mail)
        elif mail.kind == mailbox.TICK:
            self._metrics.mail.labels(mail.kind).inc()
            part.awaits_tick = False
            outcome = part.shard.tick(append_time, now)
            self._send(part, outcome.emissions)
            self._post(outcome.mail)
        elif self._partition_of(mail.key) != part.number:
            self._forward(message, mail.key, [], urgent=True)
        else:
            outcome = part.shard.post(mail, append_time, now)
            self._metrics.mail.labels(mail.kind).inc()
            self._follow(part, message, outcome)

    def _tick(self, now: int) -> None:
        """Write a tick to each owned partition, once a second; none while there is a backlog, of input or of ticks."""
        if 0 <= now - self._ticked_at < TICK_EVERY or self.behind():
            return
        self._ticked_at = now
        for part in self.parts.values():
            ends = {topic: self._end(self._reader_of(topic), part, topic) for topic in part.places}
            # In the mailbox everything before a tick is read before it, and a tick of the worker before may be there.
            del ends[self._mailbox]
            if not part.awaits_tick and part.places[self._mailbox].end >= 0 and min(ends.values()) >= 0:
                self._outbox.send(self._mailbox, None, mailbox.encode(mailbox.tick(ends)), None, part.number)
                part.awaits_tick = True

    # --- records that kill --------------------------------------------------------------------------------------------

    def _take_cautiously(self, part: Part, place: Place, message: Message) -> None:
        """Take in one record as if it could kill: that it is tried is committed before it is tried."""
        attempt = _attempt(part, message)
        if attempt["tries"] > DEATHS:
            self._quarantine(part, message)
        else:
            self._save(part, state.ATTEMPT_KEY, state.dumps(attempt))
            self.commit()
            self._take_in(part, place, [message])
        place.position = (message.offset() or 0) + 1
        self.commit()

    def _quarantine(self, part: Part, message: Message) -> None:
        rejection = Rejection("quarantined", f"{DEATHS} workers died on it")
        subject = self._subject_for(part, cloudevents.subject_in(headers_of(message)))
        self._dead_letter(part, message, rejection)
        place = _place_text(message)
        self._send(part, part.shard.refused(rejection, subject, place, _append_time(message), self._clock()))

    def _died_on(self, part: Part, message: Message, error: Exception) -> WorkerStop:
        """Write down, in a transaction of its own, which record this worker dies on."""
        part.attempt = _attempt(part, message)
        self._leave_word()
        return WorkerStop(
            f"an unexpected error at record {_place_text(message)}: {type(error).__name__}: {error}; nothing after the "
            f"last commit is kept. Start the worker again: a record that kills {DEATHS} times is put aside"
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
                finding = orjson.dumps(finding_of(record, auditgap.__version__))
                self._outbox.send(self._topics.finding, key, finding, cloudevents.of_finding(record), part.number)
                self._metrics.gap_revisions.inc()
            elif isinstance(record, Status):
                self._outbox.send(self._topics.status, key, value, headers, part.number)
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
        topic = self._dead_letters[message.topic() or ""]
        self._outbox.send(topic, message.key(), message.value(), headers, part.number)
        self._metrics.records.labels("dead_letter").inc()
        self._metrics.dead_letters.labels(rejection.reason).inc()

    def _post(self, letters: Iterable[Mail]) -> None:
        for mail in letters:
            target = self._partition_of(mail.key)
            self._outbox.send(self._mailbox, mailbox.key_bytes(mail), mailbox.encode(mail), None, target)

    def _forward(self, message: Message, subject: str, own: Headers, *, urgent: bool) -> None:
        """Hand a record to the partition that its subject belongs to; `own` are its headers as they should be."""
        headers = [
            *(each for each in headers_of(message) or [] if not own or not each[0].startswith("ce_")),
            *own,
            ("auditgap_forwarded_from", _place_text(message).encode()),
        ]
        topic = message.topic() or ""
        # An organization and a feed may have the same id, which would be one key to compaction.
        whole = topic in (self._mailbox, self._topics.topology)
        key = (subject if whole else key_of(subject)).encode("utf-8", "surrogatepass")
        self._outbox.send(topic, key, message.value(), headers, self._partition_of(subject))
        self._metrics.records.labels("forwarded").inc()
        # The partition it belongs to has to wait for the commit.
        self.urgent = self.urgent or urgent

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
                self._post(part.shard.letters())
                written += self._save_shard(part)
                for place in part.places.values():
                    if place.position == place.fetched < place.end:
                        # What lies between is no record but the mark of a transaction: a position before it would
                        # look like lag, and like a loss once retention takes it.
                        place.position = place.end
            self._tick(now)
        except WorkerStop:
            self._absolve()
            raise
        self._metrics.state_bytes.inc(written)

    def finish(self) -> None:
        """Commit what `prepare` wrote, and the positions. Blocks. Raises WorkerStop."""
        places = [(part, place) for part in self.parts.values() for place in part.places.values()]
        moved = [_at(part, place) for part, place in places if place.position != place.committed]
        if not moved and not self._outbox.open:
            return
        try:
            with self._metrics.commits.time():
                self._outbox.commit(moved, self.membership())
        except WorkerStop:
            self._absolve()
            raise
        for part, place in places:
            place.committed = place.position
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
        """How many records are not taken in yet, by partition, as far as the last answer to a fetch told.

        Without the mailbox: a tick is there every second, and nobody waits for it.
        """
        lags = {}
        for part in list(self.parts.values()):
            known = [
                max(0, end - place.position)
                for topic, place in part.places.items()
                if topic != self._mailbox and (end := self._end(self._reader_of(topic), part, topic)) >= 0
            ]
            if known:
                lags[part.number] = sum(known)
        return lags

    def _reader_of(self, topic: str) -> Consumer:
        return self._side if topic in self._sides else self._reader

    def _end(self, reader: Consumer, part: Part, topic: str) -> int:
        """Tell where a topic ends by the last answer to a fetch; below 0 before the first one."""
        return reader.get_watermark_offsets(TopicPartition(topic, part.number), cached=True)[1]

    def measure(self) -> None:
        """Bring the gauges up to date. Asks nothing of the network."""
        self._metrics.commit_age.set(self.commit_age())
        parts = list(self.parts.values())
        self._metrics.subjects.set(sum(len(part.shard.ledgers) for part in parts))
        sizes = [part.shard.sizes() for part in parts]
        for kind in Sizes._fields:
            self._metrics.state_records.labels(kind).set(sum(getattr(each, kind) for each in sizes))
        self._metrics.clock.clear()
        for part in parts:
            self._metrics.clock.labels(str(part.number)).set(part.shard.clock / times.SECOND)
        self._metrics.lag.clear()
        for number, lag in self._lags().items():
            self._metrics.lag.labels(str(number)).set(lag)


def _consumer(settings: Settings, more: dict[str, Any]) -> Consumer:
    return Consumer(
        {
            **client_config(settings.kafka),
            "group.id": settings.worker.group,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            # The default of a second leaves the loop idle whenever the queue ran full once.
            "fetch.queue.backoff.ms": 10,
            **more,
        }
    )


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


def _place_of(message: Message) -> tuple[str, int]:
    return message.topic() or "", message.partition() or 0


def _place_text(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def _at(part: Part, place: Place) -> TopicPartition:
    return TopicPartition(place.topic, part.number, place.position)


def _attempt(part: Part, message: Message) -> dict[str, Any]:
    """Count one more try of a record."""
    record = {"topic": message.topic(), "offset": message.offset() or 0}
    again = all(part.attempt.get(name) == value for name, value in record.items())
    return {**record, "tries": part.attempt["tries"] + 1 if again else 1}


def _bad_key(message: Message) -> Rejection:
    return Rejection("bad_key", f"the key is not UTF-8: 0x{(message.key() or b'').hex()[:60]}")
