"""`/livez`, `/readyz` and `/metrics` over HTTP, from a thread of its own: they answer while the worker starts."""

from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from auditgap.errors import UsageError

Fault = Callable[[], str | None]
"""Says what is wrong, None where nothing is."""


class HealthServer:
    """Listens from construction on; `port` is the one it got. Raises UsageError where the address is taken."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        *,
        dead: Fault,
        unready: Fault,
        measure: Callable[[], None],
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                match self.path.partition("?")[0]:
                    case "/livez":
                        self._answer_fault(dead())
                    case "/readyz":
                        self._answer_fault(unready())
                    case "/metrics":
                        measure()
                        self._answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)
                    case _:
                        self._answer(HTTPStatus.NOT_FOUND, b"/livez, /readyz or /metrics\n")

            def _answer_fault(self, fault: str | None) -> None:
                if fault is None:
                    self._answer(HTTPStatus.OK, b"ok\n")
                else:
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{fault}\n".encode())

            def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # A second worker on one address must hear of it, not share it.
            allow_reuse_port = False

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise UsageError(
                f"cannot serve /livez and /metrics on {host}:{port} ({error.strerror}): is another worker running "
                "here? Give this one AUDITGAP_WORKER__HTTP_PORT and AUDITGAP_WORKER__INSTANCE_ID of its own"
            ) from None
        self.port: int = self._server.server_address[1]

    def start(self) -> None:
        """Answer from now on, until the process ends."""
        Thread(target=self._server.serve_forever, name="health", daemon=True).start()
