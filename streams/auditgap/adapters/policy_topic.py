"""The policy topic: the versions that are on it, and new ones in one transaction, by one publisher at a time."""

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from auditgap.adapters import avro, cloudevents, kafka
from auditgap.adapters.kafka import partition_of
from auditgap.config import Settings
from auditgap.core import policy
from auditgap.core.inputs import Rejection
from auditgap.core.policy import Policy
from auditgap.errors import BrokerError

Tell = Callable[[str], None]

_COMMIT_SECONDS: Final = 60.0

_FENCED: Final = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})


class PolicyTopic:
    """Entering the context puts an end to any other publisher of this topic, then reads it. Raises BrokerError.

    `policies` holds the accepted versions of every chain. What was refused is told, and changes nothing.
    """

    def __init__(self, settings: Settings, ids: avro.SchemaIds, tell: Tell) -> None:
        self.policies: tuple[Policy, ...] = ()
        self._settings = settings
        self._ids = ids
        self._tell = tell
        self._topic = settings.topics.policy
        self._last: dict[tuple[int, str], str] = {}
        servers = settings.kafka.bootstrap_servers
        admin = AdminClient(kafka.client_config(settings.kafka))
        found = kafka.identify(admin, [self._topic], servers).get(self._topic)
        if found is None:
            raise BrokerError(f"Kafka at {servers} has no topic {self._topic}: run `auditgap topics apply`")
        if not kafka.stamps_append_time(admin, self._topic, servers):
            raise BrokerError(
                f"topic {self._topic} does not stamp records with the broker's clock "
                "(message.timestamp.type=LogAppendTime), so nobody knows when a policy was there: "
                "run `auditgap topics apply`"
            )
        self._partitions = found.partitions
        self._producer = Producer(
            {
                **kafka.client_config(settings.kafka),
                "transactional.id": f"{self._topic}.apply",
                "message.max.bytes": 2_097_152,
            }
        )

    def __enter__(self) -> Self:
        with kafka.translated(f"cannot publish to {self._topic}", self._settings.kafka.bootstrap_servers):
            self._producer.init_transactions(kafka.TIMEOUT)
        self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            self._producer.purge()

    def in_place(self, version: Policy) -> bool:
        """Whether a version is the last record of its key wherever its readers look for it.

        It is not after the topic got more partitions, nor after a stranger wrote something that was refused.
        """
        subject = cloudevents.policy_subject(version.organization_id)
        return all(
            self._last.get((number, subject)) == version.digest for number in self._homes(version.organization_id)
        )

    def publish(self, versions: Iterable[Policy]) -> None:
        """Publish versions, all of them or none. Raises BrokerError."""
        encoder = avro.Encoder(self._ids)
        with kafka.translated(f"cannot publish to {self._topic}", self._settings.kafka.bootstrap_servers):
            try:
                self._producer.begin_transaction()
                for version in versions:
                    key = cloudevents.policy_subject(version.organization_id).encode()
                    value, headers = encoder.policy(version), cloudevents.of_policy(version)
                    for number in self._homes(version.organization_id):
                        self._producer.produce(self._topic, value, key, number, headers=headers)  # type: ignore[arg-type]
                self._producer.commit_transaction(_COMMIT_SECONDS)
            except KafkaException as exception:
                if exception.args[0].code() in _FENCED:
                    raise BrokerError("another `auditgap policy apply` took over: run it again") from None
                raise

    def _homes(self, organization_id: str | None) -> Iterable[int]:
        """Name the partitions of a chain: the organization's one, all for the defaults."""
        if organization_id is None:
            return range(self._partitions)
        return (partition_of(organization_id, self._partitions),)

    def _read(self) -> None:
        messages = list(kafka.read_committed(self._settings, self._topic))
        # The chain of an organization goes on in another partition after the topic got more of them.
        for message in sorted(messages, key=lambda each: (each.timestamp()[1], each.partition(), each.offset())):
            version = avro.decode_policy(self._ids, message.value(), message.timestamp()[1] * 1000)
            taken = version if isinstance(version, Rejection) else policy.extended(self.policies, version)
            if isinstance(taken, Rejection):
                self._refuse(message, taken)
            else:
                self.policies = taken
            digest = "" if isinstance(version, Rejection) else version.digest
            self._last[message.partition() or 0, (message.key() or b"").decode("utf-8", "replace")] = digest

    def _refuse(self, message: Message, why: Rejection) -> None:
        place = f"{self._topic}, partition {message.partition()}, offset {message.offset()}"
        self._tell(f"auditgap: {place} is no version of the policy and was left out: {why.detail}")
