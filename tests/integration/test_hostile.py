"""Records that no honest collector writes: each has its place, and no other record suffers for it.

Each case has an organization of its own with one window: two records before, "off", the case's records, one record
inside, "on", two records after. All cases go through one worker in one stream, so what one breaks shows in the others.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from confluent_kafka import Message
from tests.support.feed import ENCODER, ORDINARY, Record, Wire, ago, record, settings, wire
from tests.support.site import Site, headers, reason
from tests.support.workers import Workers

from auditgap.adapters.kafka import partition_of
from auditgap.core import times
from auditgap.core.inputs import ACCESS_TRANSPARENCY_TYPES, NOBODY, Activity
from auditgap.core.records import Alert, Gap

PARTITIONS: Final = 4

YEAR_2999: Final = times.parse("2999-01-01T00:00:00Z") or 0

BASE: Final = ago(2 * 3600)
"""When the windows were; far enough back for none of it to lie in the future."""

Make = Callable[[str], list[Wire]]
"""Gives the records of a case, for its organization."""


@dataclass(frozen=True)
class Case:
    """What is slipped in, and what has to come of it.

    `reasons` are the dead letters', `alerts` the kinds beyond the window's two. `inside` of the records count as
    activity inside the window, `forwarded` are handed to another partition.
    """

    name: str
    make: Make
    reasons: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    inside: int = 0
    forwarded: int = 0

    @property
    def organization(self) -> str:
        """The case's own."""
        return f"org_{self.name}"


def at(second: float) -> int:
    """Tell a time in the windows' hour."""
    return BASE + int(second * times.SECOND)


INSIDE: Final = at(150)
"""When the records slipped in happened."""


def ordinary(organization: str, suffix: str = "x", moment: int = INSIDE, **more: Any) -> Wire:
    """Make an ordinary record inside the window."""
    return wire(record(f"{organization}/{suffix}", organization, moment, **more))


def switch(organization: str, moment: int = INSIDE, *, suffix: str = "x", **flags: Any) -> Record:
    """Make a settings event inside the window."""
    return settings(f"{organization}/{suffix}", organization, moment, **flags)


def changed(change: Callable[[Wire, str], Wire]) -> Make:
    """Slip in one ordinary record, changed on the wire."""
    return lambda organization: [change(ordinary(organization), organization)]


def reworded(change: Callable[[bytes], bytes | None], made: Callable[[str], Wire] = ordinary) -> Make:
    """Slip in one record whose value was changed."""
    return lambda organization: [(one := made(organization))._replace(value=change(one.value or b""))]


def without(name: str) -> Make:
    """Slip in a settings event that lacks a field."""
    return lambda organization: [
        wire({key: value for key, value in switch(organization, logging=False).items() if key != name})
    ]


def misdated(moment: int, **flags: Any) -> Make:
    """Slip in a settings event of another time."""
    return lambda organization: [wire(switch(organization, moment, **flags))]


def home(organization: str) -> int:
    """Name the organization's partition."""
    return partition_of(organization, PARTITIONS)


def elsewhere(organization: str) -> int:
    """Name a partition that is not the organization's."""
    return (home(organization) + 1) % PARTITIONS


def _no_time(organization: str) -> list[Wire]:
    body = Activity("x", ORDINARY, None, organization, None, None, NOBODY, None, None, "{}")
    made = ordinary(organization)
    return [made._replace(value=ENCODER.activity(body), headers=[h for h in made.headers or [] if h[0] != "ce_time"])]


def _switched_off(organization: str) -> Wire:
    return wire(switch(organization, logging=False))


CASES: Final = (
    # Dead letters.
    Case("truncated", reworded(lambda value: value[:-7]), ("not_avro",)),
    Case("trailing", reworded(lambda value: value + b"!"), ("not_avro",)),
    Case("two_bytes", reworded(lambda _: b"\x00\x00"), ("bad_magic",)),
    Case("json", reworded(lambda _: b'{"id": "x"}'), ("bad_magic",)),
    Case("wrong_magic", reworded(lambda value: b"\x01" + value[1:]), ("bad_magic",)),
    Case("schema_id", reworded(lambda value: struct.pack(">bI", 0, 4711) + value[5:]), ("unknown_schema_id",)),
    Case("other_schema", reworded(lambda value: struct.pack(">bI", 0, 2) + value[5:]), ("not_avro",)),
    Case("empty", reworded(lambda _: b""), ("empty_value",)),
    Case("tombstone", reworded(lambda _: None), ("empty_value",)),
    Case("no_time", _no_time, ("unreadable",)),
    Case("year_1970", lambda o: [ordinary(o, moment=0)], ("time_implausible",)),
    Case("year_2999", lambda o: [ordinary(o, moment=YEAR_2999)], ("time_in_future",), ("clock_anomaly",)),
    Case(
        "key_not_utf8",
        changed(lambda made, o: made._replace(key=b"\xff\xfe", partition=home(o))),
        ("bad_key",),
    ),
    Case(
        "key_not_utf8_settings",
        lambda o: [_switched_off(o)._replace(key=b"\xff\xfe", partition=home(o))],
        ("bad_key",),
        ("settings_change_unreadable",),
    ),
    *(
        Case(f"settings_{name}", make, (why,), ("settings_change_unreadable",))
        for name, make, why in (
            ("flags_as_text", lambda o: [wire(switch(o, api="false", logging="true"))], "settings_unreadable"),
            ("without_id", without("id"), "settings_unreadable"),
            ("without_time", without("created_at"), "settings_unreadable"),
            ("of_1970", misdated(0, logging=False), "settings_unreadable"),
            ("truncated", reworded(lambda value: value[:-7], _switched_off), "not_avro"),
            ("tombstone", reworded(lambda _: None, _switched_off), "empty_value"),
        )
    ),
    Case("settings_of_2999", misdated(YEAR_2999, logging=True), ("time_in_future",), ("clock_anomaly",)),
    # Processed.
    Case(
        "same_id",
        lambda o: [wire(switch(o, api=v)) for v in (False, True)],
        alerts=("logging_disabled", "conflicting_record"),
    ),
    Case("settings_repeat", lambda o: [_switched_off(o)] * 3, alerts=("logging_disabled",)),
    Case("repeat", lambda o: [ordinary(o)] * 3, inside=1),
    Case("no_key", changed(lambda made, o: made._replace(key=None, partition=home(o))), inside=1),
    Case(
        "no_key_elsewhere",
        changed(lambda made, o: made._replace(key=None, partition=elsewhere(o))),
        inside=1,
        forwarded=1,
    ),
    Case("wrong_key", changed(lambda made, o: made._replace(key=b"org_other", partition=home(o))), inside=1),
    Case("wrong_partition", changed(lambda made, o: made._replace(partition=elsewhere(o))), inside=1, forwarded=1),
    Case(
        "settings_elsewhere",
        lambda o: [_switched_off(o)._replace(partition=elsewhere(o))],
        alerts=("logging_disabled",),
        forwarded=1,
    ),
    Case("no_headers", changed(lambda made, _: made._replace(headers=None)), inside=1),
    Case(
        "no_headers_elsewhere",
        changed(lambda made, o: made._replace(headers=None, partition=elsewhere(o))),
        inside=1,
        forwarded=1,
    ),
    Case(
        "foreign_headers",
        lambda o: [
            made._replace(headers=[("traceparent", b"00-11-22-01"), ("b3", b""), *(made.headers or [])])
            for made in (ordinary(o, "x1"), ordinary(o, "x2"), ordinary(o, "x3"))
        ],
        inside=3,
    ),
    Case(
        "header_twice",
        changed(lambda made, _: made._replace(headers=[*(made.headers or []), ("ce_id", b"another")])),
        inside=1,
    ),
    Case(
        "no_time_header",
        changed(lambda made, _: made._replace(headers=[h for h in made.headers or [] if h[0] != "ce_time"])),
        inside=1,
    ),
    Case(
        "time_header_in_other_form",
        changed(lambda made, _: with_headers(made, ce_time=times.text_of(INSIDE).replace("Z", "+00:00").encode())),
        inside=1,
    ),
    Case("large", lambda o: [ordinary(o, note="n" * 1_000_000)], inside=1),
    Case("long_id", lambda o: [ordinary(o, "y" * 300)], inside=1),
    Case("unknown_type", lambda o: [ordinary(o, kind="type_of_the_future")], inside=1),
    Case("unknown_actor", lambda o: [ordinary(o, actor={"type": "martian", "martian_id": "m1"})], inside=1),
    Case("access_transparency", lambda o: [ordinary(o, kind, kind=kind) for kind in sorted(ACCESS_TRANSPARENCY_TYPES)]),
)


def with_headers(made: Wire, **values: bytes) -> Wire:
    """Give some headers other values."""
    return made._replace(headers=[(name, values.get(name, value)) for name, value in made.headers or []])


def window(organization: str, slipped_in: list[Wire], **on: bool) -> list[list[Wire]]:
    """List the steps of an organization's window."""
    return [
        [ordinary(organization, "before", at(99)), ordinary(organization, "last", at(100))],
        [wire(switch(organization, at(110), suffix="off", logging=False))],
        slipped_in,
        [ordinary(organization, "inside", at(160))],
        [wire(switch(organization, at(200), suffix="on", **(on or {"api": True, "logging": True})))],
        [ordinary(organization, "first", at(201)), ordinary(organization, "after", at(202))],
    ]


# --- everything through one worker ------------------------------------------------------------------------------------

CRC32_ORGANIZATIONS: Final = [f"org_crc32_{number}" for number in range(12)]


@dataclass
class World:
    """What was put in, and what came out."""

    trusting: bool
    sent: list[Wire] = field(default_factory=list)
    log: str = ""
    before_lies: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    history: list[Gap] = field(default_factory=list)
    dead_letters: list[Message] = field(default_factory=list)
    inputs: list[Message] = field(default_factory=list)

    def gaps_of(self, organization: str | None) -> list[Gap]:
        """Give the last revision of each gap."""
        return list({gap.gap_id: gap for gap in self.history if gap.organization_id == organization}.values())

    def gap_of(self, organization: str | None) -> Gap:
        """Give the last revision of the only gap."""
        (gap,) = self.gaps_of(organization)
        return gap

    def alerts_of(self, organization: str | None) -> list[Alert]:
        """Give the last revision of each alert."""
        return list({each.alert_id: each for each in self.alerts if each.organization_id == organization}.values())

    def kinds_of(self, organization: str | None) -> Counter[str]:
        """Count the alerts by kind."""
        # What is found out about an actor comes a moment later, and is not what these records are about.
        kinds = (each.kind for each in self.alerts_of(organization))
        return Counter(kind for kind in kinds if kind != "actor_compromise_indicators")


@pytest.fixture(scope="module", params=[True, False], ids=["headers", "bodies"])
def world(request: pytest.FixtureRequest, kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Put everything through one worker: one that trusts headers, and one that decodes every body."""
    made = World(trusting=request.param)
    site = Site(kafka, PARTITIONS, trust_headers=made.trusting, sample_every=1_000_000)
    workers = Workers(tmp_path_factory.mktemp("hostile"))

    def publish(wires: list[Wire], partitioner: str = "murmur2_random") -> None:
        site.produce(wires, partitioner)
        made.sent += wires

    try:
        worker = workers.start(site).await_ready()
        steps = zip(*(window(case.organization, case.make(case.organization)) for case in CASES), strict=True)
        for step in steps:
            publish([one for wires in step for one in wires])
        publish(
            [one for organization in CRC32_ORGANIZATIONS for step in window(organization, []) for one in step],
            "consistent_random",
        )
        publish(_of_a_feed())
        publish(_api_only())
        publish(_off_in_2999())
        workers.finish(site, worker)
        made.before_lies = worker.metrics()
        publish(_lies())
        workers.finish(site, worker)
        made.metrics = worker.metrics()
        assert worker.stop() == 0
        made.log = worker.text
        made.alerts, made.history = site.alerts(), site.history()
        made.dead_letters, made.inputs = site.dead_letters(), site.read(site.activity)
        yield made
    finally:
        workers.kill_all()
        site.close()


def _of_a_feed() -> list[Wire]:
    return [
        wire(record("feed/last", None, at(100)), "feed_9"),
        wire(settings("feed/off", None, at(110), api=False), "feed_9"),
        wire(record("feed/inside", None, at(120)), "feed_9"),
        wire(settings("feed/on", None, at(130), api=True), "feed_9"),
        wire(record("feed/first", None, at(140)), "feed_9"),
    ]


def _api_only() -> list[Wire]:
    return [
        ordinary("org_api", "last", at(100)),
        wire(switch("org_api", at(110), suffix="off", api=False)),
        wire(switch("org_api", at(120), suffix="logging", logging=True)),
        ordinary("org_api", "inside", at(130)),
    ]


def _off_in_2999() -> list[Wire]:
    return [ordinary("org_2999", "last", at(100)), wire(switch("org_2999", YEAR_2999, logging=False))]


def _lies() -> list[Wire]:
    """A settings event in an ordinary record's clothes first: with it the skipping stops."""
    kind = dict(ordinary("org_liar").headers or [])["ce_type"]
    return [
        ordinary("org_liar", "known", at(90)),
        ordinary("org_innocent", "known", at(90)),
        with_headers(ordinary("org_liar", "last", at(100)), ce_time=times.text_of(at(100)).encode()),
        with_headers(wire(switch("org_liar", at(110), suffix="off", logging=False)), ce_type=kind),
        with_headers(ordinary("org_liar", "inside", at(120)), ce_id=b"a lie", ce_time=times.text_of(at(95)).encode()),
        with_headers(ordinary("org_liar", "inside2", at(130)), ce_subject=b"org_innocent"),
        wire(switch("org_liar", at(140), suffix="on", logging=True)),
        ordinary("org_liar", "first", at(150)),
    ]


# --- what has to hold -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(world: World, case: Case) -> None:
    """The case's records come to their place, and the window around them is told exactly."""
    gap = world.gap_of(case.organization)
    names = ("last", "off", "on", "first")
    assert (gap.last_activity_id, gap.opened_by_id, gap.closed_by_id, gap.first_activity_id) == tuple(
        f"{case.organization}/{name}" for name in names
    )
    assert (gap.state, gap.opened_at, gap.closed_at) == ("CLOSED", at(110), at(200))
    assert gap.activity_inside_count == case.inside + 1
    assert world.kinds_of(case.organization) == Counter(["logging_disabled", "logging_restored", *case.alerts])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_dead_letters(world: World, case: Case) -> None:
    """A dead letter is the record as it was (value, key, headers), and then why and where; others have none."""
    found = [each for each in world.dead_letters if dict(headers(each)).get("ce_subject") == case.organization.encode()]
    assert [reason(each) for each in found] == list(case.reasons)
    for each, sent in zip(found, case.make(case.organization) if case.reasons else [], strict=True):
        assert (each.value(), each.key()) == (sent.value, sent.key)
        count = len(sent.headers or [])
        assert headers(each)[:count] == sent.headers
        why = dict(headers(each)[count:])
        assert {name.startswith("auditgap_dlq_") for name in why} == {True}
        (place,) = [
            one
            for one in world.inputs
            if (one.partition(), one.offset()) == (int(why["auditgap_dlq_partition"]), int(why["auditgap_dlq_offset"]))
        ]
        assert (place.value(), place.key(), place.topic()) == (
            sent.value,
            sent.key,
            why["auditgap_dlq_topic"].decode(),
        )
        assert why["auditgap_dlq_append_time"].decode() == times.text_of(place.timestamp()[1] * 1000)
        assert why["auditgap_dlq_detail"]


def test_no_other_dead_letter(world: World) -> None:
    """Nothing is in the dead letters but what the cases put there."""
    assert Counter(map(reason, world.dead_letters)) == Counter(
        ["time_in_future", *(why for case in CASES for why in case.reasons)]
    )


def test_forwarded(world: World) -> None:
    """A record on a wrong partition comes to the right one exactly once, whole, and nothing else is handed on."""
    arrived = [each for each in world.inputs if "auditgap_forwarded_from" in dict(headers(each))]
    by_place = {f"{each.topic()}/{each.partition()}/{each.offset()}": each for each in world.inputs}
    origins = [dict(headers(each))["auditgap_forwarded_from"].decode() for each in arrived]
    assert len(set(origins)) == len(origins)
    for each, origin in zip(arrived, origins, strict=True):
        named = dict(headers(each))
        subject = named["ce_subject"].decode()
        assert each.partition() == partition_of(subject, PARTITIONS) != by_place[origin].partition()
        assert each.value() == by_place[origin].value()
        assert each.key() == subject.encode()
    strays = [
        each
        for each in world.inputs
        if each not in arrived and _subject(each) and each.partition() != home(_subject(each))
    ]
    assert len(arrived) == len(strays)
    assert len(arrived) >= sum(case.forwarded for case in CASES) + len(CRC32_ORGANIZATIONS)


def _subject(message: Message) -> str:
    """Whose a record that can be read is, by its headers; the cases lie in `_lies` only."""
    return dict(headers(message)).get("ce_subject", b"").decode()


@pytest.mark.parametrize("organization", CRC32_ORGANIZATIONS)
def test_other_partitioner(world: World, organization: str) -> None:
    """What a producer with librdkafka's default partitioner writes is told exactly, too."""
    gap = world.gap_of(organization)
    assert (gap.last_activity_id, gap.first_activity_id) == (f"{organization}/last", f"{organization}/first")
    assert gap.activity_inside_count == 1
    assert world.kinds_of(organization) == Counter(["logging_disabled", "logging_restored"])


def test_no_organization(world: World) -> None:
    """A settings event without an organization is its feed's, and so are the records around it."""
    gap = world.gap_of(None)
    assert (gap.feed_id, gap.state) == ("feed_9", "CLOSED")
    assert (gap.last_activity_id, gap.first_activity_id) == ("feed/last", "feed/first")
    assert gap.activity_inside_count == 1


def test_api_only(world: World) -> None:
    """The API flag alone opens a gap, and logging alone does not close it."""
    gap = world.gap_of("org_api")
    assert (gap.state, gap.cause, gap.opened_by_id) == ("OPEN", "API_DISABLED", "org_api/off")
    assert gap.activity_inside_count == 1
    assert world.kinds_of("org_api") - Counter(["gap_still_open"]) == Counter(["logging_disabled"])


def test_off_in_2999(world: World) -> None:
    """A settings event that says off in 2999 is a dead letter, and off from when the broker got it."""
    gap = world.gap_of("org_2999")
    (letter,) = [each for each in world.dead_letters if dict(headers(each))["ce_subject"] == b"org_2999"]
    appended = times.parse(dict(headers(letter))["auditgap_dlq_append_time"].decode())
    assert (gap.state, gap.opened_at_latest, gap.last_activity_id) == ("OPEN", appended, "org_2999/last")
    assert world.kinds_of("org_2999") == Counter(["logging_disabled", "clock_anomaly"])


def test_lies(world: World) -> None:
    """Where headers lie the body is believed, the settings event behind them is found, and skipping stops."""
    gap = world.gap_of("org_liar")
    assert (gap.state, gap.last_activity_id, gap.first_activity_id) == ("CLOSED", "org_liar/last", "org_liar/first")
    assert (gap.activity_inside_count, gap.activity_inside_first_id) == (2, "org_liar/inside")
    assert gap.activity_inside_last_id == "org_liar/inside2"
    assert world.kinds_of("org_liar")["header_mismatch"] == 3
    assert world.gaps_of("org_innocent") == []
    assert world.metrics["auditgap_header_skipping"] == 0
    assert world.before_lies["auditgap_header_skipping"] == world.trusting


def test_skipping(world: World) -> None:
    """Ordinary records are skipped by their headers where these are trusted, and decoded where not."""
    decoded = world.before_lies["auditgap_decoded_records_total"]
    counted = sum(value for name, value in world.before_lies.items() if name.startswith("auditgap_records_total"))
    assert decoded < 0.7 * counted if world.trusting else decoded == counted


def test_counts(world: World) -> None:
    """Every record on the topic was applied, a repeat, a dead letter or forwarded: once."""
    outcomes = {
        name.removeprefix("auditgap_records_total"): int(value)
        for name, value in world.metrics.items()
        if name.startswith("auditgap_records_total")
    }
    assert sum(outcomes.values()) == len(world.inputs)
    assert len(world.inputs) == len(world.sent) + outcomes["{forwarded}"]
    assert outcomes["{dead_letter}"] == len(world.dead_letters)
    assert outcomes["{repeat}"] == 2


def test_once(world: World) -> None:
    """No revision of an alert or a gap is published twice, and none is missing."""
    for ids in (
        [(each.alert_id, each.revision) for each in world.alerts],
        [(each.gap_id, each.revision) for each in world.history],
    ):
        last = {name: max(revision for other, revision in ids if other == name) for name, _ in ids}
        assert Counter(ids) == Counter((name, number) for name, top in last.items() for number in range(1, top + 1))


def test_log(world: World) -> None:
    """None of it is an error to the worker."""
    assert "ERROR" not in world.log
    assert "Traceback" not in world.log
