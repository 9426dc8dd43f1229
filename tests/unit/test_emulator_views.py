"""What the emulated commands print, in each release's way, from a queue made by hand."""

from pathlib import Path

import pytest

from orchestrator.testing import Cluster, Node, Partition
from orchestrator.testing.commands import sacct, sacctmgr, sbatch, scancel, scontrol, sinfo, squeue
from orchestrator.testing.commands.base import Answer, Call, Command, Failed
from orchestrator.testing.endings import Ending
from orchestrator.testing.ledger import Ledger, read_rows
from orchestrator.testing.operations import fail_node
from orchestrator.testing.queue import Queue
from orchestrator.testing.state import State, Who
from tests.unit.test_emulator_queue import Notes

NOW = 1_700_000_000
ROOT = Who("root", 0, "root", 0)
VERSIONS = ("22.05.8", "24.11.5", "25.11.7", "26.05.5")
OLD, NEW = VERSIONS[0], VERSIONS[1]
COMMANDS: dict[str, Command] = {
    "sbatch": sbatch.run,
    "squeue": squeue.run,
    "scancel": scancel.run,
    "sinfo": sinfo.run,
    "scontrol": scontrol.run,
}


class Login:
    """A login node: runs commands at a moment of its own."""

    def __init__(self, folder: Path, version: str = NEW, *, accounting: bool = True) -> None:
        nodes = (Node("n1", gres="gpu:h100:4"), Node("n2", gres="gpu:h100:4"))
        debug = Partition("debug", nodes=("n1",), max_time_minutes=30)
        partitions = (Partition("gpu", default=True, default_time_minutes=60), debug)
        self.cluster = Cluster(nodes, partitions, version=version, accounting=accounting, def_mem_per_cpu=100)
        self.path = folder / "accounting.jsonl"
        self.queue = Queue(self.cluster, State(booted=NOW), Ledger(self.path, enabled=accounting), Notes())
        self.now = NOW

    def run(self, command: str, *argv: str, **environment: str) -> Answer:
        variables = {"SLURM_TIME_FORMAT": "%s", **environment}
        call = Call(command, argv, variables, "/jobs", ROOT, self.now)
        try:
            if command == "sacct":
                answer = sacct.run(call, self.cluster, read_rows(self.path, 9e9))
            elif command == "sacctmgr":
                answer = sacctmgr.run(call, self.cluster)
            else:
                answer = COMMANDS[command](call, self.queue)
        except Failed as failed:
            answer = failed.answer
        self.queue.schedule(self.now)
        return answer

    def lines(self, command: str, *argv: str, **environment: str) -> list[str]:
        answer = self.run(command, *argv, **environment)
        assert (answer.err, answer.rc) == ("", 0)
        return answer.out.splitlines()

    def submit(self, *argv: str) -> int:
        (line,) = self.lines("sbatch", "--parsable", *argv, "--wrap", "true")
        return int(line)

    def end(self, job_id: int, status: int) -> None:
        self.queue.ended(self.queue.jobs[job_id], Ending(status, self.now), self.now)


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login(tmp_path)


# -- squeue ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "separator"), [(OLD, ":"), *((version, "/") for version in VERSIONS[1:])])
def test_requested_gres(tmp_path: Path, version: str, separator: str) -> None:
    login = Login(tmp_path, version)
    login.submit("--gres=gpu:h100:2", "-c4", "--mem=1000")
    assert login.lines("squeue", "-h", "-o", "%b") == [f"gres{separator}gpu:h100:2"]
    login.submit("--gpus=1")
    fields = "JobID:|,tres-alloc:|,tres-per-job:|,tres-per-node:|"
    assert login.lines("squeue", "-h", "-O", fields) == [
        f"1|cpu=4,mem=1000M,node=1,billing=4,gres/gpu=2,gres/gpu:h100=2|N/A|gres{separator}gpu:h100:2|",
        f"2|cpu=1,mem=100M,node=1,billing=1,gres/gpu=1,gres/gpu:h100=1|gres{separator}gpu:1|N/A|",
    ]


@pytest.mark.parametrize(("version", "shown"), [(OLD, "768|"), (NEW, "3:0|")])
def test_exit_codes(tmp_path: Path, version: str, shown: str) -> None:
    login = Login(tmp_path, version)
    login.end(login.submit(), 3 << 8)
    assert login.lines("squeue", "-h", "-t", "all", "-O", "exit_code:|") == [shown]


@pytest.mark.parametrize(("version", "reason"), [(OLD, "JobLaunchFailure"), (NEW, "RaisedSignal:9(Killed)")])
def test_the_reason_of_a_killed_job(tmp_path: Path, version: str, reason: str) -> None:
    login = Login(tmp_path, version)
    login.end(login.submit(), 9)
    assert login.lines("squeue", "-h", "-t", "f", "-o", "%r|%R") == [f"{reason}|({reason})"]


def test_arrays_are_compressed_unless_asked_not_to(login: Login) -> None:
    login.submit("-a", "1-6%2")
    assert login.lines("squeue", "-h", "-o", "%i|%A|%F|%K|%T|%r") == [
        "1_[3-6%2]|1|1|3-6%2|PENDING|JobArrayTaskLimit",
        "1_1|2|1|1|RUNNING|None",
        "1_2|3|1|2|RUNNING|None",
    ]
    assert login.lines("squeue", "-h", "-r", "-t", "pd", "-o", "%i|%A") == ["1_3|1", "1_4|1", "1_5|1", "1_6|1"]


def test_a_held_task_is_merged_into_its_arrays_line(login: Login) -> None:
    login.submit("-a", "1-6", "-H")
    login.run("scontrol", "hold", "1_4")
    assert login.lines("squeue", "-h", "-o", "%i|%R") == ["1_[1-6]|(JobHeldUser,JobHeldAdmin)"]


def test_long_array_ids_are_cut(tmp_path: Path) -> None:
    tasks = ",".join(str(number * 3) for number in range(1, 40) if number % 5)
    old = Login(tmp_path, OLD)
    old.submit("-H", "-a", tasks)
    (cut,) = old.lines("squeue", "-h", "-o", "%i")
    assert len(cut) == 31
    (whole,) = old.lines("squeue", "-h", "-o", "%i", SLURM_BITSTR_LEN="0")
    assert whole == f"1_[{tasks}]"
    (some,) = old.lines("squeue", "-h", "-o", "%i", SLURM_BITSTR_LEN="20")
    assert some.endswith("...]")


def test_one_unknown_id_is_an_error_among_several_it_is_not(login: Login) -> None:
    job_id = login.submit()
    alone = login.run("squeue", "-h", "-j", "99", "-o", "%i")
    assert (alone.err, alone.rc) == ("slurm_load_jobs error: Invalid job id specified\n", 1)
    assert login.lines("squeue", "-h", "-j", f"{job_id},99", "-o", "%i") == ["1"]


def test_times_and_widths(login: Login) -> None:
    login.submit("-J", "training", "-t", "90")
    login.now += 65
    assert login.lines("squeue", "-h", "-o", "%.4i|%3j|%l|%L|%M|%V|%S|%e") == [
        f"   1|tra|1:30:00|1:28:55|1:05|{NOW}|{NOW}|{NOW + 5400}"
    ]


def test_free_text_is_printed_as_it_is(login: Login) -> None:
    login.submit("-J", 'we|rd "name"', "--comment", "a b|c ☃")
    assert login.lines("squeue", "-h", "-o", "%k|%j") == ['a b|c ☃|we|rd "name"']


def test_filters(login: Login) -> None:
    login.submit("-J", "a")
    login.submit("-J", "b", "-p", "debug")
    assert login.lines("squeue", "-h", "-n", "a", "-o", "%i") == ["1"]
    assert login.lines("squeue", "-h", "-p", "debug", "-o", "%i") == ["2"]
    assert login.lines("squeue", "-h", "-u", "nobody", "-o", "%i") == []
    assert login.lines("squeue", "-h", "--me", "-t", "R", "-o", "%i") == ["2", "1"]
    bad = login.run("squeue", "-t", "FOO")
    assert bad.rc == 1
    assert bad.err.startswith("squeue: error: Invalid job state specified: FOO\n")


# -- sinfo, scontrol ---------------------------------------------------------------------------------------------------


def test_a_row_for_each_node_and_partition(login: Login) -> None:
    login.submit("--gres=gpu:3", "-c", "8")
    fields = "NodeList:|,Partition:|,StateComplete:|,Gres:|,GresUsed:|,CPUsState:|,Time:|"
    assert login.lines("sinfo", "-h", "-N", "-a", "-O", fields) == [
        "n1|gpu*|allocated|gpu:h100:4|gpu:h100:3(IDX:0-2)|8/0/0/8|infinite|",
        "n1|debug|allocated|gpu:h100:4|gpu:h100:3(IDX:0-2)|8/0/0/8|30:00|",
        "n2|gpu*|idle|gpu:h100:4|gpu:h100:0(IDX:N/A)|0/8/0/8|infinite|",
    ]


@pytest.mark.parametrize(("version", "complete"), [(OLD, "allocated+drain"), (NEW, "mixed+drain")])
def test_a_draining_node(tmp_path: Path, version: str, complete: str) -> None:
    login = Login(tmp_path, version)
    login.submit()
    login.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=lab: disk | failing")
    fields = "StateCompact:|,StateLong:|,StateComplete:|,CPUsState:|,Reason:|"
    assert login.lines("sinfo", "-h", "-N", "-p", "debug", "-O", fields) == [
        f"drng|draining|{complete}|1/0/7/8|lab: disk | failing|"
    ]
    login.end(1, 0)
    assert login.lines("sinfo", "-h", "-N", "-p", "debug", "-o", "%t|%T|%C") == ["drain|drained|0/0/8/8"]


def test_a_node_that_does_not_answer(login: Login) -> None:
    fail_node(login.queue, login.queue.state.nodes["n1"], NOW)
    fields = "StateCompact:|,StateLong:|,StateComplete:|,Reason:|"
    assert login.lines("sinfo", "-h", "-N", "-p", "debug", "-O", fields) == [
        "down*|down*|down+not_responding|Not responding|"
    ]


def test_nodes_of_a_partition_share_a_line_where_they_look_alike(login: Login) -> None:
    assert login.lines("sinfo")[1:] == [
        "gpu*         up   infinite      2   idle n[1-2]",
        "debug        up      30:00      1   idle n1",
    ]
    assert login.lines("sinfo", "-h", "-o", "%P|%F|%C") == ["gpu*|0/2/0/2|0/8/0/8", "debug|0/1/0/1|0/8/0/8"]


@pytest.mark.parametrize(("version", "tres"), [(OLD, "TRES="), (NEW, "ReqTRES=")])
def test_show_job(tmp_path: Path, version: str, tres: str) -> None:
    login = Login(tmp_path, version)
    login.submit("-J", "a", "--comment", "x y")
    (line,) = login.lines("scontrol", "-o", "-d", "show", "job", "1")
    for part in ("JobId=1 JobName=a", "JobState=RUNNING", f" {tres}cpu=1,mem=100M,node=1,billing=1", "Comment=x y"):
        assert part in line
    assert login.run("scontrol", "show", "job", "9").err == "slurm_load_jobs error: Invalid job id specified\n"


def test_show_config(login: Login) -> None:
    found = dict(line.split("=", 1) for line in login.lines("scontrol", "show", "config") if "=" in line)
    shown = {name.strip(): value.strip() for name, value in found.items()}
    expected = {"SLURM_VERSION": NEW, "MaxArraySize": "1001", "MinJobAge": "300 sec", "ClusterName": "emulated"}
    assert {name: shown[name] for name in expected} == expected


def test_show_node_and_partition(login: Login) -> None:
    (node,) = login.lines("scontrol", "-o", "show", "node", "n2")
    assert "CfgTRES=cpu=8,mem=16000M,billing=8,gres/gpu=4,gres/gpu:h100=4" in node
    (partition,) = login.lines("scontrol", "-o", "show", "partition", "gpu")
    assert "Nodes=n[1-2]" in partition
    assert "Default=YES" in partition
    assert login.run("scontrol", "show", "node", "nX").err == "Node nX not found\n"


def test_update(login: Login) -> None:
    login.submit("-a", "0-9%1", "-H")
    assert login.run("scontrol", "update", "JobId=1", "ArrayTaskThrottle=3", "TimeLimit=5", "Comment=a b").rc == 0
    assert login.lines("squeue", "-h", "-o", "%i|%l|%k") == ["1_[0-9%3]|5:00|a b"]
    bad = login.run("scontrol", "update", "JobId=1", "Foo=1")
    assert (bad.rc, bad.err) == (1, "Update of this parameter is not supported: Foo=1\nRequest aborted\n")
    assert login.run("scontrol", "update", "JobId=9", "Nice=1").err == "Invalid job id specified for job 9\n"


def test_hold_release_requeue_of_unknown_ids(login: Login) -> None:
    assert login.run("scontrol", "requeue", "9").err == "Invalid job id specified for job 9\n"
    assert login.run("scontrol", "hold", "9").err.endswith("slurm_suspend error: Invalid job id specified\n")
    assert login.run("scontrol", "bogus").err == "invalid keyword: bogus\n"


@pytest.mark.parametrize(("version", "rc"), [(OLD, 1), (NEW, 1)])
def test_json_is_not_emulated(tmp_path: Path, version: str, rc: int) -> None:
    assert Login(tmp_path, version).run("scontrol", "--json", "ping").rc == rc


# -- scancel -----------------------------------------------------------------------------------------------------------


def test_scancel_of_tasks_lists_and_names(login: Login) -> None:
    login.submit("-a", "0-9", "-H")
    login.submit("-J", "other", "-H")
    assert login.lines("scancel", "1_3", "1_[5-6,8]") == []
    assert login.lines("squeue", "-h", "-n", "wrap", "-o", "%K") == ["0-2,4,7,9"]
    login.run("scancel", "-n", "other", "1")  # filters and ids are both heeded
    assert len(login.lines("squeue", "-h")) == 2
    login.run("scancel", "--me", "-t", "pd")
    assert login.lines("squeue", "-h") == []


def test_scancel_of_what_is_not_there(login: Login) -> None:
    assert login.lines("scancel", "99") == []
    said = "scancel: Terminating job 99\nscancel: error: Kill job error on job id 99: Invalid job id specified\n"
    loud = login.run("scancel", "-v", "99")
    assert (loud.rc, loud.err) == (0, said)
    assert login.run("scancel").err == "scancel: error: No job identification provided\n"
    assert login.run("scancel", "abc").err == "scancel: error: Invalid job id abc\n"


# -- sacct, sacctmgr ---------------------------------------------------------------------------------------------------


def test_sacct_rows_and_steps(login: Login) -> None:
    login.end(login.submit("-J", 'a "b"'), 255 << 8)
    assert login.lines("sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode,Start,JobName") == [
        f"1|FAILED|127:0|{NOW}|a `b`"
    ]
    rows = login.lines("sacct", "-n", "-P", "-o", "JobID,State,ExitCode")
    assert rows == ["1|FAILED|127:0", "1.batch|FAILED|127:0", "1.extern|COMPLETED|0:0"]


def test_sacct_tells_tres_in_its_own_order(login: Login) -> None:
    login.submit("--gres=gpu:1")
    assert login.lines("sacct", "-X", "-n", "-P", "-o", "ReqTRES,AllocTRES") == [
        "billing=1,cpu=1,gres/gpu=1,mem=100M,node=1|billing=1,cpu=1,gres/gpu:h100=1,gres/gpu=1,mem=100M,node=1"
    ]


def test_sacct_shows_the_last_attempt_or_all(login: Login) -> None:
    login.submit()
    login.run("scontrol", "requeue", "1")
    login.end(1, 15)
    assert login.lines("sacct", "-X", "-n", "-P", "-j", "1", "-o", "State") == ["PENDING"]
    assert login.lines("sacct", "-X", "-n", "-P", "-D", "-j", "1", "-o", "State") == ["REQUEUED", "PENDING"]


def test_sacct_leaves_out_what_is_not_eligible_unless_named(login: Login) -> None:
    login.submit("-H")
    assert login.lines("sacct", "-X", "-n", "-P", "-S", "now-1hour", "-o", "JobID") == []
    assert login.lines("sacct", "-X", "-n", "-P", "-j", "1", "-o", "JobID,Start") == ["1|Unknown"]


@pytest.mark.parametrize("version", VERSIONS)
def test_fields_that_old_releases_do_not_know(tmp_path: Path, version: str) -> None:
    login = Login(tmp_path, version)
    login.submit("-o", "x-%j")
    answer = login.run("sacct", "-X", "-n", "-P", "-o", "JobID,StdOut,Restarts")
    if version == OLD:
        assert (answer.rc, answer.err) == (1, 'sacct: error: Invalid field requested: "StdOut"\n')
    else:
        assert answer.out == "1|/jobs/x-%j|0\n"


def test_no_accounting(tmp_path: Path) -> None:
    answer = Login(tmp_path, accounting=False).run("sacct", "-X")
    assert (answer.rc, answer.err) == (1, "Slurm accounting storage is disabled\n")


def test_sacctmgr(login: Login) -> None:
    assert login.lines("sacctmgr", "-n", "-P", "show", "assoc", "format=Account,User,QOS") == [
        "root||normal",
        "root|root|normal",
    ]
    assert login.lines("sacctmgr", "-n", "-P", "show", "qos", "format=Name,Priority") == ["normal|0"]


# -- sbatch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "letter"), [(OLD, ""), (NEW, ""), ("25.11.7", " a"), ("26.05.5", " a")])
def test_test_only(tmp_path: Path, version: str, letter: str) -> None:
    answer = Login(tmp_path, version).run("sbatch", "--test-only", "-c8", "--wrap", "true")
    where = "using 8 processors on nodes n1 in partition gpu"
    assert (answer.rc, answer.err) == (0, f"sbatch: Job 1 to start at {NOW}{letter} {where}\n")


def test_test_only_tells_what_is_wrong(login: Login) -> None:
    answer = login.run("sbatch", "--test-only", "-p", "nope", "--wrap", "true")
    said = "sbatch: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified\n"
    assert (answer.rc, answer.err) == (1, said)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "sbatch: error: Batch script is empty!"),
        ("echo hi\n", "sbatch: error: This does not look like a batch script."),
        ("#!/bin/sh\r\ntrue\r\n", "sbatch: error: Batch script contains DOS line breaks (\\r\\n)"),
    ],
)
def test_scripts_that_are_none(login: Login, tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "script"
    path.write_bytes(text.encode())
    answer = login.run("sbatch", str(path))
    assert answer.rc == 1
    assert answer.err.startswith(error)
    assert login.run("sbatch", "nofile.sh").err == "sbatch: error: Unable to open file nofile.sh\n"


def test_what_sbatch_prints(login: Login) -> None:
    assert login.lines("sbatch", "--wrap", "true") == ["Submitted batch job 1"]
    assert login.lines("sbatch", "--parsable", "-M", "emulated", "--wrap", "true") == ["2;emulated"]
    assert login.run("sbatch", "--foo", "--wrap", "true").rc == 255
    assert login.run("sbatch").need == "stdin"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("command", ["sbatch", "squeue", "sacct", "scancel", "sinfo", "scontrol", "sacctmgr"])
def test_version(tmp_path: Path, version: str, command: str) -> None:
    (line,) = Login(tmp_path, version).lines(command, "--version")
    assert line.split()[-1] == version
