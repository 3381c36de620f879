"""Input topics are merged by append time: what is known goes in that order, what is not is waited for, for a while."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditgap.adapters.merge import MOST_WAITING, PATIENCE, Merge

TOPICS = ("main", "rules", "seen", "mail")


@dataclass(frozen=True)
class Record:
    """A record with its append time, and the positions that it names."""

    topic: str
    offset: int
    time: int
    named: Mapping[str, int] = field(default_factory=dict)


def made(positions: Mapping[str, int] | None = None, now: float = 0.0) -> Merge[Record]:
    """A merge of the four topics."""
    return Merge(
        positions or dict.fromkeys(TOPICS, 0),
        now,
        time=lambda each: each.time,
        offset=lambda each: each.offset,
        named=lambda each: each.named,
    )


def records(topic: str, *times: int, first: int = 0) -> list[Record]:
    """Consecutive records of a topic."""
    return [Record(topic, first + number, time) for number, time in enumerate(times)]


def at_ends(merge: Merge[Record], *topics: str) -> Merge[Record]:
    """See topics at their ends: the sides if none is named."""
    for topic in topics or TOPICS[1:]:
        merge.ended(topic)
    return merge


def taken(merge: Merge[Record], now: float = 0.0) -> list[tuple[str, int]]:
    """Take what may be taken: topic and time of each."""
    return [(each.topic, each.time) for _, items in merge.take(now) for each in items]


def test_activities_wait_for_every_side() -> None:
    """At first nothing of the main topic is handed out until each side has a record waiting or was at its end."""
    merge = made()
    merge.put("main", records("main", 10, 20))
    at_ends(merge, "rules", "seen")
    assert taken(merge) == []
    merge.put("mail", records("mail", 15))
    assert taken(merge) == [("main", 10), ("mail", 15)]
    # Of the mail it is not known how it goes on, until it is seen at its end.
    assert taken(merge) == []
    merge.ended("mail")
    assert taken(merge) == [("main", 20)]


def test_no_side_is_waited_for_for_ever() -> None:
    """A side of which nothing is heard holds the others up for some seconds, and no longer."""
    merge = made(now=100.0)
    merge.put("main", records("main", 10))
    assert taken(merge, 100.0 + PATIENCE - 0.1) == []
    assert taken(merge, 100.0 + PATIENCE) == [("main", 10)]


def test_live_activities_wait_for_nothing() -> None:
    """Once the sides were at their ends, activities go at once, whatever came of the sides meanwhile."""
    merge = at_ends(made())
    batch = records("main", 10, 20)
    merge.put("main", batch)
    ((topic, items),) = merge.take(0.0)
    assert topic == "main"
    assert items is batch  # the hot path copies nothing
    merge.ended("main")
    merge.put("seen", records("seen", 30))
    assert taken(merge) == [("seen", 30)]
    merge.put("main", records("main", 40, first=2))
    assert taken(merge) == [("main", 40)]


def test_a_side_waits_for_activities_before_it() -> None:
    """A side's record goes once the next activity is later, or the main topic is at its end."""
    merge = at_ends(made())
    merge.put("seen", records("seen", 15, 35))
    assert merge.needs_end()
    assert taken(merge) == []
    merge.put("main", records("main", 10, 15, 20, 30))
    assert not merge.needs_end()
    assert taken(merge) == [("main", 10), ("main", 15), ("seen", 15), ("main", 20), ("main", 30)]
    assert merge.needs_end()
    merge.ended("main")
    assert taken(merge) == [("seen", 35)]


def test_a_side_does_not_wait_for_ever() -> None:
    """Where the main topic shows neither a record nor its end, a side's record goes after some seconds."""
    merge = at_ends(made())
    merge.put("main", records("main", 10))
    assert taken(merge, 7.0) == [("main", 10)]
    merge.put("seen", records("seen", 15))
    assert taken(merge, 7.0 + PATIENCE - 0.1) == []
    assert taken(merge, 7.0 + PATIENCE) == [("seen", 15)]


def test_equal_times() -> None:
    """At equal append times activities go first, then the sides in the order of the topics."""
    merge = made()
    for topic in reversed(TOPICS):
        merge.put(topic, records(topic, 10))
    at_ends(merge, *TOPICS)
    assert [topic for topic, _ in taken(merge)] == list(TOPICS)


def test_runs_are_long() -> None:
    """What follows without another topic between is one run."""
    merge = at_ends(made())
    merge.put("seen", records("seen", 1, 2, 3, 20))
    merge.put("main", records("main", *range(5, 30)))
    assert [(topic, len(items)) for topic, items in merge.take(0.0)] == [
        ("seen", 3),
        ("main", 16),
        ("seen", 1),
        ("main", 9),
    ]


def test_a_tick_is_held_until_its_positions_are_reached() -> None:
    """A tick waits for what it names, and the mail behind it with it; the other topics go on."""
    merge = at_ends(made())
    merge.put("mail", [Record("mail", 0, 10, {"main": 3, "seen": 1}), Record("mail", 1, 11)])
    merge.put("main", records("main", 20, 21))
    assert taken(merge) == [("main", 20), ("main", 21)]
    merge.put("main", records("main", 22, first=2))
    assert taken(merge) == [("main", 22)]
    # The position in a side may lie behind the mark of a transaction: its end serves as well.
    merge.put("seen", records("seen", 23))
    merge.ended("main")
    assert taken(merge) == [("seen", 23), ("mail", 10), ("mail", 11)]


def test_a_tick_goes_where_a_topic_ends() -> None:
    """A position that a topic does not have any more, or that is no record's, holds nothing up."""
    merge = at_ends(made())
    merge.put("mail", [Record("mail", 0, 10, {"main": 99, "gone": 5})])
    merge.put("main", records("main", 5))
    assert taken(merge) == [("main", 5)]
    assert taken(merge, PATIENCE) == []
    merge.ended("main")
    assert taken(merge, PATIENCE) == [("mail", 10)]


def test_positions_count_from_where_reading_began() -> None:
    """What was taken in by the worker before is reached."""
    merge = at_ends(made({"main": 7, "rules": 0, "seen": 0, "mail": 0}))
    merge.put("mail", [Record("mail", 0, 10, {"main": 7})])
    merge.put("main", records("main", 20, first=7))
    assert taken(merge) == [("mail", 10), ("main", 20)]


def test_a_side_with_too_much_waiting_is_not_at_its_end() -> None:
    """Where a side was not read any further, activities wait for more of it once it is empty."""
    merge = at_ends(made())
    merge.put("seen", records("seen", *range(MOST_WAITING)))
    merge.put("main", records("main", 2 * MOST_WAITING))
    assert merge.waiting("seen") == MOST_WAITING
    assert {topic for topic, _ in taken(merge)} == {"seen"}
    assert taken(merge) == []
    merge.put("seen", records("seen", 2 * MOST_WAITING - 1, first=MOST_WAITING))
    assert taken(merge) == [("seen", 2 * MOST_WAITING - 1)]
    merge.ended("seen")
    assert taken(merge) == [("main", 2 * MOST_WAITING)]


TIMES = st.lists(st.integers(0, 20), max_size=12).map(sorted)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(st.fixed_dictionaries(dict.fromkeys(TOPICS, TIMES)), st.data())
def test_order(times: dict[str, list[int]], data: st.DataObject) -> None:
    """However the topics are fetched, all comes once, in each topic's order, and by time within the patience."""
    merge, whole = made(), {topic: records(topic, *found) for topic, found in times.items()}
    left = {topic: list(found) for topic, found in whole.items()}
    out: list[tuple[str, int]] = []
    while left:
        topic = data.draw(st.sampled_from(sorted(left)))
        count = data.draw(st.integers(0, 5))
        batch, left[topic] = left[topic][:count], left[topic][count:]
        if batch:
            merge.put(topic, batch)
        if not left[topic]:
            merge.ended(topic)
            del left[topic]
        out += taken(merge)
    out += taken(merge)
    assert out == [
        (each.topic, each.time)
        for each in sorted(chain(*whole.values()), key=lambda each: (each.time, TOPICS.index(each.topic), each.offset))
    ]
