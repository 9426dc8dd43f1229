"""Runs outlive the server; nothing is lost, nothing runs twice."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import Session

from orchestrator import handover, wishes
from orchestrator.access import Identity
from orchestrator.errors import StorageError
from tests.support.service import RealServer, in_process, real_server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_twenty_running_runs_survive_kill_9_of_the_server(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    go = tmp_path / "go"
    with real_server(tmp_path / "home", {"ORC_LOCAL_CPUS": "20"}) as server:
        runs = [
            server.run(
                f"echo {code} >> {executed}; until [ -e {go} ]; do sleep 0.05; done; echo end {code}; exit {code}"
            )
            for code in range(20)
        ]
        for run in runs:
            server.until(run["id"], "running")
        processes = {run["id"]: server.get(f"/runs/{run['id']}")["scheduler"]["job_id"] for run in runs}
        server.kill()
        server.start()
        for run in runs:
            found = server.get(f"/runs/{run['id']}")
            assert (found["status"], found["scheduler"]["job_id"]) == ("running", processes[run["id"]])
        go.touch()
        over = [server.over(run["id"]) for run in runs]
        assert [run["exit_code"] for run in over] == list(range(20))
        assert [run["status"] for run in over] == ["finished"] + ["failed"] * 19
        assert [run["attempt"] for run in over] == [1] * 20
        assert sorted(map(int, lines(executed))) == list(range(20))
        assert server.log(runs[7]["id"]) == "end 7\n"


def test_runs_that_end_while_no_server_is_there_are_judged_by_their_records(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with real_server(tmp_path / "home", {"ORC_LOCAL_CPUS": "3"}) as server:
        commands = ("exit 0", "exit 41", "kill -SEGV $$")
        runs = [server.run(f"until [ -e {go} ]; do sleep 0.02; done; {command}") for command in commands]
        for run in runs:
            server.until(run["id"], "running")
        server.kill()
        go.touch()
        exits = [Path(run["run_dir"]) / "attempts" / "1" / "exit.json" for run in runs]
        wait_until(lambda: all(path.exists() for path in exits))
        ended = [json.loads(path.read_text())["ended_at"] for path in exits]
        server.start()
        over = [server.over(run["id"]) for run in runs]
        assert [(run["status"], run["reason"]) for run in over] == [
            ("finished", None),
            ("failed", "NONZERO_EXIT"),
            ("failed", "SIGNAL"),
        ]
        assert [(run["exit_code"], run["signal"]) for run in over] == [(0, None), (41, None), (None, 11)]
        assert [run["ended_at"] for run in over] == ended


def test_queued_runs_start_after_a_crash_each_once(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    with real_server(tmp_path / "home", {"ORC_LOCAL_CPUS": "4"}) as server:
        runs = [server.run(f"echo {number} >> {executed}; sleep 0.05") for number in range(60)]
        wait_until(lambda: len(lines(executed)) > 5)
        server.kill()
        server.start()
        assert {server.over(run["id"])["status"] for run in runs} == {"finished"}
        assert sorted(map(int, lines(executed))) == list(range(60))


def test_a_lost_answer_of_the_executor_is_adopted_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed = tmp_path / "executed"
    answer = handover.Handover._answer
    failures = iter([True, True])

    def fail_twice(self: handover.Handover, *arguments: object, **named: object) -> None:
        if next(failures, False):
            wait_until(lambda: list(tmp_path.glob("home/runs/*/attempts/1/claim")), "the job has taken the run")
            raise StorageError("The answer is lost.")
        answer(self, *arguments, **named)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(handover.Handover, "_answer", fail_twice)
    with in_process(tmp_path / "home") as service:
        service.post("/cluster/detect", {"preferred_type": "cpu_only"})
        run = service.run(f"echo once >> {executed}; sleep 0.3")
        assert service.over(run["id"])["status"] == "finished"
        assert lines(executed) == ["once"]
        assert any("Adopted" in event["message"] for event in service.events(run["id"]))


def test_an_intent_that_was_never_carried_out_is_taken_back_and_carried_out(tmp_path: Path) -> None:
    def intend(session: Session) -> None:
        queued = wishes.queue(session, run["id"], Identity("test", frozenset({"admin"})), allow_queued=False)
        handover._intend(session, handover.Batch([queued]), {})

    with in_process(tmp_path / "home") as service:
        run = service.post("/runs", {"name": "test", "command": "echo $ORC_ATTEMPT", "executor": "local"})
        service.system.reconciler.close()
        service.system.db.write(intend)  # and there the server ends
    with in_process(tmp_path / "home") as service:
        assert service.over(run["id"])["status"] == "finished"
        assert service.log(run["id"]) == "2\n"  # the first number is spent: nobody can use it any more
        assert any("never carried out" in event["message"] for event in service.events(run["id"]))


TREE = """
(setsid bash -c 'trap "" TERM; echo $$ >> {pids}; while :; do sleep 0.1; done' &) &
bash -c 'echo $$ >> {pids}; exec sleep 300' &
echo $$ >> {pids}
wait
"""


def test_stop_ends_the_whole_process_tree_also_what_ignores_term(server: RealServer, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    run = server.run(TREE.format(pids=pids))
    found = wait_until(lambda: lines(pids) if len(lines(pids)) == 3 else None)
    server.until(run["id"], "running")
    server.post(f"/runs/{run['id']}/stop")
    over = server.over(run["id"])
    assert (over["status"], over["reason"]) == ("stopped", "CANCELLED")
    assert [pid for pid in map(int, found) if alive(pid)] == []
    assert over["stopped_at"] == over["ended_at"]


def test_what_the_command_leaves_behind_ends_with_it(server: RealServer, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    run = server.run(f"(setsid sleep 300 & echo $! > {pids}); exit 5")
    over = server.over(run["id"])
    assert over["exit_code"] == 5
    (pid,) = map(int, lines(pids))
    assert not alive(pid)


def test_a_run_whose_job_py_is_killed_stays_running_until_its_processes_end(server: RealServer, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = server.run(f"until [ -e {go} ]; do sleep 0.05; done")
    server.until(run["id"], "running")
    claim = (Path(run["run_dir"]) / "attempts" / "1" / "claim").read_text()
    os.kill(int(claim.partition("pid=")[2].partition("\n")[0]), signal.SIGKILL)
    wait_until(lambda: server.get(f"/runs/{run['id']}")["reason"] == "ORPHANED")
    assert server.status(run["id"]) == "running"
    go.touch()
    over = server.over(run["id"])
    assert (over["status"], over["reason"]) == ("failed", "LOST")


def test_a_second_server_of_the_same_database_is_refused_and_told_of_the_first(
    server: RealServer, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api", "--port", "0"],
        env={
            **server.environment,
            "ORC_HOME": str(tmp_path / "other"),
            "ORC_DATABASE_URL": f"sqlite:///{server.home / 'orc.db'}",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert server.process is not None
    assert f"process {server.process.pid}" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.get("/cluster")["cluster"]


def test_what_a_server_writes_is_private_and_its_notice_goes_with_it(server: RealServer) -> None:
    said = json.loads((server.home / "server.json").read_text())
    private = [server.home / "token", server.home / "server.json", Path(said["socket"])]
    assert [oct(path.stat().st_mode & 0o777) for path in private] == ["0o600"] * 3
    server.stop()
    assert not (server.home / "server.json").exists()
    assert not Path(said["socket"]).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root may mount a small file system.")
def test_a_full_disk_refuses_and_half_stores_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("This machine lets nobody mount.")
    filler = small / "filler"
    try:
        with real_server(small / "home") as server:
            kept = server.post("/runs", {"name": "kept", "command": "true"})
            with filler.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(65536))
                        file.flush()
                except OSError:
                    pass
            body = {"name": "lost", "command": "true # " + "x" * 100_000}
            statuses = {server.refused("POST", "/runs", body)[0] for _ in range(3)}
            assert statuses == {507}
            filler.unlink()
            assert [run["id"] for run in server.get("/runs")] == [kept["id"]]
            assert server.over(server.run("true")["id"])["status"] == "finished"
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
