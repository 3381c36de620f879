import random
from collections.abc import Iterable

import pytest
from tests.unit.core.making import at

from auditgap.core.recent import CHUNK, CHUNKS, NONE, Recent, Runs, end_of, entry_of, id_of, start_of, time_of

AWKWARD = ["plain", "two\nlines", "\n", "[", "ümlaut", "日本", "a b", "\\n", "nul\0", "\ud800", "x" * 1000, "\r\n\t"]


def filled(entries: Iterable[bytes]) -> Recent:
    """Make an index of these entries."""
    index = Recent()
    for entry in entries:
        index.add(entry)
    return index


def persisted(index: Recent) -> Recent:
    """Write every chunk and read them back, out of order."""
    values = [index.dump(number) for number in range(index.oldest, index.number + 1)]
    return Recent.restore(reversed(values))


def state(index: Recent) -> tuple[object, ...]:
    """All that an index is made of."""
    return index.chunk, index.full, index.number, index.floor, index.oldest


@pytest.mark.parametrize("identifier", AWKWARD, ids=range(len(AWKWARD)))
def test_an_entry(identifier: str) -> None:
    """Time and id come back from an entry whole, but for what no database takes."""
    entry = entry_of(at(1.000_001), identifier)
    assert (time_of(entry), id_of(entry)) == (at(1.000_001), identifier.replace("\0", "\ufffd"))


def test_what_is_no_entry() -> None:
    """Bytes that do not begin with a time are no entry."""
    with pytest.raises(ValueError, match="does not begin with a time"):
        time_of(b"x" * 40)


def test_entries_sort_by_time_then_id() -> None:
    """Entries sort by time, then by id, and between the bounds of their microsecond."""
    pairs = [(at(0), "b"), (at(0), "a"), (at(0) + 1, ""), (at(-1), "z"), (at(0), "\U0010ffff"), (at(0), "")]
    entries = sorted(entry_of(moment, identifier) for moment, identifier in pairs)
    assert [(time_of(each), id_of(each)) for each in entries] == sorted(pairs)
    assert [each for each in entries if start_of(at(0)) <= each < end_of(at(0))] == entries[1:5]


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK * CHUNKS - 1, CHUNK * CHUNKS, 5000])
def test_persisting(count: int) -> None:
    """An index of any size comes back from its chunks as it was, and goes on as it would have."""
    rng = random.Random(count)
    entries = [entry_of(at(rng.random() * 100), f"{rng.choice(AWKWARD)}{n}") for n in range(count)]
    index = filled(entries)
    again = persisted(index)
    assert state(again) == state(index)
    for each in (index, again):
        each.add(entry_of(at(3), "one more"))
    assert state(again) == state(index)


def test_persisting_awkward_ids() -> None:
    """Ids with line breaks, brackets, and letters outside ASCII survive persisting, the floor included."""
    entries = [entry_of(at(n), identifier) for n in range(40) for identifier in AWKWARD]
    index = filled(entries)
    assert index.floor != NONE
    assert state(persisted(index)) == state(index)


def test_bounded() -> None:
    """Never more than the newest chunks are kept, and never fewer than one less than those."""
    index = Recent()
    for n in range(2000):
        index.add(entry_of(at(n), f"act_{n}"))
        assert min(n + 1, CHUNK * (CHUNKS - 1)) <= len(index.entries()) <= CHUNK * CHUNKS


def test_the_floor() -> None:
    """Nothing that was dropped sorts after the floor, even where activities came out of order."""
    rng = random.Random(2)
    entries = [entry_of(at(rng.random() * 100), f"act_{n}") for n in range(3000)]
    index = Recent()
    for position, entry in enumerate(entries):
        index.add(entry)
        known = index.entries()
        assert all(each in known or each < index.floor for each in entries[max(0, position - 400) : position + 1])
    assert index.floor in index.entries()


def test_no_floor_while_all_is_known() -> None:
    """As long as nothing was dropped there is no floor."""
    index = filled(entry_of(at(n), "act") for n in range(CHUNK * CHUNKS - 1))
    assert index.floor == NONE


def test_has() -> None:
    """The index knows an activity by its time and id, and an id by itself, whole and not in part."""
    index = filled(entry_of(at(n), f"act_{n:04d}") for n in range(100))
    assert index.has(entry_of(at(7), "act_0007"))
    assert not index.has(entry_of(at(8), "act_0007"))
    assert index.has_id("act_0099")
    assert not index.has_id("ct_0007")
    assert not index.has_id("act_000")
    assert not index.has_id("7Zact_0007")


def test_runs_around_a_moment() -> None:
    """A moment outside all runs lies between two, before the first, or after the last."""
    runs = Runs([(at(0), at(10)), (at(5000), at(5010)), (at(9000), at(9000))])
    assert runs.around(at(-1)) == [(None, at(0))]
    assert runs.around(at(0)) == runs.around(at(10)) == runs.around(at(5005)) == runs.around(at(9000)) == []
    assert runs.around(at(11)) == [(at(10), at(5000))]
    assert runs.around(at(9001)) == [(at(9000), None)]
    assert Runs([]).around(at(1)) == [(None, None)]
