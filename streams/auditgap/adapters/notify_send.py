"""How notices leave: signed webhooks by HTTP, everything else by Apprise. Every attempt has a time limit."""

import hashlib
import hmac
import importlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from auditgap.adapters.notify_yaml import Secret, Target
from auditgap.core import notify
from auditgap.core.notify import Notice
from auditgap.core.records import Severity, as_dict, as_json
from auditgap.errors import UsageError

HTTP_SECONDS: Final = 10.0
"""How long a receiver may let one attempt wait."""

LEAST_SECRET: Final = 16
"""Characters that a signing secret has at least."""

TIMESTAMP: Final = "Auditgap-Timestamp"
SIGNATURE: Final = "Auditgap-Signature"
DEDUP_KEY: Final = "Auditgap-Dedup-Key"
NOTICE_ID: Final = "Auditgap-Notice-Id"

Send = Callable[[Notice], None]
"""Delivers a notice. Raises NotDelivered with the reason."""


class NotDelivered(Exception):  # noqa: N818 - it names what happened, and is told of in a dead letter
    """A receiver did not take it; the message says why, and holds no secret."""


def sender(target: Target, now: Callable[[], int]) -> Send:
    """Make what delivers to a target; `now` gives microseconds. Raises UsageError where a secret cannot be read."""
    secret = _secret(target)
    return _apprise(target.name, secret) if target.webhook is None else _webhook(target, secret, now)


def ping(url: str) -> None:
    """Ask for a URL, as a dead man's switch wants it. Raises NotDelivered."""
    _ask(urllib.request.Request(url, method="GET"), url)  # noqa: S310 - the file takes http and https only


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign a webhook's timestamp (seconds since the epoch, as text) and body: HMAC-SHA256, in hex, after `v1=`."""
    return f"v1={hmac.new(secret.encode(), timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


def body_of(notice: Notice) -> bytes:
    """Write a notice as JSON, the alert as the topic has it with times as text."""
    shape = {
        "id": notice.id,
        "dedup_key": notice.alert.dedup_key,
        "reason": notice.reason,
        "alert": as_json(as_dict(notice.alert)),
    }
    return orjson.dumps(shape)


def _webhook(target: Target, secret: str, now: Callable[[], int]) -> Send:
    url = str(target.webhook)
    if len(secret) < LEAST_SECRET:
        raise UsageError(f"the secret of {target.name} is shorter than {LEAST_SECRET} characters: make a random one")

    def send(notice: Notice) -> None:
        body, timestamp = body_of(notice), str(now() // 1_000_000)
        request = urllib.request.Request(  # noqa: S310 - the file takes http and https only
            url,
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": "auditgap",
                TIMESTAMP: timestamp,
                SIGNATURE: signature(secret, timestamp, body),
                DEDUP_KEY: _header(notice.alert.dedup_key),
                NOTICE_ID: _header(notice.id),
            },
        )
        _ask(request, url)

    return send


def _header(value: str) -> str:
    """Write what a header can hold; the body has it whole."""
    return value.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nowhere: what is signed for one address is not for another."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(_Stay)


def _ask(request: urllib.request.Request, url: str) -> None:
    host = urlsplit(url).netloc  # the path may be a secret
    try:
        with _OPENER.open(request, timeout=HTTP_SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        with error:
            raise NotDelivered(f"{host} answers {error.code}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NotDelivered(f"{host} does not answer: {str(reason) or type(reason).__name__}") from None


def _apprise(name: str, urls: str) -> Send:
    try:
        # By name: mypy would follow it into a package without types.
        apprise: Any = importlib.import_module("apprise")
    except ImportError:
        raise UsageError(f"{name} needs Apprise: install auditgap[notify]") from None
    each = [line.strip() for line in urls.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    made = []
    for number, url in enumerate(each, 1):
        found = apprise.Apprise.instantiate(url, suppress_exceptions=True)
        if found is None:
            raise UsageError(f"Apprise does not understand URL {number} of {name}")
        made.append((number, found))
    if not made:
        raise UsageError(f"{name} has no URL for Apprise: give one a line")
    taken: set[tuple[str, int]] = set()
    colours = {Severity.CRITICAL: "failure", Severity.HIGH: "failure", Severity.MEDIUM: "warning"}

    def send(notice: Notice) -> None:
        alert = notice.alert
        kind = "success" if alert.status != "FIRING" else colours.get(alert.severity, "info")
        title, text = notify.title_of(notice), notify.text_of(notice)
        # A second attempt is for those only that did not take it at the first.
        done = {each for each in taken if each[0] == notice.id}
        for number, one in made:
            if (notice.id, number) not in done and one.notify(body=text, title=title, notify_type=kind):
                done.add((notice.id, number))
        taken.clear()
        taken.update(done)
        failed = [number for number, _ in made if (notice.id, number) not in done]
        if failed:
            raise NotDelivered(f"Apprise: URL {', '.join(map(str, failed))} of {name} was not taken")

    return send


def _secret(target: Target) -> str:
    place: Secret = target.secret
    if place.variable is not None:
        found, where = os.environ.get(place.variable, ""), f"the variable {place.variable}"
    else:
        where = f"the file {place.file}"
        try:
            found = place.file.read_text(encoding="utf-8") if place.file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{target.name}: {where} cannot be read: {error}") from None
    if not found.strip():
        raise UsageError(f"{target.name}: {where} is empty or not there")
    return found.strip()
