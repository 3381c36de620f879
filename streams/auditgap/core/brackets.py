"""What was recorded around a window and inside it: its bracket, from the index of the newest activities.

Where the index no longer reaches far enough an entry is None and the bracket says that it is not exact: never a wrong
id.
"""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from auditgap.core.fold import Window
from auditgap.core.recent import ALL, end_of, start_of
from auditgap.core.track import entry_of_text, text_of


@dataclass(slots=True)
class Bracket:
    """What was recorded around one window, and inside it: entries of `recent`, None where there is none.

    Before is at or before its certain opening, after at or after its close, inside strictly between. `last_exact` and
    `first_exact` are False where the index no longer reached far enough; the entry is then None.
    """

    last: bytes | None = None
    last_exact: bool = True
    first: bytes | None = None
    first_exact: bool = True
    inside: int = 0
    inside_first: bytes | None = None
    inside_last: bytes | None = None


_FIELDS: Final = tuple(field.name for field in fields(Bracket))


def start(window: Window) -> int:
    """Give from when a window counts in brackets: its certain opening."""
    return window.opened_at_latest


def end(window: Window) -> int:
    """Give until when a window counts in brackets."""
    return sys.maxsize if window.closed_at is None else window.closed_at


def inside(window: Window, entries: list[bytes]) -> list[bytes]:
    """Give those of sorted entries that lie inside a window."""
    until = ALL if window.closed_at is None else start_of(window.closed_at)
    return entries[bisect_right(entries, end_of(window.opened_at_latest)) : bisect_left(entries, until)]


def look_around(window: Window, entries: list[bytes], floor: bytes, told: Sequence[tuple[Window, Bracket]]) -> Bracket:
    """Say what was recorded around a window and in it.

    The index of activities tells (`Recent.entries` and `floor`), and where it no longer reaches, `told`: the brackets
    of the windows that this one takes the place of.
    """
    low = end_of(window.opened_at_latest)
    high = ALL if window.closed_at is None else start_of(window.closed_at)
    first, last = bisect_left(entries, low), bisect_left(entries, high)
    inside = list(dict.fromkeys(entries[first:last]))
    bracket = Bracket(inside=len(inside))
    # No entry that was dropped sorts after the floor, and the floor itself is among the entries.
    if floor < low:
        bracket.last = entries[first - 1] if first else None
    else:
        # Nothing was recorded between the last activity before a window and its opening.
        later = (b.last for old, b in told if start(old) >= start(window))
        bracket.last = next((entry for entry in later if entry and entry < low), None)
        bracket.last_exact = bracket.last is not None
        # The windows in whose place this one is may know more of what was inside.
        within = [b for old, b in told if start(old) >= start(window) and end(old) <= end(window)]
        known = {each for _, b in told for each in (b.last, b.inside_first, b.inside_last, b.first) if each}
        inside = sorted(known.union(inside) - {each for each in known if not low < each < high})
        bracket.inside = max(len(inside), *(b.inside for b in within), 0)
        if floor < high:
            # A window that only ends sooner: what it no longer holds is all still in the index.
            for old, b in told:
                if start(old) == start(window) and end(old) > end(window):
                    until = ALL if old.closed_at is None else start_of(old.closed_at)
                    beyond = dict.fromkeys(entries[last : bisect_left(entries, until)])
                    bracket.inside = max(bracket.inside, b.inside - len(beyond))
    if floor < high:
        bracket.first = entries[last] if last < len(entries) else None
    else:
        # Nor was anything between the close of a window and the first activity after it.
        earlier = (b.first for old, b in told if end(old) <= end(window))
        bracket.first = next((entry for entry in earlier if entry and entry >= high), None)
        bracket.first_exact = bracket.first is not None
    if inside:
        bracket.inside_first, bracket.inside_last = inside[0], inside[-1]
    return bracket


def texts_of(bracket: Bracket) -> dict[str, Any]:
    """Write a bracket for JSON."""
    return {
        name: text_of(value) if isinstance(value, bytes) else value
        for name in _FIELDS
        for value in (getattr(bracket, name),)
    }


def bracket_of_texts(texts: Mapping[str, Any]) -> Bracket:
    """Undo `texts_of`."""
    entries: dict[str, Any] = {
        name: entry_of_text(value) if isinstance(value, str) else value for name, value in texts.items()
    }
    return Bracket(**entries)
