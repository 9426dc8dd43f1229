"""sbatch: takes a batch script in. https://slurm.schedmd.com/sbatch.html"""

import posixpath
from collections.abc import Sequence
from pathlib import Path

from orchestrator.testing import options, times
from orchestrator.testing.admission import QueueFull
from orchestrator.testing.arguments import Arguments, UsageError
from orchestrator.testing.commands.base import Answer, Call, Failed, usage
from orchestrator.testing.commands.jobview import cpus
from orchestrator.testing.hostlist import compress_hosts
from orchestrator.testing.model import Job
from orchestrator.testing.placement import empty, free_resources, place
from orchestrator.testing.queue import Queue
from orchestrator.testing.submission import Refused, Submission, read_submission

FULL = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n"
NO_SHEBANG = (
    "sbatch: error: This does not look like a batch script.  The first\n"
    "sbatch: error: line must start with #! followed by the path to an interpreter.\n"
    "sbatch: error: For instance: #!/bin/sh"
)
DOS = (
    "sbatch: error: Batch script contains DOS line breaks (\\r\\n)\n"
    "sbatch: error: instead of expected UNIX line breaks (\\n)."
)


def run(call: Call, queue: Queue) -> Answer:
    """Answers one sbatch."""
    try:
        given = options.read(call.argv, call.environment, "")
        if "version" in given:
            return Answer(queue.profile.banner + "\n")
        if reads_input(call.argv, call.stdin):
            return Answer(need="stdin")
        script = _script(given, call)
        given = options.read(call.argv, call.environment, script)
        submission = read_submission(given, call.cwd, call.environment, call.now)
        _describe(submission, given, call, script)
        _check_cluster(given, queue)
        return (
            _test(submission, call, queue) if "test-only" in given else _submit(submission, given, call, queue, script)
        )
    except options.BadDirective as error:
        raise Failed(str(error), 255) from None
    except UsageError as error:
        raise usage("sbatch", error, 255) from None
    except Refused as refused:
        raise Failed("\n".join(refused.lines), refused.rc) from None
    except QueueFull:
        return Answer(again=FULL, delay=queue.cluster.retry_wait)


def reads_input(argv: Sequence[str], stdin: str | None) -> bool:
    """Whether the script is on standard input, and has not been read yet."""
    try:
        given = options.read(argv, {}, "")
    except UsageError:
        return False
    return stdin is None and not given.words and not {"wrap", "version"} & set(given.options)


def _script(given: Arguments, call: Call) -> str:
    """The script's text, after the checks that sbatch makes of it."""
    if "wrap" in given:
        if given.words:
            raise Failed("sbatch: error: Script arguments not permitted with --wrap option")
        wrapped = given.get("wrap")
        return f"#!/bin/sh\n# This script was created by sbatch --wrap.\n\n{wrapped}\n"
    text = call.stdin if not given.words else _read_script(posixpath.join(call.cwd, given.words[0]), given.words[0])
    if not text:
        raise Failed("sbatch: error: Batch script is empty!")
    if not text.startswith("#!"):
        raise Failed(NO_SHEBANG)
    if "\r\n" in text:
        raise Failed(DOS)
    return text


def _read_script(path: str, name: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        raise Failed(f"sbatch: error: Unable to open file {name}") from None


def _describe(submission: Submission, given: Arguments, call: Call, script: str) -> None:
    """What the request tells of its own making."""
    request = submission.request
    request.submit_line = " ".join(["sbatch", *call.argv])
    request.environment.setdefault("PATH", call.environment.get("PATH", "/usr/bin:/bin"))
    request.environment["SLURM_SUBMIT_DIR"] = call.cwd
    request.umask = call.umask
    request.pretend = options.pretend_words(script)
    if "wrap" not in given and given.words:
        request.command = posixpath.join(call.cwd, given.words[0])
        request.arguments = given.words[1:]


def _check_cluster(given: Arguments, queue: Queue) -> None:
    wanted = given.get("clusters") or given.get("cluster")
    if wanted and wanted not in {queue.cluster.name, "all"}:
        raise Failed(
            f"sbatch: error: No cluster '{wanted}' known by database.\n"
            f"sbatch: error: '{wanted}' can't be reached now, or it is an invalid entry for --cluster.  "
            "Use 'sacctmgr list clusters' to see available clusters."
        )


def _submit(submission: Submission, given: Arguments, call: Call, queue: Queue, script: str) -> Answer:
    job = queue.submit(submission, call.who, call.now)
    queue.keep_script(job, script)
    cluster = given.get("clusters") or given.get("cluster")
    if "parsable" in given:
        text = f"{job.job_id};{queue.cluster.name}" if cluster else str(job.job_id)
    else:
        text = f"Submitted batch job {job.job_id}" + (f" on cluster {queue.cluster.name}" if cluster else "")
    return Answer("" if "quiet" in given and "parsable" not in given else text + "\n", _warnings(submission))


def _test(submission: Submission, call: Call, queue: Queue) -> Answer:
    """``--test-only``: where and when it would start, on the error output."""
    try:
        job_id, request = queue.would_start(submission, call.who)
    except Refused as refused:
        first = refused.lines[:-1]
        why = refused.lines[-1].partition("failed: ")[2]
        raise Failed("\n".join([*first, f"allocation failure: {why}"])) from None
    partition = queue.cluster.partition(request.partitions[0]) or queue.cluster.default_partition
    nodes = queue.cluster.nodes_of(partition)
    now = place(request, nodes, free_resources(queue.cluster, queue.jobs.values()))
    shares = now or place(request, nodes, {node.name: empty(node) for node in nodes})
    if shares is None:
        raise Failed("allocation failure: Requested node configuration is not available")
    starts = call.now if now else max((job.end_limit for job in queue.jobs.values()), default=0) or call.now
    moment = times.stamp(max(starts, request.begin), call.environment) + queue.profile.test_only_letter
    trial = Job(job_id, request, "", 0, "", 0, 0, shares=shares)
    nodes_text = compress_hosts(trial.nodes)
    where = f"using {cpus(trial)} processors on nodes {nodes_text} in partition {partition.name}"
    return Answer(err=f"{_warnings(submission)}sbatch: Job {job_id} to start at {moment} {where}\n")


def _warnings(submission: Submission) -> str:
    return "".join(line + "\n" for line in submission.warnings)
