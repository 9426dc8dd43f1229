"""The journal: per run, and as a stream that resumes."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.answers import Json, dumps
from api.deps import GoingOn, Limit, Sys
from orchestrator import events, runs
from orchestrator.wiring import System

router = APIRouter(tags=["events"])
PAGE = 500
LONGEST_WAIT = 5.0  # seconds, so long may a stream outlive its token


@router.get("/runs/{run_id}/events")
def of_run(system: Sys, run_id: str, after: Annotated[int, Query(ge=0, le=2**62)] = 0, limit: Limit = 1000) -> Json:
    """A run's events, oldest first."""
    with system.db.read() as session:
        run = runs.get(session, run_id)
        return Json([events.public(event) for event in events.after(session, after, limit, f"run:{run.id}")])


@router.get("/events/latest")
def latest(system: Sys, limit: Limit = 100) -> Json:
    """The newest events, oldest first."""
    with system.db.read() as session:
        return Json([events.public(event) for event in events.latest(session, limit)])


@router.get("/events", response_class=EventSourceResponse)
async def stream(
    request: Request,
    system: Sys,
    going_on: GoingOn,
    after: Annotated[int | None, Query(ge=0, le=2**62, description="Begin after this one (without: now).")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Every event as it is committed; resumes after ``Last-Event-ID``."""
    known = last_event_id or ""
    resume = min(int(known), 2**62) if known.isascii() and known.isdigit() and len(known) < 1000 else after
    position = resume if resume is not None else await run_in_threadpool(_last, system)
    commits = request.app.state.commits
    yield ServerSentEvent(comment="the journal follows")
    while going_on():
        mark = commits.mark()
        found = await run_in_threadpool(_after, system, position)
        for event in found:
            position = event["id"]
            yield ServerSentEvent(raw_data=dumps(event).decode(), event=event["kind"], id=str(position))
        if not found:
            await commits.wait(mark, LONGEST_WAIT)


def _last(system: System) -> int:
    with system.db.read() as session:
        return events.last_id(session)


def _after(system: System, position: int) -> list[dict[str, Any]]:
    with system.db.read() as session:
        return [events.public(event) for event in events.after(session, position, PAGE)]
