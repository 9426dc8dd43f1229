"""What the service raises by itself, what the choices do, and who is told: over HTTP, with real runs."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlmodel import col

from orchestrator import runs
from orchestrator.alerting import alerts
from orchestrator.alerting.rules import Raised
from orchestrator.models import AlertRun
from tests.support.plans import bindable
from tests.support.service import InProcess, Json, in_process
from tests.support.waiting import wait_until
from tests.support.webhooks import Hook, listening

NAN = """echo '{"step": 1, "loss": NaN}' >> $ORC_METRICS_FILE; sleep 60"""
LOOK = 0.1


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    made = Hook()
    with listening(made):
        yield made


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, hook: Hook) -> Iterator[InProcess]:
    """One service for all, that looks often and tells the hook. Each test looks at its own runs."""
    home = tmp_path_factory.mktemp("choices") / "home"
    settings = {"alert_look_seconds": LOOK, "notify_webhooks": [hook.url()], "alert_pending_seconds": 0.1}
    with in_process(home, **settings) as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


def alert_of(service: InProcess, run_id: str, **filters: Any) -> Json:
    """The alert about a run, once it is there."""
    found = wait_until(lambda: service.get("/alerts", run_id=run_id, **filters), f"an alert of run {run_id}")
    return dict(found[0])


def failed(service: InProcess, command: str = "exit 3", **fields: Any) -> tuple[Json, Json]:
    run = service.over(service.run(command, **fields)["id"])
    return run, alert_of(service, run["id"], rule="failed")


def diverging(service: InProcess) -> tuple[Json, Json]:
    run = service.run(NAN)
    return run, alert_of(service, run["id"], rule="nonfinite")


def respond(service: InProcess, alert: Json, choice: str) -> Json:
    return dict(service.post(f"/alerts/{alert['id']}/respond", {"choice": choice}))


def one(service: InProcess, alert: Json) -> Json:
    return next(found for found in service.get("/alerts", limit=1000) if found["id"] == alert["id"])


def test_a_failed_run_can_be_run_again_from_its_alert(service: InProcess) -> None:
    run, alert = failed(service, resources={"cpus": 2}, env={"A": "1"})
    assert (alert["rule"], alert["run_ids"], alert["choices"]) == ("failed", [run["id"]], ["ignore", "rerun"])
    answer = respond(service, alert, "rerun")
    new = service.over(answer["outcome"]["run_id"])
    assert (new["parent_run_id"], new["origin_alert_id"]) == (run["id"], alert["id"])
    assert (new["resources"]["cpus"], new["env"], new["command"]) == (2, {"A": "1"}, "exit 3")
    assert (answer["status"], answer["response"]) == ("resolved", "rerun")
    assert one(service, alert)["outcome"] == {"run_id": new["id"]}
    (event,) = [e for e in service.get("/events/latest", limit=1000) if _resolves(e, alert)]
    assert (event["actor"], event["after"]["outcome"]) == ("token:admin", {"run_id": new["id"]})


def _resolves(event: Json, alert: Json) -> bool:
    return bool(event["kind"] == "alert.resolved" and event["subject"] == f"alert:{alert['id']}")


def test_the_rerun_asks_for_what_why_proposes(service: InProcess) -> None:
    run, alert = failed(service, "echo MemoryError; exit 1", resources={"mem": "64M"})
    assert alert["proposal"] == service.get(f"/runs/{run['id']}/why")["rerun"]
    new = service.get(f"/runs/{respond(service, alert, 'rerun')['outcome']['run_id']}")
    assert new["resources"]["mem"] == "128M"


def test_a_run_whose_metric_is_nan_can_be_stopped_from_its_alert(service: InProcess) -> None:
    run, alert = diverging(service)
    assert (alert["severity"], alert["choices"]) == ("critical", ["ignore", "stop"])
    assert respond(service, alert, "stop")["outcome"] == {"stopped": [run["id"]]}
    assert service.over(run["id"])["status"] == "stopped"


def test_ignoring_does_nothing(service: InProcess) -> None:
    run, alert = diverging(service)
    assert respond(service, alert, "ignore")["outcome"] is None
    assert service.status(run["id"]) == "running"
    service.post(f"/runs/{run['id']}/stop")
    service.over(run["id"])
    assert len(service.get("/alerts", run_id=run["id"], rule="nonfinite")) == 1


def test_the_alert_of_what_is_over_resolves_itself(service: InProcess) -> None:
    run, alert = diverging(service)
    service.post(f"/runs/{run['id']}/stop")
    found = wait_until(lambda: found if (found := one(service, alert))["status"] == "resolved" else None, "moot")
    assert (found["response"], found["responded_at"], found["outcome"]) == (
        None,
        None,
        {"moot": "What it tells of is over."},
    )
    status, detail = service.refused("POST", f"/alerts/{alert['id']}/respond", {"choice": "stop"})
    assert (status, "over" in detail) == (409, True)


@pytest.fixture
def waiting(service: InProcess) -> Iterator[tuple[Json, Json]]:
    """A run that waits for CPUs, with its alert."""
    busy = service.run("sleep 60")
    service.until(busy["id"], "running")
    run = service.run("true", resources={"cpus": 4})
    yield run, alert_of(service, run["id"], rule="pending")
    service.post(f"/runs/{busy['id']}/stop")
    service.over(busy["id"])


def test_a_run_that_waits_too_long_can_be_stopped_from_its_alert(
    service: InProcess, waiting: tuple[Json, Json]
) -> None:
    run, alert = waiting
    assert "has been queued for" in alert["message"]
    words = "CPUs that runs get here are in use"  # the alert may be quicker than the loop, which says why
    wait_until(lambda: words in service.get(f"/runs/{run['id']}/why")["summary"], "the loop's word")
    assert alert["choices"] == ["ignore", "stop"]
    respond(service, alert, "stop")
    assert service.status(run["id"]) == "stopped"


def test_the_rerun_of_a_run_that_waits_takes_its_place(service: InProcess, waiting: tuple[Json, Json]) -> None:
    run, alert = waiting
    respond(service, alert, "ignore")
    proposal = {"auto_start": True, "resources": {"cpus": 1}}
    choices = ("ignore", "stop", "rerun")
    alert = raised(
        service, Raised("pending", f"run:{run['id']}:0:pending", "warning", "m", choices, run["id"], proposal=proposal)
    )
    outcome = respond(service, alert, "rerun")["outcome"]
    assert outcome["stopped"] == [run["id"]]
    assert service.status(run["id"]) == "stopped"
    assert service.over(outcome["run_id"])["status"] == "finished"


def raised(service: InProcess, what: Raised) -> Json:
    """An alert as a rule would raise it, though there was one of that condition."""

    def write(session: Any) -> str:
        for old in alerts.listing(session, alerts.Filter(run_id=what.run_id)):
            old.key = None if old.key == what.key else old.key
            session.add(old)
        session.flush()
        made = alerts.raise_alert(session, what)
        assert made is not None
        return made.id

    return one(service, {"id": service.system.db.write(write)})


@pytest.mark.parametrize("choice", ["stop", "rerun"])
def test_a_choice_that_comes_too_late_is_refused_and_can_still_be_ignored(service: InProcess, choice: str) -> None:
    run = service.over(service.run("true")["id"])
    what = Raised("failed", f"run:{run['id']}:failed", "warning", "m", ("ignore", "stop", "rerun"), run["id"])
    alert = raised(service, what)
    status, detail = service.refused("POST", f"/alerts/{alert['id']}/respond", {"choice": choice})
    assert (status, f"run {run['id']} is finished" in detail, '"ignore"' in detail) == (409, True, True)
    assert one(service, alert)["status"] == "pending"
    assert respond(service, alert, "ignore")["status"] == "resolved"


def test_a_rerun_that_cannot_be_made_any_more_is_refused_and_can_be_ignored(service: InProcess, tmp_path: Path) -> None:
    workdir = tmp_path / "work"
    workdir.mkdir()
    _, alert = failed(service, workdir=str(workdir))
    workdir.rmdir()
    status, detail = service.refused("POST", f"/alerts/{alert['id']}/respond", {"choice": "rerun"})
    assert (status, "is not a directory" in detail) == (409, True)
    assert one(service, alert)["status"] == "pending"
    respond(service, alert, "ignore")


def test_a_proposal_that_is_no_longer_understood_can_be_ignored_and_is_not_run(service: InProcess) -> None:
    run, alert = failed(service)
    proposal = {"auto_start": True, "resources": {"of_an_older_version": 1}}
    what = Raised("failed", alert_key(run), "warning", "m", ("ignore", "rerun"), run["id"], proposal=proposal)
    alert = raised(service, what)
    status, detail = service.refused("POST", f"/alerts/{alert['id']}/respond", {"choice": "rerun"})
    assert (status, "resources.of_an_older_version" in detail, '"ignore"' in detail) == (409, True, True)
    assert respond(service, alert, "ignore")["status"] == "resolved"


def alert_key(run: Json) -> str:
    return f"run:{run['id']}:failed"


def several(service: InProcess, plan: Json, count: int, **fields: Any) -> Json:
    """One alert about failed runs of a plan."""
    body = {"name": "x", "command": "exit 4", "auto_start": True, "plan_id": plan["id"], **fields}
    found = [service.over(service.post("/runs", body)["id"]) for _ in range(count)]
    topic = f"failures of {plan['id']}"
    choices = ("ignore", "rerun")

    def write(session: Any) -> None:
        for run in found:
            for old in alerts.listing(session, alerts.Filter(run_id=run["id"])):
                old.key, old.topic = None, None
                session.add(old)
        session.exec(delete(AlertRun).where(col(AlertRun.run_id).in_([run["id"] for run in found])))
        session.flush()
        news = [Raised("failed", alert_key(run), "warning", "m", choices, run["id"], topic=topic) for run in found]
        alerts.raise_all(session, news)

    for run in found:
        alert_of(service, run["id"], rule="failed")
    service.system.db.write(write)
    (alert,) = [alert for alert in service.get("/alerts", limit=10) if len(alert["run_ids"]) == count]
    return dict(alert)


def bound(service: InProcess, budget: str) -> Json:
    body = {"title": "t", "goal": "g", "raw_markdown": bindable(budget=budget)}
    return dict(service.post(f"/plans/{service.post('/plans', body)['id']}/approve"))


def test_the_refusal_of_several_reruns_tells_all_that_is_outside_the_plan(service: InProcess) -> None:
    plan = bound(service, "runs = 8")
    alert = several(service, plan, 6)
    answer = service.http.post(f"/alerts/{alert['id']}/respond", json={"choice": "rerun"})
    assert answer.status_code == 403
    assert [(item["field"], item["plan"], item["asked"]) for item in answer.json()["diff"]] == [("budget.runs", 8, 12)]
    assert len(service.get("/runs", plan_id=plan["id"], limit=100)) == 6
    assert one(service, alert)["status"] == "pending"


def test_a_rerun_that_its_plan_cannot_count_is_refused_in_words(service: InProcess) -> None:
    run, alert = failed(service, gpuwrap_config={"enabled": False})
    plan = bound(service, "gpu_hours = 3")

    def into_the_plan(session: Any) -> None:  # it was made there before the plan had a budget
        row = runs.get(session, run["id"])
        row.plan_id = plan["id"]
        session.add(row)

    service.system.db.write(into_the_plan)
    status, detail = service.refused("POST", f"/alerts/{alert['id']}/respond", {"choice": "rerun"})
    assert (status, "must say how many GPUs" in detail, '"ignore"' in detail) == (409, True, True)
    assert respond(service, alert, "ignore")["status"] == "resolved"


def test_an_answer_that_is_sent_twice_under_one_key_is_carried_out_once(service: InProcess) -> None:
    _, alert = failed(service)
    path, headers = f"/alerts/{alert['id']}/respond", {"Idempotency-Key": f"answer {alert['id']}"}
    first, second = (service.post(path, {"choice": "rerun"}, headers=headers) for _ in range(2))
    assert first == second
    assert first["outcome"]["run_id"]


def test_what_somebody_has_run_again_is_not_run_again(service: InProcess) -> None:
    run, alert = failed(service)
    service.post(f"/runs/{run['id']}/rerun", {})
    status, detail = service.refused("POST", f"/alerts/{alert['id']}/respond", {"choice": "rerun"})
    assert (status, "has been run again already" in detail) == (409, True)


def test_a_sweep_that_fails_as_a_whole_is_one_alert_that_runs_it_again(service: InProcess) -> None:
    body = {"name": "s", "base_command": "exit 4;", "parameters": {"x": list(range(8))}}
    sweep = service.post("/sweeps", body | {"auto_start": True})
    for run_id in sweep["run_ids"]:
        service.over(run_id)

    def told() -> list[Json] | None:
        found = [alert for alert in service.get("/alerts", limit=1000, rule="failed") if _about(alert, sweep)]
        return found if sum(len(alert["run_ids"]) for alert in found) == 8 else None

    found = wait_until(told, "all eight told of")
    assert len(found) <= 6
    news = [respond(service, alert, "rerun")["outcome"] for alert in found]
    made = [run_id for outcome in news for run_id in outcome.get("run_ids", [outcome["run_id"]])]
    assert len(set(made)) == 8
    assert {service.get(f"/runs/{run_id}")["parent_run_id"] for run_id in made} == set(sweep["run_ids"])


def _about(alert: Json, sweep: Json) -> bool:
    return bool(set(alert["run_ids"]) & set(sweep["run_ids"]))


def test_an_archived_runs_alert_can_be_answered(service: InProcess) -> None:
    run, alert = failed(service)
    service.post(f"/runs/{run['id']}/archive")
    assert service.get(f"/runs/{respond(service, alert, 'rerun')['outcome']['run_id']}")["is_archived"] is False


def test_two_answers_at_once_make_one_run(service: InProcess) -> None:
    run, alert = failed(service)
    answers: list[int] = []

    def answer() -> None:
        path = f"/alerts/{alert['id']}/respond"
        answers.append(service.http.post(path, json={"choice": "rerun"}).status_code)

    together(answer, 6)
    assert sorted(answers) == [200, 409, 409, 409, 409, 409]
    children = [found for found in service.get("/runs", limit=1000) if found["parent_run_id"] == run["id"]]
    assert len(children) == 1


def together(action: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=action) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_words_of_somebodys_own_alert_do_nothing(service: InProcess) -> None:
    run = service.run("sleep 60")
    service.until(run["id"], "running")
    body = {"message": "look\x1b[2J", "choices": ["stop", "rerun"]}
    alert = {"id": service.post(f"/runs/{run['id']}/alerts", body)["alert_id"]}
    answer = respond(service, alert, "stop")
    assert (answer["rule"], answer["outcome"], service.status(run["id"])) == ("", None, "running")
    service.post(f"/runs/{run['id']}/stop")


def test_a_message_of_a_megabyte_is_refused(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    body = {"message": "m" * 2**20, "choices": ["a"]}
    assert service.refused("POST", f"/runs/{run['id']}/alerts", body)[0] == 422


def test_alerts_are_filtered_and_paged(service: InProcess) -> None:
    plan = service.post("/plans", {"title": "t", "goal": "g", "raw_markdown": ""})
    run = service.post("/runs", {"name": "x", "command": "true", "plan_id": plan["id"]})
    made = [
        service.post(f"/runs/{run['id']}/alerts", {"message": "m", "choices": ["a"], "severity": severity})["alert_id"]
        for severity in ("info", "critical", "info")
    ]

    def ids(**params: Any) -> list[str]:
        return [alert["id"] for alert in service.get("/alerts", **params)]

    assert ids(plan_id=plan["id"]) == made[::-1]
    assert ids(plan_id=plan["id"], severity="critical") == [made[1]]
    assert ids(plan_id=plan["id"], rule="") == made[::-1]
    assert ids(plan_id=plan["id"], rule="failed") == []
    first = service.http.get("/alerts", params={"plan_id": plan["id"], "limit": 2})
    link = first.headers["Link"].removeprefix("<").partition(">")[0]
    assert [alert["id"] for alert in [*first.json(), *service.http.get(link).json()]] == made[::-1]
    assert service.refused("GET", "/alerts?severity=bad")[0] == 422


def test_the_hook_is_told_of_what_is_severe_enough(service: InProcess, hook: Hook) -> None:
    run = service.post("/runs", {"name": "told", "command": "true"})
    quiet, loud = (
        service.post(f"/runs/{run['id']}/alerts", {"message": "m", "choices": ["a"], "severity": severity})["alert_id"]
        for severity in ("info", "warning")
    )
    told = wait_until(lambda: [t.json for t in hook.taken if t.json["alert"]["id"] in {quiet, loud}], "the hook told")
    assert [message["alert"]["id"] for message in told] == [loud]
    assert told[0]["run"] == {"id": run["id"], "name": "told", "status": "ready"}
    assert told[0]["alert"]["run_ids"] == [run["id"]]


def test_a_body_cannot_choose_who_is_told(service: InProcess) -> None:
    run = service.post("/runs", {"name": "x", "command": "true"})
    body = {"message": "m", "choices": ["a"], "notify_webhooks": ["http://127.0.0.1:1/"]}
    assert service.refused("POST", f"/runs/{run['id']}/alerts", body)[0] == 422
