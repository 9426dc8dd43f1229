"""Gathers the facts for advice: the machine, its users, Slurm's own forecast, the environment, what like runs used."""

import math
import os
from pathlib import Path
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col

from orchestrator.environments.detection import Found, detect
from orchestrator.executors.base import SubmissionSpec, Task
from orchestrator.executors.line import overview
from orchestrator.executors.sharedfiles import user_name
from orchestrator.guidance import advice
from orchestrator.guidance.advice import Like, Seen
from orchestrator.models import Cluster, Plan, Run
from orchestrator.planning.overlap import related
from orchestrator.preview import expected
from orchestrator.resources import Resources
from orchestrator.slurm.checks import clock
from orchestrator.slurm.facts import Partition
from orchestrator.states import RunStatus
from orchestrator.wiring import System

LIKE_RUNS = 200
MOST_PARTITIONS = 6
RELATED_PLANS = 200
HOUR, DAY = 3600.0, 86_400.0


def advise(system: System, goal: str, workdir: str | None) -> dict[str, Any]:
    """All that a plan's Compute Setup and Estimated Effort can be filled from. Raises BadInput for no workdir."""
    place = system.checks.workdir(workdir)
    with system.db.read() as session:
        like, plans = like_runs(session, place), _related(session, goal)
    found = detect(Path(place))
    cluster = system.cluster.known()
    seen = _seen(system, cluster, found)
    resources = like.resources()
    choices = _forecasts(system, resources) if seen.type == "slurm" and system.cluster.trouble is None else []
    best = advice.soonest(choices)
    if best is not None:
        resources |= {"partition": best["partition"], "time": best["time"]}
    beside = advice.parallel(seen, resources.get("gpus") or 1)
    return {
        "goal": goal,
        "workdir": place,
        "cluster": {name: getattr(seen, name) for name in ("type", "status", "node_count", "gpu_count", "gpus_free")},
        "parallel": beside,
        "pinning": advice.pinning(seen),
        "gpuwrap": advice.gpuwrap(seen),
        "slurm": {"soonest": best, "asked": choices} if seen.type == "slurm" else None,
        "environment": found.model_dump(mode="json", exclude_defaults=True),
        "like_runs": vars(like),
        "resources": resources,
        "related_plans": plans,
        "compute_setup": advice.compute_setup(seen, resources),
        "run_block": advice.run_block(seen, place, resources),
        "estimated_effort": advice.estimated_effort(seen, like, resources, beside["at_once"]),
    }


def like_runs(session: Session, workdir: str) -> Like:
    """What the newest runs that finished there have used."""
    columns: tuple[Any, ...] = (Run.peak_memory_bytes, Run.started_at, Run.ended_at, Run.resources, Run.lease_gpus)
    query = sql_select(*columns).where(col(Run.workdir) == workdir, col(Run.status) == RunStatus.FINISHED)
    rows = session.connection().execute(query.order_by(col(Run.seq).desc()).limit(LIKE_RUNS)).all()
    memory = [row.peak_memory_bytes for row in rows if row.peak_memory_bytes]
    elapsed = [row.ended_at - row.started_at for row in rows if row.ended_at and row.started_at]
    gpus = [max(row.lease_gpus, (row.resources or {}).get("gpus") or 0) for row in rows]
    return Like(len(rows), max(memory, default=None), max(elapsed, default=None), max(gpus, default=None))


def _related(session: Session, goal: str) -> list[dict[str, str]]:
    """Plans whose title or goal says much the same."""
    query = sql_select(col(Plan.id), col(Plan.title), col(Plan.goal), col(Plan.status)).where(
        col(Plan.status) != "archived"
    )
    rows = session.connection().execute(query.order_by(col(Plan.seq).desc()).limit(RELATED_PLANS))
    return [
        {"id": row.id, "title": row.title, "status": row.status}
        for row in rows
        if related(goal, f"{row.title} {row.goal}")
    ]


def _seen(system: System, cluster: Cluster, found: Found) -> Seen:
    environment = found.environment.model_dump(exclude_defaults=True) if found.environment is not None else {}
    free, strangers = None, list[str]()
    if cluster.type == "slurm":
        free = sum(node.get("gpus_free") or 0 for node in cluster.details.get("nodes", {}).values())
    elif cluster.type == "local_gpu":
        free, strangers = _gpus_here(system)
    return Seen(
        type=cluster.type,
        status=cluster.status,
        gpu_count=cluster.gpu_count or 0,
        node_count=cluster.node_count or 0,
        cpus=system.settings.local_cpus,
        gpus_free=free,
        strangers=strangers,
        environment=environment,
    )


def _gpus_here(system: System) -> tuple[int, list[str]]:
    """How many GPUs are free, and which other users have some or wait for them."""
    shown = overview(system.line.look())
    free = sum(gpu["state"] == "free" for gpu in shown["gpus"])
    users = [gpu["holder"]["user"] for gpu in shown["gpus"] if gpu["holder"]]
    users += [ticket["user"] for ticket in shown["waiting"]]
    users += [process["owner"] for gpu in shown["gpus"] for process in gpu["processes"]]
    return free, sorted({user for user in users if user} - {user_name(os.geteuid())})


def _forecasts(system: System, resources: dict[str, Any]) -> list[dict[str, Any]]:
    """What sbatch says of such a run in each partition: with the time that it needs, and all that it could have."""
    facts = system.cluster.limits()
    places = sorted(
        (partition for partition in facts.partitions if partition.up), key=lambda place: (not place.default, place.name)
    )
    return [
        _forecast(system, place, seconds, resources)
        for place in places[:MOST_PARTITIONS]
        for seconds in _times(place, resources)
    ]


def _times(place: Partition, resources: dict[str, Any]) -> list[float]:
    """A little more than like runs needed, where that is known; else an hour, or what the partition gives."""
    wanted = Resources.model_validate({"time": resources["time"]}).time_seconds if "time" in resources else HOUR
    short = min(wanted or HOUR, place.max_seconds or math.inf)
    longest = min(place.max_seconds or DAY, DAY)
    return [short, longest] if "time" not in resources and longest > short else [short]


def _forecast(system: System, place: Partition, seconds: float, resources: dict[str, Any]) -> dict[str, Any]:
    time_limit = clock(seconds)
    asked = Resources.model_validate({**resources, "partition": place.name, "time": time_limit})
    task = Task("orc-advice", 1, "true", None, asked, {})
    answer = expected(system, system.slurm.script(SubmissionSpec("orc-advice", [task])))
    return {"partition": place.name, "time": time_limit, "seconds": seconds, **answer}
