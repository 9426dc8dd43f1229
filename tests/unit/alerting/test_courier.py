"""Messages reach a real web server on loopback, whatever it does; and apprise's targets."""

import hashlib
import hmac
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, col, select

from orchestrator.alerting import alerts, outbox, targets
from orchestrator.alerting.courier import Courier, Couriers
from orchestrator.alerting.outbox import Recipients
from orchestrator.alerting.rules import Raised
from orchestrator.alerting.targets import NotTaken, Target, targets_of
from orchestrator.db import Database
from orchestrator.doctor import examine
from orchestrator.errors import BadInput, StorageFull
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
def courier(database: Database, targets: dict[str, Target], deadline: float = 10.0) -> Iterator[Couriers]:
    """Couriers, woken by what is committed."""
    database.writer.info[Recipients] = Recipients(tuple(targets), "warning", "here")
    made = Couriers(database, targets, deadline)
    database.writer.on_commit(made.wake)
    made.start()
    try:
        yield made
    finally:
        made.close()


def warn(database: Database, key: str = "k", words: str = "All is used.") -> None:
    raised = Raised("budget", key, "warning", words, ("ignore",), plan_id="p")
    database.write(lambda session: alerts.raise_alert(session, raised) and None)


def messages(database: Database) -> list[OutboxMessage]:
    with database.read() as session:
        return list(session.exec(select(OutboxMessage).order_by(col(OutboxMessage.seq))))


def settled(database: Database, count: int = 1) -> list[Event]:
    """What was said of each message at its end, once none waits any more."""

    def there() -> list[Event] | None:
        with database.read() as session:
            ends = col(Event.kind).in_(("alert.told", "alert.not_told"))
            found = list(session.exec(select(Event).where(ends).order_by(col(Event.id))))
        return found if len(found) == count and not messages(database) else None

    return wait_until(there, "all messages settled")


def tried(database: Database, times: int = 1) -> OutboxMessage:
    """The message that waits, once it was tried so often."""

    def there() -> OutboxMessage | None:
        (message,) = messages(database)
        return message if message.attempts >= times else None

    return wait_until(there, "an attempt")


def said(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.exec(select(Event.message).order_by(col(Event.id))))


def test_a_webhook_gets_the_alert_as_json_with_its_id(database: Database, hook: Hook) -> None:
    with courier(database, webhooks(hook.url("/a/b?c=d"))):
        warn(database)
        (end,) = settled(database)
    (taken,) = hook.taken
    assert (end.kind, end.subject) == ("alert.told", f"alert:{taken.json['alert']['id']}")
    assert taken.path == "/a/b?c=d"
    assert (taken.headers["Content-Type"], taken.headers["X-Orc-Delivery"]) == ("application/json", taken.json["id"])
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
        settled(database)
    assert len(hook.taken) == 2
    assert {taken.path for taken in hook.taken} == {"/hook"}  # no redirect was followed
    assert len({taken.headers["X-Orc-Delivery"] for taken in hook.taken}) == 1
    assert any(f"HTTP {status}." in words for words in said(database))


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_a_refusal_is_final(database: Database, hook: Hook, status: int) -> None:
    hook.answers = [status]
    with courier(database, webhooks(hook.url())):
        warn(database)
        (end,) = settled(database)
    assert end.kind == "alert.not_told"
    assert f"HTTP {status}. Given up after 1 attempt(s)." in end.message


def test_a_server_that_is_away_gets_it_when_it_is_back(database: Database) -> None:
    hook = Hook()
    with listening(hook):
        pass
    with courier(database, webhooks(hook.url())):
        warn(database)
        assert tried(database).error is not None
        with listening(hook):
            (end,) = settled(database)
    assert end.kind == "alert.told"
    assert len(hook.taken) == 1


def test_a_server_that_hangs_keeps_it_from_no_other(database: Database, hook: Hook) -> None:
    other = Hook()
    hook.hang.set()
    with listening(other), courier(database, webhooks(hook.url(), other.url()), deadline=60.0):
        for number in range(3):
            warn(database, f"k{number}")
        wait_until(lambda: (len(hook.taken), len(other.taken)) == (1, 3), "the other has them all")


def test_a_server_that_gives_no_answer_in_time_is_asked_again(database: Database, hook: Hook) -> None:
    hook.hang.set()
    with courier(database, webhooks(hook.url()), deadline=0.2):
        warn(database)
        tried(database)
        hook.hang.clear()
        settled(database)
    assert any("No answer within 0.2 s." in words for words in said(database))


class Picky:
    """Takes messages, but for those with certain words; counts its tries."""

    def __init__(self, refused: str = "", **how: Any) -> None:
        self.refused = refused
        self.how = how
        self.sent: list[str] = []
        self.tries = 0

    def send(self, payload: Any) -> None:
        self.tries += 1
        if payload["alert"]["message"] == self.refused:
            raise NotTaken("HTTP 500.", **self.how)
        self.sent.append(payload["alert"]["message"])


def alone(database: Database, target: Target) -> Courier:
    """A courier that does only what the test says."""
    database.writer.info[Recipients] = Recipients(("webhook:a",))
    return Courier(database, "webhook:a", target, 5.0)


def test_a_message_that_is_never_taken_keeps_no_other_from_being_sent(database: Database) -> None:
    target = Picky("poison")
    made = alone(database, target)
    for number in range(6):
        warn(database, f"k{number}", f"m{number}" if number else "poison")
    wait_until(lambda: made.once() and len(target.sent) == 5, "the others sent")
    assert target.sent == ["m1", "m2", "m3", "m4", "m5"]
    assert target.tries <= 7  # it was not tried before each of the others


def test_a_target_rests_after_each_refusal_though_the_message_was_given_up(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT", 100.0)
    target = Picky("no", final=True)
    made = alone(database, target)
    for number in range(3):
        warn(database, f"k{number}", "no")
    assert 90 < made.once() <= 100
    assert 90 < made.once() <= 100
    assert (target.tries, len(messages(database))) == (1, 2)


def test_a_success_ends_the_rests_of_a_channel(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[int] = []

    def at_once(count: int, _after: float | None) -> float:
        failures.append(count)
        return 0.0

    monkeypatch.setattr(outbox, "wait", at_once)
    made = alone(database, Picky("no", final=True))
    for number, words in enumerate(("no", "no", "yes", "no")):
        warn(database, f"k{number}", words)
    made.once()
    assert failures == [1, 2, 1]


def test_what_was_sent_and_could_not_be_recorded_is_not_sent_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Picky()
    made = alone(database, target)
    warn(database)
    with monkeypatch.context() as full:

        def no_room(_session: Session, _message_id: str) -> None:
            raise StorageFull("The disk is full.")

        full.setattr(outbox, "delivered", no_room)
        for _ in range(3):
            with pytest.raises(StorageFull):
                made.once()
    made.once()
    assert (target.tries, messages(database)) == (1, [])
    assert settled(database)[0].kind == "alert.told"


@pytest.mark.parametrize("later", ["600", "date"])
def test_a_target_that_says_when_to_come_back_is_left_alone_until_then(
    database: Database, hook: Hook, later: str
) -> None:
    hook.answers, hook.retry_after = [429], formatdate(time.time() + 600) if later == "date" else later
    (target,) = webhooks(hook.url()).values()
    made = alone(database, target)
    warn(database)
    assert 590 < made.once() <= 600
    (message,) = messages(database)
    assert 590 < message.next_at - time.time() <= 600


@pytest.mark.parametrize(
    ("header", "after"),
    [
        *[(None, None), ("soon", None), ("", None), ("-5", None), (" 7 ", 7.0), ("0", 0.0)],
        *[("Thu, 01 Jan 1970 00:20:00 GMT", 200.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
    ],
)
def test_the_time_to_come_back_is_seconds_or_a_date(header: str | None, after: float | None) -> None:
    assert targets.retry_after(header, 1000.0) == after


def test_however_late_a_target_says_to_come_back_it_is_asked_within_the_hour() -> None:
    assert outbox.wait(1, float("inf")) == 3600.0


def test_the_courier_ends_while_a_server_hangs_and_the_next_one_sends_it(database: Database, hook: Hook) -> None:
    hook.hang.set()
    with courier(database, webhooks(hook.url()), deadline=60.0):
        warn(database)
        wait_until(lambda: hook.taken, "the message is on its way")
    (message,) = messages(database)
    assert message.attempts == 0
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
    database.writer.info[Recipients] = Recipients(("webhook:gone",))
    warn(database)
    with courier(database, {}):
        assert "No such target is configured any more" in (tried(database).error or "")


def test_a_target_with_a_defect_of_its_own_is_tried_again_and_its_words_stay_unsaid(database: Database) -> None:
    class Broken:
        def send(self, payload: Any) -> None:
            raise RuntimeError("https://user:password@example.org")

    with courier(database, {"webhook:broken": Broken()}):
        warn(database)
        assert tried(database, times=2).error == "It could not be sent (RuntimeError)."
    assert not any("password" in words for words in said(database))


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise's own, at its import
def test_apprise_sends_to_its_targets(database: Database, hook: Hook) -> None:
    import_module("apprise")  # on a busy machine this alone takes longer than a message may
    targets = targets_of(Settings(notify_apprise=[f"json://127.0.0.1:{hook.port}/path"]))
    with courier(database, targets):
        warn(database)
        (end,) = settled(database)
    (taken,) = hook.taken
    assert (taken.json["title"], taken.json["type"]) == ("orc on here: warning", "warning")
    assert "All is used." in taken.json["message"]
    assert f"orc alert respond {end.subject.removeprefix('alert:')} CHOICE" in taken.json["message"]


def test_where_apprise_is_missing_the_message_stays_and_the_doctor_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("orchestrator.alerting.targets.apprise_installed", lambda: False)
    monkeypatch.setattr("orchestrator.doctor.apprise_installed", lambda: False)
    settings = Settings(home=tmp_path / "home", notify_apprise=["json://localhost"])
    with courier(database, targets_of(settings)):
        warn(database)
        assert targets.INSTALL in (tried(database).error or "")
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
    assert alone(database, Picky()).once() > 60


def test_a_single_pass_sends_to_all(database: Database, hook: Hook) -> None:
    other = Hook()
    with listening(other):
        targets = webhooks(hook.url(), other.url())
        database.writer.info[Recipients] = Recipients(tuple(targets))
        warn(database)
        Couriers(database, targets).once()
    assert (len(hook.taken), len(other.taken), messages(database)) == (1, 1, [])
