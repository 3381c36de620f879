"""The topology topic: a chain of versions for each parent, feed and organization, on the partition of its subject."""

from collections.abc import Iterable
from typing import ClassVar

from auditgap.adapters import avro, cloudevents
from auditgap.adapters.cloudevents import Headers
from auditgap.adapters.kafka import partition_of
from auditgap.adapters.version_topic import Tell, VersionTopic
from auditgap.config import Settings
from auditgap.core import topology
from auditgap.core.inputs import Rejection
from auditgap.core.topology import Topology


class TopologyTopic(VersionTopic[Topology]):
    """See VersionTopic. `chains` holds the accepted versions of every subject, in order."""

    what: ClassVar = "topology"

    def __init__(self, settings: Settings, ids: avro.SchemaIds, tell: Tell) -> None:
        super().__init__(settings, ids, tell, settings.topics.topology)
        self.chains: dict[str, tuple[Topology, ...]] = {}

    def _key(self, version: Topology) -> str:
        # The whole subject: an organization and a feed may have the same id.
        return version.subject

    def _homes(self, version: Topology) -> Iterable[int]:
        return (partition_of(version.subject, self._partitions),)

    def _written(self, encoder: avro.Encoder, version: Topology) -> tuple[bytes, Headers]:
        return encoder.topology(version), cloudevents.of_topology(version)

    def _decoded(self, value: bytes | None, append_time: int) -> Topology | Rejection:
        return avro.decode_topology(self._ids, value, append_time)

    def _take(self, version: Topology) -> Rejection | None:
        taken = topology.extended(self.chains.get(version.subject, ()), version)
        if isinstance(taken, Rejection):
            return taken
        self.chains[version.subject] = taken
        return None
