"""The emulated slurmctld: answers calls, lets time pass, saves its state. See ``server`` for its process."""

import json
import os
import time
from typing import Any

from orchestrator.testing.commands import sacct, sacctmgr, sbatch, scancel, scontrol, sinfo, squeue
from orchestrator.testing.commands.base import Answer, Call, Command, Failed
from orchestrator.testing.faults import Faults
from orchestrator.testing.folder import KEEP_SECONDS, Folder
from orchestrator.testing.ledger import Ledger, LedgerReader
from orchestrator.testing.model import Job
from orchestrator.testing.operations import fail_node, lose_job, update_node
from orchestrator.testing.queue import Queue
from orchestrator.testing.runner import LocalRunner
from orchestrator.testing.state import State, Who

COMMANDS: dict[str, Command] = {
    "sbatch": sbatch.run,
    "squeue": squeue.run,
    "scancel": scancel.run,
    "sinfo": sinfo.run,
    "scontrol": scontrol.run,
}
DATABASE = frozenset({"sacct", "sacctmgr"})


class Controller:
    """Everything the process holds."""

    def __init__(self, folder: Folder, owner: int) -> None:
        self.folder = folder
        self.owner = owner
        self.faults = Faults.load(folder.faults)
        self.cluster = folder.read_cluster()
        self.runner = LocalRunner(folder.path, self.cluster, owner)
        saved = folder.load()
        state = State() if saved is None else State.from_json(saved)
        state.booted = int(time.time())
        self.ledger = Ledger(folder.ledger, enabled=self.cluster.accounting)
        self.ledger.lag = self.faults.accounting_lag
        self.database = LedgerReader(folder.ledger)
        self.queue = Queue(self.cluster, state, self.ledger, self.runner)
        self.stalled: list[dict[str, Any]] = []
        self.last_save = self.save_took = 0.0
        self.unsaved = True
        self.ending = False
        self._adopt()

    def _adopt(self) -> None:
        """What became of the jobs that ran while there was no controller."""
        now = int(time.time())
        for job in list(self.queue.jobs.values()):
            if job.holds_resources and job.launch and not self.runner.is_alive(job.launch):
                ending = self.runner.report_of(job.launch)
                if ending is not None:
                    self.queue.ended(job, ending, now)
                else:
                    lose_job(self.queue, job, now)

    # -- time --------------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Does what is due; returns the seconds until something is due again."""
        now = time.time()
        if not self.faults.hung:
            self._collect(int(now))
            self.queue.tick(now)
            if self.queue.changed:
                self.queue.schedule(int(now))
                self.queue.changed = False
                self.unsaved = True
        self.save(now)
        return max(self.queue.next_moment(now) - time.time(), 0.0)

    def _collect(self, now: int) -> None:
        running = {job.launch: job for job in self.queue.jobs.values() if job.launch and job.holds_resources}
        for launch, ending in self.runner.reported():
            if launch in running:  # another controller's job, forgotten since, concerns nobody
                self.queue.ended(running[launch], ending, now)

    def save(self, now: float, *, force: bool = False) -> None:
        if force or (self.unsaved and now - self.last_save >= max(self.cluster.save_seconds, 10 * self.save_took)):
            self.folder.save(self.queue.state.to_json())
            self.runner.clean(KEEP_SECONDS)
            self.last_save, self.unsaved = now, False
            self.save_took = time.time() - now  # a long queue is saved less often

    # -- calls -------------------------------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any], who: Who) -> Answer:
        """Answers a client, or the one who plays with the cluster."""
        if request["command"] == "control":
            return Answer(out=json.dumps(self._control(request["verb"], request["values"])))
        if request["command"] in DATABASE:
            return self._late(request, self._execute(request, who))
        if self.faults.hung:
            if request["command"] == "sbatch" and sbatch.reads_input(request["argv"], request.get("stdin")):
                return Answer(need="stdin")
            self.stalled += [] if self.faults.drop_jobs else [{**request, "who": who}]
            return Answer(timed_out=True, delay=self.cluster.answer_wait)
        answer = self._execute(request, who)
        if request["command"] == "sbatch" and self.faults.lose_answers and not answer.need and not answer.again:
            self.faults.lose_answers -= 1
            return Answer(timed_out=True, delay=self.cluster.answer_wait)
        return self._late(request, answer)

    def _late(self, request: dict[str, Any], answer: Answer) -> Answer:
        if not answer.need:
            answer.delay += self.faults.slow.get(request["command"], 0.0)
        return answer

    def _execute(self, request: dict[str, Any], who: Who) -> Answer:
        command, environment = request["command"], request["environment"]
        _use_timezone(environment.get("TZ"))
        call = Call(
            command,
            request["argv"],
            environment,
            request["cwd"],
            who,
            int(time.time()),
            request.get("umask", 0o022),
            request.get("stdin"),
        )
        try:
            if command == "sacct":
                return sacct.run(call, self.cluster, self.database.rows(time.time()), down=self.faults.database_down)
            if command == "sacctmgr":
                return sacctmgr.run(call, self.cluster, down=self.faults.database_down)
            if command == "sbatch" and self.faults.full_queue:
                return Answer(again=sbatch.FULL, delay=self.cluster.retry_wait)
            return COMMANDS[command](call, self.queue)
        except Failed as failed:
            return failed.answer

    # -- what a test does --------------------------------------------------------------------------------------------

    def _control(self, verb: str, values: dict[str, Any]) -> object:
        now = int(time.time())
        if verb == "faults":
            self.faults.change(values)
            self.ledger.lag = self.faults.accounting_lag
            self.folder.write_faults(vars(self.faults))
            self._unstall()
        elif verb == "jobs":
            return [{**job.to_json(), "request": {**vars(job.request), "environment": {}}} for job in self._jobs()]
        elif verb == "save":
            self.save(time.time(), force=True)
        elif verb == "fail_node":
            fail_node(self.queue, self.queue.state.nodes[values["name"]], now)
        elif verb == "update_node":
            who = Who("root", 0, "root", 0)
            node = self.queue.state.nodes[values["name"]]
            update_node(self.queue, node, values["state"], values["reason"], who, now)
        elif verb == "step":
            return self._srun_step(values, now)
        else:
            raise ValueError(verb)
        return None

    def _jobs(self) -> list[Job]:
        return list(self.queue.jobs.values())

    def _srun_step(self, values: dict[str, Any], now: int) -> object:
        """srun begins or ends a step of its job."""
        job = self.queue.jobs.get(int(values["job_id"]))
        if job is None or not job.holds_resources:
            return None
        return self.queue.step(job, values, now)

    def _unstall(self) -> None:
        """The controller goes on: it does what it was asked while it hung."""
        if self.faults.hung:
            return
        stalled, self.stalled = self.stalled, []
        for request in stalled:
            self._execute(request, request["who"])


def _use_timezone(name: str | None) -> None:
    """Times are printed as in the client's time zone."""
    if os.environ.get("TZ") == name:
        return
    if name is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = name
    time.tzset()
