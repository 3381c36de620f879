"""What the benchmarks run on, and who else uses it meanwhile. Names no host, user or path."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Final

from auditgap.adapters import embedded_kafka

_PACKAGES: Final = ("confluent-kafka", "faust-streaming", "aiokafka", "fastavro", "orjson")
_STAT: Final = Path("/proc/stat")
_LOCK: Final = Path(embedded_kafka.__file__).with_name("embedded_kafka_lock.json")


def describe() -> dict[str, str]:
    """Describe machine and versions, for the results."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return {
        "cores": f"{cores}, shared with the broker",
        "processor": _processor(),
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "kafka": json.loads(_LOCK.read_text())["kafka"],
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def busy_seconds() -> float | None:
    """Tell the processor time all programs together have used; None where the system does not say."""
    if not _STAT.exists():
        return None
    spent = [int(ticks) for ticks in _STAT.read_text().splitlines()[0].split()[1:9]]
    return (sum(spent) - spent[3] - spent[4]) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Tell the processor time one process has used; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
