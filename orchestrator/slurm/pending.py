"""Why a job waits in Slurm: its reason's code in words, and what can be done. Pure.

Source of the codes: squeue(1) "JOB REASON CODES" and slurm.h of 22.05 to 26.05. An unknown code is shown as it is.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class PendingReason:
    """``category``: queue, resources, limit, hold, dependency, never (it cannot run as asked), site, unknown."""

    category: str
    summary: str
    action: str


_WAIT = "Nothing: it starts as soon as there is room."
_TABLE: dict[str, tuple[str, str, str]] = {
    "None": ("queue", "Slurm has not looked at it yet.", _WAIT),
    "Priority": ("queue", "Jobs of higher priority wait for the same resources.", _WAIT),
    "Resources": ("resources", "It is next in line; the resources that it asks for are in use.", _WAIT),
    "JobArrayTaskLimit": ("limit", "As many tasks of its array run as its throttle (%N) allows.", "Raise `parallel`."),
    "Dependency": ("dependency", "It waits for another job.", _WAIT),
    "DependencyNeverSatisfied": ("never", "The job that it waits for has failed.", "Stop it, and run it again."),
    "BeginTime": (
        "queue",
        "Its begin time has not come; a requeued job waits so for a moment, too.",
        "Nothing: it can start from then on.",
    ),
    "JobHeldUser": ("hold", "It is held.", "Release it: orc release RUN."),
    "JobHeldAdmin": ("hold", "An administrator, or a failure to start it, holds it.", "Ask the site's support."),
    "Licenses": ("resources", "The licenses that it asks for are in use.", _WAIT),
    "Reservation": ("queue", "Its reservation has not begun.", _WAIT),
    "ReservationDeleted": ("never", "Its reservation is gone.", "Run it again without, or with another."),
    "PartitionTimeLimit": ("never", "It asks for more time than its partition gives.", "Ask for less time."),
    "PartitionNodeLimit": ("never", "It asks for more nodes than its partition gives.", "Ask for fewer nodes."),
    "PartitionDown": ("site", "Its partition is down.", "Name another partition, or wait."),
    "PartitionInactive": ("site", "Its partition is inactive.", "Name another partition, or wait."),
    "PartitionConfig": ("never", "Its partition's configuration never lets it run.", "Name another partition."),
    "ReqNodeNotAvail": (
        "site",
        "Nodes that it needs are down, drained or reserved (for maintenance, if its time limit reaches into it).",
        "Ask for less time so that it ends before, or leave the choice of nodes to Slurm.",
    ),
    "NodeDown": ("site", "A node that it needs is down.", "Leave the choice of nodes to Slurm, or wait."),
    "BadConstraints": ("never", "No node can ever give what it asks for.", "Ask for less, or for other features."),
    "InvalidAccount": ("never", "Its account is not valid.", "Name one of your accounts."),
    "InvalidQOS": ("never", "Its QOS is not valid.", "Name one of your QOS."),
    "SystemFailure": ("site", "A failure of Slurm, a file system or the network.", "Ask the site's support."),
    "JobLaunchFailure": ("site", "It could not be launched: a node, its prolog or its credential.", "Requeue it."),
    "Prolog": ("site", "Its prolog runs.", _WAIT),
    "Cleaning": ("queue", "It is being requeued and still cleaned up.", _WAIT),
    "BurstBufferResources": ("resources", "The burst buffer is in use.", _WAIT),
    "JobHoldMaxRequeue": (
        "hold",
        "It was requeued too often (MaxBatchRequeue).",
        "Look into its log, then release it.",
    ),
    "AccountNotAllowed": ("never", "Its account may not use this partition.", "Name another account or partition."),
    "QOSNotAllowed": ("never", "Its QOS may not be used here.", "Name another QOS or partition."),
    "MaxMemPerLimit": ("never", "It asks for more memory than a limit allows.", "Ask for less memory."),
    "DeadLine": ("never", "Its deadline cannot be kept.", "Run it again with another."),
    "ReservationInvalid": ("never", "Its reservation is not valid.", "Run it again without, or with another."),
    "FedJobLock": ("queue", "The federation's clusters agree about it.", _WAIT),
}


# What squeue and scontrol write out in words (scontrol with underscores).
_NODES_DOWN = "Nodes required for job are DOWN"


def explain(code: str) -> PendingReason:
    """What a reason means. Limits of accounts and QOS (a hundred codes) are told by their names' pattern."""
    if code.replace("_", " ").startswith(_NODES_DOWN):
        return PendingReason(*_TABLE["ReqNodeNotAvail"])
    bare = re.split(r"[,(]", code, maxsplit=1)[0].strip() or "None"
    if bare in _TABLE:
        return PendingReason(*_TABLE[bare])
    for sign, whose in (("QOS", "QOS"), ("Assoc", "account")):
        if bare.startswith(sign):
            return _limit(bare, whose)
    if bare.startswith("Max") and bare.endswith(("PerAccount", "PerUser")):
        return _limit(bare, "account")
    return PendingReason("unknown", f"Slurm gives the reason {code!r}.", "See squeue(1), JOB REASON CODES.")


def _limit(code: str, whose: str) -> PendingReason:
    """One of the limits: some are reached by all jobs together, and pass; some are each job's own, and never do."""
    own = any(sign in code for sign in ("PerJob", "PerNode", "QOSMin", "WallDuration", "TimeLimit", "NotAllowed"))
    if own:
        action = "Ask for what it allows: this limit is for each job."
        return PendingReason("never", f"It goes beyond a limit of your {whose} ({code}).", action)
    words = f"A limit of your {whose} is reached ({code})."
    return PendingReason("limit", words, "Wait until your (group's) other jobs end.")
