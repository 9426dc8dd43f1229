"""sacct: what squeue no longer knows, where the cluster keeps accounts. It lags behind: never asked first."""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.slurm import arrays
from orchestrator.slurm.phases import Phase, bare, phase_of
from orchestrator.slurm.queue import epoch

FIELDS = (
    *("JobID", "State", "ExitCode", "Submit", "Start", "End", "ElapsedRaw", "NodeList", "Partition", "AllocTRES"),
    "JobName",
)


@dataclass(frozen=True)
class AccountRow:
    """One attempt of one job or array task. ``code``: 7 bits only; ``signal``: 0 for none."""

    job_id: str
    indices: tuple[int, ...] | None
    state: str
    code: int
    signal: int
    submitted: float | None
    start: float | None
    end: float | None
    elapsed: float
    nodes: str
    partition: str
    tres: str
    name: str

    @property
    def phase(self) -> Phase:
        """What its state means."""
        return phase_of(self.state)


def command(job_ids: Iterable[str], *, duplicates: bool = False) -> list[str]:
    """sacct of these jobs; with ``duplicates`` a row for each attempt (requeues), else the last."""
    argv = ["sacct", "-X", "-n", "-P", "-o", ",".join(FIELDS), "-j", ",".join(job_ids)]
    return [*argv, "-D"] if duplicates else argv


def parse(output: str) -> list[AccountRow]:
    """The rows. The name is last: it may hold the separator."""
    rows = []
    for line in output.splitlines():
        cells = line.split("|", len(FIELDS) - 1)
        if len(cells) < len(FIELDS):
            continue  # the rest of a name with a newline in it
        try:
            rows.append(_row(cells))
        except ValueError:
            continue
    return rows


def _row(cells: list[str]) -> AccountRow:
    job_id, indices = arrays.parse(cells[0])
    code, _, signal = cells[2].partition(":")
    return AccountRow(
        job_id=job_id,
        indices=None if indices is None else tuple(indices),
        state=bare(cells[1]),
        code=int(code or 0),
        signal=int(signal or 0),
        submitted=epoch(cells[3]),
        start=epoch(cells[4]),
        end=epoch(cells[5]),
        elapsed=float(cells[6] or 0),
        nodes="" if cells[7] == "None assigned" else cells[7],
        partition=cells[8],
        tres=cells[9],
        name=cells[10],
    )


def disabled(errors: str) -> bool:
    """Whether this cluster keeps no accounts at all."""
    return "accounting storage is disabled" in errors
