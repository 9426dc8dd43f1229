"""Messages wait, are tried again ever more seldom, and are given up after a day. Time is what the test says."""

from typing import Any

import pytest
from sqlmodel import Session, col, select

from orchestrator.alerting import alerts, outbox
from orchestrator.alerting.outbox import Recipients
from orchestrator.alerting.rules import Raised
from orchestrator.db import Database
from orchestrator.journal import SERVICE
from orchestrator.models import Alert, Event, OutboxMessage


def told(database: Database, *channels: str, severity: str = "warning", least: str = "warning") -> list[OutboxMessage]:
    """The messages of an alert."""
    database.writer.info[Recipients] = Recipients(channels, least, "here")
    raised = Raised("budget", "k", severity, "All is used.", ("ignore",), plan_id="p")  # type: ignore[arg-type]
    database.write(lambda session: alerts.raise_alert(session, raised) and None)
    return waiting(database)


def waiting(database: Database) -> list[OutboxMessage]:
    with database.read() as session:
        return list(session.exec(select(OutboxMessage).order_by(col(OutboxMessage.seq))))


def kinds(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.exec(select(Event.kind).order_by(col(Event.id))))


def fail(database: Database, message: OutboxMessage, now: float, **options: Any) -> float | None:
    return database.write(lambda session: outbox.failed(session, message.id, "HTTP 500.", now, **options))


def due(database: Database, now: float, channel: str = "webhook:a") -> list[str]:
    with database.read() as session:
        return [message.id for message in outbox.due(session, now, channel)]


def test_each_target_gets_a_message_of_its_own(database: Database) -> None:
    one, two = told(database, "webhook:a", "apprise:b")
    assert (one.channel, two.channel) == ("webhook:a", "apprise:b")
    assert one.id != two.id
    assert one.payload["id"] == one.id
    assert (one.payload["kind"], one.payload["plan_id"], one.payload["run"]) == ("alert", "p", None)
    assert one.payload["alert"]["message"] == "All is used."
    assert not {"key", "topic", "seq"} & one.payload["alert"].keys()


@pytest.mark.parametrize(
    ("severity", "least", "count"),
    [("info", "warning", 0), ("warning", "warning", 1), ("critical", "warning", 1), ("warning", "critical", 0)],
)
def test_what_is_less_severe_than_wanted_stays_here(database: Database, severity: str, least: str, count: int) -> None:
    assert len(told(database, "webhook:a", severity=severity, least=least)) == count


def test_the_same_condition_is_told_of_once(database: Database) -> None:
    told(database, "webhook:a")
    assert len(told(database, "webhook:a")) == 1


def test_without_targets_nobody_is_told(database: Database) -> None:
    assert told(database) == []


def test_a_transaction_that_fails_leaves_neither_alert_nor_message(database: Database) -> None:
    database.writer.info[Recipients] = Recipients(("webhook:a",))

    def write(session: Session) -> None:
        alerts.raise_alert(session, Raised("budget", "k", "warning", "m", ("ignore",), plan_id="p"))
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        database.write(write)
    assert (waiting(database), kinds(database)) == ([], [])


def test_a_message_is_tried_again_ever_more_seldom(database: Database) -> None:
    (message,) = told(database, "webhook:a")
    now, waits = message.created_at, []
    for _ in range(12):
        later = fail(database, message, now)
        assert later is not None
        assert due(database, later - 0.1) == []
        assert due(database, later) == [message.id]
        waits.append(round(later - now))
        now = later
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]
    assert kinds(database) == ["alert.created", "alert.telling_again"]


def test_a_message_is_given_up_after_a_day_with_an_event(database: Database) -> None:
    (message,) = told(database, "webhook:a")
    assert fail(database, message, message.created_at + 86_399) is not None
    assert fail(database, message, message.created_at + 86_400) is None
    assert waiting(database) == []
    assert kinds(database)[-1] == "alert.not_told"


def test_a_refusal_for_good_gives_up_at_once(database: Database) -> None:
    (message,) = told(database, "webhook:a")
    assert fail(database, message, message.created_at, final=True) is None
    assert kinds(database) == ["alert.created", "alert.not_told"]


def test_what_is_delivered_waits_no_more(database: Database) -> None:
    (message,) = told(database, "webhook:a")
    database.write(lambda session: outbox.delivered(session, message.id))
    assert fail(database, message, message.created_at) is None
    assert waiting(database) == []
    assert kinds(database) == ["alert.created", "alert.told"]


def test_nobody_is_told_any_more_of_what_is_answered(database: Database) -> None:
    told(database, "webhook:a", "webhook:b")

    def resolve(session: Session) -> None:
        alerts.answer(session, session.exec(select(Alert)).one(), {"response": "ignore"}, SERVICE)

    database.write(resolve)
    assert waiting(database) == []


@pytest.mark.parametrize(("severity", "count"), [("warning", 0), ("critical", 2)])
def test_what_is_over_before_it_was_sent_is_told_of_only_where_it_is_critical(
    database: Database, severity: str, count: int
) -> None:
    told(database, "webhook:a", "webhook:b", severity=severity)
    database.write(lambda session: alerts.over(session, session.exec(select(Alert)).one()))
    assert len(waiting(database)) == count


def test_what_was_not_taken_comes_after_what_was_not_tried(database: Database) -> None:
    (one,) = told(database, "webhook:a")
    raised = Raised("budget", "k2", "warning", "m", ("ignore",), plan_id="p")
    database.write(lambda session: alerts.raise_alert(session, raised) and None)
    one, two = waiting(database)
    later = fail(database, one, one.created_at)
    assert later is not None
    assert due(database, later) == [two.id, one.id]


def test_each_channel_has_its_own_queue(database: Database) -> None:
    one, two = told(database, "webhook:a", "webhook:b")
    assert due(database, two.created_at, "webhook:a") == [one.id]
    assert due(database, two.created_at, "webhook:b") == [two.id]
    with database.read() as session:
        assert sorted(outbox.channels(session)) == ["webhook:a", "webhook:b"]
        assert outbox.next_at(session, "webhook:b") == two.created_at
        assert outbox.next_at(session, "webhook:c") is None
