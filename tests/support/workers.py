"""Workers as processes of their own: started, watched, signalled, and gone at the end of the test."""

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from tests.support.awaiting import PATIENCE, until
from tests.support.site import Site

from auditgap.config import Settings

COMMAND: Final = ("-m", "auditgap", "worker")


def environment(settings: Settings) -> dict[str, str]:
    """Write settings as the environment variables that give them; nothing else of auditgap's is in it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AUDITGAP_")}
    for section, values in settings.model_dump(exclude_none=True).items():
        for name, value in values.items():
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            env[f"AUDITGAP_{section}__{name}".upper()] = text
    return env


class Worker:
    """One worker process, and what it says. Its log lines and messages are in `log`."""

    def __init__(self, settings: Settings, log: Path, command: tuple[str, ...] = COMMAND) -> None:
        self.name = settings.worker.instance_id
        self.log = log
        self.http_port = settings.worker.http_port
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    # --- what it says -------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All it has said so far."""
        return self.log.read_text(errors="replace")

    @property
    def messages(self) -> list[str]:
        """The lines that say why it ended."""
        return [line for line in self.text.splitlines() if line.startswith("auditgap: ")]

    @property
    def owned(self) -> list[int] | None:
        """The partitions it owns by its log; None before it was assigned any."""
        found = re.findall(r"owns partitions (?:\[([\d, ]*)\]|none)", self.text)
        return None if not found else [int(number) for number in found[-1].split(",") if number.strip()]

    @property
    def port(self) -> int:
        """Where it serves its health; read from its log where it was free to choose."""
        if not self.http_port:
            self.http_port = int(
                until(lambda: re.findall(r"http://127\.0\.0\.1:(\d+)/", self._alive().text), "no port")[0]
            )
        return self.http_port

    def get(self, path: str) -> tuple[int, str]:
        """Ask by HTTP; gives status and body, and 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metrics(self) -> dict[str, float]:
        """Give its metrics: `name` or `name{value of the label}`."""
        status, body = self.get("/metrics")
        assert status == 200, status
        return {
            sample.name + (f"{{{','.join(sample.labels.values())}}}" if sample.labels else ""): sample.value
            for family in text_string_to_metric_families(body)
            for sample in family.samples
        }

    # --- what is done with it -----------------------------------------------------------------------------------------

    def _alive(self) -> "Worker":
        status = self.process.poll()
        assert status is None, f"worker {self.name} ended with {status}:\n{self.text}"
        return self

    def await_ready(self) -> "Worker":
        """Wait until it says that it is ready; fails at once where it ends."""
        until(lambda: self._alive().get("/readyz")[0] == 200, lambda: f"{self.name} is not ready:\n{self.text}")
        return self

    def await_end(self, seconds: float = PATIENCE) -> int:
        """Wait until it has ended by itself; gives its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"worker {self.name} still runs after {seconds:g} s:\n{self.text}") from None

    def assert_refuses(self, status: int, *words: str) -> None:
        """See that it ended with this status and one line; all else that it said is that it was at work."""
        assert self.await_end() == status
        (line,) = self.messages
        for word in words:
            assert word in line, self.text
        assert [each for each in self.text.splitlines() if " INFO auditgap.worker: " not in each] == [line]

    def runs_for(self, seconds: float) -> bool:
        """Whether it still runs after so many seconds."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def stop(self) -> int:
        """End it in order (SIGTERM); gives its exit status."""
        self.process.terminate()
        return self.await_end()

    def kill(self) -> None:
        """End it without a warning (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it stand still (SIGSTOP)."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)


class Workers:
    """Starts the workers of a test, and kills what is left of them in the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.started: list[Worker] = []

    def start(
        self,
        site: Site,
        instance: str | None = None,
        *arguments: str,
        command: tuple[str, ...] = COMMAND,
        **settings: object,
    ) -> Worker:
        """Start a worker of a site; `instance` is its instance id, `settings` are the worker's."""
        update = settings if instance is None else {"instance_id": instance, **settings}
        worker = site.settings.worker.model_copy(update=update)
        log = self._directory / f"{worker.instance_id}.{len(self.started)}.log"
        made = Worker(site.settings.model_copy(update={"worker": worker}), log, (*command, *arguments))
        self.started.append(made)
        return made

    def finish(self, site: Site, worker: Worker, seconds: float = PATIENCE) -> None:
        """Wait until the group stands at the end of the input; fails at once where the worker ends."""
        until(
            lambda: worker._alive() and site.finished(),
            lambda: f"positions {site.positions()}, ends {site.ends()}:\n{worker.text}",
            seconds,
        )

    def kill_all(self) -> None:
        """Kill whatever still runs."""
        for worker in self.started:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()


class Supervisor:
    """Keeps workers running as a service manager does: whichever ends is started again. `tend` does it."""

    def __init__(self, workers: Workers, site: Site, *, command: tuple[str, ...] = COMMAND, **settings: object) -> None:
        self._workers, self._site, self._command, self._settings = workers, site, command, settings
        self.running: dict[str, Worker] = {}
        self.ended: list[Worker] = []

    def start(self, instance: str) -> Worker:
        """Start a worker, and keep one running under this instance id from now on."""
        worker = self._workers.start(self._site, instance, command=self._command, **self._settings)
        self.running[instance] = worker
        return worker

    def tend(self) -> bool:
        """Start again what has ended; always True."""
        for instance, worker in list(self.running.items()):
            if worker.process.poll() is not None:
                self.ended.append(worker)
                self.start(instance)
        return True

    def finish(self, seconds: float = PATIENCE) -> None:
        """Tend the workers until the group stands at the end of the input."""
        until(
            lambda: self.tend() and self._site.finished(),
            lambda: (
                f"positions {self._site.positions()}, ends {self._site.ends()}:\n"
                + "\n".join(worker.text for worker in self.running.values())
            ),
            seconds,
        )

    def stop(self) -> list[int]:
        """End all that run, in order; gives their exit statuses."""
        for worker in self.running.values():
            worker.process.terminate()
        return [worker.await_end() for worker in self.running.values()]


def launcher(patch: str) -> tuple[str, ...]:
    """Make a command that runs the worker with a fault of the test's built into it."""
    return ("-c", f"import sys\n{patch}\nsys.argv = ['auditgap', 'worker', *sys.argv[1:]]\n{_MAIN}")


_MAIN: Final = "from auditgap.entrypoints.cli import main\nmain()\n"
