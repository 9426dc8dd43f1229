"""What targets say of themselves and of what went wrong: never their address."""

import importlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from orchestrator.alerting.targets import Apprise, NotTaken, Webhook

PAYLOAD = {
    "id": "m1",
    "server": "here",
    "alert": {"id": "a1", "severity": "warning", "choices": ["ignore"], "message": "<b>x</b> & more\nof it"},
}
SECRET = "T0pSecret"


def test_what_is_shown_of_a_target_has_no_address_and_no_secret() -> None:
    assert SECRET not in repr([Webhook(f"http://x/{SECRET}", SECRET), Apprise(f"mailto://x:{SECRET}@y")])


@pytest.fixture
def no_tls() -> Iterator[int]:
    """A port at which something answers that is no TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.0 400 no\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_a_target_that_speaks_no_tls_is_said(no_tls: int) -> None:
    with pytest.raises(NotTaken, match=r"^TLS could not be agreed on\.$"):
        Webhook(f"https://127.0.0.1:{no_tls}/{SECRET}").send(PAYLOAD)


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ssl.SSLCertVerificationError(1, SECRET), "Its TLS certificate cannot be trusted."),
        (ssl.SSLError(1, SECRET), "TLS could not be agreed on."),
        (socket.gaierror(-2, SECRET), "The name of its host cannot be resolved."),
        (ConnectionRefusedError(111, SECRET), "ConnectError: Connection refused."),
        (None, "ConnectError."),
    ],
)
def test_what_went_wrong_is_said_in_fixed_words(
    monkeypatch: pytest.MonkeyPatch, cause: OSError | None, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise httpx2.ConnectError(SECRET) from cause

    monkeypatch.setattr(httpx2.Client, "stream", fail)
    with pytest.raises(NotTaken) as caught:
        Webhook(f"https://x/{SECRET}").send(PAYLOAD)
    assert caught.value.message == words


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise's own, at its import
def test_a_mail_shows_an_alert_as_it_is_and_no_markup_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    mail = importlib.import_module("apprise.plugins.email.base").NotifyEmail

    def send(_self: Any, body: str, **_: Any) -> bool:
        sent.append(body)
        return True

    monkeypatch.setattr(mail, "send", send)
    Apprise("mailto://user:password@example.org?format=html").send(PAYLOAD)
    (body,) = sent
    assert "<b>x</b>" not in body
    assert "&lt;b&gt;x&lt;/b&gt;" in body
    assert "<br" in body
