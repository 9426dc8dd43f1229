"""What the runs of a GPU test wrote about themselves, and what must hold of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

# Registers with the simulated driver as a compute process on each GPU that it was given, tells when it began and
# ended, and computes for a while.
PROGRAM = """
now() { printf '%s' "$EPOCHREALTIME"; }
IFS=, read -ra mine <<< "$CUDA_VISIBLE_DEVICES"
for gpu in "${mine[@]}"; do
  mkdir -p -m 1777 "$FAKE_GPU_STATE/processes/$gpu"
  echo compute 200 > "$FAKE_GPU_STATE/processes/$gpu/$$"
done
echo "begin $(now) $ORC_RUN_ID $ORC_ATTEMPT $CUDA_VISIBLE_DEVICES" >> "$JOURNAL"
sleep "$1"
until [ -z "${2:-}" ] || [ -e "$2" ]; do sleep 0.1; done
for gpu in "${mine[@]}"; do rm -f "$FAKE_GPU_STATE/processes/$gpu/$$"; done
echo "end $(now) $ORC_RUN_ID $ORC_ATTEMPT $CUDA_VISIBLE_DEVICES" >> "$JOURNAL"
"""


@dataclass(frozen=True)
class Use:
    """One run's use of its GPUs, in epoch seconds."""

    run_id: str
    gpus: tuple[str, ...]
    begin: float
    end: float


def read_journal(path: Path) -> list[Use]:
    """Every use. Fails when a run began twice."""
    begun: dict[str, tuple[float, tuple[str, ...]]] = {}
    uses = []
    for line in path.read_text().splitlines():
        word, at, run_id, _, gpus = line.split(" ")
        if word == "begin":
            assert run_id not in begun, f"run {run_id} was executed twice"
            begun[run_id] = (float(at), tuple(gpus.split(",")))
        else:
            start, held = begun[run_id]
            uses.append(Use(run_id, held, start, float(at)))
    return uses


def overlaps(uses: Iterable[Use]) -> list[str]:
    """GPUs that two runs had at the same time."""
    found = []
    by_gpu: dict[str, list[Use]] = {}
    for use in uses:
        for gpu in use.gpus:
            by_gpu.setdefault(gpu, []).append(use)
    for gpu, mine in by_gpu.items():
        mine.sort(key=lambda use: use.begin)
        for first, second in pairwise(mine):
            if second.begin < first.end:
                found.append(f"{gpu}: {first} and {second}")
    return found


def most_at_once(uses: Sequence[Use]) -> int:
    """The most GPUs in use at one moment."""
    changes = sorted([(use.begin, len(use.gpus)) for use in uses] + [(use.end, -len(use.gpus)) for use in uses])
    level = most = 0
    for _, change in changes:
        level += change
        most = max(most, level)
    return most


def idle_while_waiting(runs: Sequence[dict[str, Any]], gpus: int) -> float:
    """The longest time (seconds) for which more GPUs were free than some waiting run asked for.

    A run waits from ``queued_at`` to ``launched_at`` and holds its GPUs from there to ``ended_at``.
    """
    moments = sorted({t for run in runs for t in (run["queued_at"], run["launched_at"], run["ended_at"])})
    longest = current = 0.0
    for before, after in pairwise(moments):
        middle = (before + after) / 2
        free = gpus - sum(len(run["gpus"]) for run in runs if run["launched_at"] <= middle < run["ended_at"])
        waiting = [len(run["gpus"]) for run in runs if run["queued_at"] <= middle < run["launched_at"]]
        current = current + after - before if waiting and min(waiting) <= free else 0.0
        longest = max(longest, current)
    return longest
