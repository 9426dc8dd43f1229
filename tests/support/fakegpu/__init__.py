"""A simulated NVIDIA driver for tests: real pynvml and shell commands run against it unpatched.

`FakeGpus.build(folder)` compiles `libnvidia-ml.so.1` and `nvidia-smi`; a process started with `env()` added
to its environment sees the GPUs that `write()` put there. A command registers itself as a compute process by
`echo compute 512 > "$FAKE_GPU_STATE/processes/<uuid>/$$"`.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

Kind = Literal["compute", "graphics"]
Fault = Literal["not-loaded", "mismatch", "hang", "hang-init", "unknown", "lost", "old-driver", "crash"]

_SOURCES = Path(__file__).parent
_GCC = ("gcc", "-O1", "-Wall", "-Werror")


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """One device; with `parent` (a uuid) a MIG device, whose `index` counts within that parent."""

    index: int
    uuid: str
    name: str = "NVIDIA A100-SXM4-80GB"
    memory_total_mib: int = 81920
    memory_used_mib: int = 0
    utilization: int = 0
    parent: str = ""


class FakeGpus:
    """A built driver (`driver`, may be shared) and one state folder (`state`, one for each test)."""

    def __init__(self, driver: Path, state: Path) -> None:
        self.driver = driver
        self.state = state
        (state / "processes").mkdir(parents=True, exist_ok=True)
        state.chmod(0o777)
        (state / "processes").chmod(0o1777)

    @classmethod
    def build(cls, folder: Path, state: Path | None = None) -> Self:
        """Compile into `folder` unless that is done already; `state` defaults to `folder`/state."""
        digest = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(_SOURCES.glob("*.c"))))
        driver = folder / f"driver-{digest.hexdigest()[:12]}"
        if not driver.exists():
            folder.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
            library = ("-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "-o", new / "libnvidia-ml.so.1")
            subprocess.run([*_GCC, *library, _SOURCES / "driver.c"], check=True)
            subprocess.run([*_GCC, "-o", new / "nvidia-smi", _SOURCES / "nvidia_smi.c"], check=True)
            new.chmod(0o755)
            try:
                new.rename(driver)
            except OSError:  # another worker's build came first
                shutil.rmtree(new)
                if not driver.exists():
                    raise
        return cls(driver, state or folder / "state")

    def env(self) -> dict[str, str]:
        """What a process needs in its environment, before it starts, to see these GPUs."""
        return {
            "LD_LIBRARY_PATH": _prefixed(self.driver, "LD_LIBRARY_PATH"),
            "PATH": _prefixed(self.driver, "PATH"),
            "FAKE_GPU_STATE": str(self.state),
        }

    def write(self, gpus: list[FakeGpu]) -> None:
        """Replace the devices. Physical ones are numbered 0..n-1."""
        lines = []
        for gpu in gpus:
            self._processes(gpu.uuid)
            memory = (gpu.memory_total_mib, gpu.memory_used_mib)
            row = (gpu.index, gpu.uuid, gpu.name, *memory, gpu.utilization, gpu.parent)
            lines.append("\t".join(map(str, row)) + "\n")
        _replace(self.state / "gpus", "".join(lines))

    def start_process(
        self, uuid: str, pid: int, memory_mib: int, kind: Kind = "compute", *, ghost: bool = False
    ) -> None:
        """List `pid` on a device while it lives; a `ghost` (another namespace's pid) until `end_process`."""
        _replace(self._processes(uuid) / str(pid), f"{kind} {memory_mib}{' ghost' if ghost else ''}\n")

    def end_process(self, uuid: str, pid: int) -> None:
        (self._processes(uuid) / str(pid)).unlink(missing_ok=True)

    def fault(self, name: Fault | None) -> None:
        if name is None:
            (self.state / "fault").unlink(missing_ok=True)
        else:
            _replace(self.state / "fault", name + "\n")

    def _processes(self, uuid: str) -> Path:
        folder = self.state / "processes" / uuid
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o1777)
        return folder


def _prefixed(folder: Path, variable: str) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get(variable))))


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(path)
