"""Real jobs on the emulated cluster: processes, files, environments, signals."""

from pathlib import Path

import pytest

from orchestrator.testing import EmulatedSlurm, Job, Node, Partition, SlurmEmulator
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

pytest_plugins = ["orchestrator.testing.plugin"]


class Cluster:
    """An emulated cluster, and the folder that a user works in."""

    def __init__(self, slurm: EmulatedSlurm, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder

    def submit(self, script: str, *options: str) -> int:
        path = self.folder / "job.sh"
        path.write_text(script)
        return self.sbatch(*options, str(path))

    def wrap(self, command: str, *options: str) -> int:
        return self.sbatch(*options, "--wrap", command)

    def sbatch(self, *argv: str) -> int:
        found = self.slurm.run("sbatch", "--parsable", "--chdir", str(self.folder), "-o", "out", *argv)
        assert found.returncode == 0, found.stderr
        return int(found.stdout)

    def job(self, job_id: int) -> Job:
        return next(job for job in self.slurm.jobs() if job.job_id == job_id)

    def reach(self, job_id: int, *states: str) -> Job:
        wait_until(lambda: self.job(job_id).shown_state in states, f"job {job_id} {states}")
        return self.job(job_id)

    def said(self, *words: str) -> str:
        """The job's output, as soon as it contains the words."""
        path = self.folder / "out"
        wait_until(lambda: path.exists() and all(word in path.read_text() for word in words), f"{words} in {path}")
        return path.read_text()


@pytest.fixture
def cluster(slurm_emulator: SlurmEmulator, tmp_path: Path) -> Cluster:
    slurm = slurm_emulator(kill_wait=1, requeue_delay=0, requeue_exit=(99,), licenses={"matlab": 2})
    return Cluster(slurm, tmp_path)


def test_a_job_finds_its_environment(cluster: Cluster) -> None:
    job_id = cluster.submit("#!/bin/sh\n#SBATCH -J train --gres=gpu:2 -c 2 --mem=500\nenv; pwd; echo args $*\n")
    cluster.reach(job_id, "COMPLETED")
    lines = cluster.said("args").splitlines()
    expected = {
        "SLURM_JOB_ID=1",
        "SLURM_JOB_NAME=train",
        "SLURM_JOB_NODELIST=n1",
        "SLURM_CPUS_PER_TASK=2",
        "SLURM_CPUS_ON_NODE=2",
        "SLURM_MEM_PER_NODE=500",
        "SLURM_GPUS_ON_NODE=2",
        "SLURM_JOB_GPUS=0,1",
        "CUDA_VISIBLE_DEVICES=0,1",
        "SLURMD_NODENAME=n1",
        "SLURM_PROCID=0",
        str(cluster.folder),
    }
    assert expected <= set(lines)
    assert not [line for line in lines if line.startswith(("SLURM_RESTART_COUNT", "SLURM_ARRAY", "SLURM_NTASKS"))]


def test_the_script_is_copied_when_it_is_submitted(cluster: Cluster) -> None:
    job_id = cluster.submit("#!/bin/sh\necho first\n", "-H")
    (cluster.folder / "job.sh").write_text("#!/bin/sh\necho second\n")
    cluster.slurm.run("scontrol", "release", str(job_id))
    assert cluster.said("\n") == "first\n"


def test_array_tasks_have_a_file_and_gpus_each(cluster: Cluster) -> None:
    array = cluster.wrap(
        "echo $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT $CUDA_VISIBLE_DEVICES; sleep 0.2",
        *("-a", "1-5:2", "--gres=gpu:a100:1", "-o", "%A_%3a"),
    )
    wait_until(lambda: all(job.state == "COMPLETED" for job in cluster.slurm.jobs()), "all tasks")
    found = [(cluster.folder / f"{array}_{task:03}").read_text().split() for task in (1, 3, 5)]
    assert [words[:2] for words in found] == [["1", "3"], ["3", "3"], ["5", "3"]]
    assert sorted(words[2] for words in found) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("command", "state", "exit_code"),
    [("exit 0", "COMPLETED", "0:0"), ("exit 6", "FAILED", "6:0"), ("kill -9 $$", "FAILED", "0:9")],
)
def test_exit_statuses(cluster: Cluster, command: str, state: str, exit_code: str) -> None:
    job_id = cluster.wrap(command)
    cluster.reach(job_id, state)
    row = cluster.slurm.run("sacct", "-X", "-n", "-P", "-j", str(job_id), "-o", "State,ExitCode").stdout
    assert row == f"{state}|{exit_code}\n"


def test_output_that_cannot_be_opened(cluster: Cluster) -> None:
    job_id = cluster.wrap("true", "-o", "no/such/folder")
    assert cluster.reach(job_id, "FAILED").reason == "JobLaunchFailure"
    assert "0:53" in cluster.slurm.run("sacct", "-X", "-n", "-j", str(job_id), "-o", "ExitCode").stdout


def test_a_folder_that_is_not_there(cluster: Cluster) -> None:
    out = cluster.folder / "out"
    cluster.slurm.run("sbatch", "-D", "/no/such", "-o", str(out), "--wrap", "pwd")
    said = cluster.said("/tmp\n")
    assert "couldn't chdir to `/no/such': No such file or directory: going to /tmp instead" in said


def test_an_interpreter_that_is_not_there(cluster: Cluster) -> None:
    assert cluster.reach(cluster.submit("#!/no/such\n"), "FAILED").status == 2 << 8
    assert "execve(): bad interpreter(/no/such)" in cluster.said("execve")


def test_cancelling_sends_term_and_after_a_while_kill(slurm_emulator: SlurmEmulator, tmp_path: Path) -> None:
    cluster = Cluster(slurm_emulator(kill_wait=3), tmp_path)
    job_id = cluster.wrap("trap 'echo TERM' TERM; echo ready; while :; do sleep 0.05; done")
    cluster.said("ready")
    cluster.slurm.run("scancel", str(job_id))
    assert cluster.job(job_id).shown_state == "COMPLETING"
    assert cluster.reach(job_id, "CANCELLED").status == 9
    said = cluster.said("TERM")
    assert f"slurmstepd: error: *** JOB {job_id} ON n1 CANCELLED AT " in said


def test_a_job_takes_all_its_processes_along(cluster: Cluster) -> None:
    job_id = cluster.wrap("(setsid sleep 300 & echo $! > pid); exit 3")
    cluster.reach(job_id, "FAILED")
    pid = int((cluster.folder / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process that fled")


def test_a_signal_goes_to_the_steps_or_the_batch_shell(cluster: Cluster) -> None:
    script = (
        "#!/bin/bash\ntrap 'echo batch has it' USR1\n"
        "srun bash -c 'trap \"echo step has it\" USR1; echo ready; while ! test -f stop; do sleep 0.05; done' &\n"
        "while ! test -f stop; do sleep 0.05; done; wait\n"
    )
    job_id = cluster.submit(script, "-n1")
    cluster.said("ready")
    cluster.slurm.run("scancel", "-s", "USR1", str(job_id))
    assert "batch" not in cluster.said("step has it")
    cluster.slurm.run("scancel", "-b", "-s", "USR1", str(job_id))
    assert cluster.said("batch has it").count("step has it") == 1
    (cluster.folder / "stop").touch()
    cluster.reach(job_id, "COMPLETED")


def test_a_requeued_job_keeps_its_id_and_counts(cluster: Cluster) -> None:
    job_id = cluster.wrap('echo "try ${SLURM_RESTART_COUNT:-none}"; test -n "$SLURM_RESTART_COUNT" || exit 99')
    cluster.said("try 1")
    assert cluster.reach(job_id, "COMPLETED").restarts == 1
    rows = cluster.slurm.run("sacct", "-X", "-D", "-n", "-P", "-j", str(job_id), "-o", "State,ExitCode").stdout
    assert rows == "REQUEUED|99:0\nCOMPLETED|0:0\n"


def test_appending_to_the_output(cluster: Cluster) -> None:
    cluster.wrap("echo ${SLURM_RESTART_COUNT:-0}; exit ${SLURM_RESTART_COUNT:-99}", "--open-mode=append")
    assert cluster.said("1\n") == "0\n1\n"


def test_suspending(cluster: Cluster) -> None:
    job_id = cluster.wrap("while ! test -f stop; do date +%s%N > beat; sleep 0.01; done")
    beat = cluster.folder / "beat"
    wait_until(beat.exists, "the job's first sign")
    assert cluster.slurm.run("scontrol", "suspend", str(job_id)).returncode == 0
    assert cluster.job(job_id).state == "SUSPENDED"
    wait_until(lambda: _stopped(cluster), "its processes to stop")
    cluster.slurm.run("scontrol", "resume", str(job_id))
    (cluster.folder / "stop").touch()
    cluster.reach(job_id, "COMPLETED")


def _stopped(cluster: Cluster) -> bool:
    """Whether every process of the job is stopped."""
    states = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"SLURM_EMULATOR_LAUNCH={cluster.slurm.path}".encode() in (process / "environ").read_bytes():
                states.append((process / "stat").read_text().rpartition(")")[2].split()[0])
        except OSError:
            continue
    return bool(states) and all(state in "TZ" for state in states)


def test_a_node_that_fails_takes_its_jobs_along(cluster: Cluster) -> None:
    job_id = cluster.wrap("echo $SLURMD_NODENAME; sleep 300", "--open-mode=append")
    cluster.said("n1")
    cluster.slurm.fail_node("n1")
    cluster.said("n1\nn2")
    assert cluster.job(job_id).restarts == 1
    cluster.slurm.resume_node("n1")
    assert cluster.slurm.run("sinfo", "-h", "-N", "-n", "n1", "-o", "%t").stdout == "idle\n"


def test_preemption(slurm_emulator: SlurmEmulator, tmp_path: Path) -> None:
    partitions = (Partition("normal", default=True), Partition("low", priority_tier=0, preempt="requeue"))
    cluster = Cluster(slurm_emulator([Node("n1")], partitions, requeue_delay=0, kill_wait=1), tmp_path)
    low = cluster.wrap("sleep 300", "-p", "low", "-c8")
    cluster.reach(low, "RUNNING")
    high = cluster.wrap("true", "-c8")
    cluster.reach(high, "COMPLETED")
    assert cluster.reach(low, "RUNNING").restarts == 1
    rows = cluster.slurm.run("sacct", "-X", "-D", "-n", "-P", "-j", str(low), "-o", "State").stdout
    assert rows == "PREEMPTED\nRUNNING\n"


# -- srun --------------------------------------------------------------------------------------------------------------


def test_srun_runs_a_task_for_each_rank(cluster: Cluster) -> None:
    shown = "$SLURM_PROCID $SLURM_LOCALID $SLURM_NODEID $SLURMD_NODENAME $SLURM_STEP_ID $CUDA_VISIBLE_DEVICES"
    job_id = cluster.submit(
        f"#!/bin/sh\nsrun -l sh -c 'echo {shown}' | sort; echo done\n", "-N2", "-n4", "--gres=gpu:1"
    )
    assert cluster.said("done").splitlines() == [
        "0: 0 0 0 n1 0 0",
        "1: 1 1 0 n1 0 0",
        "2: 2 2 0 n1 0 0",
        "3: 3 0 1 n2 0 0",
        "done",
    ]
    cluster.reach(job_id, "COMPLETED")
    rows = cluster.slurm.run("sacct", "-n", "-P", "-j", str(job_id), "-o", "JobID,NTasks,NodeList").stdout
    assert rows.splitlines()[-1] == f"{job_id}.0|4|n[1-2]"


def test_srun_hands_a_signal_to_every_process_of_its_tasks(cluster: Cluster) -> None:
    task = 'trap "echo outer; wait" USR1; (trap "echo inner; exit" USR1; echo ready; while :; do :; done) & wait'
    until = "until [ -e go ]; do sleep 0.05; done"
    cluster.submit(f"#!/bin/bash\nsrun -n2 bash -c '{task}' &\n{until}\nkill -USR1 $!; wait; echo done\n", "-n2")
    wait_until(lambda: cluster.said("ready").count("ready") == 2, "both tasks")
    (cluster.folder / "go").touch()
    said = cluster.said("done").splitlines()
    assert (said.count("outer"), said.count("inner")) == (2, 2)


def test_srun_tells_which_tasks_failed(cluster: Cluster) -> None:
    script = (
        "#!/bin/sh\nsrun -n2 sh -c 'exit 7'; echo rc=$?\nsrun -n9 true; echo rc=$?\nsrun --bogus true; echo rc=$?\n"
        "srun no-such-command; echo rc=$?\n"
        "srun -K -n2 sh -c 'test $SLURM_PROCID = 1 && exit 2; sleep 60'; echo rc=$?\n"
    )
    cluster.submit(script, "-n2")
    said = cluster.said("rc=143")
    for line in (
        "srun: error: n1: tasks 0-1: Exited with exit code 7\nrc=7\n",
        "More processors requested than permitted\nrc=1\n",
        "srun: unrecognized option '--bogus'\n",
        "slurmstepd: error: execve(): no-such-command: No such file or directory\n",
        "srun: error: n1: task 0: Terminated\n",
    ):
        assert line in said


def test_srun_outside_of_a_job(cluster: Cluster) -> None:
    found = cluster.slurm.run("srun", "true")
    assert (found.returncode, found.stderr) == (1, "srun: error: not emulated outside of a job: use sbatch\n")
