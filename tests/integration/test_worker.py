"""The worker as a process: it starts, works, says how it is, and leaves; whatever goes wrong is one line."""

import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import pytest
from confluent_kafka.admin import NewTopic
from tests.support.awaiting import until
from tests.support.feed import Wire, ago, record, settings, wire
from tests.support.site import WAIT, Site, reason
from tests.support.workers import Supervisor, Worker, Workers, environment, launcher

from auditgap.adapters.job import partition_of
from auditgap.config import KafkaSettings


def one_window(organization: str, moment: float = 600) -> list[Wire]:
    """A whole window, so many seconds ago."""
    return [
        wire(record(f"{organization}/last", organization, ago(moment))),
        wire(settings(f"{organization}/off", organization, ago(moment - 10), logging=False)),
        wire(record(f"{organization}/inside", organization, ago(moment - 20))),
        wire(settings(f"{organization}/on", organization, ago(moment - 30), logging=True)),
        wire(record(f"{organization}/first", organization, ago(moment - 40))),
    ]


def assert_windows(site: Site, organizations: list[str]) -> None:
    """Each organization has its one window, and each revision of an alert or gap is there once."""
    gaps = {gap.organization_id: gap for gap in site.gaps().values()}
    assert sorted(filter(None, gaps)) == sorted(organizations)
    for name, gap in gaps.items():
        bracket = (gap.last_activity_id, gap.opened_by_id, gap.closed_by_id, gap.first_activity_id)
        assert bracket == tuple(f"{name}/{part}" for part in ("last", "off", "on", "first"))
        assert gap.activity_inside_count == 1
    for ids in (
        [(each.alert_id, each.revision) for each in site.alerts()],
        [(each.gap_id, each.revision) for each in site.history()],
    ):
        last = {name: max(revision for other, revision in ids if other == name) for name, _ in ids}
        assert Counter(ids) == Counter((name, number) for name, top in last.items() for number in range(1, top + 1))
    kinds = Counter((each.organization_id, each.kind) for each in site.alerts() if each.revision == 1)
    assert kinds == Counter((name, kind) for name in organizations for kind in ("logging_disabled", "logging_restored"))


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- life -------------------------------------------------------------------------------------------------------------


def test_life(site: Site, workers: Workers) -> None:
    """It says why it is not ready, then that it is, counts what it does, and commits before SIGTERM ends it with 0."""
    port = free_port()
    # A commit is not due for an hour: what is committed at the end, the end committed.
    worker = workers.start(site, http_port=port, commit_interval_seconds=3600)
    status, why = until(lambda: worker.get("/readyz")[0] and worker.get("/readyz"), "nobody answers")
    assert (status, why) in {(503, f"{phase}\n") for phase in ("starting", "joining the group", "restoring state")}
    assert worker.get("/livez") == (200, "ok\n")
    worker.await_ready()
    assert worker.get("/readyz") == (200, "ok\n")
    assert worker.get("/nothing")[0] == 404
    site.produce([wire(record(f"quiet/{number}", "org_quiet", ago(100 - number))) for number in range(50)])
    until(lambda: worker.metrics().get("auditgap_records_total{applied}") == 50, "not processed")
    found = worker.metrics()
    assert sum(found[f"auditgap_lag_records{{{number}}}"] for number in range(4)) == 0
    assert found["auditgap_partitions"] == 4
    assert found["auditgap_state_subjects"] == 1
    assert found["auditgap_commit_age_seconds"] > 0
    assert not site.finished()
    assert worker.stop() == 0
    assert site.finished()
    assert worker.messages == []
    assert [line.split()[2] for line in worker.text.splitlines()] == ["INFO", "INFO"]


def test_alert_is_committed_at_once(site: Site, workers: Workers) -> None:
    """An alert does not wait for the commit interval."""
    worker = workers.start(site, commit_interval_seconds=3600).await_ready()
    site.produce([wire(settings("off", "org_a", ago(5), api=False))])
    until(lambda: site.alerts() and worker._alive(), "no alert", 5)


def test_interrupt(site: Site, workers: Workers) -> None:
    """Ctrl-C ends it as SIGTERM does."""
    worker = workers.start(site).await_ready()
    worker.process.send_signal(signal.SIGINT)
    assert worker.await_end() == 0
    assert worker.messages == []


def test_stopped_while_starting(site: Site, workers: Workers) -> None:
    """SIGTERM at any moment of the start ends it, without a traceback, and the next one works."""
    for delay in (0.3, 0.6, 0.9, 1.2):
        worker = workers.start(site)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(delay)
        worker.process.terminate()
        assert worker.await_end(15) in {0, -signal.SIGTERM}
        assert "Traceback" not in worker.text
    last = workers.start(site).await_ready()
    site.produce(one_window("org_a"))
    workers.finish(site, last)
    assert_windows(site, ["org_a"])


def test_goes_on(site: Site, workers: Workers) -> None:
    """A worker that starts again knows what it knew, and says nothing twice."""
    parts = one_window("org_a")
    for one in parts:
        worker = workers.start(site).await_ready()
        site.produce([one])
        workers.finish(site, worker)
        worker.kill()
    assert_windows(site, ["org_a"])


def test_membership_outlives_silence(site: Site, workers: Workers) -> None:
    """Faust's member of the group fetches nothing for days on end, and is not taken for a hanging program."""
    idle = (
        "from aiokafka.consumer.subscription_state import SubscriptionState as S\n"
        "S.fetcher_idle_time = property(lambda self: 40 * 86_400.0)"
    )
    worker = workers.start(site, command=launcher(idle)).await_ready()
    beats = time.monotonic() + 3 * site.settings.worker.session_timeout_seconds
    until(lambda: worker._alive() and time.monotonic() > beats, "time stands still")
    site.produce(one_window("org_a"))
    workers.finish(site, worker)
    assert worker.text.count("owns partitions") == 1


def test_long_restore(site: Site, workers: Workers) -> None:
    """A restore that takes longer than the session does not cost the worker its membership."""
    slow = (
        "import time\n"
        "from auditgap.adapters import state\n"
        "whole = state.raw_changelog\n"
        f"def crawl(*given): time.sleep({2 * site.settings.worker.session_timeout_seconds}); return whole(*given)\n"
        "state.raw_changelog = crawl"
    )
    worker = workers.start(site, command=launcher(slow)).await_ready()
    site.produce(one_window("org_a"))
    workers.finish(site, worker)
    assert_windows(site, ["org_a"])


def test_sample(site: Site, workers: Workers) -> None:
    """Of the records that are read by header some are compared with their bodies: a lie ends the skipping."""
    worker = workers.start(site, sample_every=20).await_ready()

    def lying(number: int) -> Wire:
        made = wire(record(f"true/{number}", "org_a", ago(500 - number)))
        return made._replace(headers=[(n, b"false" if n == "ce_id" else v) for n, v in made.headers or []])

    site.produce([wire(record(f"known/{number}", "org_a", ago(600 - number))) for number in range(10)])
    workers.finish(site, worker)
    assert worker.metrics()["auditgap_header_skipping"] == 1
    site.produce([lying(number) for number in range(30)])
    workers.finish(site, worker)
    assert worker.metrics()["auditgap_header_skipping"] == 0
    assert {each.kind for each in site.alerts()} == {"header_mismatch"}
    site.produce([wire(settings("off", "org_a", ago(10), api=False))])
    workers.finish(site, worker)
    assert [gap.last_activity_id for gap in site.gaps().values()] == ["true/29"]


# --- what is wrong with its surroundings ------------------------------------------------------------------------------


def assert_refuses(worker: Worker, status: int, *words: str) -> None:
    """The worker ended with this status and one line; all else that it said is no more than that it was at work."""
    assert worker.await_end() == status
    (line,) = worker.messages
    for word in words:
        assert word in line
    assert [each for each in worker.text.splitlines() if " INFO auditgap.worker: " not in each] == [line]


def test_no_broker(site: Site, workers: Workers) -> None:
    """Where no broker answers the line says so, and where it looked."""
    nowhere = f"127.0.0.1:{free_port()}"
    site.settings, kept = (
        site.settings.model_copy(update={"kafka": KafkaSettings(bootstrap_servers=nowhere)}),
        site.settings,
    )
    worker = workers.start(site)
    site.settings = kept
    assert_refuses(worker, 1, nowhere, "no broker answers")


def test_wrong_settings(site: Site) -> None:
    """A wrong setting is one line that names it, with status 2."""
    env = environment(site.settings) | {"AUDITGAP_WORKER__BATCH_RECORDS": "many"}
    done = subprocess.run(
        [sys.executable, "-m", "auditgap", "worker"], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "AUDITGAP_WORKER__BATCH_RECORDS" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("which", ["activity", "alert", "gap"])
def test_missing_topic(site: Site, workers: Workers, which: str) -> None:
    """A missing topic is named, and how to make it."""
    name = getattr(site.settings.topics, which)
    site.delete_topic(name)
    assert_refuses(workers.start(site), 1, f"has no topic {name}: run `auditgap topics apply`")


def test_producers_clock(site: Site, workers: Workers) -> None:
    """An input whose times are the producers' is refused: admission rests on the broker's clock."""
    site.configure(site.activity, message__timestamp__type="CreateTime")
    assert_refuses(workers.start(site), 1, site.activity, "LogAppendTime", "auditgap topics apply")


def test_other_partitions(site: Site, workers: Workers) -> None:
    """Topics that are not partitioned alike are refused."""
    name = site.settings.topics.alert
    site.delete_topic(name)
    site.admin.create_topics([NewTopic(name, 3, 1)])[name].result(WAIT)
    assert_refuses(workers.start(site), 1, f"topic {name} has 3 partitions, {site.activity} has 4")


def test_port_taken(site: Site, workers: Workers) -> None:
    """A second worker on one health port ends with 2, says so, and the first one does not notice."""
    first = workers.start(site, http_port=free_port()).await_ready()
    second = workers.start(site, f"{site.group}-1", http_port=first.port)
    assert_refuses(second, 2, str(first.port), "AUDITGAP_WORKER__HTTP_PORT")
    site.produce(one_window("org_a"))
    workers.finish(site, first)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_same_instance(site: Site, workers: Workers, busy: bool) -> None:
    """Of two workers with one instance id the older ends with 1 and says so; the younger goes on, nothing is lost."""
    older = workers.start(site).await_ready()
    if busy:
        site.produce(one_window("org_a"))
        workers.finish(site, older)
    younger = workers.start(site)
    organizations = ["org_a"] if busy else []
    while busy and older.process.poll() is None:
        organizations.append(f"org_{len(organizations)}")
        site.produce(one_window(organizations[-1]))
    assert_refuses(older, 1, f"another worker has started under the instance id '{site.group}-0'")
    younger.await_ready()
    site.produce(one_window("org_z"))
    workers.finish(site, younger)
    assert_windows(site, [*organizations, "org_z"])


# --- topics that refuse -----------------------------------------------------------------------------------------------

REFUSING = {"max__message__bytes": "150"}
"""Takes no record, but the mark that ends a transaction."""

DEATHS = 5
"""More often than a worker may die on one record before that is put aside: these did not die of a record."""


@pytest.mark.parametrize("topic", ["activity", "activity.dlq", "alert", "gap", "gap.history", "state"])
def test_refusal(site: Site, workers: Workers, topic: str) -> None:
    """A topic that refuses writes for a while costs nothing but time: nothing is lost, and nothing is there twice."""
    supervisor = Supervisor(workers, site, transaction_timeout_seconds=2)
    worker = supervisor.start(f"{site.group}-0").await_ready()
    site.produce([*one_window("org_before"), *hostile("org_before")])
    supervisor.finish()
    refused = site.activity.removesuffix("activity") + topic
    if topic == "activity":
        # Nobody can write there then: the records come before, and only the worker's own is refused.
        worker.freeze()
        site.produce([*one_window("org_while"), *hostile("org_while")])
        site.configure(refused, **REFUSING)
        worker.thaw()
    else:
        site.configure(refused, **REFUSING)
        site.produce([*one_window("org_while"), *hostile("org_while")])
    until(lambda: supervisor.tend() and len(supervisor.ended) > DEATHS, "the worker goes on all the same", 60)
    site.configure(refused, **dict.fromkeys(REFUSING))
    site.apply_topics()
    supervisor.finish()
    site.produce([*one_window("org_after"), *hostile("org_after")])
    supervisor.finish()
    assert supervisor.stop() == [0]
    assert_windows(site, ["org_before", "org_while", "org_after"])
    assert Counter(map(reason, site.dead_letters())) == Counter({"bad_magic": 3})
    for ended in supervisor.ended:
        assert_refuses(ended, 1, refused)


def hostile(organization: str) -> list[Wire]:
    """A dead letter, and a record to be forwarded."""
    stray = wire(record(f"{organization}/stray", organization, ago(900)))
    return [
        wire(record(f"{organization}/dead", organization, ago(900)))._replace(value=b"\x01"),
        stray._replace(partition=(partition_of(organization, 4) + 1) % 4),
    ]
