"""Tools that show what would be: nothing is saved and nothing is started by any of them."""

from orchestrator.agenttools.parameters import ExecutionAsked, Markdown, PlanId, RunAsked
from orchestrator.agenttools.shortening import fit, without_nothing
from orchestrator.agenttools.toolbox import READS, Shown, Toolbox, tool


class Previewing(Toolbox):
    """What would be."""

    @tool(READS)
    async def check_plan(self, raw_markdown: Markdown) -> Shown:
        """How a plan's markdown is read, and what is wrong in it, line by line; nothing is saved. Call it until
        ``problems`` is empty, then save_plan."""
        return fit(await self._post("/plans/check", {"raw_markdown": raw_markdown}), "check a shorter plan")

    @tool(READS)
    async def preview_run(self, run: RunAsked) -> Shown:
        """What create_run would make of the same ``run``: the script, what it would be given, when Slurm expects it to
        start; or why it is refused. Nothing is made."""
        body = run.body() | {"dry_run": True}
        return fit(without_nothing(await self._post("/runs", body)), "`orc run --dry-run` on the machine")

    @tool(READS)
    async def preview_execution(self, plan_id: PlanId, execution: ExecutionAsked | None = None) -> Shown:
        """What execute_plan would make: how many runs, their first commands, GPU-hours at most. Nothing is made."""
        body = (execution or ExecutionAsked()).body() | {"dry_run": True}
        return fit(await self._post(f"/plans/{plan_id}/execute", body), f"call plan with plan_id={plan_id}")
