"""Reads by pyslurm: what the real one said is read as squeue and sinfo tell it; gone wrong, commands are used."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.detect import probe_sinfo, pyslurm_nodes, read_sinfo
from orchestrator.slurm import pyslurmreads, queue
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.poller import Cadence, Poller
from orchestrator.slurm.pyslurmreads import MOST_JOBS, PyslurmReads, row_of
from orchestrator.slurm.queue import QueueRow, by_task, tres_text

DATA = Path(__file__).parent.parent / "data" / "pyslurm"
FAKE = Path(__file__).parent.parent / "support" / "fakepyslurm"
CONNECTED, JOBS, NODES, TOO_MANY = (json.loads(line) for line in (DATA / "answers.jsonl").read_text().splitlines())
SLURM = "25.11.7"
SQUEUE = """#!/bin/bash
cat {data}/squeue.txt
"""
Rows = dict[tuple[str, int | None], QueueRow]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A pyslurm to import, for this process and its helpers."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_PYSLURM_ANSWERS", str(DATA / "answers.jsonl"))
    for name in ("DEADLINE", "CONNECT_DEADLINE"):
        monkeypatch.setattr(pyslurmreads, name, 60.0)
    return monkeypatch


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Slurm's commands, of which squeue answers what it once did."""
    (tmp_path / "squeue").write_text(SQUEUE.format(data=DATA))
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Gate(5.0)


@pytest.fixture
def reads(fake: pytest.MonkeyPatch, gate: Gate) -> Iterator[PyslurmReads]:
    """With a helper process of its own."""
    made = PyslurmReads(gate, 0)
    yield made
    made.close()


class Said:
    """A helper that answers what it is told to."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers: dict[str, dict[str, Any]] = {"connect": CONNECTED, "jobs": JOBS, "nodes": NODES} | answers
        self.asked: list[str] = []

    def ask(self, operation: str, deadline: float, **values: Any) -> dict[str, Any]:
        self.asked.append(operation)
        return self.answers[operation]

    def close(self) -> None:
        self.asked.append("close")


def said(gate: Gate, helper: Said) -> PyslurmReads:
    made = PyslurmReads(gate, 0, start=lambda: helper)
    made.connect(SLURM)
    return made


def of_squeue() -> Rows:
    return by_task(queue.parse((DATA / "squeue.txt").read_text()))


def test_every_job_is_read_as_squeue_tells_it() -> None:
    mine, theirs = by_task([row_of(job) for job in JOBS["jobs"]]), of_squeue()
    assert mine.keys() == theirs.keys()
    for key, row in theirs.items():
        if row.mixed:  # squeue shows tasks of several reasons in one row; pyslurm has one for each reason
            assert mine[key].reason in row.reason.split(",")
            continue
        code = row.code % 128 if row.code is not None else None  # pyslurm takes 128 off what is above
        assert replace(mine[key], tres="") == replace(row, tres="", code=code)


def test_gpus_cpus_and_memory_of_a_job_are_counted_as_squeue_counts_them() -> None:
    mine, theirs = by_task([row_of(job) for job in JOBS["jobs"]]), of_squeue()
    for name in ("cpu", "mem", "node", "gres/gpu", "gres/gpu:a100"):
        counts = {key: tres_text(row.tres, name) for key, row in mine.items()}
        assert counts == {key: tres_text(row.tres, name) for key, row in theirs.items()}


def test_task_zero_of_an_array_which_pyslurm_takes_for_none_is_known() -> None:
    rows = {row.indices for row in map(row_of, JOBS["jobs"]) if row.name == "orc-array"}
    assert rows == {(0,), (1,), (2, 3, 4, 5)}


def in_order(nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """sinfo's order of a node's partitions is not the configuration's."""
    return {name: node | {"partitions": sorted(node["partitions"])} for name, node in nodes.items()}


def test_nodes_are_read_as_sinfo_tells_them() -> None:
    mine, theirs = pyslurm_nodes(NODES["nodes"]), read_sinfo(0, (DATA / "sinfo.txt").read_text(), "").data
    assert in_order(mine.pop("nodes")) == in_order(theirs.pop("nodes"))
    assert mine == theirs


def test_it_is_used_where_it_answers_and_every_read_is_counted(reads: PyslurmReads, gate: Gate) -> None:
    reads.connect(SLURM)
    assert reads.connected
    assert "pyslurm 25.11.2 is used" in reads.words
    found, nodes = reads.jobs(), reads.nodes()
    assert found is not None
    assert by_task(found).keys() == of_squeue().keys()
    assert [node["name"] for node in nodes or ()] == ["n1", "n2", "n3", "n4"]
    assert gate.public()["pyslurm"]["calls"] == 3


def test_one_poll_with_it_starts_no_squeue(reads: PyslurmReads, gate: Gate) -> None:
    reads.connect(SLURM)
    fresh = Poller(gate, "root", Cadence(2, 30), reads).look()
    assert fresh is not None
    assert fresh.rows.keys() == of_squeue().keys()
    assert "squeue" not in gate.public()


@pytest.mark.parametrize("mode", ["load-hangs", "load-exits", "load-refused"])
def test_when_it_goes_wrong_squeue_is_asked_in_the_same_look(fake: pytest.MonkeyPatch, gate: Gate, mode: str) -> None:
    fake.setenv("FAKE_PYSLURM", mode)
    reads = PyslurmReads(gate, 0)
    reads.connect(SLURM)
    assert "is used" in reads.words
    fake.setattr(pyslurmreads, "DEADLINE", 0.5 if mode == "load-hangs" else 60.0)
    poller = Poller(gate, "root", Cadence(2, 30), reads)
    fresh = poller.look()
    assert fresh is not None
    assert fresh.rows.keys() == of_squeue().keys()
    assert poller.trouble is None
    assert not reads.connected
    assert "tried again in 60 s" in reads.words


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("init-hangs", "no answer within"),
        ("init-exits", "ended by itself"),
        ("init-refused", "RPCError: Protocol version"),
    ],
)
def test_one_that_does_not_answer_is_not_used(fake: pytest.MonkeyPatch, gate: Gate, mode: str, words: str) -> None:
    fake.setenv("FAKE_PYSLURM", mode)
    fake.setattr(pyslurmreads, "CONNECT_DEADLINE", 0.5 if mode == "init-hangs" else 60.0)
    reads = PyslurmReads(gate, 0)
    reads.connect(SLURM)
    assert (reads.connected, reads.jobs(), reads.nodes()) == (False, None, None)
    assert reads.words.startswith("squeue and sinfo are used: ")
    assert words in reads.words


def test_after_a_failure_it_rests_ever_longer(
    fake: pytest.MonkeyPatch, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    helper = Said(connect={"error": "RPCError: no"})
    reads = said(gate, helper)
    tries = []
    for second in range(0, 1000, 10):
        now[0] = float(second)
        before = helper.asked.count("connect")
        reads.connect(SLURM)
        if helper.asked.count("connect") > before:
            tries.append(second)
    assert tries == [60, 180, 420, 900]


def test_one_of_a_later_release_than_slurm_is_never_used(fake: pytest.MonkeyPatch, gate: Gate) -> None:
    helper = Said()
    reads = PyslurmReads(gate, 0, start=lambda: helper)
    for _ in range(2):
        reads.connect("22.05.8")
    assert not reads.connected
    assert "not to 22.05.8" in reads.words
    assert helper.asked == ["connect", "close"]


def test_a_slurm_of_a_later_release_is_spoken_to(fake: pytest.MonkeyPatch, gate: Gate) -> None:
    helper = Said()
    reads = PyslurmReads(gate, 0, start=lambda: helper)
    reads.connect("26.05.3")
    assert reads.connected


def test_a_queue_of_everybodys_that_is_too_long_is_left_to_squeue(fake: pytest.MonkeyPatch, gate: Gate) -> None:
    reads = said(gate, Said(jobs=TOO_MANY))
    assert reads.jobs() is None
    assert not reads.connected
    assert f"over {MOST_JOBS}" in reads.words


def test_the_helper_does_not_read_the_jobs_of_a_queue_that_is_too_long(
    reads: PyslurmReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyslurmreads, "MOST_JOBS", 3)
    reads.connect(SLURM)
    assert reads.jobs() is None
    assert f"the queue holds {len(JOBS['jobs'])} jobs" in reads.words


def test_nodes_with_gpus_that_slurm_does_not_count_are_left_to_sinfo(fake: pytest.MonkeyPatch, gate: Gate) -> None:
    reads = said(gate, Said(connect=CONNECTED | {"tracks_gpus": False}))
    assert reads.nodes() is None
    assert reads.connected


def test_the_detector_asks_it_before_sinfo(fake: pytest.MonkeyPatch, gate: Gate) -> None:
    probe = probe_sinfo(gate, 5.0, said(gate, Said()))
    assert probe.state == "found"
    assert sorted(probe.data["nodes"]) == ["n1", "n2", "n3", "n4"]
    assert "sinfo" not in gate.public()


def test_without_it_nothing_is_started(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    monkeypatch.setattr(pyslurmreads, "installed", lambda: False)
    helper = Said()
    reads = said(gate, helper)
    assert (reads.jobs(), helper.asked) == (None, [])
    assert reads.words == "squeue and sinfo are used: pyslurm is not installed"


def test_a_setting_switches_it_off(fake: pytest.MonkeyPatch, gate: Gate) -> None:
    helper = Said()
    reads = PyslurmReads(gate, 0, wanted=False, start=lambda: helper)
    reads.connect(SLURM)
    assert helper.asked == []
    assert "slurm_pyslurm is off" in reads.words
