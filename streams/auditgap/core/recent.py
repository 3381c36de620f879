"""The newest activities of one subject: enough to bracket a window that is heard of late, in bounded memory.

An entry is `text(created_at) + id` as bytes: 27 characters of fixed width, so entries sort by (time, id), and the
worker's fast path makes one from two headers without parsing either. Entries are kept in order of arrival, in
chunks: a full chunk is never written again, so that persisting the index costs one short record per commit.

When the ring of chunks is full the oldest is dropped and the latest of its entries becomes the *floor*. Above the
floor every answer is exact. Below it an entry may have been dropped: the answer is "not known", never a wrong id.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import itemgetter
from typing import Final

from auditgap.core import times
from auditgap.core.inputs import REPLACEMENT

CHUNK: Final = 64
"""Entries of a chunk: the unit that is persisted again while it fills."""

CHUNKS: Final = 5
"""Chunks of the ring: 256 to 320 newest activities are known by id."""

NONE: Final = b""
"""Sorts before every entry."""

ALL: Final = b"\xff"
"""Sorts after every entry, and after every id: UTF-8 has no such byte."""


def entry_of(created_at: int, identifier: str) -> bytes:
    """Make an entry from a time in microseconds and an id."""
    return (times.text_of(created_at) + identifier).encode("utf-8", "surrogatepass")


def start_of(moment: int) -> bytes:
    """Give what sorts before every entry of that microsecond, and after every earlier one."""
    return times.text_of(moment).encode()


def end_of(moment: int) -> bytes:
    """Give what sorts after every entry of that microsecond, and before every later one."""
    return start_of(moment) + ALL


def time_of(entry: bytes) -> int:
    """Read the time of an entry, in microseconds. Raises ValueError where it does not begin with one."""
    moment = times.parse(entry[: times.TEXT_LENGTH].decode())
    if moment is None:
        raise ValueError(f"{entry!r} does not begin with a time")
    return moment


def id_of(entry: bytes) -> str:
    """Read the id of an entry, as it is published: see inputs.text for NUL."""
    return entry[times.TEXT_LENGTH :].decode("utf-8", "surrogatepass").replace("\0", REPLACEMENT)


PROOF_LIMIT: Final = 15 * 60 * times.SECOND
"""How far apart two proofs of recording may be for the time between them to count as proven. At least ten minutes."""

MONTH: Final = 30 * 24 * 3600 * times.SECOND
"""Runs are persisted by the month in which they begin, so that a commit does not write those of years."""

_TEN_MINUTES: Final = len("2026-11-01T12:3")
_FOREVER: Final = 2**63 - 1


class Runs:
    """Proofs of recording as runs: first and last of those that are each no further apart than the proof limit.

    Runs depend on the set of proofs only.
    """

    __slots__ = ("runs",)

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self.runs = list(runs)

    def add(self, first: int, last: int) -> tuple[int, int] | None:
        """Take in proofs that make one run; give the run that it is now part of, None if that was known.

        A proof that lies at some moment from `last` to `first` is one with `first` after `last`: it proves nothing
        before the later one of them, and nothing after the earlier.
        """
        at = bisect_right(self.runs, (first, _FOREVER))
        low, high = at, at
        while low > 0 and self.runs[low - 1][1] >= first - PROOF_LIMIT:
            low -= 1
        while high < len(self.runs) and self.runs[high][0] <= last + PROOF_LIMIT:
            high += 1
        touching = self.runs[low:high]
        joined = min([first, *(run[0] for run in touching)]), max([last, *(run[1] for run in touching)])
        self.runs[low:high] = [joined]
        return None if touching == [joined] else joined

    def hold(self, first: int, last: int) -> bool:
        """Whether one run holds all of that time."""
        at = bisect_right(self.runs, (first, _FOREVER)) - 1
        return at >= 0 and last <= self.runs[at][1]

    def around(self, moment: int) -> list[tuple[int | None, int | None]]:
        """Give the stretch between two runs that a moment lies in, None for no run; none where it lies in a run."""
        at = bisect_right(self.runs, (moment, _FOREVER))
        if at and moment <= self.runs[at - 1][1]:
            return []
        return [(self.runs[at - 1][1] if at else None, self.runs[at][0] if at < len(self.runs) else None)]

    def add_entries(self, entries: Iterable[bytes]) -> Iterator[tuple[int, int]]:
        """Take in activities; give the runs that changed."""
        # Within ten minutes of the clock no two are further apart than the limit: only the first and last are parsed.
        for _, minutes in groupby(sorted(entries), key=itemgetter(slice(_TEN_MINUTES))):
            within = list(minutes)
            if (joined := self.add(time_of(within[0]), time_of(within[-1]))) is not None:
                yield joined


class Recent:
    """The index of one subject. The fast path appends to `chunk`, the filling one, and calls `rotate` when full.

    No entry that was dropped sorts after `floor`; `number` counts the chunks that were begun before the filling one.
    `runs` holds the proofs that are not among the entries any more, or never were; they are persisted by months.
    """

    __slots__ = ("_months", "chunk", "floor", "full", "number", "runs")

    def __init__(self) -> None:
        self.chunk: list[bytes] = []
        self.number = 0
        self.full: list[list[bytes]] = []
        self.floor = NONE
        self.runs = Runs()
        self._months: set[int] = set()

    def add(self, entry: bytes) -> None:
        """Take one activity in; a repeat is harmless."""
        self.chunk.append(entry)
        if len(self.chunk) >= CHUNK:
            self.rotate()

    @property
    def oldest(self) -> int:
        """Number of the oldest chunk that is still held."""
        return self.number - len(self.full)

    def has(self, entry: bytes) -> bool:
        """Whether this very activity is in the index."""
        return entry in self.chunk or any(entry in chunk for chunk in self.full)

    def rotate(self) -> None:
        """Begin a new chunk; drop the oldest of a full ring."""
        self.full.append(self.chunk)
        self.chunk = []
        self.number += 1
        if len(self.full) >= CHUNKS:
            dropped = self.full.pop(0)
            self.floor = max(self.floor, *dropped)
            for first, last in self.runs.add_entries(dropped):
                self._note(first, last)

    def prove(self, first: int, last: int) -> bool:
        """Take in a proof that is no activity, as `Runs.add` does; False if it was known."""
        joined = self.runs.add(first, last)
        if joined is not None:
            self._note(*joined)
        return joined is not None

    def _note(self, first: int, last: int) -> None:
        self._months.update(range(first // MONTH, max(first, last) // MONTH + 1))

    def entries(self) -> list[bytes]:
        """List all that is known, sorted; the floor is an entry too, and a repeat may be there twice."""
        return sorted(chain(*self.full, self.chunk, (self.floor,) if self.floor else ()))

    def latest(self) -> bytes | None:
        """Give the latest activity that is known, None before the first."""
        return max(chain(*self.full, self.chunk), default=self.floor or None)

    def earliest(self) -> bytes | None:
        """Give the first of `entries`, None where there is none."""
        known = min(chain(*self.full, self.chunk), default=self.floor)
        return min(known, self.floor or known) or None

    def proofs(self) -> Runs:
        """Give all that was ever recorded as runs."""
        proofs = Runs(self.runs.runs)
        for _ in proofs.add_entries(chain(*self.full, self.chunk)):
            pass
        return proofs

    def has_id(self, identifier: str) -> bool:
        """Whether an activity of this id is in the index, at whatever time."""
        wanted = identifier.encode("utf-8", "surrogatepass")
        known = [*chain(*self.full, self.chunk)]
        return wanted in b"\n".join(known) and any(entry[times.TEXT_LENGTH :] == wanted for entry in known)

    # --- persisting -------------------------------------------------------------------------------------------------

    def months(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Give the runs of each month that changed since the last call."""
        for month in sorted(self._months):
            low = bisect_left(self.runs.runs, (month * MONTH,))
            yield month, self.runs.runs[low : bisect_left(self.runs.runs, ((month + 1) * MONTH,))]
        self._months.clear()

    def dump(self, number: int) -> bytes:
        """Write chunk `number` (the filling one or one of the full) for the changelog."""
        back = self.number - number
        chunk = self.chunk if back == 0 else self.full[-back]
        lines = [b"%d" % number, self.floor, *chunk]
        text = b"\n".join(lines)
        if text.count(b"\n") == len(lines) - 1:
            return text
        # An id with a line break in it: rare, but it must come back whole.
        return json.dumps([line.decode("latin-1") for line in lines]).encode()

    @classmethod
    def restore(cls, values: Iterable[bytes]) -> "Recent":
        """Undo `dump` for all chunks of a subject, in any order."""
        index = cls()
        chunks: dict[int, list[bytes]] = {}
        for value in values:
            lines = [s.encode("latin-1") for s in json.loads(value)] if value[:1] == b"[" else value.split(b"\n")
            chunks[int(lines[0])] = lines[2:]
            index.floor = max(index.floor, lines[1])
        if chunks:
            index.number = max(chunks)
            index.chunk = chunks.pop(index.number)
            index.full = [chunks[number] for number in sorted(chunks)]
        return index
