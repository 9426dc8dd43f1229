"""The fields of sacct: names, widths, values of jobs and steps. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.testing import times
from orchestrator.testing.commands import jobview
from orchestrator.testing.endings import shown_status
from orchestrator.testing.hostlist import compress_hosts, expand_hosts
from orchestrator.testing.launch import stdout_pattern
from orchestrator.testing.memory import show_memory
from orchestrator.testing.model import Job, Step
from orchestrator.testing.profiles import Profile


@dataclass(frozen=True)
class Field:
    """One field. A negative width aligns to the left."""

    name: str
    width: int = 10
    new: bool = False
    """Not known on 22.05."""

    def wide(self, text: str) -> "Field":
        """The field with the width of ``%20`` or ``%-20``."""
        return replace(self, width=int(text))


FIELDS = {
    field.name.lower(): field
    for field in [
        Field("JobID", -12),
        Field("JobIDRaw", -12),
        Field("JobName"),
        Field("User", 9),
        Field("UID", 6),
        Field("Group", 9),
        Field("GID", 6),
        Field("Account"),
        Field("Cluster"),
        Field("Partition"),
        Field("QOS"),
        Field("State"),
        Field("ExitCode", 8),
        Field("DerivedExitCode", 15),
        Field("Submit", 19),
        Field("Eligible", 19),
        Field("Start", 19),
        Field("End", 19),
        Field("Elapsed"),
        Field("ElapsedRaw"),
        Field("Timelimit"),
        Field("TimelimitRaw", 12),
        Field("Suspended"),
        Field("NNodes", 8),
        Field("NTasks", 8),
        Field("NCPUS"),
        Field("AllocCPUS"),
        Field("AllocNodes"),
        Field("ReqCPUS", 8),
        Field("ReqNodes", 8),
        Field("ReqMem"),
        Field("ReqTRES"),
        Field("AllocTRES"),
        Field("NodeList", 15),
        Field("Reason", 22),
        Field("Priority"),
        Field("WorkDir", 20),
        Field("SubmitLine", 20),
        Field("Comment", 14),
        Field("Constraints"),
        Field("Reservation", 20),
        Field("WCKey"),
        Field("MaxRSS"),
        Field("AveRSS"),
        Field("MaxVMSize"),
        Field("AveCPU"),
        Field("TotalCPU"),
        Field("UserCPU"),
        Field("SystemCPU"),
        Field("CPUTime"),
        Field("CPUTimeRAW"),
        Field("TRESUsageInMax", 14),
        Field("TRESUsageInTot", 14),
        Field("TRESUsageInAve", 14),
        Field("DBIndex", 20),
        Field("Flags", 15),
        Field("StdOut", 20, new=True),
        Field("StdErr", 20, new=True),
        Field("StdIn", 20, new=True),
        Field("FailedNode", 20, new=True),
        Field("Extra", 14, new=True),
        Field("Restarts", 8, new=True),
        Field("Planned"),
    ]
}


def find(name: str, profile: Profile) -> Field | None:
    """The field, if this release knows it. A unique beginning will do."""
    known = [field for field in FIELDS.values() if profile.stdout_in_accounting or not field.new]
    exact = [field for field in known if field.name.lower() == name.lower()]
    similar = exact or [field for field in known if field.name.lower().startswith(name.lower())]
    return similar[0] if similar else None


def headings(fields: Sequence[Field], separator: str, trailing: bool) -> list[str]:
    """The first line, or the first two."""
    if separator:
        return [separator.join(field.name for field in fields) + separator * trailing]
    names = " ".join(_fit(field.name, field.width) for field in fields)
    return [names + " ", " ".join("-" * abs(field.width) for field in fields) + " "]


def line(fields: Sequence[Field], value: Callable[[str], str], separator: str, trailing: bool) -> str:
    """One row."""
    if separator:
        return separator.join(value(field.name) for field in fields) + separator * trailing
    return " ".join(_fit(value(field.name), field.width) for field in fields) + " "


def _fit(text: str, width: int) -> str:
    size = abs(width)
    cut = text if len(text) <= size else text[: size - 1] + "+"
    return cut.ljust(size) if width < 0 else cut.rjust(size)


class Values:
    """Values as one release prints them."""

    def __init__(self, profile: Profile, environment: Mapping[str, str], now: int) -> None:
        self.profile, self.environment, self.now = profile, environment, now

    def of_job(self, job: Job) -> Callable[[str], str]:
        """Field to text."""
        return lambda name: _JOB[name](job, self) if name in _JOB else ""

    def of_step(self, job: Job, step: Step) -> Callable[[str], str]:
        """Field to text, for one of its steps."""
        return lambda name: _STEP[name](job, step, self) if name in _STEP else ""

    def stamp(self, moment: int, unknown: str = "Unknown") -> str:
        """A point in time."""
        return times.stamp(moment, self.environment, unknown)


def _state(job: Job, _: Values) -> str:
    return f"CANCELLED by {job.cancelled_by}" if job.state == "CANCELLED" else job.state


def _exit_code(job: Job, values: Values) -> str:
    """Seven bits of the code, and nothing for what the controller ended itself."""
    if job.state == "NODE_FAIL":
        return values.profile.node_fail_exit
    if job.state in {"CANCELLED", "TIMEOUT", "PREEMPTED", "PENDING", "RUNNING", "REQUEUED"} and job.status & 0x7F:
        return "0:0"
    return masked_status(job.status, shifted=job.reason == "BadConstraints")


def masked_status(status: int, *, shifted: bool = False) -> str:
    """``6:0``; 255 becomes ``127:0``, 137 ``9:0``: the database keeps seven bits."""
    if shifted:
        return f"{status}:0"
    code, _, number = shown_status(status).partition(":")
    return f"{int(code) & 0x7F}:{number}"


def _start(job: Job, values: Values) -> str:
    if job.shares or job.reason == "BadConstraints":
        return values.stamp(job.start_time)
    return "None" if job.state == "CANCELLED" else "Unknown"


def _reason(job: Job, values: Values) -> str:
    if job.state == "PENDING" or (values.profile.stdout_in_accounting and job.waiting_tasks):
        return job.reason if job.reason not in {"Priority", "Resources", "BeginTime"} else "None"
    return "None"


def _limit(job: Job, _: Values) -> str:
    limit = job.request.time_limit
    return "UNLIMITED" if limit is None else times.long(limit * 60)


def _raw_limit(job: Job, _: Values) -> str:
    limit = job.request.time_limit
    return "UNLIMITED" if limit is None else str(limit)


def _cpus(job: Job, values: Values) -> str:
    return "0" if not job.shares and values.profile.pending_cpus_zero else str(jobview.cpus(job))


def _used(job: Job) -> float:
    return sum(step.cpu_seconds for step in job.steps)


_JOB: dict[str, Callable[[Job, Values], str]] = {
    "JobID": lambda job, _: jobview.shown_id(job, {"SLURM_BITSTR_LEN": "0"}),
    "JobIDRaw": lambda job, _: str(job.job_id),
    "JobName": lambda job, _: job.request.name.replace('"', "`"),
    "User": lambda job, _: job.user,
    "UID": lambda job, _: str(job.uid),
    "Group": lambda job, _: job.group,
    "GID": lambda job, _: str(job.gid),
    "Account": lambda job, _: job.request.account,
    "Cluster": lambda _job, _: "emulated",
    "Partition": lambda job, _: job.partition,
    "QOS": lambda job, _: job.request.qos,
    "State": _state,
    "ExitCode": _exit_code,
    "DerivedExitCode": lambda job, _: masked_status(job.derived_status),
    "Submit": lambda job, values: values.stamp(job.submit_time),
    "Eligible": lambda job, values: values.stamp(job.eligible_time),
    "Start": _start,
    "End": lambda job, values: values.stamp(job.end_time),
    "Elapsed": lambda job, values: times.long(jobview.elapsed(job, values.now) if job.shares else 0),
    "ElapsedRaw": lambda job, values: str(jobview.elapsed(job, values.now) if job.shares else 0),
    "Timelimit": _limit,
    "TimelimitRaw": _raw_limit,
    "Suspended": lambda job, _: times.long(job.suspended_seconds),
    "NNodes": lambda job, _: str(jobview.node_count(job)),
    "NCPUS": _cpus,
    "AllocCPUS": _cpus,
    "AllocNodes": lambda job, _: str(len(job.shares)),
    "ReqCPUS": lambda job, _: str(job.request.tasks * job.request.cpus_per_task),
    "ReqNodes": lambda job, _: str(job.request.nodes_min),
    "ReqMem": lambda job, _: show_memory(jobview.memory(job)),
    "ReqTRES": lambda job, _: jobview.accounting_tres(job, allocated=False),
    "AllocTRES": lambda job, _: jobview.accounting_tres(job, allocated=True),
    "NodeList": lambda job, _: compress_hosts(job.nodes) or "None assigned",
    "Reason": _reason,
    "Priority": lambda job, _: str(job.priority),
    "WorkDir": lambda job, _: job.request.work_dir,
    "SubmitLine": lambda job, _: job.request.submit_line,
    "Comment": lambda job, _: job.request.comment,
    "Constraints": lambda job, _: job.request.features,
    "WCKey": lambda job, _: job.request.wckey,
    "TotalCPU": lambda job, _: times.cpu_time(_used(job)),
    "UserCPU": lambda job, _: times.cpu_time(_used(job)),
    "SystemCPU": lambda _job, _: "00:00:00",
    "CPUTime": lambda job, values: times.long(jobview.elapsed(job, values.now) * jobview.cpus(job)),
    "CPUTimeRAW": lambda job, values: str(jobview.elapsed(job, values.now) * jobview.cpus(job)),
    "DBIndex": lambda job, _: str(job.database_index),
    "StdOut": lambda job, _: stdout_pattern(job),
    "StdErr": lambda job, _: job.request.stderr,
    "StdIn": lambda job, _: job.request.stdin,
    "Restarts": lambda job, _: str(job.restarts),
    "Flags": lambda _job, _: "",
    "Planned": lambda job, values: times.long((job.start_time or values.now) - (job.eligible_time or values.now)),
}


def _step_elapsed(step: Step, values: Values) -> int:
    return max((step.end or values.now) - step.start, 0)


def _kib(number: int) -> str:
    return f"{number // 1024}K" if number else ""


def _step_cpus(job: Job, step: Step) -> str:
    nodes = expand_hosts(step.nodes)
    return str(sum(share.cpus for share in job.shares if share.node in nodes))


def _usage(step: Step) -> str:
    if not step.max_rss:
        return ""
    return f"cpu={times.long(int(step.cpu_seconds))},mem={_kib(step.max_rss)}"


_STEP: dict[str, Callable[[Job, Step, Values], str]] = {
    "JobID": lambda job, step, _: f"{jobview.shown_id(job, {})}.{step.step_id}",
    "JobIDRaw": lambda job, step, _: f"{job.job_id}.{step.step_id}",
    "JobName": lambda _job, step, _: step.name.replace('"', "`"),
    "Account": lambda job, _step, _: job.request.account,
    "State": lambda _job, step, _: step.state,
    "ExitCode": lambda _job, step, _: masked_status(step.status) if step.status != 125 else "0:125",
    "Submit": lambda _job, step, values: values.stamp(step.start),
    "Eligible": lambda _job, step, values: values.stamp(step.start),
    "Start": lambda _job, step, values: values.stamp(step.start),
    "End": lambda _job, step, values: values.stamp(step.end),
    "Elapsed": lambda _job, step, values: times.long(_step_elapsed(step, values)),
    "ElapsedRaw": lambda _job, step, values: str(_step_elapsed(step, values)),
    "NNodes": lambda _job, step, _: str(len(expand_hosts(step.nodes))),
    "NTasks": lambda _job, step, _: str(step.tasks),
    "NCPUS": lambda job, step, _: _step_cpus(job, step),
    "AllocCPUS": lambda job, step, _: _step_cpus(job, step),
    "AllocTRES": lambda job, _step, _: jobview.accounting_tres(job, allocated=True),
    "NodeList": lambda _job, step, _: step.nodes,
    "MaxRSS": lambda _job, step, _: _kib(step.max_rss),
    "AveRSS": lambda _job, step, _: _kib(step.max_rss),
    "AveCPU": lambda _job, step, _: times.long(int(step.cpu_seconds)) if step.max_rss else "",
    "TotalCPU": lambda _job, step, _: times.cpu_time(step.cpu_seconds),
    "TRESUsageInMax": lambda _job, step, _: _usage(step),
    "TRESUsageInTot": lambda _job, step, _: _usage(step),
    "TRESUsageInAve": lambda _job, step, _: _usage(step),
}
