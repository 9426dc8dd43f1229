"""Tools that change something. To approve or amend a plan is a person's, and so are tokens: there is no tool."""

from typing import Annotated, Any

from pydantic import Field

from orchestrator.agenttools.parameters import (
    AlertId,
    ExecutionAsked,
    Key,
    Markdown,
    OfRun,
    OfSweep,
    PlanId,
    RunAsked,
    SweepAsked,
)
from orchestrator.agenttools.shortening import Json, fit, page, without_nothing
from orchestrator.agenttools.toolbox import Shown, Toolbox, changes, given, row_of_run, tool
from orchestrator.errors import BadInput


class Changing(Toolbox):
    """What is done."""

    @tool(changes(idempotent=True))
    async def detect(self) -> Shown:
        """Looks at this machine anew and says what it is. Call it first, and where cluster seems out of date."""
        return fit(await self._post("/cluster/detect", {}), "`orc detect --json` on the machine")

    @tool(changes(destructive=True))
    async def save_plan(
        self,
        raw_markdown: Markdown,
        title: Annotated[str | None, Field(max_length=500, description="Without: the markdown's own.")] = None,
        goal: Annotated[str | None, Field(max_length=100_000, description="Without: the Objective section.")] = None,
        plan_id: Annotated[
            str | None, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$", description="Replaces this plan's text.")
        ] = None,
        idempotency_key: Key = None,
    ) -> Shown:
        """Saves a plan as a draft, or replaces the text of one (plan_id), which makes an approved plan a draft again.
        The answer lists what is wrong in it. A draft runs nothing: a person has to approve it, and no tool can."""
        if plan_id is not None and goal is not None:
            raise BadInput("goal", "a plan's goal stays what it was: leave it out, or save a new plan.")
        if plan_id is not None:
            body = given(raw_markdown=raw_markdown, title=title)
            found = (await self._caller.call("PATCH", f"/plans/{plan_id}", body)).content
        else:
            found = await self._post(
                "/plans", given(raw_markdown=raw_markdown, title=title, goal=goal), idempotency_key
            )
        return _saved(found)

    @tool(changes(runs_code=True))
    async def execute_plan(
        self, plan_id: PlanId, execution: ExecutionAsked | None = None, idempotency_key: Key = None
    ) -> Shown:
        """Executes an approved plan: its table becomes a sweep of runs, which are queued. preview_execution shows what
        that would be. Then wait with the plan_id."""
        body = (execution or ExecutionAsked()).body()
        found: Json = await self._post(f"/plans/{plan_id}/execute", body, idempotency_key)
        facts = {name: found.get(name) for name in ("id", "status", "sweep_id", "budget")}
        return fit(without_nothing({**facts, "next": f"call wait with plan_id={plan_id}"}), "call plan")

    @tool(changes(destructive=True))
    async def complete_plan(self, plan_id: PlanId) -> Shown:
        """Marks an executing plan as completed: nothing more runs under it, and it cannot be taken back. A plan whose
        runs are all over does so by itself."""
        found = await self._post(f"/plans/{plan_id}/complete")
        facts = {name: found.get(name) for name in ("id", "status", "sweep_id", "budget")}
        return fit(without_nothing({**facts, "next": f"call report with plan_id={plan_id}"}), "call plan")

    @tool(changes(runs_code=True))
    async def create_sweep(self, sweep: SweepAsked, idempotency_key: Key = None) -> Shown:
        """Makes a sweep, one run per configuration of its grid, and queues them unless auto_start is false. For what
        belongs to an approved plan, execute_plan does it."""
        found: Json = await self._post("/sweeps", sweep.body(), idempotency_key)
        facts = {name: found.get(name) for name in ("id", "name", "status", "plan_id", "progress", "run_ids")}
        next_ = f"call wait with sweep_id={found['id']}"
        return fit(without_nothing({**facts, "next": next_}), f"call runs with sweep_id={found['id']}")

    @tool(changes(runs_code=True))
    async def create_run(self, run: RunAsked, idempotency_key: Key = None) -> Shown:
        """Makes a run and queues it unless auto_start is false. preview_run shows what it would be."""
        return fit(_made(await self._post("/runs", run.body(), idempotency_key)), "call run")

    @tool(changes(runs_code=True))
    async def create_runs(
        self,
        runs: Annotated[list[RunAsked], Field(min_length=1, max_length=10_000, description="All of them, or none.")],
        idempotency_key: Key = None,
    ) -> Shown:
        """Makes many runs in one go: all of them, or none. For a grid, create_sweep is shorter."""
        bodies = [run.body() for run in runs]
        found: list[Json] = await self._post("/runs/bulk", {"runs": bodies}, idempotency_key)
        return {"made": len(found), **page("runs", [row_of_run(run) for run in found], None, "runs")}

    @tool(changes(destructive=True, idempotent=True))
    async def stop(self, run_id: OfRun = None, sweep_id: OfSweep = None) -> Shown:
        """Asks a run, or every run of a sweep that is not over, to stop. What it has not written is lost, and it does
        not go on from where it was. Name one of the two."""
        if (run_id is None) == (sweep_id is None):
            raise BadInput("run_id", "name one of run_id and sweep_id.")
        if sweep_id is not None:
            return fit(await self._post(f"/sweeps/{sweep_id}/stop"), f"call sweep with sweep_id={sweep_id}")
        found = await self._post(f"/runs/{run_id}/stop")
        return {"message": found["message"], **row_of_run(found)}

    @tool(changes(destructive=True, runs_code=True))
    async def respond(
        self, alert_id: AlertId, choice: Annotated[str, Field(description="One of the alert's choices, word for word.")]
    ) -> Shown:
        """Answers an alert with one of its choices, once: it cannot be taken back. Leave to a person what you are not
        sure of."""
        return fit(await self._post(f"/alerts/{alert_id}/respond", {"choice": choice}), "call alerts")


def _saved(plan: Json) -> Json:
    facts = {name: plan.get(name) for name in ("id", "status", "title", "problems", "overlap")}
    said = f"plan {plan['id']} saved as a draft: a person approves it with `orc plan approve {plan['id']}`"
    if plan.get("status") == "approved":
        said = f"plan {plan['id']} says what was approved: call execute_plan"
    elif plan.get("problems"):
        said += "; mend its problems first (save_plan with this plan_id)"
    return fit(without_nothing(facts) | {"next": said}, f"call plan with plan_id={plan['id']}")


def _made(run: Json) -> dict[str, Any]:
    facts = {name: run.get(name) for name in ("id", "name", "status", "command", "workdir", "plan_id", "sweep_id")}
    asked = {name: run.get(name) for name in ("executor", "resources")}
    return without_nothing({**facts, **asked, "next": f"call wait with run_ids=[{run['id']}]"})
