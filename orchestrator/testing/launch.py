"""What a job finds when it starts: its environment and its output files. Pure.

The environment is that of a batch script under a real slurmstepd.
"""

import posixpath
import socket
from collections.abc import Sequence
from itertools import groupby

from orchestrator.testing.cluster import Cluster
from orchestrator.testing.gres import count
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.model import Job, Share

LAUNCH_VARIABLE = "SLURM_EMULATOR_LAUNCH"


def job_environment(job: Job, cluster: Cluster) -> dict[str, str]:
    """The batch script's environment."""
    first = job.shares[0]
    return {
        **job.request.environment,
        **_job_variables(job, cluster),
        **_request_variables(job),
        **_array_variables(job),
        **_task_variables(first.node),
        **gpu_variables(first),
        "ENVIRONMENT": "BATCH",
        "HOSTNAME": first.node,
    }


def _job_variables(job: Job, cluster: Cluster) -> dict[str, str]:
    nodes = compress_hosts(job.nodes)
    found = {
        "SLURM_CLUSTER_NAME": cluster.name,
        "SLURM_JOB_ID": str(job.job_id),
        "SLURM_JOBID": str(job.job_id),
        "SLURM_JOB_NAME": job.request.name,
        "SLURM_JOB_USER": job.user,
        "SLURM_JOB_UID": str(job.uid),
        "SLURM_JOB_GID": str(job.gid),
        "SLURM_JOB_PARTITION": job.partition,
        "SLURM_JOB_QOS": job.request.qos if cluster.accounting else "",
        "SLURM_JOB_ACCOUNT": job.request.account,
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_NODELIST": nodes,
        "SLURM_JOB_NUM_NODES": str(len(job.shares)),
        "SLURM_NNODES": str(len(job.shares)),
        "SLURM_JOB_CPUS_PER_NODE": per_node([share.cpus for share in job.shares]),
        "SLURM_CPUS_ON_NODE": str(job.shares[0].cpus),
        "SLURM_TASKS_PER_NODE": per_node([share.tasks for share in job.shares]),
        "SLURM_NODE_ALIASES": "(null)",
        "SLURM_SUBMIT_DIR": job.request.environment.get("SLURM_SUBMIT_DIR", job.request.work_dir),
        "SLURM_SUBMIT_HOST": job.request.submit_host or socket.gethostname(),
        "SLURM_TOPOLOGY_ADDR": job.nodes[0],
        "SLURM_TOPOLOGY_ADDR_PATTERN": "node",
    }
    if job.restarts:
        found["SLURM_RESTART_COUNT"] = str(job.restarts)
    return {name: value for name, value in found.items() if value}


def _request_variables(job: Job) -> dict[str, str]:
    """What is set only when it was asked for."""
    request = job.request
    memory_name = "SLURM_MEM_PER_NODE" if request.memory_per_node else "SLURM_MEM_PER_CPU"
    found = {memory_name: str(request.memory_per_node or request.memory_per_cpu)}
    if request.tasks_given or request.tasks_per_node:
        found |= {"SLURM_NTASKS": str(request.tasks), "SLURM_NPROCS": str(request.tasks)}
    if request.tasks_per_node:
        found["SLURM_NTASKS_PER_NODE"] = str(request.tasks_per_node)
    if request.cpus_given:
        found["SLURM_CPUS_PER_TASK"] = str(request.cpus_per_task)
    if request.cpus_per_gpu:
        found["SLURM_CPUS_PER_GPU"] = str(request.cpus_per_gpu)
    if request.gpus_per_node:
        found["SLURM_GPUS_PER_NODE"] = request.gpus_per_node
    if request.gpus:
        found["SLURM_GPUS"] = request.gpus
    if request.gpus_per_task:
        found["SLURM_GPUS_PER_TASK"] = request.gpus_per_task
    return found


def _array_variables(job: Job) -> dict[str, str]:
    if job.array_task_id is None:
        return {}
    request = job.request
    return {
        "SLURM_ARRAY_JOB_ID": str(job.array_job_id),
        "SLURM_ARRAY_TASK_ID": str(job.array_task_id),
        "SLURM_ARRAY_TASK_COUNT": str(request.array_count),
        "SLURM_ARRAY_TASK_MIN": str(request.array_min),
        "SLURM_ARRAY_TASK_MAX": str(request.array_max),
        "SLURM_ARRAY_TASK_STEP": str(request.array_step),
    }


def _task_variables(node: str) -> dict[str, str]:
    return {
        "SLURMD_NODENAME": node,
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_GTIDS": "0",
        "SLURM_PRIO_PROCESS": "0",
    }


def gpu_variables(share: Share) -> dict[str, str]:
    """The GPUs of one node, by their numbers on that node."""
    numbers = sorted(number for key, held in share.gres.items() if key.partition(":")[0] == "gpu" for number in held)
    if not numbers:
        return {}
    text = ",".join(map(str, numbers))
    return {
        "CUDA_VISIBLE_DEVICES": text,
        "GPU_DEVICE_ORDINAL": text,
        "ROCR_VISIBLE_DEVICES": text,
        "SLURM_JOB_GPUS": text,
        "SLURM_GPUS_ON_NODE": str(count(share.gres)),
    }


def per_node(numbers: Sequence[int]) -> str:
    """``4(x2),1``."""
    groups = [(number, len(list(group))) for number, group in groupby(numbers)]
    return ",".join(f"{number}(x{times})" if times > 1 else str(number) for number, times in groups)


def expand(pattern: str, job: Job, node: str = "") -> str:
    """The file name of ``%j %A %a %N %x %u %n %t %s %%``, with widths (``%4a``); a backslash switches it off."""
    if "\\" in pattern:
        return pattern.replace("\\", "")
    values = {
        "j": str(job.job_id),
        "J": str(job.job_id),
        "A": str(job.array_job_id or job.job_id),
        "a": str(4294967294 if job.array_task_id is None else job.array_task_id),
        "N": node or (job.nodes[0] if job.shares else "%N"),
        "x": job.request.name,
        "u": job.user,
        "n": "0",
        "t": "0",
        "s": "batch",
        "%": "%",
    }
    result, rest = "", pattern
    while rest:
        before, percent, rest = rest.partition("%")
        result += before
        if not percent:
            break
        width = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        letter, rest = rest[len(width) : len(width) + 1], rest[len(width) + 1 :]
        result += values[letter].zfill(int(width or 0)) if letter in values else f"%{width}{letter}"
    return result


def stdout_pattern(job: Job) -> str:
    """The absolute pattern of the standard output."""
    default = "slurm-%A_%a.out" if job.array_job_id else "slurm-%j.out"
    return posixpath.join(job.request.work_dir, job.request.stdout or default)


def stderr_pattern(job: Job) -> str:
    """That of the error output: the standard output's when none was asked for."""
    return posixpath.join(job.request.work_dir, job.request.stderr) if job.request.stderr else stdout_pattern(job)
