"""A record that kills the worker is put aside, so that it blinds nobody; a worker that is killed puts nothing aside.

The record is one with `poison` in it, and the worker one into which a fault is built that it sets off.
"""

import random

import pytest
from tests.support.awaiting import until
from tests.support.feed import Wire, ago, record, settings, wire
from tests.support.site import Site, headers, reason
from tests.support.windows import assert_windows, one_window
from tests.support.workers import Supervisor, Workers, launcher

from auditgap.adapters.kafka import partition_of

FAULTS = {
    # An error that the worker can catch, and one that ends the process where it stands.
    "error": "raise RuntimeError('poisoned')",
    "death": "os.kill(os.getpid(), 9)",
}

MOST_DEATHS = {"error": 2, "death": 7}
"""An error names its record at once. A death does not: up to five show that there is one and about where."""


def poisoned(fault: str) -> tuple[str, ...]:
    """A worker that the record kills when it is decoded."""
    return launcher(
        "import os\n"
        "from auditgap.adapters import avro\n"
        "whole = avro.decode_activity\n"
        "def decode_activity(ids, value):\n"
        f"    if value and b'poison' in value: {FAULTS[fault]}\n"
        "    return whole(ids, value)\n"
        "avro.decode_activity = decode_activity"
    )


def run(site: Site, workers: Workers, wires: list[Wire], fault: str) -> Supervisor:
    """Put the records before a worker that is started again whenever it ends, until all are dealt with."""
    site.produce(wires)
    # Commits are rare, so that much is taken in again after a death.
    supervisor = Supervisor(workers, site, command=poisoned(fault), commit_interval_seconds=5)
    supervisor.start(f"{site.group}-0")
    supervisor.finish(90)
    return supervisor


@pytest.mark.parametrize("before", [1, 300])
@pytest.mark.parametrize("fault", FAULTS)
def test_quarantine(site: Site, workers: Workers, fault: str, before: int) -> None:
    """The record ends in the dead letters with a critical alert; every other one is taken in, once."""
    names = [f"org_{number}" for number in range(before + 1)]
    wires = [one for name in names for one in one_window(name, inside=100)]
    poison = wire(record("poison", name := names[-1], ago(100), kind="type_of_poison"))
    supervisor = run(site, workers, [*wires[:-90], poison, *wires[-90:]], fault)
    assert len(supervisor.ended) <= MOST_DEATHS[fault]
    (letter,) = site.dead_letters()
    assert (letter.key(), letter.value()) == (poison.key, poison.value)
    assert headers(letter)[: len(poison.headers or [])] == poison.headers
    assert reason(letter) == "quarantined"
    (alert,) = [each for each in site.alerts() if each.kind == "record_quarantined"]
    assert (alert.organization_id, alert.severity.name, alert.status) == (name, "CRITICAL", "FIRING")
    assert_windows(site, names, inside=100)
    assert supervisor.stop() == [0]


@pytest.mark.parametrize("fault", FAULTS)
def test_many(site: Site, workers: Workers, fault: str) -> None:
    """Several such records, side by side and apart, a settings event among them, are all put aside."""
    names = [f"org_{number}" for number in range(3)]
    wires = [one for name in names for one in one_window(name)]
    bad = [wire(settings(f"poison{number}", names[0], ago(100), api=False)) for number in range(3)]
    wires = [*bad[:2], *wires[:7], bad[2], *wires[7:]]
    supervisor = run(site, workers, wires, fault)
    assert len(supervisor.ended) <= 3 * MOST_DEATHS[fault]
    assert sorted(dict(headers(each))["ce_id"] for each in site.dead_letters()) == [b"poison0", b"poison1", b"poison2"]
    assert sum(each.kind == "record_quarantined" for each in site.alerts()) == 3
    assert_windows(site, names)


def test_kills_at_start(site: Site, workers: Workers) -> None:
    """However often a worker is killed soon after its start, no good record is put aside for it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    names = [f"org_{number}" for number in range(20)]
    assert {partition_of(name, 4) for name in names} == {0, 1, 2, 3}
    site.produce([one for name in names for one in one_window(name, inside=100)])
    for _ in range(5):
        worker = workers.start(site, commit_interval_seconds=5)
        until(lambda worker=worker: worker._alive().owned, "nothing owned")  # type: ignore[misc]
        delay = choose.uniform(0, 0.4)
        assert worker.runs_for(delay)
        worker.kill()
    last = workers.start(site).await_ready()
    workers.finish(site, last)
    assert site.dead_letters() == []
    assert_windows(site, names, inside=100)
