"""What came of a plan: its results by the primary metric, its criteria judged, what it used, what failed. Pure."""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SMALLER_IS_BETTER = ("loss", "error", "err", "perplexity", "ppl", "mse", "mae", "rmse", "wer", "cer", "fid", "time")
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}
SHOWN_IDS = 10
GPU_HOURS = re.compile(r"(?<![\w.,-])(\d{1,9}(?:\.\d{1,6})?) {0,3}GPU[- ]?h(?:ours?|rs?)?\b", re.IGNORECASE)

Summary = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """The metric that decides, whether more of it is better, and how that is known."""

    name: str
    more: bool
    why: str

    def public(self) -> dict[str, str]:
        """As JSON."""
        return {"name": self.name, "better": "more" if self.more else "less", "why": self.why}


@dataclass(frozen=True)
class Outcome:
    """One run: as the wire shows it, and its metrics' summaries (last, min, max) by name."""

    run: Mapping[str, Any]
    metrics: Summary

    def value(self, name: str, which: str = "last") -> float | None:
        """A metric's value; None without one, or where it is no number."""
        found = (self.metrics.get(name) or {}).get(which)
        return float(found) if found is not None and math.isfinite(found) else None


def keys_of(sections: Mapping[str, Any]) -> list[str]:
    """The metrics that a report needs: those that the plan names."""
    metrics = sections.get("metrics") or {}
    named = [metrics["primary"]] if metrics.get("primary") else []
    names = [item["name"] for item in [*named, *(metrics.get("secondary") or [])]]
    names += [item["metric"] for item in sections.get("success_criteria") or [] if item.get("metric")]
    return list(dict.fromkeys(names))


def goal_of(sections: Mapping[str, Any]) -> Goal | None:
    """What is to be best: by a criterion of the plan's, else by the metric's name."""
    primary = (sections.get("metrics") or {}).get("primary")
    if not primary:
        return None
    name = primary["name"]
    for item in sections.get("success_criteria") or []:
        if item.get("metric") == name and item.get("operator") in {">=", ">", "<=", "<"}:
            return Goal(name, item["operator"] in {">=", ">"}, f"by the criterion “{item['text']}”")
    words = name.lower().replace("/", "_").replace("-", "_").replace(".", "_").split("_")
    less = any(word in SMALLER_IS_BETTER for word in words)
    return Goal(name, not less, "by its name")


def report(plan: Mapping[str, Any], outcomes: Sequence[Outcome], used: Mapping[str, float]) -> dict[str, Any]:
    """Everything, as JSON. ``used``: hours (``usage.totals``)."""
    sections = plan["sections"] or {}
    goal = goal_of(sections)
    results = _results(outcomes, goal)
    best = next((row for row in results if row["value"] is not None and row["status"] == "finished"), None)
    facts = ("id", "title", "goal", "status", "approved_by", "approved_at", "approved_hash", "executed_at")
    return {
        "plan": {name: plan[name] for name in (*facts, "completed_at", "amendments")},
        "runs": _counts(outcomes),
        "metric": None if goal is None else goal.public(),
        "results": results,
        "best": best,
        "criteria": [_judged(item, outcomes) for item in sections.get("success_criteria") or []],
        "effort": {
            "estimated": _estimated(sections.get("effort")),
            "used": {"runs": len(outcomes), **used},
            "budget": plan.get("budget") or (plan.get("bounds") or {}).get("budget"),
        },
        "failures": _failures(outcomes),
        "text": plan["raw_markdown"],
    }


def _estimated(effort: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The plan's own words, with its GPU-hours where they name a number."""
    if effort is None:
        return None
    words = " ".join(str(effort[name]) for name in ("time", "resources") if effort.get(name))
    hours = GPU_HOURS.search(words)
    return {**effort, "gpu_hours": float(hours[1]) if hours else None}


def _counts(outcomes: Iterable[Outcome]) -> dict[str, int]:
    found: dict[str, int] = {"total": 0, "finished": 0, "failed": 0, "stopped": 0}
    for outcome in outcomes:
        found["total"] += 1
        found[outcome.run["status"]] = found.get(outcome.run["status"], 0) + 1
    return found


def _results(outcomes: Iterable[Outcome], goal: Goal | None) -> list[dict[str, Any]]:
    """The runs, best first; those without a value last."""
    rows = [_row(outcome, goal) for outcome in outcomes]
    sign = -1 if goal is None or goal.more else 1
    return sorted(rows, key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0)))


def _row(outcome: Outcome, goal: Goal | None) -> dict[str, Any]:
    run = outcome.run
    seconds = run["ended_at"] - run["started_at"] if run["ended_at"] and run["started_at"] else None
    return {
        "run_id": run["id"],
        "name": run["name"],
        "status": run["status"],
        "parameters": run["sweep_params"] or {},
        "value": outcome.value(goal.name) if goal else None,
        "best_value": outcome.value(goal.name, "max" if goal.more else "min") if goal else None,
        "seconds": seconds,
        "gpu_hours": run["gpu_seconds"] / 3600,
    }


def _judged(item: Mapping[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Met where a finished run's last value meets it; the nearest one is named. Open where no program can tell."""
    told = {"text": item["text"], "verdict": "open", "metric": item["metric"], "value": None, "run_id": None}
    if item["metric"] is None:
        return told
    known = [
        (value, outcome.run["id"])
        for outcome in outcomes
        if outcome.run["status"] == "finished" and (value := outcome.value(item["metric"])) is not None
    ]
    if not known:
        return told
    wanted, compare = item["value"], COMPARE[item["operator"]]
    distance = {">": -1, "<": 1}.get(item["operator"][0])
    nearest = min(known, key=lambda pair: abs(pair[0] - wanted) if distance is None else distance * pair[0])
    met = compare(nearest[0], wanted)
    return told | {"verdict": "met" if met else "missed", "value": nearest[0], "run_id": nearest[1]}


def _failures(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """By reason, the most frequent first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        if outcome.run["status"] in {"failed", "stopped"}:
            found.setdefault(outcome.run["reason"] or outcome.run["status"], []).append(outcome.run)
    return [
        {
            "reason": reason,
            "count": len(runs),
            "run_ids": [run["id"] for run in runs[:SHOWN_IDS]],
            "example": runs[0]["error"],
        }
        for reason, runs in sorted(found.items(), key=lambda pair: -len(pair[1]))
    ]
