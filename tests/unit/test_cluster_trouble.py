"""A Slurm that gives no answer: degraded at once and asked nothing for it; detected once when it is back."""

from typing import Any

import pytest

from orchestrator import cluster as cluster_module
from orchestrator.cluster import ClusterService
from orchestrator.db import Database
from orchestrator.detect import Detected
from orchestrator.errors import SchedulerUnavailable
from orchestrator.slurm.facts import Facts

HEALTHY = Detected("slurm", "healthy", 1.0, "4 node(s).", "login", 4, 16, {"nodes": {}})


class FakeFacts:
    """Limits that are told, or not."""

    def __init__(self) -> None:
        self.kept = Facts(version="22.05.8")
        self.away = False
        self.fresh: list[bool] = []

    def read(self, *, fresh: bool = False) -> Facts:
        self.fresh.append(fresh)
        if self.away:
            raise SchedulerUnavailable("scontrol gave no answer.")
        return self.kept


class Scene:
    """The service, and how often it looked."""

    def __init__(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.facts = FakeFacts()
        monkeypatch.setattr(cluster_module, "detect", self._detect)
        unused: Any = None
        facts: Any = self.facts
        reader: Any = type("Reader", (), {"read": None})
        self.service = ClusterService(db, reader, unused, facts, 5.0)

    def _detect(self, *_: Any) -> Detected:
        self.looks += 1
        return HEALTHY


@pytest.fixture
def scene(database: Database, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(database, monkeypatch)
    made.service.detect()
    return made


def test_an_outage_is_degraded_without_a_look(scene: Scene) -> None:
    for _ in range(100):
        scene.service.degraded("squeue: connect failure")
    found = scene.service.current()
    assert (found.status, found.notes) == ("degraded", "squeue: connect failure")
    assert scene.looks == 1


def test_a_sinfo_that_answers_during_an_outage_of_squeue_makes_it_no_healthier(scene: Scene) -> None:
    scene.service.degraded("squeue: connect failure")
    assert scene.service.detect().status == "degraded"


def test_when_it_is_back_it_is_looked_at_once(scene: Scene) -> None:
    scene.service.degraded("squeue: connect failure")
    for _ in range(100):
        scene.service.degraded(None)
    assert scene.service.current().status == "healthy"
    assert scene.looks == 2


def test_limits_are_known_during_an_outage_and_nobody_is_asked(scene: Scene) -> None:
    scene.facts.away = True
    asked = len(scene.facts.fresh)
    assert scene.service.limits().version == "22.05.8"
    assert len(scene.facts.fresh) == asked


def test_limits_that_cannot_be_told_now_stay_as_they_were_with_a_note(scene: Scene) -> None:
    scene.facts.away = True
    shown = scene.service.detect(fresh=True).details["slurm"]
    assert (shown["version"], shown["notes"]) == ("22.05.8", ("scontrol gave no answer.",))
