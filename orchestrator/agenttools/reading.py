"""Tools that look: the machine, plans, sweeps, usage, alerts. Nothing is changed by any of them."""

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.agenttools.parameters import (
    Before,
    Limit,
    Offset,
    OfPlan,
    OfRun,
    OfSweep,
    PlanId,
    PlanStatus,
    SweepId,
)
from orchestrator.agenttools.shortening import (
    LIMIT,
    TEXT_PAGE,
    Json,
    Text,
    cut,
    dumps,
    fit,
    page,
    part_of_text,
    without_nothing,
)
from orchestrator.agenttools.toolbox import READS, Shown, Toolbox, tool

MOST_RUNS = 10  # of one alert


class Reading(Toolbox):
    """What there is."""

    @tool(READS)
    async def cluster(self) -> Shown:
        """What this machine is (Slurm, GPUs shared by hand, CPUs only), its GPUs and who uses them, and how many runs
        are where. Look at it before you plan; detect looks anew."""
        return fit(await self._get("/cluster"), "`orc detect --json` on the machine")

    @tool(READS)
    async def advice(
        self,
        goal: Annotated[str | None, Field(max_length=10_000, description="What is to be found out.")] = None,
        workdir: Annotated[str | None, Field(description="Where the code is: an absolute path.")] = None,
    ) -> Shown:
        """Facts for a plan's Compute Setup and Estimated Effort: what is free, how long like runs took, which
        environment the code has. Call it before you write a plan."""
        return fit(await self._get("/advice", goal=goal, workdir=workdir), "name a narrower goal")

    @tool(READS)
    async def plans(self, status: PlanStatus | None = None, limit: Limit = 20, before: Before = None) -> Shown:
        """Lists plans, newest first: id, status, title, how many problems the markdown has."""
        answer = await self._list("/plans", status=status, limit=limit, before=before)
        rows = [_row_of_plan(plan) for plan in answer.content]
        return page("plans", rows, answer.before, "plans")

    @tool(READS)
    async def plan(self, plan_id: PlanId, offset: Offset = 0) -> Shown:
        """One plan: its status, its markdown from ``offset`` on, what is wrong in it, what it allows (bounds), what of
        its budget is used, and its sweep."""
        found: Json = await self._get(f"/plans/{plan_id}")
        text, rest = part_of_text(
            found.pop("raw_markdown", ""), offset, lambda end: f"the markdown goes on: call plan with offset={end}"
        )
        found.pop("sections", None)  # the same, read
        facts = fit(without_nothing({"more": rest, **found}), f"GET /plans/{plan_id}", LIMIT - TEXT_PAGE)
        return Text(f"{dumps(facts)}\n\n{text}", facts | {"raw_markdown": text})

    @tool(READS)
    async def report(
        self,
        plan_id: PlanId,
        form: Annotated[Literal["markdown", "json"], Field(description="To read, or as data.")] = "markdown",
        offset: Offset = 0,
    ) -> Shown:
        """What came of a plan: its runs against its success criteria, the best configurations, what was used, what
        failed and why. Call it when the plan's runs are over, and tell a person from it."""
        found = await self._get(f"/plans/{plan_id}/report", format=form)
        if not isinstance(found, str):
            return fit(found, f"GET /plans/{plan_id}/report?format=json")
        text, rest = part_of_text(found, offset, lambda end: f"… it goes on: call report with offset={end}")
        data = without_nothing({"plan_id": plan_id, "markdown": text, "more": rest})
        return Text(f"{text}\n\n{rest}" if rest else text, data)

    @tool(READS)
    async def sweeps(self, plan_id: OfPlan = None, limit: Limit = 20, before: Before = None) -> Shown:
        """Lists sweeps, newest first: id, status, name, and how many runs of each are where."""
        answer = await self._list("/sweeps", plan_id=plan_id, limit=limit, before=before)
        rows = [_row_of_sweep(sweep) for sweep in answer.content]
        return page("sweeps", rows, answer.before, "sweeps")

    @tool(READS)
    async def sweep(self, sweep_id: SweepId) -> Shown:
        """One sweep: its grid, its progress, its runs' ids. runs with sweep_id shows the runs themselves."""
        found = await self._get(f"/sweeps/{sweep_id}")
        return fit(without_nothing(found), f"call runs with sweep_id={sweep_id}")

    @tool(READS)
    async def usage(
        self,
        by: Annotated[
            Literal["sweep", "plan", "token", "executor", "day", "status"], Field(description="What to sum up by.")
        ] = "sweep",
        since: Annotated[float | None, Field(description="Epoch seconds: runs created from then on.")] = None,
        until: Annotated[float | None, Field(description="Epoch seconds: runs created before.")] = None,
        sweep_id: OfSweep = None,
        plan_id: OfPlan = None,
    ) -> Shown:
        """GPU-hours and CPU-hours that runs were given and used, summed up."""
        found = await self._get("/usage", by=by, since=since, until=until, sweep_id=sweep_id, plan_id=plan_id)
        return fit(found, "name a sweep_id, a plan_id, since or until")

    @tool(READS)
    async def alerts(
        self,
        status: Annotated[Literal["pending", "resolved"] | None, Field(description="Only these.")] = None,
        run_id: OfRun = None,
        limit: Limit = 20,
        before: Before = None,
    ) -> Shown:
        """Lists alerts, newest first: what about a run wants a choice, and which choices there are. respond gives
        one."""
        answer = await self._list("/alerts", status=status, run_id=run_id, limit=limit, before=before)
        return page("alerts", [_row_of_alert(alert) for alert in answer.content], answer.before, "alerts")


def _row_of_alert(alert: Json) -> Json:
    runs = list(alert.get("run_ids") or ())
    more = {"more_runs": len(runs) - MOST_RUNS} if len(runs) > MOST_RUNS else {}
    told = {"message": cut(str(alert.get("message")), 400), "run_ids": runs[:MOST_RUNS], **more}
    return without_nothing({**alert, **told})


def _row_of_plan(plan: Json) -> Json:
    row = {name: plan.get(name) for name in ("id", "status", "sweep_id")}
    problems = len(plan.get("problems") or ())
    return without_nothing({**row, "title": cut(str(plan.get("title")), 80), "problems": problems or None})


def _row_of_sweep(sweep: Json) -> Json:
    progress = {name: count for name, count in (sweep.get("progress") or {}).items() if count}
    row: dict[str, Any] = {name: sweep.get(name) for name in ("id", "status", "plan_id")}
    return without_nothing({**row, "name": cut(str(sweep.get("name")), 60), "progress": progress})
