"""Chains of versions, as the policy and the topology have them: each names the digest of the one before."""

from collections.abc import Sequence
from typing import Final, Protocol

from auditgap.core.inputs import Rejection

FIRST_AT_MOST: Final = 1_000_000
"""The highest version with which a chain that is not known yet can begin: a higher one could have no successor."""


class Version(Protocol):
    """What every version has: its number, the digest of the one before (None for the first), and its own."""

    @property
    def version(self) -> int:
        """1, 2, 3 … without a hole."""

    @property
    def previous_digest(self) -> str | None:
        """What the version before has as its digest."""

    @property
    def digest(self) -> str:
        """SHA-256 over canonical JSON of all but the append time."""


def follows(chain: Sequence[Version], new: Version, whose: str, reason: str) -> bool | Rejection:
    """Say whether a version is the next one of its chain (in order); False if it is a repeat, or why it is refused.

    The first one that is known may be later than 1, as older ones may have been compacted away.
    """
    if not chain:
        if new.version > FIRST_AT_MOST or (new.version == 1) != (new.previous_digest is None):
            return Rejection(reason, f"version {new.version} cannot be the first of {whose}")
        return True
    if new.digest in (each.digest for each in chain if each.version == new.version):
        return False
    previous = chain[-1]
    if new.version != previous.version + 1:
        return Rejection(
            reason, f"version {new.version} of {whose} is not the next: it has to be {previous.version + 1}"
        )
    if new.previous_digest != previous.digest:
        return Rejection(
            reason,
            f"version {new.version} of {whose} names another version {previous.version} than the one that was "
            f"accepted: its previous_digest has to be {previous.digest}",
        )
    return True
