"""sacct: the accounting database. https://slurm.schedmd.com/sacct.html"""

from collections.abc import Iterator, Sequence

from orchestrator.testing import times
from orchestrator.testing.arguments import Arguments, UsageError, options_table, parse
from orchestrator.testing.arrays import BadArray, JobRef, parse_refs
from orchestrator.testing.cluster import Cluster
from orchestrator.testing.commands import sacct_fields
from orchestrator.testing.commands.base import Answer, Call, Failed, usage, words_of
from orchestrator.testing.commands.selection import BadState, Selection, state_names
from orchestrator.testing.hostlist import expand_hosts
from orchestrator.testing.model import FINISHED, Job
from orchestrator.testing.profiles import Profile, profile_for

OPTIONS = options_table(
    "-a/--allusers -A/--accounts= --array -b/--brief -B/--batch-script -c/--completion --delimiter= -D/--duplicates "
    "-e/--helpformat --env-vars -E/--endtime= -f/--file= -F/--flags= -g/--gid= --federation -h/--help -i/--nnodes= "
    "-I/--ncpus= -j/--jobs= -k/--timelimit-min= -K/--timelimit-max= -l/--long -L/--allclusters -M/--clusters= "
    "-n/--noheader --name= -N/--nodelist= --noconvert -o/--format= -p/--parsable -P/--parsable2 -q/--qos= "
    "-r/--partition= -R/--reason= -s/--state= -S/--starttime= --truncate -u/--user= "
    "--uid= --units= --usage -v/--verbose -V/--version "
    "-W/--wckeys= -x/--associations= -X/--allocations"
)
DEFAULT = "jobid,jobname,partition,account,alloccpus,state,exitcode"
BRIEF = "jobid,state,exitcode"
DISABLED = "Slurm accounting storage is disabled"
DATABASE_DOWN = (
    "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent connection to host:localhost:6819: "
    "Connection refused\n"
    "sacct: error: Sending PersistInit msg: Connection refused\n"
    "sacct: error: Problem talking to the database: Connection refused"
)


def run(call: Call, cluster: Cluster, rows: Sequence[Job], *, down: bool = False) -> Answer:
    """Answers one sacct from the database's rows, oldest first."""
    profile = profile_for(cluster.version)
    try:
        given = parse("sacct", OPTIONS, call.argv, interleaved=True)
    except UsageError as error:
        raise usage("sacct", error) from None
    if "version" in given:
        return Answer(profile.banner + "\n")
    if not cluster.accounting:
        raise Failed(DISABLED)
    fields = _fields(given, call, profile)
    if down:
        raise Failed(DATABASE_DOWN)
    jobs = _selected(given, call, list(rows))
    table = sacct_fields.Values(profile, call.environment, call.now)
    lines = [] if "noheader" in given else sacct_fields.headings(fields, _separator(given), _trailing(given))
    for job in jobs:
        lines.append(sacct_fields.line(fields, table.of_job(job), _separator(given), _trailing(given)))
        if "allocations" not in given:
            lines += [
                sacct_fields.line(fields, table.of_step(job, step), _separator(given), _trailing(given))
                for step in job.steps
            ]
    return Answer("".join(line + "\n" for line in lines))


def _separator(given: Arguments) -> str:
    """Between the fields; nothing for aligned columns."""
    return given.get("delimiter", "|") if "parsable" in given or "parsable2" in given else ""


def _trailing(given: Arguments) -> bool:
    return "parsable" in given


def _fields(given: Arguments, call: Call, profile: Profile) -> list[sacct_fields.Field]:
    text = given.get("format") or (BRIEF if "brief" in given else call.environment.get("SACCT_FORMAT", DEFAULT))
    found = []
    for word in words_of(text):
        name, percent, width = word.partition("%")
        field = sacct_fields.find(name, profile)
        if field is None:
            raise Failed(f'sacct: error: Invalid field requested: "{name}"')
        found.append(field.wide(width) if percent else field)
    return found


def _selected(given: Arguments, call: Call, rows: list[Job]) -> list[Job]:
    refs = _refs(given)
    if "duplicates" not in given:
        rows = list({_identity(job): job for job in rows}.values())
    users = words_of(given.get("user") or given.get("uid"))
    if not users and "allusers" not in given and not refs and call.who.uid != 0:
        users = [call.who.user]
    selection = Selection(
        users=users,
        names=words_of(given.get("name")),
        partitions=words_of(given.get("partition")),
        accounts=words_of(given.get("accounts")),
        qos=words_of(given.get("qos")),
        nodes=expand_hosts(given.get("nodelist")),
        states=_states(given),
    )
    start, end = _period(given, call.now, named=bool(refs))
    chosen = (job for job in rows if selection.wants(job))
    if refs:
        named = _Named(refs)
        return [job for job in chosen if job.submit_time >= start and named.has(job)]
    return list(_within(chosen, start, end))


def _identity(job: Job) -> tuple[int, int | None]:
    return job.job_id, job.array_task_id


def _refs(given: Arguments) -> list[JobRef]:
    try:
        return parse_refs(given.get("jobs"))
    except BadArray as error:
        raise Failed(f"sacct: fatal: Bad job/step specified: {error}") from None


def _states(given: Arguments) -> frozenset[str] | None:
    if "state" not in given:
        return None
    try:
        return state_names(given.get("state"))
    except BadState as error:
        raise Failed(f"sacct: error: Invalid state specified: {error}") from None


def _period(given: Arguments, now: int, *, named: bool) -> tuple[int, int]:
    """``-S`` and ``-E``; without them since midnight, or since ever for jobs that were named."""
    midnight = times.parse_when("today", now)
    try:
        start = times.parse_when(given.get("starttime"), now) if "starttime" in given else (0 if named else midnight)
        end = times.parse_when(given.get("endtime"), now) if "endtime" in given else now
    except times.BadTime as error:
        raise Failed(f"Invalid time specification (pos=0): {error}") from None
    return start, end


class _Named:
    """The jobs that ``-j`` names; there may be thousands."""

    def __init__(self, refs: Sequence[JobRef]) -> None:
        self.whole = {ref.job_id for ref in refs if ref.tasks is None}
        self.tasks = {(ref.job_id, task) for ref in refs for task in ref.tasks or ()}

    def has(self, job: Job) -> bool:
        """Whether the job, its array, or this task of it was named."""
        task = (job.array_job_id, job.array_task_id)
        return job.job_id in self.whole or job.array_job_id in self.whole or task in self.tasks


def _within(jobs: Iterator[Job], start: int, end: int) -> Iterator[Job]:
    """Those that were alive in the period. What is not eligible yet is left out, as by slurmdbd."""
    for job in jobs:
        eligible = job.eligible_time
        if job.state not in FINISHED and not job.start_time and (not eligible or eligible > end):
            continue
        if eligible <= end and (not job.end_time or job.end_time >= start):
            yield job
