"""What time alone raises, through a shard that looks only at what is due: when, how bad, in which words; and status."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from tests.support.golden import assert_golden
from tests.unit.core.making import SECOND, act, at, caught_up, saw, setting

from auditgap.core import status
from auditgap.core.inputs import Activity
from auditgap.core.observations import Observation
from auditgap.core.policy import Acknowledgement, Actors, ChangeWindow, Rules, successor
from auditgap.core.records import Alert, Emission, Gap, Status
from auditgap.core.shard import Shard
from auditgap.core.status import Facts, Verdict, verdict

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
OFF = setting("off", 100, api=False)
OWNER = Actors(users=("user_owner",))
PLANNED = ChangeWindow(
    id="CHG-1", reason="move", registered_at=at(-DAY), start=at(0), end=at(2 * HOUR + 30), actors=OWNER
)

COURSES: dict[str, tuple[Rules | None, Sequence[Activity | Observation]]] = {
    "open for days": (None, [act("before", 0), OFF]),
    "other steps": (Rules(gap_still_open_seconds=(90, 600), proof_limit_seconds=300), [act("before", 0), OFF]),
    "planned": (Rules(owners=OWNER, change_windows=(PLANNED,)), [OFF, setting("on", 5 * HOUR, api=True)]),
    "planned and not over": (Rules(owners=OWNER, change_windows=(PLANNED,)), [OFF, setting("on", HOUR, api=True)]),
    "acknowledged": (
        Rules(acknowledged=(Acknowledgement(gap_id="gap_d0bced8a17d814506895274f", until=at(DAY), reason="known"),)),
        [OFF],
    ),
    "no longer in use": (Rules(decommissioned=True), [act("before", 0), OFF]),
    "a silent collector": (
        None,
        [saw("one", "feed_answer", "ok", 0), act("a", 60), saw("back", "collector", "started", 30 * HOUR)],
    ),
    "refused": (None, [saw("denied", "feed_answer", "forbidden", MINUTE * n) for n in range(0, 120, 7)]),
    "canaries": (
        None,
        [
            saw(f"c{n}", "canary", "missing" if n < 6 else "seen", 300 * n, called_at=at(300 * n - 180))
            for n in range(12)
        ]
        + [caught_up("all", 2 * HOUR, 2 * HOUR)],
    ),
    "late": (
        None,
        [
            saw("late", "canary", "delayed", 600, called_at=at(60)),
            saw("seen", "canary", "seen", 4000, called_at=at(3600)),
        ],
    ),
}


def course(rules: Rules | None, inputs: Iterable[Activity | Observation]) -> Iterable[tuple[int, object]]:
    """Tick every minute of two days and a half, take each input in when it comes; give what comes out, by minute."""
    shard = Shard()
    if rules is not None:
        shard.policy(successor(None, "org_1", rules, "jane@example.com", at(-HOUR), None), at(-HOUR))
    waiting = sorted(inputs, key=lambda each: each.created_at or 0 if isinstance(each, Activity) else each.observed_at)
    for minute in range(60 * 60):
        now = at(minute * MINUTE)
        out: list[Emission] = []
        while waiting:
            each = waiting[0]
            appended = SECOND + ((each.created_at or 0) if isinstance(each, Activity) else each.observed_at)
            if appended > now:
                break
            take = shard.activity if isinstance(each, Activity) else shard.observation
            out += take(waiting.pop(0), appended, now).emissions  # type: ignore[arg-type]
        out += [*shard.settle(now), *shard.tick(now, now).emissions]
        for _ in shard.changes():
            pass
        for record in out:
            match record:
                case Alert():
                    yield minute, [record.kind, record.status, record.severity.name, record.summary]
                case Gap():
                    yield minute, [record.gap_id, record.state, record.cause, record.authorised_now]
                case Status():
                    yield minute, [record.audited, record.reason, record.since and record.since - at(0)]


@pytest.mark.parametrize("name", COURSES)
def test_a_course(name: str) -> None:
    """Everything is raised at its minute, and once."""
    assert_golden(
        f"courses/{name.replace(' ', '-')}", {"minutes": [[minute, out] for minute, out in course(*COURSES[name])]}
    )


GAP = Gap(
    gap_id="gap_1",
    incident_id="inc_1",
    organization_id="org_1",
    feed_id=None,
    first_evidence_at=5,
    state="OPEN",
    confidence="CONFIRMED",
    cause="API_DISABLED",
    opened_at=10,
    opened_at_latest=20,
    opened_by_kind="settings_poll",
    opened_by_id="poll",
)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, Verdict("YES", "RECORDING_PROVEN", 50, "last")),
        ({"clock": 105}, Verdict("YES", "RECORDING_PROVEN", 50, "last")),
        ({"clock": 106}, Verdict("UNKNOWN", "PROOF_TOO_OLD", 95, "last")),
        ({"last_proof_at": None}, Verdict("UNKNOWN", "NEVER_PROVEN")),
        ({"stalled_since": 60, "last_proof_at": None}, Verdict("UNKNOWN", "FEED_STALLED", 60)),
        ({"unreadable_since": 96, "stalled_since": 60}, Verdict("UNKNOWN", "SETTINGS_CHANGE_UNREADABLE", 96)),
        ({"unreadable_since": 5, "last_proof_at": None}, Verdict("UNKNOWN", "SETTINGS_CHANGE_UNREADABLE", 5)),
        ({"unreadable_since": 95}, Verdict("YES", "RECORDING_PROVEN", 50, "last")),
        ({"decommissioned": True, "unreadable_since": 96}, Verdict("UNKNOWN", "DECOMMISSIONED", 95)),
        ({"open_gaps": (GAP,), "decommissioned": True}, Verdict("NO", "API_DISABLED", 10, "poll", "gap_1")),
    ],
)
def test_what_follows_from_the_facts(facts: dict[str, object], expected: Verdict) -> None:
    """The first row of the table that holds decides."""
    plain: dict[str, object] = {
        "clock": 100,
        "limit": 10,
        "open_gaps": (),
        "decommissioned": False,
        "stalled_since": None,
        "unreadable_since": None,
        "proven_since": 50,
        "last_proof_at": 95,
        "last_proof_id": "last",
    }
    assert verdict(Facts(**{**plain, **facts})) == expected  # type: ignore[arg-type]


def test_which_gap_decides() -> None:
    """A confirmed gap before a suspected one, and of several the one that opened first; an unknown opening is late."""
    facts = Facts(100, 10, (), False, None, None, 50, 95, "last")
    suspected = replace(GAP, confidence="SUSPECTED", gap_id="s")
    later, unsure = replace(GAP, gap_id="later", opened_at_latest=30), replace(GAP, gap_id="a", opened_at=None)
    assert verdict(facts._replace(open_gaps=(suspected, later, GAP))).gap_id == "gap_1"
    assert verdict(facts._replace(open_gaps=(suspected,))) == Verdict("UNKNOWN", "API_DISABLED", 10, "poll", "s")
    assert verdict(facts._replace(open_gaps=(unsure,))).since == 20
    assert verdict(facts._replace(open_gaps=(suspected,), decommissioned=True)).reason == "DECOMMISSIONED"
    assert {status.YES, status.NO, status.UNKNOWN} == {"YES", "NO", "UNKNOWN"}
