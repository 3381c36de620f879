"""Who was a member when, which version follows which, and what members get of a parent's or feed's gaps."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.unit.core.making import Run, act, alerts, at, gaps, keep_changes, setting

from auditgap.core import coverage
from auditgap.core.inputs import Rejection, is_settings
from auditgap.core.intake import Mail
from auditgap.core.observations import read_observation
from auditgap.core.records import Alert, Emission, Gap
from auditgap.core.shard import Shard
from auditgap.core.times import text_of
from auditgap.core.topology import (
    Alias,
    Link,
    Says,
    Stretch,
    Topology,
    as_shape,
    difference,
    extended,
    from_shape,
    members_of,
    overlap,
    successor,
)


def said(subject: str = "parent/p", appended: float = 0, **fields: Any) -> Topology:
    """Say something about a subject; the version is made by `chain`."""
    return Topology(
        subject=subject,
        version=1,
        previous_digest=None,
        author="jane@example.com",
        produced_at=at(appended),
        append_time=at(appended),
        **fields,
    )


def link(name: str, since: float | None = None, until: float | None = None) -> Link:
    """Link to somebody; times in seconds."""
    return Link(
        subject=name,
        valid_from=None if since is None else at(since),
        valid_until=None if until is None else at(until),
    )


def following(latest: Topology | None, each: Topology) -> Topology:
    """Make the version that follows the latest one and says what another does."""
    return successor(latest, each.subject, each.says, each.author, each.append_time)


def chain(*versions: Topology) -> tuple[Topology, ...]:
    """Make a chain of what was said."""
    made: tuple[Topology, ...] = ()
    for each in versions:
        longer = extended(made, following(made[-1] if made else None, each))
        assert isinstance(longer, tuple), longer
        made = longer
    return made


def of_members(*versions: tuple[float, list[Link]]) -> dict[str, list[tuple[float | None, float | None]]]:
    """Say who was a member when, in seconds, after versions appended at some second."""
    made = chain(*(said(appended=appended, members=tuple(links)) for appended, links in versions))

    def seconds(moment: int | None) -> float | None:
        return None if moment is None else (moment - at(0)) / 1_000_000

    return {name: [(seconds(a), seconds(b)) for a, b in found] for name, found in members_of(made).items()}


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param([(10, [link("a")])], [(None, None)], id="in the first version: always"),
        pytest.param([(10, [link("a", 3, 5)])], [(3, 5)], id="in the first version: as it says"),
        pytest.param([(10, [link("a", 3, 5), link("a", 7)])], [(3, 5), (7, None)], id="twice"),
        pytest.param([(10, [link("a", 3, 5), link("a", 4, 7)])], [(3, 7)], id="twice, touching"),
        pytest.param([(10, []), (20, [link("a")])], [(20, None)], id="new, without a time: from its append time"),
        pytest.param([(10, []), (20, [link("a", 5)])], [(5, None)], id="new, from an earlier time: believed"),
        pytest.param([(10, [link("a")]), (20, [])], [(None, 20)], id="no longer: until the append time"),
        pytest.param([(10, [link("a")]), (20, [link("a", None, 15)])], [(None, 20)], id="taken back: not believed"),
        pytest.param([(10, [link("a", 2)]), (20, [link("a", 8)])], [(2, None)], id="from later: not believed"),
        pytest.param([(10, [link("a", 2)]), (20, [link("a", 1)])], [(1, None)], id="from sooner: believed"),
        pytest.param([(10, [link("a", 2)]), (20, []), (30, [link("a")])], [(2, 20), (30, None)], id="back again"),
        pytest.param([(10, [link("a")]), (20, [link("b")])], [(None, 20)], id="another came"),
        pytest.param([(10, []), (20, [link("a", None, 15)])], None, id="was one at some time: since when nobody says"),
    ],
)
def test_who_was_a_member_when(
    versions: list[tuple[float, list[Link]]], expected: list[tuple[float | None, float | None]] | None
) -> None:
    """What makes a membership longer is believed, what takes one back counts from the append time."""
    assert of_members(*versions).get("a") == expected


def test_a_time_ahead_is_refused() -> None:
    """A topology says what is: a time more than the allowed skew after the append time is refused."""
    for late in (link("a", 301), link("a", 1, 301)):
        found = extended((), said(members=(late,)))
        assert isinstance(found, Rejection)
        assert "lies ahead" in found.detail
    assert isinstance(extended((), said(belongs_to=(link("feed/f", 301),))), Rejection)
    assert isinstance(extended((), said(members=(link("a", 300),))), tuple)


def test_versions_follow_each_other() -> None:
    """A repeat changes nothing; another number or digest is refused; the next one is taken."""
    one, two = chain(said(members=(link("a"),)), said(appended=1))
    assert extended((one,), one) == (one,)
    assert extended((one, two), one) == (one, two)
    for wrong in (replace(two, version=3), replace(two, previous_digest="0" * 64), replace(one, author="eve")):
        found = extended((one,), wrong)
        assert isinstance(found, Rejection)
        assert found.reason == "topology_refused"


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0},
        {"author": ""},
        {"subject": ""},
        {"members": [{"subject": "", "valid_from": None, "valid_until": None}]},
        {"members": [{"subject": "a", "valid_from": 2, "valid_until": 2}]},
        {"aliases": [{"organization_uuid": "", "organization_id": "a"}]},
        {"members": None},
    ],
)
def test_what_is_no_topology(wrong: dict[str, Any]) -> None:
    """A shape that says something impossible is refused, not half understood."""
    shape = as_shape(said())
    assert from_shape(shape, at(0)) == said()
    found = from_shape({**shape, **wrong}, at(0))
    assert isinstance(found, Rejection)
    assert found.reason == "topology_refused"


def test_a_new_field_changes_no_digest() -> None:
    """The digest leaves out what is not said, also within links."""
    one = said(members=(link("a"),))
    assert one.digest != said(members=(link("a", 0),)).digest
    shape = json.loads(json.dumps(as_shape(one)))
    again = from_shape(shape, at(5))
    assert isinstance(again, Topology)
    assert again.digest == one.digest


def test_there_and_back() -> None:
    """All that a version says is written and read again."""
    alias = Alias(organization_uuid="u-1", organization_id="a")
    first = said(members=(link("a"),))
    whole = successor(
        first,
        "feed/f",
        Says(aliases=(alias,), members=(link("a", 1, 2),), belongs_to=(link("parent/p", 3),)),
        "j",
        at(4),
    )
    assert (whole.version, whole.previous_digest, whole.produced_at) == (2, first.digest, at(4))
    assert from_shape(json.loads(json.dumps(as_shape(whole))), at(4)) == whole
    assert difference(None, whole) == (
        f"member added: a from {text_of(at(1))} until {text_of(at(2))}",
        f"belongs to added: parent/p from {text_of(at(3))}",
        "uuid added: u-1 is a",
    )
    assert whole.digest != replace(whole, belongs_to=()).digest


def test_differences_in_words() -> None:
    """Each thing that changed is a clause."""
    alias = Alias(organization_uuid="u-1", organization_id="a")
    one, two = said(members=(link("a"), link("b"))), said(members=(link("b"), link("c", 0)), aliases=(alias,))
    assert difference(one, two) == (
        f"member added: c from {text_of(at(0))}",
        "member removed: a",
        "uuid added: u-1 is a",
    )
    assert difference(one, one) == ("it says what it said",)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((None, None), (None, None), True),
        ((1, 2), (2, 3), False),
        ((1, 3), (2, 3), True),
        ((None, 2), (2, None), False),
        ((3, None), (None, 3), False),
        ((3, None), (None, 4), True),
    ],
)
def test_overlap(one: Stretch, other: Stretch, *, expected: bool) -> None:
    """Two stretches overlap if a moment is in both; ends are not."""
    assert overlap(one, other) is overlap(other, one) is expected


# --- what is inherited ------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """Two shards, one for the parents and feeds, one for the organizations; mail goes through JSON."""

    above: Shard = field(default_factory=lambda: Shard(lambda subject: "/" in subject))
    below: Shard = field(default_factory=lambda: Shard(lambda subject: "/" not in subject))
    out: list[Emission] = field(default_factory=list)
    mail: list[Mail] = field(default_factory=list)
    made: dict[str, tuple[Topology, ...]] = field(default_factory=dict)
    held: list[Mail] | None = None

    def of(self, subject: str) -> Shard:
        """The shard where a subject is at home."""
        return self.above if "/" in subject else self.below

    def take(self, outcome: Any) -> None:
        """Publish what came of an input, and deliver the mail."""
        assert outcome.rejection is None, outcome.rejection
        self.out += outcome.emissions
        self.deliver(outcome.mail)

    def deliver(self, mail: Iterable[Mail]) -> None:
        """Post messages as JSON has them, or hold them back; those of triage have tests of their own."""
        mail = [each for each in mail if each.kind in {"inherited", "activity", "observation"}]
        if self.held is not None:
            self.held += mail
            return
        for each in mail:
            self.mail.append(each)
            again = Mail(each.key, each.kind, json.loads(json.dumps(each.body)))
            self.take(self.of(each.body["subject"]).post(again, at(0), at(1)))

    def members(self, subject: str, *links: Link, appended: float = 0, aliases: tuple[Alias, ...] = ()) -> None:
        """Say who the members of a subject are."""
        known = self.made.get(subject, ())
        new = following(known[-1] if known else None, said(subject, appended, members=links, aliases=aliases))
        self.made[subject] = (*known, new)
        self.take(self.of(subject).topology(new, at(appended)))

    def act(self, *activities: Any) -> None:
        """Take activities in where they belong, each a second after it happened."""
        for each in activities:
            self.take(self.of(each.subject).activity(each, each.created_at + 1_000_000, at(5)))
            for shard in (self.above, self.below):
                self.out += shard.settle(at(6))
                self.deliver(shard.letters())

    def see(self, kind: str, result: str, seconds: float, **fields: Any) -> None:
        """Take in what a collector saw."""
        seen = read_observation({"kind": kind, "result": result, "observed_at": text_of(at(seconds)), **fields})
        assert not isinstance(seen, Rejection), seen
        self.take(self.of(seen.subject).observation(seen, at(seconds), at(seconds)))

    def restart(self) -> None:
        """Write the state of both, forget everything, read it."""
        for name in ("above", "below"):
            shard: Shard = getattr(self, name)
            kept = self._kept.setdefault(name, {})
            keep_changes(kept, shard)
            setattr(self, name, Shard.restore(kept, shard.is_home))

    _kept: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def latest(self) -> dict[str, Gap]:
        """The latest revision of each gap."""
        return {gap.gap_id: gap for gap in gaps(self.out)}

    def gap(self, organization: str) -> Gap:
        """The only gap of an organization that stands."""
        (gap,) = self.gaps(organization)
        return gap

    def gaps(self, organization: str) -> list[Gap]:
        """The gaps of an organization that stand, in order."""
        found = [each for each in self.latest.values() if each.organization_id == organization]
        standing = [each for each in found if each.state not in {"SUPERSEDED", "RETRACTED"}]
        return sorted(standing, key=lambda each: each.opened_at or 0)

    @property
    def above_gap(self) -> Gap:
        """The only gap of a parent or feed that stands."""
        (gap,) = [
            each
            for each in self.latest.values()
            if each.organization_id is None and each.state not in {"SUPERSEDED", "RETRACTED"}
        ]
        return gap

    @property
    def pages(self) -> dict[str, Alert]:
        """The latest revision of each alert of an "off"."""
        return {each.alert_id: each for each in alerts(self.out, "logging_disabled")}


MEMBERS = (link("org_1"), link("org_2"), link("org_3"))


def spans(site: Site, organization: str, until: float) -> list[tuple[float, float, str]]:
    """Say what is known of an organization, in seconds."""
    found = site.below.ledgers[organization].coverage(at(until))
    return [((each.begin - at(0)) / 1e6, (each.end - at(0)) / 1e6, each.state) for each in found]


def feed_event(identifier: str, seconds: float, **flags: Any) -> Any:
    """A settings event that names no organization: it is about the feed."""
    return setting(identifier, seconds, organization_id=None, organization_uuid=None, **flags)


def proofs(*organizations: str) -> list[Any]:
    """Activities of each organization at the seconds -100, 20 and 400."""
    return [
        act(f"{name}/{number}", seconds, organization_id=name)
        for name in organizations
        for number, seconds in enumerate((-100, 20, 400))
    ]


def test_a_parent_switched_off() -> None:
    """One page that lists the members, a gap with its own bracket for each, and none of them counts as audited."""
    site = Site()
    site.members("parent/p", *MEMBERS)
    site.act(*proofs("org_1", "org_2"))
    site.see("settings_poll", "enabled", 0, parent_id="p")
    site.see("settings_poll", "disabled", 100, parent_id="p")
    (page,) = site.pages.values()
    assert page.parent_id == "p"
    assert page.organization_id is None
    assert page.subject == "parent/p"
    assert page.summary.startswith("parent p: the Compliance API found off (settings_poll)")
    assert page.summary.endswith("; so for 3 organizations: org_1, org_2, org_3")
    parent = site.above_gap
    assert (parent.subject, parent.parent_id) == ("parent/p", "p")
    for number in (1, 2, 3):
        gap = site.gap(f"org_{number}")
        assert (gap.inherited_from, gap.incident_id) == (parent.gap_id, parent.incident_id)
        for name in ("state", "confidence", "cause", "opened_at", "opened_at_latest", "opened_by_kind", "opened_by_id"):
            assert getattr(gap, name) == getattr(parent, name), name
        own = (f"org_{number}/1", 1) if number < 3 else (None, 0)
        assert (gap.last_activity_id, gap.activity_inside_count) == own
    for number in (1, 2):
        assert {state for begin, _, state in spans(site, f"org_{number}", 500) if begin >= 100} == {coverage.OFF}
    # It is seen off once more, and then on again: all close with it.
    site.see("settings_poll", "disabled", 200, parent_id="p")
    site.see("settings_poll", "enabled", 300, parent_id="p")
    closed = site.above_gap
    for number in (1, 2, 3):
        gap = site.gap(f"org_{number}")
        assert gap.state == "CLOSED"
        assert (gap.closed_at, gap.closed_by_id) == (closed.closed_at, closed.closed_by_id)
    assert site.gap("org_1").first_activity_id == "org_1/2"
    assert list(site.pages) == [page.alert_id]
    assert {each.subject for each in alerts(site.out)} == {"parent/p"}
    for number in (1, 2):
        assert [each for each in spans(site, f"org_{number}", 400) if each[1] > -100] == [
            (-100.0, -60.0, coverage.PROVEN),
            (-60.0, 100.0, coverage.UNKNOWN),
            (100.0, 140.0, coverage.OFF),
            (140.0, 300.0, coverage.UNKNOWN),
            (300.0, 400.0, coverage.PROVEN),
        ]


def test_a_settings_event_of_the_feed_reaches_all_it_sees() -> None:
    """A settings event without an organization is one incident of its feed, and each organization's gap."""
    site = Site()
    site.members("feed/feed_1", *MEMBERS)
    site.act(*proofs("org_1"), feed_event("off", 50, logging=False), feed_event("on", 90, logging=True))
    assert [each.subject for each in site.pages.values()] == ["feed/feed_1"]
    assert "org_1, org_2, org_3" in next(iter(site.pages.values())).summary
    gap = site.gap("org_1")
    assert (gap.opened_at, gap.closed_at, gap.duration_seconds) == (at(50), at(90), 40.0)
    assert (gap.opened_actor_email, gap.closed_actor_email) == ("owner@example.com", "owner@example.com")
    assert (gap.last_activity_id, gap.first_activity_id, gap.bracket_exact) == ("org_1/1", "org_1/2", True)
    assert (50.0, 90.0, coverage.OFF) in spans(site, "org_1", 500)
    assert site.gap("org_3").first_activity_id is None


def test_activities_that_come_later_improve_an_inherited_gap() -> None:
    """What is recorded after the news, or read late, becomes its bracket, and is counted inside."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(act("first", 10), feed_event("off", 50, logging=False))
    site.act(act("late", 40), act("inside", 60), feed_event("on", 90, logging=True), act("after", 100))
    site.act(act("sooner", 95))
    gap = site.gap("org_1")
    found = (gap.last_activity_id, gap.activity_inside_first_id, gap.activity_inside_count, gap.first_activity_id)
    assert found == ("late", "inside", 1, "sooner")
    # Nothing can change any more: the worker's fast path is open.
    assert site.below.ledgers["org_1"].watermark < b"2026-11-01T12:02"


def test_a_member_that_comes_later_and_one_that_leaves() -> None:
    """One that is added inherits from then on; for one that is removed the gap ends, and the page says who is left."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(feed_event("off", 50, logging=False))
    site.members("feed/feed_1", link("org_1"), link("org_2", 70), appended=80)
    site.members("feed/feed_1", link("org_1"), link("org_2", 70), link("org_3"), appended=100)
    assert [site.gap(f"org_{number}").opened_at for number in (1, 2, 3)] == [at(50), at(70), at(100)]
    (page,) = site.pages.values()
    assert page.summary.endswith("for 3 organizations: org_1, org_2, org_3")
    site.members("feed/feed_1", link("org_2", 70), link("org_3"), appended=200)
    gap = site.gap("org_1")
    assert (gap.state, gap.closed_at, gap.closed_by_kind, gap.closed_by_id) == (
        "CLOSED",
        at(200),
        "topology",
        "feed/feed_1",
    )
    assert (50.0, 200.0, coverage.OFF) in spans(site, "org_1", 300)
    # It is back: a second gap, and the first stays.
    site.members("feed/feed_1", *MEMBERS, appended=400)
    assert [(each.opened_at, each.closed_at) for each in site.gaps("org_1")] == [(at(50), at(200)), (at(400), None)]
    site.act(feed_event("on", 500, logging=True))
    assert [each.state for each in site.gaps("org_1")] == ["CLOSED", "CLOSED"]
    assert list(site.pages) == [page.alert_id]


def test_one_who_was_no_member_then_inherits_nothing() -> None:
    """A window that was over before somebody was a member, or began after, is none of theirs."""
    site = Site()
    site.act(feed_event("off", 50, logging=False), feed_event("on", 90, logging=True))
    site.members("feed/feed_1", link("org_1", 90), link("org_2", -10, 50), link("org_3", 89), appended=100)
    assert (site.gaps("org_1"), site.gaps("org_2")) == ([], [])
    gap = site.gap("org_3")
    assert (gap.opened_at, gap.closed_at, gap.duration_seconds) == (at(89), at(90), 1.0)


def test_a_member_has_its_own_gap_beside() -> None:
    """Its own switch is its own gap, incident and page; neither closes the other."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(feed_event("off", 50, logging=False), setting("own", 60, logging=False), setting("on", 70, logging=True))
    inherited, own = site.gaps("org_1")
    assert (inherited.state, own.state, own.inherited_from) == ("OPEN", "CLOSED", None)
    assert inherited.incident_id != own.incident_id
    assert sorted(each.subject for each in site.pages.values()) == ["feed/feed_1", "org_1"]


def test_an_organization_that_is_a_parent() -> None:
    """Its own switch is its gap and page, which lists its members; they inherit, and what it inherits ends with it."""
    site = Site()
    site.members("org_1", link("org_2"))
    site.members("feed/feed_1", link("org_1"))
    site.act(setting("off", 50, logging=False), feed_event("feed off", 60, logging=False))
    own, inherited = site.gaps("org_1")
    gap = site.gap("org_2")
    assert (own.inherited_from, gap.inherited_from, gap.incident_id) == (None, own.gap_id, own.incident_id)
    assert inherited.inherited_from is not None
    pages = {each.subject: each.summary.rpartition("; ")[2] for each in site.pages.values()}
    assert pages == {"org_1": "so for 1 organization: org_2", "feed/feed_1": "so for 1 organization: org_1"}


def test_time_goes_on_for_members() -> None:
    """A member of what is off is not audited; that it still is, is told once, where it comes from."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(act("seen", 10), feed_event("off", 50, logging=False))
    for shard in (site.above, site.below):
        for seconds in (100, 100 + 1000):
            site.take(shard.tick(at(seconds), at(seconds)))
    (still,) = {each.alert_id: each for each in alerts(site.out, "gap_still_open")}.values()
    assert still.subject == "feed/feed_1"
    assert still.summary.endswith("; so for 1 organization: org_1")
    status = site.below.ledgers["org_1"].status
    assert status is not None
    assert (status.audited, status.open_gap_id) == ("NO", site.gap("org_1").gap_id)


def test_superseded_and_back() -> None:
    """Where a better opening takes the place of the parent's gap, the member's follows, whichever is heard first."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(feed_event("later", 50, logging=False))
    before = site.gap("org_1")
    held: list[Mail] = []
    site.held = held
    site.act(feed_event("sooner", 40, logging=False))
    assert {each.body["gap"]["state"] for each in held} == {"SUPERSEDED", "OPEN"}
    for order in (held, held[::-1]):
        copy = Site(site.above, Shard.restore(dict(_state(site.below))), list(site.out))
        copy.deliver(order)
        gap = copy.gap("org_1")
        old = copy.latest[before.gap_id]
        assert (gap.opened_at, gap.incident_id) == (at(40), before.incident_id)
        assert (old.state, old.superseded_by) == ("SUPERSEDED", gap.gap_id)


def _state(shard: Shard) -> list[tuple[str, bytes]]:
    """Write all the state of a shard, without taking it from what changed."""
    for ledger in shard.ledgers.values():
        shard.touched.add(ledger)
        ledger.touched |= {("g", name) for name in ledger.gaps} | {("i", name) for name in ledger.inherited}
        ledger.touched.add(("h", ""))
    return [(key, value) for key, value in shard.changes() if value is not None]


def test_messages_overtaken_and_repeated() -> None:
    """The highest revision counts: one that was overtaken, or comes again, changes nothing."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(feed_event("off", 50, logging=False), feed_event("on", 90, logging=True))
    opened, closed = site.mail
    other = Shard()
    assert other.post(closed, at(0), at(0)).emissions
    assert other.post(opened, at(0), at(0)).repeat
    assert other.post(closed, at(0), at(0)).repeat
    (gap,) = other.ledgers["org_1"].gaps.values()
    assert (gap.state, gap.gap_id) == ("CLOSED", site.gap("org_1").gap_id)


def test_only_changes_of_state_are_told() -> None:
    """What is recorded about a feed improves its bracket, and is nothing that members have to hear of."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(feed_event("off", 50, logging=False))
    count = len(site.mail)
    site.act(act("inside", 60, organization_id=None, organization_uuid=None))
    assert site.above_gap.activity_inside_count == 1
    assert len(site.mail) == count


def test_restarts_change_nothing() -> None:
    """What was inherited, and from whom, is in the state."""
    site = Site()
    site.members("feed/feed_1", link("org_1"), link("org_2"))
    site.act(*proofs("org_1"), feed_event("off", 50, logging=False))
    site.restart()
    site.act(act("more", 60), feed_event("on", 90, logging=True))
    site.restart()
    site.members("feed/feed_1", link("org_2"), appended=95)
    gap = site.gap("org_1")
    assert (gap.state, gap.activity_inside_count, gap.closed_at, gap.revision) == ("CLOSED", 1, at(90), 3)
    assert (50.0, 90.0, coverage.OFF) in spans(site, "org_1", 500)
    assert len(site.pages) == 1


def test_suspected_is_unknown() -> None:
    """A gap that is only suspected makes the time unknown, not off."""
    site = Site()
    site.members("feed/feed_1", link("org_1"))
    site.act(act("a", 10), act("b", 200), feed_event("off", 50, logging=False), feed_event("on", 90, logging=True))
    (body,) = (each.body for each in site.mail[-1:])
    body = {**body, "revision": [9, 9], "gap": {**body["gap"], "confidence": "SUSPECTED"}}
    site.deliver([Mail("org_1", "inherited", body)])
    assert spans(site, "org_1", 200)[1:3] == [(50.0, 90.0, coverage.UNKNOWN), (90.0, 200.0, coverage.PROVEN)]


def test_mail_that_is_not_known() -> None:
    """Mail of another kind, or of another shape, stops the worker: a newer version wrote it."""
    for mail in (Mail("org_1", "mood", {}), Mail("org_1", "inherited", {}), Mail("org_1", "activity", {"record": {}})):
        with pytest.raises(ValueError, match="mail of kind"):
            Shard().post(mail, at(0), at(0))


# --- uuids ------------------------------------------------------------------------------------------------------------

UUID = "8f7e6a5b-1234-4cde-9abc-0123456789ab"
ALIAS = Alias(organization_uuid=UUID, organization_id="org_1")


def test_a_record_that_names_only_the_uuid() -> None:
    """It belongs to the organization that the uuid stands for, a settings event too, and is counted from its time."""
    site = Site()
    site.members("feed/feed_1", link("org_1"), aliases=(ALIAS,))
    site.act(act("seen", 10, organization_id=None), setting("off", 50, organization_id=None, api=False))
    gap = site.gap("org_1")
    assert (gap.opened_by_id, gap.last_activity_id, gap.inherited_from) == ("off", "seen", None)
    assert gap.first_evidence_at == at(51)
    assert [each.subject for each in site.pages.values()] == ["org_1"]
    assert [each.kind for each in site.mail] == ["activity", "activity"]
    assert "org_1" not in site.above.ledgers
    site.see("settings_poll", "enabled", 200, organization_uuid=UUID, feed_id="feed_1")
    assert site.gap("org_1").state == "CLOSED"


def test_where_everybody_is_at_home_no_mail_is_needed() -> None:
    """With one shard for all, a record by uuid is taken in at once."""
    shard = Shard()
    shard.topology(said("feed/feed_1", members=(link("org_1"),), aliases=(ALIAS,)), at(0))
    event = setting("off", 50, organization_id=None, logging=False)
    assert is_settings(event)
    outcome = shard.activity(event, at(51), at(52))
    assert {each.subject for each in outcome.emissions} == {"org_1"}
    assert "activity" not in {each.kind for each in outcome.mail}


def test_a_uuid_that_is_not_known_or_not_certain() -> None:
    """It stays with its feed."""
    for aliases in ((), (ALIAS, Alias(organization_uuid=UUID, organization_id="org_2"))):
        shard = Shard()
        shard.topology(said("feed/feed_1", aliases=aliases), at(0))
        outcome = shard.activity(setting("off", 50, organization_id=None, logging=False), at(51), at(52))
        assert {each.subject for each in outcome.emissions} == {"feed/feed_1"}


def test_runs_of_one_organization_are_as_before() -> None:
    """Without a topology nothing is told to anybody."""
    run = Run()
    run.take(setting("off", 1, logging=False))
    assert all(outcome.mail == () for outcome in run.outcomes)
