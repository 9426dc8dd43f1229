"""Messages reach a real web server on loopback, whatever it does; and apprise's targets."""

import hashlib
import hmac
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select

from orchestrator.alerting import alerts, outbox, targets
from orchestrator.alerting.courier import Courier
from orchestrator.alerting.outbox import Recipients
from orchestrator.alerting.rules import Raised
from orchestrator.alerting.targets import Target, targets_of
from orchestrator.db import Database
from orchestrator.doctor import examine
from orchestrator.errors import BadInput
from orchestrator.models import Event, OutboxMessage
from orchestrator.settings import Settings
from tests.support.waiting import wait_until
from tests.support.webhooks import Hook, listening


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    with listening(made):
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not taken is tried again soon: how seldom, the outbox's own tests tell."""
    monkeypatch.setattr(outbox, "FIRST_WAIT", 0.05)
    monkeypatch.setattr("orchestrator.alerting.courier.SHORTEST", 0.01)


def webhooks(*urls: str, **more: Any) -> dict[str, Target]:
    return targets_of(Settings(notify_webhooks=list(urls), **more))


@contextmanager
def courier(database: Database, targets: dict[str, Target], deadline: float = 10.0) -> Iterator[Courier]:
    """A courier, woken by what is committed."""
    database.writer.info[Recipients] = Recipients(tuple(targets), "warning", "here")
    made = Courier(database, targets, deadline)
    database.writer.on_commit(made.wake)
    made.start()
    try:
        yield made
    finally:
        made.close()


def warn(database: Database, key: str = "k") -> None:
    raised = Raised("budget", key, "warning", "All is used.", ("ignore",), plan_id="p")
    database.write(lambda session: alerts.raise_alert(session, raised) and None)


def messages(database: Database) -> list[OutboxMessage]:
    with database.read() as session:
        return list(session.exec(select(OutboxMessage).order_by(col(OutboxMessage.seq))))


def settled(database: Database, count: int = 1) -> list[OutboxMessage]:
    """The messages once none of them waits."""

    def there() -> list[OutboxMessage] | None:
        found = messages(database)
        return found if len(found) == count and all(message.next_at is None for message in found) else None

    return wait_until(there, "all messages settled")


def said(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.exec(select(Event.message).order_by(col(Event.id))))


def test_a_webhook_gets_the_alert_as_json_with_its_id(database: Database, hook: Hook) -> None:
    with courier(database, webhooks(hook.url("/a/b?c=d"))):
        warn(database)
        (message,) = settled(database)
    (taken,) = hook.taken
    assert message.delivered_at is not None
    assert taken.path == "/a/b?c=d"
    assert (taken.headers["Content-Type"], taken.headers["X-Orc-Delivery"]) == ("application/json", message.id)
    assert taken.json == message.payload
    assert set(taken.json) == {"id", "kind", "at", "alert", "run", "plan_id", "server"}
    assert "X-Orc-Signature" not in taken.headers


def test_a_secret_signs_the_body(database: Database, hook: Hook) -> None:
    with courier(database, webhooks(hook.url(), notify_secret="s3cret")):
        warn(database)
        settled(database)
    (taken,) = hook.taken
    expected = hmac.new(b"s3cret", taken.body, hashlib.sha256).hexdigest()
    assert taken.headers["X-Orc-Signature"] == f"sha256={expected}"


@pytest.mark.parametrize("status", [500, 503, 408, 429, 302])
def test_what_may_be_taken_later_is_sent_again_under_the_same_id(database: Database, hook: Hook, status: int) -> None:
    hook.answers = [status]
    with courier(database, webhooks(hook.url())):
        warn(database)
        (message,) = settled(database)
    assert (message.attempts, len(hook.taken)) == (2, 2)
    assert {taken.path for taken in hook.taken} == {"/hook"}  # no redirect was followed
    assert {taken.headers["X-Orc-Delivery"] for taken in hook.taken} == {message.id}
    assert any(f"HTTP {status}." in words for words in said(database))


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_refusal_is_final(database: Database, hook: Hook, status: int) -> None:
    hook.answers = [status]
    with courier(database, webhooks(hook.url())):
        warn(database)
        (message,) = settled(database)
    assert (message.delivered_at, message.attempts, message.error) == (None, 1, f"HTTP {status}.")
    assert "Given up after 1 attempt(s)." in said(database)[-1]


def test_a_server_that_is_away_gets_it_when_it_is_back(database: Database) -> None:
    hook = Hook()
    with listening(hook):
        pass
    with courier(database, webhooks(hook.url())):
        warn(database)
        wait_until(lambda: messages(database)[0].attempts > 0, "a first attempt")
        assert messages(database)[0].error is not None
        with listening(hook):
            (message,) = settled(database)
    assert message.delivered_at is not None
    assert len(hook.taken) == 1


def test_a_server_that_hangs_keeps_it_from_no_other(database: Database, hook: Hook) -> None:
    other = Hook()
    hook.hang.set()
    with listening(other), courier(database, webhooks(hook.url(), other.url()), deadline=0.2):
        warn(database)
        wait_until(lambda: other.taken, "the other has it")
        hook.hang.clear()
        settled(database, 2)
    assert any("No answer within 0.2 s." in words for words in said(database))
    assert len(other.taken) == 1


def test_the_courier_ends_while_a_server_hangs_and_the_next_one_sends_it(database: Database, hook: Hook) -> None:
    hook.hang.set()
    with courier(database, webhooks(hook.url()), deadline=60.0):
        warn(database)
        wait_until(lambda: hook.taken, "the message is on its way")
    (message,) = messages(database)
    assert (message.attempts, message.next_at is not None) == (0, True)
    hook.hang.clear()
    with courier(database, webhooks(hook.url())):
        settled(database)
    assert [taken.headers["X-Orc-Delivery"] for taken in hook.taken] == [message.id, message.id]


def test_a_message_outlives_its_server(tmp_path: Path, database: Database, hook: Hook) -> None:
    targets = webhooks(hook.url())
    database.writer.info[Recipients] = Recipients(tuple(targets))
    warn(database)
    (message,) = messages(database)
    again = Database(f"sqlite:///{tmp_path / 'a.db'}")
    with courier(again, targets):
        settled(again)
    again.close()
    assert [taken.headers["X-Orc-Delivery"] for taken in hook.taken] == [message.id]


def test_a_target_that_is_configured_no_more_is_said(database: Database, hook: Hook) -> None:
    with courier(database, {}):
        database.writer.info[Recipients] = Recipients(("webhook:gone",))
        warn(database)
        wait_until(lambda: messages(database)[0].attempts > 0, "an attempt")
    assert "No such target is configured any more" in (messages(database)[0].error or "")


def test_a_target_with_a_defect_of_its_own_is_tried_again_and_its_words_stay_unsaid(database: Database) -> None:
    class Broken:
        def send(self, payload: Any) -> None:
            raise RuntimeError("https://user:password@example.org")

    with courier(database, {"webhook:broken": Broken()}):
        warn(database)
        wait_until(lambda: messages(database)[0].attempts > 1, "another attempt")
    assert messages(database)[0].error == "It could not be sent (RuntimeError)."
    assert not any("password" in words for words in said(database))


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise's own, at its import
def test_apprise_sends_to_its_targets(database: Database, hook: Hook) -> None:
    targets = targets_of(Settings(notify_apprise=[f"json://127.0.0.1:{hook.port}/path"]))
    with courier(database, targets):
        warn(database)
        (message,) = settled(database)
    assert message.delivered_at is not None
    (taken,) = hook.taken
    assert (taken.json["title"], taken.json["type"]) == ("orc on here: warning", "warning")
    assert "All is used." in taken.json["message"]
    assert f"orc alert respond {message.alert_id} CHOICE" in taken.json["message"]


def test_where_apprise_is_missing_the_message_stays_and_the_doctor_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("orchestrator.alerting.targets.apprise_installed", lambda: False)
    monkeypatch.setattr("orchestrator.doctor.apprise_installed", lambda: False)
    settings = Settings(home=tmp_path / "home", notify_apprise=["json://localhost"])
    with courier(database, targets_of(settings)):
        warn(database)
        wait_until(lambda: messages(database)[0].attempts > 0, "an attempt")
    assert targets.INSTALL in (messages(database)[0].error or "")
    (finding,) = [finding for finding in examine(settings) if finding.topic == "apprise"]
    assert (finding.level, targets.INSTALL in finding.words) == ("error", True)


def test_no_secret_is_stored_or_shown(database: Database, tmp_path: Path) -> None:
    secret = "T0pSecret"
    addresses = {"notify_webhooks": [f"http://127.0.0.1:9/{secret}"], "notify_apprise": [f"json://x:{secret}@[::1]:9"]}
    settings = Settings(home=tmp_path / "home", notify_secret=secret, **addresses)  # type: ignore[arg-type]
    with courier(database, targets_of(settings)):
        warn(database)
        wait_until(lambda: all(message.attempts for message in messages(database)), "an attempt at each")

    def dump(session: Session) -> str:
        connection = session.connection()
        tables = ("events", "outbox", "alerts")
        return repr([connection.exec_driver_sql(f"SELECT * FROM {table}").all() for table in tables])

    with database.read() as session:
        assert secret not in dump(session)
    assert secret not in repr(settings)
    shown = {finding.topic: finding.words for finding in examine(settings)}
    assert secret not in repr(shown)
    assert shown["setting notify_webhooks"].startswith("*** (1)")
    assert shown["setting notify_secret"].startswith("***")


def test_an_address_is_not_logged_when_a_message_is_taken(
    database: Database, hook: Hook, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("httpx2"), "level", logging.NOTSET)
    with caplog.at_level(logging.INFO), courier(database, webhooks(hook.url("/T0pSecret"))):
        warn(database)
        settled(database)
    assert hook.taken
    assert "T0pSecret" not in caplog.text


@pytest.mark.parametrize("url", ["example.org/T0pSecret", "ftp://x/T0pSecret", "http:///T0pSecret", "T0pSecret"])
def test_an_address_that_is_none_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(BadInput, match="notify_webhooks") as caught:
        webhooks(url)
    assert "T0pSecret" not in caught.value.message
    assert caught.value.field == "notify_webhooks"


def test_nothing_to_send_is_asked_for_seldom(database: Database) -> None:
    assert Courier(database, {}).once() > 60
