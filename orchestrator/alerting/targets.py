"""Where word of alerts goes: webhooks, and what apprise knows. Only to where the administrator has said."""

import hashlib
import hmac
import importlib
import importlib.util
import json
import logging
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx2

from orchestrator.errors import BadInput, OrcError
from orchestrator.settings import Settings

TIMEOUT = 10.0
INSTALL = "pip install 'hpc-orchestrator[notify]'"
LATER = frozenset({408, 429})


class NotTaken(OrcError):
    """A target has not taken a message. ``final``: nor will it ever; ``after``: it may, so many seconds later.

    Tells nothing of the target's address.
    """

    def __init__(self, message: str, *, final: bool = False, after: float | None = None) -> None:
        super().__init__(message)
        self.final = final
        self.after = after


class Target(Protocol):
    """Something that takes messages."""

    def send(self, payload: Mapping[str, Any]) -> None:
        """Sends one. Raises NotTaken."""
        ...


def targets_of(settings: Settings) -> dict[str, Target]:
    """The targets that are configured, by their channels: a kind, and a hash in place of the address.

    Raises BadInput for an address that is none.
    """
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request, with the address
    found: dict[str, Target] = {}
    for number, url in enumerate(settings.notify_webhooks):
        if not _is_web(url):
            raise BadInput(
                "notify_webhooks", f"notify_webhooks[{number}] is no URL that begins with http:// or https://."
            )
        found[channel("webhook", url)] = Webhook(url, settings.notify_secret)
    for url in settings.notify_apprise:
        found[channel("apprise", url)] = Apprise(url)
    return found


def _is_web(url: str) -> bool:
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        return False
    return parts.scheme in {"http", "https"} and bool(parts.host)


def channel(kind: str, url: str) -> str:
    """Names a target for as long as its address is the same, and tells nothing of it."""
    return f"{kind}:{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def signature(secret: str, body: bytes) -> str:
    """What X-Orc-Signature holds."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


@dataclass(frozen=True)
class Webhook:
    """A URL that takes JSON by POST."""

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """2xx is taken; any other 4xx than "later" is a refusal for good; a redirect is not followed."""
        body = json.dumps(payload).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "orc", "X-Orc-Delivery": str(payload["id"])}
        if self.secret:
            headers["X-Orc-Signature"] = signature(self.secret, body)
        try:
            with (
                httpx2.Client(timeout=TIMEOUT, follow_redirects=False) as http,
                http.stream("POST", self.url, content=body, headers=headers) as answer,
            ):
                status, later = answer.status_code, answer.headers.get("Retry-After")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise NotTaken(_words(error)) from error
        if not 200 <= status < 300:
            final = 400 <= status < 500 and status not in LATER
            raise NotTaken(f"HTTP {status}.", final=final, after=retry_after(later, time.time()))


def retry_after(header: str | None, now: float) -> float | None:
    """After how many seconds the target wants to be asked again: Retry-After has seconds or a date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):
        return None


# Their numbers are not errno's, though they are OSErrors.
_FIXED: tuple[tuple[type[OSError], str], ...] = (
    (ssl.SSLCertVerificationError, "Its TLS certificate cannot be trusted."),
    (ssl.SSLError, "TLS could not be agreed on."),
    (socket.gaierror, "The name of its host cannot be resolved."),
)


def _words(error: BaseException) -> str:
    """What went wrong, without the address: an exception's own words may hold it."""
    cause: BaseException | None = error
    while cause is not None:
        if words := next((words for kind, words in _FIXED if isinstance(cause, kind)), None):
            return words
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{type(error).__name__}: {os.strerror(cause.errno)}."
        cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}."


@dataclass(frozen=True)
class Apprise:
    """A URL of apprise's (mail, Slack, ntfy, …). It is loaded when the first message goes out."""

    url: str = field(repr=False)

    def send(self, payload: Mapping[str, Any]) -> None:
        """Apprise says only whether it worked."""
        if not apprise_installed():
            raise NotTaken(f"apprise is not installed: {INSTALL}")
        made = importlib.import_module("apprise").Apprise()
        if not made.add(self.url):
            raise NotTaken("It is no URL that apprise knows (notify_apprise).")
        alert = payload["alert"]
        title = f"orc on {payload['server']}: {alert['severity']}"
        choices = ", ".join(alert["choices"])
        body = f"{alert['message']}\n\nChoices: {choices}\norc alert respond {alert['id']} CHOICE"
        kinds = {"info": "info", "warning": "warning", "critical": "failure"}
        # Without the format it would be taken for whatever the target shows: for HTML, in a mail.
        how = {"notify_type": kinds[alert["severity"]], "body_format": "text"}
        if not made.notify(body=body, title=title, **how):
            raise NotTaken("apprise could not send it.")


def apprise_installed() -> bool:
    """Whether the extra is there."""
    return importlib.util.find_spec("apprise") is not None
