"""Why a run waits, failed or is slow: a category for programs, words for people, evidence as it was found."""

import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from orchestrator import why as why_module
from orchestrator.cli.main import app
from orchestrator.resources import parse_memory, parse_time
from orchestrator.shapes import RunRerun
from orchestrator.slurm import pending
from orchestrator.slurm.checks import Limits
from orchestrator.states import Reason, RunStatus
from orchestrator.why import LOG_SIGNS, Known, Why, explain

CATEGORIES_THAT_RERUN = {"site", "preempted"}


def run(status: RunStatus = RunStatus.FAILED, **told: Any) -> dict[str, Any]:
    return {
        "id": "abc123",
        "status": str(status),
        "reason": None,
        "error": None,
        "executor": "slurm",
        "scheduler": None,
        "resources": {},
        "exit_code": None,
        "signal": None,
        "peak_memory_bytes": None,
        "elapsed_seconds": 0.0,
        "cpu_seconds": None,
        "cpu_seconds_given": 0.0,
        "gpus": None,
        **told,
    }


def why(
    status: RunStatus = RunStatus.FAILED,
    log: str = "",
    trouble: str | None = None,
    known: Known | None = None,
    **told: Any,
) -> Why:
    found = explain(run(status, **told), log, trouble, known)
    assert found.category
    assert found.summary
    assert found.action
    assert found.public()["category"] == found.category
    if found.rerun is not None:
        RunRerun.model_validate(found.rerun)
    return found


def sources(found: Why) -> list[str]:
    return [quote["source"] for quote in found.evidence]


def test_every_status_and_reason_has_an_answer() -> None:
    for status in RunStatus:
        for reason in [None, *Reason]:
            why(status, reason=reason and str(reason))


# -- waiting -----------------------------------------------------------------------------------------------------------

WAITS = {
    "job_id": "15",
    "array_index": None,
    "state": "PENDING",
    "reason": "Resources",
    "partition": "gpu",
    "priority": 7,
}


@pytest.mark.parametrize(
    ("reason", "category"),
    [
        (Reason.CPU_WAIT, "resources"),
        (Reason.GPU_WAIT, "resources"),
        (Reason.DEPENDENCY, "dependency"),
        (Reason.SWEEP_PARALLEL, "limit"),
        (Reason.HELD, "hold"),
        (Reason.SUBMIT_LIMIT, "limit"),
        (Reason.SUBMIT_FAILED, "site"),
        (Reason.RETRYING, "retry"),
        (Reason.FORGOTTEN, "retry"),
        (Reason.STOPPING, "stopping"),
        (None, "queue"),
    ],
)
def test_a_run_that_waits_here_is_told_why(reason: Reason | None, category: str) -> None:
    assert why(RunStatus.QUEUED, reason=reason, executor="local").category == category


def test_a_run_that_waits_in_slurm_is_told_slurms_reason_with_its_row() -> None:
    found = why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=WAITS | {"expected_start": 99.0})
    assert (found.category, sources(found)) == ("resources", ["run", "squeue"])
    quote = found.evidence[1]
    assert (quote["job_id"], quote["reason"], quote["partition"], quote["expected_start"]) == (
        "15",
        "Resources",
        "gpu",
        99.0,
    )


@pytest.mark.parametrize("reason", [None, "", "None"])
def test_slurm_may_not_have_looked_yet(reason: str | None) -> None:
    assert why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=WAITS | {"reason": reason}).category == "queue"


def test_a_run_that_is_being_stopped_is_told_so_whatever_slurm_waits_for() -> None:
    assert why(RunStatus.QUEUED, reason=Reason.STOPPING, scheduler=WAITS).category == "stopping"


def test_more_nodes_than_the_partition_gives_can_be_asked_again_with_one() -> None:
    scheduler = WAITS | {"reason": "PartitionNodeLimit"}
    found = why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=scheduler, resources={"nodes": 4, "gpus": 1})
    assert found.category == "never"
    assert found.rerun == {"auto_start": True, "resources": {"nodes": 1, "gpus": 1}}
    assert why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=scheduler, resources={"nodes": 1}).rerun is None


def test_an_outage_comes_first_for_runs_of_slurm_alone() -> None:
    found = why(RunStatus.QUEUED, trouble="squeue gave no answer.", reason=Reason.SLURM_WAIT, scheduler=WAITS)
    assert found.category == "cluster_degraded"
    assert found.evidence[-1] == {"source": "slurm", "says": "squeue gave no answer."}
    other = why(RunStatus.QUEUED, trouble="squeue gave no answer.", reason=Reason.GPU_WAIT, executor="local")
    assert other.category == "resources"


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "(in 1 min)"), (3900, "(in 1 h 5 min)"), (86_400 + 7200 + 60, "(in 1 d 2 h)")]
)
def test_when_slurm_expects_it_to_start_is_said_in_words_and_kept_as_a_number(seconds: float, words: str) -> None:
    scheduler = WAITS | {"expected_start": NOW + seconds}
    found = why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=scheduler, known=Known(now=NOW))
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(NOW + seconds))
    assert found.summary.endswith(f"Slurm expects it to start at {at} {words}.")
    assert found.evidence[1]["expected_start"] == NOW + seconds


def test_an_expectation_that_has_passed_is_not_said() -> None:
    scheduler = WAITS | {"expected_start": NOW - 1}
    found = why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=scheduler, known=Known(now=NOW))
    assert "expects" not in found.summary


def test_a_run_with_a_begin_time_is_told_when_it_begins_and_not_to_wait_for_room() -> None:
    scheduler = WAITS | {"reason": "BeginTime", "expected_start": NOW + 3600}
    found = why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=scheduler, known=Known(now=NOW))
    assert f"It begins at {time.strftime('%Y-%m-%d %H:%M', time.localtime(NOW + 3600))} (in 1 h)." in found.summary
    assert "room" not in found.action


def test_a_begin_time_that_squeue_does_not_show_is_told_as_it_was_asked_for() -> None:
    scheduler = WAITS | {"reason": "BeginTime", "expected_start": None}
    found = why(RunStatus.QUEUED, reason=Reason.SLURM_WAIT, scheduler=scheduler, resources={"begin": "now+1hour"})
    assert found.summary.endswith("It asked to begin at: now+1hour.")


@pytest.mark.parametrize("reason", [Reason.SUBMIT_LIMIT, Reason.SUBMIT_FAILED])
def test_what_sbatch_said_is_evidence_of_a_submission_that_it_did_not_take(reason: Reason) -> None:
    words = "sbatch: error: QOSMaxSubmitJobPerUserLimit. Tried again in 5 s."
    found = why(RunStatus.QUEUED, reason=reason, known=Known(said=words))
    assert found.evidence[-1] == {"source": "sbatch", "says": words}
    assert why(RunStatus.QUEUED, reason=reason, error=words).evidence[-1]["says"] == words
    assert sources(why(RunStatus.QUEUED, reason=reason, executor="local", known=Known(said="No disk."))) == [
        "run",
        "executor",
    ]
    assert sources(why(RunStatus.QUEUED, reason=reason)) == ["run"]


# -- failed ------------------------------------------------------------------------------------------------------------


def test_a_run_that_ran_out_of_memory_can_ask_for_twice_as_much() -> None:
    found = why(reason=Reason.OUT_OF_MEMORY, error="Slurm ended it for memory.", resources={"mem": "1G", "gpus": 1})
    assert (found.category, found.summary) == ("memory", "Slurm ended it for memory.")
    assert found.rerun == {"auto_start": True, "resources": {"mem": "2048M", "gpus": 1}}


@pytest.mark.parametrize(
    ("asked", "peak", "more"),
    [
        ("1G", 10 * 2**30, "15360M"),
        (None, 10 * 2**30, "15360M"),
        ("10G", 2**20, "20480M"),
        (None, 1, "1M"),
        (None, None, None),
    ],
)
def test_how_much_more_memory_is_told_by_what_was_asked_for_and_what_was_used(
    asked: str | None, peak: int | None, more: str | None
) -> None:
    found = why(reason=Reason.OUT_OF_MEMORY, resources={} if asked is None else {"mem": asked}, peak_memory_bytes=peak)
    assert (None if found.rerun is None else found.rerun["resources"]["mem"]) == more
    if more is not None:
        assert parse_memory(more) >= max(parse_memory(asked) if asked else 0, peak or 0)


@pytest.mark.parametrize(
    ("asked", "elapsed", "minutes"), [("1:00:00", 3600.0, 120), (30, 1800.0, 60), (None, 90.0, 3), (None, 0.0, None)]
)
def test_a_run_that_reached_its_time_limit_can_ask_for_twice_the_time(
    asked: str | int | None, elapsed: float, minutes: int | None
) -> None:
    found = why(reason=Reason.TIMEOUT, resources={} if asked is None else {"time": asked}, elapsed_seconds=elapsed)
    assert (found.category, "signal" in found.action) == ("time", True)
    assert (None if found.rerun is None else found.rerun["resources"]["time"]) == minutes
    if minutes is not None:
        assert parse_time(minutes) >= elapsed


@pytest.mark.parametrize(
    ("asked", "peak", "most", "more"),
    [("10G", None, 16_000, "16000M"), (None, 2**33, 9_000, "9000M"), ("2G", None, 16_000, "4096M")],
)
def test_no_more_memory_is_asked_for_than_a_node_has(asked: str | None, peak: int | None, most: int, more: str) -> None:
    resources = {} if asked is None else {"mem": asked}
    limits = Limits("gpu", mem_bytes=most * 2**20)
    for told in ({"reason": Reason.OUT_OF_MEMORY}, {"reason": Reason.SIGNAL, "log": "MemoryError"}):
        found = why(resources=resources, peak_memory_bytes=peak, known=Known(limits), **told)
        assert found.rerun is not None
        assert found.rerun["resources"]["mem"] == more
        assert ("cluster" in sources(found)) == (more != "4096M")


@pytest.mark.parametrize(("asked", "peak"), [("16000M", None), ("20G", 10), (None, 16_000 * 2**20)])
def test_a_run_that_had_all_the_memory_of_a_node_is_told_so(asked: str | None, peak: int | None) -> None:
    resources = {} if asked is None else {"mem": asked}
    limits = Limits("gpu", mem_bytes=16_000 * 2**20)
    found = why(reason=Reason.OUT_OF_MEMORY, resources=resources, peak_memory_bytes=peak, known=Known(limits))
    assert (found.rerun, "gives more than 16000M" in found.action) == (None, True)
    assert {"source": "cluster", "partition": "gpu", "largest_memory": "16000M"} in found.evidence


@pytest.mark.parametrize(("asked", "minutes"), [("1:30:00", 120), ("1:00:00", 120), (30, 60)])
def test_no_more_time_is_asked_for_than_the_partition_gives(asked: str | int, minutes: int) -> None:
    found = why(reason=Reason.TIMEOUT, resources={"time": asked}, known=Known(Limits("short", time_seconds=7210.0)))
    assert found.rerun is not None
    assert found.rerun["resources"] == {"time": minutes}


def test_a_run_that_had_all_the_time_of_its_partition_is_told_so() -> None:
    limits = Limits("short", time_seconds=7200.0)
    found = why(reason=Reason.TIMEOUT, resources={"time": 120}, known=Known(limits))
    assert (found.rerun, "short has a limit of 02:00:00" in found.action, "signal" in found.action) == (
        None,
        True,
        True,
    )
    unasked = why(reason=Reason.TIMEOUT, started_at=100.0, ended_at=7311.0, elapsed_seconds=9e9, known=Known(limits))
    assert unasked.rerun is None


@pytest.mark.parametrize(
    ("longer", "partition", "minutes"),
    [
        ((("day", 86_400.0), ("any", None)), "day", 240),
        ((("half", 10_800.0), ("any", None)), "any", 240),
        ((("half", 10_800.0),), "half", 180),
    ],
)
def test_a_partition_with_more_time_is_proposed_where_its_own_has_no_more(
    longer: tuple[tuple[str, float | None], ...], partition: str, minutes: int
) -> None:
    limits = Limits("short", time_seconds=7200.0, longer=longer)
    found = why(reason=Reason.TIMEOUT, resources={"time": 120, "gpus": 1}, known=Known(limits))
    assert found.rerun is not None
    assert found.rerun["resources"] == {"time": minutes, "gpus": 1, "partition": partition}
    assert f"Run it in {partition}" in found.action


def test_what_is_asked_for_again_is_a_body_that_can_be_posted_however_much_it_was() -> None:
    assert why(reason=Reason.OUT_OF_MEMORY, resources={"mem": "900000T"}).rerun is not None
    assert why(reason=Reason.TIMEOUT, resources={"time": "3000-0"}).rerun is not None
    assert why(reason=Reason.TIMEOUT, resources={"time": "3650-0"}).rerun is None


def test_what_the_activation_said_goes_before_the_log() -> None:
    found = why(reason=Reason.BAD_ENVIRONMENT, error="No virtualenv.", log="Permission denied")
    assert (found.category, found.summary) == ("environment", "No virtualenv.")


@pytest.mark.parametrize(("sign", "category"), [(sign, category) for sign, category, _, _ in LOG_SIGNS])
def test_a_sign_in_the_log_tells_what_went_wrong(sign: str, category: str) -> None:
    log = f"epoch 1\nTraceback: {sign}: and so on\nbye\n"
    found = why(reason=Reason.NONZERO_EXIT, exit_code=1, log=log)
    assert found.category == category
    assert found.evidence[-1] == {"source": "log", "quote": f"Traceback: {sign}: and so on"}


def test_a_sign_of_memory_in_the_log_asks_for_more() -> None:
    found = why(reason=Reason.NONZERO_EXIT, log="MemoryError\n", resources={"mem": "1G"})
    assert found.rerun is not None
    assert found.rerun["resources"]["mem"] == "2048M"
    assert why(reason=Reason.NONZERO_EXIT, log="MemoryError\n").rerun is None


def test_a_long_line_of_the_log_is_quoted_at_its_end() -> None:
    found = why(reason=Reason.NONZERO_EXIT, log="x" * 10_000 + "Permission denied")
    quote = found.evidence[-1]["quote"]
    assert (len(quote), quote.endswith("Permission denied")) == (500, True)


def test_what_python_said_last_is_told_with_the_failure() -> None:
    log = "Traceback (most recent call last):\n  File \"t.py\"\nKeyError: 'a'\n\nDuring …\nValueError: lr is 0\nbye\n"
    found = why(reason=Reason.NONZERO_EXIT, error="The command ended with exit code 1.", log=log)
    assert (found.summary, found.said) == ("The command ended with exit code 1.", "ValueError: lr is 0")
    other = why(reason=Reason.NONZERO_EXIT, error="It ended.", log="Errors: 0\nno ValueError: here\n")
    assert (other.summary, other.said) == ("It ended.", "no ValueError: here")


def test_commands_name_the_run() -> None:
    assert why(reason=Reason.NONZERO_EXIT).action == "See the end of its log: orc logs abc123."


def test_slurms_word_of_memory_or_time_goes_before_the_log() -> None:
    assert why(reason=Reason.TIMEOUT, log="No space left on device").category == "time"
    assert why(reason=Reason.OUT_OF_MEMORY, log="No space left on device").category == "memory"


@pytest.mark.parametrize(
    ("reason", "category"),
    [
        (Reason.NODE_FAIL, "site"),
        (Reason.PREEMPTED, "preempted"),
        (Reason.LOST, "site"),
        (Reason.SUBMIT_REJECTED, "request"),
        (Reason.BAD_WORKDIR, "request"),
        (Reason.BAD_ENVIRONMENT, "environment"),
        (Reason.PARENT_FAILED, "dependency"),
        (Reason.GPU_BUSY, "resources"),
        (Reason.SIGNAL, "program"),
        (Reason.NONZERO_EXIT, "program"),
        (None, "program"),
    ],
)
def test_a_failure_has_its_category_and_the_end_of_its_log(reason: Reason | None, category: str) -> None:
    log = "".join(f"line {number}\n" for number in range(9))
    found = why(reason=reason, error="It failed.", log=log, resources={"gpus": 1})
    assert (found.category, found.summary) == (category, "It failed.")
    assert found.evidence[-1] == {"source": "log", "quote": "line 4\nline 5\nline 6\nline 7\nline 8"}
    again = {"auto_start": True, "resources": {"gpus": 1}}
    assert found.rerun == (again if category in CATEGORIES_THAT_RERUN else None)


def test_without_a_log_the_runs_own_facts_are_the_evidence() -> None:
    found = why(reason=Reason.SIGNAL, error="It died.", signal=11, exit_code=None)
    assert sources(found) == ["run"]
    assert (found.evidence[0]["signal"], found.evidence[0]["error"]) == (11, "It died.")


def test_slurms_word_is_evidence_of_an_end_too() -> None:
    found = why(reason=Reason.NODE_FAIL, scheduler={"state": "NODE_FAIL", "nodes": "n1"})
    assert {"source": "slurm", "state": "NODE_FAIL", "nodes": "n1"} in found.evidence


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_a_run_that_nobody_started_is_told_how() -> None:
    assert why(RunStatus.READY).category == "not_started"


def test_a_stopped_run_is_told_by_whom() -> None:
    found = why(RunStatus.STOPPED, error="The job was cancelled in Slurm (scancel).", reason=Reason.CANCELLED)
    assert (found.category, found.summary) == ("stopped", "The job was cancelled in Slurm (scancel).")
    assert why(RunStatus.STOPPED).summary == "It was stopped on request."


@pytest.mark.parametrize(
    ("status", "reason", "category"),
    [
        (RunStatus.LAUNCHING, None, "launching"),
        (RunStatus.RUNNING, None, "running"),
        (RunStatus.RUNNING, Reason.SUSPENDED, "suspended"),
        (RunStatus.RUNNING, Reason.ORPHANED, "orphaned"),
        (RunStatus.RUNNING, Reason.STOPPING, "stopping"),
        (RunStatus.LAUNCHING, Reason.STOPPING, "stopping"),
    ],
)
def test_a_run_that_goes_on_is_told_how(status: RunStatus, reason: Reason | None, category: str) -> None:
    assert why(status, reason=reason).category == category
    found = why(status, reason=reason, scheduler={"job_id": "15", "state": "RUNNING", "nodes": "n1"})
    assert (found.category, sources(found)) == (category, ["run", "slurm"])


JOB = {"job_id": "15", "state": "RUNNING", "nodes": "n1"}


@pytest.mark.parametrize(
    ("fields", "category"),
    [
        ({"resources": {"gpus": 2}, "scheduler": JOB}, "no_gpus"),
        ({"resources": {"gpus": 2}, "scheduler": JOB, "gpus": [{"index": 0}, {"index": 1}]}, "running"),
        ({"resources": {"cpus": 2}, "scheduler": JOB}, "running"),
        ({"resources": {"gpus": 0}, "scheduler": JOB}, "running"),
        ({"resources": {"gpus": 2}}, "running"),
    ],
)
def test_a_run_that_slurm_names_none_of_its_gpus_to_is_told(fields: dict[str, Any], category: str) -> None:
    found = why(RunStatus.RUNNING, **fields)
    assert found.category == category
    assert ("scontrol reconfigure" in found.action) is (category == "no_gpus")


def running(used: float | None, elapsed: float = 3600.0, **resources: Any) -> Why:
    known = Known(cpu_seconds=used, now=NOW)
    return why(RunStatus.RUNNING, started_at=NOW - elapsed, resources=resources, known=known)


def test_a_running_run_that_hardly_uses_its_cpus_is_called_slow() -> None:
    found = running(360.0, cpus=4)
    assert (found.category, "2.5% of the time of its 4 CPU(s)" in found.summary) == ("slow", True)
    quote = {"source": "processes", "cpu_seconds": 360.0, "seconds": 3600, "cpus": 4}
    assert (found.evidence[-1], found.rerun) == (quote, None)
    assert running(359.0).category == "slow"


@pytest.mark.parametrize(
    ("used", "elapsed", "resources"),
    [
        (361.0, 3600.0, {}),
        (1440.0, 3600.0, {"cpus": 4}),
        (0.0, 299.0, {}),
        (None, 3600.0, {}),
        (0.0, 3600.0, {"nodes": 2}),
    ],
)
def test_a_run_that_is_busy_or_young_or_elsewhere_just_runs(
    used: float | None, elapsed: float, resources: dict[str, Any]
) -> None:
    assert running(used, elapsed, **resources).category == "running"


USED: dict[str, Any] = {"resources": {"cpus": 8}, "elapsed_seconds": 600.0, "cpu_seconds_given": 4800.0}


def test_a_run_that_left_its_cpus_idle_is_told_how_many_would_have_done() -> None:
    found = why(RunStatus.FINISHED, cpu_seconds=1200.0, **USED)
    assert (found.category, "25%" in found.summary, found.action) == ("idle_cpus", True, "2 CPU(s) would have done.")
    assert found.rerun == {"auto_start": True, "resources": {"cpus": 2}}
    assert found.evidence[-1] == {"source": "usage", "cpu_seconds": 1200.0, "cpu_seconds_given": 4800.0}


@pytest.mark.parametrize(
    "told",
    [
        {"cpu_seconds": None},
        {"cpu_seconds": 2400.0},
        {"cpu_seconds": 1.0, "elapsed_seconds": 59.0},
        {"cpu_seconds": 1.0, "resources": {"cpus": 1}},
        {"cpu_seconds": 1.0, "resources": {}},
        {"cpu_seconds": 0.0, "cpu_seconds_given": 0.0},
    ],
)
def test_a_run_that_used_enough_or_was_too_short_to_say_just_finished(told: dict[str, Any]) -> None:
    found = why(RunStatus.FINISHED, **(USED | told))
    assert (found.category, found.rerun) == ("finished", None)


def test_the_cpus_that_would_have_done_can_be_shared_by_its_tasks() -> None:
    used = {**USED, "resources": {"cpus": 8, "tasks_per_node": 4}}
    found = why(RunStatus.FINISHED, cpu_seconds=100.0, **used)
    assert found.rerun is not None
    assert found.rerun["resources"]["cpus"] == 4
    assert (
        why(RunStatus.FINISHED, cpu_seconds=1.0, **{**USED, "resources": {"cpus": 8, "tasks_per_node": 8}}).rerun
        is None
    )


def test_a_run_that_used_nothing_still_needs_one_cpu() -> None:
    found = why(RunStatus.FINISHED, cpu_seconds=0.0, **USED)
    assert found.rerun == {"auto_start": True, "resources": {"cpus": 1}}


@pytest.mark.parametrize("module", [why_module, pending])
def test_the_commands_that_are_named_are_there(module: ModuleType) -> None:
    commands = vars(typer.main.get_command(app))["commands"]
    named = re.findall(r"\borc ([a-z]+)(?: ([a-z]+)\b)?", Path(str(module.__file__)).read_text())
    assert named
    for first, second in named:
        within = vars(commands[first]).get("commands")
        assert within is None or second in within
