"""scontrol: looks at jobs, nodes and settings, and changes them. https://slurm.schedmd.com/scontrol.html"""

import socket
from collections.abc import Callable, Mapping, Sequence

from orchestrator.testing import operations
from orchestrator.testing.arguments import UsageError, options_table, parse
from orchestrator.testing.arrays import BadArray, parse_ref, split_list
from orchestrator.testing.commands import scontrol_show
from orchestrator.testing.commands.base import Answer, Call, Failed, usage
from orchestrator.testing.hostlist import expand_hosts
from orchestrator.testing.model import Job
from orchestrator.testing.queue import Queue
from orchestrator.testing.state import Who

OPTIONS = options_table(
    "-a/--all -d/--details -F/--future -h/--help --hide -M/--clusters= -o/--oneliner -Q/--quiet --local "
    "--federation -u/--uid= -v/--verbose -V/--version --usage --sibling"
)
JSON_OPTIONS = OPTIONS | options_table("--json? --yaml?")
Act = Callable[[Queue, Job, Who, int], None]
_ACTS: dict[str, Act] = {
    "hold": operations.hold,
    "uhold": lambda queue, job, who, now: operations.hold(queue, job, who, now, as_user=True),
    "release": operations.release,
    "requeue": operations.requeue,
    "requeuehold": lambda queue, job, who, now: operations.requeue(queue, job, who, now, hold_it=True),
    "suspend": operations.suspend,
    "resume": operations.resume,
}
_SUSPEND_ERROR = frozenset({"hold", "uhold", "release"})


def run(call: Call, queue: Queue) -> Answer:
    """Answers one scontrol."""
    try:
        given = parse("scontrol", JSON_OPTIONS if queue.profile.json else OPTIONS, call.argv, interleaved=True)
    except UsageError as error:
        raise usage("scontrol", error) from None
    if "version" in given:
        return Answer(queue.profile.banner + "\n")
    if "json" in given or "yaml" in given:
        raise Failed("scontrol: fatal: Unable to find plugin: serializer/json")
    verb, *words = given.words or [""]
    if verb == "ping":
        return Answer(f"Slurmctld(primary) at {socket.gethostname()} is UP\n")
    if verb == "show":
        return scontrol_show.run(given, words, call, queue)
    if verb == "update":
        return _update(words, call, queue)
    if verb in _ACTS:
        return _act(verb, words, call, queue)
    if verb in {"reconfigure", "takeover"}:
        return Answer()
    raise Failed(f"invalid keyword: {verb}")


def _act(verb: str, words: Sequence[str], call: Call, queue: Queue) -> Answer:
    errors: list[str] = []
    for text in [part for word in words for part in split_list(word) if part]:
        try:
            jobs = _find(text, queue, split=verb not in {"hold", "uhold", "release"} or "_" in text)
        except BadArray:
            raise Failed(f"Invalid job id specified for job {text}") from None
        if not jobs:
            errors += _unknown(verb, text)
        for job in jobs:
            try:
                _allow(call, job, "Invalid user id" if verb in _SUSPEND_ERROR else "Access/permission denied")
                _ACTS[verb](queue, job, call.who, call.now)
            except operations.Denied as denied:
                errors.append(_refusal(denied, text))
    return Answer(err="".join(line + "\n" for line in errors), rc=1 if errors else 0)


def _refusal(denied: operations.Denied, text: str) -> str:
    """Of array tasks slurmctld names those that it refuses: ``3_0-1: …``."""
    job, sign, tasks = text.removeprefix("JobId=").partition("_")
    return f"{job}_{tasks.strip('[]')}: {denied}" if sign else f"{denied} for job {text}"


def _unknown(verb: str, text: str) -> list[str]:
    said = [f"{operations.INVALID_ID} for job {text}"]
    return [*said, f"slurm_suspend error: {operations.INVALID_ID}"] if verb in _SUSPEND_ERROR else said


def _allow(call: Call, job: Job, words: str) -> None:
    if call.who.uid not in {0, job.uid}:
        raise operations.Denied(words)


def _find(text: str, queue: Queue, *, split: bool) -> list[Job]:
    """The records of a job id or ``name=``; named waiting tasks become records of their own."""
    if text.startswith(("jobname=", "name=")):
        return [job for job in queue.jobs.values() if job.request.name == text.partition("=")[2]]
    ref = parse_ref(text.removeprefix("JobId="))
    found: list[Job] = []
    for job in queue.find(ref):
        named = [task for task in job.waiting_tasks if ref.tasks and task in ref.tasks]
        found += [queue.split(job, task) for task in named] if split and named else [job]
    return found


# -- update ----------------------------------------------------------------------------------------------------------


def _update(words: Sequence[str], call: Call, queue: Queue) -> Answer:
    pairs = {name.lower(): value for name, _, value in (word.partition("=") for word in words)}
    if "nodename" in pairs:
        return _update_node(pairs, call, queue)
    job_id = pairs.pop("jobid", pairs.pop("job", ""))
    if not job_id:
        raise Failed('No valid entity in update command\nInput line must include "NodeName", "JobId" or similar')
    original = {name.lower(): name for name in (word.partition("=")[0] for word in words)}
    jobs = _find(job_id, queue, split=True)
    if not jobs:
        raise Failed(f"{operations.INVALID_ID} for job {job_id}")
    errors = []
    for job in jobs:
        try:
            _allow(call, job, "Invalid user id")
            operations.update_job(queue, job, pairs)
        except KeyError as unknown:
            name = str(unknown.args[0])
            raise Failed(
                f"Update of this parameter is not supported: {original[name]}={pairs[name]}\nRequest aborted"
            ) from None
        except operations.Denied as denied:
            errors.append(_refusal(denied, job_id) + "\n")
    return Answer(err="".join(errors), rc=1 if errors else 0)


def _update_node(pairs: Mapping[str, str], call: Call, queue: Queue) -> Answer:
    for name in expand_hosts(pairs["nodename"]):
        node = queue.state.nodes.get(name)
        if node is None:
            raise Failed("slurm_update error: Invalid node name specified")
        if call.who.uid != 0:
            raise Failed("slurm_update error: Invalid user id")
        try:
            state, reason = pairs.get("state", "").upper(), pairs.get("reason", "")
            if state in {"DOWN", "DRAIN", "FAIL"} and not reason:
                raise Failed("You must specify a reason when DOWNING or DRAINING a node. Request denied")
            if state:
                operations.update_node(queue, node, state, reason, call.who, call.now)
        except operations.Denied as denied:
            raise Failed(f"slurm_update error: {denied}") from None
    return Answer()
