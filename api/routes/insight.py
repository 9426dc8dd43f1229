"""What is to be known of runs and the machine: why, usage, scripts, environments, profiles, counters."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse

from api.answers import Json
from api.deps import Sys
from orchestrator import counters, events, runs, usage
from orchestrator.environments.detection import detect
from orchestrator.guidance.advising import advise
from orchestrator.preview import shown
from orchestrator.shapes import EnvironmentDetect
from orchestrator.states import Reason

router = APIRouter(tags=["insight"])
SCOPE = "plan"


@router.get("/runs/{run_id}/why")
def explain(system: Sys, run_id: str) -> Json:
    """Why a run waits, failed or is slow, and what to do about it."""
    with system.db.read() as session:
        found = runs.live(runs.public(runs.get(session, run_id)), system.slurm.shown)
        refused = found["reason"] in {Reason.SUBMIT_LIMIT, Reason.SUBMIT_FAILED}
        words = events.last_words(session, f"run:{run_id}", "run.requeued") if refused else None
    said = system.explainer.why(found, words)
    return Json({"run_id": run_id, "status": found["status"], **said.public()})


@router.get("/runs/{run_id}/script")
def script(system: Sys, run_id: str) -> Json:
    """What is (or would be) handed to sbatch; for a run on this machine, what bash runs.

    ``launcher`` (how it starts on several nodes or in a container) and ``activation`` (of its environment) where it has
    them; ``expected_start`` and ``sbatch``'s own words while it is not handed over.
    """
    with system.db.read() as session:
        run = runs.get(session, run_id)
    return Json({"run_id": run_id, "executor": run.executor, **shown(system, run)})


@router.get("/runs/{run_id}/code")
def code(system: Sys, run_id: str) -> Json:
    """The commit and the diff that the run was launched with; null where its workdir is in no git repository."""
    with system.db.read() as session:
        run = runs.get(session, run_id)
    path = (run.git or {}).get("diff")
    text = Path(path).read_text(errors="replace") if path and Path(path).is_file() else ""
    return Json({"run_id": run_id, "git": run.git, "snapshot": run.snapshot, "diff": text})


@router.get("/usage")
def used(
    system: Sys,
    by: usage.By = "sweep",
    since: Annotated[float | None, Query(description="Epoch seconds: runs created from then on.")] = None,
    until: Annotated[float | None, Query(description="Epoch seconds: runs created before.")] = None,
    sweep_id: str | None = None,
    plan_id: str | None = None,
) -> Json:
    """GPU-hours and CPU-hours, summed."""
    with system.db.read() as session:
        return Json(usage.totals(session, by, usage.Wanted(since, until, sweep_id, plan_id)))


@router.get("/advice")
def advice(
    system: Sys,
    goal: Annotated[str, Query(max_length=10_000)] = "",
    workdir: Annotated[str | None, Query(description="Where the runs will be; without: the server's own.")] = None,
) -> Json:
    """What to plan with, from facts: the cluster, how many at once, GPUs, partition, environment, memory and time."""
    return Json(advise(system, goal, workdir))


@router.post("/environment/detect")
def environment(system: Sys, body: EnvironmentDetect) -> Json:
    """The environment found from a workdir: shown, not applied."""
    workdir = system.checks.workdir(body.workdir)
    found: dict[str, Any] = detect(Path(workdir)).model_dump()
    return Json({"workdir": workdir, **found})


@router.get("/profiles")
def profiles(system: Sys) -> Json:
    """The profiles that a run may name."""
    return Json(system.profiles.public())


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(system: Sys) -> PlainTextResponse:
    """Counters in Prometheus' text form: runs by status, Slurm commands, passes of the loop."""
    with system.db.read() as session:
        text = counters.text(session, system.gate.public(), system.reconciler.passes, system.slurm.trouble)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")
