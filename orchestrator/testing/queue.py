"""The controller's queue: jobs, nodes, and every way in which they change. No sockets, no processes.

What happens on the nodes is asked of a ``Runner``; time is given by the caller.
"""

import copy
from typing import Any

from orchestrator.testing import admission, endings
from orchestrator.testing.arrays import JobRef
from orchestrator.testing.cluster import Cluster
from orchestrator.testing.ledger import Ledger
from orchestrator.testing.model import Job, NodeState, Request, Step
from orchestrator.testing.profiles import profile_for
from orchestrator.testing.scheduler import Preempt, Start, Wait, decide
from orchestrator.testing.state import Runner, State, Who
from orchestrator.testing.submission import Submission


class Queue:
    """All jobs that the controller knows, and what can be done with them."""

    def __init__(self, cluster: Cluster, state: State, ledger: Ledger, runner: Runner) -> None:
        self.cluster = cluster
        self.state = state
        self.ledger = ledger
        self.runner = runner
        self.profile = profile_for(cluster.version)
        self.changed = True
        self.arrays: dict[int, list[Job]] = {}
        for job in state.jobs.values():
            if job.array_job_id:
                self.arrays.setdefault(job.array_job_id, []).append(job)
        for node in cluster.nodes:
            state.nodes.setdefault(node.name, NodeState(node.name))

    @property
    def jobs(self) -> dict[int, Job]:
        """By id."""
        return self.state.jobs

    # -- finding ---------------------------------------------------------------------------------------------------

    def find(self, ref: JobRef) -> list[Job]:
        """The records of a job id, an array id, or some tasks of an array. Waiting tasks are not split off."""
        if ref.tasks is None:
            own = self.jobs.get(ref.job_id)
            if own is not None and own.array_job_id not in {0, ref.job_id}:
                return [own]
            return list(self.arrays.get(ref.job_id, ())) or ([own] if own else [])
        wanted = set(ref.tasks)
        return [
            job
            for job in self.arrays.get(ref.job_id, ())
            if job.array_task_id in wanted or wanted & set(job.waiting_tasks)
        ]

    # -- coming in -------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission, who: Who, now: int) -> Job:
        """Takes a job in. Refused for what slurmctld refuses."""
        request = admission.complete(self.cluster, submission, who.user)
        admission.check(self.cluster, submission, self.jobs.values(), who.uid)
        hopeless = admission.impossible(self.cluster, request)
        job = self._new_job(submission, who, now)
        if hopeless is not None:
            endings.refuse(job, now)
            self.ledger.record(job)
            raise hopeless
        if not submission.array:
            self.ledger.record(job)
        return job

    def would_start(self, submission: Submission, who: Who) -> tuple[int, Request]:
        """For ``--test-only``: the id it would get, after the checks of ``submit``."""
        request = admission.complete(self.cluster, submission, who.user)
        admission.check(self.cluster, submission, self.jobs.values(), who.uid)
        hopeless = admission.impossible(self.cluster, request)
        if hopeless is not None:
            raise hopeless
        self.state.next_job_id += 1
        return self.state.next_job_id - 1, request

    def _new_job(self, submission: Submission, who: Who, now: int) -> Job:
        request = submission.request
        job = Job(self._next_id(), request, who.user, who.uid, who.group, who.gid, submit_time=now)
        job.partition = ",".join(request.partitions)
        job.held = "user" if submission.hold else ""
        job.priority = self.priority_of(request.nice) if submission.priority is None else submission.priority
        job.eligible_time = request.begin or (0 if job.held or request.dependency else now)
        if submission.array is not None:
            spec = submission.array
            job.array_job_id, job.waiting_tasks, job.array_throttle = job.job_id, list(spec.tasks), spec.throttle
            request.array_count, request.array_step = len(spec.tasks), spec.step
            request.array_min, request.array_max = spec.tasks[0], spec.tasks[-1]
        if job.held:
            job.priority, job.reason = 0, "JobHeldUser"
        self._add(job)
        return job

    def _add(self, job: Job) -> None:
        self.jobs[job.job_id] = job
        self.changed = True
        if job.array_job_id:
            self.arrays.setdefault(job.array_job_id, []).append(job)

    def _forget(self, job: Job) -> None:
        """It is too old to be known any more."""
        del self.jobs[job.job_id]
        self.changed = True
        if job.array_job_id:
            self.arrays[job.array_job_id].remove(job)

    def _next_id(self) -> int:
        while self.state.next_job_id in self.jobs:
            self.state.next_job_id += 1
        self.state.next_job_id += 1
        return self.state.next_job_id - 1

    def priority_of(self, nice: int) -> int:
        """What the next job gets."""
        if not self.profile.priority_counts_down:
            return 1
        self.state.next_priority -= 1
        return self.state.next_priority + 1 - nice

    # -- one pass --------------------------------------------------------------------------------------------------

    def schedule(self, now: int) -> None:
        """Starts what can start; tells the others why they wait."""
        for decision in decide(self.cluster, self.jobs, self.state.nodes, now, self.find):
            job = self.jobs[decision.job_id]
            job.last_sched = now
            match decision:
                case Start():
                    self._start(self.split(job, decision.task), decision, now)
                case Wait():
                    self._wait(job, decision, now)
                case Preempt():
                    self._preempt(job, now)
        self.changed = True

    def split(self, job: Job, task: int | None) -> Job:
        """The task's own record, taken from that of the waiting tasks. The last task keeps the array's id."""
        if task is None or task not in job.waiting_tasks:
            return job
        job.waiting_tasks = [other for other in job.waiting_tasks if other != task]
        if not job.waiting_tasks:
            job.array_task_id = task
            return job
        own = copy.copy(job)
        own.job_id, own.array_task_id, own.waiting_tasks = self._next_id(), task, []
        own.shares, own.steps, own.database_index = [], [], 0
        self._add(own)
        return own

    def _start(self, job: Job, decision: Start, now: int) -> None:
        job.state, job.reason, job.detail, job.dependency = "RUNNING", "None", "", ""
        job.partition, job.shares = decision.partition, decision.shares
        job.start_time, job.end_time, job.status = now, 0, 0
        job.eligible_time = job.eligible_time or now
        job.warned = False
        job.steps = [Step("batch", "batch", now, job.nodes[0], tasks=1), Step("extern", "extern", now, job.nodes[0])]
        job.next_step = 0
        if job.request.pretend is None:
            job.launch = self.runner.start(job)
        else:
            job.pretend_end = now + float(job.request.pretend.get("duration", "0"))
        self.ledger.record(job)

    def _wait(self, job: Job, decision: Wait, now: int) -> None:
        if not decision.dependency and job.dependency:
            job.eligible_time = now
        job.reason, job.detail, job.dependency = decision.reason, decision.detail, decision.dependency

    def _preempt(self, job: Job, now: int) -> None:
        job.after_kill = "requeue" if job.request.requeue else ""
        self.end_processes(job, "PREEMPTED", "DUE TO PREEMPTION", now)

    # -- going out -------------------------------------------------------------------------------------------------

    def cancel(self, job: Job, who: Who, now: int) -> None:
        """scancel: a waiting job is gone, a running one gets TERM, and KILL after KillWait."""
        if job.finished or (job.completing and not job.after_kill):
            return
        job.cancelled_by = who.uid
        if job.completing:  # on its way back into the queue: it does not come back
            job.state, job.after_kill = "CANCELLED", ""
            return
        if job.state == "PENDING":
            self._drop(job, now)
        else:
            self.end_processes(job, "CANCELLED", "", now)

    def cancel_task(self, job: Job, task: int, who: Who, now: int) -> None:
        """A waiting task is cancelled: no record of it is left anywhere, unless it is the last."""
        if job.waiting_tasks == [task]:
            self.cancel(job, who, now)
        elif task in job.waiting_tasks:
            job.waiting_tasks = [other for other in job.waiting_tasks if other != task]
            self.changed = True

    def _drop(self, job: Job, now: int) -> None:
        job.state, job.start_time, job.end_time = "CANCELLED", now, now
        job.eligible_time = job.eligible_time or now
        self.ledger.record(job)
        self.changed = True

    def end_processes(self, job: Job, state: str, why: str, now: int) -> None:
        """The job's state is final, its processes are on their way out."""
        job.state, job.completing, job.end_time = state, True, now
        if state == "TIMEOUT":
            job.reason = "TimeLimit"
        self.ledger.record(job)
        self.changed = True
        if job.request.pretend is not None:
            self.ended(job, endings.Ending(status=15, end=now), now)
        else:
            self.runner.tell(job.launch, "terminate", str(self.cluster.kill_wait), why)

    def ended(self, job: Job, ending: endings.Ending, now: int) -> None:
        """The job's processes have gone."""
        endings.settle(job, ending, self.profile)
        self.runner.forget(job.launch)
        exit_code = ending.status >> 8
        if job.state == "FAILED" and exit_code and exit_code in self.cluster.requeue_exit:
            job.after_kill = "requeue"
        elif job.after_kill:
            job.status = 0
        job.completing = False
        self.changed = True
        if job.after_kill:
            self.requeue_now(job, now)
        else:
            self.ledger.record(job)

    def requeue_now(self, job: Job, now: int) -> None:
        """Back into the queue, after a while. The attempt's accounting row says how it ended."""
        if (job.state in {"CANCELLED", "FAILED", "COMPLETED", "TIMEOUT"} and job.launch) or job.state == "REQUEUED":
            job.state = "REQUEUED"
        self.ledger.record(job)
        hold = job.after_kill == "requeuehold"
        endings.back_to_queue(job, now, self.cluster.requeue_delay, hold=hold)
        self.ledger.record(job)
        self.changed = True

    # -- time passes -----------------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Time limits, warnings, pretend jobs, old jobs. Returns whether anything happened."""
        before = self.changed
        self.changed = False
        for job in list(self.jobs.values()):
            self._tick_job(job, now)
        happened = self.changed
        self.changed = before or happened
        return happened

    def _tick_job(self, job: Job, now: float) -> None:
        if job.finished:
            if now - job.end_time > self.cluster.min_job_age:
                self._forget(job)
        elif job.state == "RUNNING" and not job.completing:
            self._tick_running(job, now)
        elif job.state == "PENDING" and 0 < job.request.begin <= now and job.reason == "BeginTime":
            self.changed = True

    def _tick_running(self, job: Job, now: float) -> None:
        if job.request.pretend is not None and now >= job.pretend_end:
            self.ended(job, endings.pretended(job.request.pretend, int(now)), int(now))
            return
        if not job.end_limit:
            return
        if job.request.signal and not job.warned:
            name, _, seconds = job.request.signal.removeprefix("B:").partition("@")
            if now >= job.end_limit - int(seconds):
                job.warned = True
                whom = "batch" if job.request.signal.startswith("B:") else "steps"
                self.runner.tell(job.launch, "signal", name, whom)
        if now >= job.end_limit:
            self.end_processes(job, "TIMEOUT", "DUE TO TIME LIMIT", int(now))

    def next_moment(self, now: float) -> float:
        """When ``tick`` has something to do next; at most a second ahead."""
        moments = [now + 1.0]
        for job in self.jobs.values():
            if job.state == "RUNNING" and job.request.pretend is not None:
                moments.append(job.pretend_end)
            elif job.state == "PENDING" and job.request.begin > now:
                moments.append(job.request.begin)
        return max(now, min(moments))

    # -- on the node -----------------------------------------------------------------------------------------------

    def keep_script(self, job: Job, text: str) -> None:
        """The controller's copy: later changes of the file do not count."""
        job.request.script = self.runner.keep(job.job_id, text)

    def signal(self, job: Job, name: str, whom: str) -> None:
        """Sends a running job a signal: its ``steps``, the ``batch`` shell, or the ``full`` job."""
        if job.state == "RUNNING" and job.launch:
            self.runner.tell(job.launch, "signal", name, whom)
        elif job.state == "RUNNING" and whom != "steps":
            self.changed = True

    def step(self, job: Job, values: dict[str, Any], now: int) -> str:
        """srun begins a step (no ``step_id``) or ends one. Returns its id."""
        step_id = str(values.get("step_id", ""))
        if not step_id:
            step_id, job.next_step = str(job.next_step), job.next_step + 1
            job.steps.append(Step(step_id, values["name"], now, values["nodes"], int(values["tasks"])))
        for step in job.steps:
            if step.step_id == step_id and "status" in values:
                step.end, step.status = now, int(values["status"])
                step.state = "COMPLETED" if not step.status else "CANCELLED" if step.status & 0x7F else "FAILED"
                step.max_rss, step.cpu_seconds = int(values["max_rss"]), float(values["cpu_seconds"])
                job.derived_status = max(job.derived_status, step.status)
        self.ledger.record(job)
        self.changed = True
        return step_id
