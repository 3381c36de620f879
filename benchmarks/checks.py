"""Whether a contestant published exactly what the feed demands, by reading what it committed."""

import hashlib
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from auditgap.adapters import avro, kafka
from auditgap.config import Settings
from workload import Expectation

Record = dict[str, Any]

_ID: Final = re.compile(rb"activity_01[0-9a-f]{22}")


def faults(settings: Settings, state: str, expected: Expectation, *, chained: bool, everything: bool) -> list[str]:
    """Compare everything with what is expected; gives what is wrong, nothing if all is right.

    `state` is the changelog, which has to hold the last id of every organization; `chained` tells whether the history
    carries digests, `everything` whether there were policies, observations and indicators as well.
    """
    topics = settings.topics
    alerts = _read(settings, topics.alert, "alert")
    gaps = _read(settings, topics.gap, "gap")
    history = _read(settings, topics.gap_history, "gap")
    others = [each for each in alerts if each["kind"] not in _MAIN]
    alerts = [each for each in alerts if each["kind"] in _MAIN]
    found = [
        *_twice("other alert", Counter((each["alert_id"], each["revision"]) for each in others)),
        *_others(others, everything=everything),
        *_twice("alert", Counter((each["alert_id"], each["revision"]) for each in alerts)),
        *_twice("gap", Counter((each["gap_id"], each["revision"]) for each in gaps)),
        *_twice("gap in the history", Counter((each["gap_id"], each["revision"]) for each in history)),
        *_different("alerts", {_alert(each) for each in _latest(alerts, "alert_id")}, _expected_alerts(expected)),
        *_different("gaps", {_gap(each) for each in _latest(gaps, "gap_id")}, _expected_gaps(expected)),
        *_different("gaps in the history", {_gap(e) for e in _latest(history, "gap_id")}, _expected_gaps(expected)),
        *_holes(history, chained=chained),
    ]
    if len(_latest(alerts, "alert_id")) != expected.alerts:
        found.append(f"{len(_latest(alerts, 'alert_id'))} alerts, expected {expected.alerts}")
    for topic in (topics.activity_dlq, topics.observation_dlq, topics.policy_dlq):
        dead = sum(1 for _ in kafka.read_committed(settings, topic))
        found += [f"{dead} dead letters in {topic}"] if dead else []
    kept: dict[bytes, bytes] = {}
    for message in kafka.read_committed(settings, state):
        kept[message.key() or b""] = message.value() or b""
    ids = {each for value in kept.values() for each in _ID.findall(value)}
    if lost := {each.encode() for each in expected.last.values()} - ids:
        found.append(f"the last id of {len(lost)} organizations is not in the state")
    return found


_MAIN: Final = frozenset({"logging_disabled", "logging_restored"})


def _others(others: list[Record], *, everything: bool) -> list[str]:
    """Say what is wrong with the alerts that time and triage raise; how many is not known."""
    kinds = {each["kind"] for each in others}
    of_triage = {"actor_compromise_indicators", "post_gap_review"}
    found = [f"an alert {kind} that nobody expects" for kind in sorted(kinds - of_triage - {"gap_still_open"})]
    if everything and not kinds & of_triage:
        found.append("no alert of triage")
    return found


def _read(settings: Settings, topic: str, name: str) -> list[Record]:
    ids = avro.SchemaIds.bundled()
    records = []
    for message in kafka.read_committed(settings, topic):
        record = ids.decode(message.value(), name)
        if not isinstance(record, dict):
            raise TypeError(f"{topic} holds something else than a {name}: {record}")
        records.append(record)
    return records


def _latest(records: list[Record], identity: str) -> list[Record]:
    latest: dict[str, Record] = {}
    for record in records:
        if record["revision"] >= latest.get(record[identity], record)["revision"]:
            latest[record[identity]] = record
    return list(latest.values())


def _alert(record: Record) -> tuple[object, ...]:
    """An alert as far as it is expected: what it speaks of, and that it is settled once its window is closed."""
    evidence, restored = record["evidence"], record["kind"] == "logging_restored"
    return record["kind"], record["organization_id"], record["status"], *(evidence if restored else evidence[:1])


def _expected_alerts(expected: Expectation) -> set[tuple[object, ...]]:
    alerts: set[tuple[object, ...]] = set()
    for window in expected.windows:
        status = "RESOLVED" if window.closed_by else "FIRING"
        alerts |= {("logging_disabled", window.organization, status, each) for each in window.switched_off_by}
        if window.closed_by:
            ids = (window.opened_by, window.closed_by, window.last_before, window.first_after)
            alerts.add(("logging_restored", window.organization, status, *(each for each in ids if each)))
    return alerts


def _gap(record: Record) -> tuple[object, ...]:
    names = ("organization_id", "state", "opened_by_id", "closed_by_id", "last_activity_id", "first_activity_id")
    return *(record[name] for name in names), record["bracket_exact"]


def _expected_gaps(expected: Expectation) -> set[tuple[object, ...]]:
    return {
        (
            window.organization,
            "CLOSED" if window.closed_by else "OPEN",
            window.opened_by,
            window.closed_by,
            window.last_before,
            window.first_after,
            True,
        )
        for window in expected.windows
    }


def _twice(what: str, counted: Counter[tuple[str, int]]) -> list[str]:
    return [f"{what} {identity} revision {number}: {n} times" for (identity, number), n in counted.items() if n > 1][:3]


def _different(what: str, found: set[tuple[object, ...]], expected: set[tuple[object, ...]]) -> list[str]:
    wrong, missing = sorted(found - expected, key=str), sorted(expected - found, key=str)
    out = [f"{len(wrong)} {what} that nobody expects, such as {wrong[0]}"] if wrong else []
    return [*out, f"{len(missing)} {what} missing, such as {missing[0]}"] if missing else out


def _holes(history: list[Record], *, chained: bool) -> list[str]:
    """Follow each organization's history: its sequence has no hole, and each revision names the digest before it."""
    previous: dict[str, tuple[int, str | None]] = {}
    for record in history:
        organization = record["organization_id"]
        sequence, digest = previous.get(organization, (0, None))
        if record["history_sequence"] != sequence + 1 or (chained and record["previous_digest"] != digest):
            return [f"the history of {organization} is broken at {record['history_sequence']}"]
        previous[organization] = record["history_sequence"], _digest(record)
    return []


def _digest(record: Record) -> str:
    """As schemas/gap.avsc says: SHA-256 of canonical JSON of the fields that are not null; times in microseconds."""
    known = {
        name: (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value
        for name, value in record.items()
        if value is not None
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
