"""The policy topic: a chain of versions for each organization, and one for the defaults, which stands everywhere."""

from collections.abc import Iterable
from typing import ClassVar

from auditgap.adapters import avro, cloudevents
from auditgap.adapters.cloudevents import Headers
from auditgap.adapters.kafka import partition_of
from auditgap.adapters.version_topic import Tell, VersionTopic
from auditgap.config import Settings
from auditgap.core import policy
from auditgap.core.inputs import Rejection
from auditgap.core.policy import Policy


class PolicyTopic(VersionTopic[Policy]):
    """See VersionTopic. `policies` holds the accepted versions of every chain."""

    what: ClassVar = "policy"

    def __init__(self, settings: Settings, ids: avro.SchemaIds, tell: Tell) -> None:
        super().__init__(settings, ids, tell, settings.topics.policy)
        self.policies: tuple[Policy, ...] = ()

    def _key(self, version: Policy) -> str:
        return cloudevents.policy_subject(version.organization_id)

    def _homes(self, version: Policy) -> Iterable[int]:
        if version.organization_id is None:
            return range(self._partitions)
        return (partition_of(version.organization_id, self._partitions),)

    def _written(self, encoder: avro.Encoder, version: Policy) -> tuple[bytes, Headers]:
        return encoder.policy(version), cloudevents.of_policy(version)

    def _decoded(self, value: bytes | None, append_time: int) -> Policy | Rejection:
        return avro.decode_policy(self._ids, value, append_time)

    def _take(self, version: Policy) -> Rejection | None:
        taken = policy.extended(self.policies, version)
        if isinstance(taken, Rejection):
            return taken
        self.policies = taken
        return None
