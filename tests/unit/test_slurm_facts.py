"""What the cluster allows: read from scontrol and sacctmgr, kept for a while, never forgotten over an outage."""

import time
from collections.abc import Sequence
from typing import cast

import pytest

from orchestrator.errors import SchedulerUnavailable
from orchestrator.slurm.facts import KEPT_SECONDS, Facts, FactsReader, Partition, parse_config, parse_partitions
from orchestrator.slurm.gate import Answer, Gate

CONFIG = """\
Configuration data as of 2026-11-23T02:33:00
AccountingStorageEnforce = {enforce}
AccountingStorageType   = {storage}
ClusterName             = lab
MaxArraySize            = 5001
MinJobAge               = 120 sec
SLURM_VERSION           = 24.11.5
SlurmctldParameters     = enable_configless,rate=4
Slurmctld(primary) at vm is UP
"""
PARTITION = (
    "PartitionName=gpu AllowGroups=ALL Default=YES QoS=N/A DefaultTime=01:00:00 MaxNodes={nodes} MaxTime={time} "
    "MinNodes=0 Nodes=n[1-2] PriorityTier=3 State={state} TotalCPUs=32 TotalNodes=2 TRES=cpu=32,mem=125G\n"
)


class FakeGate:
    """Answers by the command's words; counts."""

    def __init__(self, enforce: str = "none", storage: str = "accounting_storage/none", **answers: Answer) -> None:
        self.answers = {
            "config": Answer(0, CONFIG.format(enforce=enforce, storage=storage), ""),
            "partition": Answer(0, PARTITION.format(nodes="UNLIMITED", time="2-00:00:00", state="UP"), ""),
            "licenses": Answer(0, "LicenseName=matlab Total=10 Used=0\nLicenseName=ansys@flex Total=2 Used=0\n", ""),
            "assoc": Answer(0, "lab|normal,high\ncourse|normal\n", ""),
            **answers,
        }
        self.away = False
        self.calls: list[list[str]] = []

    def run(self, argv: Sequence[str], deadline: float | None = None) -> Answer:
        self.calls.append(list(argv))
        if self.away:
            raise SchedulerUnavailable("scontrol gave no answer.")
        return next(answer for word, answer in self.answers.items() if word in argv)


def reader(gate: FakeGate) -> FactsReader:
    return FactsReader(cast(Gate, gate), "alice")


def read(gate: FakeGate) -> Facts:
    return reader(gate).read()


# -- parsing -----------------------------------------------------------------------------------------------------------


def test_the_configuration_is_read_with_its_signs() -> None:
    found = parse_config(CONFIG)
    assert (found["ClusterName"], found["SlurmctldParameters"]) == ("lab", "enable_configless,rate=4")
    assert parse_config("") == {}


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("2-00:00:00", 172800.0),
        ("00:30:00", 1800.0),
        ("UNLIMITED", None),
        ("NONE", None),
        ("INFINITE", None),
        ("", None),
    ],
)
def test_a_partitions_time_limit_is_read(limit: str, seconds: float | None) -> None:
    (found,) = parse_partitions(PARTITION.format(nodes=4, time=limit, state="UP"))
    assert found == Partition("gpu", True, True, 2, 4, seconds, 3600.0, 3)


@pytest.mark.parametrize(("state", "up"), [("UP", True), ("DOWN", False), ("DRAIN", False), ("INACTIVE", False)])
def test_only_a_partition_that_is_up_is_up(state: str, up: bool) -> None:
    (found,) = parse_partitions(PARTITION.format(nodes=4, time=5, state=state))
    assert found.up is up


def test_lines_that_are_no_partitions_are_passed_over() -> None:
    assert parse_partitions("\nNo partitions in the system\n") == []


# -- reading -----------------------------------------------------------------------------------------------------------


def test_all_facts_are_read() -> None:
    gate = FakeGate("associations,limits,qos", "accounting_storage/slurmdbd")
    found = read(gate)
    assert (found.version, found.cluster, found.max_array_size, found.min_job_age) == ("24.11.5", "lab", 5001, 120.0)
    assert (found.accounting, found.accounts, found.qos) == (True, ("course", "lab"), ("high", "normal"))
    assert (found.licenses, found.notes) == (("matlab", "ansys@flex"), ())
    assert found.default_partition() == found.partition("gpu") is not None
    assert found.partition("nope") is None
    assert any("user=alice" in call for call in gate.calls)


@pytest.mark.parametrize(
    ("enforce", "storage", "accounts", "qos"),
    [
        ("none", "accounting_storage/none", None, None),
        ("none", "accounting_storage/slurmdbd", None, None),
        ("associations", "accounting_storage/slurmdbd", ("course", "lab"), None),
        ("associations,qos", "accounting_storage/slurmdbd", ("course", "lab"), ("high", "normal")),
        ("all", "accounting_storage/slurmdbd", ("course", "lab"), ("high", "normal")),
        ("associations", "accounting_storage/none", None, None),
    ],
)
def test_accounts_and_qos_are_known_only_where_they_are_enforced(
    enforce: str, storage: str, accounts: tuple[str, ...] | None, qos: tuple[str, ...] | None
) -> None:
    gate = FakeGate(enforce, storage)
    found = read(gate)
    assert (found.accounts, found.qos) == (accounts, qos)
    assert any("sacctmgr" in call for call in gate.calls) == (accounts is not None)


def test_where_slurmdbd_does_not_say_anything_goes_and_it_is_told() -> None:
    gate = FakeGate("associations", "accounting_storage/slurmdbd", assoc=Answer(1, "", "slurmdbd: connection refused"))
    found = read(gate)
    assert (found.accounts, found.qos) == (None, None)
    assert "connection refused" in found.notes[0]


def test_a_cluster_that_says_little_has_slurms_own_defaults() -> None:
    found = read(FakeGate(config=Answer(0, "", ""), partition=Answer(0, "", ""), licenses=Answer(1, "", "error")))
    assert (found.max_array_size, found.min_job_age, found.partitions, found.licenses) == (1001, 300.0, (), ())
    assert found.kill_wait == 30.0


def test_how_long_slurm_waits_before_it_kills_is_read() -> None:
    assert read(FakeGate(config=Answer(0, "KillWait                = 45 sec\n", ""))).kill_wait == 45.0


def test_facts_are_kept_for_a_while_and_asked_anew_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    gate = FakeGate()
    facts = reader(gate)
    first = facts.read()
    asked = len(gate.calls)
    now += KEPT_SECONDS - 1
    assert facts.read() is first
    assert len(gate.calls) == asked
    facts.read(fresh=True)
    assert len(gate.calls) == 2 * asked
    now += KEPT_SECONDS
    facts.read()
    assert len(gate.calls) == 3 * asked


@pytest.mark.parametrize("word", ["config", "partition"])
def test_what_was_told_before_outlives_an_outage_and_a_refusal(word: str) -> None:
    gate = FakeGate()
    facts = reader(gate)
    first = facts.read()
    gate.away = True
    with pytest.raises(SchedulerUnavailable):
        facts.read(fresh=True)
    gate.away, gate.answers[word] = False, Answer(1, "", "scontrol: error")
    with pytest.raises(SchedulerUnavailable, match="scontrol: error"):
        facts.read(fresh=True)
    assert facts.kept is first


def test_what_is_known_is_told_without_asking() -> None:
    gate = FakeGate()
    facts = reader(gate)
    assert facts.kept == Facts()
    facts.read()
    asked = len(gate.calls)
    assert facts.kept.cluster == "lab"
    assert len(gate.calls) == asked


def test_what_was_never_told_cannot_be_read_during_an_outage() -> None:
    gate = FakeGate()
    gate.away = True
    facts = reader(gate)
    with pytest.raises(SchedulerUnavailable):
        facts.read()
    gate.away = False
    assert facts.read().cluster == "lab"


def test_facts_are_shown_as_they_are() -> None:
    shown = read(FakeGate()).public()
    assert (shown["version"], shown["partitions"][0]["name"], shown["accounts"]) == ("24.11.5", "gpu", None)
