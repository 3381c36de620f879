"""Contestant: the shipped worker. Its only addition is the clock around `Job.assign`, `Job.poll` and `Job.finish`."""

import sys

from confluent_kafka import Message

import stopwatch
from auditgap import config
from auditgap.adapters.job import Job
from auditgap.entrypoints import worker

WATCH = stopwatch.Stopwatch(stopwatch.Task.given().records)
assign, poll, finish = Job.assign, Job.poll, Job.finish


def timed_assign(self: Job, numbers: list[int]) -> None:
    """Start the clock when the reader has its partitions."""
    assign(self, numbers)
    if numbers:
        WATCH.fetching()


def timed_poll(self: Job) -> list[tuple[int, list[Message]]]:
    """Count the activities that were fetched."""
    batches = poll(self)
    activities = sum(len(records) for _, records in batches if records[0].topic() == self._topics.activity)
    if activities:
        WATCH.took(activities)
    return batches


def timed_finish(self: Job) -> None:
    """Look how far the commit reached."""
    finish(self)
    WATCH.committed(sum(part.activity.committed for part in self.parts.values()))


if __name__ == "__main__":
    Job.assign, Job.poll, Job.finish = timed_assign, timed_poll, timed_finish  # type: ignore[method-assign]
    sys.exit(worker.run(config.load()))
