"""A job as the commands show it: ids, TRES, times, reasons. Pure."""

from collections.abc import Mapping

from orchestrator.testing.arrays import DEFAULT_BITSTR_LEN, compress
from orchestrator.testing.gres import parse_gpus, parse_gres
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.memory import show_memory
from orchestrator.testing.model import Job
from orchestrator.testing.placement import cpus_of

COMPACT_STATES = {
    "PENDING": "PD",
    "RUNNING": "R",
    "SUSPENDED": "S",
    "COMPLETED": "CD",
    "CANCELLED": "CA",
    "FAILED": "F",
    "TIMEOUT": "TO",
    "NODE_FAIL": "NF",
    "PREEMPTED": "PR",
    "BOOT_FAIL": "BF",
    "DEADLINE": "DL",
    "OUT_OF_MEMORY": "OOM",
    "COMPLETING": "CG",
    "CONFIGURING": "CF",
    "RESIZING": "RS",
    "RESV_DEL_HOLD": "RD",
    "REQUEUED": "RQ",
    "REQUEUE_FED": "RF",
    "REQUEUE_HOLD": "RH",
    "REVOKED": "RV",
    "SIGNALING": "SI",
    "SPECIAL_EXIT": "SE",
    "STAGE_OUT": "SO",
    "STOPPED": "ST",
}

_REASONED = frozenset({"PENDING", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE"})


def bitstr_limit(environment: Mapping[str, str]) -> int:
    """SLURM_BITSTR_LEN: 0 for no cut."""
    text = environment.get("SLURM_BITSTR_LEN", "")
    return int(text) if text.isdigit() else DEFAULT_BITSTR_LEN


def shown_id(job: Job, environment: Mapping[str, str]) -> str:
    """``15``, ``15_3``, ``15_[4-20%3]``."""
    if job.waiting_tasks:
        tasks = compress(job.waiting_tasks, job.array_throttle, bitstr_limit(environment))
        return f"{job.array_job_id}_[{tasks}]"
    if job.array_task_id is not None:
        return f"{job.array_job_id}_{job.array_task_id}"
    return str(job.job_id)


def shown_task(job: Job, environment: Mapping[str, str]) -> str:
    """``3``, ``4-20%3``, ``N/A``."""
    if job.waiting_tasks:
        return compress(job.waiting_tasks, job.array_throttle, bitstr_limit(environment))
    return "N/A" if job.array_task_id is None else str(job.array_task_id)


def cpus(job: Job) -> int:
    """Those it holds, or those it asked for."""
    if job.shares:
        return sum(share.cpus for share in job.shares)
    request = job.request
    gpus = parse_gpus(request.gpus) + parse_gres(request.gres) * request.nodes_min
    return cpus_of(request, request.tasks, sum(one.count for one in gpus if one.name == "gpu"))


def node_count(job: Job) -> int:
    """Those it holds, or the fewest it asked for."""
    return len(job.shares) or job.request.nodes_min


def memory(job: Job) -> int:
    """All of it, MiB."""
    if job.shares:
        return sum(share.memory for share in job.shares)
    request = job.request
    return request.memory_per_node * request.nodes_min or request.memory_per_cpu * cpus(job)


def requested_gpus(job: Job) -> dict[str, int]:
    """GRES by ``gpu`` and ``gpu:a100``, over all nodes."""
    request = job.request
    found: dict[str, int] = {}
    lists = [(parse_gres(request.gres), request.nodes_min), (parse_gpus(request.gpus), 1)]
    lists.append((parse_gpus(request.gpus_per_task), request.tasks))
    for gres, times in lists:
        for one in gres:
            for key in dict.fromkeys((one.name, one.key)):
                found[key] = found.get(key, 0) + one.count * times
    return found


def held_gpus(job: Job) -> dict[str, int]:
    """The same of what it holds."""
    found: dict[str, int] = {}
    for share in job.shares:
        for key, numbers in share.gres.items():
            for name in dict.fromkeys((key.partition(":")[0], key)):
                found[name] = found.get(name, 0) + len(numbers)
    return found


def tres(job: Job, *, allocated: bool) -> str:
    """``cpu=1,mem=100M,node=1,billing=1,gres/gpu=1,gres/gpu:h100=1``."""
    if allocated and not job.shares:
        return ""
    source = job if allocated else _as_requested(job)
    parts = [f"cpu={cpus(source)}", f"mem={show_tres_memory(memory(source))}", f"node={node_count(source)}"]
    parts.append(f"billing={cpus(source)}")
    gpus = held_gpus(job) if allocated else requested_gpus(job)
    return ",".join(parts + [f"gres/{name}={number}" for name, number in sorted(gpus.items())])


def accounting_tres(job: Job, *, allocated: bool) -> str:
    """The same in the database's order: ``billing=1,cpu=1,gres/gpu:h100=1,gres/gpu=1,mem=100M,node=1``."""
    return ",".join(sorted(part for part in tres(job, allocated=allocated).split(",") if part))


def _as_requested(job: Job) -> Job:
    if not job.shares:
        return job
    plain = Job.from_json({**job.to_json(), "shares": []})
    plain.request = job.request
    return plain


def show_tres_memory(mib: int) -> str:
    """In TRES: ``100M``, ``16G``."""
    return show_memory(mib) if mib else "0"


def gres_text(job: Job, separator: str) -> str:
    """``gres:gpu:2`` or ``gres/gpu:2``; N/A for none."""
    parts = [f"gres{separator}{one.key}:{one.count}" for one in parse_gres(job.request.gres)]
    return ",".join(parts) or "N/A"


def gpus_text(text: str, separator: str) -> str:
    """The same of --gpus and --gpus-per-task."""
    parts = [f"gres{separator}{one.key}:{one.count}" for one in parse_gpus(text)]
    return ",".join(parts) or "N/A"


def minimum_memory(job: Job) -> str:
    """squeue's %m: per node, or per CPU."""
    return show_memory(job.request.memory_per_node or job.request.memory_per_cpu)


def reason_list(job: Job) -> str:
    """squeue's %R: the nodes of a job that has some, else why it waits or failed."""
    if job.state in _REASONED and not job.completing:
        return f"({job.detail or job.reason})"
    return compress_hosts(job.nodes)


def elapsed(job: Job, now: int) -> int:
    """Seconds it has run, without those it was suspended."""
    if not job.start_time or job.state == "PENDING":
        return 0
    end = job.end_time or job.suspended_at or now
    return max(end - job.start_time - job.suspended_seconds, 0)


def planned_end(job: Job) -> int:
    """When it ended, or its time limit will end it; 0 for not known."""
    if job.end_time:
        return job.end_time
    start = job.start_time or planned_start(job)
    return start + job.request.time_limit * 60 if start and job.request.time_limit is not None else 0


def planned_start(job: Job) -> int:
    """When it started, or will at the earliest; 0 for not known."""
    return job.start_time or (job.request.begin if job.state == "PENDING" else 0)
