"""What the queue stands on: who asks, what is saved, who runs the jobs."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.testing.model import Job, NodeState, Request

FIRST_BASIC_PRIORITY = 4294901759


class Runner(Protocol):
    """Runs jobs on the nodes."""

    def start(self, job: Job) -> str:
        """Starts the job's processes; returns the launch's name."""

    def tell(self, launch: str, *words: str) -> None:
        """Has the launch's supervisor do something: ``signal``, ``terminate``, ``suspend``, ``resume``."""

    def keep(self, job_id: int, script: str) -> str:
        """Keeps a script; returns where."""

    def forget(self, launch: str) -> None:
        """The launch is over and reported."""

    def destroy(self, launch: str) -> None:
        """The node fails: its processes are gone, and nobody reports it."""


@dataclass(frozen=True)
class Who:
    """The user a command runs as."""

    user: str
    uid: int
    group: str
    gid: int


@dataclass
class State:
    """What the controller saves."""

    jobs: dict[int, Job] = field(default_factory=dict)
    nodes: dict[str, NodeState] = field(default_factory=dict)
    next_job_id: int = 1
    next_priority: int = FIRST_BASIC_PRIORITY
    booted: int = 0

    def to_json(self) -> dict[str, Any]:
        """For ``from_json``."""
        shared = {id(job.request): job.request for job in self.jobs.values()}  # tasks of an array share theirs
        numbers = {key: number for number, key in enumerate(shared)}
        jobs = [{**job.to_json(), "request": numbers[id(job.request)]} for job in self.jobs.values()]
        nodes = [vars(node) for node in self.nodes.values()]
        return {**vars(self), "jobs": jobs, "nodes": nodes, "requests": [vars(one) for one in shared.values()]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "State":
        """What ``to_json`` gave."""
        requests = [Request(**one) for one in data["requests"]]
        jobs = [Job.from_json(job, requests[job["request"]]) for job in data["jobs"]]
        nodes = [NodeState(**node) for node in data["nodes"]]
        kept = {name: value for name, value in data.items() if name != "requests"}
        return cls(**{**kept, "jobs": {job.job_id: job for job in jobs}, "nodes": {node.name: node for node in nodes}})
