"""`auditgap report` and `report verify` on a real Kafka, after a worker: what holds, and each way of tampering."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from tests.support.awaiting import until
from tests.support.feed import ENCODER, Publisher, Wire, ago, linked, observed, record, settings, wire
from tests.support.site import WAIT, Site
from tests.support.windows import one_window
from tests.support.workers import Workers, environment

from auditgap.adapters import cloudevents
from auditgap.adapters.kafka import partition_of
from auditgap.core.inputs import key_of, name_of, subject_of
from auditgap.core.records import Gap
from auditgap.core.times import text_of

POLLS = [("enabled", 2000), ("disabled", 1000)]
OF = ("organization", "feed", "parent")


def run(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it never shows a traceback."""
    command = [sys.executable, "-m", "auditgap", "report", *arguments]
    env = environment(site.settings)
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


def period() -> tuple[str, ...]:
    """The last quarter of an hour."""
    return "--from", text_of(ago(900)), "--to", text_of(ago(0))


@pytest.fixture
def reported(site: Site, workers: Workers, tmp_path: Path) -> Path:
    """A report of two windows, that a worker took in and published."""
    worker = workers.start(site).await_ready()
    site.produce([*one_window("org_a"), *one_window("org_b")])
    workers.finish(site, worker)
    until(lambda: len(site.gaps()) == 2 and all(gap.first_activity_id for gap in site.gaps().values()), "no gaps")
    until(site.mail_taken, "mail is left: nothing would be compared of those whom it is for")
    assert worker.stop() == 0
    made = run(site, "--all", *period(), "--json")
    assert (made.returncode, made.stderr) == (0, "")
    path = tmp_path / "report.json"
    path.write_text(made.stdout)
    return path


def put(site: Site, topic: str, gap: Gap, key: str) -> None:
    """Write a revision as somebody would who may write the topic."""
    headers = cloudevents.of_emission(gap, gap.subject)
    number = partition_of(gap.subject, site.settings.topics.partitions)
    publisher = Publisher(site.kafka)
    publisher.send(topic, [Wire(key.encode(), ENCODER.emission(gap), headers, number)])
    publisher.flush()


def history_of(site: Site, organization: str) -> list[Gap]:
    """Read one organization's chain."""
    return [gap for gap in site.history() if gap.organization_id == organization]


def test_a_report_holds(site: Site, reported: Path) -> None:
    """What the worker published is what the inputs give; the report verifies, also after more was recorded."""
    report: dict[str, Any] = json.loads(reported.read_text())
    assert [each["organization_id"] for each in report["windows"]] == ["org_a", "org_b"]
    for each in report["windows"]:
        name = each["organization_id"]
        assert (each["last_activity_id"], each["first_activity_id"]) == (f"{name}/last", f"{name}/first")
        assert (each["opening"], each["closing"], each["recomputed"]) == ("EXACT", "EXACT", True)
    assert report["coverage"]["off_microseconds"] > 0
    assert report["records"] == {"read": 10, "not_used": {}}
    for form, words in (("--markdown", "# Audit coverage of organization org"), ("--html", "<!doctype html>")):
        page = run(site, "--organization", "org_a", *period(), form)
        assert (page.returncode, page.stderr) == (0, "")
        assert page.stdout.startswith(words)
    site.produce([wire(record("later", "org_a", ago(1)))])
    verified = run(site, "verify", str(reported))
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.startswith("the report holds: recomputed from 10 records")


def test_inherited_gaps_and_what_time_raised(site: Site, workers: Workers, tmp_path: Path) -> None:
    """What members inherit is in the report, each with its parent's or feed's alerts, to the tick that raised them."""
    topics = site.settings.topics
    leaders = {"feed/feed_1": ["org_a", "org_b"], "parent/p": ["org_c"]}
    assert len({partition_of(name, topics.partitions) for name in (*leaders, "org_a", "org_b", "org_c")}) > 1
    worker = workers.start(site).await_ready()
    for name, members in leaders.items():
        home = partition_of(name, topics.partitions)
        site.produce([linked(name, *members)._replace(partition=home)], topic=topics.topology)
    until(lambda: worker.metrics().get("auditgap_records_total{applied}") == 2, lambda: f"{worker.metrics()}")
    polls = [observed(None, "settings_poll", result, ago(at), parent_id="p") for result, at in POLLS]
    site.produce(polls, topic=topics.observation)
    site.produce([wire(settings("off", None, ago(1000), api=False))])
    until(
        lambda: len(site.gaps()) == 5 and sum(each.kind == "gap_still_open" for each in site.alerts()) == 2,
        lambda: f"{site.gaps()}",
    )
    assert worker.stop() == 0
    made = run(site, "--all", "--from", text_of(ago(3000)), "--to", text_of(ago(0)), "--json")
    assert (made.returncode, made.stderr) == (0, "")
    report = json.loads(made.stdout)
    windows = {name_of(subject_of(*(each[f"{of}_id"] for of in OF))): each for each in report["windows"]}
    raised = {each.alert_id: (each.kind, text_of(each.detected_at)) for each in site.alerts()}
    for leader, members in leaders.items():
        own = windows[name_of(leader)]
        found = {each["alert_id"]: (each["kind"], each["detected_at"]) for each in own["alerts"]}
        assert {kind for kind, _ in found.values()} >= {"logging_disabled", "gap_still_open"}
        assert found.items() <= raised.items()
        for member in members:
            window = windows[name_of(member)]
            assert (window["inherited_from"], window["alerts"]) == (own["gap_id"], own["alerts"])
    assert (report["coverage"]["of"], report["coverage"]["members"]) == ("organizations", 3)
    assert report["ticks"]["read"] > 0
    assert report["ticks"]["gone_before"] is None
    path = tmp_path / "report.json"
    path.write_text(made.stdout)
    verified = run(site, "verify", str(path))
    assert (verified.returncode, verified.stderr) == (0, "")
    of_one = run(site, "--organization", "org_c", "--from", text_of(ago(3000)), "--to", text_of(ago(0)))
    assert of_one.returncode == 0
    assert "gap\\_still\\_open" in of_one.stdout


def test_an_edited_report_does_not_hold(site: Site, reported: Path) -> None:
    """A figure that was made better in the file is named with both values."""
    report = json.loads(reported.read_text())
    report["coverage"]["off_microseconds"] = 0
    reported.write_text(json.dumps(report))
    verified = run(site, "verify", str(reported))
    assert verified.returncode == 1
    assert "coverage.off_microseconds: the report says 0, recomputed it is " in verified.stdout


def test_a_forged_revision(site: Site, reported: Path) -> None:
    """A revision that does not follow in the chain is named, by a new report as well."""
    last = history_of(site, "org_a")[-1]
    forged = replace(last, revision=last.revision + 1, history_sequence=last.history_sequence + 1, closed_at=ago(1))
    put(site, site.settings.topics.gap_history, replace(forged, previous_digest="00" * 32), key_of("org_a"))
    verified = run(site, "verify", str(reported))
    assert verified.returncode == 1
    assert (
        f"sequence {forged.history_sequence}, {forged.gap_id} revision {forged.revision}, does not" in verified.stdout
    )
    anew = run(site, "--all", *period())
    assert anew.returncode == 1
    assert "does not name the digest" in anew.stderr
    assert "closed_at is " in anew.stderr
    assert "does not hold" in anew.stdout


def test_the_latest_revision_is_forged(site: Site, reported: Path) -> None:
    """Who writes only the topic of the latest revisions is found out by the history."""
    last = history_of(site, "org_a")[-1]
    put(site, site.settings.topics.gap, replace(last, revision=last.revision + 1, state="RETRACTED"), last.gap_id)
    verified = run(site, "verify", str(reported))
    assert verified.returncode == 1
    assert "RETRACTED" in verified.stdout


@pytest.mark.parametrize("which", ["history", "activity", "mailbox"])
def test_deleted_records(site: Site, reported: Path, which: str) -> None:
    """Where a record that the report rests on is gone it cannot be verified, and that is said."""
    its = site.settings
    topic = {"history": its.topics.gap_history, "activity": site.activity, "mailbox": its.worker.mailbox}[which]
    number = partition_of("org_a", its.topics.partitions)
    gone = TopicPartition(topic, number, 1)
    site.admin.delete_records([gone])[gone].result(WAIT)
    verified = run(site, "verify", str(reported))
    assert (verified.returncode, verified.stdout) == (1, "")
    assert f"cannot be verified: records of {topic}, partition {number}" in verified.stderr
    assert verified.stderr.count("\n") == 1
    if which == "history":
        anew = run(site, "--all", *period())
        assert anew.returncode == 1
        assert "missing before" in anew.stderr
    if which == "mailbox":
        anew = run(site, "--all", *period())
        assert anew.returncode == 0
        assert "are gone: what time raised before " in anew.stdout


def test_a_record_nobody_took_in(site: Site, reported: Path) -> None:
    """A window that no worker has published yet is in the report, and the report says that it is not published."""
    del reported
    site.produce([wire(settings("off", "org_c", ago(5), api=False))])
    made = run(site, "--organization", "org_c", *period(), "--json")
    assert made.returncode == 1
    assert "has not come that far" in made.stderr
    (told,) = json.loads(made.stdout)["windows"]
    assert (told["opened_by_id"], told["published"]) == ("off", None)


def test_what_cannot_be_reported(site: Site) -> None:
    """Empty topics, an unknown organization and a broker without topics are one line each."""
    empty = run(site, "--all", *period())
    assert (empty.returncode, empty.stdout) == (1, "")
    assert "nothing to report on" in empty.stderr
    site.produce(one_window("org_a"))
    unknown = run(site, "--organization", "org_x", *period())
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "organization org_x was never seen" in unknown.stderr
    site.delete_topic(site.settings.topics.gap_history)
    missing = run(site, "--all", *period())
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "run `auditgap topics apply`" in missing.stderr
    for each in (empty, unknown, missing):
        assert each.stderr.count("\n") == 1
