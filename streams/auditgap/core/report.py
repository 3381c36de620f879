"""The coverage report: how much of a period is known to have been audited, the windows in it, and whether they agree.

It rests on a replay of the inputs through `core.shard` (`Evidence`), not on what a worker remembers; what the worker
published is compared with it. `build` gives the report as JSON has it. Times are ISO 8601 UTC texts, lengths whole
microseconds, periods half-open: `from` belongs to it, `to` does not.

| key | what it holds |
|---|---|
| `scope` | `kind` (organization, feed, all) and `id` |
| `from`, `to`, `as_of` | the period; `as_of` is the append time of the last record or tick: what is later is UNKNOWN |
| `coverage` | of all organizations of the population together (`of`; the feeds, or parents, if none is) |
| `members` | the population: each with `coverage`, `spans` (its states, without a hole), `feeds`, policy in force |
| `outside` | who is not in it, or of whom nothing is proven, and `why` (a key of OUTSIDE) |
| `others` | how many organizations and feeds were seen that were not asked for |
| `windows` | the gaps that touch the period: fields of schemas/gap.avsc, and those of `_window` |
| `policy` | the versions of the policy that were there, with their digests |
| `history` | of the gap history: revisions, and a digest over them, for each subject and all (`digest`); `faults` |
| `differences` | where the published gaps are not what the replay gives |

Coverage: `period`, `proven`, `inferred`, `unknown`, `off`, `lower` (proven and inferred), `upper` (and unknown), each
`…_microseconds`; `lower_percent` is rounded down, `upper_percent` up; `longest_unproven` is the longest stretch in
which nothing is PROVEN (of several, with whose it is); a window shorter than `resolution_microseconds` cannot be
excluded in what counts as audited (null where nothing does).
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from auditgap.core import times
from auditgap.core.coverage import INFERRED, OFF, PROVEN, UNKNOWN, Span
from auditgap.core.inputs import FEED_SUBJECT_PREFIX, canonical, organization_of, parent_of
from auditgap.core.ledger import Ledger
from auditgap.core.policy import ChangeWindow, Policy, in_force
from auditgap.core.recent import PROOF_LIMIT
from auditgap.core.records import Alert, Gap, as_dict, as_json, digest

STATES: Final = {
    PROVEN: "between two records of the feed, or canaries seen, that are no further apart than "
    f"{PROOF_LIMIT // times.SECOND // 60} minutes",
    INFERRED: "between two such proofs that are further apart, and nothing speaks against it",
    UNKNOWN: "before the first proof and after the last; where a window may have begun or ended; not seen",
    OFF: "in the certain part of a window: the feed was switched off",
}
"""The four states, one of which every instant has."""

OUTSIDE: Final = {
    "no_proof_in_period": "no proof of recording in the period; it counts in the population all the same",
    "first_seen_later": "nothing was heard of it before the end of the period",
    "never_seen": "the policy names it, but no record of it was ever seen",
}
"""Why an organization or a feed is outside the population, or nothing is proven of it."""

KINDS: Final = ("organizations", "feeds", "parents")
"""What a subject can be. The coverage of all together is that of the first kind that is there."""

STAMPS: Final = frozenset({"incident_id", "revision", "produced_at", "history_sequence", "previous_digest"})
"""Fields of a gap that may depend on how its inputs arrived; they are no part of what is compared."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What was asked for: an organization, a feed (and the organizations that were read from it), or all."""

    kind: str
    id: str | None = None

    def holds(self, subject: str, feeds: Iterable[str]) -> bool:
        """Whether a subject belongs to it, by its name and the feeds that its records name."""
        match self.kind:
            case "organization":
                return subject == self.id
            case "feed":
                return subject == f"{FEED_SUBJECT_PREFIX}{self.id}" or any(each == self.id for each in feeds)
            case _:
                return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a replay gave, and what was published.

    `ledgers` are by subject, as they stand after the last record; `feeds` names the feeds of each subject's records;
    `named` are the organizations of the policy. `as_of` is the append time of the last record or tick. `compared` are
    the gaps that stood when the replay had taken in what the worker had; `awaited` names those for whom the worker had
    mail that it had not taken in, of whom nothing is compared. `history` holds the published revisions in the order of
    the topic. `kept_since` is the append time from which on a subject's inputs are still there, for those of which
    older ones are gone.
    """

    ledgers: Mapping[str, Ledger]
    feeds: Mapping[str, frozenset[str]]
    named: frozenset[str]
    as_of: int
    compared: Mapping[str, Gap]
    history: Sequence[Gap]
    kept_since: Mapping[str, int]
    awaited: frozenset[str] = frozenset()


# --- how much ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a period has which state, in microseconds; of several subjects, their sums."""

    proven: int = 0
    inferred: int = 0
    unknown: int = 0
    off: int = 0
    longest_unproven: tuple[int, int] | None = None
    resolution: int | None = None

    @property
    def period(self) -> int:
        """All of it."""
        return self.upper + self.off

    @property
    def lower(self) -> int:
        """What was audited at the least."""
        return self.proven + self.inferred

    @property
    def upper(self) -> int:
        """What was audited at the most."""
        return self.lower + self.unknown


def measure(spans: Iterable[Span]) -> Coverage:
    """Add up spans that follow each other without a hole.

    Between two proofs a window may hide: in PROVEN one shorter than the proof limit, in INFERRED one as long as that.
    """
    sums = dict.fromkeys(STATES, 0)
    longest: tuple[int, int] | None = None
    begun: int | None = None
    resolution: int | None = None
    for span in spans:
        length = span.end - span.begin
        sums[span.state] += length
        if span.state in (PROVEN, INFERRED):
            resolution = max(resolution or 0, min(length, PROOF_LIMIT) if span.state == PROVEN else length)
        if span.state == PROVEN:
            begun = None
            continue
        begun = span.begin if begun is None else begun
        if longest is None or span.end - begun > longest[1] - longest[0]:
            longest = begun, span.end
    return Coverage(
        proven=sums[PROVEN],
        inferred=sums[INFERRED],
        unknown=sums[UNKNOWN],
        off=sums[OFF],
        longest_unproven=longest,
        resolution=resolution,
    )


def together(parts: Iterable[Coverage]) -> Coverage:
    """Add up several subjects: sums, the longest stretch of any, the coarsest resolution."""
    parts = list(parts)
    return Coverage(
        proven=sum(each.proven for each in parts),
        inferred=sum(each.inferred for each in parts),
        unknown=sum(each.unknown for each in parts),
        off=sum(each.off for each in parts),
        longest_unproven=max(
            (each.longest_unproven for each in parts if each.longest_unproven is not None), key=_long, default=None
        ),
        resolution=max((each.resolution for each in parts if each.resolution is not None), default=None),
    )


def _long(stretch: tuple[int, int] | None) -> int:
    return 0 if stretch is None else stretch[1] - stretch[0]


def within(spans: Iterable[Span], begin: int, end: int) -> list[Span]:
    """Cut spans, sorted, to a period; what none of them speaks of is UNKNOWN."""
    found: list[Span] = []

    def put(until: int, state: str) -> None:
        moment = found[-1].end if found else begin
        until = min(until, end)
        if until <= moment:
            return
        if found and found[-1].state == state:
            found[-1] = Span(found[-1].begin, until, state)
        else:
            found.append(Span(moment, until, state))

    for span in spans:
        put(span.begin, UNKNOWN)
        put(span.end, span.state)
    put(end, UNKNOWN)
    return found


def overlaid(spans: Iterable[Span], gap: Gap, as_of: int) -> Iterator[Span]:
    """Let a published gap, whose inputs are gone, speak: OFF where it is certain, UNKNOWN where it may have been."""
    last = as_of if gap.closed_at is None else gap.closed_at
    first = gap.opened_at_latest if gap.opened_at is None and gap.opened_at_latest is not None else gap.opened_at
    certain: tuple[int, int] | None = None
    if gap.confidence == "CONFIRMED" and gap.opened_at_latest is not None:
        certain = gap.opened_at_latest, as_of if gap.closed_at_earliest is None else gap.closed_at_earliest
    for span in spans:
        cuts = {span.begin, span.end, last, *(() if first is None else (first,)), *(certain or ())}
        moments = sorted(cut for cut in cuts if span.begin <= cut <= span.end)
        for begin, end in pairwise(moments):
            if span.state == OFF or (certain is not None and certain[0] <= begin and end <= certain[1]):
                yield Span(begin, end, OFF)
            elif end <= last and (gap.opened_at is None or first is None or begin >= first):
                yield Span(begin, end, UNKNOWN)
            else:
                yield Span(begin, end, span.state)


PLACES: Final = 4
"""Decimal places of a percentage."""


def percent(part: int, whole: int, *, up: bool = False) -> str:
    """Write a share as a percentage, never more than it is (with `up`: never less)."""
    scaled, rest = divmod(part * 100 * 10**PLACES, whole) if whole else (0, 0)
    whole_part, decimals = divmod(scaled + (up and rest > 0), 10**PLACES)
    return f"{whole_part}.{decimals:0{PLACES}d}"


# --- what was published -----------------------------------------------------------------------------------------------


def chain_faults(revisions: Iterable[Gap]) -> list[str]:
    """Say where one subject's published revisions do not follow each other: a hole, a stranger, an edited one."""
    by_sequence: dict[int, list[Gap]] = defaultdict(list)
    for gap in revisions:
        by_sequence[gap.history_sequence].append(gap)
    faults = []
    expected = 1
    digests: set[str | None] = {None}
    for sequence, here in sorted(by_sequence.items()):
        if sequence > expected:
            gone = f"sequence {expected}" if sequence == expected + 1 else f"sequences {expected} to {sequence - 1}"
            faults.append(f"{gone} missing before {_named(here[0])}")
        if len(here) > 1:
            faults.append(f"sequence {sequence} is there {len(here)} times: {', '.join(map(_named, here))}")
        if sequence == expected:
            faults += [
                f"sequence {sequence}, {_named(each)}, does not name the digest of the one before it"
                for each in here
                if each.previous_digest not in digests
            ]
        expected, digests = sequence + 1, {digest(as_dict(each)) for each in here}
    return faults


def _named(gap: Gap) -> str:
    return f"{gap.gap_id} revision {gap.revision}"


def latest_of(revisions: Iterable[Gap]) -> dict[str, Gap]:
    """Give the latest revision of each gap."""
    latest: dict[str, Gap] = {}
    for gap in revisions:
        known = latest.get(gap.gap_id)
        if known is None or gap.revision >= known.revision:
            latest[gap.gap_id] = gap
    return latest


def standing(gaps: Iterable[Gap]) -> dict[str, Gap]:
    """Leave out the gaps that are superseded or retracted."""
    return {gap.gap_id: gap for gap in gaps if gap.state not in ("SUPERSEDED", "RETRACTED")}


def apart(found: Gap, published: Gap) -> list[str]:
    """Name the fields in which two gaps differ, stamps left out, with both values."""
    ours, theirs = as_json(as_dict(found)), as_json(as_dict(published))
    return [
        f"{name} is {theirs[name]}, the replay gives {value}"
        for name, value in ours.items()
        if name not in STAMPS and value != theirs[name]
    ]


def _differences(scope: Scope, evidence: Evidence, published: Mapping[str, Gap]) -> Iterator[dict[str, Any]]:
    said = standing(published.values())
    for gap_id in sorted(evidence.compared.keys() | said.keys()):
        found, theirs = evidence.compared.get(gap_id), said.get(gap_id)
        gap = found or theirs
        if gap is None or not scope.holds(gap.subject, evidence.feeds.get(gap.subject, ())):
            continue
        if gap.subject in evidence.awaited:
            continue
        if theirs is None:
            yield _difference(gap, "the replay finds it; it is not published, or as superseded or retracted only")
        elif _is_kept(theirs, evidence):
            continue
        elif found is None:
            yield _difference(gap, "it is published, but the replay does not find it")
        elif faults := apart(found, theirs):
            yield _difference(gap, "; ".join(faults))
    for ledger in evidence.ledgers.values():
        for gap in standing(ledger.gaps.values()).values():
            compared = gap.gap_id in evidence.compared and gap.subject not in evidence.awaited
            new = gap.gap_id not in published and not compared
            if new and scope.holds(gap.subject, evidence.feeds.get(gap.subject, ())):
                yield _difference(gap, "it is not published: the worker has not come that far")


def _difference(gap: Gap, what: str) -> dict[str, Any]:
    return {"gap_id": gap.gap_id, **_whose(gap.subject), "what": what}


def _is_kept(gap: Gap, evidence: Evidence) -> bool:
    """Whether a published gap rests on inputs that are gone: then the history alone speaks of it."""
    since = evidence.kept_since.get(gap.subject)
    rests_on = (gap.first_evidence_at, gap.opened_at, gap.last_activity_at)
    return since is not None and any(moment is not None and moment < since for moment in rests_on)


# --- the report -------------------------------------------------------------------------------------------------------


def build(scope: Scope, begin: int, end: int, evidence: Evidence) -> dict[str, Any]:
    """Give the report of a period; see the module for its keys. Raises ValueError where it is empty."""
    if begin >= end:
        raise ValueError("the period is empty")
    published = latest_of(evidence.history)
    known = {gap_id for ledger in evidence.ledgers.values() for gap_id in ledger.gaps}
    # What only the history still tells of is believed where it says off: from anyone.
    kept: dict[str, list[Gap]] = defaultdict(list)
    for gap in standing(published.values()).values():
        if gap.gap_id not in known:
            kept[gap.subject].append(gap)
    subjects = evidence.ledgers.keys() | kept.keys()
    asked = {name for name in subjects if scope.holds(name, evidence.feeds.get(name, ()))}
    members: list[dict[str, Any]] = []
    outside: list[dict[str, Any]] = []
    measured: dict[str, Coverage] = {}
    windows: list[tuple[Gap, dict[str, Any]]] = []
    raised = _raised(evidence.ledgers.values())
    for name in sorted(asked, key=lambda each: (KINDS.index(_kind(each)), each)):
        ledger = evidence.ledgers.get(name) or Ledger(name)
        spans = ledger.coverage(evidence.as_of)
        starts = [span.begin for span in spans[:1]] + [_opened(gap) for gap in kept[name]]
        if not starts or min(starts) >= end:
            outside.append({**_whose(name), "why": "first_seen_later"})
            continue
        spans = within(spans, begin, end)
        for gap in kept[name]:
            spans = within(overlaid(spans, gap, evidence.as_of), begin, end)
        coverage = measured[name] = measure(spans)
        proofs = ledger.recent.proofs().runs
        if not any(first < end and last >= begin for first, last in proofs):
            outside.append({**_whose(name), "why": "no_proof_in_period"})
        ruled = in_force(ledger.policies, min(end, evidence.as_of))
        members.append(
            {
                **_whose(name),
                "feeds": sorted(evidence.feeds.get(name, ())),
                "policy_version": ruled.version if ruled else None,
                "policy_organization_id": ruled.organization_id if ruled else None,
                "coverage": _shape(coverage),
                "spans": [
                    {"begin": times.text_of(s.begin), "end": times.text_of(s.end), "state": s.state} for s in spans
                ],
            }
        )
        own = [(gap, True) for gap in standing(ledger.gaps.values()).values()] + [(gap, False) for gap in kept[name]]
        for gap, recomputed in own:
            if _opened(gap) < end and _closed(gap, evidence.as_of) > begin:
                shape = _window(gap, ledger, raised, begin, end, evidence.as_of, published.get(gap.gap_id))
                windows.append((gap, {**shape, "recomputed": recomputed}))
    outside += [
        {**_whose(name), "why": "never_seen"}
        for name in sorted(evidence.named - subjects)
        if scope.kind == "all" or name == scope.id
    ]
    windows.sort(key=lambda each: (_opened(each[0]), each[0].inherited_from is not None, each[0].gap_id))
    of = next((kind for kind in KINDS if any(_kind(name) == kind for name in measured)), KINDS[0])
    counted = {name: each for name, each in measured.items() if _kind(name) == of}
    total = _shape(together(counted.values()))
    if total["longest_unproven"] is not None:
        longest = max(counted, key=lambda name: _long(counted[name].longest_unproven))
        total["longest_unproven"] |= _whose(longest)
    shapes = [shape for _, shape in windows]
    return {
        "scope": {"kind": scope.kind, "id": scope.id},
        "from": times.text_of(begin),
        "to": times.text_of(end),
        "as_of": times.text_of(evidence.as_of),
        "coverage": {
            "of": of,
            "members": len(counted),
            **total,
            "excused_microseconds": sum(shape["excused_microseconds"] for shape in shapes),
        },
        "members": members,
        "outside": outside,
        "others": len(subjects - asked),
        "windows": shapes,
        "policy": _policies(evidence.ledgers[name] for name in sorted(asked) if name in evidence.ledgers),
        "history": history_shape([gap for gap in evidence.history if scope.kind == "all" or gap.subject in asked]),
        "differences": list(_differences(scope, evidence, published)),
    }


def _shape(coverage: Coverage) -> dict[str, Any]:
    names = ("period", "proven", "inferred", "unknown", "off", "lower", "upper")
    longest = coverage.longest_unproven
    return {
        **{f"{name}_microseconds": getattr(coverage, name) for name in names},
        "lower_percent": percent(coverage.lower, coverage.period),
        "upper_percent": percent(coverage.upper, coverage.period, up=True),
        "longest_unproven": None
        if longest is None
        else {
            "begin": times.text_of(longest[0]),
            "end": times.text_of(longest[1]),
            "microseconds": longest[1] - longest[0],
        },
        "resolution_microseconds": coverage.resolution,
    }


def _whose(subject: str) -> dict[str, str | None]:
    return {
        "organization_id": organization_of(subject),
        "feed_id": subject.removeprefix(FEED_SUBJECT_PREFIX) if _kind(subject) == "feeds" else None,
        "parent_id": parent_of(subject),
    }


def _kind(subject: str) -> str:
    """Say what a subject is, in the plural."""
    if organization_of(subject) is not None:
        return KINDS[0]
    return KINDS[1] if parent_of(subject) is None else KINDS[2]


def _opened(gap: Gap) -> int:
    """The earliest time of a gap, as far as it is known."""
    return next((each for each in (gap.opened_at, gap.opened_at_latest) if each is not None), gap.first_evidence_at)


def _closed(gap: Gap, as_of: int) -> int:
    """The latest time of a gap; after its opening, so that the shortest one lies in a period too."""
    return max(_opened(gap) + 1, as_of if gap.closed_at is None else gap.closed_at)


def _raised(ledgers: Iterable[Ledger]) -> dict[str, dict[str, Alert]]:
    """Find the alerts of each gap and incident by their ids: those of an inherited gap are its parent's or feed's."""
    found: dict[str, dict[str, Alert]] = defaultdict(dict)
    for ledger in ledgers:
        for alert in ledger.alerts.values():
            for name in filter(None, (alert.gap_id, alert.incident_id)):
                found[name][alert.alert_id] = alert
    return found


def _window(
    gap: Gap,
    ledger: Ledger,
    raised: Mapping[str, Mapping[str, Alert]],
    begin: int,
    end: int,
    as_of: int,
    published: Gap | None,
) -> dict[str, Any]:
    """Write a gap for the report.

    `opening` and `closing` say how certain the bounds are (EXACT, BETWEEN, AT_LATEST, AT_EARLIEST, UNKNOWN, OPEN).
    `in_period_microseconds` is its conservative length within the period, `excused_microseconds` how much of that lies
    in its change window; `published` its stamps in the history; `recomputed` is false where its inputs are gone.
    """
    opened, closed = max(_opened(gap), begin), min(_closed(gap, as_of), end)
    planned = _planned(gap, ledger.policies)
    excused = 0 if planned is None else min(closed, planned.end) - max(opened, planned.start)
    alerts = {
        alert_id: alert
        for name in filter(None, (gap.gap_id, gap.inherited_from, gap.incident_id))
        for alert_id, alert in raised.get(name, {}).items()
    }.values()
    closing = "OPEN" if gap.closed_at is None else _certainty(gap.closed_at_earliest, gap.closed_at)
    return {
        **{name: value for name, value in as_json(as_dict(gap)).items() if name not in STAMPS},
        "opening": _certainty(gap.opened_at, gap.opened_at_latest),
        "closing": closing,
        "in_period_microseconds": max(0, closed - opened),
        "excused_microseconds": max(0, excused),
        "alerts": [_alert(each) for each in sorted(alerts, key=lambda each: (each.detected_at, each.alert_id))],
        "published": None
        if published is None
        else {
            **{name: value for name, value in as_json(as_dict(published)).items() if name in STAMPS},
            "digest": digest(as_dict(published)),
        },
    }


def _certainty(earliest: int | None, latest: int | None) -> str:
    if earliest is None:
        return "UNKNOWN" if latest is None else "AT_LATEST"
    if latest is None:
        return "AT_EARLIEST"
    return "EXACT" if earliest == latest else "BETWEEN"


def _planned(gap: Gap, policies: Iterable[Policy]) -> ChangeWindow | None:
    """Find the change window that a gap opened in."""
    return next(
        (
            window
            for policy in policies
            for window in policy.rules.change_windows
            if window.id == gap.change_window_id and window.start <= _opened(gap) <= window.end
        ),
        None,
    )


def _alert(alert: Alert) -> dict[str, Any]:
    names = ("alert_id", "kind", "severity", "status", "occurred_at", "detected_at", "historical")
    shape = as_json(as_dict(alert))
    return {name: shape[name] for name in names}


def _policies(ledgers: Iterable[Ledger]) -> list[dict[str, Any]]:
    versions = {(each.organization_id or "", each.version): each for ledger in ledgers for each in ledger.policies}
    return [
        {
            "organization_id": each.organization_id,
            "version": each.version,
            "digest": each.digest,
            "author": each.author,
            "appended_at": times.text_of(each.append_time),
        }
        for _, each in sorted(versions.items())
    ]


def history_shape(history: Iterable[Gap]) -> dict[str, Any]:
    """Give what of the gap history goes into the report."""
    by_subject: dict[str, list[Gap]] = defaultdict(list)
    for gap in history:
        by_subject[gap.subject].append(gap)
    chains = {
        name: [digest(as_dict(gap)) for gap in sorted(revisions, key=lambda gap: gap.history_sequence)]
        for name, revisions in by_subject.items()
    }
    return {
        "revisions": sum(map(len, chains.values())),
        "digest": hashlib.sha256(canonical(chains).encode()).hexdigest(),
        "subjects": [
            {**_whose(name), "revisions": len(chain), "last_digest": chain[-1]}
            for name, chain in sorted(chains.items())
        ],
        "faults": [
            {**_whose(name), "what": fault}
            for name, revisions in sorted(by_subject.items())
            for fault in chain_faults(revisions)
        ],
    }
