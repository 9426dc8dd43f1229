"""EmulatedSlurm: a cluster in a folder, for as long as a ``with`` block lasts."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from orchestrator.testing.client import exchange
from orchestrator.testing.cluster import Cluster, Node, Partition, Settings
from orchestrator.testing.folder import COMMANDS, Folder
from orchestrator.testing.model import Job
from orchestrator.testing.profiles import profile_for
from orchestrator.testing.runner import LocalRunner

START_SECONDS = 30.0
PACKAGE_ROOT = Path(__file__).parent.parent.parent
FOLDER_VARIABLE = "SLURM_EMULATOR_FOLDER"


class ControllerDown(RuntimeError):
    """The emulated controller does not run."""


class EmulatedSlurm:
    """An emulated cluster. Everything it consists of lies in ``folder``, and ends with the ``with`` block.

    ``nodes`` and ``partitions`` default to one node of 8 CPUs and a partition ``normal`` of all nodes. All other
    settings are those of ``Cluster``. With ``stay`` the controller and the jobs outlive this process.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[Node] = (Node("n1"),),
        partitions: Sequence[Partition] = (Partition("normal", default=True),),
        *,
        stay: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        self.cluster = Cluster(tuple(nodes), tuple(partitions), **settings)
        profile_for(self.cluster.version)
        self.folder = Folder(folder.resolve())
        self.stay = stay
        self.controller = ControllerProcess(self)
        self.faults = FaultSwitches(self)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder.path

    @property
    def environment(self) -> dict[str, str]:
        """What to lay over ``os.environ``: its commands come first on PATH."""
        path = os.pathsep.join(filter(None, (str(self.folder.bin), os.environ.get("PATH", os.defpath))))
        return {"PATH": path, FOLDER_VARIABLE: str(self.path)}

    def start(self) -> Self:
        """Makes the folder and starts the controller."""
        self.folder.make(self.cluster)
        self.controller.start()
        return self

    def stop(self) -> None:
        """Ends the controller and every job's processes."""
        self.controller.kill(lose_seconds=0, save=False)
        LocalRunner(self.path, self.cluster, 0).destroy_all()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def fail_node(self, name: str) -> None:
        """The node is gone with all that ran on it: its jobs are requeued, or end as NODE_FAIL."""
        self.control("fail_node", name=name)

    def drain_node(self, name: str, reason: str = "drained by a test") -> None:
        """The node takes no new jobs."""
        self.control("update_node", name=name, state="DRAIN", reason=reason)

    def resume_node(self, name: str) -> None:
        """The node takes jobs again."""
        self.control("update_node", name=name, state="RESUME", reason="")

    # -- looking -------------------------------------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Every record of the controller's, as a snapshot."""
        found = self.control("jobs")
        assert isinstance(found, list)
        return [Job.from_json(data) for data in found]

    def calls(self) -> dict[str, int]:
        """How often each command was called."""
        sizes = {}
        for name in COMMANDS:
            path = self.folder.calls / name
            sizes[name] = path.stat().st_size if path.exists() else 0
        return sizes

    def run(self, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Runs a command with the emulated ones on PATH; ``changes`` are laid over its environment."""
        environment = {**os.environ, **self.environment, **changes}
        program = shutil.which(command[0], path=environment["PATH"]) or command[0]
        return subprocess.run([program, *command[1:]], env=environment, capture_output=True, text=True, check=False)

    def control(self, verb: str, **values: Any) -> object:
        """Asks the controller for what no command does. ControllerDown."""
        request: dict[str, object] = {"command": "control", "verb": verb, "values": values}
        try:
            with _short_path(self.path) as short:
                answer = exchange(request, f"{short}/controller.sock")
        except OSError as error:
            raise ControllerDown(f"no emulated controller in {self.path}: {error}") from None
        if answer.get("err"):
            raise RuntimeError(str(answer["err"]))
        found: object = json.loads(str(answer["out"]))
        return found


class ControllerProcess:
    """The controller's life."""

    def __init__(self, slurm: EmulatedSlurm) -> None:
        self._slurm = slurm
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it from what it last saved."""
        folder = self._slurm.folder
        owner = [] if self._slurm.stay else ["--owner", str(os.getpid())]
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT)}
        (folder.path / "controller.sock").unlink(missing_ok=True)
        with folder.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-m", "orchestrator.testing.server", str(folder.path), *owner],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _until(self._is_up, f"the emulated controller did not start: see {folder.log}")

    def stop(self) -> None:
        """Ends it in order: its state is saved, its jobs run on."""
        self._end(signal.SIGTERM)

    def kill(self, lose_seconds: float = 5.0, *, save: bool = True) -> None:
        """kill -9: what it took in within the last ``lose_seconds`` is lost, and its ids are used again."""
        if save and lose_seconds == 0:
            self._slurm.control("save")
        self._end(signal.SIGKILL)
        if lose_seconds:
            self._slurm.folder.lose(lose_seconds)

    def hang(self, *, accept_jobs: bool = True) -> None:
        """It answers nobody. With ``accept_jobs`` it does what it was asked when it goes on."""
        self._slurm.control("faults", hung=True, drop_jobs=not accept_jobs)

    def resume(self) -> None:
        """It goes on."""
        self._slurm.control("faults", hung=False)

    @property
    def pid(self) -> int | None:
        """Its process, None when it does not run."""
        return None if self._process is None else self._process.pid

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None
        (self._slurm.path / "controller.sock").unlink(missing_ok=True)

    def _is_up(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise ControllerDown(self._slurm.folder.log.read_text())
        try:
            self._slurm.control("jobs")
        except ControllerDown:
            return False
        return True


class FaultSwitches:
    """What goes wrong on purpose."""

    def __init__(self, slurm: EmulatedSlurm) -> None:
        self._slurm = slurm
        self._slow: dict[str, float] = {}

    def lose_answers(self, count: int) -> None:
        """The next ``count`` sbatch are carried out, but their clients hear nothing."""
        self._set(lose_answers=count)

    def slow(self, command: str, seconds: float) -> None:
        """The command's answers come late; 0 ends it."""
        self._slow[command] = seconds
        self._set(slow=self._slow)

    def full_queue(self, on: bool) -> None:
        """sbatch finds no room, waits, tries again, gives up."""
        self._set(full_queue=on)

    def accounting_lag(self, seconds: float) -> None:
        """sacct knows of changes from now on only after so long."""
        self._set(accounting_lag=seconds)

    def database_down(self, on: bool) -> None:
        """slurmdbd does not answer."""
        self._set(database_down=on)

    def _set(self, **values: Any) -> None:
        self._slurm.control("faults", **values)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.01)


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """The folder by a path that fits a socket's address, however long its own is."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
