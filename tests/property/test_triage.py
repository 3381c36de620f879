"""Triage depends on the set of what it was given: not on order, repetition, or where it was stopped and started."""

import json
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.desk import Desk
from tests.unit.core.making import T0, act, at

from auditgap.core.inputs import Activity, Actor
from auditgap.core.triage import KEPT, LINKS, QUERIES, Finding, Inquiry, Review, Trail, parts_of, review_entry

EXAMPLES: Final = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

HOUR: Final = 3600
USERS: Final = ["user_1", "user_2", "user_3"]
EMAILS: Final = ["1@x.org", "2@x.org"]
KEYS: Final = ["7", "8"]

# Moments in, at the borders of, and outside the look-backs; few, so that ties are common.
moment = st.sampled_from([-40 * 24, -30 * 24, -29 * 24, -24, -23, -1, 0, 1, 2, 20]).map(lambda hours: hours * HOUR)

actor = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("user_actor"), "user_id": st.sampled_from(USERS)},
        optional={"email_address": st.sampled_from(EMAILS), "ip_address": st.sampled_from(["192.0.2.1", "192.0.2.2"])},
    ),
    st.fixed_dictionaries({"type": st.just("api_actor"), "api_key_id": st.sampled_from(KEYS).map("apikey_{}".format)}),
    st.fixed_dictionaries(
        {"type": st.just("unauthenticated_user_actor"), "unauthenticated_email_address": st.sampled_from(EMAILS)}
    ),
    st.fixed_dictionaries({"type": st.just("federated_actor"), "subject": st.just("repo:x")}),
)


@st.composite
def activities(draw: st.DrawFn) -> Activity:
    """Draw an activity; few ids, so that some have several contents."""
    kind, fields = draw(
        st.sampled_from(
            [
                ("sso_login_failed", {}),
                ("sso_login_succeeded", {}),
                ("sso_second_factor_magic_link", {}),
                ("admin_api_key_created", {"admin_api_key_id": "admin_api_key_7"}),
                ("platform_api_key_created", {"api_key_id": "apikey_8"}),
                ("claude_user_role_updated", {"user_id": "user_2", "user_email": "2@x.org"}),
                ("rbac_role_assigned", {"principal_id": "user_1"}),
                (
                    "platform_federated_authentication",
                    {"requested_service_account_id": "svac_1", "outcome": "success"},
                ),
                ("platform_federated_authentication", {"requested_service_account_id": "svac_1", "outcome": "no"}),
                ("org_data_export_started", {}),
                ("claude_project_sharing_updated", {}),
                ("org_deletion_requested", {}),
                ("claude_chat_created", {}),
            ]
        )
    )
    extra: dict[str, Any] = fields
    organization = draw(st.sampled_from(["org_1", "org_1", "org_2", None]))
    return act(
        f"act_{draw(st.integers(0, 12))}",
        draw(moment),
        kind=kind,
        actor=draw(actor),
        organization_id=organization,
        **extra,
    )


suspect = st.sampled_from(
    [
        Actor("user_actor", "user_1", "1@x.org", "192.0.2.1"),
        Actor("user_actor", "user_3"),
        Actor("admin_api_key_actor", "admin_api_key_7"),
        Actor("service_account_actor", "svac_1"),
        Actor("unauthenticated_user_actor", None, "2@x.org"),
    ]
)


def found(
    who: Actor, first: Sequence[Activity], then: Sequence[Activity], cuts: frozenset[int]
) -> tuple[Desk, Finding]:
    """Take some in, ask, take the rest in; restart after the steps in `cuts`."""
    desk = Desk(at(-365 * 24 * HOUR))
    for step, each in enumerate([*first, None, *then]):
        if each is None:
            desk.open(Inquiry("inq", "org_1", "feed_1", who, T0))
        else:
            desk.take(each)
        if step in cuts:
            desk.restart()
    return desk, desk.finding()


@EXAMPLES
@given(st.data())
def test_findings(data: st.DataObject) -> None:
    """The finding is the same whatever the order, the repetitions, the restarts, and when the question came."""
    given_ = data.draw(st.lists(activities(), max_size=25))
    who = data.draw(suspect)
    _, straight = found(who, given_, [], frozenset())
    shuffled = data.draw(st.permutations([*given_, *given_[::2]]))
    split = data.draw(st.integers(0, len(shuffled)))
    cuts = data.draw(st.frozensets(st.integers(0, len(shuffled)), max_size=5))
    desk, crooked = found(who, shuffled[:split], shuffled[split:], cuts)
    assert crooked == straight
    assert desk.told[-1] == straight


@EXAMPLES
@given(st.data())
def test_trails(data: st.DataObject) -> None:
    """A trail's state is the same whatever the order, the repetitions and the restarts, and it stays small."""
    given_ = data.draw(st.lists(activities(), max_size=25))
    # So many of one actor that shelves and links overflow.
    many = data.draw(st.integers(0, 2 * KEPT))
    given_ += [
        act(f"many_{n}", n * 7 % 50 * HOUR, kind=("sso_login_failed", "sso_login_succeeded")[n % 2], actor=person)
        for n in range(many)
        for person in [{"type": "user_actor", "user_id": "user_1", "email_address": f"{n}@many.org"}]
    ]
    straight = Desk().take(*given_)
    shuffled = data.draw(st.permutations([*given_, *given_[::3]]))
    split = data.draw(st.integers(0, len(shuffled)))
    crooked = Desk().take(*shuffled[:split]).restart().take(*shuffled[split:])
    assert {key: trail.to_dict() for key, trail in crooked.trails.items()} == {
        key: trail.to_dict() for key, trail in straight.trails.items()
    }
    for trail in crooked.trails.values():
        assert all(len(shelf.entries) <= KEPT for shelf in trail.shelves.values())
        assert len(trail.links) <= LINKS
        assert len(trail.queries) <= QUERIES
    assert set(crooked.trails) == {key for each in given_ for key in parts_of(each)}


@EXAMPLES
@given(st.data())
def test_reviews(data: st.DataObject) -> None:
    """A review is the same whatever the order, the repetitions and the restarts."""
    given_ = [each for each in map(review_entry, data.draw(st.lists(activities(), max_size=40))) if each is not None]
    shuffled = data.draw(st.permutations([*given_, *given_[::2]]))
    straight, crooked = Review(T0), Review(T0)
    for each in given_:
        straight.take(each)
    for each in shuffled:
        before = crooked.to_dict()
        assert crooked.take(each) is (crooked.to_dict() != before)
        crooked = Review.from_dict(json.loads(json.dumps(crooked.to_dict())))
    assert crooked.to_dict() == straight.to_dict()


@EXAMPLES
@given(st.lists(activities(), max_size=25), suspect)
def test_restoring(given_: list[Activity], who: Actor) -> None:
    """State that was written and read is the same, to the last field."""
    desk, _ = found(who, given_[::2], given_[1::2], frozenset())
    for trail in desk.trails.values():
        assert Trail.from_dict(json.loads(json.dumps(trail.to_dict()))).to_dict() == trail.to_dict()
    inquiry = desk.inquiries["inq"]
    again = Inquiry.from_dict(json.loads(json.dumps(inquiry.to_dict())))
    assert again.to_dict() == inquiry.to_dict()
