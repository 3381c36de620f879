"""Workers that are killed, stopped, replaced and joined while a feed goes on: nothing lost, nothing twice.

`make chaos` repeats each scenario AUDITGAP_TEST_CHAOS_ROUNDS times, with ten kills in a row; the suite does it once,
with fewer. Every round has its own seed, printed with the failure.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from tests.support.awaiting import until
from tests.support.feed import Feed, Live, Policies, Polls, Window
from tests.support.site import Site
from tests.support.workers import Supervisor, Worker, Workers

from auditgap.adapters import mailbox
from auditgap.adapters.kafka import input_topics
from auditgap.core.records import Alert, Gap, Severity, as_dict, digest

pytestmark = pytest.mark.chaos

ROUNDS = int(os.environ.get("AUDITGAP_TEST_CHAOS_ROUNDS", "0"))
KILLS = 10 if ROUNDS else 3
SEEDS = [random.SystemRandom().randrange(10**6) for _ in range(ROUNDS)] or [11]
PER_SECOND = 1500
INDICATORS = "actor_compromise_indicators"


def assert_once(revisions: Iterable[tuple[str, int]]) -> None:
    """Of everything published, revisions 1, 2, 3 … are there, each once."""
    seen = Counter(revisions)
    top: Counter[str] = Counter()
    for name, revision in seen:
        top[name] = max(top[name], revision)
    assert seen == Counter((name, number) for name, last in top.items() for number in range(1, last + 1))


class Inputs:
    """Everything that is published meanwhile: activities and indicators, what a collector sees, and policies."""

    def __init__(self, seed: int) -> None:
        self.feed, self.polls, self.policies = Feed(seed), Polls(), Policies()

    def live(self, site: Site) -> Live:
        """Publish them for as long as the context lasts."""
        topics = site.settings.topics
        aside = {topics.observation: iter(self.polls), topics.policy: iter(self.policies)}
        return Live(site.kafka, site.activity, self.feed, PER_SECOND, aside)


def assert_whole(site: Site, inputs: Inputs) -> None:
    """What a reader of committed records sees is what the feed says, each revision once, and the chain is whole."""
    feed, polls = inputs.feed, inputs.polls
    alerts, history, gaps = site.alerts(), site.history(), site.gaps()
    assert_once((each.alert_id, each.revision) for each in alerts)
    assert_once((each.gap_id, each.revision) for each in history)
    polled = {name: gap for name, gap in gaps.items() if gap.organization_id in polls.windows}
    assert Counter(gap.organization_id for gap in polled.values()) == +polls.windows
    of_polls = {each.alert_id for each in alerts if each.organization_id in polls.windows}
    alerts = [each for each in alerts if each.alert_id not in of_polls]
    found = sorted(
        Window(**{name: getattr(gap, name) for name in Window._fields})
        for gap in gaps.values()
        if gap.gap_id not in polled
    )
    assert set(found) ^ set(feed.windows) == set()
    assert len(found) == len(feed.windows)
    disabled = Counter(each.evidence[0] for each in alerts if each.kind == "logging_disabled" and each.revision == 1)
    assert disabled == Counter(feed.disabled)
    restored = {each.evidence[:2] for each in alerts if each.kind == "logging_restored" and each.revision == 1}
    assert restored == feed.restored
    kinds = {each.kind for each in alerts}
    assert kinds >= {"logging_disabled", "logging_restored", INDICATORS, "policy_changed"}
    # The feed's times are past: what is open has been so for long.
    assert kinds <= {
        "logging_disabled",
        "logging_restored",
        INDICATORS,
        "policy_changed",
        "gap_still_open",
    }
    assert_triage(alerts, gaps, feed)
    assert inputs.policies.listed
    for gap in gaps.values():
        if gap.gap_id not in polled:
            listed = gap.organization_id in inputs.policies.listed
            assert gap.authorised_now == ("LISTED" if listed else "NOT_LISTED"), gap
    latest: dict[str, Gap] = {}
    chains: dict[str | None, list[Gap]] = {}
    for gap in history:
        latest[gap.gap_id] = max(gap, latest.get(gap.gap_id, gap), key=lambda each: each.revision)
        chains.setdefault(gap.organization_id, []).append(gap)
    assert latest == gaps
    for chain in chains.values():
        chain.sort(key=lambda each: each.history_sequence)
        assert [each.history_sequence for each in chain] == list(range(1, len(chain) + 1))
        assert [each.previous_digest for each in chain] == [None, *(digest(as_dict(each)) for each in chain[:-1])]
    for topic in input_topics(site.settings).values():
        assert not site.dead_letters(topic)
    # Time went on meanwhile, in every partition.
    ticks = [each for each in site.read(site.settings.worker.mailbox) if mailbox.named_in(each.value())]
    assert {each.partition() for each in ticks} == {0, 1, 2, 3}


def looked_into(alerts: Iterable[Alert]) -> dict[str | None, Alert]:
    """Give what is said of the actors, by gap."""
    found = sorted(alerts, key=lambda each: each.revision)
    return {each.gap_id: each for each in found if each.kind == INDICATORS}


def disabled(gaps: Mapping[str, Gap]) -> dict[str | None, Gap]:
    """Give the gaps that somebody opened."""
    return {gap.gap_id: gap for gap in gaps.values() if gap.opened_by_kind == "settings_event"}


def finish(supervisor: Supervisor, site: Site) -> None:
    """Tend the workers until all input is taken in, and all mail that follows from it."""
    supervisor.finish()
    until(
        lambda: supervisor.tend() and looked_into(site.alerts()).keys() == disabled(site.gaps()).keys(),
        lambda: f"no word of the actors of {disabled(site.gaps()).keys() - looked_into(site.alerts()).keys()}",
        60,
    )


def assert_triage(alerts: Iterable[Alert], gaps: Mapping[str, Gap], feed: Feed) -> None:
    """The actor of each window was looked into once, on another partition, and found where a sign-in was refused."""
    verdicts = looked_into(alerts)
    assert feed.suspicious
    for gap_id, gap in disabled(gaps).items():
        found = verdicts[gap_id].severity > Severity.INFORMATIONAL
        assert found == (gap.organization_id in feed.suspicious), verdicts[gap_id]


def await_partitions(supervisor: Supervisor, *counts: int) -> None:
    """Wait until the workers own this many partitions each, in the order of their start."""

    def owned() -> list[int]:
        supervisor.tend()
        return [len(worker.owned or []) for worker in supervisor.running.values()]

    until(lambda: sorted(owned()) == sorted(counts), lambda: f"they own {owned()}, not {counts}\n{said(supervisor)}")


def said(supervisor: Supervisor) -> str:
    """Give what all workers said, for a failure's message."""
    return "\n".join(f"--- {each.name}\n{each.text}" for each in (*supervisor.ended, *supervisor.running.values()))


def assert_reasons(ended: list[Worker]) -> None:
    """Those that ended by themselves did so with status 1 and one line."""
    for worker in ended:
        if worker.process.returncode >= 0:
            assert worker.process.returncode == 1, worker.text
            assert len(worker.messages) == 1, worker.text
            assert "Traceback" not in worker.text


def two_workers(workers: Workers, site: Site) -> Supervisor:
    """Start two workers under a supervisor."""
    supervisor = Supervisor(workers, site)
    for name in ("w0", "w1"):
        supervisor.start(name)
    return supervisor


@pytest.mark.parametrize("seed", SEEDS)
def test_killed(site: Site, workers: Workers, seed: int) -> None:
    """A worker that is killed again and again at random moments loses nothing and says nothing twice."""
    chance, inputs = random.Random(seed), Inputs(seed)
    supervisor = Supervisor(workers, site)
    worker = supervisor.start("w0")
    behind = 0
    with inputs.live(site):
        for _ in range(KILLS):
            worker = supervisor.running["w0"]
            if chance.random() < 0.7:
                # In the midst of work, or else while it starts.
                until(lambda: worker.owned, worker.text)  # noqa: B023 - used at once
            time.sleep(chance.uniform(0, 1.2))
            behind += site.lag() > 0
            worker.kill()
            supervisor.tend()
    finish(supervisor, site)
    assert behind > 0, "no kill came before the end of the feed"
    assert supervisor.stop() == [0]
    assert_whole(site, inputs)


@pytest.mark.parametrize("seed", SEEDS)
def test_stopped(site: Site, workers: Workers, seed: int) -> None:
    """A worker that stands still past its session is replaced, and does no harm when it goes on."""
    inputs = Inputs(seed)
    supervisor = two_workers(workers, site)
    with inputs.live(site):
        await_partitions(supervisor, 2, 2)
        for name, other in (("w0", "w1"), ("w1", "w0")):
            frozen = supervisor.running[name]
            frozen.freeze()
            until(lambda: supervisor.running[other].owned == [0, 1, 2, 3], lambda: said(supervisor))  # noqa: B023
            time.sleep(0.5)  # let it get ahead of the one that stands still
            frozen.thaw()
            await_partitions(supervisor, 2, 2)
    finish(supervisor, site)
    assert_reasons(supervisor.ended)
    assert supervisor.stop() == [0, 0]
    assert_whole(site, inputs)


@pytest.mark.parametrize("seed", SEEDS)
def test_replaced(site: Site, workers: Workers, seed: int) -> None:
    """A worker that stands still while its supervisor starts another in its place does no harm when it goes on."""
    inputs = Inputs(seed)
    supervisor = two_workers(workers, site)
    with inputs.live(site):
        await_partitions(supervisor, 2, 2)
        for name in ("w0", "w1"):
            frozen = supervisor.running[name]
            frozen.freeze()
            supervisor.start(name)
            await_partitions(supervisor, 2, 2)
            time.sleep(0.5)  # let it get ahead of the one that stands still
            frozen.thaw()
            frozen.await_end()
            assert_reasons([frozen])
    finish(supervisor, site)
    # On a busy machine the one that took its place may have had to stop as well: it says so, and is started again.
    assert_reasons(supervisor.ended)
    assert supervisor.stop() == [0, 0]
    assert_whole(site, inputs)


@pytest.mark.parametrize("seed", SEEDS)
def test_joined_and_left(site: Site, workers: Workers, seed: int) -> None:
    """A third worker that joins, leaves in order, joins again and is killed changes nothing of what is published."""
    inputs = Inputs(seed)
    supervisor = two_workers(workers, site)
    with inputs.live(site):
        await_partitions(supervisor, 2, 2)
        for leave in (Worker.stop, Worker.kill):
            third = supervisor.start("w2")
            await_partitions(supervisor, 2, 1, 1)
            time.sleep(0.3)
            del supervisor.running["w2"]
            leave(third)
            await_partitions(supervisor, 2, 2)
    finish(supervisor, site)
    assert not [each for each in supervisor.ended if each.name != "w2"]
    assert supervisor.stop() == [0, 0]
    assert_whole(site, inputs)
