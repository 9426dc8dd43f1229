"""What the contract's tests have in common: runs that wait for a word, and looks at the cluster itself."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service import TERMINAL, Json, RealServer
from tests.support.sites import Site, Slurm
from tests.support.waiting import wait_until

LATER = {"begin": "now+1hour", "cpus": 1}
LONG = "contract-long"


def until_file(path: Path) -> str:
    """A command that goes on until there is such a file."""
    return f"until [ -e {path} ]; do sleep 0.1; done"


def mark(path: Path) -> str:
    """A command that says that it executes."""
    return f"echo $ORC_RUN_ID $ORC_ATTEMPT >> {path}"


def marks(path: Path, run_id: str = "") -> list[str]:
    """Who has executed: run and attempt, in order."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(run_id)]


def job_of(run: Json) -> str:
    """``7`` or ``18_3``."""
    job_id, index = run["scheduler"]["job_id"], run["scheduler"].get("array_index")
    return str(job_id) if index is None else f"{job_id}_{index}"


def in_slurm(orc: RealServer, run_id: str, *states: str, seconds: float = 60.0) -> Json:
    """The run once Slurm has shown its job (in one of these states)."""

    def there() -> Json | None:
        found = dict(orc.get(f"/runs/{run_id}"))
        state = (found["scheduler"] or {}).get("state")
        if state is not None and (not states or state in states):
            return found
        assert found["status"] not in TERMINAL, found
        return None

    return wait_until(there, f"run {run_id} in Slurm {'/'.join(states)}", seconds)


def begun(orc: RealServer, run_ids: Iterable[str], seconds: float = 60.0) -> list[Json]:
    """The runs once they all run."""
    return [orc.until(run_id, "running", seconds=seconds) for run_id in run_ids]


def executing(orc: RealServer, run_id: str, path: Path) -> Json:
    """The run once it runs and has said so: its start is told just before its first command."""
    run = orc.until(run_id, "running")
    wait_until(lambda: marks(path, run_id), f"run {run_id} has said that it executes")
    return run


def show(slurm: Slurm, job: str, form: str = "%T") -> str:
    """What squeue says of one job or array task; "" for one that it does not know."""
    done = slurm.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", form, check=False)
    return done.stdout.strip()


def ended(slurm: Slurm, job: str) -> bool:
    """Whether squeue shows an end, or nothing, of a job."""
    return show(slurm, job) not in {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED"}


def sbatch(slurm: Slurm, *words: str) -> str:
    """A job of somebody else's: its id."""
    return slurm.run("sbatch", "--parsable", "-o", "/dev/null", *words).stdout.strip().partition(";")[0]


def sweep(
    orc: RealServer, command: str, count: int, parallel: int | None = None, **fields: Any
) -> tuple[str, list[str]]:
    """A sweep of so many like runs, started: its id and its runs'. The command is a script of bash."""
    quoted = command.replace("'", "'\\''")
    body = {"name": "test", "base_command": f"bash -c '{quoted}'", "parameters": {"i": list(range(count))}, **fields}
    made = orc.post("/sweeps", body)
    orc.post(f"/sweeps/{made['id']}/start" + (f"?parallel={parallel}" if parallel else ""))
    return made["id"], made["run_ids"]


def said(orc: RealServer, run_id: str, kind: str, words: str = "") -> bool:
    """Whether such an event was recorded of the run."""
    return any(event["kind"] == kind and words in event["message"] for event in orc.events(run_id))


def statuses(orc: RealServer, run_id: str) -> list[str]:
    """Every status that the run has had, in order."""
    changes = [(event.get("after") or {}).get("status") for event in sorted(orc.events(run_id), key=_id)]
    return [status for status in changes if status is not None]


def _id(event: Json) -> int:
    return int(event["id"])


def calls(orc: RealServer, command: str) -> int:
    """How often the server has called one of Slurm's commands."""
    text = orc.http.get("/metrics").text
    found = re.search(rf'^orc_slurm_command_calls_total{{command="{command}"}} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0


def degraded(orc: RealServer) -> bool:
    """Whether the server says that Slurm gives no answer."""
    return bool(orc.get("/cluster")["cluster"]["status"] == "degraded")


@contextmanager
def controller_away(slurm: Slurm) -> Iterator[None]:
    """No controller in the block; it is back after it."""
    slurm.stop_controller()
    try:
        yield
    finally:
        slurm.start_controller()


@contextmanager
def node_failed(slurm: Slurm, node: str) -> Iterator[None]:
    """A node that is gone in the block, and back after it."""
    slurm.fail_node(node)
    try:
        yield
    finally:
        slurm.resume_node(node)


@contextmanager
def database_away(slurm: Slurm) -> Iterator[None]:
    """No slurmdbd in the block; it is back after it."""
    slurm.stop_database()
    try:
        yield
    finally:
        slurm.start_database()


def end_all(orc: RealServer, keep: str) -> None:
    """Stops whatever is not over, but for runs with the tag ``keep``."""

    def left() -> list[Json]:
        found = orc.get("/runs", status=["queued", "launching", "running"], limit=1000)
        return [run for run in found if keep not in run["tags"]]

    for run in left():
        if not run["stop_requested"]:
            orc.http.post(f"/runs/{run['id']}/stop")
    wait_until(lambda: not left(), "every run over", 60)


def start_long_runs(place: Site) -> dict[str, str]:
    """Runs of a minute, all on n4, which nothing else fails or fills. Their ids by what they show.

    slurmctld looks each half minute, and sends their signal up to so much early: in their second 15 at the earliest.
    """
    orc = place.orc
    trap = "trap 'echo warned; exit 0' USR1; while :; do sleep 0.2; done"
    python = (
        "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: (print('warned', flush=True), sys.exit(0)))"
        "\ntime.sleep(100)"
    )
    script = place.folder / "child.py"
    script.write_text(python)
    given: dict[str, dict[str, Any]] = {
        "limit": {"command": "echo begun; sleep 500"},
        "ignores": {"command": "trap '' TERM; for i in {1..500}; do sleep 1; done"},
        "trap": {"command": trap, "signal": "USR1@15"},
        "child": {"command": f"echo plain\npython3 {script}\necho after", "signal": "USR1@15"},
        "uncaught": {"command": "sleep 500", "signal": "USR1@15"},
        "unasked": {"command": "trap 'echo warned' USR1; for i in {1..500}; do sleep 1; done"},
        "retried": {"command": "[ $ORC_ATTEMPT = 2 ] || sleep 500", "retry": {"max": 1, "on": ["TIMEOUT"]}},
    }
    asked = {"time": 1, "nodelist": "n4", "cpus": 1, "mem": "100M", "partition": "high"}
    made = {name: orc.run(resources=asked, tags=[LONG], **fields) for name, fields in given.items()}
    begun(orc, [run["id"] for run in made.values()], 60)
    return {name: str(run["id"]) for name, run in made.items()}


def only(values: Sequence[Any]) -> Any:
    """The one value that all of these are."""
    assert len(set(values)) == 1, values
    return values[0]
