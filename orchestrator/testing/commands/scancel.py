"""scancel: cancels or signals jobs. https://slurm.schedmd.com/scancel.html"""

from orchestrator.testing.arguments import Arguments, UsageError, options_table, parse
from orchestrator.testing.arrays import BadArray, JobRef, parse_ref, split_list
from orchestrator.testing.commands.base import Answer, Call, Failed, usage, words_of
from orchestrator.testing.commands.selection import BadState, Selection, state_names
from orchestrator.testing.hostlist import expand_hosts
from orchestrator.testing.model import Job
from orchestrator.testing.queue import Queue
from orchestrator.testing.submission import signal_number

OPTIONS = options_table(
    "-A/--account= -b/--batch --ctld -c/--cron -f/--full -H/--hurry -i/--interactive -M/--clusters= --me -n/--jobname= "
    "--name= -p/--partition= -Q/--quiet -q/--qos= -R/--reservation= --sibling= -s/--signal= -t/--state= -u/--user= "
    "-v/--verbose -V/--version -w/--nodelist= --wckey= --help --usage"
)
_FILTERS = ("account", "jobname", "name", "partition", "qos", "state", "user", "me", "nodelist", "reservation", "wckey")
INVALID_ID = "Invalid job id specified"
DENIED = "Access/permission denied"


def run(call: Call, queue: Queue) -> Answer:
    """Answers one scancel."""
    try:
        given = parse("scancel", OPTIONS, call.argv, interleaved=True)
    except UsageError as error:
        raise usage("scancel", error) from None
    if "version" in given:
        return Answer(queue.profile.banner + "\n")
    if not given.words and not any(name in given for name in _FILTERS):
        raise Failed("scancel: error: No job identification provided")
    number = _signal(given)
    selection = _selection(given, call, queue)
    return _Cancelling(given, call, queue, selection, number).run()


def _signal(given: Arguments) -> str:
    """The signal's name, or nothing for a cancellation."""
    text = given.get("signal").upper().removeprefix("SIG")
    if "signal" not in given or text in {"KILL", "9"}:
        return ""
    try:
        number = signal_number(text)
    except ValueError:
        raise Failed(f"Unknown job signal: {given.get('signal')}") from None
    import signal

    return signal.Signals(number).name.removeprefix("SIG")


def _selection(given: Arguments, call: Call, queue: Queue) -> Selection:
    users = [call.who.user] if "me" in given else words_of(given.get("user"))
    known = {job.user for job in queue.jobs.values()} | {call.who.user}
    for user in users:
        if user not in known and not _exists(user):
            raise Failed(f"scancel: error: Invalid user name: {user}")
    try:
        states = state_names(given.get("state")) if "state" in given else None
    except BadState as error:
        raise Failed(f"scancel: error: Invalid job state specified: {error}") from None
    return Selection(
        users=users,
        names=words_of(given.get("jobname") or given.get("name")),
        partitions=words_of(given.get("partition")),
        accounts=words_of(given.get("account")),
        qos=words_of(given.get("qos")),
        nodes=expand_hosts(given.get("nodelist")),
        states=states,
    )


def _exists(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


class _Cancelling:
    """One call: what it cancels, what it says."""

    def __init__(self, given: Arguments, call: Call, queue: Queue, selection: Selection, signal_name: str) -> None:
        self.given, self.call, self.queue = given, call, queue
        self.selection, self.signal_name = selection, signal_name
        self.errors: list[str] = []
        self.rc = 0

    def run(self) -> Answer:
        if not self.given.words:
            for job in [job for job in self.queue.jobs.values() if not job.finished and self.selection.wants(job)]:
                self._say(str(job.job_id))
                self._end(job, None)
            return self._answer()
        for text in [part for word in self.given.words for part in split_list(word) if part]:
            try:
                ref = parse_ref(text)
            except BadArray:
                raise Failed(f"scancel: error: Invalid job id {text}") from None
            self._one(ref, text)
        return self._answer()

    def _answer(self) -> Answer:
        return Answer(err="".join(line + "\n" for line in self.errors), rc=self.rc)

    def _say(self, name: str) -> None:
        if "verbose" in self.given:
            verb = f"Signal {self.signal_name} to" if self.signal_name else "Terminating"
            self.errors.append(f"scancel: {verb} job {name}")

    def _one(self, ref: JobRef, text: str) -> None:
        self._say(text)
        jobs = self.queue.find(ref)
        if not jobs and "verbose" in self.given:
            self.errors.append(f"scancel: error: Kill job error on job id {text}: {INVALID_ID}")
        for job in jobs:
            if self.selection.wants(job):
                self._end(job, ref.tasks)

    def _end(self, job: Job, tasks: tuple[int, ...] | None) -> None:
        if self.call.who.uid not in {0, job.uid}:
            self.errors.append(f"scancel: error: Kill job error on job id {job.job_id}: {DENIED}")
            self.rc = 2002 & 0xFF
        elif self.signal_name:
            whom = "batch" if "batch" in self.given else "full" if "full" in self.given else "steps"
            self.queue.signal(job, self.signal_name, whom)
        elif tasks is not None and job.waiting_tasks:
            for task in set(tasks) & set(job.waiting_tasks):
                self.queue.cancel_task(job, task, self.call.who, self.call.now)
        else:
            self.queue.cancel(job, self.call.who, self.call.now)
