"""The orc command, as a person and a program use it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.elsewhere import shared_python
from tests.support.plans import GOOD
from tests.support.service import end_runs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance
ORC = str(Path(sys.executable).with_name("orc"))


class Orc:
    """The command over a home of its own, which starts its server on demand."""

    def __init__(self, home: Path) -> None:
        self.home = home
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ORC_")}
        self.environment = {**clean, "ORC_HOME": str(home), "ORC_LOCAL_CPUS": "4", "ORC_STOP_GRACE_SECONDS": "2"}

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ORC, *words],
            env={**self.environment, **environment},
            cwd=self.home.parent,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def json(self, *words: str) -> Any:
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def server(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.home / "server.json").read_text()))
        except FileNotFoundError:
            return None

    def close(self) -> None:
        said = self.server()
        if said is not None:
            with suppress(ProcessLookupError):  # it may end by itself any moment
                os.kill(said["pid"], 15)
            wait_until(lambda: not (self.home / "server.json").exists())
        end_runs(self.home / "runs")


@pytest.fixture
def orc(tmp_path: Path) -> Iterator[Orc]:
    made = Orc(tmp_path / "home")
    yield made
    made.close()


def test_run_waits_shows_the_output_and_exits_as_the_run_ends(orc: Orc) -> None:
    good = orc("run", "--wait", "--", sys.executable, "-c", "print('a \"quoted\" $word')")
    assert (good.returncode, good.stdout) == (0, 'a "quoted" $word\n')
    bad = orc("run", "--wait", "echo out; exit 3")
    assert (bad.returncode, bad.stdout) == (1, "out\n")
    assert "exit code 3" in bad.stderr


def test_run_prints_its_id_alone_on_standard_output(orc: Orc) -> None:
    run_id = orc("run", "true").stdout.strip()
    assert orc("wait", run_id).returncode == 0
    shown = orc.json("show", run_id)
    assert (shown["status"], shown["workdir"]) == ("finished", str(orc.home.parent))
    assert [event["kind"] for event in shown["events"]][:2] == ["run.created", "run.queued"]


def test_sweep_takes_lists_and_ranges_and_quotes_values(orc: Orc) -> None:
    done = orc("sweep", "lr=1e-3,1e-4", "seed=0..2", "tag=a b,$x", "--wait", "--json", "--", "echo")
    assert done.returncode == 0, done.stderr
    sweep = json.loads(done.stdout)
    assert sweep["progress"]["completed"] == 12
    assert sweep["parameters"] == {"lr": [0.001, 0.0001], "seed": [0, 1, 2], "tag": ["a b", "$x"]}
    logs = {orc("logs", run_id).stdout for run_id in sweep["run_ids"][:2]}
    assert logs == {"--lr=0.001 --seed=0 --tag=a b\n", "--lr=0.001 --seed=0 --tag=$x\n"}
    table = orc("show", sweep["id"])
    assert "lr=0.0001 seed=2 tag=$x" in table.stdout
    assert orc("wait", sweep["id"]).returncode == 0


def test_ls_stop_rerun_logs_events_detect(orc: Orc) -> None:
    run_id = orc("run", "--name", "sleeper", "sleep 300").stdout.strip()
    wait_until(lambda: orc.json("show", run_id)["status"] == "running")
    assert "sleeper" in orc("ls").stdout
    assert orc("wait", "--timeout", "0.2", run_id).returncode == 1
    assert orc("stop", run_id).returncode == 0
    assert orc("wait", run_id).returncode == 1
    again = orc("rerun", "--wait", "--command", "echo again", run_id)
    assert (again.returncode, again.stdout) == (0, "again\n")
    assert [run["status"] for run in orc.json("ls", "--status", "stopped")] == ["stopped"]
    assert "run.stop_requested" in orc("events").stdout
    assert orc("detect").stdout.startswith(("CPU machine", "GPU workstation"))
    assert orc("logs", "-f", orc.json("ls")[0]["id"]).stdout == "again\n"


def test_what_failed_of_a_sweep_is_run_again(orc: Orc, tmp_path: Path) -> None:
    sweep = orc("sweep", "code=0,3", "--wait", "--", f"test -e {tmp_path}/mended || exit {{code}}").stdout.strip()
    (tmp_path / "mended").touch()
    again = orc("rerun", "--wait", sweep)
    assert (again.returncode, len(again.stdout.split())) == (0, 1)
    none_left = orc("rerun", sweep)
    assert (none_left.returncode, none_left.stdout, "0 run(s)" in none_left.stderr) == (0, "", True)
    assert orc("rerun", "--gpus", "1", sweep).returncode == 2


def test_plan_save_show_approve_execute_complete(orc: Orc, tmp_path: Path) -> None:
    text = GOOD.replace("GPU count: 4", "GPU count: 0").replace("local_gpu", "cpu_only")
    good, bad = tmp_path / "plan.md", tmp_path / "bad.md"
    good.write_text(text)
    bad.write_text(text.replace("### Metrics", "### Metrik"))
    plan_id = orc("plan", "save", str(good)).stdout.strip()
    assert [plan["title"] for plan in orc.json("plan", "list")] == ["Learning rates for the small model"]
    assert orc("plan", "show", plan_id).stdout.strip() == text.strip()
    unasked = orc("plan", "approve", plan_id)
    assert unasked.returncode == 2
    assert "say --yes" in unasked.stderr
    assert orc.json("plan", "approve", "--yes", plan_id)["status"] == "approved"
    for action, status in (("execute", "executing"), ("complete", "completed"), ("archive", "archived")):
        assert orc.json("plan", action, plan_id)["status"] == status
    bad_id = orc("plan", "save", str(bad)).stdout.strip()
    refused = orc("plan", "approve", "--yes", bad_id)
    assert refused.returncode == 2
    assert '"### Metrics" is missing' in refused.stderr
    assert orc.json("plan", "approve", "--yes", "--force", bad_id)["status"] == "approved"


def test_bad_usage_is_2_an_unknown_id_says_so(orc: Orc) -> None:
    assert orc("run").returncode == 2
    assert orc("sweep", "lr", "--", "true").returncode == 2
    assert orc("sweep", "seed=5..0", "--", "true").returncode == 2
    assert orc("nonsense").returncode == 2
    unknown = orc("logs", "nothing")
    assert (unknown.returncode, "no run 'nothing'" in unknown.stderr) == (2, True)
    assert orc("run", "--time", "soon", "true").returncode == 2


def test_what_runs_ask_for_can_be_said_on_the_command_line(orc: Orc) -> None:
    (orc.home.parent / "env.sh").write_text("export SET_UP=yes\n")
    command = '[ "$ORC_ATTEMPT" = 2 ] || { echo first; exit 75; }; echo "$SET_UP"'
    words = ("--tag", "one", "--tag", "two", "--executor", "local", "--setup", "env.sh", "--retry-on", "LOST,75")
    made = orc.json("run", *words, command)
    assert orc("wait", made["id"]).returncode == 0
    over = orc.json("show", made["id"])
    assert (over["tags"], over["executor"], over["retry"]["on"]) == (["one", "two"], "local", ["LOST"])
    assert orc("logs", made["id"]).stdout == "yes\n"
    assert [orc("logs", "--attempt", number, made["id"]).stdout for number in ("1", "2")] == ["first\n", "yes\n"]
    assert "latest attempt" in orc("logs", "-f", "--attempt", "1", made["id"]).stderr
    shown = orc("script", made["id"]).stdout
    assert shown.index("command.sh") < shown.index("# ---- environment.sh") < shown.index(f"{orc.home.parent}/env.sh")
    sweep = json.loads(orc("sweep", "a=1,2", "--tag", "three", "--setup", "env.sh", "--json", "--", "true").stdout)
    assert [run["tags"] for run in orc.json("ls", "--sweep", sweep["id"])] == [["three"]] * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--launch", "torchrun"), "launch: starts a run on several nodes"),
        (("--launch", "mpi"), "launch: Input should be 'torchrun' or 'env'"),
        (("--container", "x", "--engine", "pyxis"), "container.engine: pyxis is Slurm's"),
        (("--signal", "USR1@60"), "signal: comes a while before the time limit"),
        (("--executor", "elsewhere"), "executor: Input should be 'local' or 'slurm'"),
        (("--retry-on", "NEVER"), "retry.on.0: Input should be 'PREEMPTED'"),
        (("--bind", "/data"), "--container IMAGE"),
    ],
)
def test_what_cannot_be_is_told_and_is_bad_usage(orc: Orc, words: tuple[str, ...], said: str) -> None:
    done = orc("run", *words, "--", "true")
    assert done.returncode == 2
    assert said in done.stderr


def test_no_server_to_be_had_is_3(orc: Orc) -> None:
    orc.home.mkdir(mode=0o700)
    (orc.home / "config.toml").write_text("gpu_ids = 'name'\n")
    done = orc("ls")
    assert done.returncode == 3
    assert "Setting gpu_ids" in done.stderr
    (orc.home / "config.toml").unlink()


def test_a_wrong_token_is_4(orc: Orc) -> None:
    assert orc("ls").returncode == 0
    assert orc("ls", ORC_TOKEN="wrong").returncode == 4


def test_a_server_started_on_demand_ends_when_idle_but_not_under_a_run(orc: Orc) -> None:
    orc.environment["ORC_IDLE_EXIT_SECONDS"] = "1"
    run_id = orc("run", "sleep 3").stdout.strip()
    said = orc.server()
    assert said is not None
    exit_file = orc.home / "runs" / run_id / "attempts" / "1" / "exit.json"
    wait_until(exit_file.exists)
    wait_until(lambda: orc.server() is None, "the server ends")
    assert orc.json("show", run_id)["status"] == "finished"


THIEF = """
import http.server, sys
class Thief(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open(sys.argv[1], "a").write(str(self.headers))
        self.send_error(404)
server = http.server.HTTPServer(("127.0.0.1", 0), Thief)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root can act as another user.")
def test_the_token_is_not_sent_to_another_users_server(orc: Orc, shared_folder: Path) -> None:
    python = shared_python()
    if python is None:
        pytest.skip("No Python that another user may execute.")
    orc("ls")
    orc.close()
    seen = shared_folder / "seen"
    command = [python, "-c", THIEF, str(seen)]
    with subprocess.Popen(command, user=21003, group=21003, cwd="/", stdout=subprocess.PIPE, text=True) as thief:
        assert thief.stdout is not None
        url = f"http://127.0.0.1:{thief.stdout.readline().strip()}"
        said = {"url": url, "socket": "/nowhere", "pid": 1, "host": os.uname().nodename, "started_at": 0}
        (orc.home / "server.json").write_text(json.dumps(said))
        done = [orc("ls"), orc("ls", ORC_URL=url)]
        thief.kill()
    (orc.home / "server.json").unlink()
    assert [(one.returncode, "the token was not sent" in one.stderr) for one in done] == [(4, True)] * 2
    assert not seen.exists()


def test_tick_makes_a_pass_without_a_server(orc: Orc) -> None:
    run_id = orc("run", "--cpus", "4", "sleep 0.2; echo one").stdout.strip()
    second = orc("run", "--cpus", "4", "echo two").stdout.strip()
    assert "Another server serves" in orc("tick").stderr
    orc.close()
    wait_until((orc.home / "runs" / run_id / "attempts" / "1" / "exit.json").exists)
    assert orc("tick").returncode == 0
    wait_until((orc.home / "runs" / second / "attempts" / "1" / "exit.json").exists)
    assert orc("tick").stdout.strip() == "2 finished"


def test_doctor_tells_what_is_in_force_and_where_it_came_from(orc: Orc) -> None:
    orc.home.mkdir(mode=0o700)
    (orc.home / "config.toml").write_text("gpu_reserve_after = 5\n")
    orc("ls")
    done = orc("doctor")
    assert done.returncode == 0
    assert f"gpu_reserve_after: 5.0 — home ({orc.home / 'config.toml'})" in done.stdout
    assert "local_cpus: 4 — environment" in done.stdout
    assert "journal_mode=wal, synchronous=2" in done.stdout
    topics = {finding["topic"] for finding in orc.json("doctor")}
    assert {"database", "sqlite", "migrations", "machine", "token", "runs"} <= topics
    (orc.home / "token").chmod(0o644)
    assert orc("doctor").returncode == 1


def test_shell_completion_completes_commands(orc: Orc) -> None:
    done = orc(_ORC_COMPLETE="complete_bash", COMP_WORDS="orc s", COMP_CWORD="1")
    assert set(done.stdout.split()) == {"script", "serve", "show", "skill", "stop", "sweep"}
    asked = ["bash", "-c", '"$0" --show-completion; exit $?', ORC]  # it asks which shell has called it
    shown = subprocess.run(asked, env=orc.environment, capture_output=True, text=True, timeout=90, check=True)
    assert "_ORC_COMPLETE=complete_bash" in shown.stdout


def test_a_reader_that_goes_away_is_no_crash(orc: Orc) -> None:
    run_id = orc("run", "seq 150000").stdout.strip()
    orc("wait", run_id)
    done = subprocess.run(
        f"{ORC} logs -n 1000000 {run_id} | head -1",
        shell=True,
        env=orc.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_alerts_are_listed_and_answered(orc: Orc) -> None:
    orc.environment |= {"ORC_ALERT_LOOK_SECONDS": "0.1"}
    run_id = orc("run", "exit 3").stdout.strip()
    wait_until(lambda: orc.json("alerts", "--rule", "failed"), "the alert")
    (alert,) = orc.json("alerts", "--run", run_id)
    shown = orc("alerts").stdout
    assert alert["id"] in shown
    assert "ignore, rerun" in shown
    refused = orc("alert", "respond", alert["id"], "stop")
    assert (refused.returncode, "Valid: ignore, rerun" in refused.stderr) == (2, True)
    new = orc("alert", "respond", alert["id"], "rerun").stdout.strip()
    assert orc.json("show", new)["parent_run_id"] == run_id
    assert alert["id"] not in orc("alerts").stdout
    assert "rerun" in orc("alerts", "--all").stdout


def test_tick_raises_alerts_without_a_server(orc: Orc) -> None:
    orc.environment |= {"ORC_ALERT_LOOK_SECONDS": "3600"}
    run_id = orc("run", "exit 3").stdout.strip()
    assert orc("wait", run_id).returncode == 1
    orc.close()
    assert orc("tick").returncode == 0
    (alert,) = orc.json("alerts")
    assert alert["run_id"] == run_id
