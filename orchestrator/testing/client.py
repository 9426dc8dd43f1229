"""The emulated commands' client side: one file, few imports, started for every sbatch and squeue.

It sends its command line, environment and folder to the controller, which answers with what to print. What the
controller cannot answer is answered here: that it is down, or does not answer in time.

    python -I -S client.py FOLDER COMMAND [WORDS...]
"""

# pathlib is slow to import, and this starts often.
# ruff: noqa: PTH109, PTH123

import json
import os
import socket
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE_TIMEOUT = 10.0
PACKAGE_ROOT = __file__.removesuffix("/orchestrator/testing/client.py")
DOWN = "Unable to contact slurm controller (connect failure)"
TIMED_OUT = "Socket timed out on send/recv operation"
_EXIT_CODES = {DOWN: 1800 & 0xFF, TIMED_OUT: 5004 & 0xFF}  # slurm_errno, as far as an exit status holds it
_TRIES = 5
_SHOWS = {"job": "slurm_load_jobs", "node": "slurm_load_node", "config": "slurm_load_ctl_conf"}


def main(folder: str, command: str, argv: list[str]) -> int:
    """Runs one command; returns its exit status."""
    count_call(folder, command)
    request: dict[str, Any] = {
        "command": command,
        "argv": argv,
        "environment": dict(os.environ),
        "cwd": _cwd(),
        "umask": _umask(),
    }
    if command == "srun":
        return _srun(folder, argv)
    try:
        os.chdir(folder)  # a socket's path is short, a folder's may be long
    except OSError:
        return _say(*trouble(command, argv, DOWN))
    for attempt in range(_TRIES):
        answer = _ask(request)
        if answer is None:
            return _down(folder, command, request)
        if "again" not in answer:
            break
        if attempt == 0:
            sys.stderr.write(answer["again"])
        time.sleep(answer["delay"])
    else:
        answer = {"err": "sbatch: error: Batch job submission failed: Resource temporarily unavailable\n", "rc": 1}
    time.sleep(answer.get("delay", 0))
    if answer.get("timed_out"):
        return _say(*trouble(command, argv, TIMED_OUT))
    return _say(answer.get("out", ""), answer.get("err", ""), answer.get("rc", 0))


def count_call(folder: str, command: str) -> None:
    """Adds one to the command's calls: a byte in a file, whether or not there is a controller."""
    try:
        descriptor = os.open(f"{folder}/calls/{command}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:
        return
    os.write(descriptor, b".")
    os.close(descriptor)


def _ask(request: "dict[str, Any]") -> "dict[str, Any] | None":
    """The controller's answer, or None when there is none to be had."""
    try:
        answer = exchange(request)
        if answer.get("need") == "stdin":
            answer = exchange({**request, "stdin": sys.stdin.buffer.read().decode("utf-8", "surrogateescape")})
    except TimeoutError:
        return {"timed_out": True}
    except (OSError, ValueError):
        return None
    return answer


def exchange(request: "dict[str, Any]", address: str = "controller.sock") -> "dict[str, Any]":
    """One request and its answer; the socket is that of the current folder. OSError, ValueError, TimeoutError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(MESSAGE_TIMEOUT)
        connection.connect(address)
        connection.sendall(json.dumps(request).encode())
        connection.shutdown(socket.SHUT_WR)
        received = bytearray()
        while chunk := connection.recv(1 << 20):
            received += chunk
    answer: dict[str, Any] = json.loads(received)
    return answer


def _down(folder: str, command: str, request: "dict[str, Any]") -> int:
    """No controller: sacct and sacctmgr need none, the others say so after a while."""
    if command in {"sacct", "sacctmgr"}:
        sys.path.insert(0, PACKAGE_ROOT)
        from orchestrator.testing.commands.offline import answer_offline

        return _say(*answer_offline(folder, request))
    argv = request["argv"]
    if command != "scontrol" or "ping" not in argv:
        time.sleep(float(_read(folder, "connect_wait") or 0))
    return _say(*trouble(command, argv, DOWN))


def trouble(command: str, argv: list[str], why: str) -> tuple[str, str, int]:
    """Output, error output and exit status of a command that got no answer."""
    words = [word for word in argv if not word.startswith("-")]
    if command == "sbatch":
        return "", f"sbatch: error: Batch job submission failed: {why}\n", 1
    if command == "squeue":
        return "", f"slurm_load_jobs error: {why}\n", 1
    if command == "sinfo":
        return "", f"slurm_load_partitions: {why}\n", 1
    if command == "scancel":
        lines = [f"scancel: error: Kill job error on job id {word}: {why}\n" for word in words]
        return "", "".join(lines) or f"scancel: error: slurm_load_jobs error: {why}\n", _EXIT_CODES[why] if words else 1
    if command == "scontrol" and words[:1] == ["ping"]:
        return f"Slurmctld(primary) at {socket.gethostname()} is DOWN\n", "", 1
    if command == "scontrol" and words[:1] == ["show"]:
        shown = next((name for kind, name in _SHOWS.items() if words[1:2] and kind.startswith(words[1][:4])), "")
        return "", f"{shown or 'slurm_load_partitions'} error: {why}\n", 1
    if command == "scontrol":
        return "", f"{why} for job {words[-1]}\n" if len(words) > 1 else f"{why}\n", 1
    return "", f"{command}: error: {why}\n", 1


def _srun(folder: str, argv: list[str]) -> int:
    """srun works where it is called: it starts the tasks itself."""
    sys.path.insert(0, PACKAGE_ROOT)
    from orchestrator.testing.commands.srun import run

    return run(folder, argv)


def _say(out: str, err: str, rc: int) -> int:
    sys.stdout.buffer.write(out.encode("utf-8", "surrogateescape"))
    sys.stderr.buffer.write(err.encode("utf-8", "surrogateescape"))
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        os._exit(1)  # the reader has gone; Python would complain once more at its exit
    return rc


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}") as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    try:
        status = main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except KeyboardInterrupt:
        status = 130
    sys.stdout.flush()
    os._exit(status)  # no need to take the interpreter down in order
