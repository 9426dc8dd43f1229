"""Runs beside the job: claim, start record, log, signals, exit record.

One file, standard library only, Python >= 3.6, started as ``python -I -S job.py RUN_DIR ATTEMPT`` or, by a Slurm job,
as ``job.py --submission FOLDER``; with each task of an srun, as ``job.py --rank FOLDER COMMAND ...``. It knows nothing
but these directories (docs/run-directory.md). Nothing is imported before the command starts that is not needed for
that: this costs every job.
"""

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
ALLOCATED = (b"SLURM", b"CUDA_", b"ROCR_", b"HIP_", b"GPU_DEVICE", b"ZE_AFFINITY", b"PMI", b"TMPDIR")
STOPPING = (signal.SIGTERM, signal.SIGINT)
RECORD_BYTES = 4096  # reserved for the exit record at the start, so that a full disk cannot swallow it
FIRST_SAMPLE = 0.02
LONGEST_SAMPLE = 1.0
KILL_SPACING = 0.05
TOLD_WITHIN = 0.5  # seconds in which Slurm, once it has signalled one process of a job, has signalled all that it will


def main(argv: "list[str]") -> int:
    """Executes one attempt of one run, if nobody else has. Returns job.py's own exit status."""
    if argv[1] == "--rank":
        return Rank(argv[2], argv[3:]).run()
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    run_dir, first = task_of(argv[2]) if argv[1] == "--submission" else (argv[1], int(argv[2]))
    attempt = take(run_dir, first)
    if attempt is None:
        sys.stderr.write("This attempt is claimed by another job, or taken back: nothing to do.\n")
        return 0
    folder = folder_of(run_dir, attempt)
    settings, env = read_launch(os.path.join(folder, "launch"))
    if attempt != first:
        env.update({b"ORC_ATTEMPT": str(attempt).encode(), b"WANDB_RESUME": b"allow"})
    job = Job(run_dir, folder, attempt, settings, env)
    job.reserve()
    if settings.get("subreaper") == "1":
        become_subreaper()
    try:
        job.start()
    except (OSError, ValueError) as error:
        job.refuse(error)
        return 1
    job.post_witness()
    job.write_started()
    job.watch()
    job.finish()
    return job.exit_status()


def folder_of(run_dir: str, attempt: int) -> str:
    return os.path.join(run_dir, "attempts", str(attempt))


def task_of(submission: str) -> "tuple[str, int]":
    """The run directory and attempt of this array task (of a job that is no array: of the only one)."""
    with open(os.path.join(submission, "tasks"), "rb") as file:
        tasks = file.read().split(b"\0")
    attempt, _, run_dir = tasks[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))].partition(b" ")
    return os.fsdecode(run_dir), int(attempt)


def take(run_dir: str, attempt: int) -> "int | None":
    """Claims the attempt. A job that Slurm has requeued finds its own claim and goes on to the next one.

    Whether there is a next one by this job is decided once, by who makes ``next``: the job, or the service.
    """
    while not claim(folder_of(run_dir, attempt)):
        held = read_lines(os.path.join(folder_of(run_dir, attempt), "claim"))
        job_id, restart = os.environ.get("SLURM_JOB_ID", ""), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        if not job_id or held.get("job_id") != job_id or int(held.get("restart", "0")) >= restart:
            return None
        following = os.path.join(folder_of(run_dir, attempt), "next")
        if not link_whole(following, "by=job\njob_id={}\nrestart={}\n".format(job_id, restart)):
            if read_lines(following).get("job_id") != job_id:
                return None
        prepare_next(folder_of(run_dir, attempt), folder_of(run_dir, attempt + 1))
        attempt += 1
    return attempt


def prepare_next(before: str, folder: str) -> None:
    """A requeued job's next attempt is launched as the one before."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass  # made by an earlier start, or by another of this very moment
    with open(os.path.join(before, "launch"), "rb") as file:
        text = file.read()
    mine = os.path.join(folder, "launch.{}.{}".format(os.uname().nodename, os.getpid()))
    fd = os.open(mine, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    os.write(fd, text)
    os.close(fd)
    os.rename(mine, os.path.join(folder, "launch"))


def read_lines(path: str) -> "dict[str, str]":
    with open(path, errors="replace") as file:
        return dict(line.rstrip("\n").partition("=")[::2] for line in file)


def claim(folder: str) -> bool:
    """Makes ``claim`` with its whole content, or finds that it exists."""
    text = "pid={}\nstart_ticks={}\nboot={}\nhost={}\nat={}\njob_id={}\nrestart={}\n".format(
        os.getpid(),
        start_ticks(os.getpid()),
        boot(),
        os.uname().nodename,
        time.time(),
        os.environ.get("SLURM_JOB_ID", ""),
        os.environ.get("SLURM_RESTART_COUNT", "0"),
    )
    return link_whole(os.path.join(folder, "claim"), text)


def link_whole(path: str, text: str) -> bool:
    """Makes a file with its whole content; False where there is one: link(2) is atomic on NFS too."""
    mine = "{}.{}.{}".format(path, os.uname().nodename, os.getpid())
    fd = os.open(mine, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    os.write(fd, text.encode())
    os.close(fd)
    try:
        os.link(mine, path)
        return True
    except FileExistsError:
        # An NFS server may have made the link and lost its answer: the link count tells.
        return os.stat(mine).st_nlink == 2
    finally:
        os.unlink(mine)


def read_launch(path: str) -> "tuple[dict[str, str], dict[bytes, bytes]]":
    """The launch file: NUL-separated records; ``env:NAME=value`` for the environment, ``name=value`` for job.py."""
    with open(path, "rb") as file:
        records = file.read().split(b"\0")
    settings, env = {}, {}
    for record in records:
        name, equals, value = record.partition(b"=")
        if not equals:
            continue
        if name.startswith(b"env:"):
            env[name[4:]] = value
        else:
            settings[name.decode()] = os.fsdecode(value)
    return settings, env


def become_subreaper() -> None:
    """Orphans of the run become children of job.py: double-forked and setsid ones too (man 2 prctl)."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def boot() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def stat_fields(pid: "int | str") -> "list[bytes] | None":
    """/proc/PID/stat from the third field on (the name before may hold anything), or None."""
    try:
        with open("/proc/{}/stat".format(pid), "rb") as file:
            text = file.read()
    except OSError:
        return None
    return text[text.rindex(b")") + 2 :].split()


def start_ticks(pid: int) -> int:
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since the boot."""
    try:
        with open("/proc/vmstat", "rb") as file:
            for line in file:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def children(pid: int) -> "list[int] | None":
    """PIDs of the direct children, or None where the kernel has no such file (CONFIG_PROC_CHILDREN)."""
    found = []
    try:
        for thread in os.listdir("/proc/{}/task".format(pid)):
            with open("/proc/{}/task/{}/children".format(pid, thread)) as file:
                found += [int(child) for child in file.read().split()]
    except FileNotFoundError:
        return found if os.path.exists("/proc/self/task/{}/children".format(os.getpid())) else None
    except OSError:
        pass
    return found


def tree(root: int) -> "list[int]":
    """Living processes below ``root`` (zombies left out)."""
    if children(root) is None:
        return scanned_tree(root)
    found, todo = [], [root]
    while todo:
        below = children(todo.pop()) or []
        todo += below
        found += below
    return [pid for pid in found if lives(pid)]


def scanned_tree(root: int) -> "list[int]":
    """The same from every process's parent, for kernels without ``children``."""
    parents = {}
    for name in os.listdir("/proc"):
        fields = stat_fields(name) if name.isdigit() else None
        if fields:
            parents[int(name)] = int(fields[1])
    found = {root}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        found |= more
        grown = bool(more)
    return [pid for pid in found if pid != root and lives(pid)]


def lives(pid: int) -> bool:
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in (b"Z", b"X")


def memory_of(pids: "list[int]") -> int:
    """Resident bytes of these processes together (shared pages count in each, as in Slurm's own gathering)."""
    pages = 0
    for pid in pids:
        try:
            with open("/proc/{}/statm".format(pid), "rb") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError):
            pass
    return pages * os.sysconf("SC_PAGE_SIZE")


class Job:
    """One attempt, from its claim to its exit record."""

    def __init__(
        self, run_dir: str, folder: str, attempt: int, settings: "dict[str, str]", env: "dict[bytes, bytes]"
    ) -> None:
        self.run_dir = run_dir
        self.folder = folder
        self.attempt = attempt
        self.settings = settings
        self.env = env
        self.pid = 0
        self.status = None  # type: int | None
        self.stopped = False
        self.timed_out = False
        self.kill_at = None  # type: float | None
        self.hand_on_at = None  # type: float | None
        self.witness = 0
        self.witness_told = False
        self.witness_counts = True
        self.peak = 0
        self.clock = 0.0
        self.started_at = 0.0
        self.ended_at = 0.0
        self.ooms = oom_kills()
        limit = settings.get("time_limit")
        self.limit = float(limit) if limit else None
        self.grace = float(settings.get("grace", "10"))
        name, _, ahead = settings.get("signal", "").partition("@")
        self.warning = getattr(signal, "SIG" + name) if name else None
        self.warn_after = self.limit - float(ahead) if self.limit is not None and name else None  # type: float | None
        self.heartbeat = float(settings.get("heartbeat", "0"))
        self.beat_at = time.monotonic() + self.heartbeat

    # -- records ---------------------------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def reserve(self) -> None:
        """Takes the disk blocks of the exit record now, while there are some."""
        fd = os.open(self.path("exit.json.tmp"), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            os.write(fd, b" " * RECORD_BYTES)
        except OSError:
            pass  # it is tried again at the end
        os.close(fd)

    def write_exit(self, record: "dict[str, object]") -> None:
        """Writes exit.json, whole or not at all; waits for room on a full disk for up to ten minutes."""
        import json

        text = json.dumps(record).encode()
        deadline = time.time() + 600
        while True:
            try:
                fd = os.open(self.path("exit.json.tmp"), os.O_CREAT | os.O_WRONLY, 0o600)
                try:
                    os.write(fd, text + b" " * max(0, RECORD_BYTES - len(text)))
                    os.ftruncate(fd, len(text))
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(self.path("exit.json.tmp"), self.path("exit.json"))
                return
            except OSError as error:
                if time.time() > deadline or not os.path.isdir(self.folder):
                    sys.stderr.write("exit.json could not be written: {}\n".format(error))
                    return
                time.sleep(1)

    def write_started(self) -> None:
        import json

        record = {
            "attempt": self.attempt,
            "started_at": self.started_at,
            "host": os.uname().nodename,
            "boot": boot(),
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "command_pid": self.pid,
            "command_start_ticks": start_ticks(self.pid),
            "gpus": self.gpus(),
        }
        try:
            with open(self.path("started.json.tmp"), "w") as file:
                json.dump(record, file)
            os.rename(self.path("started.json.tmp"), self.path("started.json"))
        except OSError as error:  # the run goes on; the claim tells that it started
            sys.stderr.write("started.json could not be written: {}\n".format(error))

    def gpus(self) -> "list[dict[str, object]]":
        """Those leased for this run, or those of Slurm's allocation (indices of this node)."""
        import json

        if "ORC_GPUS" in os.environ:
            return list(json.loads(os.environ["ORC_GPUS"]))
        indices = os.environ.get("SLURM_JOB_GPUS", "").split(",") if self.settings.get("scheduler") == "slurm" else []
        return [
            {"index": int(index), "node": os.environ.get("SLURMD_NODENAME")} for index in indices if index.isdigit()
        ]

    # -- the command -----------------------------------------------------------------------------------------------

    def environment(self) -> "dict[bytes, bytes]":
        """The launch file's, with what the allocation gave to this very process (GPUs)."""
        env = dict(self.env)
        for name, value in os.environb.items():
            if name.startswith(b"ORC_ALLOC_"):
                env[name[len(b"ORC_ALLOC_") :]] = value
            elif self.settings.get("scheduler") == "slurm" and name.startswith(ALLOCATED):
                env[name] = value
        return env

    def start(self) -> None:
        """Starts the command in a session of its own, its output into the log."""
        log = os.open(self.path("output.log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        nothing = os.open("/dev/null", os.O_RDONLY)
        shell = self.settings.get("shell", "/bin/bash")
        argv = [shell, "--noprofile", "--norc", os.path.join(self.run_dir, self.settings.get("script", "wrapper.sh"))]
        os.chdir(self.settings.get("workdir") or self.run_dir)
        self.started_at = time.time()
        self.clock = time.monotonic()
        self.pid = spawn(argv, self.environment(), nothing, log)
        os.close(log)
        os.close(nothing)
        os.chdir("/")

    def refuse(self, error: Exception) -> None:
        """The command could not even be started."""
        reason = "BAD_WORKDIR" if isinstance(error, OSError) and self.pid == 0 and not self.workdir_ok() else None
        self.write_exit(
            {
                "attempt": self.attempt,
                "code": None,
                "signal": None,
                "ended_at": time.time(),
                "reason": reason,
                "error": "The command could not be started: {}".format(error),
            }
        )
        self.release()

    def workdir_ok(self) -> bool:
        return os.path.isdir(self.settings.get("workdir") or self.run_dir)

    def post_witness(self) -> None:
        """Under Slurm: a process that does nothing, in a session of its own as the command's is.

        Whom Slurm has signalled, /proc does not tell: a command that caught TERM looks like one that never got it. The
        witness catches nothing: where it ended of the signal, everybody got it.
        """
        if self.settings.get("scheduler") != "slurm":
            return
        nothing = os.open("/dev/null", os.O_WRONLY)
        reading, self.held = os.pipe()  # whatever becomes of job.py, the witness reads the pipe's end, and ends
        shell = self.settings.get("shell", "/bin/bash")
        try:
            self.witness = spawn([shell, "--noprofile", "--norc", "-c", "read"], {}, reading, nothing)
        except OSError:
            pass  # no process to be had: TERM is then handed on to all
        # Told while it was started, it may have been in our own process group still: then it tells nothing.
        self.witness_counts = not signal.sigpending() & set(STOPPING)
        os.close(reading)
        os.close(nothing)

    # -- watching --------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Until the command and everything that it started have ended."""
        spacing = FIRST_SAMPLE
        sample_at = self.clock + spacing
        while True:
            now = time.monotonic()
            if self.limit is not None and self.status is None and now - self.clock >= self.limit:
                self.timed_out = True
                self.terminate(now)
            if self.hand_on_at is not None and now >= self.hand_on_at:
                self.reap()  # held back for as long as the witness had, it may have told long ago
            if self.hand_on_at is not None and now >= self.hand_on_at:
                self.hand_on_at = self.kill_at = None
                self.terminate(now)
            if self.kill_at is not None and now >= self.kill_at:
                signal_all(self.tree(), signal.SIGKILL)
                self.kill_at = now + KILL_SPACING
            if now >= sample_at:
                self.peak = max(self.peak, memory_of(self.tree()))
                spacing = min(LONGEST_SAMPLE, spacing * 1.5)
                sample_at = now + spacing
            if self.warn_after is not None and now - self.clock >= self.warn_after and self.status is None:
                self.warn_after = None
                self.pass_on(self.warning)
            if self.heartbeat and now >= self.beat_at:
                self.beat(now)
            got = signal.sigtimedwait(WATCHED, max(0.0, self.next_look(sample_at) - time.monotonic()))
            if got is not None and got.si_signo in STOPPING:
                self.stop(time.monotonic())
            elif got is not None and got.si_signo in PASSED_ON:
                self.pass_on(got.si_signo)
            self.reap()
            if self.status is not None and not self.leftovers():
                return

    def next_look(self, sample_at: float) -> float:
        looks = [sample_at]
        if self.limit is not None and self.status is None and self.kill_at is None:
            looks.append(self.clock + self.limit)
        looks += [at for at in (self.kill_at, self.hand_on_at) if at is not None]
        if self.warn_after is not None:
            looks.append(self.clock + self.warn_after)
        if self.heartbeat:
            looks.append(self.beat_at)
        return min(looks)

    def beat(self, now: float) -> None:
        """Says that this job lives, where no process table can be looked at; and sees whether it is to end."""
        self.beat_at = now + self.heartbeat
        try:
            os.utime(self.path("claim"))
            if os.path.exists(self.path("stop")) and not self.stopped:
                self.stopped = True
                self.terminate(now)
        except OSError:
            pass  # the file system is away: told at the next beat

    def pass_on(self, number: "int | None") -> None:
        """Hands a signal to the command itself: to whoever catches it, from the shell down, and nobody below those.

        A shell that does not catch it would only die of it.
        """
        todo = [self.command_shell()]
        while todo and number is not None:
            pid = todo.pop()
            if takes(pid, number):
                signal_all([pid], number)
            else:
                todo += children(pid) or []

    def command_shell(self) -> int:
        """The shell that reads the command. In a container of apptainer's it is below that.

        apptainer catches every signal, and would hand it to this shell alone.
        """
        wrapper = os.fsencode(os.path.join(self.run_dir, "wrapper.sh"))
        for pid in [self.pid] + self.tree():
            words = arguments(pid)  # bash --noprofile --norc WRAPPER; apptainer's own end in the same words
            if words[-1:] == [wrapper] and all(word.startswith(b"-") for word in words[1:-1]):
                return pid
        return self.pid

    def tree(self) -> "list[int]":
        """The living processes of the run."""
        return [pid for pid in tree(os.getpid()) if pid != self.witness]

    def stop(self, now: float) -> None:
        """TERM or INT has come.

        Slurm mostly sends it to every process of the job: twice would be once too often. But not with
        ``scancel --batch``, nor with proctrack/pgid: a while later the witness tells, and what it did not get is handed
        on.
        """
        self.stopped = True
        if self.settings.get("scheduler") != "slurm":
            self.terminate(now)
        elif self.kill_at is None:
            self.terminate(now, tell=False)
            self.hand_on_at = None if self.witness_told else now + TOLD_WITHIN

    def terminate(self, now: float, tell: bool = True) -> None:
        """TERM to the whole tree, once; KILL follows after the grace."""
        if self.kill_at is None:
            if tell:
                signal_all(self.tree(), signal.SIGTERM)
            signal_all(tree(os.getpid()), signal.SIGCONT)
            self.kill_at = now + self.grace

    def leftovers(self) -> "list[int]":
        """What the command left running is ended with it, as Slurm does."""
        left = self.tree() or self.tree()  # one that ends while it is looked at hands its children on, out of sight
        if left:
            self.terminate(time.monotonic())
        return left

    def reap(self) -> None:
        for pid, status in reaped().items():
            if pid == self.pid:
                self.status = status
                self.ended_at = time.time()
            elif pid == self.witness:
                self.witness = 0
                told = os.WIFSIGNALED(status) and os.WTERMSIG(status) in STOPPING
                self.witness_told = told and self.witness_counts
                self.hand_on_at = None if self.witness_told else self.hand_on_at

    # -- the end ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        assert self.status is not None
        killed = os.WIFSIGNALED(self.status)
        code = None if killed else os.WEXITSTATUS(self.status)
        number = os.WTERMSIG(self.status) if killed else None
        memory, source, seconds = self.use()
        by_kill = (number == 9 or code == 137) and not self.stopped and not self.timed_out
        self.write_exit(
            {
                "attempt": self.attempt,
                "code": code,
                "signal": number,
                "started_at": self.started_at,
                "ended_at": self.ended_at,
                "stopped": self.stopped,
                "timed_out": self.timed_out,
                "peak_memory_bytes": memory,
                "memory_source": source,
                "cpu_seconds": seconds,
                "oom_kills": oom_kills() - self.ooms if by_kill else 0,
            }
        )
        self.release()

    def use(self) -> "tuple[int | None, str, float | None]":
        """Peak memory in bytes, how it was found, and CPU seconds; of tasks of an srun, what they have written down."""
        if self.settings.get("ranks") == "1":
            memory, seconds = use_of_ranks(self.path("ranks"))
            return memory, "ranks", seconds
        peak, seconds = use_of_children(self.peak)
        cgroup_peak = self.cgroup_peak()
        return cgroup_peak or peak, "cgroup" if cgroup_peak else "sampled", seconds

    def exit_status(self) -> int:
        """0 for the local executor; under Slurm the command's own, so that its records and RequeueExit are right."""
        if self.settings.get("scheduler") != "slurm" or self.status is None:
            return 0
        return 128 + os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else os.WEXITSTATUS(self.status)

    def cgroup_peak(self) -> "int | None":
        """memory.peak of the job's own cgroup (v2), where it has one apart from its launcher's."""
        try:
            with open("/proc/self/cgroup") as file:
                line = file.read().strip().splitlines()[-1]
            if not line.startswith("0::") or line == self.settings.get("launcher_cgroup", line):
                return None
            with open("/sys/fs/cgroup{}/memory.peak".format(line[3:])) as file:
                return int(file.read())
        except (OSError, ValueError, IndexError):
            return None

    def release(self) -> None:
        """Lets the GPU leases go, then wakes who waits by taking the notes away (docs/gpu-leases.md)."""
        for fd in os.environ.get("ORC_LEASE_FDS", "").split(","):
            if fd:
                os.close(int(fd))
        for note in os.environ.get("ORC_LEASE_NOTES", "").split(":"):
            if note:
                try:
                    with open(note) as file:  # the next holder of our user may have written its own already
                        ours = '"pid": {},'.format(os.getpid()) in file.read()
                    if ours:
                        os.unlink(note)
                except OSError:
                    pass  # another has tidied it up


class Rank:
    """One task of an srun, which starts beside job.py and not below it: runs it, and writes down what it used.

    The task stays in the process group that Slurm has made, with its output and its signals as without this: only this
    process itself is deaf to signals, and ends when the task does, in the same way.
    """

    def __init__(self, folder: str, argv: "list[str]") -> None:
        self.folder = folder
        self.argv = argv
        self.peak = 0

    def run(self) -> int:
        if self.another_failed():
            sys.stderr.write("Another task of this step has failed: this one is not started.\n")
            return 1
        before = signal.pthread_sigmask(signal.SIG_BLOCK, list(signal.Signals))
        try:
            become_subreaper()
        except (OSError, ImportError):
            pass  # what leaves the task's tree is then not counted
        pipe = os.pipe()
        pid = os.fork()
        if pid == 0:
            self.become_task(before, pipe)
        # What came before the fork the task has not got, and srun sends its TERM once. What both have got it gets once
        # all the same, as it blocks it still.
        for number in signal.sigpending() - {signal.SIGCHLD}:
            signal_all([pid], number)
        os.close(pipe[1])
        status = self.watch(pid)
        try:
            self.write(status)
        except OSError:
            pass  # the use of the run is then unknown
        if os.WIFSIGNALED(status):
            end_of(os.WTERMSIG(status))
        return os.WEXITSTATUS(status)

    def another_failed(self) -> bool:
        """srun has ended the step then; but Slurm (22.05) tells no node that has yet to start its tasks, which would
        wait for the others until the time limit."""
        try:
            return any(record.get("failed") for record in records_of_ranks(self.folder))
        except (OSError, ValueError):
            return False  # nobody has left a record

    def become_task(self, mask: "set[int]", pipe: "tuple[int, int]") -> None:
        """In the child, once it has every signal that this process got before there was one."""
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
                signal.signal(number, signal.SIG_DFL)
            os.close(pipe[1])
            os.read(pipe[0], 1)  # until that process has closed its end, or is gone
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execv(self.argv[0], self.argv)
        finally:
            os._exit(127)

    def watch(self, task: int) -> int:
        """The task's wait status."""
        spacing = FIRST_SAMPLE
        sample_at = time.monotonic() + spacing
        while True:
            signal.sigtimedwait([signal.SIGCHLD], max(0.0, sample_at - time.monotonic()))
            ended = reaped()
            if task in ended:
                return ended[task]
            if time.monotonic() >= sample_at:
                self.peak = max(self.peak, memory_of(tree(os.getpid())))
                spacing = min(LONGEST_SAMPLE, spacing * 1.5)
                sample_at = time.monotonic() + spacing

    def write(self, status: int) -> None:
        import json

        peak, seconds = use_of_children(self.peak)
        record = {
            "node": os.environ.get("SLURMD_NODENAME") or os.uname().nodename,
            "tasks": int(os.environ["SLURM_NTASKS"]),
            "peak_memory_bytes": peak,
            "cpu_seconds": seconds,
            "failed": status != 0,
        }
        os.makedirs(self.folder, 0o700, exist_ok=True)
        path = os.path.join(self.folder, os.environ["SLURM_PROCID"] + ".json")
        with open(path + ".tmp", "w") as file:
            json.dump(record, file)
        os.rename(path + ".tmp", path)


def reaped() -> "dict[int, int]":
    """The children that have ended, with their wait statuses."""
    ended = {}  # type: dict[int, int]
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def use_of_children(sampled: int) -> "tuple[int, float]":
    """Peak memory in bytes (no less than the largest process's own) and CPU seconds of all children."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(sampled, used.ru_maxrss * 1024), round(used.ru_utime + used.ru_stime, 3)


def use_of_ranks(folder: str) -> "tuple[int | None, float | None]":
    """Memory of the node that used most, and CPU seconds of all; unknown unless every task has left its record.

    One that was killed leaves none, nor one in a container without Python; a part of the sum would be a wrong number.
    """
    try:
        records = records_of_ranks(folder)
    except (OSError, ValueError):
        return None, None
    if not records or len(records) != records[0]["tasks"]:
        return None, None
    nodes = {}  # type: dict[str, int]
    for record in records:
        nodes[record["node"]] = nodes.get(record["node"], 0) + record["peak_memory_bytes"]
    return max(nodes.values()), round(sum(record["cpu_seconds"] for record in records), 3)


def records_of_ranks(folder: str) -> "list[dict[str, Any]]":
    import json

    records = []
    for name in os.listdir(folder):
        if name.endswith(".json"):
            with open(os.path.join(folder, name)) as file:
                records.append(json.load(file))
    return records


def end_of(number: int) -> None:
    """Ends as one that the signal killed, without a core file of this process."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os._exit(128 + number)


def spawn(argv: "list[str]", env: "dict[bytes, bytes]", stdin: int, output: int) -> int:
    """A new session with clean signals (Python, nohup and a shell's & ignore some; a command inherits none)."""
    default = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGQUIT] + list(STOPPING)
    if hasattr(os, "posix_spawn"):
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
        try:
            return os.posix_spawn(
                argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=[], setsigdef=default
            )
        except NotImplementedError:
            pass  # an old C library has no setsid there
    return fork_spawn(argv, env, stdin, output, default)


def fork_spawn(
    argv: "list[str]", env: "dict[bytes, bytes]", stdin: int, output: int, default: "list[signal.Signals]"
) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for number in default:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(argv[0], argv, env)
    finally:
        os._exit(127)


def takes(pid: int, number: int) -> bool:
    """Whether a process has a handler for the signal, or blocks it: srun does, and one of its threads waits for it."""
    try:
        with open("/proc/{}/status".format(pid), "rb") as file:
            masks = [line.split()[1] for line in file if line.startswith((b"SigBlk:", b"SigCgt:"))]
    except OSError:
        return False  # it ended meanwhile
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def arguments(pid: int) -> "list[bytes]":
    try:
        with open("/proc/{}/cmdline".format(pid), "rb") as file:
            return file.read().split(b"\0")[:-1]
    except OSError:
        return []


def signal_all(pids: "list[int]", number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass  # it ended meanwhile


if __name__ == "__main__":
    sys.exit(main(sys.argv))
