"""Runs one contestant: topics of its own, a process of its own, its outputs checked, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Final, Literal

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

import checks
import machine
from auditgap import config
from auditgap.adapters import kafka
from auditgap.config import Settings
from stopwatch import Task, Timing
from workload import Expectation

HERE: Final = Path(__file__).parent
PARTITIONS: Final = 4
_END_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who takes part. `slowest` is the records/s below which it is given up; `state` its changelog, by its group."""

    name: str
    title: str
    program: str
    slowest: int
    state: str = "{group}.state"
    environment: tuple[tuple[str, str], ...] = ()
    chained: bool = False
    feed: Literal["whole", "everything", "share"] = "whole"


CONTESTANTS: Final = (
    Contestant("auditgap", "**auditgap**: the worker", "contestant_auditgap.py", 5000, chained=True),
    Contestant(
        "everything",
        "auditgap, everything on",
        "contestant_auditgap.py",
        5000,
        chained=True,
        feed="everything",
    ),
    Contestant("loop", "hand-written loop, exactly once", "baseline_loop.py", 5000),
    Contestant(
        "loop-alo",
        "hand-written loop, at least once",
        "baseline_loop.py",
        5000,
        environment=(("BENCH_LOOP", "at-least-once"),),
    ),
    Contestant(
        "faust",
        "idiomatic Faust, at least once",
        "baseline_faust.py",
        400,
        state="{group}-organizations-changelog",
        feed="share",
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant in one round. `others` is how many cores other programs used meanwhile, None where unknown."""

    contestant: str
    round: int
    timing: Timing | None
    others: float | None
    faults: list[str]


def settings_for(servers: str, activity: str, name: str, aside: str | None = None) -> Settings:
    """Name the topics of one run; those of observations and policies begin with `aside`, where these are shared."""
    shared = {each: f"{aside or name}.{each}" for each in ("observation", "policy")}
    return config.load(
        kafka={"bootstrap_servers": servers},
        topics={
            "activity": activity,
            **shared,
            **{each: f"{name}.{each}" for each in ("alert", "gap", "status", "topology", "finding")},
            "partitions": PARTITIONS,
        },
        worker={"group": name, "instance_id": name, "http_port": 0, "log_level": "WARNING"},
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """Give the environment in which auditgap finds these settings."""
    topics, worker = settings.topics, settings.worker
    return {
        "AUDITGAP_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "AUDITGAP_TOPICS__ACTIVITY": topics.activity,
        "AUDITGAP_TOPICS__OBSERVATION": topics.observation,
        "AUDITGAP_TOPICS__ALERT": topics.alert,
        "AUDITGAP_TOPICS__GAP": topics.gap,
        "AUDITGAP_TOPICS__POLICY": topics.policy,
        "AUDITGAP_TOPICS__STATUS": topics.status,
        "AUDITGAP_TOPICS__TOPOLOGY": topics.topology,
        "AUDITGAP_TOPICS__FINDING": topics.finding,
        "AUDITGAP_TOPICS__PARTITIONS": str(topics.partitions),
        "AUDITGAP_WORKER__GROUP": worker.group,
        "AUDITGAP_WORKER__INSTANCE_ID": worker.instance_id,
        "AUDITGAP_WORKER__HTTP_PORT": str(worker.http_port),
        "AUDITGAP_WORKER__LOG_LEVEL": worker.log_level,
    }


def run(contestant: Contestant, number: int, settings: Settings, expected: Expectation, broker: int, tmp: Path) -> Run:
    """Let a contestant work through the feed, and check what it committed. `broker` is the broker's process id."""
    topics, group = settings.topics, settings.worker.group
    state = contestant.state.format(group=group)
    task = Task(
        servers=settings.kafka.bootstrap_servers,
        group=group,
        records=expected.records,
        partitions=PARTITIONS,
        activity=topics.activity,
        alert=topics.alert,
        gap=topics.gap,
        history=topics.gap_history,
        state=state,
    )
    kafka.apply_topics(settings, lambda _: None)
    try:
        timing, others, problems = _timed(contestant, task, environment_of(settings), broker, tmp)
        if timing is not None:
            problems += checks.faults(
                settings, state, expected, chained=contestant.chained, everything=contestant.feed == "everything"
            )
    finally:
        _delete(task.servers, topics.activity, group)
    return Run(contestant.name, number, timing, others, problems)


def _timed(
    contestant: Contestant, task: Task, environment: dict[str, str], broker: int, tmp: Path
) -> tuple[Timing | None, float | None, list[str]]:
    problems: list[str] = []
    log = tmp / f"{task.group}.log"
    limit = 60 + task.records / contestant.slowest
    with log.open("w") as errors:
        before, began = _usage(broker), time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / contestant.program), str(tmp)],
            env={**task.environment(), **environment, **dict(contestant.environment)},
            cwd=tmp,  # Faust makes a directory for its data there
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        giving_up = Timer(limit, process.kill)
        giving_up.start()
        try:
            assert process.stdout is not None
            printed = next((line for line in process.stdout if line.startswith("{")), "")
            others = _others(before, _usage(broker), machine.cpu_seconds(process.pid), time.monotonic() - began)
        finally:
            giving_up.cancel()
            status = end(process)
    timing = Timing(**json.loads(printed)) if printed else None
    if timing is None or status not in (0, -signal.SIGTERM):
        problems.append(f"ended with status {status}: {log.read_text()[-1500:].strip()}")
    return timing, others, problems


def end(process: subprocess.Popen[str]) -> int:
    """End a process in order, or by force; gives its exit status."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()


def _usage(broker: int) -> tuple[float | None, float]:
    """Processor time: of all programs, and of broker and benchmark."""
    return machine.busy_seconds(), machine.cpu_seconds(broker) + machine.cpu_seconds(os.getpid())


def _others(
    before: tuple[float | None, float], after: tuple[float | None, float], contestant: float, elapsed: float
) -> float | None:
    if before[0] is None or after[0] is None:
        return None
    return max(0.0, (after[0] - before[0] - (after[1] - before[1]) - contestant) / elapsed)


def _delete(servers: str, activity: str, group: str) -> None:
    """Delete what a run made: its topics are named after its group."""
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    made = [name for name in admin.list_topics(timeout=15).topics if name.startswith(group) and name != activity]
    for deleted in admin.delete_topics(made).values():
        deleted.result(15)
    for forgotten in admin.delete_consumer_groups([group]).values():
        with suppress(KafkaException):  # a member that was killed is still in it; the broker ends with the benchmark
            forgotten.result(15)
