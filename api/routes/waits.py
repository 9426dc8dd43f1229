"""Waiting for runs to end. A waiter pins no thread: it sleeps until something was committed, then looks once."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from api.answers import Json
from api.deps import Sys
from api.scopes import needs
from orchestrator import runs
from orchestrator.errors import NotFound, Unauthorized
from orchestrator.shapes import RunsWait
from orchestrator.wiring import System

router = APIRouter(tags=["runs"])
GAP = 0.1  # seconds between two looks of one waiter: thousands of commits cost it no more
LONGEST_SLEEP = 5.0


@router.get("/runs/{run_id}/wait")
async def one(
    request: Request,
    system: Sys,
    run_id: str,
    timeout: Annotated[float, Query(ge=0, le=3600, description="Seconds.")] = 60.0,
) -> Json:
    """Answers when the run is over, or after ``timeout`` seconds with how it is then (``over``)."""
    return await _answer(request, system, RunsWait(ids=[run_id], timeout=timeout))


@router.post("/runs/wait", openapi_extra=needs("read"))
async def many(request: Request, system: Sys, body: RunsWait) -> Json:
    """Answers when any or all of the runs are over, or after ``timeout`` seconds with how they are then."""
    return await _answer(request, system, body)


async def _answer(request: Request, system: System, body: RunsWait) -> Json:
    """``over``: whether what was waited for is so; ``waiting``: those that are not over yet; ``runs``: all of them."""
    ids = list(dict.fromkeys(body.ids))
    deadline = time.monotonic() + body.timeout
    commits = request.app.state.commits
    while True:
        if not request.state.still_good():
            raise Unauthorized("The token was revoked, or has expired, while this was waited for.")
        mark = commits.mark()
        waiting = await run_in_threadpool(_waiting, system, ids)
        over = not waiting if body.until == "all" else len(waiting) < len(ids)
        left = deadline - time.monotonic()
        if over or left <= 0 or commits.closing or await request.is_disconnected():
            return Json({"over": over, "waiting": waiting, "runs": await run_in_threadpool(_shown, system, ids)})
        await asyncio.sleep(min(GAP, left))
        await commits.wait(mark, min(LONGEST_SLEEP, max(0.0, left - GAP)))


def _waiting(system: System, ids: Sequence[str]) -> list[str]:
    with system.db.read() as session:
        over = runs.over(session, ids)
    for run_id in ids:
        if run_id not in over:
            raise NotFound("run", run_id)
    return [run_id for run_id in ids if not over[run_id]]


def _shown(system: System, ids: Sequence[str]) -> list[dict[str, object]]:
    with system.db.read() as session:
        found = runs.many(session, ids)
        return [runs.live(runs.public(found[run_id]), system.slurm.shown) for run_id in ids if run_id in found]
