"""A plan's report as markdown, for people. Pure."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROWS = 50
MARKS = {"met": "✅ met", "missed": "❌ missed", "open": "▫️ open"}


def markdown(found: Mapping[str, Any]) -> str:
    """The report (``planning.report.report``) as text."""
    parts = [_head(found), _best(found), _results(found), _criteria(found), _effort(found), _failures(found)]
    whose = "_The plan as it was approved:_" if found["plan"]["approved_at"] else "_The plan, which is not approved:_"
    parts += [_amendments(found["plan"]["amendments"]), "---", whose, found["text"].strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Mapping[str, Any]) -> str:
    plan, runs = found["plan"], found["runs"]
    others = ", ".join(f"{count} {_text(name)}" for name, count in runs.items() if name != "total" and count)
    approved = f"Approved by {_text(plan['approved_by'])} {_when(plan['approved_at'])}." if plan["approved_at"] else ""
    lines = [f"# Report: {_text(plan['title'])}", f"Plan {plan['id']} is **{plan['status']}**. {approved}".strip()]
    return "\n\n".join([*lines, f"{runs['total']} run(s): {others or 'none yet'}."])


def _best(found: Mapping[str, Any]) -> str:
    best, metric = found["best"], found["metric"]
    if metric is None:
        return ""
    ranked = f"Ranked by `{metric['name']}` ({metric['better']} is better, {_text(metric['why'])}), its last value."
    if best is None:
        return f"## Best configuration\n\nNo finished run has a value of it. {ranked}"
    settings = ", ".join(f"`{name}` = `{value}`" for name, value in best["parameters"].items()) or _text(best["name"])
    value = f"`{metric['name']}` = {_number(best['value'])} (run {best['run_id']})"
    return f"## Best configuration\n\n**{settings}**: {value}.\n\n{ranked}"


def _results(found: Mapping[str, Any]) -> str:
    rows = found["results"]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row["parameters"]))
    metric = found["metric"]["name"] if found["metric"] else "value"
    columns = ["run", *names, "status", metric, "best", "seconds", "GPU-hours"]
    cells = [
        [
            row["run_id"],
            *(row["parameters"].get(name, "") for name in names),
            row["status"],
            *(_number(row[name]) for name in ("value", "best_value")),
            *(_number(row[name], 4) for name in ("seconds", "gpu_hours")),
        ]
        for row in rows[:ROWS]
    ]
    left = len(rows) - ROWS
    more = f"\n\n… and {left} more: `orc plan report --json {found['plan']['id']}`." if left > 0 else ""
    return f"## Results\n\n{table(columns, cells)}{more}"


def _criteria(found: Mapping[str, Any]) -> str:
    if not found["criteria"]:
        return ""
    rows = [
        [item["text"], MARKS[item["verdict"]], _number(item["value"]), item["run_id"] or ""]
        for item in found["criteria"]
    ]
    return f"## Success criteria\n\n{table(['criterion', 'verdict', 'value', 'run'], rows)}"


def _effort(found: Mapping[str, Any]) -> str:
    effort = found["effort"]
    estimated, used, budget = effort["estimated"] or {}, effort["used"], effort["budget"] or {}
    hours = budget.get("gpu_hours")
    wall = budget.get("wall_seconds")
    rows = [
        ["runs", estimated.get("runs") or "", _number(budget.get("runs")), used["runs"]],
        ["GPU-hours", _number(estimated.get("gpu_hours")), _number(hours), _number(used["gpu_hours"], 4)],
        ["time", estimated.get("time") or "", f"{wall:.0f} s" if wall else "", f"{used['wall_seconds']:.0f} s"],
        ["CPU-hours", "", "", _number(used["cpu_hours_given"], 4)],
        ["resources", estimated.get("resources") or "", "", ""],
    ]
    return f"## Effort\n\n{table(['', 'estimated', 'budget', 'used'], rows)}"


def _failures(found: Mapping[str, Any]) -> str:
    if not found["failures"]:
        return ""
    rows = [
        [item["reason"], item["count"], ", ".join(item["run_ids"]), item["example"] or ""] for item in found["failures"]
    ]
    return f"## What failed\n\n{table(['reason', 'runs', 'which', 'for example'], rows)}"


def _amendments(amendments: Sequence[Mapping[str, Any]]) -> str:
    if not amendments:
        return ""
    rows = [
        [_when(item["at"]), item["by"], item["reason"], f"`{json.dumps(item['changes'], ensure_ascii=False)}`"]
        for item in amendments
    ]
    return f"## Amendments\n\n{table(['when', 'by', 'why', 'what'], rows)}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; what is in its cells stays in them."""
    lines = [f"| {' | '.join(_text(name) for name in columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows)])


def _text(value: object) -> str:
    text = " ".join(str("" if value is None else value).split())
    text = text if len(text) <= 300 else text[:299] + "…"
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _number(value: Any, digits: int = 6) -> str:
    return "" if value is None else f"{value:.{digits}g}"


def _when(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
