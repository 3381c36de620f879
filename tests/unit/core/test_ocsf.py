"""Findings are held against the schemas that schema.ocsf.io publishes, as the package ocsf-json-schema ships them."""

import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from tests.support.golden import assert_golden
from tests.unit.core.making import ACTOR, Run, act, at, setting

from auditgap.core import times
from auditgap.core.alerts import ATTACK_IDS
from auditgap.core.ocsf import VERSION, attacks_of, finding_of
from auditgap.core.records import Gap, as_dict

GAP = Gap(
    gap_id="gap_1",
    incident_id="inc_1",
    revision=1,
    organization_id="org_1",
    feed_id="feed_1",
    first_evidence_at=at(12),
    produced_at=at(13),
    state="OPEN",
    confidence="CONFIRMED",
    cause="LOGGING_DISABLED",
    opened_at=at(10) + 1,
    opened_at_latest=at(10) + 1,
    opened_by_kind="settings_event",
    opened_by_id="act_off",
    opened_actor_type="user_actor",
    opened_actor_id="user_owner",
    opened_actor_email="owner@example.com",
    opened_actor_ip="203.0.113.7",
    opened_actor_user_agent="Mozilla/5.0",
    last_activity_id="act_last",
    last_activity_at=at(9),
)
CLOSED = replace(
    GAP,
    revision=2,
    state="CLOSED",
    closed_at=at(20) + 1,
    closed_at_earliest=at(20),
    duration_seconds=10.0,
    closed_by_kind="settings_event",
    closed_by_id="act_on",
    closed_actor_type="anthropic_actor",
    first_activity_id="act_first",
    first_activity_at=at(21),
    authorised_at_open="LISTED",
    change_window_id="CHG-1",
    change_window_reason="planned",
    policy_version=3,
    activity_inside_count=2,
    history_sequence=2,
    previous_digest="ab",
)
BARE = Gap(
    gap_id="gap_2",
    incident_id="inc_2",
    organization_id=None,
    feed_id=None,
    first_evidence_at=at(0),
    state="OPEN",
    confidence="SUSPECTED",
    cause="CANARY_MISSING",
    opened_at=None,
    opened_at_latest=None,
    opened_by_kind=None,
    opened_by_id=None,
)
GAPS = {
    "open": GAP,
    "open, later": replace(GAP, revision=3),
    "closed": CLOSED,
    "retracted": replace(CLOSED, state="RETRACTED", confidence="SUSPECTED"),
    "superseded": replace(GAP, state="SUPERSEDED", superseded_by="gap_9"),
    "superseded by none": replace(GAP, state="SUPERSEDED"),
    "bare": BARE,
    "a feed's": replace(BARE, feed_id="feed_1", opened_by_kind="canary"),
    "no address": replace(GAP, opened_actor_ip="unknown", opened_actor_email="nobody at home"),
    "address of six": replace(GAP, opened_actor_ip="2001:db8::7"),
    "a key": replace(GAP, opened_actor_type="admin_api_key_actor", opened_actor_email=None),
    "an actor of the future": replace(GAP, opened_actor_type="robot_actor"),
    "a cause of the future": replace(GAP, cause="UNKNOWN", confidence="UNKNOWN"),
}


@cache
def validator(version: str) -> Draft202012Validator:
    """The published schema of the class, without profiles."""
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version)).get_class_schema("detection_finding")
    return Draft202012Validator(schema)


def written(gap: Gap) -> dict[str, Any]:
    """A finding as a reader gets it."""
    shape: dict[str, Any] = json.loads(json.dumps(finding_of(gap, "1.2.3")))
    return shape


@pytest.mark.parametrize("version", [VERSION, "1.7.0", "1.8.0"])
@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS)
def test_the_published_schema(gap: Gap, version: str) -> None:
    """A finding has all that its class needs, nothing that the class does not know, and only known numbers."""
    assert [error.message for error in validator(version).iter_errors(written(gap))] == []


@pytest.mark.parametrize("name", GAPS)
def test_every_attribute(name: str) -> None:
    """A finding is, attribute by attribute, what it was."""
    assert_golden("findings/" + re.sub(r"\W+", "-", name), finding_of(GAPS[name], "1.2.3"))


def test_the_schema_refuses() -> None:
    """The schema is no rubber stamp: a missing, an unknown and a wrong attribute are each refused."""
    finding = written(GAP)
    for broken in (
        {name: value for name, value in finding.items() if name != "finding_info"},
        {**finding, "mood": 1},
        {**finding, "status_id": 7},
        {**finding, "metadata": {"version": VERSION}},
    ):
        assert not validator(VERSION).is_valid(broken)


@pytest.mark.parametrize(
    ("gap", "activity_id", "status_id"),
    [
        ("open", 1, 1),
        ("open, later", 2, 1),
        ("closed", 3, 4),
        ("retracted", 3, 3),
        ("superseded", 2, 99),
        ("superseded by none", 3, 99),
    ],
)
def test_activity_and_status(gap: str, activity_id: int, status_id: int) -> None:
    """A gap is created once, updated while it is open, and closed; its status says what became of it."""
    finding = written(GAPS[gap])
    assert (finding["class_uid"], finding["type_uid"]) == (2004, 200400 + activity_id)
    assert (finding["activity_id"], finding["status_id"]) == (activity_id, status_id)
    assert finding["status"] in {"New", "Resolved", "Suppressed", "Superseded"}


@pytest.mark.parametrize(
    ("gap", "severity_id"),
    [("open", 5), ("closed", 4), ("bare", 4), ("retracted", 1), ("superseded", 1), ("a cause of the future", 4)],
)
def test_severity(gap: str, severity_id: int) -> None:
    """A confirmed gap is critical; high where it is only suspected or was planned; what is withdrawn only informs."""
    assert written(GAPS[gap])["severity_id"] == severity_id


def test_one_finding() -> None:
    """Create, update and close of one incident carry one uid; each revision has one of its own."""
    findings = [written(GAPS[name]) for name in ("open", "open, later", "closed")]
    assert {each["finding_info"]["uid"] for each in findings} == {"inc_1"}
    assert [each["metadata"]["uid"] for each in findings] == ["gap_1:1", "gap_1:3", "gap_1:2"]


def test_bounds() -> None:
    """Start and end are whole milliseconds around the window; what is not known is left out."""
    finding = written(CLOSED)
    assert (finding["start_time"] * 1000, finding["end_time"] * 1000) == (at(10), at(20) + 1000)
    assert finding["duration"] == 10_000
    assert finding["time"] * 1000 == at(13)
    assert {"start_time", "end_time", "duration"}.isdisjoint(written(BARE))


def test_evidences() -> None:
    """Evidence names who opened and who closed it, and the last record before and the first after."""
    opened, closed, last, first = written(CLOSED)["evidences"]
    assert [each["uid"] for each in (opened, closed, last, first)] == ["act_off", "act_on", "act_last", "act_first"]
    assert opened["actor"]["user"] == {
        "uid": "user_owner",
        "name": "owner@example.com",
        "email_addr": "owner@example.com",
        "type_id": 1,
        "type": "User",
    }
    assert (opened["src_endpoint"], opened["http_request"]) == (
        {"ip": "203.0.113.7"},
        {"user_agent": "Mozilla/5.0"},
    )
    assert closed["actor"] == {"app_name": "anthropic_actor"}
    assert last["data"]["time"] * 1000 == at(9)
    assert "evidences" not in written(BARE)


def test_what_is_no_address() -> None:
    """An address or e-mail that the schema would refuse still reaches the reader, as plain data."""
    evidence = written(GAPS["no address"])["evidences"][0]
    assert "src_endpoint" not in evidence
    assert "email_addr" not in evidence["actor"]["user"]
    assert (evidence["data"]["actor_ip"], evidence["data"]["actor_email"]) == ("unknown", "nobody at home")


def test_nothing_is_lost() -> None:
    """Each field of a gap that is known is in the finding."""
    finding = json.dumps(finding_of(CLOSED))
    for name, value in as_dict(CLOSED).items():
        if isinstance(value, str):
            assert value in finding, name
        elif value is not None and not isinstance(value, bool):
            texts = {str(value)} | ({times.text_of(value), str(value // 1000)} if isinstance(value, int) else set())
            assert any(text in finding for text in texts), name


def test_attacks() -> None:
    """Each tactic comes with its most exact technique: the current ids first, then those they had before."""
    assert attacks_of(ATTACK_IDS) == [
        {"tactic": {"uid": "TA0112"}, "technique": {"uid": "T1685"}, "sub_technique": {"uid": "T1685.002"}},
        {"tactic": {"uid": "TA0005"}, "technique": {"uid": "T1562"}, "sub_technique": {"uid": "T1562.008"}},
    ]
    assert attacks_of(["TA0001", "T1078"]) == [{"tactic": {"uid": "TA0001"}, "technique": {"uid": "T1078"}}]
    assert written(GAP)["finding_info"]["attacks"] == attacks_of(ATTACK_IDS)


def test_gaps_of_the_ledger() -> None:
    """Every revision that a ledger publishes is a finding that the schema takes."""
    run = Run()
    run.take(act("before", 1), setting("off", 10, logging=False), act("inside", 12), setting("on", 20, logging=True))
    run.take(act("after", 30, actor=ACTOR), setting("late", 5, api=False), setting("api", 25, api=True))
    run.settle()
    gaps = [each for each in run.out if isinstance(each, Gap)]
    assert {gap.state for gap in gaps} >= {"OPEN", "CLOSED"}
    for gap in gaps:
        assert [error.message for error in validator(VERSION).iter_errors(written(gap))] == []
