import gzip
import io
import json
import random
from collections.abc import Callable

import orjson
import pytest

from auditgap import feedfiles
from auditgap.core.inputs import SETTINGS_TYPE, Rejection

ONE = '{"id":"a1","type":"t","created_at":"2026-01-01T00:00:00Z"}'
TWO = '{"id":"a2", "type":"t", "created_at":"2026-01-01T00:00:01Z", "n":1.10, "u":"é\u2028]}"}'
SETTINGS = f'{{"id":"s1","type":"{SETTINGS_TYPE}","compliance_api_enabled":false}}'


class Slow(io.BytesIO):
    """A pipe that gives its content in small pieces."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._sizes = random.Random(most)
        self._most = most

    def read1(self, _size: int | None = -1, /) -> bytes:
        """Give a few bytes."""
        return super().read(self._sizes.randint(1, self._most))


def read(content: str | bytes) -> list[feedfiles.Found]:
    """Read content, once as a file and once in small pieces: it makes no difference."""
    packed = content.encode() if isinstance(content, str) else content
    found = list(feedfiles.read(io.BytesIO(packed)))
    assert list(feedfiles.read(Slow(packed, 7))) == found
    return found


def texts(content: str | bytes) -> list[str]:
    """Give the text of each item, and the detail of each rejection."""
    return [record.detail if isinstance(record, Rejection) else raw for _, _, raw, record in read(content)]


def pretty(*values: object) -> str:
    """Write values over several lines each."""
    return "\n".join(json.dumps(value, indent=2) for value in values)


def page(*items: str) -> str:
    """Write the API's page object."""
    return f'{{"data":[{",".join(items)}],"has_more":true,"first_id":"a1","last_id":null}}'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"{ONE}\n{TWO}\n", id="ndjson"),
        pytest.param(f"{ONE}\n{TWO}", id="ndjson without a last line break"),
        pytest.param(f"\r\n{ONE}\r\n\r\n  \t\r\n{TWO}  \r\n", id="ndjson with CRLF and blank lines"),
        pytest.param(f"\ufeff{ONE}\n\ufeff{TWO}\n", id="ndjson with byte order marks"),
        pytest.param(f"[{ONE},{TWO}]", id="array"),
        pytest.param(f"\ufeff\n[\n  {ONE},\n  {TWO}\n]\n", id="array, an item a line"),
        pytest.param(f"[{ONE}]\n[{TWO}]", id="arrays one after another"),
        pytest.param(page(ONE, TWO), id="page"),
        pytest.param(f"{page(ONE)}\n{page()}\n{page(TWO)}\n", id="page a line"),
        pytest.param(f"{page(ONE)}{page(TWO)}", id="pages on one line"),
        pytest.param(f'{{\n  "has_more": false,\n  "data": [\n    {ONE},\n    {TWO}\n  ]\n}}\n', id="page over lines"),
        pytest.param(f'{{\n"data": [\n{ONE}\n]}}\n{{\n"data": [\n{TWO}]\n}}', id="pages over lines"),
        pytest.param(f'{{"links":{{"data":[1]}},"data":[{ONE},{TWO}],"z":{{"y":"}}"}}}}', id="page of a later API"),
        pytest.param(f"{ONE}{TWO}", id="objects on one line"),
        pytest.param(f"{ONE}\n[{TWO}]", id="object, then array"),
        pytest.param(f"{ONE}\n{page(TWO)}", id="object, then page"),
    ],
)
@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_every_form_gives_the_same_items(content: str, packed: Callable[[bytes], bytes]) -> None:
    """The same two activities come out of every form, plain or gzip, each with its text byte for byte as it came."""
    found = read(packed(content.encode()))
    assert [raw for _, _, raw, _ in found] == [ONE, TWO]
    assert [record for *_, record in found] == [json.loads(ONE), json.loads(TWO)]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b" \r\n\t", b"[]", b"[ ]\n", page().encode(), gzip.compress(b"", mtime=0)]
)
def test_nothing_gives_nothing(content: bytes) -> None:
    """Empty files, arrays and pages hold no item and no fault."""
    assert read(content) == []


def test_places_are_lines_and_items() -> None:
    """An NDJSON line is named by its line, an item of an array or page by its line and its number."""
    assert [found[:2] for found in read(f"{ONE}\n\n{TWO}\n")] == [(1, 0), (3, 0)]
    assert [found[:2] for found in read(f"\n[\n{ONE},\n\n{TWO}]")] == [(3, 1), (5, 2)]
    assert [found[:2] for found in read(f"{page(ONE, TWO)}\n{page(ONE)}")] == [(1, 1), (1, 2), (2, 1)]
    assert (feedfiles.where(3, 0), feedfiles.where(3, 2)) == ("line 3", "line 3, item 2")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"id":"x",', "not JSON"),
        ('{"id":"x', "not JSON"),
        ("{broken}", "not JSON"),
        ('ated_at":"x"}', "not JSON"),
        ("]", "not JSON"),
        ("}", "not JSON"),
        ('{"a":1]', "not JSON"),
        ('{"x":NaN}', "not JSON"),
        ('{"x":-Infinity}', "not JSON"),
        (f'{{"x":{"9" * 5000}}}', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 3000 + "1" + "}" * 3000, "not JSON"),
        (b'{"x":"\xff"}', "not UTF-8"),
        (b"\xc3(", "not UTF-8"),
    ],
)
def test_a_bad_line_costs_only_itself(bad: str | bytes, reason: str) -> None:
    """A line that cannot be read is reported with its reason, and the lines around it go through."""
    line = bad if isinstance(bad, bytes) else bad.encode()
    before, fault, after = read(b"\n".join((ONE.encode(), line, TWO.encode())))
    assert (before[2], after[2]) == (ONE, TWO)
    assert fault[0] == 2
    assert isinstance(fault[3], Rejection)
    assert fault[3].reason == "not_json"
    assert reason in fault[3].detail


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param('{"x":"\\ud800"}', id="half of a surrogate pair"),
        pytest.param('{"x":1,"x":2}', id="a key twice"),
        pytest.param('{"x":123456789012345678901234567890}', id="an integer of 97 bits"),
        pytest.param('{"x":"\\u0000"}', id="a zero character"),
        pytest.param('{"data":[1],"id":"a"}', id="an activity that has data"),
        pytest.param(f'{{"type":"{SETTINGS_TYPE}","data":[],"has_more":true}}', id="a settings event like a page"),
        pytest.param('{"data":null,"has_more":false}', id="a page without a list"),
        pytest.param('{"type":"error","error":{"message":"x"}}', id="an error of the API"),
    ],
)
def test_odd_json_goes_through_as_it_is(odd: str) -> None:
    """What is JSON, however odd, is an item with its text as it came, by line and in an array."""
    assert texts(f"{ONE}\n{odd}\n{TWO}") == [ONE, odd, TWO]
    assert texts(f"[{ONE},{odd},{TWO}]") == [ONE, odd, TWO]


def test_values_that_are_no_objects_are_items() -> None:
    """Numbers, texts and null are handed on: the core says what they are not."""
    assert [record for *_, record in read('12\n"a"\nnull\n[1,[2]]')] == [12, "a", None, 1, [2]]


@pytest.mark.parametrize("bad", ['{"x":NaN}', '{"x":tru}', '{"id":"b" "c"}', '{"x":"\\q"}'])
def test_a_bad_item_costs_only_itself(bad: str) -> None:
    """An item of an array or page whose brackets are whole is reported alone, on one line or over several."""
    for content in (f"[{ONE},{bad},{TWO}]", page(ONE, bad, TWO), f"[\n{ONE},\n{bad},\n{TWO}\n]"):
        first, fault, last = texts(content)
        assert (first, last) == (ONE, TWO)
        assert fault.startswith("not JSON")


@pytest.mark.parametrize("cut", ['{"id":"b","type":"t', '{"id":"b",', '{"id":{"x":[', '{"id":"b"]}'])
def test_after_a_broken_item_reading_goes_on_at_the_next_line(cut: str) -> None:
    """In an array of an item a line, an item that was cut off takes no other with it."""
    first, fault, last = texts(f"[\n  {ONE},\n  {cut}\n  {TWO}\n]\n")
    assert (first, last) == (ONE, TWO)
    assert fault.endswith("reading goes on at line 4")


def test_what_is_not_closed_is_told() -> None:
    """An array or page that ends in the middle gives its items, and says that it was cut off."""
    for content in (f"[{ONE},{TWO}", f"[{ONE},{TWO},", f'{{"data":[{ONE},{TWO}', page(ONE, TWO)[:-5]):
        *items, fault = texts(content)
        assert items == [ONE, TWO]
        assert "cut off" in fault
    assert texts(f"[{ONE},{TWO[:-9]}") == [ONE, "not JSON: unterminated string; nothing after it is read"]


@pytest.mark.parametrize(
    "content",
    [
        f"{ONE}\n{SETTINGS[:-5]}\n{TWO}",
        f"{ONE}\n{SETTINGS[:-1]},NaN}}\n{TWO}",
        f"[\n{ONE},\n{SETTINGS[:-5]}\n{TWO}\n]",
        f"[{ONE},{SETTINGS[:-5]}",
    ],
)
def test_a_lost_settings_event_is_named(content: str) -> None:
    """Where a text that cannot be read speaks of the compliance settings, the report says so."""
    assert any("the feed may be off" in text for text in texts(content))


def test_a_gzip_that_was_cut_off_gives_what_it_holds() -> None:
    """Whole lines in front of a cut go through; the cut is reported at its line."""
    lines = b"\n".join(b'{"id":"%032x"}' % random.Random(number).getrandbits(128) for number in range(20_000))
    *found, last = feedfiles.read(io.BytesIO(gzip.compress(lines)[:-1000]))
    assert len(found) > 10_000
    assert [raw.encode() for _, _, raw, _ in found] == lines.split(b"\n")[: len(found)]
    assert last[0] == len(found) + 1
    assert isinstance(last[3], feedfiles.CutOff)
    assert "cut off" in last[3].detail


def test_gzip_members_and_padding_are_one_file() -> None:
    """Logs that were appended to a gzip file member by member, or padded with zeros, are read through."""
    members = gzip.compress(f"{ONE}\n".encode()) + gzip.compress(TWO.encode()) + b"\0" * 512
    assert texts(members) == [ONE, TWO]


def test_something_behind_a_gzip_is_reported() -> None:
    """A last line that is whole goes through, and what follows the packed data is a fault."""
    text, fault = texts(gzip.compress(ONE.encode()) + b"more")
    assert text == ONE
    assert "followed by something else" in fault


def test_a_gzip_with_a_wrong_sum_is_reported() -> None:
    """Packed data whose sum is not right is a fault, and whole lines long before its end go through."""
    lines = b"\n".join(b'{"id":"%032x"}' % random.Random(number).getrandbits(128) for number in range(50_000))
    *found, last = feedfiles.read(io.BytesIO(gzip.compress(lines)[:-8] + bytes(8)))
    assert len(found) > 10_000
    assert isinstance(last[3], feedfiles.CutOff)
    assert "damaged" in last[3].detail


@pytest.mark.parametrize("content", [ONE.encode("utf-16"), ONE.encode("utf-16-be"), b"\x7fELF\0\0\0", b"(\xb5/\xfd\0"])
def test_what_is_no_text_is_one_fault(content: bytes) -> None:
    """UTF-16 and binary files are refused in one line, not in thousands."""
    (found,) = read(content)
    assert isinstance(found[3], feedfiles.CutOff)


def test_an_error_while_reading_is_reported() -> None:
    """A file that can no longer be read gives what was read, and the system's reason."""

    class Failing(io.BytesIO):
        def read1(self, _size: int | None = -1, /) -> bytes:
            if data := super().read(70):
                return data
            raise OSError(5, "Input/output error")

    *_, last = feedfiles.read(Failing(f"{ONE}\n{TWO}".encode()))
    assert isinstance(last[3], feedfiles.CutOff)
    assert "Input/output error" in last[3].detail


@pytest.mark.parametrize("form", ["ndjson", "array", "pretty array", "page", "pretty pages"])
def test_large_files_are_read_in_pieces(form: str) -> None:
    """Items that lie across the pieces in which a large file is read come out whole, each once."""
    records = [{"id": f"a{number}", "text": "x" * (number % 997)} for number in range(2000)]
    content = {
        "ndjson": b"\n".join(map(orjson.dumps, records)),
        "array": orjson.dumps(records),
        "pretty array": pretty(records).encode(),
        "page": orjson.dumps({"data": records, "has_more": False}),
        "pretty pages": pretty({"data": records[:900]}, {"data": records[900:]}).encode(),
    }[form]
    assert [record for *_, record in feedfiles.read(io.BytesIO(content))] == records


def test_ndjson_is_not_held_as_a_whole() -> None:
    """The first lines come out before the last ones are read."""

    class Endless(io.BytesIO):
        def read1(self, _size: int | None = -1, /) -> bytes:
            return f"{ONE}\n".encode() * 10

    found = feedfiles.read(Endless())
    assert [next(found)[2] for _ in range(1000)] == [ONE] * 1000


def test_damage_is_never_silent() -> None:
    """Whatever single byte is changed, dropped or added: reading ends, and every other line is there or reported."""
    chance = random.Random(7)
    lines = [f'{{"id":"a{number}","type":"t","x":["é",{{"y":"\\""}}]}}'.encode() for number in range(6)]
    for _ in range(2000):
        damaged = chance.randrange(6)
        line = bytearray(lines[damaged])
        at = chance.randrange(len(line))
        match chance.randrange(3):
            case 0:
                line[at] = chance.choice(b'{}[]",:\\x\xff')
            case 1:
                del line[at]
            case _:
                line.insert(at, chance.choice(b'{}[]",:\\x'))
        # The first line decides how the file is read: one that is no longer whole may begin a document.
        if damaged == 0:
            continue
        content = b"\n".join(bytes(line) if number == damaged else each for number, each in enumerate(lines))
        found = read(content)
        assert {number for number, *_ in found} == {1, 2, 3, 4, 5, 6}
        assert [raw.encode() for number, _, raw, _ in found if number != damaged + 1] == [
            each for number, each in enumerate(lines) if number != damaged
        ]
