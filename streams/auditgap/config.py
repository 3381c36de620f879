"""Settings: environment variables with the prefix AUDITGAP_, nested with `__`, checked when they are read.

`AUDITGAP_KAFKA__BOOTSTRAP_SERVERS` is `settings.kafka.bootstrap_servers`. Nothing is read at import.
"""

import os
import socket
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from auditgap.errors import UsageError

TopicName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,240}$")]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    """How Kafka is reached; passed on to librdkafka and to Faust's own client alike."""

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ssl_ca_location: FilePath | None = None
    ssl_certificate_location: FilePath | None = None
    ssl_key_location: FilePath | None = None
    ssl_key_password: SecretStr | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "KafkaSettings":
        sasl = self.security_protocol.startswith("SASL")
        if sasl and not (self.sasl_mechanism and self.sasl_username and self.sasl_password):
            raise ValueError(
                f"security_protocol {self.security_protocol} needs sasl_mechanism, sasl_username and sasl_password"
            )
        if not sasl and (self.sasl_mechanism or self.sasl_username or self.sasl_password):
            raise ValueError(f"sasl_* is set, but security_protocol is {self.security_protocol}")
        if bool(self.ssl_certificate_location) != bool(self.ssl_key_location):
            raise ValueError("ssl_certificate_location and ssl_key_location go together")
        if not self.security_protocol.endswith("SSL") and (self.ssl_ca_location or self.ssl_certificate_location):
            raise ValueError(f"ssl_* is set, but security_protocol is {self.security_protocol}")
        return self


class TopicSettings(_Section):
    """Names and shape of the topics. All of them have the same number of partitions: they are co-partitioned."""

    activity: TopicName = "compliance.activity"
    alert: TopicName = "compliance.alert"
    gap: TopicName = "compliance.gap"
    observation: TopicName = "compliance.observation"
    policy: TopicName = "compliance.policy"
    status: TopicName = "compliance.status"
    topology: TopicName = "compliance.topology"
    finding: TopicName = "compliance.finding"
    notification_dlq: TopicName = "compliance.notification.dlq"
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 4
    replication: Annotated[int, Field(ge=1, le=10)] = 1
    retention_days: Annotated[float, Field(gt=0)] = 30

    @property
    def gap_history(self) -> str:
        """Every revision of every gap, append-only."""
        return f"{self.gap}.history"

    @property
    def activity_dlq(self) -> str:
        """Dead letters of the activity topic."""
        return f"{self.activity}.dlq"

    @property
    def observation_dlq(self) -> str:
        """Dead letters of the observation topic."""
        return f"{self.observation}.dlq"

    @property
    def policy_dlq(self) -> str:
        """Dead letters of the policy topic."""
        return f"{self.policy}.dlq"

    @property
    def topology_dlq(self) -> str:
        """Dead letters of the topology topic."""
        return f"{self.topology}.dlq"


class RegistrySettings(_Section):
    """A schema registry with Confluent's API; without a URL the bundled table of ids is used."""

    url: str | None = None
    username: str | None = None
    password: SecretStr | None = None


class ConnectSettings(_Section):
    """The REST interface of a Kafka Connect cluster, for `auditgap connect apply`."""

    url: Annotated[str, Field(pattern=r"^https?://[^/?#\s]+")] = "http://127.0.0.1:8083"
    username: str | None = None
    password: SecretStr | None = None


class SigningSettings(_Section):
    """Ed25519 keys: publishers sign with a private one, workers verify with the public ones that they trust."""

    key_file: FilePath | None = None
    trusted_keys_file: FilePath | None = None
    require_signatures: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "SigningSettings":
        if self.require_signatures and self.trusted_keys_file is None:
            raise ValueError("require_signatures needs trusted_keys_file")
        return self


def _host() -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname()) or "worker"


class NotifySettings(_Section):
    """The group of `auditgap notify`, and this one's name in it."""

    group: TopicName = "auditgap-notify"
    instance_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,200}$")] = Field(default_factory=_host)


class WorkerSettings(_Section):
    """The worker's own settings."""

    group: TopicName = "auditgap"
    instance_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,200}$")] = Field(default_factory=_host)
    commit_interval_seconds: Seconds = 0.5
    session_timeout_seconds: Seconds = 10.0
    transaction_timeout_seconds: Seconds = 15.0
    batch_records: Annotated[int, Field(ge=1, le=100_000)] = 1000
    trust_headers: bool = True
    sample_every: Annotated[int, Field(ge=1)] = 1000
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8321
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def changelog(self) -> str:
        """The compacted topic that holds the worker's state."""
        return f"{self.group}.state"

    @property
    def mailbox(self) -> str:
        """What partitions tell each other, and the ticks."""
        return f"{self.group}.mail"

    @property
    def mailbox_dlq(self) -> str:
        """Dead letters of the mailbox."""
        return f"{self.mailbox}.dlq"


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix="AUDITGAP_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    registry: RegistrySettings = RegistrySettings()
    connect: ConnectSettings = ConnectSettings()
    signing: SigningSettings = SigningSettings()
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    notify: NotifySettings = Field(default_factory=NotifySettings)


def load(**overrides: Any) -> Settings:
    """Read the settings from the environment. Raises UsageError with one line that names every wrong field."""
    known = {"AUDITGAP_" + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        section = variable.partition("__")[0]
        if variable.startswith("AUDITGAP_") and section not in known and not variable.startswith("AUDITGAP_TEST_"):
            raise UsageError(
                f"{variable} is no setting of auditgap; it knows {', '.join(f'{n}__…' for n in sorted(known))}"
            )
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            f"AUDITGAP_{'__'.join(str(part).upper() for part in fault['loc']) or '…'}: {_reason(fault)}"
            for fault in error.errors()
        )
        raise UsageError(f"wrong settings: {faults}") from None


def _reason(fault: Any) -> str:
    text = str(fault["msg"]).removeprefix("Value error, ")
    shown = fault.get("input")
    secret = "password" in str(fault["loc"])
    return text if secret or not isinstance(shown, str | int | float) else f"{text} (it is {str(shown)[:60]!r})"
