"""The fields of squeue's ``-o`` and ``-O``: names, headings, values. Pure."""

import posixpath
from collections.abc import Callable, Mapping

from orchestrator.testing import times
from orchestrator.testing.commands import jobview
from orchestrator.testing.endings import shown_status
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.launch import stderr_pattern, stdout_pattern
from orchestrator.testing.model import Job
from orchestrator.testing.profiles import Profile

NULL = "(null)"
SHORT_ID = 31

# letter of -o, name of -O, heading
_TABLE = """
i jobarrayid JOBID
A jobid JOBID
F arrayjobid ARRAY_JOB_ID
K arraytaskid ARRAY_TASK_ID
u username USER
U userid USER
g groupname GROUP
G groupid GROUP
a account ACCOUNT
P partition PARTITION
q qos QOS
t statecompact ST
T state STATE
r reason REASON
R reasonlist NODELIST(REASON)
D numnodes NODES
C numcpus CPUS
m minmemory MIN_MEMORY
b tres-per-node TRES_PER_NODE
l timelimit TIME_LIMIT
L timeleft TIME_LEFT
M timeused TIME
V submittime SUBMIT_TIME
S starttime START_TIME
e endtime END_TIME
N nodelist NODELIST
Q prioritylong PRIORITY
p priority PRIORITY
E dependency DEPENDENCY
Z workdir WORK_DIR
o command COMMAND
k comment COMMENT
j name NAME
f feature FEATURES
W licenses LICENSES
n reqnodes REQ_NODES
x excnodes EXC_NODES
w wckey WCKEY
v reservation RESERVATION
h oversubscribe OVER_SUBSCRIBE
B batchhost EXEC_HOST
y nice NICE
Y schednodes SCHEDNODES
c mincpus MIN_CPUS
d mintmpdisk MIN_TMP_DISK
H sockets SOCKETS_PER_NODE
I cores CORES_PER_SOCKET
J threads THREADS_PER_CORE
O contiguous CONTIGUOUS
X corespec CORE_SPEC
z sct S:C:T
- numtasks TASKS
- gres TRES_PER_NODE
- tres-alloc TRES_ALLOC
- tres-per-job TRES_PER_JOB
- tres-per-task TRES_PER_TASK
- exit_code EXIT_CODE
- derivedec DERIVED_EC
- hetjobid HET_JOB_ID
- hetjoboffset HET_JOB_OFFSET
- stdout STDOUT
- stderr STDERR
- stdin STDIN
- restartcnt RESTART_COUNT
- requeue REQUEUE
- eligibletime ELIGIBLE_TIME
- accruetime ACCRUE_TIME
- pendingtime PENDING_TIME
- maxnodes MAX_NODES
- maxcpus MAX_CPUS
- cpus-per-task CPUS_PER_TASK
- cpuspertask CPUS_PER_TASK
- ntpernode NTASKS_PER_NODE
- cluster CLUSTER
- allocnodes ALLOC_NODES
- lastschedeval LAST_SCHED_EVAL
- deadline DEADLINE
- preempttime PREEMPT_TIME
- reboot REBOOT
- tres TRES_ALLOC
"""
_ROWS = [line.split() for line in _TABLE.strip().splitlines()]
LETTERS = {letter: name for letter, name, _ in _ROWS if letter != "-"}
HEADINGS = {letter: heading for letter, _, heading in _ROWS if letter != "-"} | {"r": "REASON", "b": "TRES_PER_NODE"}
LONG_NAMES = {name: (name, heading) for _, name, heading in _ROWS} | {"jobarrayid": ("jobarrayid", "JOBID")}


class Fields:
    """The values of one job's fields, as one release prints them."""

    def __init__(self, profile: Profile, environment: Mapping[str, str], now: int) -> None:
        self.profile, self.environment, self.now = profile, environment, now

    def of(self, job: Job) -> Callable[[str], str]:
        """Field (letter or name) to text."""
        return lambda field: _VALUES[LETTERS.get(field, field)](job, self) if _known(field) else ""

    def stamp(self, moment: int) -> str:
        """A point in time, ``N/A`` when not known."""
        return times.stamp(moment, self.environment, "N/A")


def _known(field: str) -> bool:
    return LETTERS.get(field, field) in _VALUES


def _array_id(job: Job, fields: Fields) -> str:
    if fields.profile.short_array_ids and "SLURM_BITSTR_LEN" not in fields.environment:
        return jobview.shown_id(job, {"SLURM_BITSTR_LEN": "0"})[:SHORT_ID]
    return jobview.shown_id(job, fields.environment)


def _limit(job: Job) -> str:
    limit = job.request.time_limit
    return "UNLIMITED" if limit is None else times.short(limit * 60)


def _left(job: Job, fields: Fields) -> str:
    limit = job.request.time_limit
    return "UNLIMITED" if limit is None else times.short(limit * 60 - jobview.elapsed(job, fields.now))


def _end(job: Job, fields: Fields) -> str:
    if not job.end_time and job.start_time and job.request.time_limit is None:
        return "NONE"
    return fields.stamp(jobview.planned_end(job))


def _status(job: Job, fields: Fields) -> str:
    return str(job.status) if fields.profile.raw_exit_status else shown_status(job.status)


def _derived(job: Job, fields: Fields) -> str:
    status = job.derived_status
    return str(status) if fields.profile.raw_exit_status else shown_status(status)


def _stdout(job: Job) -> str:
    """As asked for; the default's numbers are filled in."""
    if job.request.stdout:
        return stdout_pattern(job)
    return posixpath.join(job.request.work_dir, f"slurm-{job.job_id}.out")


def _stderr(job: Job, fields: Fields) -> str:
    if job.request.stderr:
        return stderr_pattern(job)
    return _stdout(job) if fields.profile.stderr_defaults_to_stdout else NULL


def _licenses(job: Job) -> str:
    return ",".join(f"{name}:{number}" if number > 1 else name for name, number in job.request.licenses.items()) or NULL


def _tasks(job: Job) -> str:
    return str(sum(share.tasks for share in job.shares) or job.request.tasks)


def _batch_host(job: Job) -> str:
    return job.nodes[0] if job.shares else "n/a"


def _tres(job: Job) -> str:
    return jobview.tres(job, allocated=bool(job.shares))


def _cpus_per_task(job: Job, fields: Fields) -> str:
    new = not fields.profile.requested_tres
    return "N/A" if new or not job.request.cpus_given else f"cpu={job.request.cpus_per_task}"


def _tres_per_task(job: Job, fields: Fields) -> str:
    gpus = jobview.gpus_text(job.request.gpus_per_task, fields.profile.gres_separator)
    parts = [text for text in (_cpus_per_task(job, fields), gpus) if text != "N/A"]
    return ",".join(parts) or "N/A"


_VALUES: dict[str, Callable[[Job, Fields], str]] = {
    "jobarrayid": _array_id,
    "jobid": lambda job, _: str(job.job_id),
    "arrayjobid": lambda job, _: str(job.array_job_id or job.job_id),
    "arraytaskid": lambda job, fields: jobview.shown_task(job, fields.environment),
    "username": lambda job, _: job.user,
    "userid": lambda job, _: str(job.uid),
    "groupname": lambda job, _: job.group,
    "groupid": lambda job, _: str(job.gid),
    "account": lambda job, _: job.request.account or NULL,
    "partition": lambda job, _: job.partition,
    "qos": lambda job, _: job.request.qos,
    "statecompact": lambda job, _: jobview.COMPACT_STATES[job.shown_state],
    "state": lambda job, _: job.shown_state,
    "reason": lambda job, _: job.detail or job.reason,
    "reasonlist": lambda job, _: jobview.reason_list(job),
    "numnodes": lambda job, _: str(jobview.node_count(job)),
    "numcpus": lambda job, _: str(jobview.cpus(job)),
    "numtasks": lambda job, _: _tasks(job),
    "minmemory": lambda job, _: jobview.minimum_memory(job),
    "mincpus": lambda job, _: str(job.request.cpus_per_task),
    "maxcpus": lambda _job, _: "0",
    "maxnodes": lambda job, _: str(job.request.nodes_max or 0),
    "tres-per-node": lambda job, fields: jobview.gres_text(job, fields.profile.gres_separator),
    "gres": lambda job, fields: jobview.gres_text(job, fields.profile.gres_separator),
    "tres-per-job": lambda job, fields: jobview.gpus_text(job.request.gpus, fields.profile.gres_separator),
    "tres-per-task": _tres_per_task,
    "tres-alloc": lambda job, _: _tres(job),
    "tres": lambda job, _: _tres(job),
    "timelimit": lambda job, _: _limit(job),
    "timeleft": _left,
    "timeused": lambda job, fields: times.short(jobview.elapsed(job, fields.now)),
    "submittime": lambda job, fields: fields.stamp(job.submit_time),
    "eligibletime": lambda job, fields: fields.stamp(job.eligible_time),
    "accruetime": lambda job, fields: fields.stamp(job.eligible_time),
    "starttime": lambda job, fields: fields.stamp(jobview.planned_start(job)),
    "endtime": _end,
    "lastschedeval": lambda job, fields: fields.stamp(job.last_sched),
    "pendingtime": lambda job, fields: str((job.start_time or fields.now) - job.submit_time),
    "nodelist": lambda job, _: compress_hosts(job.nodes),
    "allocnodes": lambda job, _: job.request.submit_host,
    "schednodes": lambda _job, _: NULL,
    "reqnodes": lambda job, _: compress_hosts(job.request.required_nodes),
    "excnodes": lambda job, _: compress_hosts(job.request.excluded_nodes),
    "batchhost": lambda job, _: _batch_host(job),
    "prioritylong": lambda job, _: str(job.priority),
    "priority": lambda job, _: f"{job.priority / 2**32:.14f}",
    "dependency": lambda job, _: job.dependency or NULL,
    "exit_code": _status,
    "derivedec": _derived,
    "hetjobid": lambda _job, _: "N/A",
    "hetjoboffset": lambda _job, _: "N/A",
    "workdir": lambda job, _: job.request.work_dir,
    "stdout": lambda job, _: _stdout(job),
    "stderr": _stderr,
    "stdin": lambda job, _: job.request.stdin,
    "command": lambda job, _: " ".join([job.request.command, *job.request.arguments]) if job.request.command else NULL,
    "comment": lambda job, _: job.request.comment or NULL,
    "name": lambda job, _: job.request.name,
    "feature": lambda job, _: job.request.features or NULL,
    "licenses": lambda job, _: _licenses(job),
    "wckey": lambda job, _: job.request.wckey or NULL,
    "reservation": lambda job, _: job.request.reservation or NULL,
    "oversubscribe": lambda job, _: "NO" if job.request.exclusive else "OK",
    "nice": lambda job, _: str(job.request.nice),
    "restartcnt": lambda job, _: str(job.restarts),
    "requeue": lambda job, _: str(int(job.request.requeue)),
    "cpus-per-task": lambda job, _: str(job.request.cpus_per_task),
    "cpuspertask": lambda job, _: str(job.request.cpus_per_task),
    "ntpernode": lambda job, _: str(job.request.tasks_per_node or "N/A"),
    "mintmpdisk": lambda _job, _: "0",
    "sockets": lambda _job, _: "*",
    "cores": lambda _job, _: "*",
    "threads": lambda _job, _: "*",
    "sct": lambda _job, _: "*:*:*",
    "contiguous": lambda _job, _: "0",
    "corespec": lambda _job, _: "N/A",
    "cluster": lambda _job, _: NULL,
    "deadline": lambda _job, _: "N/A",
    "preempttime": lambda _job, _: "N/A",
    "reboot": lambda _job, _: "0",
}
