"""Who is LISTED, what is a planned change, and which version follows which."""

from dataclasses import replace
from typing import Any

import pytest

from auditgap.core.inputs import NOBODY, REASONS, Actor, Rejection
from auditgap.core.policy import (
    Acknowledgement,
    Actors,
    ChangeWindow,
    Policy,
    Rules,
    as_shape,
    change_window_for,
    difference,
    extended,
    from_shape,
    in_force,
    is_watcher_key,
    key_suffix,
    latest_of,
    length,
    rules_at,
    says_already,
    successor,
    verdict,
)
from auditgap.core.times import SECOND
from auditgap.core.versions import FIRST_AT_MOST

HOUR = 3600 * SECOND
T0 = 500_000 * HOUR

JANE = Actor(type="user_actor", id="user_jane", email="Jane@Example.com")
JOHN = Actor(type="user_actor", id="user_john", email="john@example.com")
ACTORS = Actors(
    users=("user_john",), emails=("jane@example.COM",), keys=("admin_api_key_1",), service_accounts=("svac_1",)
)


def version(number: int, appended: int, previous: Policy | None = None, **fields: Any) -> Policy:
    """Make a version; times are hours after T0."""
    valid_from = fields.pop("valid_from", None)
    return Policy(
        organization_id=fields.pop("organization_id", "org_1"),
        version=number,
        previous_digest=previous.digest if previous else None,
        valid_from=None if valid_from is None else T0 + valid_from * HOUR,
        author="jane",
        produced_at=0,
        append_time=T0 + appended * HOUR,
        rules=Rules(**fields),
    )


def window(start: float = 10, end: float = 12, registered_at: float = 1, **fields: Any) -> ChangeWindow:
    """Make a change window; times are hours after T0."""
    times = {"start": start, "end": end, "registered_at": registered_at}
    rest: dict[str, Any] = {name: T0 + int(hours * HOUR) for name, hours in times.items()}
    return ChangeWindow(**{"id": "CHG-1", "reason": "move", "actors": ACTORS, **rest, **fields})


# --- actors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "held"),
    [
        pytest.param(JANE, True, id="e-mail in other letters"),
        pytest.param(JOHN, True, id="user id"),
        pytest.param(Actor(type="user_actor", id="user_eve", email="eve@example.com"), False, id="another user"),
        pytest.param(Actor(type="user_actor", email="Jane@example.com\u212a"), False, id="a longer e-mail"),
        pytest.param(Actor(type="admin_api_key_actor", id="admin_api_key_1"), True, id="key"),
        pytest.param(Actor(type="api_actor", id="apikey_1"), True, id="the key's other id"),
        pytest.param(Actor(type="api_actor", id="apikey_11"), False, id="a longer key"),
        pytest.param(Actor(type="api_actor", id="1"), False, id="a key without its prefix"),
        pytest.param(Actor(type="service_account_actor", id="svac_1"), True, id="service account"),
        pytest.param(Actor(type="unauthenticated_user_actor", email="jane@example.com"), False, id="only says so"),
        pytest.param(Actor(type="federated_actor", id="user_john"), False, id="a subject anyone can choose"),
        pytest.param(Actor(type="actor_of_next_year", id="user_john"), False, id="unknown type"),
        pytest.param(Actor(id="user_john"), False, id="no type"),
    ],
)
def test_holds(actor: Actor, held: bool) -> None:
    """An actor is matched by the id of its own kind, whole; e-mail addresses whatever their case."""
    assert ACTORS.holds(actor) is held


def test_letters_that_only_look_alike() -> None:
    """The sign for kelvin is no k, though it is one in lower case."""
    assert not Actors(emails=("kim@example.com",)).holds(Actor(type="user_actor", email="\u212aim@example.com"))


@pytest.mark.parametrize(
    ("identifier", "suffix"),
    [("admin_api_key_X", "X"), ("apikey_X", "X"), ("apikey_", ""), ("user_X", ""), ("", ""), (None, "")],
)
def test_key_suffix(identifier: str | None, suffix: str) -> None:
    """What follows either prefix of a key is the same."""
    assert key_suffix(identifier) == suffix


def test_actors_are_sorted_and_few() -> None:
    """The same actors are equal however they are written down."""
    assert Actors(emails=("B@x", "a@x", "b@x")) == Actors(emails=("a@x", "b@X"))


# --- verdict ----------------------------------------------------------------------------------------------------------

POLICIES = (version(1, 1, owners=Actors(emails=("jane@example.com",)), watcher_keys=("apikey_w",)),)


@pytest.mark.parametrize(
    ("actor", "hour", "expected"),
    [
        pytest.param(JANE, 1, "LISTED", id="owner"),
        pytest.param(JOHN, 1, "NOT_LISTED", id="another"),
        pytest.param(JANE, 0, "UNKNOWN", id="before any policy"),
        pytest.param(NOBODY, 1, "UNKNOWN", id="nobody known"),
        pytest.param(Actor(type="user_actor", ip="192.0.2.1"), 1, "UNKNOWN", id="no name"),
    ],
)
def test_verdict(actor: Actor, hour: int, expected: str) -> None:
    """The verdict is that of the version in force."""
    assert verdict(POLICIES, actor, T0 + hour * HOUR) == expected


def test_others_that_are_authorised_are_listed() -> None:
    """Those who are no owners but authorised are LISTED like them."""
    assert verdict((version(1, 1, authorised=ACTORS),), JOHN, T0 + HOUR) == "LISTED"


def test_a_policy_that_lists_nobody() -> None:
    """A policy that is about limits only says of nobody that he may not."""
    assert verdict((version(1, 1, proof_limit_seconds=1),), JANE, T0 + HOUR) == "UNKNOWN"


@pytest.mark.parametrize("identifier", ["apikey_w", "admin_api_key_w"])
def test_a_watcher_key_is_never_listed(identifier: str) -> None:
    """The feed's own key is NOT_LISTED, even where it is authorised, by either of its ids and whatever its type."""
    policies = (version(1, 1, authorised=Actors(keys=("apikey_w",)), watcher_keys=("apikey_w",)),)
    actor = Actor(type="whatever", id=identifier)
    assert is_watcher_key(policies, actor, T0 + HOUR)
    assert verdict(policies, actor, T0 + HOUR) == "NOT_LISTED"
    assert not is_watcher_key(policies, actor, T0)
    assert not is_watcher_key(policies, JANE, T0 + HOUR)


def test_the_highest_version_counts() -> None:
    """A later version takes the place of one that is only announced."""
    policies = (version(1, 1), version(2, 2, valid_from=10), version(3, 3))
    found = {hour: in_force(policies, T0 + hour * HOUR) for hour in (0, 1, 2, 3, 10)}
    assert {hour: each and each.version for hour, each in found.items()} == {0: None, 1: 1, 2: 1, 3: 3, 10: 3}


def test_a_retroactive_version_counts_from_its_append_time() -> None:
    """What is written afterwards changes no verdict about the time before, only the one about now."""
    policies = (*POLICIES, version(2, 5, valid_from=0, owners=Actors(users=("user_john",))))
    assert policies[1].retroactive
    assert not policies[0].retroactive
    assert [verdict(policies, JOHN, T0 + hour * HOUR) for hour in (0, 1, 4, 5)] == [
        "UNKNOWN",
        "NOT_LISTED",
        "NOT_LISTED",
        "LISTED",
    ]


def test_an_organization_s_own_version_goes_before_the_defaults() -> None:
    """The defaults speak until an organization has a version of its own in force, however high theirs are."""
    defaults = tuple(version(number, 1, organization_id=None, settle_seconds=number) for number in (1, 2, 3))
    policies = (*defaults, version(1, 5, settle_seconds=9))
    assert [rules_at(policies, T0 + hour * HOUR).settle_seconds for hour in (0, 1, 4, 5)] == [60, 3, 3, 9]


# --- change windows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        pytest.param({"actors": Actors()}, "no actor", id="no actor"),
        pytest.param({"end": 10}, "not after its start", id="no length"),
        pytest.param({"end": 34.001}, "24 hours", id="too long"),
        pytest.param({"registered_at": 10}, "registered before", id="registered at its start"),
    ],
)
def test_a_window_that_cannot_be(fields: dict[str, Any], fault: str) -> None:
    """A change window has actors, at most 24 hours, and is registered before."""
    window(end=34)
    with pytest.raises(ValueError, match=fault):
        window(**fields)


@pytest.mark.parametrize(
    ("opened", "latest", "actor", "inside"),
    [
        pytest.param(10, 12, JOHN, True, id="wholly"),
        pytest.param(9.999, 10.5, JOHN, False, id="begins before"),
        pytest.param(11, 12.001, JOHN, False, id="ends after"),
        pytest.param(None, 11, JOHN, False, id="beginning not known"),
        pytest.param(11, None, JOHN, False, id="end not known"),
        pytest.param(11, 11, Actor(type="user_actor", id="user_eve"), False, id="another actor"),
        pytest.param(11, 11, NOBODY, False, id="nobody"),
    ],
)
def test_change_window(opened: float | None, latest: float | None, actor: Actor, inside: bool) -> None:
    """A window counts only if the whole opening and its actor lie inside it."""
    policies = (version(1, 2, change_windows=(window(),)),)
    times = [None if each is None else T0 + int(each * HOUR) for each in (opened, latest)]
    assert change_window_for(policies, times[0], times[1], actor) == (window() if inside else None)


@pytest.mark.parametrize(
    ("policies", "inside"),
    [
        pytest.param((version(1, 2, change_windows=(window(),)),), True, id="appended before its start"),
        pytest.param((version(1, 10, change_windows=(window(),)),), False, id="appended at its start"),
        pytest.param(
            (version(1, 2, change_windows=(window(),)), version(2, 10, change_windows=(window(),))), True, id="again"
        ),
        pytest.param((version(1, 2, change_windows=(window(),)), version(2, 10)), False, id="taken back"),
        pytest.param(
            (version(1, 2, change_windows=(window(end=11),)), version(2, 10, change_windows=(window(),))),
            False,
            id="made longer once it had begun",
        ),
        pytest.param(
            (version(1, 2, change_windows=(window(actors=Actors(keys=("apikey_w",))),), watcher_keys=("apikey_w",)),),
            False,
            id="the feed's own key",
        ),
    ],
)
def test_a_window_is_known_before(policies: tuple[Policy, ...], inside: bool) -> None:
    """A window counts only if it stood in the policy before its start, and still does."""
    actor = Actor(type="api_actor", id="apikey_w") if policies[0].rules.watcher_keys else JOHN
    assert bool(change_window_for(policies, T0 + 11 * HOUR, T0 + 11 * HOUR, actor)) is inside


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "step"), [(0.2, None), (0.25, 0.25), (3.9, 1), (24, 24), (47.9, 24), (48, 48), (100, 96)]
)
def test_step_passed(hours: float, step: float | None) -> None:
    """Of the steps of escalation the highest that was passed counts; after the last one there is one a day."""
    assert Rules().step_passed(hours * 3600) == (None if step is None else step * 3600)


def test_acknowledgement() -> None:
    """A gap is quiet until the time that was given, and no other gap is."""
    rules = Rules(acknowledged=(Acknowledgement(gap_id="gap_1", until=T0, reason="known"),))
    assert rules.acknowledgement("gap_1", T0 - 1)
    assert not rules.acknowledgement("gap_1", T0)
    assert not rules.acknowledgement("gap_2", T0 - 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"gap_still_open_seconds": ()},
        {"gap_still_open_seconds": (0, 1)},
        {"gap_still_open_seconds": (2, 2)},
        {"proof_limit_seconds": 0},
        {"settle_seconds": -1},
        {"watcher_keys": ("w",)},
        {"change_windows": (window(), window(end=11))},
        {
            "acknowledged": (
                Acknowledgement(gap_id="g", until=1, reason=""),
                Acknowledgement(gap_id="g", until=2, reason=""),
            )
        },
    ],
    ids=str,
)
def test_rules_that_cannot_be(fields: dict[str, Any]) -> None:
    """Limits have to make sense, and a thing is named once."""
    with pytest.raises(ValueError, match=r"."):
        Rules(**fields)


# --- versions ---------------------------------------------------------------------------------------------------------

FIRST = version(1, 1)
SECOND_ONE = version(2, 2, FIRST, settle_seconds=1)


def refused(policies: tuple[Policy, ...], new: Policy) -> str:
    """Give the reason for which a version is refused."""
    found = extended(policies, new)
    assert isinstance(found, Rejection)
    assert found.reason in REASONS
    return found.detail


def test_versions_follow_each_other() -> None:
    """The next version, with the digest of the one before, is taken in; a repeat changes nothing."""
    policies = extended(extended((), FIRST), SECOND_ONE)  # type: ignore[arg-type]  # it is refused below if it is none
    assert policies == (FIRST, SECOND_ONE)
    assert extended(policies, FIRST) is policies
    assert extended(policies, replace(SECOND_ONE, append_time=T0 + 9 * HOUR)) is policies


@pytest.mark.parametrize("number", [1, 2, 4, 2**63 - 1])
def test_a_version_that_is_not_the_next(number: int) -> None:
    """A version that leaves one out, or comes again with other content, is refused, and what follows is not."""
    policies = (FIRST, SECOND_ONE)
    assert "has to be 3" in refused(policies, version(number, 3, SECOND_ONE, settle_seconds=7))
    assert extended(policies, version(3, 4, SECOND_ONE)) == (*policies, version(3, 4, SECOND_ONE))


def test_a_break_of_the_chain() -> None:
    """A version that names another digest than that of the one before is refused."""
    assert SECOND_ONE.digest in refused((FIRST, SECOND_ONE), version(3, 3, FIRST))
    assert "names another" in refused((FIRST, SECOND_ONE), version(3, 3))


@pytest.mark.parametrize(
    ("number", "digest", "taken"),
    [
        (1, None, True),
        (1, "d", False),
        (7, "d", True),
        (7, None, False),
        (FIRST_AT_MOST, "d", True),
        (FIRST_AT_MOST + 1, "d", False),
        (2**63 - 1, "d", False),
    ],
)
def test_the_first_that_is_known(number: int, digest: str | None, taken: bool) -> None:
    """A chain begins with 1, or where older versions are gone with a later one that has room for successors."""
    first = replace(version(number, 1), previous_digest=digest)
    found = extended((), first)
    assert (found == (first,)) is taken
    assert isinstance(found, Rejection) is not taken


def test_chains_are_apart() -> None:
    """Each organization's chain is its own, and so is that of the defaults."""
    others = (FIRST, version(1, 1, organization_id="org_2"), version(1, 1, organization_id=None))
    found = extended(others, SECOND_ONE)
    assert isinstance(found, tuple)
    assert latest_of(found, "org_1") == SECOND_ONE
    assert latest_of(found, None) == others[2]
    assert latest_of(found, "org_3") is None


def test_successor_is_accepted() -> None:
    """What is made as the next version is taken in as such, from the first on."""
    policies: tuple[Policy, ...] = ()
    for number in range(1, 4):
        new = successor(latest_of(policies, "org_1"), "org_1", Rules(settle_seconds=number), "jane", T0, None)
        found = extended(policies, new)
        assert isinstance(found, tuple)
        policies = found
    assert [each.version for each in policies] == [1, 2, 3]


@pytest.mark.parametrize(
    ("latest", "wanted", "already"),
    [
        pytest.param(None, None, False, id="nothing yet"),
        pytest.param(FIRST, None, True, id="from its append time"),
        pytest.param(version(1, 1, valid_from=0), None, True, id="in force"),
        pytest.param(version(1, 1, valid_from=9), None, False, id="only announced, wanted now"),
        pytest.param(version(1, 1, valid_from=9), 9, True, id="announced for then"),
        pytest.param(version(1, 1, valid_from=9), 8, False, id="announced for another time"),
        pytest.param(SECOND_ONE, None, False, id="other rules"),
    ],
)
def test_says_already(latest: Policy | None, wanted: int | None, already: bool) -> None:
    """Only what changes something needs a version."""
    assert says_already(latest, Rules(), T0 + 5 * HOUR, None if wanted is None else T0 + wanted * HOUR) is already


FULL = version(
    3,
    3,
    SECOND_ONE,
    valid_from=1,
    owners=ACTORS,
    authorised=ACTORS,
    watcher_keys=("apikey_w",),
    gap_still_open_seconds=(60,),
    decommissioned=True,
    acknowledged=(Acknowledgement(gap_id="gap_1", until=T0, reason="known"),),
    change_windows=(window(),),
)


def test_back_from_a_shape() -> None:
    """A version comes back whole from its shape, also with fields of a newer schema in it."""
    assert from_shape({**as_shape(FULL), "field_of_next_year": 1}, FULL.append_time) == FULL


@pytest.mark.parametrize(
    "wrong",
    [{"version": 0}, {"author": ""}, {"settle_seconds": -1}, {"owners": {"users": 5}}, {"owners": None}],
    ids=str,
)
def test_a_shape_that_is_no_policy(wrong: dict[str, Any]) -> None:
    """What breaks a rule of the policy is refused when it is read, whoever wrote it."""
    found = from_shape({**as_shape(FULL), **wrong}, T0)
    assert isinstance(found, Rejection)
    assert found.reason == "policy_refused"


def test_digest() -> None:
    """The digest covers all that was written, and not when the broker appended it."""
    assert replace(FULL, append_time=0).digest == FULL.digest
    assert len({FULL.digest, replace(FULL, author="eve").digest, replace(FULL, rules=Rules()).digest}) == 3


# --- in words ---------------------------------------------------------------------------------------------------------


def test_difference() -> None:
    """Everything that changed is said, and nothing else."""
    assert difference(FIRST, version(2, 2)) == ("the rules stay as they were",)
    said = difference(None, FULL)
    for part in (
        "owner added: e-mail jane@example.com",
        "authorised actor added: service account svac_1",
        "watcher key added: apikey_w",
        "steps of gap_still_open 1m, then daily instead of 15m, 1h, 4h, 1d, then daily",
        "decommissioned",
    ):
        assert part in said
    assert any(each.startswith("change window added: CHG-1 (move), ") for each in said)
    assert any(each.startswith("acknowledgement added: gap_1 until ") for each in said)
    assert said[-1].endswith("which was past when it was published: openings before that are judged as before")
    undone = difference(FULL, version(4, 4))
    assert "no longer decommissioned" in undone
    assert "owner removed: user user_john" in undone


def test_every_field_shows_in_the_difference() -> None:
    """A field of the rules that changes without a word would be a change nobody hears of."""
    for name in Rules.__dataclass_fields__:
        fields = {name: getattr(FULL.rules, name)} if getattr(FULL.rules, name) != getattr(Rules(), name) else {name: 7}
        assert difference(FIRST, version(2, 2, **fields)) != ("the rules stay as they were",), name


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (90, "90s"), (900, "15m"), (7200, "2h"), (86_400, "1d")])
def test_length(seconds: int, text: str) -> None:
    """Lengths are written as they are read."""
    assert length(seconds) == text


def test_a_difference_in_words() -> None:
    """A version is told clause by clause, with every kind of actor named."""
    everybody = Actors(users=("u",), emails=("e@example.com",), keys=("apikey_K",), service_accounts=("s",))
    old = successor(None, "org_1", Rules(), "jane", T0, None)
    rules = Rules(owners=everybody, watcher_keys=("apikey_W",), settle_seconds=0, decommissioned=True)
    assert difference(old, successor(old, "org_1", rules, "jane", T0, T0 + 1)) == (
        "owner added: user u",
        "owner added: e-mail e@example.com",
        "owner added: key apikey_K",
        "owner added: service account s",
        "watcher key added: apikey_W",
        "settle time 0s instead of 1m",
        "decommissioned",
        "valid from 2027-01-15T08:00:00.000001Z",
    )
    refused = extended((old,), successor(successor(old, None, rules, "x", T0, None), None, Rules(), "x", T0, None))
    assert isinstance(refused, tuple)
    for organization, whose in ((None, "the defaults"), ("org_1", "organization org_1")):
        first = successor(None, organization, Rules(), "jane", T0, None)
        third = replace(first, version=3)
        found = extended((first,), third)
        assert isinstance(found, Rejection)
        assert whose in found.detail
