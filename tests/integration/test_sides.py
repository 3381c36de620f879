"""The worker reads what is beside the activities: observations, policies, mail of other partitions, and ticks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.awaiting import until
from tests.support.feed import ENCODER, Wire, ago, linked, observed, record, settings, wire
from tests.support.site import Site, headers, reason
from tests.support.windows import assert_once, assert_windows, one_window
from tests.support.workers import Supervisor, Worker, Workers, environment, launcher

from auditgap.adapters import cloudevents, mailbox, merge
from auditgap.adapters.kafka import partition_of
from auditgap.core import times
from auditgap.core.intake import Mail
from auditgap.core.policy import Actors, Rules, successor

WHO = "who@example.com"
"""The actor of every activity that tests.support.feed makes."""

POLICY = f"""
author: jane@example.com
organizations:
  org_a: {{owners: {{emails: [{WHO}]}}}}
  org_b: {{owners: {{emails: [jane@example.com]}}}}
"""


def command(site: Site, *arguments: str) -> None:
    """Run a command of auditgap on a site."""
    ran = subprocess.run(
        [sys.executable, "-m", "auditgap", *arguments],
        env=environment(site.settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def apply(site: Site, folder: Path, text: str) -> None:
    """Apply a policy."""
    (folder / "policy.yaml").write_text(text)
    command(site, "policy", "apply", str(folder / "policy.yaml"))


def wrong_partition(site: Site, one: Wire, subject: str) -> Wire:
    """Put a record where it does not belong."""
    count = site.settings.topics.partitions
    return one._replace(partition=(partition_of(subject, count) + 1) % count)


# --- observations and policies ----------------------------------------------------------------------------------------


def test_observations(site: Site, workers: Workers, tmp_path: Path) -> None:
    """A window that only a collector saw is opened and closed, by what `auditgap publish --observations` publishes."""
    seen = [
        {"kind": "settings_poll", "result": result, "organization_id": "org_a", "observed_at": times.text_of(ago(at))}
        for result, at in (("enabled", 3000), ("disabled", 2000), ("enabled", 1000))
    ]
    (tmp_path / "seen.ndjson").write_text("\n".join(map(json.dumps, seen)))
    worker = workers.start(site).await_ready()
    command(site, "publish", "--observations", str(tmp_path / "seen.ndjson"))
    workers.finish(site, worker)
    (gap,) = site.gaps().values()
    assert (gap.organization_id, gap.state, gap.opened_by_kind) == ("org_a", "CLOSED", "settings_poll")
    others = {"actor_compromise_indicators", "gap_still_open"}
    assert {each.kind for each in site.alerts()} - others == {"logging_disabled", "logging_restored"}
    command(site, "publish", "--observations", str(tmp_path / "seen.ndjson"))
    workers.finish(site, worker)
    assert worker.metrics()["auditgap_records_total{repeat}"] == 3


def test_policy(site: Site, workers: Workers, tmp_path: Path) -> None:
    """What `auditgap policy apply` published is what later openings are judged by, and only those."""
    worker = workers.start(site).await_ready()
    # As the producer's clock and the broker's are one here, these openings come before the policy, and those after it.
    site.produce([wire(settings("org_c/off", "org_c", ago(500), api=False))])
    apply(site, tmp_path, POLICY + "defaults: {owners: {emails: [nobody@example.com]}}\n")
    site.produce([wire(settings(f"{name}/off", name, ago(-1), api=False)) for name in ("org_a", "org_b", "org_d")])
    workers.finish(site, worker)
    found = {gap.organization_id: (gap.authorised_at_open, gap.policy_version) for gap in site.gaps().values()}
    assert found == {
        "org_a": ("LISTED", 1),
        "org_b": ("NOT_LISTED", 1),
        "org_c": ("UNKNOWN", None),
        "org_d": ("NOT_LISTED", 1),
    }


def test_goes_on(site: Site, workers: Workers, tmp_path: Path) -> None:
    """A worker that is killed after each record, of whatever topic, knows what it knew and says nothing twice."""
    seen, window = site.settings.topics.observation, one_window("org_a")
    polls = [("enabled", 900), ("disabled", 800), ("enabled", 100)]
    first, second, third = (observed("org_b", "settings_poll", result, ago(at)) for result, at in polls)
    steps = [(seen, [first]), (None, window[:2]), (seen, [second]), (None, window[2:]), (seen, [third])]
    worker = workers.start(site).await_ready()
    apply(site, tmp_path, POLICY)
    for topic, wires in steps:
        workers.finish(site, worker)
        worker.kill()
        worker = workers.start(site).await_ready()
        site.produce(wires, topic=topic)
    workers.finish(site, worker)
    worker.kill()
    last = workers.start(site).await_ready()
    for topic, wires in steps:
        site.produce(wires, topic=topic)
    workers.finish(site, last)
    assert_once(site.alerts(), site.history())
    gaps = {gap.organization_id: gap for gap in site.gaps().values()}
    assert {name: gap.state for name, gap in gaps.items()} == {"org_a": "CLOSED", "org_b": "CLOSED"}
    assert sum(each.kind == "logging_disabled" and each.revision == 1 for each in site.alerts()) == 2
    assert not any(site.dead_letters(topic) for topic in (None, seen, site.settings.topics.policy))


def test_topology(site: Site, workers: Workers) -> None:
    """Members of a feed on other partitions get its gap and its end, also from a worker that is killed in between.

    The feed's alert is the only one. What names an organization by uuid only is that organization's.
    """
    topics, members = site.settings.topics, [f"org_{letter}" for letter in "abcdef"]
    assert len({partition_of(each, topics.partitions) for each in members}) > 1
    worker = workers.start(site).await_ready()
    # A topology counts when it was appended after what is older, so it comes first and alone.
    version = linked("feed/feed_1", *members, uuid="uuid_a")
    site.produce([wrong_partition(site, version, "feed/feed_1")], topic=topics.topology)
    until(lambda: worker.metrics().get("auditgap_records_total{applied}") == 1, lambda: f"{worker.metrics()}")
    site.produce([wire(settings("off", None, ago(-1), api=False))])
    until(lambda: len(site.gaps()) == 1 + len(members), lambda: f"{site.gaps()}")
    worker.kill()
    worker = workers.start(site).await_ready()
    own = record("own", None, ago(-9), organization_uuid="uuid_a")
    site.produce([wire(settings("on", None, ago(-2), api=True)), wire(own)])
    until(lambda: {gap.state for gap in site.gaps().values()} == {"CLOSED"}, lambda: f"{site.gaps()}")
    workers.finish(site, worker)
    until(
        lambda: {gap.first_activity_id for gap in site.gaps().values() if gap.organization_id == "org_a"} == {"own"},
        lambda: f"{site.gaps()}",
    )
    parent = next(gap for gap in site.gaps().values() if gap.organization_id is None)
    heirs = {gap.organization_id: gap for gap in site.gaps().values() if gap.organization_id is not None}
    assert sorted(heirs) == members
    for gap in heirs.values():
        assert (gap.inherited_from, gap.incident_id) == (parent.gap_id, parent.incident_id)
        assert (gap.opened_at, gap.closed_at) == (parent.opened_at, parent.closed_at)
    assert {each.subject for each in site.alerts()} == {"feed/feed_1"}
    (last,) = [each for each in site.alerts() if each.kind == "logging_restored"]
    assert ", ".join(members) in last.summary
    assert_once(site.alerts(), site.history())
    (forwarded, _) = sorted(
        site.read(topics.topology), key=lambda each: "auditgap_forwarded_from" not in dict(headers(each))
    )
    assert (forwarded.key(), forwarded.value()) == (version.key, version.value)
    assert not any(site.dead_letters(topic) for topic in (None, topics.topology, site.settings.worker.mailbox))


def test_large_backlog(site: Site, workers: Workers) -> None:
    """More observations than may wait, behind a backlog of activities, are taken in, every one once."""
    count = 4 * merge.MOST_WAITING
    seen = [observed("org_a", "settings_poll", "enabled", ago(9000 - number)) for number in range(count)]
    site.produce(seen[: count // 2], topic=site.settings.topics.observation)
    site.produce([wire(record(f"org_a/{number}", "org_a", ago(9000 - number / 10))) for number in range(10 * count)])
    site.produce(seen[count // 2 :], topic=site.settings.topics.observation)
    site.produce(one_window("org_b"))
    worker = workers.start(site).await_ready()
    workers.finish(site, worker)
    assert worker.metrics()["auditgap_records_total{applied}"] == 11 * count + 5
    assert_windows(site, ["org_b"])


# --- what does not belong there ---------------------------------------------------------------------------------------


def test_wrong_partition(site: Site, workers: Workers) -> None:
    """An observation, a policy and mail on a wrong partition are handed to the right one."""
    topics = site.settings.topics
    rules = Rules(owners=Actors(emails=(WHO,)))
    version = successor(None, "org_a", rules, "jane", ago(1000), None)
    policy = Wire(b"org_a", ENCODER.policy(version), cloudevents.of_policy(version))
    seen = observed("org_b", "settings_poll", "disabled", ago(900))
    mail = Wire(b"org_c", mailbox.encode(Mail("org_c", "news", {"id": "1"})), None)
    worker = workers.start(site, command=posting()).await_ready()
    site.produce([wrong_partition(site, policy, "org_a")], topic=topics.policy)
    site.produce([wrong_partition(site, seen, "org_b")], topic=topics.observation)
    site.produce([wrong_partition(site, mail, "org_c")], topic=site.settings.worker.mailbox)
    until(lambda: worker.metrics().get("auditgap_records_total{applied}") == 2, lambda: f"{worker.metrics()}")
    until(lambda: worker.metrics().get("auditgap_mail_total{news}") == 1, lambda: f"{worker.metrics()}")
    site.produce([wire(settings("off", "org_a", ago(-1), api=False))])
    workers.finish(site, worker)
    assert worker.metrics()["auditgap_records_total{forwarded}"] == 3
    found = {gap.organization_id: gap.authorised_at_open for gap in site.gaps().values()}
    assert found == {"org_a": "LISTED", "org_b": "UNKNOWN"}
    assert [each.organization_id for each in site.alerts() if each.evidence == ("1",)] == ["org_c"]
    (forwarded,) = [
        each for each in site.read(topics.observation) if dict(headers(each)).get("auditgap_forwarded_from")
    ]
    assert (forwarded.key(), forwarded.value()) == (seen.key, seen.value)
    assert forwarded.partition() == partition_of("org_b", topics.partitions)


def test_dead_letters(site: Site, workers: Workers) -> None:
    """What cannot be used of each topic is in its own dead letters, as it came, with the reason."""
    topics, box = site.settings.topics, site.settings.worker.mailbox
    version = successor(None, "org_a", Rules(), "jane", ago(1000), None)
    stranger = successor(successor(version, "org_a", Rules(), "eve", 1, None), "org_a", Rules(), "eve", 1, None)
    early = observed("org_a", "settings_poll", "disabled", 10**15)
    wires: dict[str, list[bytes | None]] = {
        topics.policy: [ENCODER.policy(version), ENCODER.policy(stranger), b"\x01"],
        topics.topology: [linked("org_a").value, linked("org_a", version=2).value, b"\x00\x00\x00\x00\x06"],
        topics.observation: [b"", b"\x00\x00\x00\x00\x05\x07", early.value],
        box: [b"[]", b'{"format":1,"kind":"tick","body":{"positions":{"a":"b"}}}'],
    }
    worker = workers.start(site).await_ready()
    for topic, values in wires.items():
        place = partition_of("org_a", topics.partitions)
        site.produce([Wire(b"org_a", value, [("mark", b"1")], place) for value in values], topic=topic)
    site.produce([Wire(b"\xff", early.value, None)], topic=topics.observation)
    until(lambda: worker.metrics().get("auditgap_records_total{dead_letter}") == 10, lambda: f"{worker.metrics()}")
    workers.finish(site, worker)
    assert worker.stop() == 0
    expected = {
        topics.policy: ["bad_magic", "policy_refused"],
        topics.topology: ["not_avro", "topology_refused"],
        topics.observation: ["bad_key", "empty_value", "not_avro", "time_implausible"],
        box: ["not_json", "unreadable"],
    }
    for topic, reasons in expected.items():
        letters = site.dead_letters(topic)
        assert sorted(map(reason, letters)) == reasons
        for each in letters:
            assert each.value() in (*wires[topic], early.value)
            assert dict(headers(each))["auditgap_dlq_topic"] == topic.encode()
    assert site.dead_letters() == []


POISON = {
    "error": "raise RuntimeError('poisoned')",
    # An error that nobody can catch.
    "death": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("fault", POISON)
def test_quarantine(site: Site, workers: Workers, fault: str) -> None:
    """An observation that kills the worker is put aside; every other record is taken in, of every topic."""
    seen = site.settings.topics.observation
    names = [f"org_{number}" for number in range(20)]
    site.produce([one for name in names for one in one_window(name)])
    around = [observed(name, "settings_poll", "enabled", ago(60)) for name in names]
    poison = observed(names[0], "feed_answer", "other", ago(50), message="poison")
    site.produce(
        [*around, poison, *(observed(name, "settings_poll", "enabled", ago(40)) for name in names)], topic=seen
    )
    poisoned = launcher(
        "import os\n"
        "from auditgap.adapters import avro\n"
        "whole = avro.decode_observation\n"
        "def decode_observation(ids, value):\n"
        f"    if value and b'poison' in value: {POISON[fault]}\n"
        "    return whole(ids, value)\n"
        "avro.decode_observation = decode_observation"
    )
    supervisor = Supervisor(workers, site, command=poisoned)
    supervisor.start(f"{site.group}-0")
    supervisor.finish(90)
    assert len(supervisor.ended) <= {"error": 2, "death": 7}[fault], "\n".join(each.text for each in supervisor.ended)
    (letter,) = site.dead_letters(seen)
    assert (letter.value(), reason(letter)) == (poison.value, "quarantined")
    (alert,) = [each for each in site.alerts() if each.kind == "record_quarantined"]
    assert alert.organization_id == names[0]
    assert site.dead_letters() == []
    assert_windows(site, names)
    assert supervisor.stop() == [0]


# --- mail and ticks ---------------------------------------------------------------------------------------------------


def posting() -> tuple[str, ...]:
    """A worker whose shards tell org_z of every activity, and raise an alert about each message."""
    return launcher(
        "from dataclasses import replace\n"
        "from auditgap.core.intake import Mail, Outcome\n"
        "from auditgap.core.shard import Shard\n"
        "whole = Shard.activity\n"
        "def activity(self, each, append_time, now, **how):\n"
        "    outcome = whole(self, each, append_time, now, **how)\n"
        "    mail = Mail('org_z', 'news', {'id': each.id})\n"
        "    return outcome if each.api_enabled is None else replace(outcome, mail=(mail,))\n"
        "def post(self, mail, append_time, now):\n"
        "    ledger = self.ledger(mail.key)\n"
        "    self.touched.add(ledger)\n"
        "    return Outcome(tuple(ledger.alert('header_mismatch', mail.body['id'], mail.kind, append_time, now)))\n"
        "Shard.activity, Shard.post = activity, post"
    )


def test_mail(site: Site, workers: Workers) -> None:
    """What a partition tells another arrives there, once, however often the worker is killed."""
    names = [f"org_{number}" for number in range(12)]
    supervisor = Supervisor(workers, site, command=posting())
    worker = supervisor.start(f"{site.group}-0").await_ready()
    for name in names:
        site.produce([wire(settings(f"{name}/off", name, ago(100), api=False))])
        if name in names[::4]:
            worker.kill()
            supervisor.tend()
            worker = supervisor.running[worker.name].await_ready()

    def told() -> list[str]:
        return sorted(each.evidence[0] for each in site.alerts() if each.kind == "header_mismatch")

    until(lambda: supervisor.tend() and len(told()) >= len(names), lambda: f"{told()}")
    supervisor.finish()
    assert told() == sorted(f"{name}/off" for name in names)
    assert {each.organization_id for each in site.alerts() if each.kind == "header_mismatch"} == {"org_z"}
    letters = [mailbox.decode(each.key(), each.value()) for each in site.read(site.settings.worker.mailbox)]
    news = [each for each in letters if isinstance(each, Mail) and each.kind == "news"]
    assert sorted(each.body["id"] for each in news) == sorted(f"{name}/off" for name in names)


def clock(worker: Worker) -> float:
    """Tell the time up to which every partition is told that time has gone on."""
    found = [value for name, value in worker.metrics().items() if name.startswith("auditgap_clock_timestamp_seconds")]
    return min(found) if len(found) == 4 else 0.0


def test_ticks(site: Site, workers: Workers) -> None:
    """Time goes on in every partition without any input, by the broker's clock, also for the worker that comes next."""
    worker = workers.start(site).await_ready()
    first = until(lambda: clock(worker), "no tick")
    assert abs(first - ago(0) / times.SECOND) < 60
    until(lambda: clock(worker) > first, "time stands still")
    worker.kill()
    second = workers.start(site).await_ready()
    known = clock(second)
    assert known >= first
    until(lambda: clock(second) > known, "time stands still")


def test_no_backlog_of_ticks(site: Site, workers: Workers) -> None:
    """A worker that takes nothing in writes no second tick."""
    deaf = "from auditgap.adapters.job import Job\nJob._take_mail = lambda self, part, message, append_time, now: None"
    worker = workers.start(site, command=launcher(deaf), commit_interval_seconds=0.1).await_ready()
    box = site.settings.worker.mailbox
    until(lambda: len(site.read(box)) == 4, "no tick in every partition")
    assert worker.runs_for(3)
    assert len(site.read(box)) == 4
