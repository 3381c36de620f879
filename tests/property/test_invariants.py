"""The invariants, against histories of which the truth is known (tests/support/truth.py).

A short slice by default; `make soak` takes 20,000 and prints the counts. A seed is all that a failure needs to come
again.
"""

import os
import random
from collections import Counter
from collections.abc import Container, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise

import pytest
from tests.support.truth import Input, Span, arrangements, history, violations
from tests.unit.core.making import keep_changes

from auditgap.core.fold import ACTIVITY
from auditgap.core.inputs import Activity
from auditgap.core.intake import observe, take
from auditgap.core.ledger import Ledger
from auditgap.core.records import GAP_CHANGES, Emission, Gap, as_dict
from auditgap.core.times import SECOND

HISTORIES = int(os.environ.get("AUDITGAP_TEST_HISTORIES", "400"))

FREE = frozenset({"incident_id", "revision", "produced_at", "history_sequence", "previous_digest"})
"""Fields that may depend on the order of arrival, and the stamps."""

Ledgers = dict[str, Ledger]


Changes = set[tuple[str | None, str]]


def run(inputs: Iterable[Input], cuts: Container[int] = (), changes: Changes | None = None) -> Ledgers:
    """Take inputs in; at a cut settle and keep the state, and every second time go on with what is read back.

    How the states of gaps changed is noted in `changes`.
    """
    ledgers: Ledgers = {}
    states: dict[str, str] = {}

    def note(emissions: Iterable[Emission]) -> None:
        for each in emissions:
            if isinstance(each, Gap) and states.get(each.gap_id) != each.state:
                if changes is not None:
                    changes.add((states.get(each.gap_id), each.state))
                states[each.gap_id] = each.state

    stores: dict[str, dict[str, bytes]] = {}
    for number, (record, append_time) in enumerate(inputs):
        if isinstance(record, Activity):
            outcome = take(ledgers, record, append_time, append_time)
        else:
            outcome = observe(ledgers, record, append_time, append_time)
        assert outcome.rejection is None
        note(outcome.emissions)
        if number not in cuts:
            continue
        for subject, ledger in ledgers.items():
            note(ledger.settle(append_time))
            keep_changes(stores.setdefault(subject, {}), ledger)
        if number % 2:
            ledgers = {subject: Ledger.restore(subject, dict(store)) for subject, store in stores.items()}
    for ledger in ledgers.values():
        note(ledger.settle(0))
    return ledgers


def end_of(ledgers: Ledgers) -> dict[str, dict[str, object]]:
    """What is left: the standing gaps without the fields that may depend on the order."""
    return {
        gap.gap_id: {name: value for name, value in as_dict(gap).items() if name not in FREE}
        for ledger in ledgers.values()
        for gap in ledger.gaps.values()
        if gap.state not in ("SUPERSEDED", "RETRACTED")
    }


def resolution_of(ledger: Ledger) -> int:
    """The longest time between two proofs: a shorter window that nothing told of cannot be seen."""
    proofs = ledger.recent.proofs()
    stretches = (later[0] - sooner[1] for sooner, later in pairwise(proofs.runs))
    return max(stretches, default=0) + 960 * SECOND


def faults_of(seed: int) -> tuple[Counter[str], list[str]]:
    """Hold one history, and other orders of it, against the truth; gives counts and what is wrong."""
    drawn = history(seed)
    counts, faults = Counter(histories=1), []
    changes: Changes = set()
    ledgers = run(drawn.inputs, changes=changes)
    for organization, truth in drawn.truth.items():
        ledger = ledgers.get(organization) or Ledger(organization)
        spans = [Span(each.begin, each.end, each.state) for each in ledger.coverage(truth.until)]
        counts["true windows"] += len(truth.off)
        counts["gaps"] += len(ledger.gaps)
        # Where every window can be known of, none may be shown as audited, however short.
        resolution = 0 if all(truth.complete) else resolution_of(ledger)
        faults += violations(drawn, organization, ledger.gaps.values(), spans, resolution)
    end = end_of(ledgers)
    for other in arrangements(drawn, random.Random(seed)):
        counts["other orders"] += 1
        if end_of(run(other.inputs, other.cuts, changes)) != end:
            faults.append(f"another end in another order: cuts {other.cuts}")
    faults += [f"a gap goes from {before} to {after}" for before, after in changes - GAP_CHANGES.keys()]
    return counts, [f"history({seed}): {fault}" for fault in faults]


INVARIANTS = {
    "is not UNKNOWN": "true windows outside reported bounds and UNKNOWN",
    "is certain of": "certain parts outside the truth",
    "is CONFIRMED, and nothing": "false CONFIRMED windows",
    "longer than the resolution": "off-time counted as PROVEN or INFERRED",
    "another end in another order": "other ends after other orders, repeats and cuts",
}
"""What a fault says, and which invariant it breaks; any other is of the simulator's or the states'."""


def test_invariants(capsys: pytest.CaptureFixture[str]) -> None:
    """What is reported holds what was true, claims nothing that was not, and depends on no order."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with ProcessPoolExecutor(2) as pool:
        for each, found in pool.map(faults_of, range(HISTORIES), chunksize=50):
            counts += each
            faults += found
    with capsys.disabled():
        print(f"\n{', '.join(f'{count:,} {name}' for name, count in counts.items())}: {len(faults)} faults")
        for word, what in INVARIANTS.items():
            print(f"  {sum(word in fault for fault in faults):,} {what}")
    assert not faults[:20]
    assert counts["gaps"] > HISTORIES / 2, "the histories are empty words"


def test_the_histories_have_everything() -> None:
    """Gaps are opened and closed by every kind of evidence that can."""
    opened: Counter[tuple[str | None, str | None]] = Counter()
    for seed in range(300):
        for ledger in run(history(seed).inputs).values():
            opened.update((gap.opened_by_kind, gap.closed_by_kind) for gap in ledger.gaps.values())
    kinds = {"settings_event", "settings_poll", "feed_answer", "canary"}
    assert {kind for kind, _ in opened} == kinds
    assert {kind for _, kind in opened} >= {None, ACTIVITY, *kinds}
