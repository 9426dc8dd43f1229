"""What approving a plan would freeze, and what of it cannot be on this machine: worked out outside the writer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.drafts import RunChecks
from orchestrator.environments.model import Environment
from orchestrator.errors import BadInput
from orchestrator.models import Plan
from orchestrator.planning import bounds as binding
from orchestrator.planning.bounds import Bounds, Budget
from orchestrator.planning.markdown import Problem
from orchestrator.planning.reading import Reading, reading
from orchestrator.planning.runblock import TOO_FEW
from orchestrator.resources import parse_time
from orchestrator.shapes import PlanApproval, PlanBlock, PlanBudget, RunTerms


@dataclass(frozen=True)
class Proposal:
    """What an approval would freeze of the plan of this ``content_hash``; ``bounds`` None: it cannot run here.

    ``approved_hash``: of all of it. The bounds follow from more than the text (profiles, this machine, a workdir).
    """

    content_hash: str
    bounds: Bounds | None
    problems: list[Problem]

    @property
    def approved_hash(self) -> str | None:
        """Of what would be approved: its text and its bounds."""
        return approved_hash(self.content_hash, self.bounds) if self.bounds is not None else None

    def public(self) -> dict[str, Any]:
        """As JSON, before it is done."""
        return {
            "dry_run": True,
            "approved_hash": self.approved_hash,
            "bounds": self.bounds.public() if self.bounds is not None else None,
            "problems": [problem.public() for problem in self.problems],
        }


def content_hash(plan: Plan) -> str:
    """Of all that a person reads of a plan before approving it."""
    return binding.digest(plan.title, plan.goal, plan.raw_markdown, plan.sections)


def approved_hash(content: str, bounds: Bounds) -> str:
    """Of a plan's content and what is allowed under it."""
    return binding.digest(content, bounds.public())


def proposal(checks: RunChecks, plan: Plan, body: PlanApproval) -> Proposal:
    """What approving the plan as it is now would freeze."""
    found = reading(plan.raw_markdown)
    terms, misfits = _terms(checks, found)
    problems = [*found.problems, *misfits]
    given = body.budget.runs if body.budget is not None else None
    if given is not None and given >= binding.size(Bounds(dict(found.text.parameters))):  # instead of the plan's own
        problems = [problem for problem in problems if not problem.message.startswith(TOO_FEW)]
    if terms is None:
        return Proposal(content_hash(plan), None, problems)
    block = found.block or PlanBlock()
    bounds = Bounds(
        grid=dict(found.text.parameters),
        commands=[block.command] if block.command is not None else [],
        terms=terms | ({"parallel": block.parallel} if block.parallel is not None else {}),
        defaults=_defaults(block),
        runs=_runs(found),
        budget=Budget(**{**limits(block.budget or PlanBudget()), **limits(body.budget or PlanBudget())}),
    )
    return Proposal(content_hash(plan), bounds, problems)


def misfits(checks: RunChecks, markdown: str) -> list[dict[str, Any]]:
    """What of a plan's block cannot be here, as problems: it may be there tomorrow, so they are not stored."""
    return [problem.public() for problem in _terms(checks, reading(markdown))[1]]


def _terms(checks: RunChecks, found: Reading) -> tuple[binding.Flat | None, list[Problem]]:
    """What runs of the plan get here, None where that cannot be; and what is wrong with it."""
    block = found.block or PlanBlock()
    try:
        workdir = checks.workdir(block.workdir)
        columns = checks.terms(block, workdir, copies=False).columns
    except BadInput as error:
        line = found.text.block.line_of(*error.field.split("."))
        return None, [Problem(line, f"This cannot run here: {error.field}: {error.message}")]
    return binding.flatten(columns, workdir), _missing(found, block, workdir)


def _missing(found: Reading, block: PlanBlock, workdir: str) -> list[Problem]:
    """A virtualenv that is not there: an earlier run may make it, so it can be approved all the same."""
    asked = block.environment
    if not isinstance(asked, Environment) or asked.venv is None:
        return []
    path = Path(workdir) / Path(asked.venv).expanduser()
    if (path / "bin" / "activate").is_file():
        return []
    line = found.text.block.line_of("environment", "venv")
    return [Problem(line, f"There is no virtualenv at {path} now: a run would fail for that.")]


def _defaults(block: PlanBlock) -> dict[str, Any]:
    """What the block says of a run's body. A profile is what it was when the plan was approved: it is in the terms."""
    given = block.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    return {name: value for name, value in given.items() if name in RunTerms.model_fields and name != "profile"}


def _runs(found: Reading) -> int:
    """As many as the table has configurations, or the effort says; one where neither tells."""
    estimated = (found.text.sections.get("effort") or {}).get("runs")
    return max(binding.size(Bounds(dict(found.text.parameters))), estimated or 0, 1)


def limits(budget: PlanBudget) -> dict[str, Any]:
    """The fields of a budget that are set, in the units of ``Budget``."""
    given = budget.model_dump(exclude_none=True)
    wall_time = given.pop("wall_time", None)
    return given if wall_time is None else given | {"wall_seconds": parse_time(wall_time)}
