"""Faust runs the job: agent, group membership, assignment, rebalance, life cycle. It moves no records.

`ActivityConsumer` replaces the driver's consumer through a transport of our own, so nothing of Faust is patched:

- aiokafka stays the member of the group, with its partitions paused;
- records come from `Job.poll`; each run of records that it gives is one Faust message whose value is a `Batch`;
- positions are the job's, committed in its transactions; Faust's acks, which come for failed batches as well, are
  thrown away;
- each batch carries the assignment it belongs to and a number. A batch of an earlier assignment is dropped: it is
  somebody else's now. A number that is missing stops the worker: Faust clears its queues when flow resumes, and what
  was in them would be lost.

An error stops the process inside the agent, before Faust sees an exception and acks the batch that failed.
"""

import asyncio
import contextlib
import logging
import os
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import faust
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import InconsistentGroupProtocolError, KafkaError
from confluent_kafka import Message
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service

from auditgap.adapters import group_metadata
from auditgap.adapters.job import Job
from auditgap.config import KafkaSettings, Settings
from auditgap.errors import AuditgapError, BrokerError, WorkerStop

BUSY_WAIT: Final = 0.005
"""Seconds to look away when nothing was fetched, but something was a moment ago."""

IDLE_WAIT: Final = 0.02
"""Seconds to look away on a quiet feed: some milliseconds of latency for most of the processor time at idle."""

BEAT_SECONDS: Final = 1.0
"""How often the event loop shows that it lives."""

URGENT_SPACING: Final = 0.1
"""Seconds between commits for the sake of alerts. A worker that is behind keeps to its commit interval: an alert out
of a backlog is late by the backlog already, and each commit delays all that follow."""

INPUT_CHECK_SECONDS: Final = 5.0
"""How often to look whether the input topic is still the same one."""

UNREADY_COMMIT_AGE: Final = 30.0
"""Seconds without a commit, though there is something to commit, after which the worker is not ready."""

DEAD_SECONDS: Final = 60.0
"""Seconds for which the event loop may stand still: a commit takes 25 at the most."""

NEVER_SECONDS: Final = 100 * 365 * 86_400.0
"""A hundred years: for a time limit that cannot be switched off."""

READY: Final = "ready"

_log = logging.getLogger("auditgap.worker")


def halt(error: BaseException) -> NoReturn:
    """End the process at once, with one line. The open transaction is aborted by whoever takes over."""
    if not isinstance(error, AuditgapError):
        _log.error("unexpected error", exc_info=error)
    print(f"auditgap: {error}" if isinstance(error, AuditgapError) else f"auditgap: {error!r}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(error.exit_status if isinstance(error, AuditgapError) else 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of a topic; `epoch` counts assignments, `number` the batches of the partition."""

    epoch: int
    number: int
    records: list[Message]


class _Carrier:
    """What Faust takes for one record of aiokafka's: it carries a whole batch through Faust's streams."""

    __slots__ = (
        "checksum",
        "headers",
        "key",
        "offset",
        "partition",
        "serialized_key_size",
        "serialized_value_size",
        "timestamp",
        "timestamp_type",
        "topic",
        "value",
    )

    def __init__(self, topic: str, partition: int, batch: Batch, offset: int) -> None:
        self.topic, self.partition, self.value = topic, partition, batch
        # Faust drops what stands before what it has seen, and records of several topics are carried here.
        self.offset = offset
        self.timestamp, self.timestamp_type = 0, 0
        self.headers = self.key = self.checksum = None
        self.serialized_key_size = self.serialized_value_size = 0


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's thread of aiokafka's, with an assignor whose name holds the input topic.

    The broker gives a static member that comes back what it had, as long as the assignor's name is the same one: after
    a change of the input topic, partitions of the old one. With another name it refuses the member instead.
    """

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        named = type("Assignor", (RoundRobinPartitionAssignor,), {"name": f"roundrobin {transport.topic}"})
        consumer._partition_assignment_strategy = (named,)
        return consumer

    async def on_thread_stop(self) -> None:
        """Stop aiokafka, also where a fetch has failed a moment ago.

        Closing its fetcher cancels that fetch while it waits to try again, and takes the cancelling for its own: the
        thread would die of it, and the worker wait for the thread for ever. The group is left before that, and the
        connections end with the process.
        """
        with contextlib.suppress(asyncio.CancelledError):
            await super().on_thread_stop()


class ActivityConsumer(driver.Consumer):
    """Faust's consumer, fed by the job. See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        transport = cast("ActivityTransport", self.transport)
        self.job, self.topic = transport.job, transport.topic
        self.owned: frozenset[int] = frozenset()
        self.epoch = 0
        self.lock = asyncio.Lock()
        self.phase = "joining the group"
        self.seen_alive: float | None = None
        self.membership = b""
        self._sent: dict[int, int] = {}
        self._carried = 0
        self._fetched_at = self._committed_at = 0.0
        self._urgent = asyncio.Event()

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ARG002, ASYNC109
        active = {tp.partition for tp in active_partitions or () if tp.topic == self.topic}
        # The gate opens when Faust has resumed everything that is owned, and not before.
        if not (active and self.flow_active and active == self.owned):
            await asyncio.sleep(0.02)
            return {}
        out: dict[TP, list[_Carrier]] = {}
        try:
            for number, records in self.job.poll():
                sent = self._sent[number] = self._sent.get(number, 0) + 1
                self._carried += 1
                carrier = _Carrier(self.topic, number, Batch(self.epoch, sent, records), self._carried)
                out.setdefault(TP(self.topic, number), []).append(carrier)
        except Exception as error:
            halt(error)
        now = time.monotonic()
        if out:
            self._fetched_at = now
        else:
            await asyncio.sleep(BUSY_WAIT if now < self._fetched_at + 1 else IDLE_WAIT)
        return out

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commit what was done, and give the partitions back."""
        self.phase = "rebalancing"
        async with self.lock:
            if self.owned:
                await self._blocking(self.job.release)
            self.owned = frozenset()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Restore the state of the partitions, then let Faust start."""
        numbers = sorted(tp.partition for tp in assigned if tp.topic == self.topic)
        self.phase = "restoring state"
        async with self.lock:
            self.epoch += 1
            self._sent.clear()
            self._join(generation_id)
            await self._blocking(self.job.assign, numbers)
        await super().on_partitions_assigned(assigned, generation_id)
        if numbers:
            paused = [driver.ensure_aiokafka_TP(TP(self.topic, number)) for number in numbers]
            self._thread._ensure_consumer().pause(*paused)
        self.owned = frozenset(numbers)
        self.phase = READY
        _log.info("owns partitions %s of %s", numbers or "none", self.topic)

    def _join(self, generation: int) -> None:
        """Keep the group metadata of this assignment, and keep the membership alive while state is restored.

        Not the membership as it is at each commit: a member that was thrown out forgets its generation and joins anew
        by itself, and what it had taken in before would pass for the new member's.
        """
        coordinator = self._thread._ensure_consumer()._coordinator
        conf = self.app.conf
        self.membership = group_metadata.encode(
            conf.id, generation, coordinator.member_id, conf.consumer_group_instance_id
        )
        # aiokafka's heart beats only after this callback: a long restore would outlast the session.
        self._thread.thread_loop.call_soon_threadsafe(coordinator._start_heartbeat_task)

    def _check_membership(self) -> None:
        """Stop if aiokafka has given up: it keeps such an error until somebody fetches, and here nobody does.

        Runs on the thread of aiokafka's loop.
        """
        coordinator = getattr(self._thread._consumer, "_coordinator", None)
        if coordinator is None:
            return
        try:
            coordinator.check_errors()
        except InconsistentGroupProtocolError:
            known = self.app.conf.broker_session_timeout
            halt(
                WorkerStop(
                    f"group {self.app.conf.id} reads another topic than {self.topic}, or a worker did that has ended: "
                    f"it is forgotten {known:g} s later; stop the workers of the other topic, then start this one again"
                )
            )
        except KafkaError as error:
            if not error.retriable:
                said = getattr(error, "description", str(error)).strip().rstrip(".")
                name = self.app.conf.consumer_group_instance_id
                halt(WorkerStop(f"cannot be the member {name!r} of group {self.app.conf.id}: {said}"))

    async def take(self, partition: int, batch: Batch) -> None:
        """Take in one batch, if it is still ours. Called by the agent."""
        async with self.lock:
            part = self.job.parts.get(partition)
            if batch.epoch != self.epoch or part is None:
                return
            if batch.number != part.batches + 1:
                halt(
                    WorkerStop(
                        f"batch {part.batches + 1} of partition {partition} never came (got {batch.number}): Faust "
                        "dropped it; nothing is committed past it: start the worker again"
                    )
                )
            try:
                self.job.take_batch(part, batch.records)
            except Exception as error:
                halt(error)
            part.batches = batch.number
            if self.job.urgent:
                self._urgent.set()

    async def commit_job(self, spacing: float = 0.0) -> None:
        """Commit what the job has done, unless that was done less than `spacing` seconds ago.

        Only what waits for the broker runs off the event loop's thread.
        """
        async with self.lock:
            # Looked at here, not before: while this one waited for the lock, another commit may have been made.
            if time.monotonic() < self._committed_at + spacing:
                return
            self._urgent.clear()
            if self.owned:
                try:
                    self.job.prepare()
                except Exception as error:
                    halt(error)
                await self._blocking(self.job.finish)
                self._committed_at = time.monotonic()

    async def _blocking(self, step: Callable[..., None], *args: Any) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, step, *args)
        except Exception as error:
            halt(error)

    @Service.task
    async def watch(self) -> None:
        """Commit at once when an alert waits, and stop when the input topic becomes another one. Runs for ever."""
        loop = asyncio.get_running_loop()
        check_at = loop.time() + INPUT_CHECK_SECONDS
        while not self.should_stop:
            self.seen_alive = time.monotonic()
            if (thread_loop := self._thread.thread_loop) is not None:
                thread_loop.call_soon_threadsafe(self._check_membership)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), BEAT_SECONDS)
                spacing = self.commit_interval if self.job.behind() else URGENT_SPACING
                await asyncio.sleep(self._committed_at + spacing - time.monotonic())
                await self.commit_job(spacing)
            if self.owned and loop.time() >= check_at:
                try:
                    await loop.run_in_executor(None, self.job.check_input)
                except BrokerError as error:
                    self.job.trouble = str(error)  # the broker is away: readiness tells, librdkafka goes on trying
                except Exception as error:
                    halt(error)
                else:
                    self.job.trouble = None
                check_at = loop.time() + INPUT_CHECK_SECONDS

    # --- what Faust would do about offsets, and must not --------------------------------------------------------------

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Commit the job's transaction in place of Faust's acks; not when an alert has just made it commit.

        `start_new_transaction` is False when the worker leaves: everything is committed then.
        """
        await self.commit_job(self.commit_interval * 0.8 if start_new_transaction else 0.0)
        for tp in list(self._acked):
            self._acked[tp].clear()
            self._acked_index[tp].clear()
        return True

    async def verify_all_partitions_active(self) -> None:
        """Nothing to verify: aiokafka fetches nothing."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Transactions leave holes in offsets; nobody reads Faust's bookkeeping of them."""

    async def perform_seek(self) -> None:
        """Positions are the job's: there is nothing to seek in aiokafka."""


class ActivityTransport(driver.Transport):
    """The driver's transport with our consumer, and the job that feeds it."""

    Consumer = ActivityConsumer
    job: Job
    topic: str


class Worker(faust.Worker):
    """Faust's worker without its banner and log set-up: one line a message, on stderr."""

    def _setup_logging(self) -> None:
        """Keep logging as entrypoints.worker set it."""

    def carp(self, msg: str) -> None:
        """Say nothing on a signal: the shutdown is logged."""

    def _setproctitle(self, info: str, *, ident: str = "") -> None:
        """Stay `auditgap worker` in the list of processes, whatever package happens to be installed."""


class App(faust.App):
    """Faust's application, which leaves nothing on disk: state is in Kafka."""

    def _create_directories(self) -> None:
        pass


def build(settings: Settings, job: Job) -> faust.App:
    """Make the Faust application that runs a job. Starts nothing."""
    worker = settings.worker
    app = App(
        worker.group,
        broker=[f"kafka://{server.strip()}" for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings.kafka),
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_group_instance_id=worker.instance_id,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=worker.session_timeout_seconds,
        broker_heartbeat_interval=worker.session_timeout_seconds / 5,
        broker_request_timeout=max(30.0, worker.session_timeout_seconds + 5),
        # aiokafka fetches nothing, which it would take for a hanging program: it would leave the group for ever.
        broker_max_poll_interval=NEVER_SECONDS,
        broker_rebalance_timeout=max(30.0, worker.session_timeout_seconds),
        broker_commit_interval=worker.commit_interval_seconds,
        # Batches, not records. Too few make Faust's fetcher sleep a second at a time, many only hold memory.
        stream_buffer_maxsize=8,
        stream_wait_empty=False,
        autodiscover=False,
        worker_redirect_stdouts=False,
    )
    transport = ActivityTransport([*app.conf.broker], app, loop=app.loop)
    transport.job, transport.topic = job, settings.topics.activity
    app.transport = transport
    job.membership = lambda: cast("ActivityConsumer", app.consumer).membership
    source = app.topic(
        settings.topics.activity, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    @app.agent(source, name="activities")
    async def activities(stream: faust.StreamT[Any]) -> None:
        async for event in stream.events():
            await cast("ActivityConsumer", app.consumer).take(event.message.partition, event.value)

    return app


def unready(app: faust.App, job: Job) -> str | None:
    """Say why the worker is not ready, None where it is."""
    consumer = app._consumer
    if not isinstance(consumer, ActivityConsumer):
        return "starting"
    if consumer.phase != READY:
        return consumer.phase
    if (age := job.commit_age()) > UNREADY_COMMIT_AGE:
        return f"nothing was committed for {age:.0f} s"
    return job.trouble


def dead(app: faust.App) -> str | None:
    """Say why the process should be killed, None where it lives: its event loop stands still."""
    consumer = app._consumer
    if not isinstance(consumer, ActivityConsumer) or consumer.seen_alive is None:
        return None
    stood = time.monotonic() - consumer.seen_alive
    return f"the event loop stands still for {stood:.0f} s" if stood > DEAD_SECONDS else None


def _credentials(settings: KafkaSettings) -> Any:
    context = None
    if settings.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.ssl_ca_location)
        if settings.ssl_certificate_location and settings.ssl_key_location:
            password = settings.ssl_key_password.get_secret_value() if settings.ssl_key_password else None
            context.load_cert_chain(settings.ssl_certificate_location, settings.ssl_key_location, password)
    if settings.sasl_username and settings.sasl_password:
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def run(app: faust.App, job: Job) -> int:
    """Run the application until a signal ends it; gives the exit status."""
    worker = Worker(app, quiet=True, redirect_stdouts=False)
    worker.spinner = None
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    job.close()
    return status
