"""How a coverage report looks: one document of blocks, written as Markdown or as HTML. Nothing here reads or computes.

Ids, names and reasons are other people's text: every text is escaped where it is written. The HTML page stands by
itself: no script, nothing loaded from anywhere.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

from auditgap.core import times
from auditgap.core.coverage import INFERRED, OFF, PROVEN, UNKNOWN
from auditgap.core.inputs import name_of, subject_of
from auditgap.core.recent import PROOF_LIMIT
from auditgap.core.report import OUTSIDE, STATES, percent
from auditgap.entrypoints import show

Shape = dict[str, Any]

_SHOWN: Final = 200
"""Stretches that are listed; a report of JSON lists them all."""


# --- blocks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Title:
    """What the document is about, and a line below it."""

    text: str
    below: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The one thing that a reader wants to know; `lines` explain it. `bad` where something does not hold."""

    text: str
    lines: tuple[str, ...]
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """A command to type."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Named facts about one thing."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; `numbers` are the columns of figures. A first cell that is a state is marked in its colour."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = field(default=frozenset())


@dataclass(frozen=True, slots=True)
class Lines:
    """The period as a line for each row: (name, stretches as (share of the period, state)). Drawn in HTML only."""

    begin: str
    end: str
    rows: tuple[tuple[str, tuple[tuple[float, str], ...]], ...]


Block = Title | Answer | Heading | Text | Items | Code | Facts | Table | Lines


# --- the document -----------------------------------------------------------------------------------------------------


def document(report: Shape) -> list[Block]:
    """Lay a report out: the answer first, then the windows, who it is about, how it was made and how to check it."""
    return [
        *_answer(report),
        *_windows(report),
        *_not_audited(report),
        *_population(report),
        *_method(),
        *_again(report),
    ]


def _answer(report: Shape) -> list[Block]:
    coverage, scope = report["coverage"], report["scope"]
    whose = {
        "organization": f"organization {scope['id']}",
        "feed": f"feed {scope['id']}",
        "all": "all organizations",
    }[scope["kind"]]
    faults = len(report["history"]["faults"]) + len(report["differences"]) + len(report["latest_differences"])
    period = coverage["period_microseconds"]
    low, high = coverage["lower_percent"], coverage["upper_percent"]
    lines = []
    if coverage["members"] > 1:
        lines.append(f"Of {coverage['members']} {coverage['of']} together, each for the whole period.")
    off = coverage["off_microseconds"]
    lines.append(
        f"Known to have been off: {_at_most(off)}. {_windows_counted(report)}."
        if off or report["windows"]
        else "No window is known in which it was off."
    )
    if (unknown := coverage["unknown_microseconds"]) > 0:
        lines.append(f"Not known: {_at_most(unknown)}, nothing proves either.")
    longest, resolution = coverage["longest_unproven"], coverage["resolution_microseconds"]
    if longest:
        lines.append(
            f"Longest stretch without proof: {_at_most(longest['microseconds'])}, "
            f"{_time(longest['begin'])} to {_time(longest['end'])}"
            f"{f', of {_whose(longest)}' if coverage['members'] > 1 else ''}."
        )
    lines.append(
        f"Windows shorter than {_at_most(resolution)} cannot be excluded in what counts as audited."
        if resolution
        else "Nothing in the period is proven."
    )
    if excused := coverage["excused_microseconds"]:
        lines.append(f"Inside a planned change: {_length(excused)}; it was not audited all the same.")
    if gone := report["ticks"]["gone_before"]:
        lines.append(
            f"Ticks before {_time(gone)} are gone: what time raised before then may be missing among the alerts."
        )
    if report["as_of"] < report["to"]:
        lines.append(f"Nothing is known of the time after {_time(report['as_of'])}, when the last record was read.")
    share = f"{low} % was audited" if low == high else f"Between {low} % and {high} % was audited"
    blocks: list[Block] = [
        Title(
            f"Audit coverage of {whose}",
            f"{_time(report['from'])} to {_time(report['to'])} (the end not included), "
            f"as of {_time(report['as_of'])}; written {_time(report['produced_at'])} by auditgap "
            f"{report['auditgap_version']}",
        ),
        Answer(share if period else "Nothing was seen in the period", tuple(lines)),
    ]
    if faults:
        told = [
            *(f"{_whose(each)}: {each['what']}" for each in report["history"]["faults"]),
            *(f"gap {each['gap_id']}, {_whose(each)}: {each['what']}" for each in report["differences"]),
            *(f"gap {each['gap_id']}: {each['what']}" for each in report["latest_differences"]),
        ]
        blocks.append(
            Answer(
                "What was published does not hold",
                (
                    "The figures here are of the inputs, read again; the published gaps or their history differ:",
                    *told[:_SHOWN],
                    *([f"and {len(told) - _SHOWN:,} more"] if len(told) > _SHOWN else []),
                ),
                bad=True,
            )
        )
    blocks.append(
        Table(
            ("state", "share", "length", "exactly, in seconds", "meaning"),
            tuple(
                (
                    state,
                    f"{percent(micros, period, up=state in (UNKNOWN, OFF))} %",
                    (_at_most if state in (UNKNOWN, OFF) else _length)(micros),
                    _seconds(micros),
                    meaning,
                )
                for state, meaning in STATES.items()
                for micros in (coverage[f"{state.lower()}_microseconds"],)
            ),
            frozenset({1, 2, 3}),
        )
    )
    begin, end = _micros(report["from"]), _micros(report["to"])
    if report["members"]:
        blocks.append(
            Lines(
                _time(report["from"]),
                _time(report["to"]),
                tuple(
                    (
                        _whose(member),
                        tuple(
                            ((_micros(span["end"]) - _micros(span["begin"])) / (end - begin), span["state"])
                            for span in member["spans"]
                        ),
                    )
                    for member in report["members"][:_SHOWN]
                ),
            )
        )
    return blocks


def _windows_counted(report: Shape) -> str:
    inherited = sum(each["inherited_from"] is not None for each in report["windows"])
    told = f"{show.counted(len(report['windows']), 'window')} in the period"
    return f"{told}, {inherited:,} of them inherited from a parent or feed" if inherited else told


def _windows(report: Shape) -> list[Block]:
    blocks: list[Block] = [Heading("Windows")]
    if not report["windows"]:
        return [*blocks, Text("None is known in the period.")]
    whose = {window["gap_id"]: _whose(window) for window in report["windows"]}
    for number, window in enumerate(report["windows"], 1):
        title = f"{number}. {_whose(window)}: {window['cause']}, {window['confidence'].lower()}, {window['state']}"
        blocks.append(Facts(title, tuple(_window_rows(window, whose))))
    return blocks


def _window_rows(window: Shape, whose: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Write a window; `whose` says of each gap of the report whose it is."""
    yield "off from", _bound(window["opening"], window["opened_at"], window["opened_at_latest"])
    yield "back on", _bound(window["closing"], window["closed_at_earliest"], window["closed_at"])
    yield "not audited", f"{_at_most(window['in_period_microseconds'])} of the period at the most"
    yield "shown off by", _evidence(window, "opened")
    listed = {"LISTED": "listed in the policy", "NOT_LISTED": "not listed in the policy", "UNKNOWN": "not known"}
    version = "no policy in force" if window["policy_version"] is None else f"policy version {window['policy_version']}"
    yield (
        "authorised",
        f"when it opened: {listed.get(window['authorised_at_open'], window['authorised_at_open'])} ({version}); "
        f"now: {listed.get(window['authorised_now'], window['authorised_now'])}",
    )
    if window["change_window_id"] is not None:
        yield (
            "change window",
            f"{window['change_window_id']} ({window['change_window_reason']}); "
            f"{_length(window['excused_microseconds'])} of it excused",
        )
    if window["closed_at"] is not None:
        yield "shown on by", _evidence(window, "closed")
    none = "none" if window["bracket_exact"] else "not known for certain any more"
    yield "last id before", _activity(window, "last_activity", none)
    if window["closed_at"] is not None:
        yield "first id after", _activity(window, "first_activity", none)
    if window["activity_inside_count"]:
        ids = dict.fromkeys((window["activity_inside_first_id"], window["activity_inside_last_id"]))
        yield "recorded inside", f"{window['activity_inside_count']:,}: {' to '.join(each for each in ids if each)}"
    if window["access_inside_count"]:
        ids = dict.fromkeys((window["access_inside_first_id"], window["access_inside_last_id"]))
        yield "Anthropic's access", f"{window['access_inside_count']:,}: {' to '.join(each for each in ids if each)}"
    if window["inherited_from"]:
        source = window["inherited_from"]
        yield "inherited from", f"{whose[source]}: gap {source}" if source in whose else f"gap {source}"
    yield (
        "alerts",
        "; ".join(
            f"{each['kind']} ({each['severity'].lower()}, {each['status'].lower()}) heard {_time(each['detected_at'])}"
            for each in window["alerts"]
        )
        or "none",
    )
    published = window["published"]
    yield (
        "record",
        f"{window['gap_id']}, not in the gap history"
        if published is None
        else f"{window['gap_id']}, revision {published['revision']}, incident {published['incident_id']}, "
        f"sequence {published['history_sequence']} of the history, digest {published['digest']}",
    )
    if not window["recomputed"]:
        yield "rests on", "the gap history only: its inputs are no longer there, or it was never in them"


def _bound(certainty: str, earliest: str | None, latest: str | None) -> str:
    match certainty:
        case "EXACT":
            return f"{_time(latest)}, exactly"
        case "BETWEEN":
            return f"between {_time(earliest)} and {_time(latest)}"
        case "AT_LATEST":
            return f"{_time(latest)} at the latest; not known since when"
        case "AT_EARLIEST":
            return f"{_time(earliest)} at the earliest; not known from when on for certain"
        case "OPEN":
            return "not yet: it is open"
    return "not known"


def _evidence(window: Shape, side: str) -> str:
    who = [window[f"{side}_actor_{part}"] for part in ("type", "email", "id", "ip", "user_agent")]
    kind = (window[f"{side}_by_kind"] or "nothing known").replace("_", " ")
    named = f"{kind} {window[f'{side}_by_id'] or ''}".strip()
    return f"{named}, by {', '.join(each for each in who if each)}" if any(who) else named


def _activity(window: Shape, side: str, none: str) -> str:
    return none if window[f"{side}_id"] is None else f"{window[f'{side}_id']} at {_time(window[f'{side}_at'])}"


def _not_audited(report: Shape) -> list[Block]:
    stretches = [
        (span["state"], _whose(member), _time(span["begin"]), _time(span["end"]), _at_most(_long(span)))
        for member in report["members"]
        for span in member["spans"]
        if span["state"] in (UNKNOWN, OFF)
    ]
    blocks: list[Block] = [Heading("Stretches that were off, or of which nothing is known")]
    if not stretches:
        return [*blocks, Text("None.")]
    blocks.append(Table(("state", "of", "from", "to", "length"), tuple(stretches[:_SHOWN]), frozenset({4})))
    if len(stretches) > _SHOWN:
        blocks.append(Text(f"And {len(stretches) - _SHOWN:,} more: the report of --json lists them all."))
    return blocks


def _population(report: Shape) -> list[Block]:
    rows = tuple(
        (
            _whose(member),
            f"{each['lower_percent']} %",
            f"{each['upper_percent']} %",
            *(
                (_at_most if state in (UNKNOWN, OFF) else _length)(each[f"{state.lower()}_microseconds"])
                for state in STATES
            ),
            _at_most(each["longest_unproven"]["microseconds"]) if each["longest_unproven"] else "none",
            _at_most(each["resolution_microseconds"]) if each["resolution_microseconds"] else "none",
            ", ".join(member["feeds"]) or "not named",
        )
        for member in report["members"]
        for each in (member["coverage"],)
    )
    blocks: list[Block] = [
        Heading("Population"),
        Text(
            "The organizations, parents and feeds that the records or the topology name and that were heard of before "
            f"the end of the period. The answer above is of the {report['coverage']['of']} among them. A feed is named "
            "by records without an organization, such as sign-ins."
        ),
        Table(
            ("of", "at least", "at most", *map(str.lower, STATES), "longest unproven", "resolution", "feeds"),
            rows,
            frozenset(range(1, 9)),
        ),
    ]
    if report["outside"]:
        blocks.append(Text("Outside it, or without proof:"))
        blocks.append(Items(tuple(f"{_whose(each)}: {OUTSIDE[each['why']]}" for each in report["outside"])))
    if report["others"]:
        blocks.append(
            Text(f"Seen on the topics, but not asked for: {report['others']:,} organizations, parents and feeds.")
        )
    return blocks


def _method() -> list[Block]:
    return [
        Heading("Method"),
        Text(
            "Every instant of the period has one of four states: "
            + "; ".join(f"{state}: {meaning}" for state, meaning in STATES.items())
            + "."
        ),
        Text(
            "Audited at the least are PROVEN and INFERRED, at the most UNKNOWN as well. Silence is never taken for "
            "audited: what lies before the first record that is kept, and after the last proof, is UNKNOWN. Lengths "
            "are sums of whole microseconds; what speaks for the feed is rounded down, what speaks against it up."
        ),
        Text(
            "Between two proofs a window may hide that is shorter than the time between them: the resolution is the "
            "longest such time in what counts as audited. In PROVEN stretches it is at most "
            f"{_length(PROOF_LIMIT)}."
        ),
        Text(
            "The report was computed by reading all input records again, in the order of the broker's append times, "
            "independently of what the worker remembers; time went on with the ticks that workers wrote. The gaps that "
            "stood where the worker's group stood were compared, field by field, with the latest revisions in the gap "
            "history; its revisions were checked to follow each other without a hole, each with the digest of the one "
            "before."
            "follow each other without a hole, each with the digest of the one before."
        ),
    ]


def _again(report: Shape) -> list[Block]:
    history, counts = report["history"], report["records"]
    unused = ", ".join(f"{name} {count:,}" for name, count in counts["not_used"].items()) or "none"
    return [
        Heading("To do it again"),
        Text("A report of --json holds the same figures and everything below; this recomputes and compares it:"),
        Code("auditgap report verify FILE.json"),
        Facts(
            "What it rests on",
            (
                ("auditgap", report["auditgap_version"]),
                ("records read", f"{counts['read']:,}"),
                ("not used", unused),
                ("ticks", f"{report['ticks']['read']:,}"),
                ("gap history", f"{show.counted(history['revisions'], 'revision')}, digest {history['digest']}"),
            ),
        ),
        Table(
            ("topic", "partition", "from offset", "to before offset", "worker stood at", "topic id"),
            tuple(
                (
                    each["topic"],
                    str(each["partition"]),
                    str(each["begin"]),
                    str(each["end"]),
                    "" if each.get("worker") is None else str(each["worker"]),
                    each["topic_id"],
                )
                for each in (*report["inputs"], *report["history_ranges"])
            ),
            frozenset({1, 2, 3, 4}),
        ),
        *(
            [
                Table(
                    ("policy of", "version", "author", "published", "digest"),
                    tuple(
                        (
                            each["organization_id"] or "all others",
                            str(each["version"]),
                            each["author"],
                            _time(each["appended_at"]),
                            each["digest"],
                        )
                        for each in report["policy"]
                    ),
                    frozenset({1}),
                )
            ]
            if report["policy"]
            else [Text("There was no policy: who was authorised is not known.")]
        ),
    ]


def _whose(shape: Shape) -> str:
    return name_of(subject_of(shape["organization_id"], shape["feed_id"], shape["parent_id"]))


def _micros(text: str) -> int:
    return times.parse(text) or 0


def _long(span: Shape) -> int:
    return _micros(span["end"]) - _micros(span["begin"])


def _time(text: str | None) -> str:
    return show.moment(None if text is None else _micros(text))


def _length(micros: int) -> str:
    """Write a length, never more than it is."""
    return show.length(micros // 1000 / 1000)


def _at_most(micros: int) -> str:
    """Write a length, never less than it is: one that speaks against the feed."""
    whole = micros // times.SECOND
    step = 3600 if whole >= 86_400 else 60 if whole >= 3600 else 1 if whole >= 60 else 0
    unit = step * times.SECOND or 1000
    return show.length(-(-micros // unit) * unit / times.SECOND)


def _seconds(micros: int) -> str:
    return f"{micros // times.SECOND:,}.{micros % times.SECOND:06d}"


# --- Markdown ---------------------------------------------------------------------------------------------------------

_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|~&!]|:(?=//))")


def _md(text: str) -> str:
    return _MARKS.sub(r"\\\1", show.clean(text))


def markdown(blocks: Iterable[Block]) -> str:
    """Write a document as Markdown."""
    return "\n\n".join(part for block in blocks if (part := _markdown(block)))


def _markdown(block: Block) -> str:
    match block:
        case Title(text, below):
            return f"# {_md(text)}\n\n{_md(below)}"
        case Answer(text, lines):
            return "\n".join([f"**{_md(text)}.**", "", *(f"- {_md(line)}" for line in lines)])
        case Heading(text):
            return f"## {_md(text)}"
        case Text(text):
            return _md(text)
        case Items(texts):
            return "\n".join(f"- {_md(text)}" for text in texts)
        case Code(text):
            return f"    {text}"
        case Facts(title, rows):
            return "\n".join([f"### {_md(title)}", "", *_md_table(("", ""), rows)])
        case Table(head, rows, numbers):
            return "\n".join(_md_table(head, rows, numbers))
        case Lines():
            return ""


def _md_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int] = frozenset()
) -> Iterable[str]:
    yield f"| {' | '.join(map(_md, head))} |"
    yield f"| {' | '.join('---:' if at in numbers else '---' for at in range(len(head)))} |"
    for row in rows:
        yield f"| {' | '.join(map(_md, row))} |"


# --- HTML -------------------------------------------------------------------------------------------------------------

_COLOURS: Final = {PROVEN: "#17693f", INFERRED: "#8cc7a1", UNKNOWN: "#d9d4c5", OFF: "#b3261e"}

_STYLE: Final = """
@page { size: A4; margin: 16mm 14mm; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; color: #1c1b19; background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem; border-bottom: 2px solid #1c1b19;
  break-after: avoid; }
h3 { font-size: 1rem; margin: 0 0 .4rem; overflow-wrap: anywhere; break-after: avoid; }
.below { color: #57534a; margin: 0 0 1.4rem; }
.answer { border-left: 6px solid #17693f; background: #f3f6f3; padding: 1rem 1.2rem; margin: 0 0 1.2rem;
  break-inside: avoid; }
.answer.bad { border-color: #b3261e; background: #fbf1f0; }
.answer strong { display: block; font-size: 1.45rem; line-height: 1.3; margin-bottom: .4rem; }
.answer p { margin: .15rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 0 0 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid #ddd8cc; }
th { font-weight: 600; color: #57534a; border-bottom-color: #8a8578; }
td { overflow-wrap: anywhere; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr { break-inside: avoid; }
.facts { border: 1px solid #ddd8cc; padding: .9rem 1.1rem .4rem; margin: 0 0 1rem; break-inside: avoid; }
.facts th { width: 9.5rem; white-space: nowrap; border-bottom-color: #ddd8cc; }
.facts tr:last-child > * { border-bottom: 0; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .45em; border: 1px solid #00000040; }
.state { white-space: nowrap; }
.lines { margin: 0 0 1.2rem; break-inside: avoid; }
.line { display: grid; grid-template-columns: 13rem 1fr; gap: .8rem; align-items: center; margin: .25rem 0;
  font-size: .87rem; }
.line span { overflow-wrap: anywhere; }
.line svg { width: 100%; height: 1.3rem; display: block; border: 1px solid #8a8578; }
.scale { display: flex; justify-content: space-between; color: #57534a; font-size: .8rem; margin-left: 13.8rem; }
pre { background: #f4f2ec; padding: .6rem .9rem; overflow-x: auto; }
@media (max-width: 40rem) { .line { grid-template-columns: 1fr; gap: .1rem; } .scale { margin-left: 0; } }
@media print { body { padding: 0; max-width: none; font-size: 10pt; } .wide { overflow: visible; } }
"""


def _h(text: str) -> str:
    return escape(show.clean(text))


def html(blocks: Iterable[Block]) -> str:
    """Write a document as one HTML page."""
    blocks = list(blocks)
    title = next((block.text for block in blocks if isinstance(block, Title)), "")
    body = "\n".join(map(_html, blocks))
    # Nothing in the page may run or load, whatever slipped through.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_h(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>"
    )


def _html(block: Block) -> str:
    match block:
        case Title(text, below):
            return f'<h1>{_h(text)}</h1>\n<p class="below">{_h(below)}</p>'
        case Answer(text, lines, bad):
            told = "".join(f"<p>{_h(line)}</p>" for line in lines)
            return f'<div class="answer{" bad" if bad else ""}"><strong>{_h(text)}</strong>{told}</div>'
        case Heading(text):
            return f"<h2>{_h(text)}</h2>"
        case Text(text):
            return f"<p>{_h(text)}</p>"
        case Items(texts):
            return f"<ul>{''.join(f'<li>{_h(text)}</li>' for text in texts)}</ul>"
        case Code(text):
            return f"<pre>{_h(text)}</pre>"
        case Facts(title, rows):
            inner = "".join(f'<tr><th scope="row">{_h(name)}</th><td>{_h(text)}</td></tr>' for name, text in rows)
            return f'<div class="facts"><h3>{_h(title)}</h3><table>{inner}</table></div>'
        case Table(head, rows, numbers):
            return _html_table(head, rows, numbers)
        case Lines(begin, end, lines):
            drawn = "".join(f'<div class="line"><span>{_h(name)}</span>{_svg(spans)}</div>' for name, spans in lines)
            scale = f'<div class="scale"><span>{_h(begin)}</span><span>{_h(end)}</span></div>'
            return f'<div class="lines">{drawn}{scale}</div>'


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int]) -> str:
    def cell(tag: str, at: int, text: str) -> str:
        if tag == "td" and at == 0 and text in _COLOURS:
            key = f'<span class="key" style="background:{_COLOURS[text]}"></span>'
            return f'<td class="state">{key}{text}</td>'
        kind = ' class="n"' if at in numbers else ""
        return f"<{tag}{kind}>{_h(text)}</{tag}>"

    top = "".join(cell("th", at, text) for at, text in enumerate(head))
    inner = "".join(f"<tr>{''.join(cell('td', at, text) for at, text in enumerate(row))}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{inner}</tbody></table></div>'


def _svg(spans: Iterable[tuple[float, str]]) -> str:
    """Draw a line of the period. A stretch is drawn at least a thousandth wide: a short window has to be seen."""
    placed, place = [], 0.0
    for share, state in spans:
        placed.append((state == OFF, place, share, state))
        place += share
    # What is off comes last, on top.
    shapes = [
        f'<rect x="{1000 * begin:.3f}" width="{max(1000 * share, 1 if off else 0):.3f}" height="10" '
        f'fill="{_COLOURS[state]}"/>'
        for off, begin, share, state in sorted(placed)
    ]
    return f'<svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{"".join(shapes)}</svg>'
