"""Somebody on loopback who takes webhooks and pings."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Takes webhooks and pings. `refusing` are paths answered with 503; `hook` is called before each answer."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.refusing: set[str] = set()
        self.refused: list[str] = []
        self.hook: Callable[[], None] = lambda: None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path in receiver.refusing:
                    receiver.refused.append(self.path)
                    self.send_response(503)
                else:
                    receiver.got.append((self.path, dict(self.headers), body))
                    receiver.hook()
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = _answer  # noqa: N815 - http.server's names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def notices(self, path: str) -> list[dict[str, Any]]:
        """Give what came to a path."""
        return [json.loads(body) for where, _, body in list(self.got) if where == path]

    def ids(self, path: str) -> list[str]:
        """Give the ids of the alerts that came to a path."""
        return [each["alert"]["alert_id"] for each in self.notices(path)]
