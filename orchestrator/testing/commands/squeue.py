"""squeue: the jobs that the controller knows. https://slurm.schedmd.com/squeue.html"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.testing.arguments import Arguments, UsageError, options_table, parse
from orchestrator.testing.arrays import BadArray, JobRef, parse_refs
from orchestrator.testing.commands import squeue_fields
from orchestrator.testing.commands.base import Answer, Call, Failed, Layout, long_format, short_format, usage, words_of
from orchestrator.testing.commands.jobview import COMPACT_STATES
from orchestrator.testing.commands.selection import SQUEUE_DEFAULT, BadState, Selection, state_names
from orchestrator.testing.hostlist import expand_hosts
from orchestrator.testing.model import Job
from orchestrator.testing.queue import Queue

OPTIONS = options_table(
    "-A/--account= -a/--all -r/--array --array-unique -h/--noheader -i/--iterate= -j/--jobs~ -l/--long -L/--licenses= "
    "-M/--clusters= --me -n/--name= --noconvert -o/--format= -O/--Format= -p/--partition= -P/--priority -q/--qos= "
    "-R/--reservation= -S/--sort= --start -s/--steps~ -t/--states= -u/--user= -v/--verbose -V/--version "
    "-w/--nodelist= --federation --hide --local --sibling --help --usage"
)
DEFAULT = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
LONG = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"
START = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %20Y %R"
_VARIABLES = {
    "account": "SQUEUE_ACCOUNT",
    "all": "SQUEUE_ALL",
    "array": "SQUEUE_ARRAY",
    "name": "SQUEUE_NAMES",
    "format": "SQUEUE_FORMAT",
    "Format": "SQUEUE_FORMAT2",
    "partition": "SQUEUE_PARTITION",
    "qos": "SQUEUE_QOS",
    "states": "SQUEUE_STATES",
    "user": "SQUEUE_USERS",
}


def run(call: Call, queue: Queue) -> Answer:
    """Answers one squeue."""
    try:
        given = parse("squeue", OPTIONS, call.argv, interleaved=True)
    except UsageError as error:
        raise usage("squeue", error) from None
    if "version" in given:
        return Answer(queue.profile.banner + "\n")
    _add_environment(given, call.environment)
    warnings = ""
    layout, unknown = _layout(given)
    if unknown:
        warnings = "".join(f"squeue: error: Invalid job format specification: {name}\n\n" for name in unknown)
    fields = squeue_fields.Fields(queue.profile, call.environment, call.now)
    jobs = _selected(given, call, queue)
    lines = [] if "noheader" in given else [layout.heading()]
    lines += [layout.line(fields.of(job)) for job in jobs]
    return Answer("".join(lines), warnings)


def _add_environment(given: Arguments, environment: Mapping[str, str]) -> None:
    """Variables count where no option was given."""
    for option, variable in _VARIABLES.items():
        if variable in environment and option not in given:
            if option in {"format", "Format"} and ("format" in given or "Format" in given):
                continue
            given.options[option] = environment[variable]


def _layout(given: Arguments) -> tuple[Layout, list[str]]:
    if "Format" in given:
        return long_format(given.get("Format"), squeue_fields.LONG_NAMES)
    default = START if "start" in given else LONG if "long" in given else DEFAULT
    return short_format(given.get("format") or default, squeue_fields.HEADINGS), []


def _selected(given: Arguments, call: Call, queue: Queue) -> list[Job]:
    selection = Selection(
        users=[call.who.user] if "me" in given else words_of(given.get("user")),
        names=words_of(given.get("name")),
        partitions=words_of(given.get("partition")),
        accounts=words_of(given.get("account")),
        qos=words_of(given.get("qos")),
        nodes=expand_hosts(given.get("nodelist")),
        states=frozenset({"PENDING"}) if "start" in given else _states(given),
    )
    jobs = _named(given, queue) if given.get("jobs") else list(queue.jobs.values())
    found = [job for job in jobs if selection.wants(job)]
    found = [task for job in found for task in _tasks(job)] if "array" in given else _merged(found)
    return sorted(found, key=_order)


def _states(given: Arguments) -> frozenset[str] | None:
    if "states" not in given:
        return None if given.get("jobs") else SQUEUE_DEFAULT
    try:
        return state_names(given.get("states"))
    except BadState as error:
        valid = ",".join(COMPACT_STATES)
        said = (
            f"squeue: error: Invalid job state specified: {error}\nsqueue: error: Valid job states include: {valid}\n"
        )
        raise Failed(said + "\n") from None


def _named(given: Arguments, queue: Queue) -> list[Job]:
    """The jobs of ``-j``. One unknown id is an error; among several it is left out."""
    try:
        refs = parse_refs(given.get("jobs"))
    except BadArray as error:
        raise Failed(f"squeue: error: Invalid job id: {error}") from None
    found = {id(job): job for ref in refs for job in _of(ref, queue)}
    if not found and len(refs) == 1:
        raise Failed("slurm_load_jobs error: Invalid job id specified")
    return list(found.values())


def _of(ref: JobRef, queue: Queue) -> list[Job]:
    """The records of a ref; of waiting tasks only those that were named."""
    found = []
    for job in queue.find(ref):
        if ref.tasks is not None and job.waiting_tasks:
            named = [task for task in job.waiting_tasks if task in ref.tasks]
            found.append(replace(job, waiting_tasks=named))
        else:
            found.append(job)
    return found


def _tasks(job: Job) -> Iterable[Job]:
    """A line for each task, for ``-r``."""
    if not job.waiting_tasks:
        return [job]
    return [replace(job, array_task_id=task, waiting_tasks=[]) for task in job.waiting_tasks]


def _merged(jobs: Sequence[Job]) -> list[Job]:
    """Waiting records of one array in one line: a task that was requeued or held has a record of its own."""
    groups: dict[object, list[Job]] = {}
    for job in jobs:
        waits = job.array_job_id and job.state == "PENDING" and not job.completing
        groups.setdefault((job.array_job_id, job.partition) if waits else job.job_id, []).append(job)
    return [_merge(group) if len(group) > 1 else group[0] for group in groups.values()]


def _merge(jobs: Sequence[Job]) -> Job:
    tasks = {task for job in jobs for task in job.waiting_tasks}
    tasks |= {job.array_task_id for job in jobs if job.array_task_id is not None}
    reasons = ",".join(dict.fromkeys(job.detail or job.reason for job in jobs))
    return replace(jobs[0], waiting_tasks=sorted(tasks), array_task_id=None, array_throttle=0, detail=reasons)


def _order(job: Job) -> tuple[str, str, int, int, int]:
    """squeue's own: partition, state, priority."""
    return (job.partition, COMPACT_STATES[job.shown_state], -job.priority, job.job_id, job.array_task_id or 0)
