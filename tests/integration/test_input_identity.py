"""Position, state and input topic belong together: where they do not, the worker stops and says the way out.

Every test opens a window first. After `--reset-input` the state has to be there still: the "on" that comes then
closes that very window.
"""

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic
from tests.support.awaiting import until
from tests.support.feed import ENCODER, Wire, ago, linked, observed, record, settings, wire
from tests.support.site import WAIT, Site
from tests.support.windows import assert_once
from tests.support.workers import Worker, Workers

from auditgap.adapters import cloudevents
from auditgap.adapters.kafka import partition_of
from auditgap.core.policy import Actors, Rules, successor
from auditgap.core.records import Gap

ORGANIZATIONS = [f"org_{number}" for number in range(12)]
"""Enough for every partition, and for some to move where partitions are added."""


def opening() -> list[Wire]:
    """A last record, and off, for each organization."""
    return [
        one
        for name in ORGANIZATIONS
        for one in (
            wire(record(f"{name}/last", name, ago(600))),
            wire(settings(f"{name}/off", name, ago(500), logging=False)),
        )
    ]


def closing() -> list[Wire]:
    """On, and a first record, for each organization."""
    return [
        one
        for name in ORGANIZATIONS
        for one in (
            wire(settings(f"{name}/on", name, ago(300), logging=True)),
            wire(record(f"{name}/first", name, ago(200))),
        )
    ]


def opened(site: Site, workers: Workers) -> Worker:
    """A worker that has seen the windows open."""
    worker = workers.start(site).await_ready()
    site.produce(opening())
    workers.finish(site, worker)
    return worker


def remade(site: Site) -> None:
    """Delete the input topic and make it again, under the same name."""
    site.delete_topic(site.activity)
    site.apply_topics()


def assert_stopped(worker: Worker, *words: str) -> None:
    """The worker ended with status 1 and one line, which says what is wrong and names the way out."""
    assert worker.await_end() == 1
    (line,) = worker.messages
    for word in (*words, "--reset-input earliest", "--reset-input latest"):
        assert word in line
    assert "Traceback" not in worker.text


def assert_goes_on(site: Site, workers: Workers, where: str = "earliest") -> None:
    """With `--reset-input` the worker works, and the windows of before close, with what was known before them."""
    worker = workers.start(site, None, "--reset-input", where).await_ready()
    site.produce(closing())
    workers.finish(site, worker)
    assert "the input is" in worker.text
    assert_closed(site)


def assert_closed(site: Site) -> None:
    """Each organization has one gap, whole, and each of its revisions once."""
    found: dict[str | None, list[Gap]] = {}
    for gap in site.history():
        found.setdefault(gap.organization_id, []).append(gap)
    assert sorted(filter(None, found)) == sorted(ORGANIZATIONS)
    for name, revisions in found.items():
        assert len({each.gap_id for each in revisions}) == 1
        assert sorted(each.revision for each in revisions) == list(range(1, len(revisions) + 1))
        last = max(revisions, key=lambda each: each.revision)
        assert (last.state, last.opened_by_id, last.closed_by_id) == ("CLOSED", f"{name}/off", f"{name}/on")
        assert (last.last_activity_id, last.first_activity_id) == (f"{name}/last", f"{name}/first")
    ids = [(each.alert_id, each.revision) for each in site.alerts()]
    assert len(set(ids)) == len(ids)


def test_made_again_while_stopped(site: Site, workers: Workers) -> None:
    """A topic that was deleted and made again while no worker ran is not the same topic."""
    opened(site, workers).kill()
    remade(site)
    assert_stopped(workers.start(site), "deleted and made again")
    assert_goes_on(site, workers)


def test_made_again_while_running(site: Site, workers: Workers) -> None:
    """A topic that is deleted and made again stops the running worker."""
    worker = opened(site, workers)
    remade(site)
    assert_stopped(worker, site.activity, "deleted")
    assert_goes_on(site, workers, "latest")


def test_deleted_while_running(site: Site, workers: Workers) -> None:
    """A topic that is deleted stops the running worker, and the next one says how to make it."""
    worker = opened(site, workers)
    site.delete_topic(site.activity)
    assert_stopped(worker, site.activity, "deleted")
    missing = workers.start(site)
    assert missing.await_end() == 1
    (line,) = missing.messages
    assert f"has no topic {site.activity}: run `auditgap topics apply`" in line
    site.apply_topics()
    assert_goes_on(site, workers)


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_widened(site: Site, workers: Workers, running: bool) -> None:
    """With more partitions organizations belong elsewhere: the worker stops, and the reset moves their state along."""
    worker = opened(site, workers)
    if not running:
        worker.kill()
    site.apply_topics(7)
    assert any(partition_of(name, 4) != partition_of(name, 7) for name in ORGANIZATIONS)
    assert_stopped(worker if running else workers.start(site), "7 partitions, before 4")
    assert_goes_on(site, workers)
    again = workers.start(site).await_ready()
    # Of long before the windows: a second gap, or another revision of the first, would come of lost state.
    site.produce([wire(settings(f"{name}/on", name, ago(300), logging=True)) for name in ORGANIZATIONS])
    site.produce([wire(record(f"{name}/earlier", name, ago(700))) for name in ORGANIZATIONS])
    workers.finish(site, again)
    assert_closed(site)


def test_widened_input_only(site: Site, workers: Workers) -> None:
    """Where the input alone was widened the line says how to widen the others."""
    opened(site, workers).kill()
    from confluent_kafka.admin import NewPartitions

    site.admin.create_partitions([NewPartitions(site.activity, 5)])[site.activity].result(WAIT)
    until(lambda: len(site.admin.list_topics(timeout=WAIT).topics[site.activity].partitions) == 5, "not widened")
    for arguments, status in ((), 1), (("--reset-input", "earliest"), 2):
        worker = workers.start(site, None, *arguments)
        assert worker.await_end() == status
        (line,) = worker.messages
        assert "AUDITGAP_TOPICS__PARTITIONS=5 and run `auditgap topics apply`" in line


def test_position_gone(site: Site, workers: Workers) -> None:
    """Where retention took records that were never read, the worker stops rather than go on after them."""
    opened(site, workers).kill()
    site.produce(opening())
    ends = [TopicPartition(site.activity, number, end) for number, end in site.ends().items()]
    for future in site.admin.delete_records(ends).values():
        future.result(WAIT)
    assert_stopped(workers.start(site), "is no longer there")
    assert_goes_on(site, workers)


def test_position_gone_while_running(site: Site, workers: Workers) -> None:
    """Where retention overtakes the running worker, it stops rather than go on after the hole."""
    worker = opened(site, workers)
    worker.freeze()
    # The first records answer the fetch that is under way, and reach the worker when it thaws; the second do not.
    site.produce(opening())
    site.produce(opening())
    ends = [TopicPartition(site.activity, number, end) for number, end in site.ends().items()]
    for future in site.admin.delete_records(ends).values():
        future.result(WAIT)
    worker.thaw()
    # Frozen for less than the session: the next fetch is what finds out.
    assert_stopped(worker, "is no longer there")
    assert_goes_on(site, workers)


def test_retention_behind(site: Site, workers: Workers) -> None:
    """Where retention took only what had been read, to the very end of the topic, the worker just goes on."""
    worker = opened(site, workers)
    name = ORGANIZATIONS[0]
    # Forwarded: the end of its partition is the mark of a transaction, no record.
    stray = wire(record(f"{name}/stray", name, ago(550)))
    site.produce([stray._replace(partition=(partition_of(name, 4) + 1) % 4)])
    workers.finish(site, worker)
    worker.kill()
    ends = [TopicPartition(site.activity, number, end) for number, end in site.ends().items()]
    for future in site.admin.delete_records(ends).values():
        future.result(WAIT)
    again = workers.start(site).await_ready()
    site.produce(closing())
    workers.finish(site, again)
    assert {gap.state for gap in site.gaps().values()} == {"CLOSED"}


def test_position_lost(site: Site, workers: Workers) -> None:
    """A group that has state but no position any more does not begin anew by itself."""
    worker = opened(site, workers)
    worker.kill()
    until(lambda: not site.members(), "the group still has members")
    site.admin.delete_consumer_groups([site.group])[site.group].result(WAIT)
    assert_stopped(workers.start(site), "lost its position")
    assert_goes_on(site, workers, "latest")


def test_state_lost(site: Site, workers: Workers) -> None:
    """A group that has a position but no state any more does not go on as if nothing had been."""
    opened(site, workers).kill()
    changelog = site.settings.worker.changelog
    site.delete_topic(changelog)
    site.apply_topics()
    assert_stopped(workers.start(site), changelog, "holds no state")
    worker = workers.start(site, None, "--reset-input", "earliest").await_ready()
    site.produce(closing())
    workers.finish(site, worker)
    assert {gap.state for gap in site.gaps().values()} == {"CLOSED"}


def test_another_topic(site: Site, workers: Workers) -> None:
    """The state of one topic is not taken for another's."""
    longer = site.settings.worker.model_copy(update={"session_timeout_seconds": 8})
    site.settings = site.settings.model_copy(update={"worker": longer})
    worker = opened(site, workers)
    other = f"{site.activity}2"
    config = {"message.timestamp.type": "LogAppendTime"}
    site.admin.create_topics([NewTopic(other, 4, 1, config=config)])[other].result(WAIT)
    dlq = f"{other}.dlq"
    site.admin.create_topics([NewTopic(dlq, 4, 1)])[dlq].result(WAIT)
    topics = site.settings.topics.model_copy(update={"activity": other})
    first, site.settings = site.settings, site.settings.model_copy(update={"topics": topics})
    worker.kill()
    try:
        workers.start(site).assert_refuses(1, f"group {site.group} reads another topic than {other}")
        until(lambda: not site.members(), "the broker still knows the member of before")
        assert_stopped(workers.start(site), f"belongs to topic {first.topics.activity}, not {other}")
    finally:
        for name in (other, dlq):
            site.delete_topic(name)
        site.settings = first


@pytest.mark.parametrize("where", ["earliest", "latest"])
def test_reset(site: Site, workers: Workers, where: str) -> None:
    """A reset to "earliest" reads all that the topic holds, to "latest" only what comes; what is known stays known."""
    opened(site, workers).kill()
    missed = "org_missed"
    site.produce([wire(settings(f"{missed}/off", missed, ago(400), api=False))])
    worker = workers.start(site, None, "--reset-input", where).await_ready()
    workers.finish(site, worker)
    outcomes = worker.metrics()
    # Of what was known before, the settings events are recognised.
    assert outcomes.get("auditgap_records_total{applied}", 0) == (len(ORGANIZATIONS) + 1 if where == "earliest" else 0)
    assert outcomes.get("auditgap_records_total{repeat}", 0) == (len(ORGANIZATIONS) if where == "earliest" else 0)
    known = {gap.organization_id for gap in site.gaps().values()}
    assert known == {*ORGANIZATIONS, *([missed] if where == "earliest" else [])}
    assert len(site.history()) == len(known)
    # What is found out about actors may have been said before, or only now.
    assert sum(each.kind == "logging_disabled" for each in site.alerts()) == len(known)


@pytest.mark.parametrize("where", ["earliest", "latest"])
def test_reset_with_everything(site: Site, workers: Workers, where: str) -> None:
    """Policies, members, what was inherited and what was observed stay known, and nothing is said again."""
    topics = site.settings.topics
    worker = workers.start(site).await_ready()
    version = successor(None, "org_a", Rules(owners=Actors(emails=("who@example.com",))), "jane", ago(0), None)
    site.produce([Wire(b"org_a", ENCODER.policy(version), cloudevents.of_policy(version))], topic=topics.policy)
    site.produce([linked("feed/feed_1", "org_b")], topic=topics.topology)
    until(lambda: worker.metrics().get("auditgap_records_total{applied}") == 2, lambda: f"{worker.metrics()}")
    site.produce([observed("org_c", "settings_poll", "disabled", ago(60))], topic=topics.observation)
    site.produce([wire(settings(f"{name}/off", name, ago(-1), api=False)) for name in ("org_a", None)])
    until(lambda: len(site.gaps()) == 4, lambda: f"{site.gaps()}")
    workers.finish(site, worker)
    assert worker.stop() == 0
    known = site.gaps()
    worker = workers.start(site, None, "--reset-input", where).await_ready()
    workers.finish(site, worker)
    assert site.gaps() == known
    site.produce([wire(settings(f"{name}/on", name, ago(-2), api=True)) for name in ("org_a", None)])
    until(lambda: sum(gap.state == "CLOSED" for gap in site.gaps().values()) == 3, lambda: f"{site.gaps()}")
    found = {gap.organization_id: gap for gap in site.gaps().values()}
    assert (found["org_a"].authorised_at_open, found["org_a"].policy_version) == ("LISTED", 1)
    assert found["org_b"].inherited_from == found[None].gap_id
    assert found["org_c"].state == "OPEN"
    assert_once(site.alerts(), site.history())


def test_reset_beside_a_worker(site: Site, workers: Workers) -> None:
    """A reset is refused while a worker runs, and does nothing then."""
    worker = opened(site, workers)
    before = site.positions()
    second = workers.start(site, f"{site.group}-1", "--reset-input", "earliest")
    assert second.await_end() == 2
    (line,) = second.messages
    assert "has 1 running members: stop every worker" in line
    assert site.positions() == before
    site.produce(closing())
    workers.finish(site, worker)
    assert_closed(site)
