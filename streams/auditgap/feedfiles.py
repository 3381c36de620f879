"""Reads feed files: NDJSON, a JSON array, the API's page object; gzip or not; several of any kind, one after another.

A file is read in one of two ways, decided by its beginning:

- *by line*, where the first line is a whole JSON value: NDJSON, or one page a line. The fast way, and the one in which
  a broken line costs nothing but itself. An activity's text is kept as it came.
- *by document*, where the first value is an array or goes over several lines. Items are cut out of the text one by
  one, so their text is kept as well, and an array is never held as a whole. After a broken item the next one is looked
  for at the beginning of a line, as far to the right as the broken one began.

Nothing is skipped in silence: what cannot be read becomes a Rejection that says where and why.
"""

import codecs
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final, Protocol

import orjson

from auditgap.core.inputs import SETTINGS_TYPE, Rejection

Found = tuple[int, int, str, object]
"""Line, item in it (0 where the line is the item), the item's JSON text, and what it says: the parsed value, or a
Rejection (the text is then empty)."""


class CutOff(Rejection):
    """The rest of the file could not be read."""

    __slots__ = ()


_CHUNK: Final = 1 << 18
_LONGEST_ITEM: Final = 1 << 27
"""Characters of one item of a document; a page of 5,000 activities has about 5 million."""

_GZIP: Final = b"\x1f\x8b"
_BLANK: Final = b" \t\r\n"


class Source(Protocol):
    """What is read from: a file, or standard input."""

    def read(self, size: int, /) -> bytes | None:
        """Give at most `size` bytes, none at the end."""


class _Broken(Exception):  # noqa: N818 - internal: ends the reading of one file
    """The file cannot be read any further."""


def where(line: int, item: int) -> str:
    """Name a place in a file."""
    return f"line {line}, item {item}" if item else f"line {line}"


def read(source: Source) -> Iterator[Found]:
    """Give everything that is in a feed file."""
    # A pipe's `read1` gives what is there; `read` would wait for a whole chunk.
    reading = _Reading(getattr(source, "read1", source.read))
    try:
        yield from reading.found()
    except _Broken as broken:
        yield reading.line, 0, "", CutOff("not_json", str(broken))


class _Reading:
    """The reading of one file; `line` is where it stands."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        self.line = 1
        self._read = read

    def found(self) -> Iterator[Found]:
        chunks, indent = self._chunks(), b""
        for chunk in chunks:
            if begin := chunk.lstrip(_BLANK):
                chunks = chain([indent + chunk], chunks)
                yield from self._by_document(chunks) if begin[:1] == b"[" else self._by_line(chunks)
                return
            self.line += chunk.count(b"\n")
            indent = (indent + chunk).rpartition(b"\n")[2]

    # --- bytes ------------------------------------------------------------------------------------------------------

    def _more(self) -> bytes:
        try:
            return self._read(_CHUNK) or b""
        except OSError as error:
            raise _Broken(f"reading stops here: {error.strerror or error}") from None

    def _chunks(self) -> Iterator[bytes]:
        """Give the file's text, as bytes without a byte order mark, whatever it is packed in."""
        begin = self._more()
        while 0 < len(begin) < len(codecs.BOM_UTF8) and (more := self._more()):
            begin += more
        packed = iter([begin]) if not begin else chain([begin], iter(self._more, b""))
        chunks = _inflated(packed) if begin[: len(_GZIP)] == _GZIP else packed
        first = next(chunks, b"")
        while 0 < len(first) < len(codecs.BOM_UTF8) and (more := next(chunks, b"")):
            first += more
        if first := first.removeprefix(codecs.BOM_UTF8):
            yield first
        yield from chunks

    # --- by line ----------------------------------------------------------------------------------------------------

    def _lines(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Give line by line, and keep count."""
        parts: list[bytes] = []
        try:
            for chunk in chunks:
                lines = chunk.split(b"\n")
                parts.append(lines[0])
                if len(lines) > 1:
                    yield b"".join(parts)
                    self.line += 1
                    for number in range(1, len(lines) - 1):
                        yield lines[number]
                        self.line += 1
                    parts = [lines[-1]]
        except _Broken as broken:
            if _is_whole(begun := b"".join(parts)):
                yield begun
            raise _Broken(_speaks(str(broken), begun)) from None
        if last := b"".join(parts):
            yield last

    def _by_line(self, chunks: Iterator[bytes]) -> Iterator[Found]:
        loads, first = orjson.loads, True
        lines = self._lines(chunks)
        for line in lines:
            try:
                record = loads(line)
            except orjson.JSONDecodeError as error:
                text = line.strip(_BLANK).removeprefix(codecs.BOM_UTF8)
                if not text:
                    continue
                if first and b"\0" in text:
                    raise _Broken("this is no UTF-8 text, but UTF-16 or packed otherwise than by gzip") from None
                if first and _goes_on(text):
                    yield from self._by_document(chain([line + b"\n"], (each + b"\n" for each in lines)))
                    return
                yield from self._odd_line(text, error)
            else:
                kind = type(record)
                if kind is list or (kind is dict and "data" in record and _is_page(record)):
                    yield from _Text([line], self.line).items(page=kind is dict)
                else:
                    yield self.line, 0, line.strip(_BLANK).decode(), record
            first = False

    def _odd_line(self, line: bytes, error: orjson.JSONDecodeError) -> Iterator[Found]:
        """Read a line that orjson refuses: it is stricter than JSON, and several values on one line are welcome."""
        found = list(_Text([line], self.line).items()) if line[:1] in (b"{", b"[") else []
        if len(found) > 1:
            yield from found
        elif found and found[0][2]:
            yield self.line, 0, *found[0][2:]
        else:
            what = f"not JSON: {error.msg} at character {error.colno}" if _is_utf8(line) else "not UTF-8"
            yield self.line, 0, "", Rejection("not_json", _speaks(what, line))

    # --- by document ------------------------------------------------------------------------------------------------

    def _by_document(self, chunks: Iterator[bytes]) -> Iterator[Found]:
        text = _Text(chunks, self.line)
        try:
            yield from text.items()
        except _Broken as broken:
            raise _Broken(_speaks(str(broken), text.rest)) from None
        finally:
            self.line = text.line


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip: any number of members, as log rotation appends them."""
    data = next(packed)
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            ended = False
            while not ended:
                data = data or next(packed, b"")
                cut_off = not data
                out = member.flush() if cut_off else member.decompress(data, _CHUNK)
                data = member.unconsumed_tail
                if out:
                    yield out
                ended = member.eof
                if cut_off and not ended:
                    raise _Broken("the gzip data ends in the middle: the file is cut off")
        except zlib.error as error:
            raise _Broken(f"the gzip data is damaged: {error}") from None
        data = member.unused_data.lstrip(b"\0")
        while len(data) < len(_GZIP) and (more := next(packed, b"")):
            data = (data + more).lstrip(b"\0")
        if data and data[: len(_GZIP)] != _GZIP:
            raise _Broken("the gzip data is followed by something else")


# --- what a text is ---------------------------------------------------------------------------------------------------


def _is_page(record: dict[str, Any]) -> bool:
    """Whether an object is the API's page: a list under `data`, and nothing that makes it an activity itself."""
    return (
        isinstance(record.get("data"), list)
        and _ACTIVITY_KEYS.isdisjoint(record)
        and record.get("type") != SETTINGS_TYPE
    )


_ACTIVITY_KEYS: Final = frozenset({"id", "created_at"})


def _speaks(detail: str, text: bytes | str) -> str:
    """Say so where a text that is lost may be what all this is about."""
    about = SETTINGS_TYPE.encode() in text if isinstance(text, bytes) else SETTINGS_TYPE in text
    return f"{detail}; it speaks of {SETTINGS_TYPE}: the feed may be off" if about else detail


_STRING: Final = r'"(?:[^"\\\n]|\\[^\n])*+"'
_TOKEN: Final = re.compile(rf'{_STRING}|[\[\]{{}}"]')
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_SEPARATOR: Final = re.compile(r"[ \t\r\n,\ufeff]*")
_WORD: Final = re.compile(r'[^\s,\[\]{}"]+|.', re.DOTALL)


def _goes_on(line: bytes) -> bool:
    """Whether a first line is the beginning of a value over several lines, and not a line that was cut off.

    A line break stands between two tokens; what is cut off is so most likely within one.
    """
    depth, text = 0, line.decode(errors="replace")
    for token in _TOKEN.finditer(text):
        if token[0] == '"':
            return False
        depth += (token[0] in "[{") - (token[0] in "]}")
    return depth > 0 and text[0] == "{" and text[-1] in '[{,:]}"'


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number of it")


_decode: Final = json.JSONDecoder(parse_constant=_no_constant).raw_decode


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "not JSON: " + (error.msg[:1].lower() + error.msg[1:]).removesuffix(" at").removesuffix(" starting")
    return "nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"


class _Text:
    """The text of documents, read piece by piece; `line` is where the item that is looked at begins."""

    def __init__(self, pieces: Iterable[bytes], line: int) -> None:
        self.line = line
        self._pieces = iter(pieces)
        # Bytes that are no UTF-8 become lone surrogates: the one item that has them is refused.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self._counted = 0
        self._lost = False

    @property
    def rest(self) -> str:
        """What was read and not looked at."""
        return self._text[self._at :]

    def items(self, *, page: bool = False) -> Iterator[Found]:
        """Give the items of all arrays and pages, and the objects beside them. `page`: it is one page, and whole."""
        within, item = "", 0
        if page and self._fill():
            within = self._enter_page()
        while begin := self._next():
            if begin == "[" and not within:
                within = "array"
                self._at += 1
            elif begin == "]" and within:
                self._at += 1
                if within == "page" and not self._leave_page():
                    break
                within = ""
            else:
                end, record = self._value()
                if begin == "{" and not within and (isinstance(record, Rejection) or _is_page(record)):
                    within = self._enter_page()
                    if within:
                        continue
                item += 1
                line, text = self.line, self._text[self._at : end]
                if end is None:
                    record = self._skip(record)
                else:
                    self._at = end
                yield line, item, "" if isinstance(record, Rejection) else text, record
        if within and not self._lost:
            yield self.line, item + 1, "", Rejection("not_json", f"the {within} has no end: it is cut off here")

    # --- moving on --------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Read on, at least as much as is left, so that a long item is not looked at again and again."""
        self._count(self._at)
        # The indentation of the item is kept: `_skip` needs it.
        begin = self._text.rfind("\n", max(0, self._at - 1000), self._at)
        begin = self._at if begin < 0 else begin
        rest = self._text[begin:]
        wanted, parts = max(_CHUNK, len(rest)), [rest]
        while wanted > 0 and (piece := next(self._pieces, b"")):
            part = self._decoder.decode(piece)
            wanted -= len(piece)
            parts.append(part)
        self._text, self._at = "".join(parts), self._at - begin
        self._counted = self._at
        return len(parts) > 1

    def _count(self, to: int) -> None:
        self.line += self._text.count("\n", self._counted, to)
        self._counted = to

    def _next(self) -> str:
        """Go to where the next value or bracket begins, and give that character; none at the end."""
        while True:
            if (match := _SEPARATOR.match(self._text, self._at)) is not None:
                self._at = match.end()
            self._count(self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    # --- values -----------------------------------------------------------------------------------------------------

    def _value(self) -> tuple[int | None, Any]:
        """Parse the value that begins here: where it ends (None where that cannot be told), and what it is."""
        while True:
            try:
                record, end = _decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                short = len(self._text) - self._at < _LONGEST_ITEM
                # The first question is a cheap guess, the second the answer.
                if short and self._stopped_at_end(error) and self._fill():
                    continue
                stop = self._end()
                if short and stop is None and self._fill():
                    continue
                text = self._text[self._at : stop or self._at]
                return stop or None, Rejection("not_json", _speaks(_reason(error), text))
            # A number may go on in what is not read yet.
            if end == len(self._text) and self._text[self._at] in "-0123456789" and self._fill():
                continue
            text = self._text[self._at : end]
            if not text.isascii() and not _is_utf8(text):
                return end, Rejection("not_json", _speaks("not UTF-8", text))
            return end, record

    def _stopped_at_end(self, error: Exception) -> bool:
        """Whether parsing failed where the text that was read ends: in its last token."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.pos > len(self._text) - 10 or (
            error.msg.startswith("Unterminated") and "\n" not in self._text[error.pos :]
        )

    def _end(self) -> int | None:
        """Where the value that begins here ends, by its brackets; 0 where they do not tell; None: not read that far."""
        text = self._text
        if text[self._at] not in '[{"':
            match = _WORD.match(text, self._at)
            return match.end() if match and match.end() < len(text) else None
        closing: list[str] = []
        for token in _TOKEN.finditer(text, self._at):
            if (bracket := token[0]) == '"':
                return 0 if "\n" in text[token.end() :] else None
            if bracket in "[{":
                closing.append("]" if bracket == "[" else "}")
            elif bracket in "]}" and closing.pop() != bracket:
                return 0
            if not closing:
                return token.end()
        return None

    def _skip(self, refused: Rejection) -> Rejection:
        """Leave a broken item whose end is not to be told: go to where the next one seems to begin, if it does."""
        begin = self._text.rfind("\n", 0, self._at) + 1
        indent = self._text[begin : self._at]
        next_one = None if indent.strip() else re.compile(rf"\n{indent}(?={{)")
        detail = refused.detail
        self._at += 1
        while True:
            match = next_one.search(self._text, self._at) if next_one else None
            detail = _speaks(refused.detail, self._text[self._at : match.start() if match else None])
            if match:
                self._at = match.end()
                self._count(self._at)
                return Rejection("not_json", f"{detail}; reading goes on at line {self.line}")
            refused = Rejection("not_json", detail) if detail != refused.detail else refused
            self._at = max(self._at, len(self._text) - len(SETTINGS_TYPE) - len(indent) - 1)
            if not self._fill():
                self._at, self._lost = len(self._text), True
                return Rejection("not_json", f"{detail}; nothing after it is read")

    # --- pages ------------------------------------------------------------------------------------------------------

    def _enter_page(self) -> str:
        """Go to the first item under `data` of the object that begins here; if it has none it is no page."""
        text, at = self._text, self._at + 1
        try:
            while True:
                key, at = _decode(text, _after(_SPACE, text, at))
                at = _after(_SPACE, text, at)
                if key in _ACTIVITY_KEYS or text[at] != ":":
                    return ""
                at = _after(_SPACE, text, at + 1)
                if key == "data":
                    if text[at] != "[":
                        return ""
                    self._at = at + 1
                    return "page"
                value, at = _decode(text, at)
                at = _after(_SPACE, text, at)
                if value == SETTINGS_TYPE or text[at] != ",":
                    return ""
                at += 1
        except (ValueError, RecursionError, IndexError, TypeError):
            return ""

    def _leave_page(self) -> bool:
        """Go behind the end of the page whose `data` just ended; False if it has none."""
        depth = 1
        while depth:
            match = _TOKEN.search(self._text, self._at)
            if match is None:
                self._at = len(self._text)
                if not self._fill():
                    return False
                continue
            self._at = match.end()
            depth += (match[0] in "[{") - (match[0] in "]}")
        return True


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _is_utf8(text: str | bytes) -> bool:
    try:
        text.encode() if isinstance(text, str) else text.decode()
    except UnicodeError:
        return False
    return True


def _is_whole(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
