"""What holds of the report of any feed and any period."""

from fractions import Fraction
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.making import Run, act, at, gaps, setting

from auditgap.core.report import PLACES, Evidence, Scope, build, percent
from auditgap.core.times import SECOND

EXAMPLES: Final = settings(max_examples=200, deadline=None, derandomize=True)

TOP: Final = 40_000

moments = st.integers(0, TOP)


@st.composite
def feeds(draw: st.DrawFn) -> Run:
    """Draw a feed of two organizations."""
    run = Run()
    for number in range(draw(st.integers(1, 25))):
        organization, moment = draw(st.sampled_from(["org_1", "org_2"])), draw(moments)
        flag = draw(st.sampled_from([None, None, True, False]))
        if flag is None:
            run.take(act(f"activity{number}", moment, organization_id=organization))
        else:
            run.take(setting(f"event{number}", moment, logging=flag, organization_id=organization))
    run.settle()
    return run


def made(run: Run, begin: int, end: int, as_of: int) -> dict[str, Any]:
    """Build the report of a period."""
    evidence = Evidence(
        ledgers=run.ledgers,
        feeds={},
        named=frozenset(),
        as_of=at(as_of),
        compared={gap.gap_id: gap for gap in run.standing},
        history=gaps(run.out),
        kept_since={},
    )
    return build(Scope("all"), at(begin), at(end), evidence)


def sums(coverage: dict[str, Any]) -> list[int]:
    """Give the lengths of the four states."""
    return [coverage[f"{name}_microseconds"] for name in ("proven", "inferred", "unknown", "off")]


@EXAMPLES
@given(st.integers(0, 10**18), st.integers(1, 10**18))
def test_percentages_are_never_better_than_they_are(part: int, whole: int) -> None:
    """Rounded down it is never more than the share, rounded up never less, and no further off than the last place."""
    part = min(part, whole)
    down, up = Fraction(percent(part, whole)), Fraction(percent(part, whole, up=True))
    assert down <= Fraction(100 * part, whole) <= up
    assert up - down <= Fraction(1, 10**PLACES)
    assert up - down == 0 or 100 * part * 10**PLACES % whole


@EXAMPLES
@given(feeds(), moments, st.integers(1, TOP), st.integers(TOP, TOP + 100))
def test_shares_add_up(run: Run, begin: int, length: int, as_of: int) -> None:
    """Each member's spans join from end to end of the period; its lengths are theirs, and the total is the sum."""
    report = made(run, begin, begin + length, as_of)
    total = report["coverage"]
    for member in report["members"]:
        coverage, spans = member["coverage"], member["spans"]
        assert (spans[0]["begin"], spans[-1]["end"]) == (report["from"], report["to"])
        assert [span["end"] for span in spans[:-1]] == [span["begin"] for span in spans[1:]]
        assert sum(sums(coverage)) == coverage["period_microseconds"] == length * SECOND
        assert coverage["lower_microseconds"] + coverage["unknown_microseconds"] == coverage["upper_microseconds"]
        assert Fraction(coverage["lower_percent"]) <= Fraction(coverage["upper_percent"]) <= 100
        longest = coverage["longest_unproven"]
        assert (longest is None) == (coverage["proven_microseconds"] == coverage["period_microseconds"])
    assert sums(total) == [
        sum(each) for each in zip(*(sums(m["coverage"]) for m in report["members"]), strict=True)
    ] or (not report["members"])
    assert report["differences"] == report["history"]["faults"] == []


@EXAMPLES
@given(feeds(), moments, st.integers(1, TOP), st.integers(1, TOP))
def test_periods_add_up(run: Run, begin: int, first: int, second: int) -> None:
    """What is said of two periods that join is what is said of both together."""
    middle, end = begin + first, begin + first + second
    halves = [made(run, begin, middle, TOP), made(run, middle, end, TOP)]
    whole = made(run, begin, end, TOP)

    def of(report: dict[str, Any], organization: str) -> list[int]:
        return next((sums(m["coverage"]) for m in report["members"] if m["organization_id"] == organization), [0] * 4)

    for organization in {member["organization_id"] for member in halves[0]["members"]}:
        parts = [of(half, organization) for half in halves]
        assert [sum(each) for each in zip(*parts, strict=True)] == of(whole, organization)
