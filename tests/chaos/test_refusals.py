"""Output topics that take nothing for a while: the worker stops, and is started again, as often as it takes."""

import os
from collections import Counter

import pytest
from tests.support.awaiting import until
from tests.support.feed import Wire, ago, record, wire
from tests.support.site import Site, reason
from tests.support.windows import assert_windows, one_window
from tests.support.workers import Supervisor, Workers

from auditgap.adapters.kafka import partition_of

REFUSING = {"max__message__bytes": "150"}
"""Takes no record, but the mark that ends a transaction."""

DEATHS = 5
"""More often than a worker may die on one record before that is put aside: these did not die of a record."""


def others(organization: str) -> list[Wire]:
    """A dead letter, and a record to be forwarded."""
    stray = wire(record(f"{organization}/stray", organization, ago(900)))
    return [
        wire(record(f"{organization}/dead", organization, ago(900)))._replace(value=b"\x01"),
        stray._replace(partition=(partition_of(organization, 4) + 1) % 4),
    ]


TOPICS = ["alert", "activity.dlq", "state"]
if "AUDITGAP_TEST_CHAOS_ROUNDS" in os.environ:
    TOPICS += ["gap", "gap.history", "activity"]  # no other way through the worker


@pytest.mark.chaos
@pytest.mark.parametrize("topic", TOPICS)
def test_refusal(site: Site, workers: Workers, topic: str) -> None:
    """A topic that refuses writes for a while costs nothing but time: nothing is lost, and nothing is there twice."""
    supervisor = Supervisor(workers, site)
    worker = supervisor.start(f"{site.group}-0").await_ready()
    site.produce([*one_window("org_before"), *others("org_before")])
    supervisor.finish()
    refused = site.activity.removesuffix("activity") + topic
    if topic == "activity":
        # Nobody can write there then: the records come before, and only the worker's own is refused.
        worker.freeze()
        site.produce([*one_window("org_while"), *others("org_while")])
        site.configure(refused, **REFUSING)
        worker.thaw()
    else:
        site.configure(refused, **REFUSING)
        site.produce([*one_window("org_while"), *others("org_while")])
    until(lambda: supervisor.tend() and len(supervisor.ended) >= DEATHS, "the worker goes on all the same", 60)
    site.configure(refused, **dict.fromkeys(REFUSING))
    site.apply_topics()
    supervisor.finish()
    site.produce([*one_window("org_after"), *others("org_after")])
    supervisor.finish()
    assert supervisor.stop() == [0]
    assert_windows(site, ["org_before", "org_while", "org_after"])
    assert Counter(map(reason, site.dead_letters())) == Counter({"bad_magic": 3})
    for ended in supervisor.ended:
        ended.assert_refuses(1, refused)
