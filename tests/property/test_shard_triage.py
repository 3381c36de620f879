"""The alerts of triage depend on the set of inputs: not on shards, order, repetition, crashes, or the post's way."""

from collections import Counter
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.test_triage import HOUR, activities, actor
from tests.support.desk import Desk
from tests.support.shards import Shards
from tests.unit.core.making import at, setting

from auditgap.core.desk import INDICATORS, REVIEW
from auditgap.core.fold import EVENTS, Assertion
from auditgap.core.inputs import SETTINGS_TYPE, Activity
from auditgap.core.observations import Observation
from auditgap.core.records import Alert, Gap, as_dict
from auditgap.core.triage import Inquiry, Review, review_entry

EXAMPLES: Final = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)

FREE: Final = frozenset({"revision", "produced_at", "incident_id", "dedup_key"})
"""Fields of an alert that may depend on the order of arrival."""

Input = Activity | Observation


@st.composite
def switches(draw: st.DrawFn) -> Activity:
    """Draw a settings event; few ids, so that some have several contents."""
    return setting(
        f"set_{draw(st.integers(0, 9))}",
        draw(st.sampled_from([-25, -2, -1, 0, 1, 2])) * HOUR,
        logging=draw(st.sampled_from([True, False, False])),
        api=draw(st.sampled_from([..., True, False])),
        actor=draw(actor),
        organization_id=draw(st.sampled_from(["org_1", "org_1", "org_2", None])),
    )


@st.composite
def polls(draw: st.DrawFn) -> Observation:
    """Draw what a collector saw of the setting."""
    seen = at(draw(st.sampled_from([-3, -1.5, -0.5, 0.5, 1.5])) * HOUR)
    result = draw(st.sampled_from(["enabled", "disabled"]))
    return Observation(
        id=f"poll_{seen}_{result}",
        kind="settings_poll",
        result=result,
        observed_at=seen,
        sent_at=seen,
        organization_id="org_1",
        feed_id="feed_1",
    )


inputs_ = st.builds(
    lambda *lists: [each for some in lists for each in some],
    st.lists(switches(), min_size=1, max_size=6),
    st.lists(activities(), max_size=15),
    st.lists(polls(), max_size=2),
)


def end_of(shards: Shards) -> list[dict[str, Any]]:
    """What is left: the alerts of triage without what may depend on the order."""
    return [
        {name: value for name, value in as_dict(alert).items() if name not in FREE}
        for alert in shards.alerts(INDICATORS, REVIEW)
    ]


def crooked(data: st.DataObject, inputs: list[Input]) -> Shards:
    """Take inputs in, in any order and some again, by several shards that commit, crash, and write to each other."""
    shards = Shards(data.draw(st.integers(1, 4)))
    repeats = data.draw(st.lists(st.sampled_from(inputs), max_size=6))
    for each in data.draw(st.permutations(inputs + repeats)):
        shards.take(each)
        for step in data.draw(st.lists(st.sampled_from(["commit", "crash", "deliver", "deliver", "repeat"]))):
            place = data.draw(st.integers(0, 99))
            part = shards.parts[place % len(shards.parts)]
            if step == "commit":
                shards.commit(part)
            elif step == "crash":
                part.crash()
            elif step == "deliver" and shards.post:
                shards.deliver(place)
            elif step == "repeat" and shards.delivered:
                shards.repeat(place)
    for part in shards.parts:
        shards.commit(part)
    while shards.post:
        shards.deliver(data.draw(st.integers(0, 99)))
        if data.draw(st.booleans()):
            for part in shards.parts:
                shards.commit(part)
    return shards.finish()


@EXAMPLES
@given(st.data())
def test_the_end_is_the_same(data: st.DataObject) -> None:
    """Where, when, in which order and how often inputs and mail arrive changes nothing of the alerts in the end."""
    inputs = data.draw(inputs_)
    straight = Shards().take(*inputs).finish()
    assert end_of(crooked(data, inputs)) == end_of(straight)


@EXAMPLES
@given(st.data())
def test_revisions(data: st.DataObject) -> None:
    """Each alert's revisions count up, each says something else than the one before, and stopping loses none."""
    shards = crooked(data, data.draw(inputs_))
    revisions: Counter[str] = Counter()
    latest: dict[str, Alert] = {}
    for each in shards.out:
        if isinstance(each, Alert):
            revisions[each.alert_id] += 1
            assert each.revision == revisions[each.alert_id]
            before = latest.get(each.alert_id)
            assert before is None or as_dict(before) | {"revision": each.revision} != as_dict(each)
            latest[each.alert_id] = each
    end = end_of(shards)
    for part in shards.parts:
        part.crash()
        for ledger in part.shard.ledgers.values():
            part.shard.touched.add(ledger)
    assert end_of(shards.finish()) == end
    assert sum(revisions.values()) == sum(isinstance(each, Alert) for each in shards.out)


@EXAMPLES
@given(st.data())
def test_the_rules_agree(data: st.DataObject) -> None:
    """What is said is what an inquiry and a review that saw all of it say; one alert per gap and actor or close."""
    inputs = data.draw(inputs_)
    shards = crooked(data, inputs)
    seen = [each for each in inputs if isinstance(each, Activity) and each.type != SETTINGS_TYPE]
    for gap in shards.gaps:
        alerts = [each for each in shards.alerts(INDICATORS, REVIEW) if each.gap_id == gap.gap_id]
        ledger = shards.part(gap.organization_id or gap.feed_id or "").shard.ledgers[gap.subject]
        window = ledger.windows[gap.gap_id]
        firsts: dict[tuple[str, str], Assertion] = {}
        for off in window.offs:
            if off.kind in EVENTS and (off.actor.id or off.actor.email):
                name = (off.actor.id or "", "") if off.actor.id else ("", off.actor.email or "")
                firsts.setdefault(name, off)
        said = [each for each in alerts if each.kind == INDICATORS]
        assert sorted(each.evidence[0] for each in said) == sorted(off.input_id for off in firsts.values())
        recorded = [each.created_at or 0 for each in seen if each.subject == gap.subject]
        earlier = [each.closed_at for each in ledger.windows.values() if each.opening.order < window.opening.order]
        known_from = max([min(recorded), *(each or 0 for each in earlier)]) if recorded else None
        for off in firsts.values():
            desk = Desk(known_from).take(*seen)
            finding = desk.open(Inquiry("inq", gap.subject, off.feed_id, off.actor, off.ends)).finding()
            ids = [off.input_id, *dict.fromkeys(each.id for each in finding.evidence)]
            told = [each for each in said if list(each.evidence) == ids and each.summary.endswith(finding.summary)]
            assert told, (finding, said)
        assert [each.summary for each in alerts if each.kind == REVIEW] == reviewed(gap, seen)


def reviewed(gap: Gap, seen: list[Activity]) -> list[str]:
    """What the review of a gap has to say."""
    if gap.closed_at is None or gap.organization_id is None:
        return []
    review = Review(gap.closed_at)
    for each in seen:
        entry = review_entry(each)
        if entry is not None and entry.organization_id == gap.organization_id:
            review.take(entry)
    content = review.content()
    return [] if content is None else [f"organization {gap.organization_id}: {content.summary}"]
