"""Stands in for pyslurm, which is built against a site's own Slurm: says what the real one has said, or goes wrong.

FAKE_PYSLURM: "well", "init-exits", "init-hangs", "init-refused", "load-hangs", "load-exits", "load-refused".
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

assert os.environ["PYSLURM_DISABLE_AUTO_INIT"]  # without, the import may block for a minute and exit the process
MODE = os.environ.get("FAKE_PYSLURM", "well")
SAID = [json.loads(line) for line in Path(os.environ["FAKE_PYSLURM_ANSWERS"]).read_text().splitlines()]
__version__ = os.environ.get("FAKE_PYSLURM_VERSION", SAID[0]["version"])


class RPCError(Exception):
    """As the real one's."""


def _go_wrong(when: str) -> None:
    if f"{when}-exits" == MODE:
        os._exit(1)
    if f"{when}-hangs" == MODE:
        time.sleep(60)
    if f"{when}-refused" == MODE:
        raise RPCError("Protocol version has changed, re-link your code")


def slurm_init(_path: str | None = None) -> None:
    """Where an unreadable slurm.conf ends the process."""
    _go_wrong("init")


class _Tres:
    def __init__(self, gpus: dict[str, int]) -> None:
        self.gres = {name: SimpleNamespace(count=count) for name, count in gpus.items()}


class _Jobs:
    @staticmethod
    def load() -> dict[int, Any]:
        """Everybody's jobs."""
        _go_wrong("load")
        found = {}
        for job in SAID[1]["jobs"]:
            tres = _Tres(job["gpus"]) if job["gpus"] else None
            found[job["id"]] = SimpleNamespace(**job, user_id=0, allocated_tres=tres, requested_tres=None)
        return found


class _Nodes:
    @staticmethod
    def load() -> dict[str, Any]:
        """All nodes."""
        _go_wrong("load")
        return {node["name"]: SimpleNamespace(**node) for node in SAID[2]["nodes"]}


def _config() -> Any:
    return SimpleNamespace(accounting_storage_tres=["cpu", "mem", "gres/gpu", "gres/gpu:a100"])


Jobs, Nodes = _Jobs, _Nodes
slurmctld = SimpleNamespace(ping_primary=lambda: None, Config=SimpleNamespace(load=_config))
