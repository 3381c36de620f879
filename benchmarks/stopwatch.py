"""What a contestant is told, and how it is timed: the same clock for all of them, inside the contestant's process.

The clock starts when the client may fetch or holds the first raw bytes, before anything of the feed is decoded, and
stops when outputs, state and offsets of the last record are committed. Start-up is left out; everything else counts.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

VARIABLE: Final = "BENCH_TASK"


@dataclass(frozen=True, slots=True)
class Task:
    """Where a contestant reads and writes, and after how many records it is done."""

    servers: str
    group: str
    records: int
    partitions: int
    activity: str
    alert: str
    gap: str
    history: str
    state: str

    @classmethod
    def given(cls) -> Self:
        """Read the task this process was started with."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        """Give the environment of a contestant's process."""
        return {**os.environ, VARIABLE: json.dumps(asdict(self))}


@dataclass(frozen=True, slots=True)
class Timing:
    """What a contestant prints, as one line of JSON, when it is done."""

    records: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    commits: int
    head_start: float
    """Seconds of `seconds` before the first record was in the contestant's hands."""


class Stopwatch:
    """Counts records and commits, and prints the timing once `records` of them are committed."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._began: tuple[float, float] | None = None
        self._first = 0.0
        self._commits = 0
        self.taken = 0
        self.done = False

    def fetching(self) -> None:
        """Say that raw bytes may arrive from now on. Only the first call counts."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def took(self, count: int) -> None:
        """Say that so many records more are in hand."""
        if not self.taken:
            self._first = time.perf_counter()
        self.taken += count

    def committed(self, count: int) -> None:
        """Say up to how many records everything is committed."""
        self._commits += 1
        if self.done or self._began is None or count < self._records:
            return
        self.done = True
        now, cpu = time.perf_counter(), time.process_time()
        timing = Timing(
            records=self._records,
            seconds=now - self._began[0],
            cpu_seconds=cpu - self._began[1],
            peak_mb=peak_mb(),
            commits=self._commits,
            head_start=self._first - self._began[0],
        )
        print("\n" + json.dumps(asdict(timing)), flush=True)  # whatever a library left on the line before


def peak_mb() -> float:
    """Tell the most memory this process has held so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # what `getrusage` says on Linux includes the parent's memory at the time of the fork
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024
