"""`auditgap worker`: the job on Faust, until a signal or an error ends it."""

import ctypes
import gc
import logging
import sys

from auditgap import bootstrap
from auditgap.adapters import faust_app, group_metadata
from auditgap.adapters.health import HealthServer
from auditgap.adapters.reset import reset_input as apply_reset
from auditgap.config import Settings
from auditgap.metrics import Metrics

_log = logging.getLogger("auditgap.worker")


def run(settings: Settings, *, reset_input: str | None = None) -> int:
    """Run the worker; gives the exit status after a signal. Raises UsageError, BrokerError and WorkerStop at start.

    `reset_input` is "earliest" or "latest": accept the input topic as it is now, and go on from there.
    """
    logging.basicConfig(
        stream=sys.stderr, level=settings.worker.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Faust's services log under the name of the module of their class.
    for name in ("faust", "mode", "aiokafka", faust_app.__name__):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)  # faust_app tells
    # A batch is many small containers, none of them in a cycle: collecting at the default rate costs a third.
    gc.set_threshold(100_000, 50, 1000)
    _keep_memory_small()
    worker = settings.worker
    group_metadata.check(worker.group, worker.instance_id)
    metrics = Metrics()
    job = bootstrap.job(settings, metrics)
    if reset_input is not None:
        apply_reset(settings, reset_input, _log.warning)
    app = faust_app.build(settings, job)
    health = HealthServer(
        worker.http_host,
        worker.http_port,
        metrics.registry,
        dead=lambda: faust_app.dead(app),
        unready=lambda: faust_app.unready(app, job),
        measure=job.measure,
    )
    health.start()
    job.start()
    _log.info(
        "worker %s of group %s on %s; http://%s:%d/readyz",
        worker.instance_id,
        worker.group,
        settings.kafka.bootstrap_servers,
        worker.http_host,
        health.port,
    )
    return faust_app.run(app, job)


def _keep_memory_small() -> None:
    """Give fetch buffers back to the system at once: glibc would learn to keep them, some 40 MB of holes."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 131_072)


_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
