"""Baseline: an idiomatic Faust agent. A table holds each organization's state, outputs go by `send`, Faust commits.

At least once, which is what Faust has to offer. The last id of every organization is in the table, so each record
changes it. Only the clock is not idiomatic.
"""

import asyncio
import sys
from typing import Any

import faust
from aiokafka.consumer import fetcher

import stopwatch
from plain_job import SETTINGS_TYPE, Organization, decode, encode

TASK = stopwatch.Task.given()
WATCH = stopwatch.Stopwatch(TASK.records)

app = faust.App(
    TASK.group,
    broker=f"kafka://{TASK.servers}",
    store="memory://",
    topic_partitions=TASK.partitions,
    topic_disable_leader=True,
    table_standby_replicas=0,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
    broker_commit_interval=1.0,
    datadir=sys.argv[1],
    autodiscover=False,
)
activities = app.topic(TASK.activity, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
alerts, gaps, history = (
    app.topic(name, key_serializer="raw", value_serializer="raw") for name in (TASK.alert, TASK.gap, TASK.history)
)
organizations = app.Table("organizations", default=None, partitions=TASK.partitions)


@app.agent(activities)
async def watch_settings(stream: faust.StreamT[Any]) -> None:
    """Keep each organization's state, and publish what follows from a record."""
    async for event in stream.events():
        WATCH.took(1)
        activity, message = decode(event.value), event.message
        key = activity["organization_id"]
        known = organizations.get(key)
        organization = Organization(key) if known is None else Organization.load(known)
        if activity["type"] == SETTINGS_TYPE:
            outputs = organization.settings(activity, int(message.timestamp * 1_000_000))
        else:
            outputs = organization.activity(activity["id"].encode(), activity["created_at"].isoformat().encode())
        for name, record in outputs:
            value = encode(name, record)
            if name == "alert":
                await alerts.send(key=key.encode(), value=value, partition=message.partition)
            else:
                await gaps.send(key=record["gap_id"].encode(), value=value, partition=message.partition)
                await history.send(key=key.encode(), value=value, partition=message.partition)
        organizations[key] = organization.dump()


@app.task  # type: ignore[untyped-decorator]
async def stop_the_clock() -> None:
    """Once all is taken, commit without waiting for the interval, until the last offset is committed."""
    while not WATCH.done:
        await asyncio.sleep(0.02)
        if WATCH.taken >= TASK.records:
            await app.consumer.commit()
            committed: dict[Any, int] = app.consumer._committed_offset  # type: ignore[attr-defined]  # noqa: SLF001
            WATCH.committed(sum(offset for tp, offset in committed.items() if tp.topic == TASK.activity))


def start_the_clock_on_raw_bytes() -> None:
    """Hook aiokafka: it unpacks a whole fetch before the first record reaches the agent."""
    unpack = fetcher.PartitionRecords.__init__

    def timed(self: Any, tp: Any, *args: Any, **kwargs: Any) -> None:
        if tp.topic == TASK.activity:
            WATCH.fetching()
        unpack(self, tp, *args, **kwargs)

    fetcher.PartitionRecords.__init__ = timed


if __name__ == "__main__":
    start_the_clock_on_raw_bytes()
    faust.Worker(app, loglevel="WARN", quiet=True, redirect_stdouts=False).execute_from_commandline()
