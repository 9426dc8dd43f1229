"""What four real Slurm versions printed (tests/data/slurm), read by our own parsers."""

import re
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.detect import count_gres, gpu_types
from orchestrator.errors import SchedulerUnavailable
from orchestrator.preview import expected
from orchestrator.slurm import accounting, arrays, pending, queue
from orchestrator.slurm.facts import parse_partitions
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.phases import Phase, phase_of
from orchestrator.slurm.sbatch import Rejection
from orchestrator.wiring import System

SAMPLES = Path(__file__).parents[1] / "data" / "slurm"
VERSIONS = ["22.05.8", "24.11.5", "25.11.7", "26.05.5"]
WITH_OUTAGE = ["22.05.8", "24.11.5", "26.05.5"]
DOWN = re.compile(
    r"\[\d+\] (?P<command>\S+) (?P<rest>.*?) +rc=(?P<code>\d+) \S+ stdout=(?P<output>.*) stderr=(?P<errors>.*)"
)
each_version = pytest.mark.parametrize("version", VERSIONS)
Cells = dict[str, str]


def sample(version: str, name: str) -> str:
    return (SAMPLES / version / name).read_text()


def index(version: str) -> dict[str, tuple[int, str]]:
    """Each file's exit status and command."""
    rows = (line.split("\t") for line in sample(version, "INDEX.tsv").splitlines())
    return {name: (int(code.strip().removeprefix("rc=")), command.strip()) for name, code, command in rows}


def epoch(text: str) -> str:
    """A time as SLURM_TIME_FORMAT=%s prints it; what is no time stays."""
    try:
        return str(int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()))
    except ValueError:
        return text


@cache
def squeue_cells(version: str) -> list[Cells]:
    """squeue_O's columns by name. Comment and name may hold the separator: the columns before them are taken."""
    columns = [field.split(":")[0] for field in index(version)["squeue_O.txt"][1].rsplit(" ", 1)[1].split(",")]
    found = []
    for line in sample(version, "squeue_O.txt").splitlines():
        cells = line.split("|")
        found.append(dict(zip(columns[:-2], cells, strict=False)) | {"Name": cells[-2]})
    return found


@cache
def squeue_rows(version: str) -> dict[str, queue.QueueRow]:
    """The sample in our own columns, parsed, by the id as Slurm wrote it."""
    found = {}
    for cells in squeue_cells(version):
        if "+" in cells["JobArrayID"]:
            continue  # a part of a heterogeneous job: test_parts_of_heterogeneous_jobs_are_read
        own = {**{name: epoch(text) for name, text in cells.items()}, "restartcnt": "0", "Nice": "0"}
        line = "|".join(own[field] for field in queue.FIELDS) + "|"
        (found[cells["JobArrayID"]],) = queue.parse(line)
    return found


@cache
def sacct_cells(version: str) -> list[Cells]:
    """sacct's columns by name, up to those that may hold the separator; and the last."""
    header, *lines = sample(version, "sacct_P.txt").splitlines()
    columns = header.split("|")
    plain = columns[: columns.index("SubmitLine")]
    return [dict(zip(plain, line.split("|"), strict=False)) | {"JobName": line.split("|")[-1]} for line in lines]


@cache
def sacct_rows(version: str) -> dict[str, accounting.AccountRow]:
    found = {}
    for cells in sacct_cells(version):
        if "+" in cells["JobID"]:
            continue
        own = {name: epoch(text) for name, text in cells.items()}
        (found[cells["JobID"]],) = accounting.parse("|".join(own[field] for field in accounting.FIELDS))
    return found


# -- what was copied ---------------------------------------------------------------------------------------------------


@each_version
def test_a_sample_is_of_the_version_that_its_folder_names(version: str) -> None:
    assert sample(version, "version").split()[-1] == version
    assert set(queue.FIELDS) - {"restartcnt", "Nice"} <= set(squeue_cells(version)[0])
    assert set(accounting.FIELDS) <= set(sacct_cells(version)[0])


# -- ids and states ----------------------------------------------------------------------------------------------------


def ids(version: str) -> set[str]:
    """Every job or array id in any of the files."""
    found = {cells["JobArrayID"] for cells in squeue_cells(version)} | {
        cells["JobID"] for cells in sacct_cells(version)
    }
    found |= {
        line.split("|")[0] for name in ("squeue_o.txt", "squeue_o_r.txt") for line in sample(version, name).splitlines()
    }
    return found


@each_version
def test_every_job_and_array_id_is_read(version: str) -> None:
    found = {text: arrays.parse(text) for text in ids(version) if "+" not in text}
    assert len(found) > 15
    assert found["3_[3-6%2]"] == ("3", [3, 4, 5, 6])
    assert found["3_1"] == ("3", [1])
    assert found["1"] == ("1", None)
    assert arrays.throttle("3_[3-6%2]") == 2


@each_version
def test_parts_of_heterogeneous_jobs_are_read(version: str) -> None:
    parts = sorted(text for text in ids(version) if "+" in text)
    assert parts
    for text in parts:
        assert arrays.parse(text) == (text.split("+", maxsplit=1)[0], None)


@each_version
def test_squeue_with_r_shows_the_tasks_that_its_short_form_holds(version: str) -> None:
    short = [line.split("|") for line in sample(version, "squeue_o.txt").splitlines()]
    each = [
        line.split("|")[0] for line in sample(version, "squeue_o_r.txt").splitlines() if "+" not in line.split("|")[0]
    ]
    going_on = [cells[0] for cells in short if phase_of(cells[9]) is not Phase.ENDED and "+" not in cells[0]]

    def tasks(texts: list[str]) -> set[tuple[str, int | None]]:
        read = [arrays.parse(text) for text in texts]
        return {(job, task) for job, several in read for task in (several if several is not None else [None])}

    assert tasks(each) == tasks(going_on)
    assert len(each) == len(tasks(each))


@each_version
def test_every_state_is_known(version: str) -> None:
    states = {cells["State"] for cells in squeue_cells(version)} | {cells["State"] for cells in sacct_cells(version)}
    header, *steps = sample(version, "sacct_P_steps.txt").splitlines()
    states |= {line.split("|")[header.split("|").index("State")] for line in steps}
    states |= set(re.findall(r"JobState=(\S+)", sample(version, "scontrol_job_o.txt")))
    assert {"PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED by 0"} <= states
    assert {state for state in states if phase_of(state) is Phase.UNKNOWN} == set()


# -- squeue and sacct agree --------------------------------------------------------------------------------------------


@each_version
def test_sacct_and_squeue_agree(version: str) -> None:
    live, accounts = squeue_rows(version), sacct_rows(version)
    assert len(accounts) > 10
    for id_, account in accounts.items():
        row = live[id_]
        assert (account.state, account.phase) == (row.state, row.phase)
        assert (account.job_id, account.indices) == (row.job_id, row.indices)
        assert (account.partition, account.code, account.submitted) == (row.partition, row.code, row.submitted)
        if account.phase is not Phase.PENDING:
            assert account.nodes == row.nodes
            assert account.start in {row.start, None}  # sacct knows no start of what never ran
        if account.phase is Phase.ENDED:
            assert account.end == row.end
        if account.state != "CANCELLED":  # 25.11's squeue tells scancel's signal, sacct does not
            assert account.signal == row.signal


@each_version
def test_sacct_and_squeue_count_the_same_resources(version: str) -> None:
    for id_, account in sacct_rows(version).items():
        if account.tres:
            for name in ("gres/gpu", "gres/gpu:h100", "cpu", "node", "billing"):
                assert queue.tres_count(account.tres, name) == queue.tres_count(squeue_rows(version)[id_].tres, name)


@each_version
def test_a_name_stays_whole_whatever_the_comment_holds(version: str) -> None:
    names = {row.name for row in squeue_rows(version).values()}
    assert {"train", "fail3", "selfkill", "sweep", "ok"} <= names


@each_version
def test_a_waiting_job_has_no_node_and_a_running_one_has(version: str) -> None:
    for row in squeue_rows(version).values():
        if row.phase is Phase.PENDING:
            assert row.nodes == ""
        if row.phase is Phase.ALLOCATED:
            assert row.nodes in {"n1", "n2"}
            assert row.start is not None
            assert row.priority is not None


@each_version
def test_sacct_tells_nodes_of_what_had_some(version: str) -> None:
    for row in sacct_rows(version).values():
        assert row.nodes in ({"n1", "n2", ""} if row.phase is Phase.ENDED else {"n1", "n2"} if row.start else {""})


@each_version
def test_the_elapsed_time_of_an_ended_job_is_that_between_its_times(version: str) -> None:
    ended = [row for row in sacct_rows(version).values() if row.phase is Phase.ENDED and row.start and row.end]
    assert ended
    assert all(row.elapsed == (row.end or 0) - (row.start or 0) for row in ended)


# -- single columns ----------------------------------------------------------------------------------------------------


@each_version
def test_exit_codes_are_read_in_the_versions_own_form(version: str) -> None:
    ends = {row.name: (row.code, row.signal) for row in squeue_rows(version).values() if row.state != "CANCELLED"}
    assert (ends["fail3"], ends["fail4"], ends["selfkill"], ends["ok"]) == ((3, 0), (4, 0), (0, 9), (0, 0))
    raw = {cells["exit_code"] for cells in squeue_cells(version)}
    assert ("768" in raw) == (version == "22.05.8")
    assert ("3:0" in raw) == (version != "22.05.8")


@each_version
def test_tres_counts_gpus(version: str) -> None:
    gpus = {row.name: queue.tres_count(row.tres, "gres/gpu") for row in squeue_rows(version).values()}
    assert gpus == gpus | {"train": 2, "big": 8, "prio": 4, "ok": 0, "held": 0}
    cpus = {row.name: queue.tres_count(row.tres, "cpu") for row in squeue_rows(version).values()}
    assert cpus == cpus | {"train": 4, "big": 2, "ok": 1}


@each_version
def test_sinfos_gres_columns_count_gpus_and_their_types(version: str) -> None:
    columns = [field.split(":")[0] for field in index(version)["sinfo_O.txt"][1].rsplit(" ", 1)[1].split(",")]
    rows = [dict(zip(columns, line.split("|"), strict=False)) for line in sample(version, "sinfo_O.txt").splitlines()]
    seen = {
        row["NodeList"]: (count_gres(row["Gres"]), gpu_types(row["Gres"]), count_gres(row["GresUsed"])) for row in rows
    }
    assert seen == {"n1": (4, {"h100": 4}, 3), "n2": (4, {"h100": 4}, 2)}


@each_version
def test_the_nodes_that_scontrol_shows_have_the_same_gpus(version: str) -> None:
    lines = sample(version, "scontrol_node_o.txt").splitlines()
    counted = {
        re.findall(r"NodeName=(\S+)", line)[0]: count_gres(re.findall(r" Gres=(\S+)", line)[0]) for line in lines
    }
    assert counted == {"n1": 4, "n2": 4}


@each_version
def test_partitions_are_read_with_their_limits(version: str) -> None:
    partitions = {one.name: one for one in parse_partitions(sample(version, "scontrol_part_o.txt"))}
    limits = {
        name: (one.default, one.up, one.nodes, one.max_nodes, one.max_seconds, one.default_seconds, one.priority_tier)
        for name, one in partitions.items()
    }
    assert limits == {
        "gpu": (True, True, 2, None, 2 * 86400.0, 3600.0, 1),
        "debug": (False, True, 1, None, 1800.0, None, 1),
        "long": (False, True, 2, None, None, None, 1),
    }


@each_version
def test_every_reason_why_a_job_waits_is_explained(version: str) -> None:
    reasons = {row.name: row.reason for row in squeue_rows(version).values() if row.phase is Phase.PENDING}
    shown = re.findall(r"JobState=PENDING Reason=(\S+)", sample(version, "scontrol_job_o.txt"))
    lists = {line.split("|")[5] for line in sample(version, "squeue_o_r.txt").splitlines() if "|PENDING|" in line}
    assert {"Resources", "Priority", "JobArrayTaskLimit", "JobHeldUser", "BeginTime"} <= set(reasons.values())
    found = {code: pending.explain(code).category for code in {*reasons.values(), *shown, *lists}}
    assert "unknown" not in found.values(), found
    assert found == found | {
        "Resources": "resources",
        "Priority": "queue",
        "JobArrayTaskLimit": "limit",
        "JobHeldUser": "hold",
        "BeginTime": "queue",
        "DependencyNeverSatisfied": "never",
    }


# -- what sbatch says --------------------------------------------------------------------------------------------------


def fake(folder: Path, command: str, code: int, output: str, errors: str) -> Gate:
    """A gate to a command that says just this."""
    folder.mkdir(exist_ok=True)
    (folder / f"{command}.out").write_text(output)
    (folder / f"{command}.err").write_text(errors)
    script = folder / command
    script.write_text(f"#!/bin/sh\ncat '{folder}/{command}.out'\ncat '{folder}/{command}.err' >&2\nexit {code}\n")
    script.chmod(0o755)
    return Gate(30, {"PATH": f"{folder}:/usr/bin:/bin"})


def system_with(gate: Gate) -> System:
    """As much of a system as asks for an expected start."""
    return cast(System, SimpleNamespace(gate=gate, slurm=SimpleNamespace(trouble=None)))


@each_version
@pytest.mark.parametrize("name", ["test_only.txt", "err_sbatch_acct.txt"])
def test_the_start_that_test_only_expects_is_read(tmp_path: Path, version: str, name: str) -> None:
    code, command = index(version)[name]
    assert "--test-only" in command
    errors = sample(version, f"{name}.err")
    gate = fake(tmp_path / "bin", "sbatch", code, sample(version, name), errors)
    found = expected(system_with(gate), "#!/bin/bash\n")
    assert found["sbatch"] == errors.strip()
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(found["expected_start"])) in errors


@each_version
def test_a_test_only_that_is_refused_tells_why_and_no_start(tmp_path: Path, version: str) -> None:
    errors = sample(version, "err_sbatch_gres.txt.err")
    gate = fake(tmp_path / "bin", "sbatch", 1, "", errors)
    found = expected(system_with(gate), "#!/bin/bash\n")
    assert found == {"expected_start": None, "sbatch": errors.strip()}


@each_version
@pytest.mark.parametrize("name", ["err_sbatch_part.txt", "err_sbatch_gres.txt"])
def test_what_sbatch_can_never_accept_is_final(version: str, name: str) -> None:
    assert index(version)[name][0] == 1
    said = Rejection(sample(version, f"{name}.err").strip())
    assert said
    assert (said.final, said.too_many) == (True, False)


@each_version
@pytest.mark.parametrize("name", ["err_squeue_noid.txt", "err_scontrol_noid.txt", "err_scancel_v_noid.txt"])
def test_an_unknown_job_is_an_answer_and_no_outage(tmp_path: Path, version: str, name: str) -> None:
    code, command = index(version)[name]
    said = fake(tmp_path / "bin", command.split()[0], code, sample(version, name), sample(version, f"{name}.err"))
    answer = said.run(command.split())
    assert (answer.code, "Invalid job id" in answer.errors) == (code, True)


@each_version
def test_a_controller_that_is_up_is_told_so(tmp_path: Path, version: str) -> None:
    code = index(version)["scontrol_ping.txt"][0]
    assert fake(tmp_path / "bin", "scontrol", code, sample(version, "scontrol_ping.txt"), "").controller_up()


def outage(version: str) -> list[dict[str, str]]:
    matches = [DOWN.fullmatch(line) for line in sample(version, "controller_down.txt").splitlines()]
    return [match.groupdict() for match in matches if match]


@pytest.mark.parametrize("version", WITH_OUTAGE)
def test_without_a_controller_no_command_gives_an_answer(tmp_path: Path, version: str) -> None:
    silent = [said for said in outage(version) if said["errors"] and said["code"] != "0"]
    assert {said["command"] for said in silent} == {"squeue", "sinfo", "sbatch", "scancel"}
    for said in silent:
        gate = fake(tmp_path / "bin", said["command"], int(said["code"]), said["output"], said["errors"])
        with pytest.raises(SchedulerUnavailable, match="Unable to contact slurm controller"):
            gate.run([said["command"], *said["rest"].split()])


@pytest.mark.parametrize("version", WITH_OUTAGE)
def test_without_a_controller_the_ping_says_so(tmp_path: Path, version: str) -> None:
    (ping,) = [said for said in outage(version) if said["command"] == "scontrol"]
    assert not fake(tmp_path / "bin", "scontrol", int(ping["code"]), ping["output"], ping["errors"]).controller_up()
