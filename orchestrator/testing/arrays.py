"""Job array expressions, and the forms in which job ids are written.

``0-15:4%2`` is what sbatch takes; ``12_[3-20%3]`` is how squeue shows the tasks that wait; scancel, squeue and sacct
take ``12``, ``12_3`` and ``12_[1-4,7]``. https://slurm.schedmd.com/job_array.html
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

DEFAULT_BITSTR_LEN = 64


class BadArray(ValueError):
    """Not an array expression, or not a job id."""


@dataclass(frozen=True)
class ArraySpec:
    """The tasks of ``--array``, in order, and how many may run at once (0: no limit)."""

    tasks: tuple[int, ...]
    throttle: int = 0
    step: int = 1


def parse_array(text: str) -> ArraySpec:
    """Reads ``1,3,5-9:2%4``. BadArray when it is none."""
    expression, percent, limit = text.partition("%")
    if percent and not limit.isdigit():
        raise BadArray(text)
    return ArraySpec(parse_tasks(expression), int(limit or 0), _step(expression))


def parse_tasks(text: str) -> tuple[int, ...]:
    """The numbers of ``1,3,5-9:2``, sorted, each once. BadArray when it is no such list."""
    found: set[int] = set()
    for part in text.split(","):
        bounds, _, step = part.partition(":")
        first, dash, last = bounds.partition("-")
        numbers = [first] + [last] * bool(dash) + [step] * (":" in part)
        if not all(number.isdigit() for number in numbers) or (":" in part and not dash):
            raise BadArray(text)
        start, stop = int(first), int(last) if dash else int(first)
        if stop < start or (step and int(step) == 0):
            raise BadArray(text)
        found.update(range(start, stop + 1, int(step or 1)))
    return tuple(sorted(found))


def _step(expression: str) -> int:
    """SLURM_ARRAY_TASK_STEP: that of a single range, else 1."""
    step = expression.partition(":")[2]
    return int(step) if step.isdigit() and "," not in expression else 1


def compress(tasks: Sequence[int], throttle: int = 0, limit: int = 0) -> str:
    """``3-20%3``, ``1-199:2%5``, ``22,24,26``; cut to ``limit`` characters as Slurm cuts it, mid-number.

    The step form is used for six tasks or more that are evenly spaced and span more than ten, as by squeue.
    """
    text = _even(tasks) or ",".join(_range(first, last) for first, last in runs(tasks))
    if limit and len(text) >= limit:
        text = text[: limit - 4] + "..."
    return f"{text}%{throttle}" if throttle else text


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as (first, last)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _even(tasks: Sequence[int]) -> str:
    if len(tasks) < 6 or tasks[-1] - tasks[0] <= 10:
        return ""
    step = tasks[1] - tasks[0]
    if step < 2 or any(after - before != step for before, after in pairwise(tasks)):
        return ""
    return f"{tasks[0]}-{tasks[-1]}:{step}"


@dataclass(frozen=True)
class JobRef:
    """What a client named: a job, or some tasks of an array; ``step`` is kept as written."""

    job_id: int
    tasks: tuple[int, ...] | None = None
    step: str = ""


def parse_refs(text: str) -> list[JobRef]:
    """Reads ``12,13_4,14_[1-4,7],15.batch``. BadArray names the part that is no job id."""
    return [parse_ref(part) for part in split_list(text) if part]


def parse_ref(text: str) -> JobRef:
    """Reads one of them."""
    whole, _, step = text.strip().partition(".")
    number, underscore, tasks = whole.partition("_")
    number = number.split("+")[0]
    if not number.isdigit():
        raise BadArray(text)
    if not underscore:
        return JobRef(int(number), None, step)
    return JobRef(int(number), parse_tasks(tasks.strip("[]").partition("%")[0]), step)


def split_list(text: str) -> list[str]:
    """Splits at the commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and not depth:
            parts.append(current)
            current = ""
        else:
            current += character
    return [*parts, current]
