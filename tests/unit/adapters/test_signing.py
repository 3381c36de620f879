"""A signature stands for one record of one kind and one subject, by one key; files of keys are read line by line."""

import stat
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from auditgap.adapters import signing
from auditgap.adapters.cloudevents import Headers
from auditgap.adapters.signing import ACTIVITY, OBSERVATION, Invalid, Signed, Signer, Unsigned, Verifier
from auditgap.config import SigningSettings, load
from auditgap.errors import UsageError

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
SIGNER = Signer(KEY)
VALUE = struct.pack(">bI", 0, 1) + b"the body"


def verifier(*keys: Ed25519PrivateKey, required: bool = True) -> Verifier:
    """Trust these keys."""
    return Verifier({Signer(key).key_id: key.public_key() for key in keys}, required=required)


def check(
    headers: Headers | None = None, subject: str = "org_1", value: bytes = VALUE, domain: bytes = ACTIVITY
) -> signing.Verdict:
    """Verify a record as its reader does; it was signed as org_1's activity."""
    signed = SIGNER.headers("org_1", VALUE, ACTIVITY) if headers is None else headers
    return verifier(KEY).check(signed, subject, value, domain)


def test_signed() -> None:
    """What the key signed is signed, other headers or not."""
    assert check() == Signed(SIGNER.key_id)
    assert check([("ce_id", b"x"), *SIGNER.headers("org_1", VALUE, ACTIVITY), ("more", b"")]) == Signed(SIGNER.key_id)
    assert signing.fault_of(check()) is None


def test_another_schema_id() -> None:
    """The schema's number in another registry makes no difference."""
    assert check(value=struct.pack(">bI", 0, 4711) + b"the body") == Signed(SIGNER.key_id)


@pytest.mark.parametrize(
    "verdict",
    [
        check(value=VALUE[:-1] + b"Y"),
        check(value=VALUE + b"!"),
        check(value=VALUE[:5]),
        check(subject="org_2"),
        check(domain=OBSERVATION),
        check(subject="org_1t", value=VALUE[:5] + b"he body"),
        check(SIGNER.headers("org_2", VALUE, ACTIVITY)),
        check(SIGNER.headers("org_1", VALUE, OBSERVATION)),
    ],
    ids=["value", "longer", "empty", "subject", "domain", "moved border", "of another", "of another kind"],
)
def test_tampered(verdict: signing.Verdict) -> None:
    """A signature of something else is invalid, and says whose it claims to be."""
    assert isinstance(verdict, Invalid)
    assert SIGNER.key_id in verdict.why
    assert signing.fault_of(verdict) == verdict.why


def test_another_key() -> None:
    """A key that nobody trusts is invalid; so is its signature under a trusted key's name."""
    strange = Signer(OTHER).headers("org_1", VALUE, ACTIVITY)
    verdict = check(strange)
    assert isinstance(verdict, Invalid)
    assert "none of the trusted ones" in verdict.why
    verdict = check([(signing.KEY_HEADER, SIGNER.key_id.encode()), strange[1]])
    assert isinstance(verdict, Invalid)
    assert "is not what key" in verdict.why
    assert verifier(KEY, OTHER).check(strange, "org_1", VALUE, ACTIVITY) == Signed(Signer(OTHER).key_id)


GOOD = SIGNER.headers("org_1", VALUE, ACTIVITY)


@pytest.mark.parametrize(
    "headers",
    [
        GOOD[:1],
        GOOD[1:],
        GOOD + GOOD,
        [GOOD[0], GOOD[1], GOOD[1]],
        [GOOD[0], (signing.SIGNATURE_HEADER, b"")],
        [GOOD[0], (signing.SIGNATURE_HEADER, None)],
        [(signing.KEY_HEADER, b"\xff\n"), GOOD[1]],
    ],
    ids=["no signature", "no key", "twice", "signature twice", "empty", "null", "key that is no text"],
)
def test_not_whole(headers: Headers) -> None:
    """Headers that are not one key and one signature are invalid, never unsigned."""
    assert isinstance(check(headers), Invalid)


def test_unsigned() -> None:
    """Without the headers a record is unsigned; without keys nobody verifies."""
    assert check([("ce_id", b"x")]) == Unsigned()
    assert verifier(KEY).check(None, "org_1", VALUE, ACTIVITY) == Unsigned()
    assert verifier(required=False).check(GOOD, "org_1", b"forged", ACTIVITY) == Unsigned()


@pytest.mark.parametrize(
    ("verdict", "required", "believed"),
    [
        (Signed("x"), True, True),
        (Signed("x"), False, True),
        (Unsigned(), True, False),
        (Unsigned(), False, True),
        (Invalid("x"), True, False),
        (Invalid("x"), False, False),
    ],
    ids=str,
)
def test_believes(verdict: signing.Verdict, required: bool, believed: bool) -> None:
    """An "on" counts if it is signed, or unsigned where nothing is required; with a wrong signature never."""
    assert verifier(KEY, required=required).believes(verdict) is believed


# --- files ------------------------------------------------------------------------------------------------------------


def pem(path: Path, key: object, protection: KeySerializationEncryption | None = None) -> Path:
    """Write a private key."""
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection or NoEncryption())  # type: ignore[attr-defined]
    )
    return path


def test_generate(tmp_path: Path) -> None:
    """A new key is for its owner's eyes only, signs, and is trusted by its line; it is never overwritten."""
    path = tmp_path / "key.pem"
    public = signing.generate(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "trusted").write_text(signing.trusted_line(public, "the collector") + "\n")
    settings = SigningSettings(trusted_keys_file=tmp_path / "trusted", require_signatures=True)
    signed = Signer.from_file(path).headers("org_1", VALUE, ACTIVITY)
    assert Verifier.of(settings).check(signed, "org_1", VALUE, ACTIVITY) == Signed(signing.key_id_of(public))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        signing.generate(path)
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        signing.generate(tmp_path / "none" / "key.pem")
    assert signing.key_id_of(signing.generate(tmp_path / "other.pem")) != signing.key_id_of(public)


def test_keys_that_cannot_sign(tmp_path: Path) -> None:
    """A file that holds no plain Ed25519 key in PEM is wrong use, in one line."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"not a key")
    with pytest.raises(UsageError, match="no private key in PEM"):
        Signer.from_file(path)
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        Signer.from_file(pem(path, generate_ec(SECP256R1())))
    with pytest.raises(UsageError, match="is encrypted"):
        Signer.from_file(pem(path, KEY, BestAvailableEncryption(b"secret")))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        Signer.from_file(tmp_path / "none")
    assert Signer.from_file(pem(path, KEY)).key_id == SIGNER.key_id


LINE = signing.trusted_line(KEY.public_key(), "collector 1")
OTHER_LINE = signing.trusted_line(OTHER.public_key(), "")


def test_trusted_keys(tmp_path: Path) -> None:
    """Lines are key id, public key and comment; empty lines and comments are skipped."""
    path = tmp_path / "trusted"
    path.write_text(f"# who signs\n\n{LINE}\n   # more\n{OTHER_LINE}\r\n")
    assert signing.read_trusted(path).keys() == {SIGNER.key_id, Signer(OTHER).key_id}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("", ["no key is in it"]),
        ("# nothing\n", ["no key is in it"]),
        (f"{LINE}\n{SIGNER.key_id}\n", ["line 2: not a key id"]),
        (f"{LINE}\n{SIGNER.key_id} AAAA short\n", ["line 2: not a key id"]),
        (f"{SIGNER.key_id} *** no base64\n", ["line 1: not a key id"]),
        (f"{LINE}\n\n{LINE}\n", [f"line 3: key {SIGNER.key_id} is there twice"]),
        (f"{OTHER_LINE.split()[0]} {LINE.split()[1]}\n", [f"line 1: this key's id is {SIGNER.key_id}, not "]),
        (f"x\n{LINE}\ny z\n", ["line 1: not a key id", "line 3: not a key id"]),
    ],
    ids=["empty", "comment only", "no key", "short", "no base64", "twice", "another's id", "two faults"],
)
def test_faults_of_trusted_keys(tmp_path: Path, text: str, faults: list[str]) -> None:
    """Every fault is told, with its line, in one line."""
    path = tmp_path / "trusted"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        signing.read_trusted(path)
    said = str(error.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    assert said.count(";") == len(faults) - 1
    for fault in faults:
        assert fault in said


def test_settings() -> None:
    """To require signatures needs keys to verify with."""
    with pytest.raises(UsageError, match="AUDITGAP_SIGNING: require_signatures needs trusted_keys_file"):
        load(signing={"require_signatures": True})
    assert load().signing == SigningSettings()
    with pytest.raises(UsageError, match="AUDITGAP_SIGNING__KEY_FILE"):
        load(signing={"key_file": "/none/at/all"})
