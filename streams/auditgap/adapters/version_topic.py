"""A topic of versions: those that are on it, and new ones in one transaction, by one publisher at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import ClassVar, Final, Generic, Self, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from auditgap.adapters import avro, kafka
from auditgap.adapters.cloudevents import Headers
from auditgap.config import Settings
from auditgap.core.inputs import Rejection
from auditgap.core.versions import Version
from auditgap.errors import BrokerError

Tell = Callable[[str], None]
Versioned = TypeVar("Versioned", bound=Version)

_COMMIT_SECONDS: Final = 60.0

_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})


class VersionTopic(ABC, Generic[Versioned]):
    """Entering the context puts an end to any other publisher of this topic, then reads it. Raises BrokerError.

    What was refused is told, and changes nothing. `what` names what the versions are of, in messages and commands.
    """

    what: ClassVar[str]

    def __init__(self, settings: Settings, ids: avro.SchemaIds, tell: Tell, topic: str) -> None:
        self._settings = settings
        self._ids = ids
        self._tell = tell
        self._topic = topic
        self._last: dict[tuple[int, str], str] = {}
        servers = settings.kafka.bootstrap_servers
        admin = AdminClient(kafka.client_config(settings.kafka))
        found = kafka.identify(admin, [topic], settings.kafka).get(topic)
        if found is None:
            raise BrokerError(f"Kafka at {servers} has no topic {topic}: run `auditgap topics apply`")
        if not kafka.stamps_append_time(admin, topic, settings.kafka):
            raise BrokerError(
                f"topic {topic} does not stamp records with the broker's clock "
                f"(message.timestamp.type=LogAppendTime), so nobody knows when a {self.what} was there: "
                "run `auditgap topics apply`"
            )
        self._partitions = found.partitions
        self._producer = Producer(
            {
                **kafka.client_config(settings.kafka),
                "transactional.id": f"{topic}.apply",
                "message.max.bytes": 2_097_152,
            }
        )

    def __enter__(self) -> Self:
        with kafka.translated(f"cannot publish to {self._topic}", self._settings.kafka):
            self._producer.init_transactions(kafka.TIMEOUT)
        self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            self._producer.purge()

    def in_place(self, version: Versioned) -> bool:
        """Whether a version is the last record of its key wherever its readers look for it.

        It is not after the topic got more partitions, nor after a stranger wrote something that was refused.
        """
        key = self._key(version)
        return all(self._last.get((number, key)) == version.digest for number in self._homes(version))

    def publish(self, versions: Iterable[Versioned]) -> None:
        """Publish versions, all of them or none. Raises BrokerError."""
        encoder = avro.Encoder(self._ids)
        with kafka.translated(f"cannot publish to {self._topic}", self._settings.kafka):
            try:
                self._producer.begin_transaction()
                for version in versions:
                    key = self._key(version).encode()
                    value, headers = self._written(encoder, version)
                    for number in self._homes(version):
                        self._producer.produce(self._topic, value, key, number, headers=headers)  # type: ignore[arg-type]
                self._producer.commit_transaction(_COMMIT_SECONDS)
            except KafkaException as exception:
                if exception.args[0].code() in _FENCED:
                    raise BrokerError(f"another `auditgap {self.what} apply` took over: run it again") from None
                raise

    @abstractmethod
    def _key(self, version: Versioned) -> str:
        """Give the key of a version's record: what it is about."""

    @abstractmethod
    def _homes(self, version: Versioned) -> Iterable[int]:
        """Name the partitions where a version is looked for."""

    @abstractmethod
    def _written(self, encoder: avro.Encoder, version: Versioned) -> tuple[bytes, Headers]:
        """Write a version and its headers."""

    @abstractmethod
    def _decoded(self, value: bytes | None, append_time: int) -> Versioned | Rejection:
        """Read a version."""

    @abstractmethod
    def _take(self, version: Versioned) -> Rejection | None:
        """Take in the next version that was read, or say why not."""

    def _read(self) -> None:
        messages = list(kafka.read_committed(self._settings, self._topic))
        # A chain goes on in another partition after the topic got more of them.
        for message in sorted(messages, key=lambda each: (each.timestamp()[1], each.partition(), each.offset())):
            version = self._decoded(message.value(), message.timestamp()[1] * 1000)
            refusal = version if isinstance(version, Rejection) else self._take(version)
            if refusal is not None:
                self._refuse(message, refusal)
            digest = "" if isinstance(version, Rejection) else version.digest
            self._last[message.partition() or 0, (message.key() or b"").decode("utf-8", "replace")] = digest

    def _refuse(self, message: Message, why: Rejection) -> None:
        place = f"{self._topic}, partition {message.partition()}, offset {message.offset()}"
        self._tell(f"auditgap: {place} is no version of the {self.what} and was left out: {why.detail}")
