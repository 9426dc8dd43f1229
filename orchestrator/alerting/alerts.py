"""Alerts: something that wants a person's choice. Made by anybody over HTTP, and by the service's own rules."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from orchestrator import ids
from orchestrator.alerting import outbox, rules
from orchestrator.alerting.rules import MOST_ALONE, Raised, Seen
from orchestrator.errors import NotFound
from orchestrator.journal import SERVICE, Actor, change, record
from orchestrator.models import Alert, AlertRun, Run
from orchestrator.shapes import AlertCreate
from orchestrator.states import RunStatus

AT_ONCE = 500
SEEN = ("id", "name", "attempt", "reason", "error", "sweep_id", "plan_id", "started_at", "resources", "created_by")
SEEN_COLUMNS: tuple[Any, ...] = tuple(getattr(Run, name) for name in SEEN)
_STATES: tuple[Any, ...] = (*SEEN_COLUMNS, Run.status, Run.history)
HIDDEN = {"seq", "key", "topic"}


def shown(session: Session, found: Sequence[Alert]) -> list[dict[str, Any]]:
    """Alerts as the wire shows them. ``run_ids``: of one about several runs all of them."""
    joined: dict[str, list[str]] = {}
    for part in parts([alert.id for alert in found if alert.topic is not None]):
        for row in session.exec(select(AlertRun).where(col(AlertRun.alert_id).in_(part))):
            joined.setdefault(row.alert_id, []).append(row.run_id)
    return [_public(alert, joined.get(alert.id)) for alert in found]


def _public(alert: Alert, joined: list[str] | None = None) -> dict[str, Any]:
    alone = [alert.run_id] if alert.run_id is not None else []
    return alert.model_dump(exclude=HIDDEN) | {"run_ids": joined or alone}


def get(session: Session, alert_id: str) -> Alert:
    """The alert. Raises NotFound."""
    found = session.exec(select(Alert).where(col(Alert.id) == alert_id)).first()
    if found is None:
        raise NotFound("alert", alert_id)
    return found


def create(session: Session, run_id: str, body: AlertCreate, actor: Actor) -> Alert:
    """An alert about a run, by somebody."""
    return _store(session, _run(session, run_id), actor, body.model_dump())


def _run(session: Session, run_id: str) -> Run:
    found = session.exec(select(Run).where(col(Run.id) == run_id)).first()
    if found is None:
        raise NotFound("run", run_id)
    return found


def _store(session: Session, run: Run | None, actor: Actor, told: dict[str, Any], **hidden: Any) -> Alert:
    """The alert, its event, and the messages that tell of it."""
    if run is not None:
        told = {"run_id": run.id} | told | {"plan_id": run.plan_id}
    session_id = run.chat_session_id if run is not None else None
    alert = Alert(id=ids.run_id(), timestamp=time.time(), session_id=session_id, **told, **hidden)
    session.add(alert)
    record(session, actor, "alert.created", f"alert:{alert.id}", alert.message, None, told)
    outbox.add(session, alert, _public(alert), run)
    return alert


# -- by rules ----------------------------------------------------------------------------------------------------------


def raise_alert(session: Session, raised: Raised) -> Alert | None:
    """The alert that a rule calls for; None where its condition has had one already."""
    if known(session, [raised.key]):
        return None
    run = _run(session, raised.run_id) if raised.run_id is not None else None
    told = {
        **{name: getattr(raised, name) for name in ("rule", "severity", "message", "plan_id", "proposal")},
        "choices": list(raised.choices),
    }
    return _store(session, run, SERVICE, told, key=raised.key, topic=raised.topic)


def raise_all(session: Session, found: Iterable[Raised]) -> None:
    """The same for many: where more than a few of one topic wait, the others become one alert that grows."""
    news = {raised.key: raised for raised in found}
    for key in known(session, list(news)):
        del news[key]
    for topic, items in groupby(sorted(news.values(), key=lambda raised: raised.topic or ""), lambda item: item.topic):
        _raise_topic(session, topic, list(items))


def _raise_topic(session: Session, topic: str | None, items: list[Raised]) -> None:
    waiting = _waiting(session, topic) if topic is not None else []
    of_several = next((alert for alert in waiting if alert.key is not None and alert.key.startswith(f"{topic}:")), None)
    if topic is None or (of_several is None and len(waiting) + len(items) <= MOST_ALONE):
        for raised in items:
            raise_alert(session, raised)
        return
    if of_several is None:
        of_several = raise_alert(session, rules.of_several(items[0], len(items)))
        assert of_several is not None  # its key has the run's, which is new
    _join(session, of_several, items)


def _waiting(session: Session, topic: str) -> list[Alert]:
    """The alerts of one topic that wait for an answer."""
    return list(session.exec(select(Alert).where(col(Alert.topic) == topic, col(Alert.status) == "pending")))


def _join(session: Session, alert: Alert, items: Sequence[Raised]) -> None:
    """Adds runs to an alert about several. It is told of again where they have become many more."""
    session.add_all(AlertRun(key=item.key, alert_id=alert.id, run_id=item.run_id or "") for item in items)
    session.flush()
    count = session.exec(select(func.count()).where(col(AlertRun.alert_id) == alert.id)).one()
    message = rules.counted(alert.topic or "", alert.message, count)
    change(session, alert, SERVICE, "alert.grown", f"alert:{alert.id}", {"message": message})
    if rules.worth_telling(count - len(items), count):
        outbox.add(session, alert, _public(alert), None)


def known(session: Session, keys: Sequence[str]) -> set[str]:
    """Those of these conditions that have had their alert."""
    found: set[str] = set()
    for part in parts(keys):
        found |= {str(key) for key in session.exec(select(Alert.key).where(col(Alert.key).in_(part)))}
        found |= set(session.exec(select(AlertRun.key).where(col(AlertRun.key).in_(part))))
    return found


def untold(session: Session, rule: str, found: Iterable[Any]) -> list[Any]:
    """Of these runs those that have not had their alert."""
    keys = {rules.key(rule, seen_of(run)): run for run in found}
    told = known(session, list(keys))
    return [run for key, run in keys.items() if key not in told]


def retire(session: Session, keys: Iterable[str]) -> None:
    """These conditions hold no more: another time is another condition, and what waits for an answer has lost it."""
    for part in parts(sorted(keys)):
        rows: list[Alert | AlertRun] = [
            *session.exec(select(Alert).where(col(Alert.key).in_(part))),
            *session.exec(select(AlertRun).where(col(AlertRun.key).in_(part))),
        ]
        for row in rows:
            row.key = f"{row.key}:over:{ids.run_id()}"
            session.add(row)
    session.flush()


def seen_of(run: Any) -> Seen:
    """A run as the rules look at it: from its row, or from one with these columns."""
    return Seen(**{name: getattr(run, name) for name in SEEN}, ended=len(getattr(run, "history", ())))


def standing(session: Session, alert: Alert) -> list[Run]:
    """The runs that are still as the alert of a rule says: in the same attempt, not over, or still failed."""
    conditions = _conditions(session, [alert])[alert.id]
    rows = {run.id: run for part in parts(sorted(conditions)) for run in session.exec(_of(select(Run), part))}
    return [rows[run_id] for run_id, key in conditions.items() if run_id in rows and _stands(alert, rows[run_id], key)]


def _conditions(session: Session, found: Sequence[Alert]) -> dict[str, dict[str, str | None]]:
    """By alert: the runs that it tells of, each with the key of its condition."""
    conditions: dict[str, dict[str, str | None]] = {alert.id: {} for alert in found}
    for part in parts([alert.id for alert in found if alert.topic is not None]):
        for row in session.exec(select(AlertRun).where(col(AlertRun.alert_id).in_(part))):
            conditions[row.alert_id][row.run_id] = row.key
    for alert in found:
        if not conditions[alert.id] and alert.run_id is not None:
            conditions[alert.id] = {alert.run_id: alert.key}
    return conditions


def _of(query: Any, run_ids: Sequence[str]) -> Any:
    return query.where(col(Run.id).in_(run_ids))


def _stands(alert: Alert, run: Any, key: str | None) -> bool:
    status = _STANDING.get(alert.rule, RunStatus.RUNNING)
    return bool(run.status == status and rules.key(alert.rule, seen_of(run)) == key)


_STANDING = {"failed": RunStatus.FAILED, "pending": RunStatus.QUEUED}


def parts(items: Sequence[str]) -> Iterator[Sequence[str]]:
    """A few hundred for each query."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def moot(session: Session) -> list[Alert]:
    """The alerts of what goes on that is over: the run has ended, has started, is at another attempt."""
    lasting = col(Alert.rule).in_(("nonfinite", "no_progress", "idle_gpu", "pending"))
    waiting = session.exec(select(Alert).where(col(Alert.status) == "pending", lasting)).all()
    conditions = _conditions(session, waiting)
    wanted = sorted({run_id for keys in conditions.values() for run_id in keys})
    query = sql_select(*_STATES)
    rows = {row.id: row for part in parts(wanted) for row in session.connection().execute(_of(query, part))}
    return [
        alert
        for alert in waiting
        if not any(run_id in rows and _stands(alert, rows[run_id], key) for run_id, key in conditions[alert.id].items())
    ]


def settle_moot(session: Session) -> None:
    """Resolves the alerts of what is over."""
    for alert in moot(session):
        over(session, alert)


def over(session: Session, alert: Alert) -> None:
    """Resolves an alert: what it tells of is over. Word of what is critical goes out all the same."""
    words = "What it tells of is over."
    _resolve(session, alert, {"outcome": {"moot": words}}, SERVICE, words)
    if alert.severity != "critical":
        outbox.forget(session, alert.id)


def answer(session: Session, alert: Alert, fields: dict[str, Any], actor: Actor) -> None:
    """Resolves an alert as somebody has chosen: nobody need be told of it any more."""
    _resolve(session, alert, fields, actor)
    outbox.forget(session, alert.id)


def _resolve(session: Session, alert: Alert, fields: dict[str, Any], actor: Actor, words: str = "") -> None:
    change(session, alert, actor, "alert.resolved", f"alert:{alert.id}", {"status": "resolved", **fields}, words)


def of_budgets(session: Session) -> list[Alert]:
    """The alerts of plans' budgets that wait for an answer."""
    return list(session.exec(select(Alert).where(col(Alert.rule) == "budget", col(Alert.status) == "pending")))


# -- listed ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """Which alerts to list. ``before``: only those older than this ``seq`` (the cursor)."""

    status: str | None = None
    run_id: str | None = None
    plan_id: str | None = None
    rule: str | None = None
    severity: str | None = None
    before: int | None = None
    limit: int = 100


def listing(session: Session, wanted: Filter) -> list[Alert]:
    """Alerts, newest first."""
    query = select(Alert).order_by(col(Alert.seq).desc()).limit(wanted.limit)
    for name in ("status", "plan_id", "rule", "severity"):
        if getattr(wanted, name) is not None:
            query = query.where(col(getattr(Alert, name)) == getattr(wanted, name))
    if wanted.run_id is not None:
        joined = select(AlertRun.alert_id).where(col(AlertRun.run_id) == wanted.run_id)
        query = query.where((col(Alert.run_id) == wanted.run_id) | col(Alert.id).in_(joined))
    if wanted.before is not None:
        query = query.where(col(Alert.seq) < wanted.before)
    return list(session.exec(query))
