"""Ed25519 signatures in Kafka headers: who published a settings event or an observation.

A record carries `auditgap_signature_key`, the id of a key, and `auditgap_signature`, 64 bytes over `_signed`. The id is
the beginning of the SHA-256 of the raw public key, so a file that has another key under that id shows.
"""

import base64
import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from auditgap.adapters.avro import PREFIX
from auditgap.adapters.cloudevents import Headers
from auditgap.config import SigningSettings
from auditgap.errors import UsageError

if TYPE_CHECKING:  # it costs 8 MB, which a worker without keys need not pay
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_HEADER: Final = "auditgap_signature_key"
SIGNATURE_HEADER: Final = "auditgap_signature"

ACTIVITY: Final = b"auditgap activity 1"
OBSERVATION: Final = b"auditgap observation 1"
"""What kind of record is signed: one may not be replayed as another. Not the topic's name: sites change it."""

_ID_DIGITS: Final = 16
_KEY_BYTES: Final = 32
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Signed:
    """Signed with a trusted key."""

    key_id: str


@dataclass(frozen=True, slots=True)
class Unsigned:
    """No signature, or nobody here to verify it."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """A signature that proves nothing; `why` is the end of a sentence."""

    why: str


Verdict = Signed | Unsigned | Invalid


def _signed(domain: bytes, subject: str, value: bytes) -> bytes:
    """Give the bytes that are signed: each part behind its length, so that no two records have the same.

    The value goes in without the schema id: a registry may give the same schema another number, or a topic may be
    copied to where it has one, and the record is still what was signed. The subject is what the record is folded under.
    """
    parts = (domain, subject.encode("utf-8", "surrogatepass"), value[PREFIX.size :])
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


class Signer:
    """Signs with one private key."""

    def __init__(self, key: "Ed25519PrivateKey") -> None:
        self._key = key
        self.key_id = key_id_of(key.public_key())

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a private key in PEM. Raises UsageError where it is none of Ed25519."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_read(path), password=None)
        except TypeError:
            raise UsageError(f"{path}: the private key is encrypted; auditgap takes one without a password") from None
        except (ValueError, UnsupportedAlgorithm):
            raise UsageError(f"{path}: no private key in PEM: make one with `auditgap keys generate`") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(f"{path}: not an Ed25519 key: make one with `auditgap keys generate`")
        return cls(key)

    def headers(self, subject: str, value: bytes, domain: bytes) -> Headers:
        """Sign a record's value (with its schema id in front); gives the two headers."""
        signature = self._key.sign(_signed(domain, subject, value))
        return [(KEY_HEADER, self.key_id.encode()), (SIGNATURE_HEADER, signature)]


class Verifier:
    """Verifies against the trusted keys, by their ids. Without any, everything is Unsigned and nothing is required."""

    def __init__(self, keys: "Mapping[str, Ed25519PublicKey]", *, required: bool) -> None:
        self._keys = keys
        self._required = required

    @classmethod
    def of(cls, settings: SigningSettings) -> Self:
        """Verify as the settings say. Raises UsageError where the file of trusted keys is wrong."""
        path = settings.trusted_keys_file
        return cls({} if path is None else read_trusted(path), required=settings.require_signatures)

    def check(self, headers: Headers | None, subject: str, value: bytes, domain: bytes) -> Verdict:
        """Verify a record: `subject` by its body, `value` with its schema id in front."""
        if headers is None or not self._keys:
            return Unsigned()
        ids = [each for name, each in headers if name == KEY_HEADER]
        signatures = [each for name, each in headers if name == SIGNATURE_HEADER]
        if not (ids or signatures):
            return Unsigned()
        if len(ids) != 1 or len(signatures) != 1 or None in (*ids, *signatures):
            return Invalid(f"{KEY_HEADER} and {SIGNATURE_HEADER} are not there once each")
        key_id = ids[0].decode("ascii", "backslashreplace")
        key = self._keys.get(key_id)
        if key is None:
            return Invalid(f"its key {key_id[:40]!r} is none of the trusted ones")

        from cryptography.exceptions import InvalidSignature

        try:
            key.verify(signatures[0], _signed(domain, subject, value))
        except InvalidSignature:
            return Invalid(f"it is not what key {key_id} signed")
        return Signed(key_id)

    def believes(self, verdict: Verdict) -> bool:
        """Whether an "on" of such a record counts: where no signature is required, only a wrong one takes it away."""
        return isinstance(verdict, Signed) or (isinstance(verdict, Unsigned) and not self._required)


def fault_of(verdict: Verdict) -> str | None:
    """Say what is wrong with a signature, None where it is good or there is none."""
    return verdict.why if isinstance(verdict, Invalid) else None


def key_id_of(key: "Ed25519PublicKey") -> str:
    """Name a key: 16 hexadecimal digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_ID_DIGITS]


def trusted_line(key: "Ed25519PublicKey", comment: str) -> str:
    """Write a key's line in the file of trusted keys."""
    return f"{key_id_of(key)} {base64.b64encode(key.public_bytes_raw()).decode()} {comment}"


def read_trusted(path: Path) -> "dict[str, Ed25519PublicKey]":
    """Read a file of trusted keys: a line each of key id, public key in base64, and a comment.

    Empty lines and those that begin with # are skipped. Raises UsageError with all faults by line.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys: dict[str, Ed25519PublicKey] = {}
    faults = []
    for number, line in enumerate(_read(path).decode("utf-8", "replace").splitlines(), 1):
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        raw = _public_bytes(words[1]) if len(words) > 1 else None
        if raw is None:
            faults.append(f"line {number}: not a key id, {_KEY_BYTES} bytes in base64 and a comment")
            continue
        key = Ed25519PublicKey.from_public_bytes(raw)
        key_id = key_id_of(key)
        if words[0] != key_id:
            faults.append(f"line {number}: this key's id is {key_id}, not {words[0]}")
        elif key_id in keys:
            faults.append(f"line {number}: key {key_id} is there twice")
        else:
            keys[key_id] = key
    if not (keys or faults):
        faults.append("no key is in it")
    if faults:
        raise UsageError(f"{path}: {'; '.join(faults)}")
    return keys


def _public_bytes(text: str) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return raw if len(raw) == _KEY_BYTES else None


def generate(path: Path) -> "Ed25519PublicKey":
    """Write a new private key that only its owner can read; gives its public key. Raises UsageError if there is one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError:
        raise UsageError(f"{path} is there already: a key is never overwritten") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return key.public_key()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
