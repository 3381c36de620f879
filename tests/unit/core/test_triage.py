import json
from typing import Any

import pytest
from tests.support.desk import Desk
from tests.unit.core.making import SECOND, T0, act, at, setting

from auditgap.core.indicators import CATEGORIES, INDICATORS
from auditgap.core.inputs import NOBODY, Activity, Actor
from auditgap.core.triage import (
    ACTORS,
    FOUND,
    KEPT,
    KEPT_FOR,
    KEYS,
    LINKS,
    LISTED,
    NONE_IN_RECORD,
    NOT_CHECKED,
    QUERIES,
    REVIEW_TYPES,
    TRAIL_TYPES,
    Answer,
    Entry,
    Finding,
    Inquiry,
    Part,
    Query,
    Review,
    Shelf,
    Trail,
    identities_of,
    key_of,
    parts_of,
    review_entry,
)

HOUR = 3600
DAY = 24 * HOUR
LONG_AGO = at(-365 * DAY)
OWNER = Actor("user_actor", "user_owner", "Owner@example.com", "203.0.113.7")
STRANGER = {"type": "unauthenticated_user_actor", "unauthenticated_email_address": "owner@EXAMPLE.com"}
OTHER = {"type": "user_actor", "user_id": "user_other", "email_address": "other@example.com"}
KEY = {"type": "admin_api_key_actor", "admin_api_key_id": "admin_api_key_7"}


def failed(identifier: str = "failed", seconds: float = -60, **fields: Any) -> Activity:
    """A sign-in that was refused: no organization, no user id, only the e-mail that was typed."""
    return act(
        identifier, seconds, **{"kind": "sso_login_failed", "organization_id": None, "actor": STRANGER, **fields}
    )


def asked(*activities: Activity, actor: Actor = OWNER, known_from: int | None = LONG_AGO) -> Finding:
    """What is found about who switched the feed off at T0, once these activities are known."""
    return Desk(known_from).take(*activities).open(inquiry(actor)).finding()


def inquiry(actor: Actor = OWNER) -> Inquiry:
    """An inquiry into who switched the feed off at T0."""
    return Inquiry("inq", "org_1", "feed_1", actor, T0)


def ids(finding: Finding) -> list[str]:
    """The records of a finding."""
    return [each.id for each in finding.evidence]


def keys(*identities: str) -> set[str]:
    """The keys of identities on feed_1."""
    return {key_of("feed_1", identity) for identity in identities}


# --- identities and keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "identities"),
    [
        (OWNER, ("user:user_owner", "email:owner@example.com", "address:203.0.113.7")),
        (Actor("api_actor", "apikey_7"), ("key:7",)),
        (Actor("admin_api_key_actor", "admin_api_key_7"), ("key:7",)),
        (Actor("service_account_actor", "svac_1"), ("service:svac_1",)),
        (Actor("federated_actor", "repo:x"), ("federated:repo:x",)),
        (Actor("robot_actor", "apikey_7"), ("key:7",)),
        (Actor("robot_actor", "r2"), ("user:r2",)),
        (Actor("user_actor", None, "x" * 321), ()),
        (NOBODY, ()),
    ],
)
def test_identities(actor: Actor, identities: tuple[str, ...]) -> None:
    """One key under its two prefixes is one identity, e-mails are without case, and what is too long is none."""
    assert identities_of(actor) == identities


def test_parts() -> None:
    """An activity goes to all it is about: who did it, to whom, what it made; by address only what counts there."""
    assert set(parts_of(failed(actor={**STRANGER, "ip_address": "198.51.100.9"}))) == keys(
        "email:owner@example.com", "address:198.51.100.9"
    )
    assert set(parts_of(act("k", 0, kind="admin_api_key_created", admin_api_key_id="admin_api_key_7"))) == keys(
        "user:user_owner", "email:owner@example.com", "key:7"
    )
    role = act("r", 0, kind="claude_user_role_updated", user_id="user_other", user_email="other@example.com")
    assert set(parts_of(role)) == keys(
        "user:user_owner", "email:owner@example.com", "user:user_other", "email:other@example.com"
    )
    group = act("g", 0, kind="group_member_added", member_ids=["user_a", 7, None, "user_b"], actor=KEY)
    assert set(parts_of(group)) == keys("key:7", "user:user_a", "user:user_b")


def test_most_have_no_key() -> None:
    """Ordinary activities, the switch itself, and what counts in a review only are sent nowhere."""
    silent = [act("a", 0), setting("off", 0, api=False), act("s", 0, kind="claude_project_sharing_updated")]
    assert [parts_of(each) for each in silent] == [{}, {}, {}]
    assert silent[2].type in REVIEW_TYPES - TRAIL_TYPES


def test_feeds_are_apart() -> None:
    """One id on two feeds is two identities, also where a name has the other's separators in it."""
    assert key_of("feed_1", "user:x") != key_of("feed_2", "user:x")
    assert key_of('a","user:b', "c") != key_of("a", 'user:b","c')
    assert key_of(None, "user:x") == key_of("default", "user:x")


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_found() -> None:
    """A refused sign-in under the actor's e-mail is found, with its id, type, time and why it matters."""
    finding = asked(failed())
    assert finding.verdict == FOUND
    (evidence,) = finding.evidence
    assert (evidence.id, evidence.type, evidence.at) == ("failed", "sso_login_failed", at(-60))
    assert (evidence.category, evidence.why) == ("sign_in", INDICATORS["sso_login_failed"].why)
    assert evidence.by == "email:owner@example.com"
    assert finding.summary == "found about the actor: sign-in failures or oddities: 1"


def test_none_in_record() -> None:
    """Nothing found, in a record that covers the longest look-back, is none in the record."""
    finding = asked(known_from=at(-30 * DAY))
    assert (finding.verdict, finding.evidence, finding.unchecked) == (NONE_IN_RECORD, (), ())
    assert finding.asked == (
        ("address:203.0.113.7", "the address it came from"),
        ("email:owner@example.com", "the actor"),
        ("user:user_owner", "the actor"),
    )
    assert finding.summary == "nothing in the record speaks against the actor"


@pytest.mark.parametrize(
    ("actor", "known_from", "why"),
    [
        (OWNER, None, "not known from when on"),
        (OWNER, at(-30 * DAY) + 1, "too late for role changes, owner changes, credentials created or widened"),
        (OWNER, at(0), "too late for sign-in failures or oddities"),
        (NOBODY, LONG_AGO, "the actor is not known"),
        (Actor(ip="203.0.113.7"), LONG_AGO, "the actor is not known"),
        (Actor("admin_api_key_actor", "admin_api_key_7"), LONG_AGO, "who created key:7 is not in the record"),
    ],
    ids=["no record", "30 days short", "a day short", "nobody", "an address", "a key of nobody"],
)
def test_not_checked(actor: Actor, known_from: int | None, why: str) -> None:
    """Where the record does not cover the look-back, or the actor is not known, silence proves nothing."""
    finding = asked(actor=actor, known_from=known_from)
    assert finding.verdict == NOT_CHECKED
    assert why in finding.summary


def test_before_the_answers() -> None:
    """Until the trails have answered nothing is checked; an inquiry does not ask twice."""
    opened = inquiry()
    assert {query.key for query in opened.begin()} == keys(*identities_of(OWNER))
    assert opened.begin() == []
    assert opened.pending
    finding = opened.finding(LONG_AGO)
    assert (finding.verdict, finding.unchecked) == (NOT_CHECKED, ("not all answers are in yet",))


def test_revisions() -> None:
    """An answer that changes is told as a revision; a repeat, and what lies outside the look-back, is not."""
    desk = Desk(LONG_AGO).open(inquiry())
    assert [each.verdict for each in desk.told][-1] == NONE_IN_RECORD
    told = len(desk.told)
    desk.take(failed(), failed(), failed("early", -2 * DAY), act("chat", 0))
    assert [each.verdict for each in desk.told[told:]] == [FOUND]
    desk.take(failed("again", 30))
    assert ids(desk.told[-1]) == ["failed", "again"]


@pytest.mark.parametrize("category", [each for each in CATEGORIES.values() if each.before is not None])
def test_look_backs(category: Any) -> None:
    """Each category counts from its first moment to its last, both included, and not a microsecond beyond."""
    kind = next(each.type for each in INDICATORS.values() if each.category == category.name)
    first, last = T0 - category.before, T0 + category.after
    for moment, inside in ((first - 1, False), (first, True), (last, True), (last + 1, False)):
        finding = asked(act("x", (moment - T0) / SECOND, kind=kind))
        assert ids(finding) == (["x"] if inside else []), moment


# --- pivots -----------------------------------------------------------------------------------------------------------


def test_a_key_leads_to_its_creator() -> None:
    """A key's disable is looked into under who created the key, by id and by e-mail."""
    created = act("made", -20 * DAY, kind="admin_api_key_created", admin_api_key_id="admin_api_key_7")
    finding = asked(created, failed(), actor=Actor("api_actor", "apikey_7"))
    assert (finding.verdict, ids(finding)) == (FOUND, ["made", "failed"])
    assert dict(finding.asked)["user:user_owner"] == "key:7: created this key"
    assert "email:owner@example.com" in dict(finding.asked)


def test_a_key_created_long_ago() -> None:
    """A creation before the look-back is no indicator, but it still tells whose key it is."""
    created = act("made", -35 * DAY, kind="admin_api_key_created", admin_api_key_id="admin_api_key_7")
    assert asked(created, actor=Actor("api_actor", "apikey_7")).verdict == NONE_IN_RECORD


def test_a_service_account_leads_to_its_subject() -> None:
    """A service account leads to the outside subject that signed in as it, a refused sign-in leads nowhere."""
    subject = {"type": "federated_actor", "subject": "repo:acme/x"}
    fields = {"kind": "platform_federated_authentication", "requested_service_account_id": "svac_1", "actor": subject}
    role = act("role", -DAY, kind="rbac_role_updated", actor=subject)
    service = Actor("service_account_actor", "svac_1")
    assert ids(asked(role, act("in", -HOUR, outcome="success", **fields), actor=service)) == ["role"]
    assert ids(asked(role, act("in", -HOUR, outcome="denied", **fields), actor=service)) == ["in"]


def test_an_email_leads_to_a_user_and_back() -> None:
    """A sign-in that names both makes the user id's trail lead to the e-mail's, and the other way round."""
    signed_in = act("in", -3 * DAY, kind="sso_login_succeeded", organization_id=None)
    role = act("role", -DAY, kind="rbac_role_assigned", principal_id="user_owner", actor=OTHER)
    assert ids(asked(signed_in, failed(), actor=Actor("user_actor", "user_owner"))) == ["failed"]
    assert ids(asked(signed_in, role, actor=Actor("user_actor", None, "owner@example.com"))) == ["role"]


def test_the_same_address() -> None:
    """Refused sign-ins of others from the disable's address count, other work from there does not."""
    other = {**OTHER, "ip_address": "203.0.113.7"}
    finding = asked(failed("spray", actor=other), act("role", -60, kind="rbac_role_updated", actor=other))
    assert ids(finding) == ["spray"]
    assert "user:user_other" not in dict(finding.asked)


def test_a_role_given_to_the_actor() -> None:
    """A role that somebody else gave the actor is found, with who gave it."""
    given = act("up", -DAY, kind="claude_user_role_updated", user_id="user_owner", user_email="o@x.org", actor=OTHER)
    (evidence,) = asked(given).evidence
    assert (evidence.category, evidence.by) == ("role", "user:user_other")


def test_links_end() -> None:
    """Chains of links are followed two steps, circles once; beyond that the finding says what was not asked."""
    people = [{"type": "user_actor", "user_id": f"user_{n}", "email_address": f"{n // 2}@x.org"} for n in range(20)]
    rows = [
        act(f"in_{n}", -DAY, kind="sso_login_succeeded", actor={**people[n], "email_address": f"{(n + d) // 2}@x.org"})
        for n in range(20)
        for d in (0, 1)
    ]
    finding = asked(*rows, actor=Actor("user_actor", "user_0"))
    assert len(finding.asked) <= KEYS
    assert (finding.verdict, len(finding.unchecked)) == (NOT_CHECKED, 1)
    assert "more identities than were asked about" in finding.summary


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_more_than_is_listed() -> None:
    """Of many the newest are listed, and the finding says that there are more."""
    finding = asked(*(failed(f"f{n:04}", -n) for n in range(500)))
    assert ids(finding) == [f"f{n:04}" for n in reversed(range(LISTED))]
    assert finding.more == ("sign_in",)
    assert finding.summary.endswith(f": {LISTED} or more")


def test_a_flood_is_not_silence() -> None:
    """Where later records pushed out what the look-back may have held, the verdict is not none but not checked."""
    flood = [failed(f"f{n}", 2 * HOUR + n) for n in range(KEPT)]
    assert asked(*flood).verdict == NONE_IN_RECORD
    finding = asked(failed(), *flood)
    assert (finding.verdict, finding.more) == (NOT_CHECKED, ("sign_in",))
    assert "not all is kept of email:owner@example.com" in finding.summary


def test_a_flood_takes_nothing_back() -> None:
    """What an inquiry was told stays with it, whatever a trail drops later."""
    desk = Desk(LONG_AGO).open(inquiry()).take(failed())
    desk.take(*(failed(f"f{n}", 2 * HOUR + n) for n in range(2 * KEPT)))
    assert (desk.finding().verdict, ids(desk.finding())) == (FOUND, ["failed"])


def test_memory_is_bounded() -> None:
    """A trail keeps no more than its limits of anything, nor what is older than it has to be."""
    key = key_of("feed_1", "email:owner@example.com")
    trail = Trail(key)
    for n in range(2000):
        trail.take(parts_of(failed(f"f{n}", n))[key])
        signed_in = act(f"u{n}", n, kind="sso_login_succeeded", actor={**STRANGER, "user_id": f"user_{n}"})
        trail.take(parts_of(signed_in)[key])
        trail.ask(Query(at(n), f"inq_{n}", key, "org_1"))
    assert [len(shelf.entries) for shelf in trail.shelves.values()] == [KEPT]
    assert (len(trail.links), len(trail.queries)) == (LINKS, QUERIES)
    trail.take(parts_of(failed("late", KEPT_FOR // SECOND + 5000))[key])
    assert [each.id for each in trail.shelves["sign_in"].entries] == ["late"]
    assert len(json.dumps(trail.to_dict())) < 20_000


def test_expiry() -> None:
    """A trail can be forgotten once neither its records nor its queries can matter."""
    key = key_of("feed_1", "email:owner@example.com")
    trail = Trail(key)
    trail.take(parts_of(failed("f", 0))[key])
    assert not trail.expired(T0 + KEPT_FOR)
    assert trail.expired(T0 + KEPT_FOR + 1)
    trail.ask(Query(at(DAY), "inq", key, "org_1"))
    assert not trail.expired(T0 + KEPT_FOR + 1)
    assert Trail(key).expired(T0)


def test_a_shelf() -> None:
    """A shelf has a floor only once it dropped something, and nothing above it is missing."""
    shelf = Shelf()
    entry = Desk().take(failed()).trail(key_of("feed_1", "email:owner@example.com")).shelves["sign_in"].entries[0]
    for n in (3, 1, 2, 2, 0, 3):
        shelf.add(entry._replace(at=n), 3)
    assert ([each.at for each in shelf.entries], shelf.floor and shelf.floor.at) == ([1, 2, 3], 0)
    shelf.prune(3)
    assert ([each.at for each in shelf.entries], shelf.floor and shelf.floor.at) == ([3], 2)


def test_what_was_forgotten() -> None:
    """A trail that began after others were forgotten does not take what it never saw for nothing."""
    key = key_of("feed_1", "user:user_owner")
    for forgotten, lost in ((at(-30 * DAY) - 1, ()), (at(-30 * DAY), ("role", "owner", "credential"))):
        trail = Trail(key, forgotten)
        assert trail.ask(Query(T0, "inq", key, "org_1")).lost == lost
        assert Trail.from_dict(trail.to_dict()).forgotten == forgotten


def test_what_is_not_for_it() -> None:
    """Answers to others, and indicators that only another version knows, change nothing."""
    trail = Trail(key_of("feed_1", "user:user_nobody"))
    trail.take(Part(at(0), Entry(at(0), "x", "made_up", "org_1", "")))
    assert trail.shelves == {}
    opened = inquiry()
    assert opened.take(Answer(Query(T0, "another", trail.key, "org_1"))) == []
    assert opened.heard == {}


# --- the review -------------------------------------------------------------------------------------------------------


def reviewed(*activities: Activity) -> Review:
    """The review of org_1 after a close at T0."""
    review = Review(T0)
    for activity in activities:
        take(review, activity)
    return review


def take(review: Review, activity: Activity) -> bool:
    """Let a review take an activity in, if that tells a review anything."""
    entry = review_entry(activity)
    return entry is not None and review.take(entry)


def test_review() -> None:
    """A review counts by category, names the first and last record of each, and who did it."""
    review = reviewed(
        act("share", 50, kind="claude_project_sharing_updated", actor=OTHER),
        act("key2", 30, kind="platform_api_key_created", api_key_id="apikey_9"),
        act("key1", 10, kind="admin_api_key_created", admin_api_key_id="admin_api_key_8"),
        act("chat", 40),
    )
    content = review.content()
    assert content is not None
    assert [(each.category, each.count, each.first_id, each.last_id) for each in content.categories] == [
        ("credential", 2, "key1", "key2"),
        ("sharing", 1, "share", "share"),
    ]
    assert content.actors == ("user:user_owner", "user:user_other")
    assert content.summary == (
        "in the 24 hours after the close: credentials created or widened: 2, sharing: 1; by user:user_owner, "
        "user:user_other"
    )


@pytest.mark.parametrize(
    ("activity", "counts"),
    [
        (act("x", 0, kind="org_data_export_started"), True),
        (act("x", DAY, kind="org_data_export_started"), True),
        (act("x", -0.000001, kind="org_data_export_started"), False),
        (act("x", DAY + 0.000001, kind="org_data_export_started"), False),
        (act("x", 1, kind="org_data_export_started", organization_id=None), False),
        (act("x", 1, kind="sso_login_failed"), False),
        (act("x", 1), False),
    ],
)
def test_what_a_review_counts(activity: Activity, counts: bool) -> None:
    """It counts the organization's own indicators from the close to 24 hours after it, of categories for review."""
    review = Review(T0)
    assert take(review, activity) is counts
    assert (review.content() is not None) is counts


def test_a_review_tells_changes() -> None:
    """A repeat is not told again."""
    review = Review(T0)
    export = act("x", 5, kind="org_data_export_started")
    assert take(review, export)
    assert not take(review, export)
    assert take(review, act("y", 4, kind="org_data_export_started"))


def test_a_review_is_bounded() -> None:
    """Of many it says that there are more, and still knows the first, the last and who came first."""
    review = reviewed(
        *(
            act(f"x{n:03}", n, kind="org_data_export_started", actor={"type": "user_actor", "user_id": f"user_{n:03}"})
            for n in range(300)
        )
    )
    content = review.content()
    assert content is not None
    (each,) = content.categories
    assert (each.count, each.more, each.first_id, each.last_id) == (KEPT, True, "x000", "x299")
    assert content.actors == tuple(f"user:user_{n:03}" for n in range(ACTORS))
    assert content.more_actors
    assert "or more" in content.summary
    assert content.summary.endswith(f"by user:user_000, user:user_001, user:user_002 and {ACTORS - 3} or more others")
    assert not review.whole
    assert len(json.dumps(review.to_dict())) < 12_000
