"""squeue: our own jobs, in one call. Fields and their forms are alike on 22.05 to 26.05."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.slurm import arrays
from orchestrator.slurm.phases import Phase, bare, phase_of

log = logging.getLogger(__name__)
# The names are our own (no separator in them), yet they stand last: a reason may hold anything.
FIELDS = (
    *("JobArrayID", "State", "SubmitTime", "StartTime", "EndTime", "NodeList", "Partition", "PriorityLong"),
    *("restartcnt", "tres-alloc", "exit_code", "Nice", "Reason", "Name"),
)


@dataclass(frozen=True)
class QueueRow:
    """One row of squeue: a job, an array task, or the tasks of an array that wait together.

    Times in epoch seconds. ``start``: when it started or, while it waits, when Slurm expects it to. ``throttle``: how
    many tasks of the array may run at once (0: no limit), shown where tasks wait together; else None.
    """

    job_id: str
    indices: tuple[int, ...] | None
    state: str
    submitted: float | None
    start: float | None
    end: float | None
    nodes: str
    partition: str
    priority: int | None
    restarts: int
    tres: str
    code: int | None
    signal: int | None
    reason: str
    name: str
    throttle: int | None = None
    nice: int | None = None

    @property
    def phase(self) -> Phase:
        """What its state means."""
        return phase_of(self.state)

    @property
    def mixed(self) -> bool:
        """Whether tasks with several reasons stand in one row."""
        return "," in self.reason and self.indices is not None and len(self.indices) > 1


def command(user: str, *, names: Iterable[str] = (), tasks: bool = False, job_ids: Iterable[str] = ()) -> list[str]:
    """One squeue of a user's jobs, ended ones too while Slurm remembers them (MinJobAge)."""
    argv = ["squeue", "-h", "-a", "-t", "all", "-u", user, "-O", ",".join(f"{field}:|" for field in FIELDS)]
    if tasks:
        argv.append("-r")
    if names := list(names):
        argv.append(f"--name={','.join(names)}")
    if job_ids := list(job_ids):
        argv.append(f"--jobs={','.join(job_ids)}")
    return argv


def parse(output: str) -> list[QueueRow]:
    """The rows; one that cannot be read is left out and logged."""
    rows = []
    for line in output.splitlines():
        if not line.strip():
            continue
        try:
            rows.append(_row(line))
        except ValueError as error:
            log.warning("a line of squeue cannot be read (%s): %r", error, line[:500])
    return rows


def _row(line: str) -> QueueRow:
    cells = line.split("|")
    if len(cells) < len(FIELDS):
        raise ValueError(f"{len(cells)} fields, not {len(FIELDS)}")
    head, rest = [cell.strip() for cell in cells[: len(FIELDS) - 2]], cells[len(FIELDS) - 2 :]
    job_id, indices = arrays.parse(head[0])
    # A reason with separators in it would shift the name: the name is the last field before the closing one.
    status = exit_status(head[10])
    name, reason = rest[-2].strip(), "|".join(rest[:-2]).strip()
    return QueueRow(
        job_id=job_id,
        indices=None if indices is None else tuple(indices),
        state=bare(head[1]),
        submitted=epoch(head[2]),
        start=epoch(head[3]),
        end=epoch(head[4]),
        nodes="" if head[5] == "(null)" else head[5],
        partition=head[6],
        priority=int(head[7]) if head[7].isdigit() else None,
        restarts=int(head[8]) if head[8].isdigit() else 0,
        tres=head[9],
        code=status[0],
        signal=status[1],
        reason="" if reason == "None" else reason,
        name=name,
        throttle=arrays.throttle(head[0]),
        nice=int(head[11]) if head[11].lstrip("-").isdigit() else None,
    )


def epoch(text: str) -> float | None:
    """A time under SLURM_TIME_FORMAT=%s; None for ``N/A``, ``None``, ``Unknown`` and the like."""
    return float(text) if text.isdigit() and int(text) > 0 else None


def exit_status(text: str) -> tuple[int | None, int | None]:
    """Exit code and signal: ``3:0``, or the raw wait status that 22.05 prints (768)."""
    code, colon, signal = text.partition(":")
    if colon and code.isdigit() and signal.isdigit():
        return int(code), int(signal)
    return (int(code) >> 8, int(code) & 127) if code.isdigit() else (None, None)


def tres_count(text: str, name: str) -> int:
    """How many of one resource: ``cpu=4,mem=1000M,gres/gpu=2,gres/gpu:a100=2`` has two ``gres/gpu``."""
    value = tres_text(text, name)
    return int(value) if value.isdigit() else 0


def tres_text(text: str, name: str) -> str:
    """One resource's value as it stands there (``1000M``), "" where there is none."""
    return next((value for key, _, value in (part.partition("=") for part in text.split(",")) if key == name), "")


def by_task(
    rows: Sequence[QueueRow], own: Mapping[tuple[str, int | None], str] | None = None
) -> dict[tuple[str, int | None], QueueRow]:
    """Each task's row by its job's name and array index.

    Of two with one name (somebody submitted a script again) the job that is known as the task's ``own`` counts, else
    the one that is not over.
    """
    own = own or {}
    found: dict[tuple[str, int | None], QueueRow] = {}
    for row in rows:
        for index in row.indices if row.indices is not None else (None,):
            known = found.get((row.name, index))
            mine = own.get((row.name, index))
            if known is None or row.job_id == mine or (known.phase is Phase.ENDED and known.job_id != mine):
                found[row.name, index] = row
    return found
