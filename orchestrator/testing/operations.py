"""What users and administrators do to jobs and nodes with scontrol."""

from collections.abc import Callable, Mapping

from orchestrator.testing.model import FINISHED, Job, NodeState
from orchestrator.testing.queue import Queue
from orchestrator.testing.state import Who
from orchestrator.testing.times import BadTime, parse_limit

INVALID_ID = "Invalid job id specified"
PENDING = "Job is pending execution"
NOT_PENDING = "Job is no longer pending execution"
FINISHED_ALREADY = "Job/step already completing or completed"


class Denied(Exception):
    """slurmctld's no, in its words."""


def hold(queue: Queue, job: Job, who: Who, _now: int, *, as_user: bool = False) -> None:
    """The job does not start until it is released. One that runs is held when it comes back."""
    if job.state in FINISHED:
        raise Denied(FINISHED_ALREADY)
    job.held = "admin" if who.uid == 0 and not as_user else "user"
    job.priority = 0
    if job.state == "PENDING":
        job.reason, job.detail = f"JobHeld{job.held.capitalize()}", ""
        job.eligible_time = 0
    queue.changed = True


def release(queue: Queue, job: Job, _who: Who, now: int) -> None:
    """Undoes ``hold``."""
    if job.state in FINISHED:
        raise Denied(FINISHED_ALREADY)
    if job.held:
        job.held, job.priority, job.reason = "", queue.priority_of(job.request.nice), "None"
        job.eligible_time = max(job.request.begin, now)
    queue.changed = True


def requeue(queue: Queue, job: Job, _who: Who, now: int, *, hold_it: bool = False) -> None:
    """Back into the queue, from running or from its end."""
    if job.state == "PENDING":
        raise Denied(PENDING)
    if not job.request.requeue:
        raise Denied("Requested operation is presently disabled")
    job.after_kill = "requeuehold" if hold_it else "requeue"
    if job.finished:
        queue.requeue_now(job, now)
    elif not job.completing:
        queue.end_processes(job, "REQUEUED", "DUE TO JOB REQUEUE", now)


def suspend(queue: Queue, job: Job, _who: Who, now: int) -> None:
    """Stops its processes; its resources stay taken."""
    if job.state == "PENDING":
        raise Denied(PENDING)
    if job.state != "RUNNING" or job.completing:
        raise Denied(FINISHED_ALREADY)
    job.state, job.suspended_at = "SUSPENDED", now
    if job.launch:
        queue.runner.tell(job.launch, "suspend")
    queue.ledger.record(job)
    queue.changed = True


def resume(queue: Queue, job: Job, _who: Who, now: int) -> None:
    """Undoes ``suspend``."""
    if job.state != "SUSPENDED":
        raise Denied("Job is not suspended" if job.state == "RUNNING" else PENDING)
    away = now - job.suspended_at
    job.state, job.suspended_at = "RUNNING", 0
    job.suspended_seconds += away
    job.pretend_end += away
    if job.launch:
        queue.runner.tell(job.launch, "resume")
    queue.ledger.record(job)
    queue.changed = True


# -- update ----------------------------------------------------------------------------------------------------------


def update_job(queue: Queue, job: Job, words: Mapping[str, str]) -> None:
    """``scontrol update JobId=… NAME=VALUE``. Denied for a value that cannot be; KeyError for an unknown name."""
    changes = [(_UPDATES[name.lower()], value) for name, value in words.items()]
    for change, value in changes:
        change(queue, job, value)
    queue.changed = True


def _nice(_queue: Queue, job: Job, value: str) -> None:
    """A held job's priority is calculated from its niceness, too: that lets it go (seen on 22.05)."""
    new = int(value or "100")
    if job.held:
        job.held, job.priority = "", 2
    else:
        job.priority -= (new - job.request.nice) if job.priority > 1 else 0
    job.own_request().nice = new


def _priority(_queue: Queue, job: Job, value: str) -> None:
    job.priority = int(value)
    job.held = "" if job.priority else "admin"


def _time_limit(_queue: Queue, job: Job, value: str) -> None:
    text, sign = value.lstrip("+-"), value[:1]
    try:
        minutes = parse_limit(text)
    except BadTime:
        raise Denied("Invalid time limit specification") from None
    old = job.request.time_limit
    if sign in {"+", "-"} and text and minutes is not None and old is not None:
        minutes = max(old + minutes * (1 if sign == "+" else -1), 0)
    job.own_request().time_limit = minutes


def _partition(queue: Queue, job: Job, value: str) -> None:
    names = value.split(",")
    if job.state != "PENDING":
        raise Denied(NOT_PENDING)
    if not all(queue.cluster.partition(name) for name in names):
        raise Denied("Invalid partition name specified")
    job.own_request().partitions = names
    job.partition = value


def _throttle(_queue: Queue, job: Job, value: str) -> None:
    job.array_throttle = int(value)


def _text(field: str) -> Callable[[Queue, Job, str], None]:
    return lambda _queue, job, value: setattr(job.own_request(), field, value)


def _requeue(_queue: Queue, job: Job, value: str) -> None:
    job.own_request().requeue = value not in {"0", "no"}


_UPDATES: dict[str, Callable[[Queue, Job, str], None]] = {
    "account": _text("account"),
    "arraytaskthrottle": _throttle,
    "comment": _text("comment"),
    "dependency": _text("dependency"),
    "features": _text("features"),
    "jobname": _text("name"),
    "name": _text("name"),
    "nice": _nice,
    "partition": _partition,
    "priority": _priority,
    "qos": _text("qos"),
    "requeue": _requeue,
    "timelimit": _time_limit,
    "wckey": _text("wckey"),
}


# -- nodes -----------------------------------------------------------------------------------------------------------


def update_node(queue: Queue, node: NodeState, state: str, reason: str, who: Who, now: int) -> None:
    """``scontrol update NodeName=… State=DOWN|DRAIN|RESUME|IDLE|UNDRAIN``. Denied."""
    if state in {"RESUME", "IDLE", "UNDRAIN"}:
        if not node.down and not node.drain:
            raise Denied("Invalid node state specified")
        queue.state.nodes[node.name] = NodeState(node.name)
    elif state in {"DRAIN", "DOWN", "FAIL"}:
        node.drain = node.drain or state == "DRAIN"
        node.down = node.down or state == "DOWN"
        node.reason, node.reason_time, node.reason_user = reason, now, who.user
        if state == "DOWN":
            drop_jobs(queue, node.name, now)
    else:
        raise Denied("Invalid node state specified")
    queue.changed = True


def fail_node(queue: Queue, node: NodeState, now: int) -> None:
    """The node does not answer any more."""
    node.down, node.responding = True, False
    node.reason, node.reason_time, node.reason_user = "Not responding", now, "slurm"
    drop_jobs(queue, node.name, now)
    queue.changed = True


def drop_jobs(queue: Queue, name: str, now: int) -> None:
    """The jobs of a node that is gone."""
    for job in list(queue.jobs.values()):
        if job.holds_resources and name in job.nodes:
            if job.launch:
                queue.runner.destroy(job.launch)
            lose_job(queue, job, now)


def lose_job(queue: Queue, job: Job, now: int) -> None:
    """Its processes are gone and nobody knows how: back into the queue, or NODE_FAIL. What was ended stays ended."""
    decided = job.completing and not job.after_kill
    job.completing = False
    job.end_time = now
    if not decided:
        job.state, job.reason, job.status = "NODE_FAIL", "NodeDown", 1
    if not decided and job.request.requeue:
        job.status = 0
        queue.requeue_now(job, now)
    else:
        queue.ledger.record(job)
    queue.changed = True
