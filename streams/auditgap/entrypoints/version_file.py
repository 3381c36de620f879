"""Files of which versions are published, the policy's and the topology's: reading one, and who answers for it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from auditgap.entrypoints import show
from auditgap.errors import UsageError

Made = TypeVar("Made")


def read(path: Path, tell: Callable[[str], None], understand: Callable[[str, bytes], Made | list[str]]) -> Made | None:
    """Read a file; None where it is wrong, after each fault was told with its line. Raises UsageError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    found = understand(str(path), content)
    if not isinstance(found, list):
        return found
    for fault in found:
        tell(show.clean(fault))
    return None


def author_of(path: Path, given: str | None, named: str | None) -> str:
    """Name who answers for what a file says: who is given, or whom it names. Raises UsageError."""
    author = given or named
    if author is None:
        raise UsageError(f"{path} names no author: add `author: you@example.com`, or give --author")
    if not (0 < len(author) <= 500 and author.isprintable()):
        raise UsageError("--author takes 1 to 500 printable characters")
    return author
