"""The newest activities of one subject: enough to bracket a window that is heard of late, in bounded memory.

An entry is `text(created_at) + id` as bytes: 27 characters of fixed width, so entries sort by (time, id), and the
worker's fast path makes one from two headers without parsing either. Entries are kept in order of arrival, in
chunks: a full chunk is never written again, so that persisting the index costs one short record per commit.

When the ring of chunks is full the oldest is dropped and the latest of its entries becomes the *floor*. Above the
floor every answer is exact. Below it an entry may have been dropped: the answer is "not known", never a wrong id.
"""

import json
from collections.abc import Iterable
from itertools import chain
from typing import Final

from auditgap.core import times

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
    """Read the id of an entry."""
    return entry[times.TEXT_LENGTH :].decode("utf-8", "surrogatepass")


class Recent:
    """The index of one subject. The fast path appends to `chunk`, the filling one, and calls `rotate` when full.

    No entry that was dropped sorts after `floor`; `number` counts the chunks that were begun before the filling one.
    """

    __slots__ = ("chunk", "floor", "full", "number")

    def __init__(self) -> None:
        self.chunk: list[bytes] = []
        self.number = 0
        self.full: list[list[bytes]] = []
        self.floor = NONE

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
            self.floor = max(self.floor, *self.full.pop(0))

    def entries(self) -> list[bytes]:
        """List all that is known, sorted; the floor is an entry too, and a repeat may be there twice."""
        return sorted(chain(*self.full, self.chunk, (self.floor,) if self.floor else ()))

    def has_id(self, identifier: str) -> bool:
        """Whether an activity of this id is in the index, at whatever time."""
        wanted = identifier.encode("utf-8", "surrogatepass")
        known = [*chain(*self.full, self.chunk)]
        return wanted in b"\n".join(known) and any(entry[times.TEXT_LENGTH :] == wanted for entry in known)

    # --- persisting -------------------------------------------------------------------------------------------------

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
