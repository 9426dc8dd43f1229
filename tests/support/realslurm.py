"""A real Slurm cluster on this machine: Debian's packages, as root, on loopback, in a folder of its own.

Four nodes (n1..n4, 8 CPUs and four fake GPUs each: /dev/null's twins), partitions ``normal`` (the default), ``low``
(preempted by others), ``high`` and ``short`` (two minutes at most); with slurmdbd and MariaDB, or without accounting.

    python -m tests.support.realslurm [--accounting] [FOLDER] [-- COMMAND ...]

starts one, runs the command (or a shell) with SLURM_CONF set, and stops it.
What made it work on one host is in the comments beside each setting.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
GPUS_PER_NODE = 4
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
NEEDED_FOR_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr")
ACCOUNTS = ("research", "teaching")


def missing(*, accounting: bool) -> str | None:
    """Why no real cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "starting slurmd needs root"
    wanted = NEEDED + (NEEDED_FOR_ACCOUNTING if accounting else ())
    absent = [name for name in wanted if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, and that the kernel gives to nobody who asks for any."""
    given_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    for port in random.sample(range(10_000, given_out), given_out - 10_000):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"of loopback's ports 10000 to {given_out}, only {len(found)} are free: {count} are needed")


class RealSlurm:
    """One cluster. ``environment`` is what its clients need; daemons are children of this process."""

    def __init__(self, folder: Path, *, accounting: bool, min_job_age: int = 300, max_job_count: int = 200_000) -> None:
        self.folder = folder
        self.accounting = accounting
        self.min_job_age = min_job_age
        self.max_job_count = max_job_count
        self.conf = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = free_ports(2 + len(NODES))
        self._host = socket.gethostname().split(".")[0]

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster has in its environment."""
        return {"SLURM_CONF": str(self.conf)}

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> "RealSlurm":
        """Starts everything and waits until all nodes are idle."""
        for name in ("state", "spool", "log", "run", "gpus"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._make_gpus()
        self._start_munge()
        self._write_conf()
        if self.accounting:
            self._start_database()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._until(lambda: self._sinfo().count("idle") == len(NODES), "all nodes idle")
        return self

    def stop(self) -> None:
        """Stops every daemon, jobs included."""
        if self._running("slurmctld"):
            with suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--user=root", timeout=15)
        for name in ["slurmctld", *(f"slurmd-{node}" for node in NODES), "slurmdbd", "mariadbd", "munged"]:
            self._end(name, signal.SIGTERM)
        self._end_leftovers()

    def __enter__(self) -> "RealSlurm":
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what a test does to it ------------------------------------------------------------------------------------

    def start_controller(self) -> None:
        """Starts slurmctld and waits until it answers and knows its nodes' GPUs.

        A job that Slurm 22.05 starts before a node has told of its devices, 3 s after slurmctld's start, gets GPUs by
        their number alone, no CUDA_VISIBLE_DEVICES, and when it ends they stay taken: seen here, and not cured by the
        node's DOWN and RESUME, but by ``scontrol reconfigure``, which makes the nodes tell at once.
        """
        self._spawn("slurmctld", "slurmctld", "-D", "-f", str(self.conf))
        self._until(lambda: self.run("scontrol", "ping", check=False).returncode == 0, "slurmctld answers")
        alive = [node for node in NODES if self._running(f"slurmd-{node}")]
        if alive:
            self.run("scontrol", "reconfigure")
            self._until(lambda: all("IDX" in self._gpus_used(node) for node in alive), "the nodes' GPUs known")
            self.run("scontrol", "reconfigure")  # and what was started meanwhile gives its GPUs back

    def stop_controller(self) -> None:
        """Stops slurmctld as its service would: its state is saved."""
        if not self._end("slurmctld", signal.SIGTERM):
            raise TimeoutError("slurmctld did not end of SIGTERM and was killed: its state is not saved")

    def kill_controller(self) -> None:
        """kill -9: what it has not saved is lost."""
        self._end("slurmctld", signal.SIGKILL)

    def hang_controller(self) -> None:
        """It answers nobody, and carries out later what it was asked."""
        os.kill(self._daemons["slurmctld"].pid, signal.SIGSTOP)

    def resume_controller(self) -> None:
        """It goes on."""
        os.kill(self._daemons["slurmctld"].pid, signal.SIGCONT)

    def start_node(self, node: str) -> None:
        """Starts one slurmd."""
        self._spawn(f"slurmd-{node}", "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def fail_node(self, node: str) -> None:
        """The node is gone: its slurmd and its jobs' processes are killed, and the controller hears of it."""
        self._end(f"slurmd-{node}", signal.SIGKILL)
        for stepd in self._stepds(node):
            self._kill_tree(stepd)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=failed by a test")

    def resume_node(self, node: str) -> None:
        """The node is back and takes jobs: one that was down when its slurmd has registered, no sooner."""
        if not self._running(f"slurmd-{node}"):
            self.start_node(node)
        else:
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self._until(lambda: self._node_state(node) in {"idle", "mixed", "allocated"}, f"node {node} back")

    def stop_database(self) -> None:
        """slurmdbd goes away; slurmctld keeps what it would have said."""
        self._end("slurmdbd", signal.SIGTERM)

    def start_database(self) -> None:
        """slurmdbd comes (back)."""
        self._spawn("slurmdbd", "slurmdbd", "-D", conf=self.folder / "slurmdbd.conf")

    def run(self, *command: str, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """A command of this cluster's."""
        env = {**_clean_environment(), **self.environment}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=check)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _make_gpus(self) -> None:
        """Files that look like devices: /dev/null's numbers, so that opening one does no harm."""
        for index in range(GPUS_PER_NODE):
            path = self.folder / "gpus" / f"gpu{index}"
            if not path.exists():
                os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))

    def _start_munge(self) -> None:
        """A private munged; --force lets root keep its socket in this folder. Its key is this cluster's alone."""
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)
        run = self.folder / "run"
        self._spawn(
            "munged",
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run / 'munge'}"),
            *(
                f"--pid-file={run / 'munged.pid'}",
                f"--seed-file={run / 'munge.seed'}",
                f"--log-file={run / 'munge.log'}",
            ),
        )
        self._until((run / "munge").exists, "munged's socket")

    def _write_conf(self) -> None:
        f, (ctld, dbd, *slurmd) = self.folder, self._ports
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16000 "
            f"Gres=gpu:a100:{GPUS_PER_NODE} Feature={'fast' if node in {'n1', 'n2'} else 'big'} State=UNKNOWN"
            for node, port in zip(NODES, slurmd, strict=True)
        )
        accounting = (
            "AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            # AuthInfo is not used towards slurmdbd; this is.
            f"AccountingStoragePort={dbd}\nAccountingStoragePass={f}/run/munge\n"
            "AccountingStorageTRES=gres/gpu,gres/gpu:a100\nAccountingStorageEnforce=associations,limits,qos\n"
            "AccountingStoreFlags=job_comment,job_script\n"
            if self.accounting
            else "AccountingStorageType=accounting_storage/none\n"
        )
        self.conf.write_text(f"""ClusterName=orctest
SlurmctldHost={self._host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ctld}
AuthType=auth/munge
# How long a credential lives is also how long a requeued job waits (BeginTime) before it may start again.
AuthInfo=socket={f}/run/munge,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={f}/state
SlurmdSpoolDir={f}/spool/%n
SlurmctldPidFile={f}/run/slurmctld.pid
SlurmdPidFile={f}/run/slurmd-%n.pid
SlurmctldLogFile={f}/log/slurmctld.log
SlurmdLogFile={f}/log/slurmd-%n.log
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
MpiDefault=none
SwitchType=switch/none
GresTypes=gpu
Licenses=matlab:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
RequeueExit=99
MaxArraySize=100001
MaxJobCount={self.max_job_count}
MinJobAge={self.min_job_age}
ReturnToService=2
SlurmctldTimeout=10
# A slurmd that is held back on a busy machine is not away: fail_node says when one is.
SlurmdTimeout=60
BatchStartTimeout=60
KillWait=5
MessageTimeout=10
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,max_array_tasks=100001,nohold_on_prolog_fail
DefMemPerCPU=500
{accounting}
{nodes}
PartitionName=normal Nodes=ALL Default=YES MaxTime=7-00:00:00 DefaultTime=01:00:00 State=UP PriorityTier=10
PartitionName=low Nodes=ALL MaxTime=7-00:00:00 DefaultTime=01:00:00 State=UP PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=7-00:00:00 DefaultTime=01:00:00 State=UP PriorityTier=100 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=00:02:00 State=UP PriorityTier=10
""")
        (f / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName=n[1-4] Name=gpu Type=a100 File={f}/gpus/gpu[0-{GPUS_PER_NODE - 1}]\n"
        )
        (f / "slurmdbd.conf").write_text(f"""AuthType=auth/munge
AuthInfo=socket={f}/run/munge
CommunicationParameters=NoInAddrAny
DbdHost={self._host}
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
LogFile={f}/log/slurmdbd.log
PidFile={f}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
""")
        (f / "slurmdbd.conf").chmod(0o600)

    def _start_database(self) -> None:
        """MariaDB on a Unix socket alone, then slurmdbd, then what the tests count on being there."""
        data, sock = self.folder / "mysql", self.folder / "run" / "mysql.sock"
        if not data.exists():
            with (self.folder / "log" / "mysql-install.log").open("ab") as log:
                subprocess.run(
                    [
                        *("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}"),
                        *("--auth-root-authentication-method=socket", "--skip-test-db"),
                    ],
                    stdout=log,
                    stderr=log,
                    check=True,
                    timeout=60,
                )
        self._spawn(
            "mariadbd",
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={sock}", "--skip-networking"),
            *(f"--pid-file={self.folder / 'run' / 'mysql.pid'}", "--innodb-flush-log-at-trx-commit=0"),
        )
        self._until(sock.exists, "MariaDB's socket")
        self.start_database()
        self._until(lambda: "orctest" in self._add_cluster(), "slurmdbd answers")
        for account in ACCOUNTS:
            self._sacctmgr("add", "account", account)
        self._sacctmgr("add", "qos", "few", "set", "MaxSubmitJobsPerUser=3")
        self._sacctmgr("modify", "account", "root", "set", "qos+=few")
        for account in ACCOUNTS:
            self._sacctmgr("add", "user", "root", f"account={account}")
            self._sacctmgr("modify", "user", "root", "where", f"account={account}", "set", "qos+=few")
        self._sacctmgr("modify", "user", "root", "set", "defaultaccount=research")

    def _add_cluster(self) -> str:
        self._sacctmgr("add", "cluster", "orctest")
        return self._sacctmgr("-n", "-P", "show", "cluster", "format=cluster")

    def _sacctmgr(self, *words: str) -> str:
        done = self.run("sacctmgr", "-i", *words, check=False)
        return done.stdout + done.stderr

    def _sinfo(self) -> list[str]:
        done = self.run("sinfo", "-h", "-N", "-p", "normal", "-o", "%T", check=False)
        return done.stdout.split()

    def _node_state(self, node: str) -> str:
        return self.run("sinfo", "-h", "-p", "normal", "-n", node, "-o", "%T", check=False).stdout.strip()

    def _gpus_used(self, node: str) -> str:
        """``gpu:a100:2(IDX:0-1)``; without the indices where slurmctld does not know of the devices."""
        return self.run("sinfo", "-h", "-p", "normal", "-n", node, "-O", "GresUsed:100", check=False).stdout

    def _spawn(self, name: str, *command: str, conf: Path | None = None) -> None:
        conf_file = conf or self.conf
        # slurmdbd has no setting for MariaDB's socket; the client library takes it from the environment.
        socket_of = {"MYSQL_UNIX_PORT": str(self.folder / "run" / "mysql.sock")}
        env = {**_clean_environment(), **socket_of, "SLURM_CONF": str(conf_file)}
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            # A session of its own: Ctrl-C in a terminal ends the command that uses the cluster, not the cluster.
            self._daemons[name] = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _running(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _end(self, name: str, number: int) -> bool:
        """Whether it is gone and need not be killed for it."""
        process = self._daemons.pop(name, None)
        if process is None or process.poll() is not None:
            return True
        process.send_signal(number)
        if number == signal.SIGTERM:
            process.send_signal(signal.SIGCONT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
        return True

    def _stepds(self, node: str = "") -> list[int]:
        """slurmstepd processes of this cluster (of one node): they outlive their slurmd, whose log they have open."""
        found = []
        logs = {str(self.folder / "log" / f"slurmd-{one}.log") for one in ([node] if node else NODES)}
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            with suppress(OSError):
                if not (path / "cmdline").read_bytes().startswith(b"slurmstepd"):
                    continue
                if logs & _open_files(path):
                    found.append(int(path.name))
        return found

    def _end_leftovers(self) -> None:
        for pid in self._stepds():
            self._kill_tree(pid)

    @staticmethod
    def _kill_tree(pid: int) -> None:
        """A slurmstepd and all below it."""
        todo, tree = [pid], []
        while todo:
            one = todo.pop()
            tree.append(one)
            with suppress(OSError):
                todo += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        for one in tree:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    def _until(self, condition: "object", what: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        assert callable(condition)
        while not condition():
            for name, process in self._daemons.items():
                if process.poll() is not None:
                    words = (self.folder / "log" / f"{name}.out").read_text(errors="replace")[-1500:]
                    raise RuntimeError(f"{name} ended with {process.returncode}: {words}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s (logs in {self.folder / 'log'})")
            time.sleep(0.05)


def _open_files(path: Path) -> set[str]:
    """What a process has open."""
    found = set()
    for fd in (path / "fd").iterdir():
        with suppress(OSError):
            found.add(str(fd.readlink()))
    return found


def _clean_environment() -> dict[str, str]:
    scrubbed = ("SLURM_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "ORC_")
    return {name: value for name, value in os.environ.items() if not name.startswith(scrubbed)}


def main(argv: Sequence[str]) -> int:
    """Starts a cluster, runs a command or a shell in its environment, stops it."""
    words = list(argv)
    command = words[words.index("--") + 1 :] if "--" in words else []
    parser = argparse.ArgumentParser(prog="realslurm", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    parser.add_argument("folder", nargs="?", type=Path, help="where its files go (default: a temporary folder)")
    given = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    lacking = missing(accounting=given.accounting)
    if lacking:
        print(f"No real Slurm can be started here: {lacking}.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="orc-slurm-") as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with RealSlurm(folder, accounting=given.accounting) as slurm:
            shell = command or [os.environ.get("SHELL", "/bin/bash")]
            print(f"Slurm runs; SLURM_CONF={slurm.conf}. It ends with: {' '.join(shell)}", file=sys.stderr)
            return subprocess.call(shell, env={**os.environ, **slurm.environment})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
