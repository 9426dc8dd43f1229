"""Slurm's job states, and what each means for a run. Source: squeue(1), JOB STATE CODES, of 22.05 to 26.05."""

from enum import StrEnum


class Phase(StrEnum):
    """What a job's state means. UNKNOWN: a word that we do not know is never guessed at."""

    PENDING = "pending"
    ALLOCATED = "allocated"
    ENDING = "ending"
    ENDED = "ended"
    UNKNOWN = "unknown"


_WORDS = {
    Phase.PENDING: "PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    Phase.ALLOCATED: "CONFIGURING RUNNING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT POWER_UP_NODE EXPEDITING",
    Phase.ENDING: "COMPLETING",
    Phase.ENDED: "COMPLETED FAILED TIMEOUT CANCELLED NODE_FAIL PREEMPTED OUT_OF_MEMORY BOOT_FAIL DEADLINE REVOKED "
    "LAUNCH_FAILED RECONFIG_FAIL",
}
PHASES = {word: phase for phase, words in _WORDS.items() for word in words.split()}
# A job in one of these may be requeued a moment later: it is looked at twice before it is believed.
PROVISIONAL = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL"})


def phase_of(state: str) -> Phase:
    """What a state means; ``CANCELLED by 0`` and ``CANCELLED+`` are CANCELLED."""
    return PHASES.get(bare(state), Phase.UNKNOWN)


def bare(state: str) -> str:
    """The state's own word, without what sacct appends."""
    words = state.split()
    return words[0].rstrip("+") if words else ""
