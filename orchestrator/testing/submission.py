"""From options to a request: what sbatch itself checks before it asks the controller. Pure."""

import posixpath
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.testing.arguments import Arguments
from orchestrator.testing.arrays import ArraySpec, BadArray, parse_array
from orchestrator.testing.gres import BadGres, parse_gpus, parse_gres
from orchestrator.testing.hostlist import expand_hosts
from orchestrator.testing.memory import BadMemory, parse_memory
from orchestrator.testing.model import Request
from orchestrator.testing.times import BadTime, parse_limit, parse_when

DEFAULT_NICE = 100


class BadNumber(ValueError):
    """Not a number above 0."""


class Refused(Exception):
    """sbatch refuses. ``lines`` go to standard error as they are; client-side ones end with 255, others with 1."""

    def __init__(self, *lines: str, rc: int = 1) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.rc = rc


def rejected(why: str, *before: str) -> Refused:
    """The controller's no."""
    return Refused(*before, f"sbatch: error: Batch job submission failed: {why}")


@dataclass
class Submission:
    """A request, and what is no part of the job itself."""

    request: Request
    array: ArraySpec | None = None
    hold: bool = False
    priority: int | None = None
    warnings: list[str] = field(default_factory=list)


def read_submission(arguments: Arguments, cwd: str, environment: Mapping[str, str], now: int) -> Submission:
    """The submission that the options describe. Refused with 255 for a value that cannot be read."""
    request = Request(work_dir=posixpath.join(cwd, arguments.get("chdir", cwd)))
    for option, value in arguments.options.items():
        reader = _READERS.get(option)
        if reader is not None:
            _read(reader, request, option, value)
    if "begin" in arguments:
        request.begin = _when(arguments.get("begin"), now)
    request.requeue = "no-requeue" not in arguments
    request.no_kill = "no-kill" in arguments
    request.exclusive = "exclusive" in arguments
    request.environment = exported(arguments.get("export", "ALL"), environment)
    request.name = _name(arguments)
    warnings = _settle_tasks(request)
    priority = arguments.get("priority")
    return Submission(
        request,
        array=_array(arguments),
        hold="hold" in arguments or priority == "0",
        priority=int(priority) if priority.isdigit() else None,
        warnings=warnings,
    )


def _name(arguments: Arguments) -> str:
    if "job-name" in arguments:
        return arguments.get("job-name")
    if "wrap" in arguments:
        return "wrap"
    return posixpath.basename(arguments.words[0]) if arguments.words else "sbatch"


def _array(arguments: Arguments) -> ArraySpec | None:
    if "array" not in arguments:
        return None
    try:
        return parse_array(arguments.get("array"))
    except BadArray:
        raise rejected("Invalid job array specification") from None


def exported(words: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The job's environment of ``--export``: ALL, NONE, names, NAME=value."""
    if words == "NONE":
        return {"SLURM_EXPORT_ENV": "NONE", "SLURM_GET_USER_ENV": "1"}
    parts = words.split(",")
    found = dict(environment) if "ALL" in parts else {}
    for part in parts:
        name, equals, value = part.partition("=")
        if equals:
            found[name] = value
        elif name in environment:
            found[name] = environment[name]
    if "ALL" not in parts:
        found["SLURM_EXPORT_ENV"] = words
    return {name: value for name, value in found.items() if not name.startswith("SBATCH_")}


# -- one option each -----------------------------------------------------------------------------------------------


def _read(reader: Callable[[Request, str], None], request: Request, option: str, value: str) -> None:
    try:
        reader(request, value)
    except (BadTime, BadMemory, BadArray, ValueError) as error:
        if isinstance(error, BadGres):
            raise rejected("Invalid generic resource (gres) specification") from None
        if isinstance(error, BadNumber):
            raise Refused(f'sbatch: error: Invalid numeric value "{value}" for --{option}.') from None
        raise Refused(f"sbatch: error: Invalid --{option} specification", rc=255) from None


def _text(field: str) -> Callable[[Request, str], None]:
    return lambda request, value: setattr(request, field, value)


def _positive(field: str, given: str = "") -> Callable[[Request, str], None]:
    def read(request: Request, value: str) -> None:
        number = int(value) if value.isdigit() else 0
        if number < 1:
            raise BadNumber(value)
        setattr(request, field, number)
        if given:
            setattr(request, given, True)

    return read


def _time(request: Request, value: str) -> None:
    request.time_limit = parse_limit(value) or None  # 0 asks for no limit
    request.time_given = True


def _nodes(request: Request, value: str) -> None:
    low, dash, high = value.partition("-")
    request.nodes_min = int(low)
    request.nodes_max = int(high) if dash else request.nodes_min
    if request.nodes_max < request.nodes_min or request.nodes_min < 1:
        raise ValueError(value)
    request.nodes_given = True


def _gres(request: Request, value: str) -> None:
    parse_gres(value)
    request.gres = value


def _gpus_per_node(request: Request, value: str) -> None:
    parse_gpus(value)
    request.gpus_per_node = value
    request.gres = ",".join(["gpu:" + part for part in value.split(",")])


def _gpus(request: Request, value: str) -> None:
    parse_gpus(value)
    request.gpus = value


def _gpus_per_task(request: Request, value: str) -> None:
    parse_gpus(value)
    request.gpus_per_task = value


def _memory(field: str) -> Callable[[Request, str], None]:
    return lambda request, value: setattr(request, field, parse_memory(value))


def _hosts(field: str) -> Callable[[Request, str], None]:
    return lambda request, value: setattr(request, field, expand_hosts(value))


def _nice(request: Request, value: str) -> None:
    """What is no number counts as 0."""
    request.nice = (int(value) if value.lstrip("-").isdigit() else 0) if value else DEFAULT_NICE


def _licenses(request: Request, value: str) -> None:
    parts = (part.replace("=", ":").partition(":") for part in value.split(","))
    request.licenses = {name: int(number or 1) for name, _, number in parts}


def _signal(request: Request, value: str) -> None:
    spec = value.partition(":")[2] if value[:2] in {"B:", "R:"} else value
    name, _, seconds = spec.partition("@")
    signal_number(name)
    request.signal = f"{'B:' if value.startswith('B:') else ''}{name}@{int(seconds or 60)}"


def signal_number(name: str) -> int:
    """The number of ``USR1``, ``SIGUSR1`` or ``10``. ValueError."""
    if name.isdigit():
        return int(name)
    found = getattr(signal, "SIG" + name.upper().removeprefix("SIG"), None)
    if not isinstance(found, int):
        raise ValueError(name)
    return int(found)


def _mail(request: Request, value: str) -> None:
    """Accepted; nothing is sent."""


def _open_mode(request: Request, value: str) -> None:
    if value not in {"append", "truncate"}:
        raise ValueError(value)
    request.open_mode = value


def _when(text: str, now: int) -> int:
    try:
        moment = parse_when(text, now)
    except BadTime:
        where = f"Invalid time specification (pos=0): {text}"
        raise Refused(where, "sbatch: error: Invalid --begin specification", rc=255) from None
    return moment if moment > now else 0


def _settle_tasks(request: Request) -> list[str]:
    """What follows from counts that were given for counts that were not. Returns sbatch's warnings."""
    warnings = []
    if request.tasks_per_node and not request.tasks_given:
        request.tasks = request.tasks_per_node * request.nodes_min
    elif request.tasks_given and request.nodes_given:
        if request.nodes_min > request.tasks:
            few = f"can't run {request.tasks} processes on {request.nodes_min} nodes, setting nnodes to {request.tasks}"
            warnings.append(f"sbatch: Warning: {few}")
        request.nodes_min = min(request.nodes_min, request.tasks)
        if request.nodes_max is not None:
            request.nodes_max = min(request.nodes_max, max(request.tasks, request.nodes_min))
    elif not request.tasks_given:
        request.tasks = request.nodes_min
    if request.required_nodes and not request.nodes_given:
        request.nodes_min = max(request.nodes_min, len(request.required_nodes))
        request.tasks = max(request.tasks, request.nodes_min)
    return warnings


_READERS: dict[str, Callable[[Request, str], None]] = {
    "account": _text("account"),
    "comment": _text("comment"),
    "constraint": _text("features"),
    "cpus-per-gpu": _positive("cpus_per_gpu"),
    "cpus-per-task": _positive("cpus_per_task", "cpus_given"),
    "dependency": _text("dependency"),
    "error": _text("stderr"),
    "exclude": _hosts("excluded_nodes"),
    "gpus": _gpus,
    "gpus-per-node": _gpus_per_node,
    "gpus-per-task": _gpus_per_task,
    "gres": _gres,
    "input": _text("stdin"),
    "licenses": _licenses,
    "mail-type": _mail,
    "mem": _memory("memory_per_node"),
    "mem-per-cpu": _memory("memory_per_cpu"),
    "nice": _nice,
    "nodelist": _hosts("required_nodes"),
    "nodes": _nodes,
    "ntasks": _positive("tasks", "tasks_given"),
    "ntasks-per-node": _positive("tasks_per_node"),
    "open-mode": _open_mode,
    "output": _text("stdout"),
    "partition": lambda request, value: setattr(request, "partitions", value.split(",")),
    "qos": _text("qos"),
    "reservation": _text("reservation"),
    "signal": _signal,
    "time": _time,
    "wckey": _text("wckey"),
}
