"""Array task ids as Slurm writes them: ``15_[3-20%3]``, ``16_[22,24,26]``, ``12012_[1-199:2]``, ``18_7``."""

import re
from collections.abc import Iterable

_JOB = re.compile(r"(\d+)(?:\+\d+|_(?:(\d+)|\[([^\]]*)\]))?")
_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


def parse(text: str) -> tuple[str, list[int] | None]:
    """The job id and its array indices; None for a job that is no array (``16+1``: a part of a heterogeneous one).

    Raises ValueError for anything else: also for a list that squeue has cut (SLURM_BITSTR_LEN must be 0).
    """
    match = _JOB.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a Slurm job id: {text!r}")
    job, single, many = match.groups()
    if single is not None:
        return job, [int(single)]
    return job, None if many is None else expand(many)


def expand(text: str) -> list[int]:
    """The indices of ``3-20%3`` or ``22,24,26`` or ``1-199:2``; what follows ``%`` is a throttle."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"not a list of array indices: {text!r}")
        first, last, step = match.groups()
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def compress(indices: Iterable[int]) -> str:
    """``1-3,7`` of 1, 2, 3, 7: as scancel and scontrol take it."""
    spans: list[list[int]] = []
    for index in sorted(set(indices)):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def throttle(text: str) -> int | None:
    """The ``%N`` of tasks that wait together (``15_[3-20%3]``), 0 where they have none; None for anything else."""
    match = re.fullmatch(r"\d+_\[[^\]%]*(?:%(\d+))?\]", text.strip())
    return int(match[1] or 0) if match else None
