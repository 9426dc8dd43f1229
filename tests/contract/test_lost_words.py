"""What is said and not heard: sbatch's answer, a server that dies before it, a job that its controller forgot."""

import os
import time
from pathlib import Path

import pytest

from tests.contract.looking import degraded, in_slurm, mark, marks, said, sbatch, show, statuses
from tests.support.service import Json, RealServer
from tests.support.sites import Slurm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

STATUSES_OF_TWO_ATTEMPTS = ["ready", "queued", "running", "queued", "running", "finished"]


def submitted_into_silence(orc: RealServer, slurm: Slurm, command: str) -> Json:
    """A run whose sbatch is under way while the controller hangs, which it still does."""
    for _ in range(5):
        run = submitted(orc, command)
        if silenced(orc, slurm, run):
            return run
        recovered(orc, run)
    raise AssertionError("sbatch has always had its answer before the silence")


def submitted(orc: RealServer, command: str) -> Json:
    """A run whose sbatch is about to be started."""
    folder = orc.home / "runs" / ".submissions"
    folder.mkdir(parents=True, exist_ok=True)
    before = len(os.listdir(folder))
    run = orc.run(command)
    deadline = time.monotonic() + 30
    while len(os.listdir(folder)) == before:  # it is written just before sbatch: some milliseconds, no pause
        assert time.monotonic() < deadline, "no submission within 30 s"
    return run


def silenced(orc: RealServer, slurm: Slurm, run: Json) -> bool:
    """Hangs the controller while the run's sbatch is at work; whether that was in time."""
    slurm.hang_controller()
    wait_until(lambda: sbatch_of(orc) or answered(orc, run), "sbatch under way")
    if answered(orc, run):
        slurm.resume_controller()
        return False
    return True


def answered(orc: RealServer, run: Json) -> bool:
    """Whether the server knows the run's job."""
    return (orc.get(f"/runs/{run['id']}")["scheduler"] or {}).get("job_id") is not None


def recovered(orc: RealServer, run: Json) -> Json:
    """The run once it is over, and Slurm answers again."""
    over = orc.over(run["id"], 120)
    wait_until(lambda: not degraded(orc), "Slurm answers again", 90)
    return over


def sbatch_of(orc: RealServer) -> bool:
    """Whether the server has an sbatch at work."""
    assert orc.process is not None
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rsplit(")", 1)[1].split()[1]
            if parent == str(orc.process.pid) and b"--parsable" in (path.parent / "cmdline").read_bytes():
                return True
        except (OSError, IndexError):
            continue
    return False


def executed_once(orc: RealServer, run: Json, path: Path) -> Json:
    over = recovered(orc, run)
    assert over["status"] == "finished"
    assert marks(path, run["id"]) == [f"{run['id']} {over['attempt']}"]
    return over


def lost_answer(orc: RealServer, slurm: Slurm, command: str) -> Json:
    """A run whose sbatch ended without a word of the controller, which then goes on."""
    for _ in range(5):
        run = submitted_into_silence(orc, slurm, command)
        try:  # the ping may tell of the outage while sbatch still waits: it must have given up
            wait_until(lambda: degraded(orc) and not sbatch_of(orc), "sbatch without an answer", 60)
            if not answered(orc, run):
                return run
        finally:
            slurm.resume_controller()
        recovered(orc, run)  # its answer came just before the silence
    raise AssertionError("sbatch has never lost its answer")


def test_a_submission_whose_answer_was_lost_is_adopted_and_executes_once(
    orc: RealServer, slurm: Slurm, files: Path
) -> None:
    run = lost_answer(orc, slurm, mark(files / "marks"))
    over = executed_once(orc, run, files / "marks")
    assert said(orc, run["id"], "run.queued", "Adopted") or over["attempt"] > 1


def test_a_server_killed_between_intent_and_answer_adopts_the_job(orc: RealServer, slurm: Slurm, files: Path) -> None:
    try:
        run = submitted_into_silence(orc, slurm, mark(files / "marks"))
        orc.kill()
    finally:
        slurm.resume_controller()
        if orc.process is not None and orc.process.poll() is not None:
            orc.start()
    executed_once(orc, run, files / "marks")


def test_a_waiting_job_that_the_controller_forgot_executes_once(
    orc: RealServer, slurm: Slurm, files: Path, settled: None
) -> None:
    run = in_slurm(orc, orc.run(mark(files / "marks"), resources={"begin": "now+8"})["id"], "PENDING")
    slurm.kill_controller()
    slurm.start_controller()
    executed_once(orc, run, files / "marks")


def take_id(slurm: Slurm, wanted: str) -> bool:
    """Somebody else's held jobs until one has the id; False where the controller is past it."""
    taken = ""
    while not taken or int(taken) < int(wanted):
        taken = sbatch(slurm, "--hold", "-J", "theirs", "--wrap", "true")
    return taken == wanted


def test_a_job_of_somebody_else_that_got_the_forgotten_id_is_not_taken_for_ours(
    orc: RealServer, slurm: Slurm, files: Path, settled: None
) -> None:
    for number in range(5):  # the controller may have saved its state just before
        run = in_slurm(orc, orc.run(mark(files / f"marks{number}"), resources={"begin": "now+8"})["id"], "PENDING")
        slurm.kill_controller()
        slurm.start_controller()
        if take_id(slurm, run["scheduler"]["job_id"]):
            break
    else:
        raise AssertionError("the controller has never forgotten the job")
    over = executed_once(orc, run, files / f"marks{number}")
    assert over["scheduler"]["job_id"] != run["scheduler"]["job_id"]
    assert show(slurm, run["scheduler"]["job_id"], "%j %T") == "theirs PENDING"
    slurm.run("scancel", "--name=theirs")


def let_go(orc: RealServer, run_id: str, attempt: int, go: Path) -> None:
    """Lets this attempt of the run go on, once it is seen to run."""

    def runs() -> bool:
        found = orc.get(f"/runs/{run_id}")
        return bool((found["status"], found["attempt"]) == ("running", attempt))

    wait_until(runs, f"attempt {attempt} runs")
    go.touch()


def test_a_requeued_run_is_queued_between_its_attempts(orc: RealServer, files: Path) -> None:
    run = orc.run(f"until [ -e {files}/$ORC_ATTEMPT ]; do sleep 0.1; done; [ $ORC_ATTEMPT != 1 ] || exit 99")
    for attempt in (1, 2):
        let_go(orc, run["id"], attempt, files / str(attempt))
    over = orc.over(run["id"], 60)
    assert (over["status"], over["attempt"], len(over["history"])) == ("finished", 2, 2)
    seen = statuses(orc, run["id"])
    assert [status for status in seen if status != "launching"] == STATUSES_OF_TWO_ATTEMPTS
    assert seen.count("launching") <= 2  # at most once for each: it is not taken for begun before it has
