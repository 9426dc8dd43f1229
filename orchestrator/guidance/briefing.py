"""What an agent is told of the state of things: short texts within a budget of characters each."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select as sql_select
from sqlmodel import Session, col, func, select

from orchestrator import runs, sweeps
from orchestrator.alerting import alerts
from orchestrator.models import Metric, Plan, Run
from orchestrator.planning.report import goal_of

CONTEXT, PLANS, CLUSTER = 6000, 4000, 2000
RUNS, SWEEPS, ALERTS, BEST, PLAN_LINES = 20, 10, 10, 5, 60


def within(lines: Iterable[str], budget: int) -> str:
    """As many whole lines as fit, and how many do not."""
    kept, size, left = [], 0, 0
    for line in lines:
        if left or size + len(line) + 1 > budget - 40:
            left += 1
        else:
            kept.append(line)
            size += len(line) + 1
    return "\n".join([*kept, *([f"… and {left} more line(s), not shown"] if left else [])])


def one_line(text: object, longest: int = 120) -> str:
    """Somebody's words on one line: no line of theirs can look like one of ours."""
    words = " ".join(str("" if text is None else text).split()).replace("==========", "=")
    return words if len(words) <= longest else words[: longest - 1] + "…"


def experiment_context(session: Session) -> str:
    """Counts, the newest sweeps and runs, what waits for an answer, the best results of each plan."""
    counts = session.connection().execute(sql_select(col(Run.status), func.count()).group_by(col(Run.status)))
    lines = [
        "Runs: "
        + (", ".join(f"{count} {status}" for status, count in sorted((row[0], row[1]) for row in counts)) or "none yet")
    ]
    lines += ["", "Alerts that wait for an answer:", *_alerts(session)]
    lines += ["", "Best results:", *_best(session)]
    lines += ["", "Sweeps, newest first:", *_sweeps(session), "", "Runs, newest first:", *_runs(session)]
    return within(lines, CONTEXT)


def _alerts(session: Session) -> list[str]:
    found = alerts.listing(session, alerts.Filter(status="pending", limit=ALERTS))
    return [f"- {alert.id} [{alert.severity}] {one_line(alert.message, 200)}" for alert in found] or ["- none"]


def _sweeps(session: Session) -> list[str]:
    found = sweeps.listing(session, SWEEPS)
    progress = sweeps.progress_of(session, [sweep.id for sweep in found])
    lines = []
    for sweep in found:
        known = progress.get(sweep.id, sweeps.NONE).public()
        told = ", ".join(f"{count} {name}" for name, count in known.items() if count)
        lines.append(f"- {sweep.id} {one_line(sweep.name, 60)}: {told or 'no runs'}; goal: {one_line(sweep.goal)}")
    return lines or ["- none"]


def _runs(session: Session) -> list[str]:
    found, _ = runs.listing(session, runs.Filter(limit=RUNS))
    return [f"- {run['id']} {run['status']} {run['reason'] or ''} {one_line(run['name'], 80)}" for run in found] or [
        "- none"
    ]


def _best(session: Session) -> list[str]:
    """Of the newest plans that have finished runs: the best by the plan's own metric."""
    lines = []
    newest = select(Plan).where(col(Plan.status).in_(["executing", "completed"])).order_by(col(Plan.seq).desc())
    for plan in session.exec(newest.limit(BEST)):
        goal = goal_of((plan.parsed or {}).get("sections") or {})
        if goal is None:
            continue
        order = col(Metric.last).desc() if goal.more else col(Metric.last).asc()
        query = (
            sql_select(col(Run.id), col(Run.name), col(Metric.last))
            .join(Metric, col(Metric.run_id) == col(Run.id))
            .where(col(Run.plan_id) == plan.id, col(Metric.key) == goal.name, col(Metric.last).is_not(None))
        )
        best = session.connection().execute(query.order_by(order).limit(1)).first()
        if best is not None:
            told = f"{goal.name} = {best.last:.6g} by run {best.id} ({one_line(best.name, 60)})"
            lines.append(f"- plan {plan.id} ({one_line(plan.title, 60)}): {told}")
    return lines or ["- none"]


def existing_plans(session: Session) -> str:
    """All plans but the archived ones, newest first, the completed ones too."""
    columns: tuple[Any, ...] = (Plan.id, Plan.status, Plan.title, Plan.goal)
    query = sql_select(*columns).where(col(Plan.status) != "archived").order_by(col(Plan.seq).desc())
    rows = session.connection().execute(query.limit(PLAN_LINES))
    lines = [f"- {row.id} [{row.status}] {one_line(row.title, 80)}: {one_line(row.goal, 160)}" for row in rows]
    return within(lines or ["none yet"], PLANS)


def cluster_state(shown: Mapping[str, Any]) -> str:
    """The cluster as the wire shows it, in a few lines."""
    cluster = shown["cluster"]
    details = cluster["details"]
    lines = [
        f"Type: {cluster['type']} ({cluster['status']}, {cluster['source']})",
        f"Nodes: {cluster['node_count']}, GPUs: {cluster['gpu_count']}",
        f"Notes: {one_line(cluster['notes'], 300)}",
    ]
    for name, node in (details.get("nodes") or {}).items():
        lines.append(
            f"Node {name}: {node.get('state')}, {node.get('gpus')} GPU(s), {node.get('gpus_free')} free, "
            f"partitions {', '.join(node.get('partitions') or [])}"
        )
    lines += [
        f"GPU {gpu['index']}: {gpu['name']}, {gpu['memory_used_mib']} of {gpu['memory_total_mib']} MiB used"
        for gpu in details.get("gpus") or []
    ]
    seen = cluster["last_detected_at"]
    if seen:
        lines.append(f"Looked at {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(seen))}")
    return within(lines, CLUSTER)


def api_catalog(schema: Mapping[str, Any], may: Any) -> str:
    """What a token may do, from the OpenAPI schema. ``may``: whether it has a scope."""
    lines = [
        f"- {method.upper()} {path} — {operation['summary']}"
        for path, item in schema["paths"].items()
        for method, operation in item.items()
        if may(operation.get("x-scope", "read"))
    ]
    return "\n".join(lines)
