"""Where the files that ship with auditgap are: in the installed package, else in the checkout. Decided here only."""

from pathlib import Path
from typing import Final

_PACKAGED: Final = Path(__file__).parent / "_data"
_CHECKOUT: Final = Path(__file__).parents[2]


def path(*parts: str) -> Path:
    """Find a shipped file or folder, such as `path("schemas", "gap.avsc")`. Raises FileNotFoundError."""
    for root in (_PACKAGED, _CHECKOUT):
        found = root.joinpath(*parts)
        if found.exists():
            return found
    raise FileNotFoundError(f"{'/'.join(parts)} is missing: the installation of auditgap is incomplete")
