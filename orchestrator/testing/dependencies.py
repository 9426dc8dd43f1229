"""``--dependency``: what of it is still to come. Pure.

``afterok:7:8,afterany:9`` asks for all, ``?`` between the parts for any. A job that is not known (any more) counts
as satisfied, as in slurmctld.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.testing.arrays import BadArray, JobRef, parse_ref
from orchestrator.testing.model import FINISHED, Job

Outcome = Literal["satisfied", "unfulfilled", "failed"]
KINDS = frozenset({"after", "afterany", "afterok", "afternotok", "aftercorr", "afterburstbuffer", "singleton"})


class BadDependency(ValueError):
    """Not a dependency list."""


@dataclass(frozen=True)
class Part:
    """One condition: ``kind`` on one job; ``singleton`` has none."""

    kind: str
    ref: JobRef | None
    text: str


def parse_dependency(text: str) -> tuple[list[Part], bool]:
    """The parts, and whether any of them is enough. BadDependency."""
    any_of = "?" in text
    parts: list[Part] = []
    for piece in text.split("?" if any_of else ","):
        kind, *ids = piece.split(":")
        if kind not in KINDS or (kind != "singleton" and not ids):
            raise BadDependency(text)
        if kind == "singleton":
            parts.append(Part(kind, None, kind))
        parts += [_part(kind, one, text) for one in ids]
    return parts, any_of


def _part(kind: str, one: str, text: str) -> Part:
    try:
        return Part(kind, parse_ref(one.partition("+")[0]), f"{kind}:{one}")
    except BadArray:
        raise BadDependency(text) from None


def judge(job: Job, known: Callable[[JobRef], Sequence[Job]], others: Iterable[Job]) -> tuple[Outcome, str]:
    """The dependency's outcome, and what of it squeue shows: ``afterok:7(unfulfilled)``."""
    if not job.request.dependency:
        return "satisfied", ""
    parts, any_of = parse_dependency(job.request.dependency)
    outcomes = [(part, _outcome(part, job, known, others)) for part in parts]
    left = [(part, outcome) for part, outcome in outcomes if outcome != "satisfied"]
    if not left or (any_of and len(left) < len(outcomes)):
        return "satisfied", ""
    shown = ("?" if any_of else ",").join(f"{part.text}({outcome})" for part, outcome in left)
    hopeless = all if any_of else any
    return ("failed" if hopeless(outcome == "failed" for _, outcome in left) else "unfulfilled"), shown


def _outcome(part: Part, job: Job, known: Callable[[JobRef], Sequence[Job]], others: Iterable[Job]) -> Outcome:
    if part.ref is None:
        before = [other for other in others if _same_name(other, job) and other.job_id < job.job_id]
        return "unfulfilled" if any(not other.finished for other in before) else "satisfied"
    found = known(part.ref)
    if part.kind == "after":
        started = all(other.start_time or other.finished for other in found)
        return "satisfied" if started else "unfulfilled"
    if any(other.state not in FINISHED or other.completing for other in found):
        return "unfulfilled"
    if part.kind in {"afterok", "aftercorr"}:
        return "satisfied" if all(other.state == "COMPLETED" for other in found) else "failed"
    if part.kind == "afternotok":
        return "satisfied" if any(other.state != "COMPLETED" for other in found) or not found else "failed"
    return "satisfied"


def _same_name(one: Job, other: Job) -> bool:
    same = one.request.name == other.request.name and one.uid == other.uid
    return same and (one.array_job_id or one.job_id) != (other.array_job_id or other.job_id)
