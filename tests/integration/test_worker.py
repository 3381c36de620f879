"""The worker as a process: it starts, works, says how it is, and leaves; whatever goes wrong is one line."""

import signal
import socket
import subprocess
import sys
import time

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from tests.support.awaiting import until
from tests.support.feed import Wire, ago, record, settings, wire
from tests.support.site import WAIT, Site
from tests.support.windows import assert_windows, one_window
from tests.support.workers import Workers, environment, launcher

from auditgap.config import KafkaSettings


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
    until(lambda: worker.get("/livez")[0], "nobody answers")
    assert worker.get("/readyz") in {(503, f"{why}\n") for why in ("starting", "joining the group", "restoring state")}
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
        assert worker.await_end(15) in {0, -signal.SIGTERM}, worker.text
        assert "Traceback" not in worker.text
    last = workers.start(site).await_ready()
    site.produce(one_window("org_a"))
    workers.finish(site, last)
    assert_windows(site, ["org_a"])


def test_stopped_after_failed_fetch(site: Site, workers: Workers) -> None:
    """A fetch of aiokafka's that has failed and waits to try again does not keep the worker from ending."""
    failed = (
        "import asyncio\n"
        "from aiokafka.consumer.fetcher import Fetcher\n"
        "close = Fetcher.close\n"
        "async def waiting(fetcher):\n"
        "    fetcher._pending_tasks.add(asyncio.ensure_future(asyncio.sleep(60)))\n"
        "    await asyncio.sleep(0)\n"
        "    await close(fetcher)\n"
        "Fetcher.close = waiting"
    )
    worker = workers.start(site, command=launcher(failed)).await_ready()
    assert worker.stop() == 0
    assert "Traceback" not in worker.text


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


def test_hidden_state(site: Site, workers: Workers) -> None:
    """A worker that takes over waits for a transaction that hides the newest state from it, and then knows it all."""
    worker = workers.start(site).await_ready()
    # One that a killed worker left behind, say: what is written after it is not shown until it is ended.
    forgotten = Producer({"bootstrap.servers": site.kafka, "transactional.id": f"{site.group}-forgotten"})
    forgotten.init_transactions(WAIT)
    forgotten.begin_transaction()
    for number in range(4):
        forgotten.produce(site.settings.worker.changelog, b"nothing", b"1:@junk", number)
    assert forgotten.flush(WAIT) == 0
    parts = one_window("org_a")
    site.produce(parts[:3])
    workers.finish(site, worker)
    worker.kill()
    waiting = workers.start(site)
    until(lambda: waiting.get("/readyz") == (503, "restoring state\n"), waiting.text)
    assert waiting.runs_for(1)
    assert waiting.get("/readyz") == (503, "restoring state\n")
    forgotten.abort_transaction(WAIT)
    waiting.await_ready()
    site.produce(parts[3:])
    workers.finish(site, waiting)
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


def test_no_broker(site: Site, workers: Workers) -> None:
    """Where no broker answers the line says so, and where it looked."""
    nowhere = f"127.0.0.1:{free_port()}"
    site.settings, kept = (
        site.settings.model_copy(update={"kafka": KafkaSettings(bootstrap_servers=nowhere)}),
        site.settings,
    )
    worker = workers.start(site)
    site.settings = kept
    worker.assert_refuses(1, nowhere, "no broker answers")


def test_no_member(site: Site, workers: Workers) -> None:
    """A worker that the broker does not take into the group says so, and does not wait for ever."""
    endless = site.settings.worker.model_copy(update={"session_timeout_seconds": 3600})
    site.settings = site.settings.model_copy(update={"worker": endless})
    workers.start(site).assert_refuses(
        1, f"cannot be the member '{site.group}-0' of group {site.group}", "outside of the allowed range"
    )


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
    workers.start(site).assert_refuses(1, f"has no topic {name}: run `auditgap topics apply`")


def test_producers_clock(site: Site, workers: Workers) -> None:
    """An input whose times are the producers' is refused: admission rests on the broker's clock."""
    site.configure(site.activity, message__timestamp__type="CreateTime")
    workers.start(site).assert_refuses(1, site.activity, "LogAppendTime", "auditgap topics apply")


def test_other_partitions(site: Site, workers: Workers) -> None:
    """Topics that are not partitioned alike are refused."""
    name = site.settings.topics.alert
    site.delete_topic(name)
    site.admin.create_topics([NewTopic(name, 3, 1)])[name].result(WAIT)
    workers.start(site).assert_refuses(1, f"topic {name} has 3 partitions, {site.activity} has 4")


def test_port_taken(site: Site, workers: Workers) -> None:
    """A second worker on one health port ends with 2, says so, and the first one does not notice."""
    first = workers.start(site, http_port=free_port()).await_ready()
    second = workers.start(site, f"{site.group}-1", http_port=first.port)
    second.assert_refuses(2, str(first.port), "AUDITGAP_WORKER__HTTP_PORT")
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
    older.assert_refuses(1, f"another worker has started under the instance id '{site.group}-0'")
    younger.await_ready()
    site.produce(one_window("org_z"))
    workers.finish(site, younger)
    assert_windows(site, [*organizations, "org_z"])
