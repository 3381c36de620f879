"""The consumer group metadata that a transaction's offsets are fenced with (KIP-447).

librdkafka takes it as opaque bytes and normally makes them from its own group member. Here the member is Faust's
(aiokafka), so the bytes are made from that member's generation and id. `check` holds this layout against what the
installed client library writes itself: a release that changes it stops the worker at start, not at a commit.
"""

import struct

from confluent_kafka import Consumer

from auditgap.errors import WorkerStop

_MAGIC = b"CGMDv2:"


def encode(group: str, generation: int, member_id: str, instance_id: str | None) -> bytes:
    """Write the metadata of a group member.

    Layout (librdkafka 2.x, `rd_kafka_consumer_group_metadata_write`): magic, generation as little-endian int32, group
    id and member id each ended by a zero byte, then 1 for no instance id, or 0, the instance id and a zero byte.
    """
    last = b"\x01" if instance_id is None else b"\x00" + instance_id.encode() + b"\x00"
    return _MAGIC + struct.pack("<i", generation) + group.encode() + b"\x00" + member_id.encode() + b"\x00" + last


def check(group: str, instance_id: str) -> None:
    """Hold `encode` against the client library. Raises WorkerStop where they differ."""
    for instance in (instance_id, None):
        config: dict[str, str | int] = {"bootstrap.servers": "127.0.0.1:1", "group.id": group, "log_level": 0}
        if instance is not None:
            config["group.instance.id"] = instance
        member = Consumer(config)
        try:
            written = member.consumer_group_metadata()
        finally:
            member.close()
        if written != encode(group, -1, "", instance):
            raise WorkerStop(
                "this release of confluent-kafka writes its group metadata in another form than this worker knows, so "
                "transactions could not be fenced: install the release pinned in requirements/runtime.txt"
            )
