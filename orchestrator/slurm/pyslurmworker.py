"""The helper process that has pyslurm in it: ``python -m orchestrator.slurm.pyslurmworker``, lines of JSON.

pyslurm holds the GIL during each call and libslurm may end its process, past any ``except``: both must hit nobody but
this helper, which has a deadline (``worker.Worker``). It decides nothing; ``pyslurmreads`` makes sense of what it says.
Seen with pyslurm 25.11.2.
"""

import json
import os
import sys
import time
from typing import Any

# An import with no slurm.conf in reach blocks for 59 s and then exits the process.
os.environ["PYSLURM_DISABLE_AUTO_INIT"] = "1"

JOB = (
    *("array_id", "array_task_id", "array_tasks_waiting", "array_tasks_parallel", "state", "state_reason", "name"),
    *("submit_time", "start_time", "end_time", "allocated_nodes", "partition", "priority", "nice", "requeue_count"),
    *("exit_code", "exit_code_signal", "cpus", "num_nodes", "memory"),
)
NODE = (
    *("name", "state", "configured_gres", "allocated_tres", "total_cpus", "allocated_cpus", "real_memory"),
    *("available_features", "partitions"),
)


def connect() -> dict[str, Any]:
    """Loads libslurm's configuration and asks for the controller: which pyslurm, and whether TRES count GPUs."""
    import pyslurm

    pyslurm.slurm_init(os.environ.get("SLURM_CONF"))
    begin = time.monotonic()
    pyslurm.slurmctld.ping_primary()
    tracked = pyslurm.slurmctld.Config.load().accounting_storage_tres or ()
    return {
        "version": pyslurm.__version__,
        "seconds": time.monotonic() - begin,
        "tracks_gpus": any(str(name).startswith("gres/gpu") for name in tracked),
    }


def jobs(uid: int, most: int) -> dict[str, Any]:
    """The jobs of one user. There is no call for these alone: everybody's are fetched, and ``total`` tells how many."""
    import pyslurm

    found = list(pyslurm.Jobs.load().values())
    if len(found) > most:
        return {"total": len(found)}
    return {"total": len(found), "jobs": [_job(job) for job in found if job.user_id == uid]}


def _job(job: Any) -> dict[str, Any]:
    # What waits has been given nothing yet; squeue shows what it asks for.
    tres = job.allocated_tres or job.requested_tres
    gres = getattr(tres, "gres", None) or {}
    gpus = {name: getattr(item, "count", None) for name, item in gres.items() if str(name).startswith("gpu")}
    return {"id": job.id, **{name: getattr(job, name) for name in JOB}, "gpus": gpus}


def nodes() -> dict[str, Any]:
    """All nodes."""
    import pyslurm

    return {"nodes": [{name: getattr(node, name) for name in NODE} for node in pyslurm.Nodes.load().values()]}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """One question's answer; whatever goes wrong is its ``error``."""
    try:
        if question["op"] == "jobs":
            return jobs(question["uid"], question["most"])
        return nodes() if question["op"] == "nodes" else connect()
    except Exception as error:  # pyslurm's own, and what a release does otherwise than this one
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answers until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line)), default=str) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
