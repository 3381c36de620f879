"""How gaps and alerts look: as JSON, and for a person. Nothing here writes."""

import json
import re
import textwrap
from typing import Any, Final

import click
import orjson

from auditgap.core import times
from auditgap.core.fold import EVENTS
from auditgap.core.inputs import name_of
from auditgap.core.records import Alert, Emission, Gap, Severity, Status, as_dict, as_json

WIDTH: Final = 100

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_STATE_STYLE: Final[dict[str, dict[str, Any]]] = {
    "OPEN": {"fg": "red", "bold": True},
    "CLOSED": {"fg": "yellow", "bold": True},
}
_AUDITED_STYLE: Final[dict[str, dict[str, Any]]] = {
    "NO": {"fg": "red", "bold": True},
    "UNKNOWN": {"fg": "yellow", "bold": True},
    "YES": {"fg": "green"},
}

STALE: Final = 3600 * times.SECOND
"""A worker that runs says UNKNOWN long before the last proof is so old."""

_SEVERITY_STYLE: Final[dict[Severity, dict[str, Any]]] = {
    Severity.CRITICAL: {"fg": "red", "bold": True},
    Severity.HIGH: {"fg": "red"},
    Severity.INFORMATIONAL: {"fg": "green"},
}


def json_of(shape: object) -> str:
    """Write JSON on one line. Text that is not Unicode (half of a surrogate pair) is escaped, as it came."""
    try:
        return orjson.dumps(shape).decode()
    except TypeError:
        return json.dumps(shape, separators=(",", ":"))


def shape_of(record: Emission) -> dict[str, Any]:
    """Give a gap or alert under its schema's field names, times as ISO 8601 UTC."""
    return as_json(as_dict(record))


def clean(text: str) -> str:
    """Make text that others wrote harmless for a terminal: no control characters, nothing that turns its direction."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def moment(micros: int | None) -> str:
    """Write a time for a person."""
    if micros is None:
        return "an unknown time"
    return times.text_of(micros).replace("T", " ").removesuffix("Z").removesuffix(".000000") + " UTC"


def counted(number: int, noun: str) -> str:
    """Write a count of things."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def length(seconds: float) -> str:
    """Write a duration for a person, in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"
    for size, name, next_size, next_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size:,} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{whole} s"


def _between(earliest: int | None, latest: int | None) -> str:
    if earliest == latest:
        return f"{moment(latest)}, exactly"
    if earliest is None:
        return f"{moment(latest)} at the latest, the beginning is not known"
    return f"between {moment(earliest)} and {moment(latest)}"


def _actor(kind: str | None, name: str | None, address: str | None) -> str:
    who = " ".join(part for part in (kind, name) if part) or "not known"
    return clean(f"{who} from {address}" if address else who)


def _activity(identifier: str | None, at: int | None, *, exact: bool, none: str) -> str:
    if identifier is None:
        return none if exact else "not known for certain any more"
    return f"{clean(identifier)} at {moment(at)}"


def _kind(kind: str | None) -> str:
    return clean((kind or "").replace("_", " "))


def _authority(gap: Gap) -> str:
    """Say what the policy says of who opened a gap."""
    if gap.change_window_id is not None:
        return f", listed, in change window {clean(gap.change_window_id)}"
    return {"LISTED": ", listed in the policy", "NOT_LISTED": ", not listed in the policy"}.get(
        gap.authorised_at_open, ""
    )


def gap_lines(gap: Gap, now: int) -> list[str]:
    """Show a gap as a block of lines. `now` tells how long an open one has lasted."""
    subject = name_of(gap.subject)
    rows = [("off since" if gap.closed_at is None else "off from", _between(gap.opened_at, gap.opened_at_latest))]
    if gap.closed_at is not None:
        rows.append(("back on", _between(gap.closed_at_earliest, gap.closed_at)))
    if gap.duration_seconds is not None:
        rows.append(("not audited", length(gap.duration_seconds)))
    elif gap.state == "OPEN" and gap.opened_at is not None:
        rows.append(("not audited", f"{length(max(0, now - gap.opened_at) // times.SECOND)} so far"))
    if gap.opened_by_kind in EVENTS:
        off = (gap.opened_actor_type, gap.opened_actor_email or gap.opened_actor_id, gap.opened_actor_ip)
        rows.append(("switched off by", f"{_actor(*off)}{_authority(gap)}"))
    elif gap.opened_by_id is not None:
        rows.append(("found off by", f"{_kind(gap.opened_by_kind)} {clean(gap.opened_by_id)}"))
    if gap.closed_by_kind in EVENTS:
        on = (gap.closed_actor_type, gap.closed_actor_email or gap.closed_actor_id, gap.closed_actor_ip)
        rows.append(("switched on by", _actor(*on)))
    elif gap.closed_by_id is not None:
        rows.append(("found on by", f"{_kind(gap.closed_by_kind)} {clean(gap.closed_by_id)}"))
    exact = gap.bracket_exact
    rows.append(("last id before", _activity(gap.last_activity_id, gap.last_activity_at, exact=exact, none="none")))
    if gap.closed_at is not None:
        first = _activity(gap.first_activity_id, gap.first_activity_at, exact=exact, none="none yet")
        rows.append(("first id after", first))
    if gap.activity_inside_count:
        ids = dict.fromkeys((gap.activity_inside_first_id, gap.activity_inside_last_id))
        rows.append(
            ("recorded inside", f"{gap.activity_inside_count:,}: {clean(' to '.join(each for each in ids if each))}")
        )
    if gap.access_inside_count:
        ids = dict.fromkeys((gap.access_inside_first_id, gap.access_inside_last_id))
        rows.append(
            ("Anthropic's access", f"{gap.access_inside_count:,}: {clean(' to '.join(each for each in ids if each))}")
        )
    if gap.inherited_from:
        rows.append(("inherited from", f"gap {gap.inherited_from}"))
    if gap.superseded_by:
        rows.append(("superseded by", gap.superseded_by))
    rows.append(("gap", f"{gap.gap_id}, revision {gap.revision}, incident {gap.incident_id}"))
    state = click.style(f"{gap.state:<6}", **_STATE_STYLE.get(gap.state, {"dim": True}))
    head = f"{state}  {click.style(clean(subject), bold=True)}  {gap.cause}, {gap.confidence.lower()}"
    return [head, *(f"  {name:<17}{text}" for name, text in rows)]


def alert_lines(alert: Alert) -> list[str]:
    """Show an alert as a line, and its sentence below it."""
    severity = click.style(f"{alert.severity.name:<13}", **_SEVERITY_STYLE.get(alert.severity, {}))
    subject = alert.organization_id or name_of(alert.subject)
    at = alert.occurred_at if alert.occurred_at is not None else alert.detected_at
    notes = alert.status.lower()
    if alert.revision > 1:
        notes += f", revision {alert.revision}"
    if alert.historical:
        notes += ", historical"
    head = f"{moment(at)}  {severity} {click.style(alert.kind, bold=True)}  {clean(subject)}  ({notes})"
    sentence = textwrap.wrap(
        clean(alert.summary),
        WIDTH,
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [head, *sentence]


def status_lines(status: Status, now: int) -> list[str]:
    """Show a status as a line, and what it rests on below it. `now` tells how old its last proof is."""
    subject = name_of(status.subject)
    audited = click.style(f"{status.audited:<8}", **_AUDITED_STYLE.get(status.audited, {}))
    since = "" if status.since is None else f" since {moment(status.since)}"
    reason = status.reason.lower().replace("_", " ")
    head = f"{audited} {click.style(clean(subject), bold=True)}  {clean(reason)}{since}"
    rows = [f"last proof {moment(status.last_proof_at)}" if status.last_proof_at else "nothing was ever recorded"]
    if status.last_observation_at:
        rows.append(f"collector heard of {moment(status.last_observation_at)}")
    if status.open_gap_id:
        rows.append(f"gap {status.open_gap_id}")
    elif status.evidence_id:
        rows.append(f"by {clean(status.evidence_id)}")
    if status.audited == "YES" and status.last_proof_at and now - status.last_proof_at > STALE:
        rows.append("said long ago: is a worker running?")
    return [head, f"         {'; '.join(rows)}"]


def lines_of(emission: Emission, now: int) -> list[str]:
    """Show a gap, an alert or a status."""
    match emission:
        case Gap():
            return gap_lines(emission, now)
        case Alert():
            return alert_lines(emission)
    return status_lines(emission, now)


def by_opening(gap: Gap) -> tuple[int, bool, str]:
    """Sort key: the time a gap opened, at the earliest; what members inherit comes after it."""
    opened = gap.opened_at if gap.opened_at is not None else gap.opened_at_latest
    return opened or 0, gap.inherited_from is not None, gap.gap_id
