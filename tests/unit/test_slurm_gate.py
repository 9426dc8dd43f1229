"""The gate: what reaches a Slurm command, what counts as an answer, what is counted."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import SchedulerUnavailable
from orchestrator.slurm.gate import AWAY, HOUR, Answer, Gate, Tally, slurm_environment
from tests.support.waiting import DEADLINES


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def fake(folder: Path, body: str, name: str = "squeue") -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def gate_to(folder: Path, deadline: float = 30, **environ: str) -> Gate:
    return Gate(deadline, {"PATH": f"{folder}:/usr/bin:/bin", **environ})


# -- the environment ---------------------------------------------------------------------------------------------------

STRAY = {
    **dict.fromkeys(
        ["SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SQUEUE_FORMAT", "SQUEUE_STATES", "SINFO_FORMAT"], "stray"
    ),
    **dict.fromkeys(
        ["SACCT_FORMAT", "SCANCEL_ACCOUNT", "SCONTROL_ALL", "SRUN_CPUS_PER_TASK", "SLURM_CLUSTERS"], "stray"
    ),
    **dict.fromkeys(["SLURM_JOB_ID", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN", "SLURM_CONF_SERVER"], "stray"),
    **dict.fromkeys(["ORC_TOKEN", "ORC_DATABASE_URL", "ORC_HOME"], "secret"),
}


def test_what_changes_an_answer_is_taken_out_and_the_rest_stays() -> None:
    kept = {"PATH": "/usr/bin", "HOME": "/home/a", "LANG": "C", "MY_SLURM_THING": "1", "SLURM_CONF": "/site/slurm.conf"}
    assert slurm_environment(STRAY | kept) == kept | {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def test_an_empty_environment_has_just_what_the_answers_forms_need() -> None:
    assert slurm_environment({}) == {"SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}


def test_a_command_sees_the_scrubbed_environment(bin_folder: Path) -> None:
    fake(bin_folder, "exec env")
    answer = gate_to(bin_folder, 30, **STRAY, SLURM_CONF="/site/slurm.conf", HARMLESS="kept").run(["squeue"])
    seen = dict(line.split("=", 1) for line in answer.output.splitlines())
    assert not {"stray", "secret"} & set(seen.values())
    assert {name: value for name, value in seen.items() if name.startswith(("S", "ORC"))} == {
        "SLURM_CONF": "/site/slurm.conf",
        "SLURM_TIME_FORMAT": "%s",
        "SLURM_BITSTR_LEN": "0",
    } | ({"SHLVL": seen["SHLVL"]} if "SHLVL" in seen else {})
    assert seen["HARMLESS"] == "kept"


def test_the_servers_environment_is_taken_where_none_is_given(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    monkeypatch.setenv("SQUEUE_FORMAT", "stray")
    monkeypatch.setenv("HARMLESS", "kept")
    fake(bin_folder, 'echo "$HARMLESS,$SQUEUE_FORMAT,$SLURM_TIME_FORMAT"')
    gate = Gate(30)
    assert gate.run(["squeue"]).output == "kept,,%s\n"
    monkeypatch.setenv("HARMLESS", "changed")  # as it is at each call
    assert gate.run(["squeue"]).output == "changed,,%s\n"


def test_a_command_has_no_input_and_stands_in_the_root(bin_folder: Path) -> None:
    fake(bin_folder, "cat; pwd -P")
    assert gate_to(bin_folder).run(["squeue"]).output == "/\n"


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 8, 127])
def test_an_answer_is_an_answer_whatever_its_exit_code(bin_folder: Path, code: int) -> None:
    fake(bin_folder, f'echo "$@"; echo wrong >&2; exit {code}')
    assert gate_to(bin_folder).run(["squeue", "-h", "a b", "$HOME"]) == Answer(code, "-h a b $HOME\n", "wrong\n")


def test_bytes_that_are_no_utf_8_are_an_answer_too(bin_folder: Path) -> None:
    fake(bin_folder, "printf 'n\\351'; printf '\\377' >&2")
    assert gate_to(bin_folder).run(["squeue"]) == Answer(0, "n\ufffd", "\ufffd")


@pytest.mark.parametrize("sign", AWAY)
def test_a_controller_that_is_away_gives_no_answer(bin_folder: Path, sign: str) -> None:
    fake(bin_folder, f"echo 'squeue: error: {sign} (somehow)' >&2; exit 1")
    with pytest.raises(SchedulerUnavailable, match=sign):
        gate_to(bin_folder).run(["squeue"])


def test_a_warning_beside_an_answer_is_no_outage(bin_folder: Path) -> None:
    fake(bin_folder, f"echo answer; echo '{AWAY[0]}, the backup answers' >&2")
    assert gate_to(bin_folder).run(["squeue"]).output == "answer\n"


def test_what_a_job_is_called_is_no_outage(bin_folder: Path) -> None:
    fake(bin_folder, f"echo '{AWAY[1]}'; exit 1")  # only what is said on stderr counts
    assert gate_to(bin_folder).run(["squeue"]).code == 1


def test_a_command_that_is_too_late_gives_no_answer_and_what_it_said_is_told(bin_folder: Path) -> None:
    fake(
        bin_folder,
        "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2; exec sleep 600",
    )
    for deadline in DEADLINES:
        with pytest.raises(SchedulerUnavailable, match=rf"within {deadline:g} s\.") as error:
            gate_to(bin_folder, deadline).run(["squeue"])
        if "unable to accept job" in error.value.message:
            return
    raise AssertionError(error.value.message)


def test_a_deadline_of_its_own_goes_before_the_gates(bin_folder: Path) -> None:
    fake(bin_folder, "exec sleep 600")
    with pytest.raises(SchedulerUnavailable, match=r"within 0\.1 s"):
        gate_to(bin_folder, 600).run(["squeue"], 0.1)


def test_a_command_that_is_too_late_is_ended(bin_folder: Path, tmp_path: Path) -> None:
    fake(bin_folder, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    for deadline in DEADLINES:
        with pytest.raises(SchedulerUnavailable):
            gate_to(bin_folder, deadline).run(["squeue"])
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_command_that_is_not_there_gives_no_answer(bin_folder: Path) -> None:
    with pytest.raises(SchedulerUnavailable, match="squeue cannot be run"):
        Gate(30, {"PATH": str(bin_folder)}).run(["squeue"])


def test_a_command_that_may_not_be_executed_gives_no_answer(bin_folder: Path) -> None:
    (bin_folder / "squeue").write_text("#!/no/such/interpreter\n")
    (bin_folder / "squeue").chmod(0o755)
    with pytest.raises(SchedulerUnavailable, match="cannot be run"):
        Gate(30, {"PATH": str(bin_folder)}).run(["squeue"])


def test_a_long_complaint_is_told_briefly(bin_folder: Path) -> None:
    fake(bin_folder, f"printf '{AWAY[0]}%05000d' 0 >&2; exit 1")
    with pytest.raises(SchedulerUnavailable) as told:
        gate_to(bin_folder).run(["squeue"])
    assert len(told.value.message) < 600


# -- the ping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "up"), [('[ "$*" = ping ]', True), ("echo DOWN; exit 1", False), (None, False)])
def test_a_ping_tells_whether_the_controller_is_up(bin_folder: Path, body: str | None, up: bool) -> None:
    if body is not None:
        fake(bin_folder, body, "scontrol")
    assert Gate(30, {"PATH": str(bin_folder)}).controller_up() is up


def test_a_ping_that_hangs_costs_the_gates_deadline_and_means_no(bin_folder: Path) -> None:
    fake(bin_folder, "exec sleep 600", "scontrol")
    assert not gate_to(bin_folder, 0.2).controller_up()


# -- counts ------------------------------------------------------------------------------------------------------------


def test_calls_and_failures_are_counted_by_command(bin_folder: Path) -> None:
    gate = gate_to(bin_folder)
    assert gate.public() == {}
    fake(bin_folder, "exit 0", "sinfo")
    fake(bin_folder, '[ "$1" = good ]')
    gate.run(["sinfo"])
    for argument in ("good", "bad", "good"):
        gate.run(["squeue", argument])
    fake(bin_folder, f"echo '{AWAY[0]}' >&2; exit 1")
    with pytest.raises(SchedulerUnavailable):
        gate.run(["squeue"])
    with pytest.raises(SchedulerUnavailable):
        gate.run(["no-such-command"])
    told = gate.public()
    assert {name: (tally["calls"], tally["failures"], tally["last_hour"]) for name, tally in told.items()} == {
        "no-such-command": (1, 1, 1),
        "sinfo": (1, 0, 1),
        "squeue": (4, 2, 4),
    }
    assert list(told) == sorted(told)
    assert all(tally["seconds"] >= 0 for tally in told.values())


def test_what_is_too_late_is_counted_as_a_failure(bin_folder: Path) -> None:
    fake(bin_folder, "exec sleep 600")
    gate = gate_to(bin_folder, 0.1)
    with pytest.raises(SchedulerUnavailable):
        gate.run(["squeue"])
    assert gate.public()["squeue"]["failures"] == 1


def test_only_the_calls_of_the_last_hour_are_recent() -> None:
    tally = Tally(calls=3, failures=1, seconds=0.12345)
    tally.recent.extend([1000.0, 2000.0, 1000.0 + HOUR])
    assert tally.public(1500.0 + HOUR) == {"calls": 3, "failures": 1, "seconds": 0.123, "last_hour": 2}
    assert tally.public(1500.0 + 2 * HOUR)["last_hour"] == 0


def test_this_processes_own_environment_stays_as_it_is(bin_folder: Path) -> None:
    before = dict(os.environ)
    fake(bin_folder, "true")
    gate_to(bin_folder).run(["squeue"])
    assert dict(os.environ) == before
