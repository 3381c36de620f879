"""The worker as a process: it starts, works, says how it is, and leaves."""

from tests.support.feed import ago, record, settings, wire
from tests.support.site import Site
from tests.support.workers import Workers


def test_smoke(site: Site, workers: Workers) -> None:
    """X."""
    worker = workers.start(site).await_ready()
    site.produce([wire(record("a1", "org_a", ago(10))), wire(settings("a2", "org_a", ago(9), logging=False))])
    workers.finish(site, worker)
    print(site.alerts(), site.history(), site.gaps(), worker.metrics())
    assert worker.stop() == 0
    print(worker.text)
