"""A real broker that asks everybody who they are (SASL_SSL, SCRAM) and lets them do what the ACLs allow, no more.

Its PLAINTEXT listener is the administrator's: whoever comes by it may do everything.
"""

import ipaddress
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from confluent_kafka.admin import (
    AclBindingFilter,
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from tests.support.access import Rule
from tests.support.awaiting import until

from auditgap.adapters.embedded_kafka import EmbeddedKafka
from auditgap.config import KafkaSettings

WAIT: Final = 15.0
MECHANISM: Final = "SCRAM-SHA-512"


class Certificates:
    """An authority of one day, and what it signed for a server on loopback."""

    def __init__(self, directory: Path, name: str) -> None:
        self.authority = directory / f"{name}.pem"
        self.server = directory / f"{name}.server.pem"
        key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = _name(f"{name} authority")
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        authority = _blank(issuer, issuer, key).add_extension(constraint, critical=True).sign(key, hashes.SHA256())
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = _blank(_name("127.0.0.1"), issuer, server_key).add_extension(alternative, critical=False)
        server = made.sign(key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        self.authority.write_bytes(authority.public_bytes(pem))
        private = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.server.write_bytes(private + server.public_bytes(pem) + authority.public_bytes(pem))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _blank(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


class Secured:
    """The broker, its users and their ACLs."""

    def __init__(self, broker: EmbeddedKafka, authority: Path) -> None:
        self.administrator = broker.bootstrap_servers
        self.servers = broker.second_servers
        self.authority = authority
        self.admin = AdminClient({"bootstrap.servers": self.administrator, "log_level": 0})
        self._passwords: dict[str, str] = {}

    def user(self, name: str) -> KafkaSettings:
        """Give the settings of a user, who is made with a password of its own the first time."""
        if name not in self._passwords:
            password = self._passwords[name] = secrets.token_urlsafe(16)
            credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
            change = UserScramCredentialUpsertion(name, credential, password.encode())
            self.admin.alter_user_scram_credentials([change])[name].result(WAIT)

            def known() -> bool:
                asked = self.admin.describe_user_scram_credentials([name])
                return isinstance(asked, dict) and asked[name].exception(WAIT) is None

            until(known, f"the broker does not know {name}")
        return KafkaSettings(
            bootstrap_servers=self.servers,
            security_protocol="SASL_SSL",
            sasl_mechanism=MECHANISM,
            sasl_username=name,
            sasl_password=SecretStr(self._passwords[name]),
            ssl_ca_location=self.authority,
        )

    def allow(self, user: str, rules: Iterable[Rule]) -> None:
        """Let a user do this as well."""
        bindings = [each for rule in rules for each in rule.bindings(user)]
        for future in self.admin.create_acls(bindings).values():
            future.result(WAIT)

    def forbid(self, user: str, rules: Iterable[Rule]) -> None:
        """Take such rules away again."""
        filters = [
            AclBindingFilter(
                each.restype,
                each.name,
                each.resource_pattern_type,
                each.principal,
                each.host,
                each.operation,
                each.permission_type,
            )
            for rule in rules
            for each in rule.bindings(user)
        ]
        for future in self.admin.delete_acls(filters).values():
            assert future.result(WAIT)


@contextmanager
def running(directory: Path) -> Iterator[Secured]:
    """Run such a broker; its certificates are in the directory."""
    certificates = Certificates(directory, "broker")
    listener = "listener.name.sasl_ssl"
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": MECHANISM,
        f"{listener}.{MECHANISM.lower()}.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        f"{listener}.ssl.keystore.type": "PEM",
        f"{listener}.ssl.keystore.location": str(certificates.server),
    }
    with EmbeddedKafka(config=config, second="SASL_SSL") as broker:
        yield Secured(broker, certificates.authority)
