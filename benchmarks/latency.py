"""`make bench`: from producing a settings event to having its alert, at idle.

The worker runs; four times a second one settings event is produced, and a consumer of committed records waits for its
alert. What is measured is the whole way, in one process: from the call that produces the event to the call that gives
the alert. Exit status: 1 if an alert was missing; a missed target is only said.
"""

import argparse
import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Final

from confluent_kafka import Consumer, Message, Producer, TopicPartition

import contest
import report
from auditgap.adapters import avro, cloudevents, kafka
from auditgap.adapters.embedded_kafka import EmbeddedKafka
from auditgap.config import Settings
from auditgap.core.inputs import Activity, key_of, read_activity

EVERY: Final = 0.25
JITTER: Final = 0.1
WARM_UP: Final = 20
TARGET: Final = 0.3
_LIMIT: Final = 60.0


def events() -> Iterator[Activity]:
    """Give settings events for ever: of each organization one that says off, then one that says on."""
    for number in itertools.count():
        record = {
            "id": f"activity_{number:024}",
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "organization_id": f"org_{number // 2:024}",
            "actor": {"type": "user_actor", "email_address": "someone@example.com"},
            "type": "org_compliance_api_settings_updated",
            "compliance_api_logging_enabled": bool(number % 2),
        }
        activity = read_activity(record, json.dumps(record), None)
        assert isinstance(activity, Activity)
        yield activity


class Alerts:
    """Takes the time at which each event's alert arrives, in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.arrived: queue.Queue[tuple[str, float]] = queue.Queue()
        self._ids = avro.SchemaIds.bundled()
        self._consumer = Consumer(
            {
                **kafka.client_config(settings.kafka),
                "group.id": "latency",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.assign([TopicPartition(settings.topics.alert, n, 0) for n in range(contest.PARTITIONS)])
        self._stopping = False
        self._thread = Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stopping = True
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping:
            message = self._consumer.poll(0.2)
            now = time.perf_counter()
            if message is not None and message.error() is None:
                self.arrived.put((self._cause(message), now))

    def _cause(self, message: Message) -> str:
        """Name the event an alert follows from: the close comes second in the evidence of a restoration."""
        alert = self._ids.decode(message.value(), "alert")
        assert isinstance(alert, dict)
        evidence: list[str] = alert["evidence"]
        return evidence[int(alert["kind"] == "logging_restored")]


def measure(settings: Settings, samples: int) -> list[float]:
    """Produce one event at a time and wait for its alert; gives seconds. Raises TimeoutError if one is missing."""
    producer = Producer(
        {**kafka.client_config(settings.kafka), "linger.ms": 0, "acks": "all", "partitioner": kafka.PARTITIONER}
    )
    encoder = avro.Encoder(avro.SchemaIds.bundled())
    alerts = Alerts(settings)
    seconds = []
    try:
        for activity in itertools.islice(events(), WARM_UP + samples):
            value, headers = encoder.activity(activity), cloudevents.of_activity(activity)
            began = time.perf_counter()
            producer.produce(settings.topics.activity, value, key_of(activity.subject), headers=headers)  # type: ignore[arg-type]
            producer.poll(0)
            arrived = _wait_for(alerts, activity.id, began + _LIMIT)
            seconds.append(arrived - began)
            time.sleep(max(0.0, began + EVERY + random.uniform(-JITTER, JITTER) - time.perf_counter()))
    finally:
        alerts.close()
        producer.flush(10)
    return seconds[WARM_UP:]


def _wait_for(alerts: Alerts, cause: str, deadline: float) -> float:
    while True:
        try:
            found, arrived = alerts.arrived.get(timeout=max(0.01, deadline - time.perf_counter()))
        except queue.Empty:
            raise TimeoutError(f"no alert for {cause} within {_LIMIT:.0f} s") from None
        if found == cause:
            return arrived


def percentile(sorted_seconds: list[float], share: float) -> float:
    """Give the least value that so large a share of them does not exceed."""
    rank = -(-len(sorted_seconds) * share // 1)
    return sorted_seconds[max(0, int(rank) - 1)]


def main() -> int:
    """Run it all."""
    parser = argparse.ArgumentParser(description="From producing a settings event to having its alert, at idle.")
    parser.add_argument("--samples", type=int, default=400, help="events measured (default: %(default)s)")
    samples: int = parser.parse_args().samples
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended and removed on the way out
    for name in [name for name in os.environ if name.startswith("AUDITGAP_")]:
        del os.environ[name]  # the benchmark decides
    with tempfile.TemporaryDirectory(prefix="auditgap-bench-") as directory:
        tmp = Path(directory)
        with EmbeddedKafka(tmp / "kafka", on_message=_say) as broker, (tmp / "worker.log").open("w") as log:
            settings = contest.settings_for(broker.bootstrap_servers, "feed", "latency")
            kafka.apply_topics(settings, lambda _: None)
            worker = subprocess.Popen(
                [str(Path(sys.executable).with_name("auditgap")), "worker"],
                env={**os.environ, **contest.environment_of(settings)},
                cwd=tmp,
                stderr=log,
                text=True,
            )
            try:
                seconds = sorted(measure(settings, samples))
            except TimeoutError as missing:
                _say(f"{missing}; the worker said: {(tmp / 'worker.log').read_text()[-1500:]}")
                return 1
            finally:
                contest.end(worker)
    shown = {name: percentile(seconds, share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    shown["max"] = seconds[-1]
    figures = ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in shown.items())
    target = report.Target("produce to alert at idle, p99 under 300 ms", figures, shown["p99"] < TARGET)
    lines = [
        f"{len(seconds)} settings events, one every {EVERY * 1000:.0f} ms or so, on an idle worker.",
        "",
        f"- {target}",
    ]
    report.save("latency", "Latency", lines, {"samples": len(seconds), "seconds": shown})
    print("\n".join(lines))
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
