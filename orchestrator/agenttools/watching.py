"""Tools that follow runs: lists, waits, logs, metrics, why. Nothing is changed by any of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from orchestrator.agenttools.parameters import Before, Limit, OfPlan, OfSweep, RunId, RunStatus
from orchestrator.agenttools.shortening import Json, Text, fit, page, thinned, without_nothing
from orchestrator.agenttools.toolbox import READS, Shown, Toolbox, row_of_run, tool
from orchestrator.errors import BadInput

SLICE = 20.0  # seconds of one request of a wait: between two, progress is told and the token looked at again
LONGEST = 300.0
AT_ONCE = 8
MOST_RUNS = 10_000
ENDS_FIRST = {"failed": 0, "stopped": 1, "finished": 2}


class Watching(Toolbox):
    """What runs do."""

    @tool(READS)
    async def runs(
        self,
        status: Annotated[list[RunStatus] | None, Field(description="Only these.")] = None,
        sweep_id: OfSweep = None,
        plan_id: OfPlan = None,
        tag: Annotated[str | None, Field(description="Only with this tag.")] = None,
        metric: Annotated[
            str | None, Field(description="Show the last value of this metric too, such as val/loss.")
        ] = None,
        limit: Limit = 20,
        before: Before = None,
    ) -> Shown:
        """Lists runs, newest first: id, status, reason, name, configuration, and the last value of a metric if you name
        one."""
        wanted = {"status": status, "sweep_id": sweep_id, "plan_id": plan_id, "tag": tag}
        answer = await self._list("/runs", **wanted, limit=limit, before=before)
        rows = [row_of_run(run) for run in answer.content]
        if metric is not None:
            values = await self._last_values([row["id"] for row in rows], metric)
            rows = [{**row, metric: value} for row, value in zip(rows, values, strict=True)]
        return page("runs", rows, answer.before, "runs")

    async def _last_values(self, run_ids: Sequence[str], metric: str) -> list[Any]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def last(run_id: str) -> Any:
            async with gate:
                found = await self._get(f"/runs/{run_id}/metrics")
            return found.get("metricSummary", {}).get(metric, {}).get("last")

        return list(await asyncio.gather(*map(last, run_ids)))

    @tool(READS)
    async def run(self, run_id: RunId) -> Shown:
        """One run: its command, status and reason, what it asked for and used, its code, its metrics' last values. why
        explains it, logs shows what it wrote, metrics its series."""
        found: Json = await self._get(f"/runs/{run_id}")
        for name in ("metricSeries", "metricKeys", "metrics"):
            found.pop(name, None)
        summary = {key: values["last"] for key, values in found.pop("metricSummary", {}).items()}
        return fit(without_nothing({**found, "last_metrics": summary}), f"`orc show --json {run_id}` on the machine")

    @tool(READS)
    async def wait(
        self,
        context: Context[Any, Any],
        run_ids: Annotated[list[RunId] | None, Field(description="These runs.")] = None,
        sweep_id: OfSweep = None,
        plan_id: OfPlan = None,
        until: Annotated[Literal["all", "any"], Field(description="Until all are over, or one of them.")] = "all",
        timeout: Annotated[float, Field(ge=0, le=LONGEST, description="Seconds.")] = 60.0,
    ) -> Shown:
        """Waits until runs are over, or for ``timeout`` seconds: of run_ids, of a sweep, or of a plan (name one of the
        three). Call it instead of asking again and again; call it once more while ``over`` is false. Failed runs come
        first: ask why of them."""
        ids = await self._whose(run_ids, sweep_id, plan_id)
        deadline = time.monotonic() + timeout
        while True:
            asked = max(0.0, min(SLICE, deadline - time.monotonic()))
            begun = time.monotonic()
            found = await self._post("/runs/wait", {"ids": ids, "until": until, "timeout": asked})
            now = time.monotonic()
            # An answer before its time without an end is a server that is ending: not to be asked in a circle.
            if found["over"] or now >= deadline or now - begun < asked / 2:
                return _waited(found)
            done = len(ids) - len(found["waiting"])
            await context.report_progress(done, len(ids), f"{done} of {len(ids)} runs are over")

    async def _whose(self, run_ids: list[str] | None, sweep_id: str | None, plan_id: str | None) -> list[str]:
        if sum(value is not None for value in (run_ids, sweep_id, plan_id)) != 1:
            raise BadInput("run_ids", "name one of run_ids, sweep_id and plan_id.")
        if sweep_id is not None:
            run_ids = (await self._get(f"/sweeps/{sweep_id}"))["run_ids"]
        elif plan_id is not None:
            run_ids = [run["id"] for run in await self._get("/runs", plan_id=plan_id, limit=MOST_RUNS)]
        if not run_ids:
            raise BadInput(
                "run_ids", "there are no runs to wait for: execute_plan, create_sweep or create_run makes some."
            )
        return list(dict.fromkeys(run_ids))

    @tool(READS)
    async def logs(
        self,
        run_id: RunId,
        offset: Annotated[int, Field(description="A byte offset; negative: so many bytes from the end.")] = -4000,
        limit: Annotated[int, Field(ge=1, le=7000, description="Bytes.")] = 4000,
        attempt: Annotated[int | None, Field(ge=1, description="Which attempt; without: the latest.")] = None,
    ) -> Shown:
        """What a run wrote to standard output and error: the end of it, or the part at ``offset``. The first line of
        the answer says which bytes these are and how to go on."""
        found: Json = await self._get(f"/runs/{run_id}/logs", offset=offset, limit=limit, attempt=attempt)
        return Text(f"[{_where(found)}]\n{found['content']}", found)

    @tool(READS)
    async def metrics(
        self,
        run_id: RunId,
        keys: Annotated[
            list[str] | None, Field(description="Which; without: a summary of all, the series of 5.")
        ] = None,
        points: Annotated[int, Field(ge=0, le=100, description="At most so many points per series.")] = 20,
    ) -> Shown:
        """A run's metrics: last, least and greatest value of each key, and its series as [step, value], thinned."""
        found: Json = await self._get(f"/runs/{run_id}")
        summary, series = found.get("metricSummary", {}), found.get("metricSeries", {})
        chosen = [key for key in keys if key in summary] if keys is not None else list(summary)
        shown = chosen if keys is not None else chosen[:5]
        return fit(
            without_nothing(
                {
                    "run_id": run_id,
                    "status": found["status"],
                    "summary": {key: summary[key] for key in chosen},
                    "series": {key: thinned(series.get(key, []), points) for key in shown} if points else None,
                    "unknown": [key for key in keys or () if key not in summary],
                    "known": list(summary) if keys is not None and len(chosen) < len(keys) else None,
                }
            ),
            "name fewer keys, or fewer points",
        )

    @tool(READS)
    async def why(self, run_id: RunId) -> Shown:
        """Why a run waits, failed or is slow, with the evidence and what to do about it. Ask it of every failed run
        before you change anything."""
        return fit(await self._get(f"/runs/{run_id}/why"), f"call logs with run_id={run_id}")


def _waited(found: Json) -> Json:
    """Counts, and a line for each run: those that failed first."""
    runs = sorted(found["runs"], key=lambda run: ENDS_FIRST.get(run["status"], 3))
    counts = dict(Counter(run["status"] for run in runs))
    rows = page("runs", [row_of_run(run) for run in runs], None, "runs")
    head = {"over": found["over"], "waiting": len(found["waiting"]), "counts": counts}
    return {**head, **rows}


def _where(found: Json) -> str:
    end = found["next_offset"]
    parts = [f"bytes {found['offset']} to {end} of {found['total_size']}"]
    if found["has_more_before"]:
        parts.append(f"earlier: offset={max(0, found['offset'] - 4000)}")
    if found["has_more_after"]:
        parts.append(f"later: offset={end}")
    return "; ".join(parts)
