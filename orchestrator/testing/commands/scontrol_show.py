"""``scontrol show``: jobs, nodes, partitions, the configuration. Pure."""

import socket
from collections.abc import Sequence

from orchestrator.testing import times
from orchestrator.testing.arguments import Arguments
from orchestrator.testing.commands.base import Answer, Call, Failed
from orchestrator.testing.commands.records import NULL, Show, render
from orchestrator.testing.commands.scontrol_jobs import show_jobs
from orchestrator.testing.commands.scontrol_nodes import show_nodes, show_partitions
from orchestrator.testing.hostlist import compress_hosts, expand_hosts
from orchestrator.testing.queue import Queue


def run(given: Arguments, words: Sequence[str], call: Call, queue: Queue) -> Answer:
    """Answers ``scontrol show KIND [NAME]``."""
    kind, name = (*words, "", "")[:2]
    if "=" in kind:
        kind, _, name = kind.partition("=")
    shows: dict[str, Show] = {
        "jobs": show_jobs,
        "jobid": show_jobs,
        "nodes": show_nodes,
        "partitions": show_partitions,
        "configuration": _config,
    }
    shows |= {"hostnames": _hostnames, "hostlist": _hostlist, "licenses": _licenses}
    found = next((show for full, show in shows.items() if kind and full.startswith(kind.lower())), None)
    if found is None:
        raise Failed(f"invalid entity:{kind} for keyword:show ")
    return found(given, name, call, queue)


def _config(_given: Arguments, _name: str, call: Call, queue: Queue) -> Answer:
    cluster = queue.cluster
    values = {
        "AccountingStorageEnforce": "associations,limits,qos" if cluster.accounting else "none",
        "AccountingStorageTRES": "cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu",
        "AccountingStorageType": f"accounting_storage/{'slurmdbd' if cluster.accounting else 'none'}",
        "BOOT_TIME": times.stamp(queue.state.booted, call.environment),
        "ClusterName": cluster.name,
        "DefMemPerCPU": cluster.def_mem_per_cpu,
        "EnforcePartLimits": "NO",
        "GresTypes": "gpu",
        "JobRequeue": int(cluster.job_requeue),
        "KillWait": f"{cluster.kill_wait:g} sec",
        "Licenses": ",".join(f"{name}:{count}" for name, count in cluster.licenses.items()) or NULL,
        "MaxArraySize": cluster.max_array_size,
        "MaxJobCount": cluster.max_job_count,
        "MessageTimeout": "10 sec",
        "MinJobAge": f"{cluster.min_job_age} sec",
        "NEXT_JOB_ID": queue.state.next_job_id,
        "PreemptMode": "REQUEUE" if cluster.preempts else "OFF",
        "PreemptType": f"preempt/{'partition_prio' if cluster.preempts else 'none'}",
        "PriorityType": f"priority/{'basic' if queue.profile.priority_counts_down else 'multifactor'}",
        "ProctrackType": "proctrack/cgroup" if cluster.contain_processes else "proctrack/linuxproc",
        "RequeueExit": ",".join(map(str, cluster.requeue_exit)) or NULL,
        "RequeueExitHold": NULL,
        "SchedulerType": "sched/builtin",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_MEMORY",
        "SLURM_VERSION": queue.profile.version,
        "SlurmctldHost[0]": f"{socket.gethostname()}(127.0.0.1)",
    }
    head = f"Configuration data as of {times.stamp(call.now, call.environment)}\n"
    lines = "".join(f"{name:<23} = {value}\n" for name, value in values.items())
    return Answer(f"{head}{lines}\nSlurmctld(primary) at {socket.gethostname()} is UP\n")


def _hostnames(_given: Arguments, name: str, call: Call, _queue: Queue) -> Answer:
    text = name or call.environment.get("SLURM_JOB_NODELIST", "")
    return Answer("".join(one + "\n" for one in expand_hosts(text)))


def _hostlist(_given: Arguments, name: str, _call: Call, _queue: Queue) -> Answer:
    return Answer(compress_hosts(name.split(",")) + "\n")


def _licenses(given: Arguments, _name: str, _call: Call, queue: Queue) -> Answer:
    used: dict[str, int] = {}
    for job in queue.jobs.values():
        for name, number in job.request.licenses.items() if job.holds_resources else ():
            used[name] = used.get(name, 0) + number
    records = [
        [[f"LicenseName={name}"], [f"Total={total}", *_use(total, used.get(name, 0))]]
        for name, total in queue.cluster.licenses.items()
    ]
    return render(records, given, blank=0) if records else Answer("No licenses configured in Slurm.\n")


def _use(total: int, used: int) -> list[str]:
    return [f"Used={used}", f"Free={total - used}", "Reserved=0", "Remote=no"]
