"""What runs leave: logs, metrics, artifacts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.responses import FileResponse

from api.answers import Json, dumps
from api.deps import GoingOn, OnceOnly, Sys
from orchestrator import metrics, outputs, runs
from orchestrator.models import Run
from orchestrator.rundir import RunDir
from orchestrator.shapes import MetricRows
from orchestrator.states import RunStatus
from orchestrator.wiring import System

router = APIRouter(tags=["outputs"])
SCOPE = "run"
LOG_LOOK = 0.25
FIRST_BYTES = 2**20


def _run(system: System, run_id: str) -> Run:
    with system.db.read() as session:
        return runs.get(session, run_id)


def _known_run(system: Sys, run_id: str) -> Run:
    """Looked up before a stream begins, so that what is not there is a 404."""
    return _run(system, run_id)


def _log(system: System, run: Run, attempt: int | None = None) -> Path:
    return RunDir(system.settings.runs_dir, run.id).attempt(attempt or run.attempt).log


@router.get("/runs/{run_id}/logs")
def logs(
    system: Sys,
    run_id: str,
    offset: Annotated[int, Query(description="A byte offset; negative: from the end.")] = -10_000,
    limit: Annotated[int, Query(ge=1, description="Bytes, at most 100 KiB.")] = 10_000,
    attempt: Annotated[int | None, Query(ge=1, le=2**31, description="Which attempt; without: the latest.")] = None,
) -> Json:
    """A part of the command's output."""
    run = _run(system, run_id)
    growing = not RunStatus(run.status).terminal
    found = outputs.log_page(_log(system, run, attempt), offset, limit, growing=growing)
    return Json(found.__dict__)


@router.get("/runs/{run_id}/logs/stream", response_class=EventSourceResponse)
async def log_stream(
    system: Sys, going_on: GoingOn, run_id: str, run: Annotated[Run, Depends(_known_run)]
) -> AsyncIterator[ServerSentEvent]:
    """The output as it grows: ``initial`` (its last MiB), ``delta``, ``done`` with the status."""
    attempt, position, word = run.attempt, -FIRST_BYTES, "initial"
    while going_on():
        run = await run_in_threadpool(_run, system, run_id)
        over = RunStatus(run.status).terminal
        if run.attempt != attempt:
            attempt, position = run.attempt, 0
        found = await run_in_threadpool(_page, _log(system, run), position, growing=not over)
        if found.content or word == "initial":
            yield _message({"type": word, "content": found.content, "offset": found.offset})
            position, word = found.next_offset, "delta"
        if over and not found.has_more_after:
            yield _message({"type": "done", "status": run.status})
            return
        if not found.has_more_after:
            await asyncio.sleep(LOG_LOOK)


def _page(path: Path, position: int, *, growing: bool) -> outputs.LogPage:
    return outputs.log_page(path, position, outputs.MAX_PAGE, growing=growing)


def _message(content: dict[str, object]) -> ServerSentEvent:
    return ServerSentEvent(raw_data=dumps(content).decode())


@router.post("/runs/{run_id}/metrics")
def append_metrics(run_id: str, body: MetricRows, once: OnceOnly) -> Json:
    """Adds rows to the run's metrics."""
    return once(lambda session: {"appended": metrics.append(session, runs.get(session, run_id).id, body.rows)})


@router.get("/runs/{run_id}/metrics")
def show_metrics(system: Sys, run_id: str) -> Json:
    """Series, keys and last values; {} before there are any."""
    with system.db.read() as session:
        return Json(metrics.public(session, runs.get(session, run_id).id))


@router.get("/runs/{run_id}/artifacts")
def list_artifacts(system: Sys, run_id: str) -> Json:
    """What the run left in $ORC_ARTIFACTS_DIR."""
    run = _run(system, run_id)
    folder = RunDir(system.settings.runs_dir, run.id).artifacts
    return Json(outputs.artifacts(folder, run.wandb_dir, system.settings.max_artifact_listing))


@router.get("/runs/{run_id}/artifacts/{name:path}")
def get_artifact(system: Sys, run_id: str, name: str) -> FileResponse:
    """An artifact's bytes; ranges are served."""
    run = _run(system, run_id)
    path = outputs.artifact(RunDir(system.settings.runs_dir, run.id).artifacts, name)
    headers = {"Content-Security-Policy": "sandbox; default-src 'none'"}
    return FileResponse(path, media_type=outputs.media_type(path), headers=headers)
