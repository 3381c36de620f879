"""A Kafka Connect cluster through its REST interface."""

import base64
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from auditgap.config import ConnectSettings
from auditgap.errors import BrokerError

Config = Mapping[str, str]

_HTTP_SECONDS: Final = 60
"""Longer than Connect's own limit for what it does for a request, a rebalance among it."""

_REBALANCING: Final = {HTTPStatus.CONFLICT, HTTPStatus.INTERNAL_SERVER_ERROR}
"""How Connect says that its workers are just distributing the work among them: some requests have no better status."""

_REBALANCE_SECONDS: Final = 30
"""So long Connect is asked again then."""

_RETRY_SECONDS: Final = 0.2

_JAVA_NAMES: Final = re.compile(r"^(?:[\w.$]+(?:Exception|Error): )+")
_CAUSE: Final = re.compile(r"^Caused by: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """A connector itself, or one of its tasks, as Connect reports it."""

    name: str
    state: str
    worker: str
    why: str
    """What ended it, in one line; empty if nothing did."""


class ConnectCluster:
    """Asks and tells a cluster; every method raises BrokerError where it does not answer or refuses."""

    def __init__(self, settings: ConnectSettings) -> None:
        self.url = settings.url.rstrip("/")
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if settings.username and settings.password:
            pair = f"{settings.username}:{settings.password.get_secret_value()}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()

    def version(self) -> str:
        """Tell which version of Connect answers."""
        found = self._ask("GET", "/")
        if not isinstance(found, dict) or "kafka_cluster_id" not in found:
            raise BrokerError(f"what answers at {self.url} is no Kafka Connect")
        return str(found.get("version"))

    def faults(self, config: Config) -> list[tuple[str, str]]:
        """Have Connect check a configuration; gives each fault as its field and what is wrong with it."""
        kind = config["connector.class"]
        path = f"/connector-plugins/{quote(kind, safe='')}/config/validate"
        try:
            found = self._ask_once("PUT", path, config)
        except _RefusedError as refusal:
            # What it does not know it does not check.
            return [("connector.class", refusal.why.partition(", available connectors")[0])]
        values = [each["value"] for each in found["configs"]]
        return [(each["name"], " ".join(fault.split())) for each in values for fault in each["errors"]]

    def config(self, name: str) -> dict[str, str] | None:
        """Give a connector's configuration; None where there is no such connector."""
        try:
            return dict(self._ask("GET", f"/connectors/{quote(name, safe='')}/config"))
        except _RefusedError as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def put(self, name: str, config: Config) -> None:
        """Create a connector, or give it another configuration."""
        self._ask("PUT", f"/connectors/{quote(name, safe='')}/config", config)

    def restart_failed(self, name: str) -> None:
        """Start what failed of a connector again."""
        self._ask("POST", f"/connectors/{quote(name, safe='')}/restart?includeTasks=true&onlyFailed=true")

    def parts(self, name: str) -> list[Part]:
        """Report a connector and its tasks; empty while Connect does not know its state yet."""
        try:
            found = self._ask("GET", f"/connectors/{quote(name, safe='')}/status")
        except _RefusedError as refusal:
            if refusal.status == HTTPStatus.NOT_FOUND:  # just created
                return []
            raise
        named = [("connector", found["connector"]), *((f"task {each['id']}", each) for each in found["tasks"])]
        return [
            Part(part, str(each["state"]), str(each["worker_id"]), _reason(each.get("trace", "")))
            for part, each in named
        ]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        deadline = time.monotonic() + _REBALANCE_SECONDS
        while True:
            try:
                return self._ask_once(method, path, body)
            except _RefusedError as refusal:
                if refusal.status not in _REBALANCING or time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    def _ask_once(self, method: str, path: str, body: object) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the settings allow http and https only
            self.url + path, None if body is None else json.dumps(body).encode(), self._headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as answer:  # noqa: S310
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                raise _RefusedError(self.url, error.code, error.read()) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", error)
            raise BrokerError(f"no Kafka Connect answers at {self.url}: {why}") from None


class _RefusedError(BrokerError):
    def __init__(self, url: str, status: int, body: bytes) -> None:
        self.status = status
        try:
            self.why = _JAVA_NAMES.sub("", " ".join(str(json.loads(body)["message"]).split()))
        except (ValueError, KeyError, TypeError):
            self.why = f"HTTP status {status}"
        super().__init__(f"Kafka Connect at {url} refuses: {self.why}")


def _reason(trace: str) -> str:
    """Condense a Java trace into its first line and its innermost cause."""
    first = trace.strip().partition("\n")[0]
    causes = _CAUSE.findall(trace)
    return " ".join(" | ".join([first, *causes[-1:]]).split())[:1000]
