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
    "BeginTime": ("queue", "Its begin time has not come; a requeued job waits so for a moment, too.", _WAIT),
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
    "MaxRequeue": ("hold", "It was requeued too often (MaxBatchRequeue).", "Look into its log, then release it."),
    "FedJobLock": ("queue", "The federation's clusters agree about it.", _WAIT),
}


def explain(code: str) -> PendingReason:
    """What a reason means. Limits of accounts and QOS (a hundred codes) are told by their names' pattern."""
    bare = re.split(r"[,(]", code, maxsplit=1)[0].strip() or "None"
    if bare in _TABLE:
        return PendingReason(*_TABLE[bare])
    for sign, whose in (("QOS", "QOS"), ("Assoc", "account")):
        if bare.startswith(sign):
            what = bare.removeprefix(sign).removeprefix("Grp").removeprefix("Max")
            words = f"A limit of your {whose} is reached ({bare}: {what})."
            never = "PerJob" in bare or "TimeLimit" in bare
            action = (
                "Ask for less: this limit is for each job." if never else "Wait until your (group's) other jobs end."
            )
            return PendingReason("never" if never else "limit", words, action)
    return PendingReason("unknown", f"Slurm gives the reason {code!r}.", "See squeue(1), JOB REASON CODES.")
