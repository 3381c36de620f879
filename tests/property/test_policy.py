"""What holds of any chain of versions."""

import io
from dataclasses import replace
from itertools import permutations
from typing import Final

import fastavro
from hypothesis import given, settings
from hypothesis import strategies as st

from auditgap.adapters import avro
from auditgap.core.inputs import Actor, Rejection
from auditgap.core.policy import (
    Actors,
    ChangeWindow,
    Policy,
    Rules,
    as_shape,
    change_window_for,
    extended,
    latest_of,
    successor,
    verdict,
)

EXAMPLES: Final = settings(max_examples=200, deadline=None, derandomize=True)

WHO: Final = Actor(type="user_actor", id="user_a", email="a@example.com")

times = st.integers(0, 20)
actors = st.builds(Actors, users=st.sets(st.sampled_from(["user_a", "user_b"])).map(tuple))


@st.composite
def windows(draw: st.DrawFn) -> tuple[ChangeWindow, ...]:
    """Draw no change window, or one for the actor."""
    start = draw(st.integers(1, 15))
    end = draw(st.integers(start + 1, 20))
    made = ChangeWindow(
        id="CHG-1", reason="r", actors=Actors(users=("user_a",)), registered_at=start - 1, start=start, end=end
    )
    return draw(st.sampled_from([(), (made,)]))


rules = st.builds(Rules, owners=actors, authorised=actors, change_windows=windows())


@st.composite
def chains(draw: st.DrawFn) -> tuple[Policy, ...]:
    """Draw chains of an organization and of the defaults, appended in the order of their versions."""
    policies: tuple[Policy, ...] = ()
    for appended in sorted(draw(st.lists(times, min_size=1, max_size=5))):
        organization = draw(st.sampled_from(["org_1", None]))
        valid_from = draw(st.none() | times)
        latest = latest_of(policies, organization)
        made = successor(latest, organization, draw(rules), "author", appended, valid_from)
        found = extended(policies, made)
        assert isinstance(found, tuple), found
        policies = found
    return policies


@EXAMPLES
@given(chains(), times)
def test_a_verdict_does_not_depend_on_the_order(policies: tuple[Policy, ...], at: int) -> None:
    """The verdict and the change window are those of the set of versions, in whatever order they are held."""
    found = {(verdict(order, WHO, at), change_window_for(order, at, at, WHO)) for order in permutations(policies)}
    assert len(found) == 1


@EXAMPLES
@given(chains(), times)
def test_what_was_authorised_stays(policies: tuple[Policy, ...], at: int) -> None:
    """No version that is appended after an opening changes its verdict, nor its change window."""
    before = tuple(each for each in policies if each.append_time <= at)
    assert verdict(policies, WHO, at) == verdict(before, WHO, at)
    assert change_window_for(policies, at, at, WHO) == change_window_for(before, at, at, WHO)


@EXAMPLES
@given(chains(), st.data())
def test_a_break_of_the_chain_is_refused(policies: tuple[Policy, ...], data: st.DataObject) -> None:
    """A version whose number or digest is not that of the chain is refused, and the true one after it is not."""
    latest = policies[-1]
    true = successor(latest, latest.organization_id, data.draw(rules), "author", 30, None)
    number = data.draw(st.just(true.version) | st.integers(1, 2**63 - 1))
    digest = data.draw(
        st.sampled_from(["0" * 64, None] if number == true.version else ["0" * 64, true.previous_digest])
    )
    assert isinstance(extended(policies, replace(true, version=number, previous_digest=digest)), Rejection)
    assert extended(policies, true) == (*policies, true)


@EXAMPLES
@given(chains())
def test_the_wire_changes_nothing(policies: tuple[Policy, ...]) -> None:
    """A version is written byte for byte as fastavro writes it, and comes back as it was, digest and all."""
    ids = avro.SchemaIds.bundled()
    for each in policies:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, avro.schema("policy"), as_shape(each), strict=True)
        value = avro.Encoder(ids).policy(each)
        assert value == ids.prefix("policy") + out.getvalue()
        back = avro.decode_policy(ids, value, each.append_time)
        assert back == each
        assert isinstance(back, Policy)
        assert back.digest == each.digest
