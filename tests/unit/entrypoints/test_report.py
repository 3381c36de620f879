"""`auditgap report` without a broker: wrong use is one line, and both pages say the same and let nothing through."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.core.making import act, at
from tests.unit.core.test_report import HOUR, evidence, report, taken, window

from auditgap.core.report import OUTSIDE, STATES, Scope, build
from auditgap.core.times import text_of
from auditgap.entrypoints import report_page
from auditgap.entrypoints.cli import cli
from auditgap.entrypoints.report_page import Facts, Items, Lines, Table, document, html, markdown

DAY = ("--from", "2026-11-01T00:00:00Z", "--to", "2026-11-02T00:00:00Z")
EVIL = 'org_"><script>alert(1)</script>|`*[x](http://example.com)\n<b>'


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(DAY, "one of --organization ID, --feed ID and --all", id="about nobody"),
        pytest.param(("--all", "--feed", "x", *DAY), "one of --organization ID", id="about two"),
        pytest.param(("--all", *DAY[:2]), "--from TIME and --to TIME", id="no end"),
        pytest.param(("--all", "--from", "2026-11-01", *DAY[2:]), "--from takes a time with a zone", id="no zone"),
        pytest.param(("--all", *DAY[:2], "--to", "soon"), "--to takes a time with a zone", id="no time"),
        pytest.param(("--all", "--from", DAY[3], "--to", DAY[1]), "--from has to lie before --to", id="backwards"),
        pytest.param(("--all", "--from", DAY[1], "--to", DAY[1]), "--from has to lie before --to", id="empty"),
        pytest.param(("--all", "verify", "FILE"), "do not go with `report verify`", id="options of the other"),
        pytest.param(("verify", "FILE"), "it is not JSON", id="no report"),
        pytest.param(("verify", "OTHER"), "is no report of", id="other JSON"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    """What cannot be done is one line, with exit status 2."""
    (tmp_path / "FILE").write_text("# a report in Markdown")
    (tmp_path / "OTHER").write_text('{"format": 99}')
    paths = [str(tmp_path / each) if each in {"FILE", "OTHER"} else each for each in arguments]
    result = CliRunner().invoke(cli, ["report", *paths])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


# --- pages ------------------------------------------------------------------------------------------------------------


def whole(shape: dict[str, Any]) -> dict[str, Any]:
    """Add what the command knows."""
    return shape | {
        "auditgap_version": "1.2.3",
        "produced_at": text_of(at(5 * HOUR)),
        "inputs": [{"topic": "t", "topic_id": "id", "partition": 0, "begin": 0, "end": 9, "worker": 9}],
        "history_ranges": [{"topic": "h", "topic_id": "id", "partition": 0, "begin": 0, "end": 3}],
        "records": {"read": 9, "not_used": {"not_avro": 2}},
        "ticks": {"read": 4, "gone_before": text_of(at(HOUR))},
        "latest_differences": [],
    }


def made(organization: str = "org_1", **fields: Any) -> dict[str, Any]:
    """Make a report that has something of everything."""
    run = taken(*window(organization), act("sign in", 60, organization_id=None))
    return whole(report(run, 0, 5 * HOUR, named=frozenset({"org_never"}), **fields))


class Reader(HTMLParser):
    """Reads the text of a page, and the names of its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element and its attributes."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)


def texts(blocks: list[report_page.Block]) -> set[str]:
    """Every text of a document."""
    found: set[str] = set()
    for block in blocks:
        match block:
            case Facts(title, rows):
                found |= {title, *(cell for row in rows for cell in row)}
            case Table(head, rows):
                found |= {*head, *(cell for row in rows for cell in row)}
            case Items(lines):
                found |= set(lines)
            case Lines():
                pass  # a drawing of what the tables say
            case _:
                found |= {block.text, *getattr(block, "lines", ())}
    return found - {""}


def test_both_pages_say_all() -> None:
    """Every text of the document is on both pages; the answer comes before the windows, and these before the method."""
    blocks = document(made())
    page, lines = html(blocks), markdown(blocks)
    read = Reader(page).texts
    unmarked = re.sub(r"\\(.)", r"\1", lines)
    for text in texts(blocks):
        assert any(text in each for each in read), text
        assert text in unmarked, text
    for each in (unescape(page), lines):
        order = [each.index(word) for word in ("was audited", "Windows", "Population", "Method", "report verify")]
        assert order == sorted(order)
    for state in STATES.values():
        assert state in unmarked
    assert OUTSIDE["never_seen"] in unmarked


def test_nothing_gets_out_of_a_page() -> None:
    """Ids are other people's text: on neither page are they more than text, nor does the page load or run anything."""
    plain, evil = document(made()), document(made(EVIL))
    page = Reader(html(evil))
    assert page.tags == Reader(html(plain)).tags
    assert page.attributes == Reader(html(plain)).attributes
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "a", "b"})
    assert "http" not in re.sub(r"http://example\.com|http-equiv", "", html(evil))
    lines = markdown(evil)
    assert len(lines.splitlines()) == len(markdown(plain).splitlines())
    assert not re.search(r"(?<!\\)[<`\[]", lines)
    for row in lines.splitlines():
        if row.startswith("| organization"):
            assert len(re.findall(r"(?<!\\)\|", row)) == 11
    assert "http\\://" in lines


def test_what_does_not_hold_stands_at_the_top() -> None:
    """Where what was published is not what the inputs give, both pages say so before the figures."""
    run = taken(*window())
    shape = whole(report(run, 0, 5 * HOUR, history=[]))
    blocks = document(shape)
    for page in (html(blocks), markdown(blocks)):
        assert page.index("does not hold") < page.index("PROVEN")
        assert "it is not published" in page
    assert "does not hold" not in markdown(document(made()))


@pytest.mark.parametrize(
    ("micros", "least", "most"),
    [
        (999, "0 s", "0.001 s"),
        (60_000_001, "1 min", "1 min 1 s"),
        (3_600_000_000, "1 h", "1 h"),
        (3_600_000_001, "1 h", "1 h 1 min"),
        (86_400_000_001, "1 d", "1 d 1 h"),
        (59_999_999, "59.999 s", "1 min"),
    ],
)
def test_lengths(micros: int, least: str, most: str) -> None:
    """A length that speaks for the feed is never more than it is, one that speaks against it never less."""
    assert (report_page._length(micros), report_page._at_most(micros)) == (least, most)


def test_bounds() -> None:
    """A window that is open, or of which the beginning is not known, says so."""
    run = taken(*window()[:-13])
    shape = whole(build(Scope("all"), at(0), at(5 * HOUR), evidence(run)))
    assert "not yet: it is open" in markdown(document(shape))
    shape["windows"][0] |= {"opening": "AT_LATEST", "opened_at": None}
    assert "at the latest; not known since when" in markdown(document(shape))
    shape["windows"][0] |= {"opening": "BETWEEN", "opened_at": text_of(at(3))}
    assert "off from | between 2026-11-01 12:00:03 UTC and" in markdown(document(shape))
