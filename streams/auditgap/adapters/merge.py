"""In which order the input topics of one partition are taken in: by append time, as far as that is known.

One topic is the main one, with a backlog that may be large; the others are the sides. A record is handed out when
every other topic has a later one waiting, or is known to have none: a side that was seen at its end once is taken to
be there from then on (its next record is a moment away, and the main topic must not wait for each), the main topic
only while it is. What is not known is waited for, but not for ever: order is for the sake of better evidence, no result
rests on it.

A record may also name positions in the other topics: a tick, which must not run ahead of what was there when it was
made. It is held back until they are reached, and what comes after it in its own topic with it; the others go on.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

PATIENCE: Final = 5.0
"""Seconds that the topics of a partition wait for one of which it is not known how it goes on."""

MOST_WAITING: Final = 1000
"""How many records of a side may wait; the topic is not read any further then, and not known to be at its end."""


@dataclass(slots=True)
class _Topic(Generic[Item]):
    """`known`: it has nothing else for now. `at_end`: it was seen at its end, and no record came since."""

    name: str
    is_main: bool
    handed: int
    empty_since: float
    waiting: list[Item] = field(default_factory=list)
    known: bool = False
    at_end: bool = False


class Merge(Generic[Item]):
    """The topics of one partition. Times of records are integers, `now` is seconds of a clock that only goes on.

    `positions` says where reading each topic begins; the first one is the main topic, and of sides with equal append
    times the one that comes first goes first. `named` gives the positions that a record names, by topic.
    """

    def __init__(
        self,
        positions: Mapping[str, int],
        now: float,
        *,
        time: Callable[[Item], int],
        offset: Callable[[Item], int],
        named: Callable[[Item], Mapping[str, int]],
    ) -> None:
        self._topics = {
            name: _Topic[Item](name, number == 0, position, now)
            for number, (name, position) in enumerate(positions.items())
        }
        self._main, *self._sides = self._topics.values()
        self._time, self._offset, self._named = time, offset, named

    def put(self, topic: str, items: list[Item]) -> None:
        """Let records wait that were fetched, in their order. The list is the merge's from now on."""
        found = self._topics[topic]
        if found.waiting:
            found.waiting += items
        else:
            found.waiting = items
        found.at_end = False
        if found.is_main or len(found.waiting) >= MOST_WAITING:
            found.known = False

    def ended(self, topic: str) -> None:
        """Note that a topic was seen at its end, after all that was put."""
        found = self._topics[topic]
        found.at_end = found.known = True

    def waiting(self, topic: str) -> int:
        """Count what waits of a topic."""
        return len(self._topics[topic].waiting)

    def needs_end(self) -> bool:
        """Whether a side waits only because it is not known how the main topic goes on."""
        return not (self._main.waiting or self._main.known) and any(side.waiting for side in self._sides)

    def take(self, now: float) -> list[tuple[str, list[Item]]]:
        """Give what may be taken in now: runs of records of one topic."""
        runs = []
        while (count := self._next(now)) is not None:
            topic, length = count
            runs.append((topic.name, self._handed(topic, length, now)))
        return runs

    def _handed(self, topic: _Topic[Item], length: int, now: float) -> list[Item]:
        if length == len(topic.waiting):
            items, topic.waiting = topic.waiting, []
            topic.empty_since = now
        else:
            items, topic.waiting = topic.waiting[:length], topic.waiting[length:]
        topic.handed = self._offset(items[-1]) + 1
        return items

    def _next(self, now: float) -> tuple[_Topic[Item], int] | None:
        """Say which topic comes next, and with how many records; None where nothing may be handed out."""
        main = self._main
        for topic in self._topics.values():
            if not (topic.waiting or topic.known) and now < topic.empty_since + PATIENCE:
                return None
        heads = [
            (self._time(side.waiting[0]), order)
            for order, side in enumerate(self._sides)
            if side.waiting and self._is_due(side.waiting[0])
        ]
        if not heads:
            return (main, len(main.waiting)) if main.waiting else None
        first = min(heads)
        moment, order = first
        if main.waiting and (length := bisect_right(main.waiting, moment, key=self._time)):
            return main, length
        others = [head for head in heads if head != first]
        until = min(others) if others else None
        before = self._time(main.waiting[0]) if main.waiting else None
        return self._sides[order], self._run(self._sides[order].waiting, order, until, before)

    def _run(self, items: Iterable[Item], order: int, until: tuple[int, int] | None, before: int | None) -> int:
        """Count the records of a side that go before the next one of any other topic; it is one at the least."""
        length = 0
        for item in items:
            moment = self._time(item)
            other = (until is not None and (moment, order) > until) or (before is not None and moment >= before)
            if length and (other or not self._is_due(item)):
                break
            length += 1
        return length

    def _is_due(self, item: Item) -> bool:
        return all(self._is_reached(topic, position) for topic, position in self._named(item).items())

    def _is_reached(self, name: str, position: int) -> bool:
        topic = self._topics.get(name)
        # At its end there is nothing before that position, wherever it lies: behind the mark of a transaction, say.
        return topic is None or topic.handed >= position or (topic.at_end and not topic.waiting)
