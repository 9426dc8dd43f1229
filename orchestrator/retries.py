"""Whether a failed attempt is followed by another: the run's own policy, alike on every executor. Pure."""

import math
from dataclasses import replace
from typing import Any

from orchestrator.resources import parse_memory
from orchestrator.shapes import Retry
from orchestrator.states import Move, Reason, RunStatus

NOTHING_HANDED_OVER = {"submission_id": None, "job": None, "gpus": None}


def again(
    policy: dict[str, Any] | None,
    done: int,
    resources: dict[str, Any],
    made: Move,
    now: float,
    most_memory: int | None = None,
) -> Move | None:
    """Instead of a failure, the next attempt: back into the queue; or the failure, where no more memory is to be had.

    ``done``: retries that the run has had; ``most_memory``: bytes that a node can give it, None where nobody knows.
    """
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
        more = _more_memory(resources["mem"], wanted.memory_factor, most_memory)
        if more is None:
            told = f"It asked for {resources['mem']}, and no node that it may have gives more: it is not tried again."
            return replace(made, error=f"{made.error or ''} {told}".strip())
        fields["resources"] = resources | {"mem": more}
        words += f", with {more} of memory"
    return replace(
        made, status=RunStatus.QUEUED, reason=Reason.RETRYING, error=f"{words}. {made.error or ''}", fields=fields
    )


def _wanted(policy: Retry, made: Move) -> bool:
    if made.reason is not None and str(made.reason) in policy.on:
        return True
    exits = {Reason.NONZERO_EXIT, Reason.BAD_ENVIRONMENT}  # the latter has an exit code, too: the activation's
    return made.reason in exits and made.fields.get("exit_code") in policy.exit_codes


def _more_memory(asked: str, factor: float, most: int | None) -> str | None:
    """So much more, or as much as there is; None where that is no more. A factor of 1 asks for the same again."""
    before, mib = parse_memory(asked), 2**20
    more = math.ceil(before * factor / mib)
    if most is not None and more > most // mib:
        more = most // mib
    return f"{more}M" if more * mib > before or factor == 1 else None
