"""Alerts that want an answer, and what the machine is, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import InProcess, Json, in_process

NONE = type(None)
CLUSTER: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("type", "status", "source", "label", "description"), (str,)),
    **dict.fromkeys(("head_node", "notes"), (str, NONE)),
    **dict.fromkeys(("node_count", "gpu_count"), (int, NONE)),
    "confidence": (float, int, NONE),
    "details": (dict,),
    "last_detected_at": (float, NONE),
    "updated_at": (float, NONE),
}
COUNTS = ("total", "running", "launching", "queued", "ready", "failed", "finished")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """One service for all that looks at its own things alone."""
    with in_process(tmp_path_factory.mktemp("shared") / "home", redetect_seconds=86400) as found:
        yield found


@pytest.fixture
def service(shared: InProcess) -> InProcess:
    """The shared one, on a machine that nobody has said anything of but that it has no GPUs."""
    for wanted in (None, "cpu_only"):
        shared.post("/cluster/detect", {"preferred_type": wanted})
    return shared


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[InProcess]:
    """One for a test that looks at everything."""
    with in_process(tmp_path / "home") as found:
        found.post("/cluster/detect", {"preferred_type": "cpu_only"})
        yield found


def make(service: InProcess, **fields: Any) -> Json:
    return dict(service.post("/runs", {"name": "x", "command": "true", **fields}))


def warn(service: InProcess, run: Json, message: str = "loss is NaN", **fields: Any) -> str:
    body = {"message": message, "choices": ["stop", "go on"], "severity": "critical", **fields}
    answer = service.post(f"/runs/{run['id']}/alerts", body)
    assert set(answer) == {"alert_id"}
    return str(answer["alert_id"])


def cluster(service: InProcess) -> Json:
    return dict(service.get("/cluster")["cluster"])


# -- alerts ------------------------------------------------------------------------------------------------------------


def test_an_alert_waits_for_its_answer(alone: InProcess) -> None:
    run = make(alone, chat_session_id="chat")
    alert_id = warn(alone, run)
    (alert,) = alone.get("/alerts")
    assert (alert["id"], alert["run_id"], alert["session_id"]) == (alert_id, run["id"], "chat")
    assert (alert["message"], alert["choices"], alert["severity"]) == ("loss is NaN", ["stop", "go on"], "critical")
    assert (alert["status"], alert["response"], alert["responded_at"]) == ("pending", None, None)
    assert alert["timestamp"] >= run["created_at"]
    answer = alone.post(f"/alerts/{alert_id}/respond", {"choice": "go on"})
    assert answer["response"] == "go on"
    (answered,) = alone.get("/alerts")
    assert (answered["status"], answered["response"]) == ("resolved", "go on")
    assert answered["responded_at"] >= alert["timestamp"]


def test_an_alert_is_a_warning_unless_it_says_otherwise(service: InProcess) -> None:
    run = make(service)
    service.post(f"/runs/{run['id']}/alerts", {"message": "m", "choices": ["a"]})
    assert service.get("/alerts")[0]["severity"] == "warning"


def test_a_choice_that_was_not_offered_is_answered_with_those_that_were(service: InProcess) -> None:
    alert_id = warn(service, make(service))
    before = service.get("/alerts"), service.journal()
    status, detail = service.refused("POST", f"/alerts/{alert_id}/respond", {"choice": "Stop"})
    assert status == 422
    assert detail[0]["choices"] == ["stop", "go on"]
    assert detail[0]["loc"] == ["body", "choice"]
    assert (service.get("/alerts"), service.journal()) == before


@pytest.mark.parametrize("second", ["stop", "go on"])
def test_an_alert_is_answered_once(service: InProcess, second: str) -> None:
    alert_id = warn(service, make(service))
    service.post(f"/alerts/{alert_id}/respond", {"choice": "stop"})
    before = service.get("/alerts"), service.journal()
    status, detail = service.refused("POST", f"/alerts/{alert_id}/respond", {"choice": second})
    assert status == 409
    assert "stop" in detail
    assert (service.get("/alerts"), service.journal()) == before


def test_alerts_are_listed_newest_first_and_filtered(alone: InProcess) -> None:
    one, two = make(alone), make(alone)
    first, second, third = warn(alone, one, "1"), warn(alone, two, "2"), warn(alone, one, "3")
    alone.post(f"/alerts/{second}/respond", {"choice": "stop"})

    def ids(**params: Any) -> list[str]:
        return [alert["id"] for alert in alone.get("/alerts", **params)]

    assert ids() == [third, second, first]
    assert ids(limit=1) == [third]
    assert ids(status="pending") == [third, first]
    assert ids(status="resolved") == [second]
    assert ids(run_id=one["id"]) == [third, first]
    assert ids(run_id=two["id"], status="pending") == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("choices", value) for value in ([], "stop", [1], None, ["x" * 501], ["a"] * 51)],
        *[("message", value) for value in ("", None, 1, "m" * 20_001)],
        *[("severity", value) for value in ("bad", None)],
    ],
)
def test_an_alert_that_cannot_be_answered_is_refused(service: InProcess, field: str, value: object) -> None:
    run, before = make(service), service.get("/alerts")
    body = {"message": "m", "choices": ["a"], field: value}
    status, detail = service.refused("POST", f"/runs/{run['id']}/alerts", body)
    assert status == 422
    assert field in detail[0]["loc"]
    assert service.get("/alerts") == before


@pytest.mark.parametrize(
    ("path", "body"),
    [("/runs/nope/alerts", {"message": "m", "choices": ["a"]}), ("/alerts/nope/respond", {"choice": "a"})],
)
def test_what_there_is_not_cannot_alert_or_be_answered(service: InProcess, path: str, body: Json) -> None:
    status, detail = service.refused("POST", path, body)
    assert status == 404
    assert "nope" in detail


# -- the cluster -------------------------------------------------------------------------------------------------------


def test_the_cluster_shows_every_field_with_its_type(alone: InProcess) -> None:
    for answer in (alone.get("/cluster"), alone.post("/cluster/detect"), alone.post("/cluster", {"notes": "n"})):
        assert set(answer) == {"cluster", "run_summary"}
        for name, types in CLUSTER.items():
            assert isinstance(answer["cluster"][name], types), (name, answer["cluster"][name])
        assert answer["run_summary"] == dict.fromkeys(COUNTS, 0)
        assert answer["cluster"]["head_node"]
        assert 0 <= answer["cluster"]["confidence"] <= 1


def test_the_summary_counts_runs_that_are_not_archived(alone: InProcess) -> None:
    make(alone)
    hidden = make(alone)
    for command in ("true", "true", "false"):
        alone.over(alone.run(command)["id"])
    alone.post(f"/runs/{hidden['id']}/archive")
    summary = alone.get("/cluster")["run_summary"]
    assert summary == {**dict.fromkeys(COUNTS, 0), "ready": 1, "finished": 2, "failed": 1, "total": 4}


def test_the_machine_is_detected_without_being_asked(tmp_path_factory: pytest.TempPathFactory) -> None:
    with in_process(tmp_path_factory.mktemp("fresh") / "home") as service:
        service.over(service.run("true", gpuwrap_config={"enabled": False})["id"])
        found = cluster(service)
        assert found["type"] in {"slurm", "local_gpu", "cpu_only"}
        assert found["source"] == "detected"
        assert set(found["details"]["probes"]) == {"sinfo", "gpus"}
        for probe in found["details"]["probes"].values():
            assert probe["says"]


@pytest.mark.parametrize("wanted", ["slurm", "local_gpu", "cpu_only"])
def test_a_preferred_type_overrides_and_null_goes_back(service: InProcess, wanted: str) -> None:
    detected = service.post("/cluster/detect", {"preferred_type": None})["cluster"]
    assert detected["source"] == "detected"
    found = service.post("/cluster/detect", {"preferred_type": wanted})["cluster"]
    assert (found["type"], found["source"]) == (wanted, "manual")
    assert found["last_detected_at"] > detected["last_detected_at"]
    assert found["label"]
    assert found["description"]
    assert cluster(service) == found
    again: tuple[Json | None, ...] = (None, {})
    for body in again:  # looking again says nothing about the preference
        assert service.post("/cluster/detect", body)["cluster"]["type"] == wanted
    back = service.post("/cluster/detect", {"preferred_type": None})["cluster"]
    assert (back["type"], back["source"]) == (detected["type"], "detected")


def test_the_type_in_force_decides_where_runs_go(service: InProcess) -> None:
    assert make(service)["executor"] == "local"
    service.post("/cluster/detect", {"preferred_type": "slurm"})
    answer = service.http.post("/runs", json={"name": "x", "command": "true"})
    assert answer.status_code == 409 or answer.json()["executor"] == "slurm"
    assert make(service, executor="local")["executor"] == "local"


def test_a_change_of_the_machine_is_an_event_and_no_change_is_none(service: InProcess) -> None:
    service.post("/cluster/detect", {"preferred_type": "local_gpu"})
    event = service.journal()[-1]
    assert event["kind"] == "cluster.detected"
    assert (event["before"]["type"], event["after"]["type"]) == ("cpu_only", "local_gpu")
    assert (event["actor"], event["subject"]) == ("token:admin", "cluster")
    service.post("/cluster/detect")
    service.post("/cluster/detect", {"preferred_type": "local_gpu"})
    assert service.journal()[-1] == event


BY_HAND: Json = {
    "type": "local_gpu",
    "status": "degraded",
    "head_node": "gpu7",
    "node_count": 3,
    "gpu_count": 12,
    "notes": "Maintenance on Friday.",
    "details": {"partitions": ["a"], "mine": {"x": 1}},
}


def test_every_field_can_be_set_by_hand(service: InProcess) -> None:
    before = cluster(service)
    found = service.post("/cluster", BY_HAND)["cluster"]
    assert {name: found[name] for name in BY_HAND} == BY_HAND
    assert found["source"] == "manual"
    assert found["updated_at"] > before["updated_at"]
    assert cluster(service) == found
    event = service.journal()[-1]
    assert (event["kind"], event["actor"]) == ("cluster.set", "token:admin")
    assert (event["before"]["notes"], event["after"]["notes"]) == (before["notes"], BY_HAND["notes"])


@pytest.mark.parametrize("field", BY_HAND)
def test_one_field_by_hand_leaves_the_others(service: InProcess, field: str) -> None:
    before = cluster(service)
    found = service.post("/cluster", {field: BY_HAND[field]})["cluster"]
    follows = {"source", "updated_at", *(("preferred_type", "label", "description") if field == "type" else ())}
    assert {name for name in before if before[name] != found[name]} - follows == {field}


@pytest.mark.parametrize("field", ["notes", "gpu_count", "node_count", "head_node", "status"])
def test_what_was_set_by_hand_outlasts_a_look_that_nobody_asked_for(service: InProcess, field: str) -> None:
    service.post("/cluster", {field: BY_HAND[field]})
    service.system.cluster.detect()  # as the service does by itself
    found = cluster(service)
    assert (found[field], found["source"]) == (BY_HAND[field], "manual")


@pytest.mark.parametrize("field", ["type", "status", "source", "node_count", "gpu_count", "details"])
def test_a_field_by_hand_is_checked(service: InProcess, field: str) -> None:
    before = service.get("/cluster")
    status, detail = service.refused("POST", "/cluster", {field: "nonsense"})
    assert status == 422
    assert field in detail[0]["loc"]
    assert service.get("/cluster") == before
