"""``scontrol show job``. Pure."""

import socket

from orchestrator.testing import times
from orchestrator.testing.arguments import Arguments
from orchestrator.testing.arrays import BadArray, parse_ref
from orchestrator.testing.commands import jobview
from orchestrator.testing.commands.base import Answer, Call, Failed
from orchestrator.testing.commands.records import NULL, Lines, render
from orchestrator.testing.endings import shown_status
from orchestrator.testing.gres import used_text
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.launch import expand, stderr_pattern, stdout_pattern
from orchestrator.testing.memory import show_memory
from orchestrator.testing.model import Job
from orchestrator.testing.queue import Queue


def show_jobs(given: Arguments, name: str, call: Call, queue: Queue) -> Answer:
    try:
        jobs = queue.find(parse_ref(name)) if name else list(queue.jobs.values())
    except BadArray:
        raise Failed("slurm_load_jobs error: Invalid job id specified") from None
    if not jobs:
        if name:
            raise Failed("slurm_load_jobs error: Invalid job id specified")
        return Answer("No jobs in the system\n")
    return render([_Job(job, call, queue, "details" in given).lines() for job in jobs], given)


class _Job:
    """One job's lines."""

    def __init__(self, job: Job, call: Call, queue: Queue, details: bool) -> None:
        self.job, self.call, self.queue, self.details = job, call, queue, details

    def lines(self) -> Lines:
        return [*self._who(), *self._state(), *self._when(), *self._what(), *self._where()]

    def _stamp(self, moment: int, unknown: str = "Unknown") -> str:
        return times.stamp(moment, self.call.environment, unknown)

    def _who(self) -> Lines:
        job = self.job
        array = []
        if job.array_job_id:
            array = [f"ArrayJobId={job.array_job_id}", f"ArrayTaskId={jobview.shown_task(job, {})}"]
            array += [f"ArrayTaskThrottle={job.array_throttle}"] * bool(job.array_throttle)
        return [
            [f"JobId={job.job_id}", *array, f"JobName={job.request.name}"],
            [f"UserId={job.user}({job.uid})", f"GroupId={job.group}({job.gid})", "MCS_label=N/A"],
            [
                f"Priority={job.priority}",
                f"Nice={job.request.nice}",
                f"Account={job.request.account or NULL}",
                f"QOS={job.request.qos if self.queue.cluster.accounting else NULL}",
            ],
        ]

    def _state(self) -> Lines:
        job = self.job
        derived = [f"DerivedExitCode={shown_status(job.derived_status)}"] * self.details
        detail = (job.detail or job.reason).replace(" ", "_")
        return [
            [f"JobState={job.shown_state}", f"Reason={detail}", f"Dependency={job.dependency or NULL}"],
            [
                f"Requeue={int(job.request.requeue)}",
                f"Restarts={job.restarts}",
                "BatchFlag=1",
                "Reboot=0",
                f"ExitCode={shown_status(job.status)}",
            ],
            derived,
        ]

    def _when(self) -> Lines:
        job = self.job
        limit = job.request.time_limit
        shown = "UNLIMITED" if limit is None else times.long(limit * 60)
        end = self._stamp(jobview.planned_end(job))
        accrued = job.eligible_time if job.reason != "BeginTime" else 0
        return [
            [f"RunTime={times.long(jobview.elapsed(job, self.call.now))}", f"TimeLimit={shown}", "TimeMin=N/A"],
            [f"SubmitTime={self._stamp(job.submit_time)}", f"EligibleTime={self._stamp(job.eligible_time)}"],
            [f"AccrueTime={self._stamp(accrued)}"],
            [f"StartTime={self._stamp(jobview.planned_start(job))}", f"EndTime={end}", "Deadline=N/A"],
            [
                f"SuspendTime={self._stamp(job.suspended_at, 'None')}",
                f"SecsPreSuspend={job.suspended_seconds}",
                f"LastSchedEval={self._stamp(job.last_sched)}",
                "Scheduler=Main",
            ],
        ]

    def _what(self) -> Lines:
        job, request = self.job, self.job.request
        nodes = str(jobview.node_count(job))
        if not job.shares and request.nodes_max and request.nodes_given:
            nodes = f"{request.nodes_min}-{request.nodes_max}"
        per_node = request.memory_per_node
        memory = f"MinMemory{'Node' if per_node else 'CPU'}={show_memory(per_node or request.memory_per_cpu)}"
        return [
            [f"Partition={job.partition}", f"AllocNode:Sid={request.submit_host or socket.gethostname()}:1"],
            [
                f"ReqNodeList={compress_hosts(request.required_nodes) or NULL}",
                f"ExcNodeList={compress_hosts(request.excluded_nodes) or NULL}",
            ],
            [f"NodeList={compress_hosts(job.nodes)}"],
            [f"BatchHost={job.nodes[0]}"] if job.shares else [],
            [
                f"NumNodes={nodes}",
                f"NumCPUs={jobview.cpus(job)}",
                f"NumTasks={sum(share.tasks for share in job.shares) or request.tasks}",
                f"CPUs/Task={request.cpus_per_task}",
                "ReqB:S:C:T=0:0:*:*",
            ],
            *self._tres(),
            ["Socks/Node=*", f"NtasksPerN:B:S:C={request.tasks_per_node}:0:*:*", "CoreSpec=*"],
            *self._held(),
            [f"MinCPUsNode={request.cpus_per_task}", memory, "MinTmpDiskNode=0"],
            [f"Features={request.features or NULL}", "DelayBoot=00:00:00"],
        ]

    def _tres(self) -> Lines:
        job = self.job
        held = jobview.tres(job, allocated=True)
        asked = jobview.tres(job, allocated=False)
        if self.queue.profile.requested_tres:
            return [[f"ReqTRES={asked}"], [f"AllocTRES={held or NULL}"]]
        return [[f"TRES={held or asked}"]]

    def _held(self) -> Lines:
        """What it holds of each node, with ``-d``."""
        if not self.details or not self.job.shares:
            return []
        total = ",".join(
            f"{name}:{number}" for name, number in sorted(jobview.held_gpus(self.job).items()) if ":" in name
        )
        lines = [[f"JOB_GRES={total or NULL}"]]
        for share in self.job.shares:
            configured = ",".join(f"{key}:{len(numbers)}" for key, numbers in share.gres.items())
            gres = used_text(configured, share.gres) if configured else ""
            cpus = f"0-{share.cpus - 1}" if share.cpus > 1 else "0"
            lines.append([f"  Nodes={share.node}", f"CPU_IDs={cpus}", f"Mem={share.memory}", f"GRES={gres}"])
        return lines

    def _where(self) -> Lines:
        job, request = self.job, self.job.request
        separator = self.queue.profile.gres_separator
        node = job.nodes[0] if job.shares else ""
        lines = [
            [
                f"OverSubscribe={'NO' if request.exclusive else 'OK'}",
                "Contiguous=0",
                f"Licenses={','.join(f'{name}:{count}' for name, count in request.licenses.items()) or NULL}",
                "Network=(null)",
            ],
            [f"Command={' '.join([request.command, *request.arguments]) or NULL}"],
            [f"SubmitLine={request.submit_line}"] * self.queue.profile.submit_line_in_job,
            [f"WorkDir={request.work_dir}"],
            [f"Comment={request.comment} "] * bool(request.comment),
            [f"StdErr={expand(stderr_pattern(job), job, node)}"],
            [f"StdIn={request.stdin}"],
            [f"StdOut={expand(stdout_pattern(job), job, node)}"],
        ]
        if request.gpus:
            lines.append([f"TresPerJob={jobview.gpus_text(request.gpus, separator)}"])
        if request.gres:
            lines.append([f"TresPerNode={jobview.gres_text(job, separator)}"])
        if request.cpus_per_gpu:
            lines.append([f"CpusPerTres=gres{separator}gpu:{request.cpus_per_gpu}"])
        return [line for line in lines if line]
