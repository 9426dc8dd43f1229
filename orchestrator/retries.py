"""Whether a failed attempt is followed by another: the run's own policy, alike on every executor. Pure."""

import math
from dataclasses import replace
from typing import Any

from orchestrator.resources import parse_memory
from orchestrator.shapes import Retry
from orchestrator.states import Move, Reason, RunStatus

NOTHING_HANDED_OVER = {"submission_id": None, "job": None, "gpus": None}


def again(policy: dict[str, Any] | None, done: int, resources: dict[str, Any], made: Move, now: float) -> Move | None:
    """Instead of a failure, the next attempt: back into the queue. ``done``: retries that the run has had."""
    if policy is None or made.status is not RunStatus.FAILED:
        return None
    wanted = Retry.model_validate(policy)
    if done >= wanted.max or not _wanted(wanted, made):
        return None
    fields: dict[str, Any] = {
        **NOTHING_HANDED_OVER,
        "retries": done + 1,
        "not_before": now + wanted.delay_seconds if wanted.delay_seconds else 0.0,
        "ended_at": None,
        "exit_code": None,
        "signal": None,
    }
    words = f"Retry {done + 1} of {wanted.max} after {made.reason}"
    if made.reason is Reason.OUT_OF_MEMORY and "mem" in resources:
        fields["resources"], told = _with_more_memory(resources, wanted.memory_factor)
        words += f", with {told} of memory"
    return replace(
        made, status=RunStatus.QUEUED, reason=Reason.RETRYING, error=f"{words}. {made.error or ''}", fields=fields
    )


def _wanted(policy: Retry, made: Move) -> bool:
    if made.reason is not None and str(made.reason) in policy.on:
        return True
    return made.reason is Reason.NONZERO_EXIT and made.fields.get("exit_code") in policy.exit_codes


def _with_more_memory(resources: dict[str, Any], factor: float) -> tuple[dict[str, Any], str]:
    more = f"{math.ceil(parse_memory(resources['mem']) * factor / 2**20)}M"
    return resources | {"mem": more}, more
