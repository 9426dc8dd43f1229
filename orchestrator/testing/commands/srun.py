"""srun inside a job: runs a command once for each task, on the nodes that the job has.

All nodes are this machine; what a task sees of its node (name, GPUs, rank) is as on a real one.
https://slurm.schedmd.com/srun.html
"""

import contextlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.testing.arguments import Arguments, UsageError, options_table, parse
from orchestrator.testing.client import exchange
from orchestrator.testing.commands.step_layout import Refused, Step, Task, lay_out, task_variables
from orchestrator.testing.gres import BadGres, index_text
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.launch import LAUNCH_VARIABLE
from orchestrator.testing.model import Share
from orchestrator.testing.supervisor import descendants

OPTIONS = options_table(
    "-A/--account= -b/--begin= -c/--cpus-per-task= -C/--constraint= -D/--chdir= -e/--error= -G/--gpus= -i/--input= "
    "-J/--job-name= -K/--kill-on-bad-exit? -l/--label -m/--distribution= -N/--nodes= -n/--ntasks= -o/--output= "
    "-O/--overcommit -p/--partition= -q/--quit-on-interrupt -s/--oversubscribe -t/--time= -u/--unbuffered -v/--verbose "
    "-V/--version -w/--nodelist= -W/--wait= -x/--exclude= --accel-bind= --cpu-bind= --exact --exclusive? --export= "
    "--gpu-bind= --gpus-per-node= --gpus-per-task= --gres= --gres-flags= --het-group= --hint= --jobid= --mem= "
    "--mem-bind= --mem-per-cpu= --mem-per-gpu= --mpi= --multi-prog --network= --ntasks-per-node= --ntasks-per-gpu= "
    "--open-mode= --overlap --partition= --preserve-env --propagate? --pty? --quiet --signal= --threads-per-core= "
    "--time-min= --tres-per-task= --unbuffered --help --usage"
)
TASK_LOOK_SECONDS = 0.05
_NOT_FOUND = (
    "import sys; sys.exit(print(f'slurmstepd: error: execve(): {sys.argv[1]}: No such file or directory', "
    "file=sys.stderr) or 2)"
)


def run(folder: str, argv: Sequence[str]) -> int:
    """One srun; returns its exit status: the highest of its tasks."""
    try:
        given = parse("srun", OPTIONS, argv)
    except UsageError as error:
        sys.stderr.write(f'{error}\nTry "srun --help" for more information\n')
        return 255
    launch = os.environ.get(LAUNCH_VARIABLE, "")
    if not launch or not Path(launch).exists():
        sys.stderr.write("srun: error: not emulated outside of a job: use sbatch\n")
        return 1
    if not given.words:
        sys.stderr.write("srun: fatal: No command given to execute.\n")
        return 1
    try:
        described = json.loads((Path(launch) / "launch.json").read_text())
        tasks = lay_out(given, os.environ, [Share(**share) for share in described["shares"]])
    except (Refused, BadGres) as error:
        sys.stderr.write(f"srun: error: Unable to create step for job {os.environ['SLURM_JOB_ID']}: {error}\n")
        return 1
    return _Running(folder, Path(launch), given, tasks, float(described["kill_wait"])).run()


class _Running:
    """The step while it runs."""

    def __init__(self, folder: str, launch: Path, given: Arguments, tasks: Sequence[Task], kill_wait: float) -> None:
        self.folder, self.launch, self.given, self.kill_wait = folder, launch, given, kill_wait
        self.step = Step(self._begin(tasks), tasks)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.threads: list[threading.Thread] = []
        self.lock = threading.Lock()
        self.early: list[tuple[Callable[[int], None], int]] | None = []  # signals that came before all tasks had begun

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _: self._taken(self._pass_on, got))
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda got, _: self._taken(self._pass_to_all, got))
        for task in self.step.tasks:
            self._start(task)
        early, self.early = self.early or [], None
        for hand_on, got in early:
            hand_on(got)
        codes = self._wait()
        for thread in self.threads:
            thread.join()
        self._finish(codes)
        return max(_exit_status(code) for code in codes)

    def _begin(self, tasks: Sequence[Task]) -> str:
        nodes = compress_hosts(list(dict.fromkeys(task.share.node for task in tasks)))
        name = self.given.get("job-name") or Path(self.given.words[0]).name
        answer = self._control({"name": name, "nodes": nodes, "tasks": len(tasks)})
        return str(answer) if answer is not None else "0"

    def _control(self, values: dict[str, Any]) -> object:
        """Tells the controller; without one the step runs all the same."""
        values = {**values, "job_id": os.environ["SLURM_JOB_ID"]}
        descriptor = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:
            request = {"command": "control", "verb": "step", "values": values}
            found: object = json.loads(exchange(request, f"/proc/self/fd/{descriptor}/controller.sock")["out"])
        except OSError:
            return None
        else:
            return found
        finally:
            os.close(descriptor)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def _start(self, task: Task) -> None:
        piped = "label" in self.given and "output" not in self.given
        words = (
            self.given.words
            if shutil.which(self.given.words[0])
            else [sys.executable, "-c", _NOT_FOUND, *self.given.words]
        )
        process = subprocess.Popen(
            words,
            env={**_exported(self.given, os.environ), **task_variables(self.step, task, self.given)},
            stdin=None if task.rank == 0 else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else self._output(task),
            stderr=subprocess.PIPE if piped else None,
            cwd=self.given.get("chdir") or None,
            process_group=0,
        )
        steps = self.launch / "steps"
        steps.mkdir(exist_ok=True)
        (steps / str(process.pid)).touch()  # so that signals for the job's steps find it
        self.processes.append(process)
        if piped:
            assert process.stdout is not None
            assert process.stderr is not None
            for pipe, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                thread = threading.Thread(target=self._label, args=(task, pipe, sink.buffer))
                thread.start()
                self.threads.append(thread)

    def _label(self, task: Task, pipe: IO[bytes], sink: IO[bytes]) -> None:
        width = len(str(len(self.step.tasks) - 1))
        for line in pipe:
            with self.lock:
                sink.write(f"{task.rank:>{width}}: ".encode() + line)
                sink.flush()

    def _output(self, task: Task) -> IO[bytes] | None:
        if "output" not in self.given:
            return None
        values = {"j": os.environ["SLURM_JOB_ID"], "s": self.step.step_id, "t": str(task.rank)}
        values |= {"n": str(task.node_rank), "N": task.share.node}
        path = self.given.get("output")
        for letter, value in values.items():
            path = path.replace(f"%{letter}", value)
        return Path(path).open("ab")

    def _wait(self) -> list[int]:
        """The tasks' return codes. With --kill-on-bad-exit the first failure ends the others: KILL after KillWait."""
        bad_exit = "kill-on-bad-exit" in self.given and self.given.get("kill-on-bad-exit") != "0"
        left, kill_at = list(self.processes), math.inf
        while left:
            for process in list(left):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(TASK_LOOK_SECONDS)
                    left.remove(process)
                    if code and bad_exit and kill_at == math.inf:
                        self._pass_on(signal.SIGTERM)
                        kill_at = time.monotonic() + self.kill_wait
            if time.monotonic() >= kill_at:
                _signal_trees(left, signal.SIGKILL)
        return [process.returncode for process in self.processes]

    def _taken(self, hand_on: Callable[[int], None], number: int) -> None:
        """A signal has come: for all tasks, those that are yet to be started too."""
        if self.early is None:
            hand_on(number)
        else:
            self.early.append((hand_on, number))

    def _pass_on(self, number: int) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def _pass_to_all(self, number: int) -> None:
        """To every process of the tasks, as slurmstepd gives out what srun hands on."""
        _signal_trees(self.processes, number)

    def _finish(self, codes: Sequence[int]) -> None:
        sys.stderr.write(_complaints(self.step, codes))
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        worst = max((_wait_status(code) for code in codes), default=0)
        values = {"step_id": self.step.step_id, "status": worst, "max_rss": usage.ru_maxrss * 1024}
        self._control({**values, "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3)})


def _signal_trees(tasks: Sequence["subprocess.Popen[bytes]"], number: int) -> None:
    for task in tasks:
        for pid in (task.pid, *descendants(task.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _complaints(step: Step, codes: Sequence[int]) -> str:
    """``srun: error: n2: tasks 0-2: Exited with exit code 2``: one line for each node and ending."""
    groups: dict[tuple[str, int], list[int]] = {}
    for task, code in zip(step.tasks, codes, strict=True):
        if code:
            groups.setdefault((task.share.node, code), []).append(task.rank)
    lines = []
    for (node, code), ranks in groups.items():
        how = f"Exited with exit code {code}" if code > 0 else (signal.strsignal(-code) or "Killed")
        lines.append(f"srun: error: {node}: task{'s' if len(ranks) > 1 else ''} {index_text(ranks)}: {how}\n")
    return "".join(lines)


def _exit_status(code: int) -> int:
    return code if code >= 0 else 128 - code


def _wait_status(code: int) -> int:
    return code << 8 if code >= 0 else -code


def _exported(given: Arguments, environment: Mapping[str, str]) -> dict[str, str]:
    """The tasks' environment: ``--export``, or what ``sbatch --export`` said."""
    words = given.get("export") or environment.get("SLURM_EXPORT_ENV", "ALL")
    if words == "ALL":
        return dict(environment)
    kept = {name: value for name, value in environment.items() if name.startswith(("SLURM", "CUDA_"))}
    for part in [] if words == "NONE" else words.split(","):
        name, equals, value = part.partition("=")
        if part == "ALL":
            kept |= environment
        elif equals:
            kept[name] = value
        elif name in environment:
            kept[name] = environment[name]
    return kept
