"""Attempts to switch the feed off unseen. Each ends in an alert, and nobody is told that the time was audited."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from tests.support.golden import assert_golden, shown
from tests.unit.core.making import SECOND, act, at, caught_up, keep_changes, saw, setting

from auditgap.core import coverage, status, topology
from auditgap.core.inputs import Activity
from auditgap.core.observations import Observation
from auditgap.core.policy import Actors, ChangeWindow, Policy, Rules, successor
from auditgap.core.records import Alert, Emission, Gap, Severity, Status
from auditgap.core.shard import Shard
from auditgap.core.topology import Link, Says, Topology

MINUTE = 60.0
HOUR = 60 * MINUTE
WATCHER = {"type": "admin_api_key_actor", "admin_api_key_id": "admin_api_key_WATCH"}
POLL = saw("poll", "settings_poll", "disabled", 0)


@dataclass
class Watch:
    """An organization as the worker watches it. Restarted with each step, it is told the time after each of them."""

    shard: Shard = field(default_factory=Shard)
    store: dict[str, bytes] = field(default_factory=dict)
    out: list[Emission] = field(default_factory=list)
    said: list[tuple[float, str]] = field(default_factory=list)

    def take(self, *inputs: Activity | Observation, append: float | None = None) -> "Watch":
        """Take inputs in, each appended a second after it happened unless said."""
        for each in inputs:
            happened = each.created_at if isinstance(each, Activity) else each.observed_at
            appended = (happened or 0) + SECOND if append is None else at(append)
            take = self.shard.activity if isinstance(each, Activity) else self.shard.observation
            outcome = self.shard.deliver(take(each, appended, appended), appended, appended)  # type: ignore[arg-type]
            self.out += outcome.emissions
        return self.step()

    def govern(self, version: Policy | Topology) -> "Watch":
        """Take a version of the policy or of the topology in."""
        take = self.shard.policy if isinstance(version, Policy) else self.shard.topology
        outcome = take(version, version.append_time)  # type: ignore[arg-type]
        assert outcome.rejection is None, outcome.rejection
        self.out += self.shard.deliver(outcome, version.append_time, version.append_time).emissions
        return self.step()

    def live(self, begin: float, end: float) -> "Watch":
        """Record something every minute, and let time go on."""
        for second in range(int(begin), int(end) + 1, 60):
            self.take(act(f"act_{second}", second))
            self.tick(second + 2)
        return self

    def tick(self, seconds: float) -> "Watch":
        """Let time go on to then; note what is said of the organization."""
        self.out += self.shard.tick(at(seconds), at(seconds)).emissions
        self.step()
        latest = {each.subject: each for each in self.out if isinstance(each, Status)}
        self.said.append((seconds, latest["org_1"].audited if "org_1" in latest else status.UNKNOWN))
        return self

    def step(self) -> "Watch":
        """Commit, die and come back."""
        self.out += self.shard.settle(at(0))
        keep_changes(self.store, self.shard)
        self.shard = Shard.restore(self.store)
        return self

    def alerts(self, kind: str) -> list[Alert]:
        """The latest revisions of the alerts of a kind."""
        latest = {each.alert_id: each for each in self.out if isinstance(each, Alert) and each.kind == kind}
        return [*latest.values()]

    def gaps(self) -> list[Gap]:
        """The latest revisions of the organization's gaps that stand."""
        latest = {each.gap_id: each for each in self.out if isinstance(each, Gap)}
        standing = [each for each in latest.values() if each.state not in {"SUPERSEDED", "RETRACTED"}]
        return [each for each in standing if each.organization_id == "org_1"]

    def assert_golden(self, name: str) -> None:
        """All that was published is as it is kept; what is said of the organization every minute is left out."""
        assert_golden(f"attempts/{name}", shown(each for each in self.out if not isinstance(each, Status)))

    def assert_seen(self, begin: float, end: float, *kinds: str, until: float) -> None:
        """Each kind of alert was raised, and nothing says that the time from begin to end was audited."""
        for kind in kinds:
            assert self.alerts(kind), f"no {kind} among { {each.kind for each in self.out if isinstance(each, Alert)} }"
        asked = [audited for seconds, audited in self.said if begin < seconds <= end]
        assert asked
        assert status.YES not in asked
        spans = self.shard.ledgers["org_1"].coverage(at(until))
        audited = [each for each in spans if each.state in {coverage.PROVEN, coverage.INFERRED}]
        assert audited, "the rest is audited"
        assert not [each for each in audited if each.begin < at(end) and at(begin) < each.end], spans


def policy(before: Policy | None, seconds: float, **rules: object) -> Policy:
    """Make the next version of the organization's policy, appended then."""
    return successor(before, "org_1", Rules(**rules), "jane@example.com", at(seconds), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "kind"), [(None, "unsigned_settings_change"), ("the signature is wrong", "signature_invalid")]
)
def test_a_forged_on_right_after_the_disable(fault: str | None, kind: str) -> None:
    """Where settings events have to be signed, an "on" that is not closes nothing."""
    watch = Watch().live(-600, 0).take(setting("off", 10, api=False))
    forged = setting("forged", 11, api=True)
    outcome = watch.shard.activity(forged, at(12), at(12), trusted=False, fault=fault)
    watch.out += outcome.emissions
    watch.step().tick(20).tick(5 * MINUTE).tick(HOUR)
    assert [gap.state for gap in watch.gaps()] == ["OPEN"]
    watch.take(setting("on", 2 * HOUR, api=True)).live(2 * HOUR + 60, 3 * HOUR)
    watch.assert_seen(10, 2 * HOUR, "logging_disabled", kind, "gap_still_open", until=3 * HOUR)
    watch.assert_golden(kind)


@pytest.mark.parametrize("flags", [{"api": False}, {"logging": False}, {"api": True, "logging": True}])
def test_a_record_dated_years_ahead(flags: dict[str, bool]) -> None:
    """An "off" that is dated years ahead is off from when it came; an "on" does not close what comes before it."""
    years = 70 * 365 * 24 * HOUR
    watch = Watch().live(-600, 0)
    if True in flags.values():
        watch.take(setting("off", 10, api=False))
    watch.take(setting("ahead", years, api=flags.get("api", ...), logging=flags.get("logging", ...)), append=20)
    watch.tick(30).tick(HOUR)
    assert [gap.state for gap in watch.gaps()] == ["OPEN"]
    watch.take(setting("on", 2 * HOUR, api=True, logging=True)).live(2 * HOUR + 60, 3 * HOUR)
    watch.assert_seen(20, 2 * HOUR, "logging_disabled", "clock_anomaly", until=3 * HOUR)
    watch.assert_golden("-".join(["ahead", *flags]))


def test_a_tick_dated_years_ahead() -> None:
    """It moves time by an hour at the most: no window closes, no proof is forgotten, and what comes is told."""
    watch = Watch().live(-600, 0).tick(70 * 365 * 24 * HOUR)
    assert watch.shard.clock <= at(2 * HOUR)
    watch.take(setting("off", 10, api=False))
    watch.said.clear()
    watch.tick(20).tick(5 * MINUTE).tick(2 * HOUR)
    watch.take(setting("on", 3 * HOUR, api=True)).live(3 * HOUR + 60, 4 * HOUR)
    watch.assert_seen(10, 3 * HOUR, "logging_disabled", "gap_still_open", until=4 * HOUR)
    watch.assert_golden("a_tick_dated_years_ahead")


@pytest.mark.parametrize("first", [setting("off", 10, api=True), act("off", 10)], ids=["an on", "no settings event"])
def test_the_true_id_first_with_other_content(first: Activity) -> None:
    """The true event counts as well, whatever had its id before; that two have it is told."""
    watch = Watch().live(-600, 0).take(first).take(setting("off", 10, api=False), append=12)
    watch.tick(20).tick(30 * MINUTE)
    assert [gap.state for gap in watch.gaps()] == ["OPEN"]
    watch.take(setting("on", HOUR, api=True)).live(HOUR + 60, 2 * HOUR)
    watch.assert_seen(10, HOUR, "logging_disabled", "conflicting_record", until=2 * HOUR)
    watch.assert_golden(f"conflict-{first.type}")


def test_flags_flipped_every_second() -> None:
    """Every window is known to the second, its paging is bounded, and that somebody flips is told."""
    watch = Watch().live(-600, 0)
    for second in range(10, 190):
        watch.take(setting(f"flip_{second}", second, api=bool(second % 2)))
        if second % 20 == 0:
            watch.tick(second + 0.5)
            assert watch.said[-1][1] == status.NO
    watch.tick(200).live(240, HOUR)
    found = [(gap.opened_at, gap.closed_at) for gap in watch.gaps()]
    assert found == [(at(second), at(second + 1)) for second in range(10, 190, 2)]
    spans = watch.shard.ledgers["org_1"].coverage(at(HOUR))
    for second in range(10, 190, 2):
        assert {each.state for each in spans if each.begin < at(second + 1) and at(second) < each.end} == {coverage.OFF}
    assert watch.alerts("flapping")
    assert watch.alerts("logging_disabled")


def test_the_watchers_key_is_used() -> None:
    """Whoever holds the key that watches is not authorised, even where the policy lists the key."""
    rules = {"watcher_keys": ("apikey_WATCH",), "authorised": Actors(keys=("apikey_WATCH",))}
    watch = Watch().govern(policy(None, -HOUR, **rules)).live(-600, 0)
    watch.take(setting("off", 10, api=False, actor=WATCHER)).tick(20).tick(30 * MINUTE)
    assert [gap.authorised_at_open for gap in watch.gaps()] == ["NOT_LISTED"]
    watch.take(setting("on", HOUR, api=True)).live(HOUR + 60, 2 * HOUR)
    watch.assert_seen(10, HOUR, "logging_disabled", "disabled_by_watcher_key", until=2 * HOUR)
    watch.assert_golden("the_watchers_key_is_used")


def test_the_key_revoked_before_the_disable() -> None:
    """Who takes the watcher's key away is suspected from then on, and what was done meanwhile is told afterwards."""
    watch = Watch().live(-600, 0).take(saw("answer", "feed_answer", "ok", -10))
    for number in range(30):
        watch.take(saw(f"denied_{number}", "feed_answer", "unauthorized", MINUTE * number))
        watch.tick(MINUTE * number + 5)
    assert [gap.confidence for gap in watch.gaps()] == ["SUSPECTED"]
    assert watch.alerts("feed_suspected_off")
    # Another key: all that is on record is read after all.
    watch.take(setting("off", 10 * MINUTE, api=False), setting("on", HOUR, api=True), append=HOUR + 120)
    watch.take(saw("again", "feed_answer", "ok", HOUR + 60))
    watch.live(HOUR + 60, 2 * HOUR).take(caught_up("done", 2 * HOUR, 2 * HOUR))
    watch.assert_seen(10 * MINUTE, HOUR, "feed_suspected_off", "logging_disabled", until=2 * HOUR)
    watch.assert_golden("the_key_revoked_before_the_disable")


def test_a_disable_during_a_collector_outage() -> None:
    """Silence is told, nothing is taken for audited, and what the record says afterwards is exact."""
    watch = Watch().live(-600, 0).take(saw("ok", "feed_answer", "ok", 0), saw("stop", "collector", "stopped", 5))
    for minute in range(16, 121, 15):
        watch.tick(minute * MINUTE)
    assert watch.alerts("feed_stalled")
    assert not watch.gaps(), "an outage alone is no gap"
    assert {audited for seconds, audited in watch.said if seconds > 15 * MINUTE} == {status.UNKNOWN}
    watch.take(saw("start", "collector", "started", 2 * HOUR + 60))
    watch.take(setting("off", 10, api=False), setting("on", HOUR, api=True), append=2 * HOUR + 70)
    watch.live(2 * HOUR + 120, 3 * HOUR)
    assert [(gap.opened_at, gap.closed_at) for gap in watch.gaps()] == [(at(10), at(HOUR))]
    watch.said = [(seconds, audited) for seconds, audited in watch.said if seconds > 15 * MINUTE]
    watch.assert_seen(10, HOUR, "feed_stalled", "logging_disabled", until=3 * HOUR)
    watch.assert_golden("a_disable_during_a_collector_outage")


def test_a_change_window_registered_afterwards() -> None:
    """What was not planned before it began excuses nothing, whatever it says of itself."""
    planned = ChangeWindow(
        id="CHG-1",
        reason="maintenance",
        registered_at=at(-24 * HOUR),
        start=at(0),
        end=at(2 * HOUR),
        actors=Actors(users=("user_owner",)),
    )
    listed = {"owners": Actors(users=("user_owner",))}
    first = policy(None, -HOUR, **listed)
    watch = Watch().govern(first).live(-600, 0).take(setting("off", 10, api=False)).tick(20)
    watch.govern(policy(first, 60, **listed, change_windows=(planned,))).tick(30 * MINUTE)
    (gap,) = watch.gaps()
    assert (gap.change_window_id, gap.state) == (None, "OPEN")
    assert all(each.severity >= Severity.HIGH for each in watch.alerts("logging_disabled"))
    watch.take(setting("on", HOUR, api=True)).live(HOUR + 60, 2 * HOUR)
    watch.assert_seen(10, HOUR, "logging_disabled", "policy_changed", until=2 * HOUR)
    watch.assert_golden("a_change_window_registered_afterwards")


def test_a_policy_version_that_leaves_no_room() -> None:
    """A version that does not follow the one before is refused: it cannot shut out the true ones."""
    first = policy(None, -HOUR, owners=Actors(users=("user_other",)))
    watch = Watch().govern(first).live(-600, 0)
    forged = replace(first, version=2**63 - 1, rules=Rules(owners=Actors(users=("user_owner",))), append_time=at(1))
    refused = watch.shard.policy(forged, at(1))
    assert refused.rejection is not None
    assert refused.rejection.reason == "policy_refused"
    watch.out += watch.shard.refused(refused.rejection, "org_1", "compliance.policy/0/1", at(1), at(1))
    watch.take(setting("off", 10, api=False)).tick(20).tick(30 * MINUTE)
    assert [gap.authorised_at_open for gap in watch.gaps()] == ["NOT_LISTED"]
    watch.govern(policy(first, 40 * MINUTE, owners=Actors(users=("user_other", "user_third"))))
    watch.take(setting("on", HOUR, api=True)).live(HOUR + 60, 2 * HOUR)
    watch.assert_seen(10, HOUR, "logging_disabled", until=2 * HOUR)
    watch.assert_golden("a_policy_version_that_leaves_no_room")


@pytest.mark.parametrize(
    "off",
    [
        lambda: replace(POLL, organization_id=None, feed_id=None, parent_id="p", observed_at=at(10), sent_at=at(10)),
        lambda: setting("off", 10, api=False, organization_id=None, organization_uuid=None),
    ],
    ids=["a parent", "a feed"],
)
def test_a_parent_switched_off(off: Callable[[], Activity | Observation]) -> None:
    """Every member is off with it, though none of them has an event of its own."""
    event = off()
    members = Says(members=(Link(subject="org_1"),))
    watch = Watch().govern(topology.successor(None, event.subject, members, "jane@example.com", at(-HOUR)))
    watch.live(-600, 0).take(event).tick(80).tick(30 * MINUTE)
    (gap,) = watch.gaps()
    assert gap.inherited_from is not None
    on = (
        replace(event, id="on", observed_at=at(HOUR), sent_at=at(HOUR), result="enabled")
        if isinstance(event, Observation)
        else setting("on", HOUR, api=True, organization_id=None, organization_uuid=None)
    )
    watch.take(on).live(HOUR + 120, 2 * HOUR)
    watch.assert_seen(70, HOUR - 60, "logging_disabled", until=2 * HOUR)
    watch.assert_golden(f"inherited-{event.subject[:4]}")
