"""The sbatch script: the lines that were asked for, our own, and nothing that submitit adds; then the body."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SchedulerUnavailable
from orchestrator.resources import Resources
from orchestrator.slurm.gate import Gate
from orchestrator.slurm.options import Ask, Options
from orchestrator.slurm.sbatch import Rejection, ScriptExecutor
from orchestrator.slurm.script import JobSpec, Templates, render, sbatch_options, shipped_templates


def spec(
    folder: Path | str = "/runs/.submissions/orc-s1", tasks: int = 1, throttle: int | None = None, **asked: Any
) -> JobSpec:
    return JobSpec("orc-s1", Ask(Resources(**asked)), tasks, Path(folder), throttle)


def directives(job: JobSpec) -> list[str]:
    """The #SBATCH lines as sbatch reads them: without their quotes."""
    lines = render(job, shipped_templates()).splitlines()
    return [" ".join(shlex.split(line)) for line in lines if line.startswith("#SBATCH")]


# -- the lines ---------------------------------------------------------------------------------------------------------


def test_a_job_that_asks_for_nothing_has_our_own_four_lines() -> None:
    assert sorted(directives(spec())) == [
        "#SBATCH --comment=orc-s1",
        "#SBATCH --job-name=orc-s1",
        "#SBATCH --open-mode=append",
        "#SBATCH --output=/runs/.submissions/orc-s1/job.out",
    ]


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ({"time": 90}, ["--time=90"]),
        ({"mem": "1G"}, ["--mem=1024M"]),
        ({"cpus": 4}, ["--cpus-per-task=4"]),
        ({"gpus": 2, "gpu_type": "a100"}, ["--gres=gpu:a100:2"]),
        ({"nodes": 2, "tasks_per_node": 2}, ["--nodes=2", "--ntasks-per-node=2"]),
        ({"exclusive": True}, ["--exclusive"]),
        ({"exclusive": "user"}, ["--exclusive=user"]),
        ({"partition": "gpu", "account": "lab", "qos": "high"}, ["--account=lab", "--partition=gpu", "--qos=high"]),
        ({"exclude": "n[1-3]", "nodelist": "n4"}, ["--exclude=n[1-3]", "--nodelist=n4"]),
        ({"constraint": "a100&nvlink"}, ["--constraint=a100&nvlink"]),
        ({"slurm": {"requeue": True, "mail-type": "END"}}, ["--mail-type=END", "--requeue"]),
        ({"slurm": {"no-requeue": True}}, ["--no-requeue"]),
        ({"slurm": {"wckey": "mine"}}, ["--wckey=mine"]),
        ({"slurm": {"threads-per-core": 1}}, ["--threads-per-core=1"]),
    ],
)
def test_what_was_asked_for_has_its_line_and_nothing_else_has(asked: dict[str, Any], lines: list[str]) -> None:
    ours = set(directives(spec()))
    assert sorted(set(directives(spec(**asked))) - ours) == [f"#SBATCH {line}" for line in lines]
    assert ours <= set(directives(spec(**asked)))


def test_signal_and_nice_have_their_lines() -> None:
    job = JobSpec("orc-s1", Ask(Resources(), signal="USR2@60", nice=7), 1, Path("/f"))
    assert {"#SBATCH --signal=B:USR2@60", "#SBATCH --nice=7"} < set(directives(job))


def test_no_option_has_two_lines() -> None:
    names = [line.split("=")[0] for line in directives(spec(tasks=3, gpus=1, time=5, mem="1G", slurm={"wckey": "x"}))]
    assert len(names) == len(set(names))


def test_the_script_begins_with_its_shell_and_its_lines_come_before_any_command() -> None:
    lines = render(spec(time=5), shipped_templates()).splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(place for place, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_a_percent_sign_in_the_folder_is_not_taken_for_a_pattern() -> None:
    found = sbatch_options(spec("/runs/100%j/.submissions/orc-s1"))
    assert found["output"] == "/runs/100%%j/.submissions/orc-s1/job.out"


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "throttle", "array"),
    [
        (1, None, None),
        (1, 1, None),
        (2, None, "0-1"),
        (10, None, "0-9"),
        (10, 3, "0-9%3"),
        (10, 1, "0-9%1"),
        (10, 10, "0-9"),
        (10, 99, "0-9"),
    ],
)
def test_several_runs_are_an_array_with_its_throttle(tasks: int, throttle: int | None, array: str | None) -> None:
    found = sbatch_options(spec(tasks=tasks, throttle=throttle))
    assert found.get("array") == array
    assert str(found["output"]).endswith("/%a.out" if array else "/job.out")
    assert any(line == f"#SBATCH --array={array}" for line in directives(spec(tasks=tasks, throttle=throttle))) == bool(
        array
    )


# -- hostile values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a\nb", "a'b", 'a"b', "a\\b", "a\x00b", "a\u2028b", "\r"])
def test_a_value_that_no_line_can_hold_raises(value: str) -> None:
    asked: Options = {"job-name": "orc-s1", "partition": value}
    with pytest.raises(ValueError, match="--partition: no #SBATCH line can hold"):
        ScriptExecutor(Path("/f"), asked)


@pytest.mark.parametrize("folder", ["/runs/it's", '/runs/"x"', "/runs/a\nb", "/runs/a\\b"])
def test_a_folder_that_no_line_can_hold_raises(folder: str) -> None:
    with pytest.raises(ValueError, match="--output"):
        render(spec(folder), shipped_templates())


@given(st.text(max_size=40))
def test_whatever_a_value_is_it_raises_or_stays_in_its_line(value: str) -> None:
    asked: Options = {"job-name": "orc-s1", "comment": value}
    try:
        script = ScriptExecutor(Path("/f"), asked).script("true\n")
    except ValueError:
        return
    lines = script.splitlines()
    assert sum(line.startswith("#SBATCH") for line in lines) == 2
    (line,) = [line for line in lines if line.startswith("#SBATCH --comment")]
    assert shlex.split(line, comments=False)[1] == f"--comment={value}"


# -- the body ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/runs/.submissions/orc-s1", "/runs of mine/$HOME/`id`/$(id)/a;b/*/orc-s1"])
def test_the_body_starts_job_py_on_the_submissions_folder(folder: str) -> None:
    body = shipped_templates().render("job.sh.j2", python=sys.executable, folder=folder)
    last = shlex.split(body.strip().splitlines()[-1])
    assert last[-5:] == ["-I", "-S", f"{folder}/job.py", "--submission", folder]
    assert subprocess.run(["bash", "-n"], input=body, text=True, capture_output=True, check=False).stderr == ""


def test_the_body_takes_another_python_where_the_services_own_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "job.py").write_text("import sys; print(sys.argv[1:], sys.flags.isolated, sys.flags.no_site)")
    for python in (sys.executable, "/no/such/python"):
        body = shipped_templates().render("job.sh.j2", python=python, folder=str(folder))
        done = subprocess.run(["bash", "-c", body], capture_output=True, text=True, check=True)
        assert done.stdout == f"['--submission', '{folder}'] 1 1\n"


def test_the_body_does_not_pass_on_what_sbatch_was_told_to_export() -> None:
    assert "unset SLURM_EXPORT_ENV" in render(spec(), shipped_templates()).splitlines()


# -- templates ---------------------------------------------------------------------------------------------------------


def test_a_sites_template_goes_before_ours_and_after_the_users(tmp_path: Path) -> None:
    user, site = tmp_path / "user", tmp_path / "site"
    for folder in (user, site):
        folder.mkdir()
    (site / "job.sh.j2").write_text("# {{ folder }} of the site\n")
    assert Templates(user, site).render("job.sh.j2", python="p", folder="/f") == "# /f of the site\n"
    (user / "job.sh.j2").write_text("# the user's\n")
    assert Templates(user, site).render("job.sh.j2", python="p", folder="/f") == "# the user's\n"
    assert render(spec(), Templates(user, site)).endswith("\n# the user's\n")
    assert render(spec(time=5), Templates(user, site)).count("#SBATCH --time=5") == 1


def test_folders_that_are_not_there_leave_ours(tmp_path: Path) -> None:
    assert render(spec(), Templates(tmp_path / "none")) == render(spec(), shipped_templates())


def test_a_templates_unknown_value_is_an_error_and_no_empty_text(tmp_path: Path) -> None:
    (tmp_path / "job.sh.j2").write_text("{{ fodler }}")
    with pytest.raises(jinja2.UndefinedError, match="fodler"):
        render(spec(), Templates(tmp_path))


def test_values_are_quoted_for_the_shell(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{{ value | quote }}")
    assert Templates(tmp_path).render("x", value="it's $HOME") == shlex.quote("it's $HOME")
    assert Templates(tmp_path).render("x", value=7) == "7"


# -- sbatch ------------------------------------------------------------------------------------------------------------


def submit(tmp_path: Path, body: str, deadline: float = 30) -> str:
    fake = tmp_path / "sbatch"
    fake.write_text(f"#!/bin/sh\n{body}\n")
    fake.chmod(0o755)
    gate = Gate(30, {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    return ScriptExecutor(tmp_path, {}).submit_script(tmp_path / "job.sh", gate, deadline)


@pytest.mark.parametrize(("output", "job"), [("15", "15"), ("15;cluster", "15"), (" 15 ", "15")])
def test_sbatch_is_given_the_script_and_answers_the_jobs_id(tmp_path: Path, output: str, job: str) -> None:
    answer = submit(tmp_path, f'echo "$@" > {tmp_path}/argv; echo "{output}"')
    assert (answer, isinstance(answer, Rejection)) == (job, False)
    assert (tmp_path / "argv").read_text() == f"--parsable {tmp_path}/job.sh\n"


@pytest.mark.parametrize(
    "output",
    [
        "Welcome to the cluster!\\nsee https://x.y\\n15\\n",
        "15\\nlua: your job was put into partition gpu\\n",
        "14\\n  15;cluster  \\r\\n\\nGood luck with 16 GPUs.\\n",
        "15\\n\\377 is no UTF-8\\n",
    ],
)
def test_what_a_wrapper_or_a_plugin_prints_besides_is_passed_over(tmp_path: Path, output: str) -> None:
    answer = submit(tmp_path, f"printf '{output}'")
    assert (answer, isinstance(answer, Rejection)) == ("15", False)


@pytest.mark.parametrize("output", ["", "Submitted batch job 15", "15 16", "-15", "job\\n15 is yours"])
def test_an_answer_without_a_job_id_is_none_for_there_may_be_a_job(tmp_path: Path, output: str) -> None:
    with pytest.raises(SchedulerUnavailable, match="no job id: it is looked up by name"):
        submit(tmp_path, f"printf '%b' '{output}'")


def test_a_no_is_told_in_sbatchs_own_words(tmp_path: Path) -> None:
    answer = submit(tmp_path, "echo 'sbatch: error: Invalid account' >&2; exit 1")
    assert isinstance(answer, Rejection)
    assert (str(answer), answer.final) == ("sbatch: error: Invalid account", True)


def test_a_no_without_words_is_told_with_its_exit_code(tmp_path: Path) -> None:
    answer = submit(tmp_path, "exit 3")
    assert isinstance(answer, Rejection)
    assert re.search(r"ended with 3", answer)


@pytest.mark.parametrize(
    ("words", "final", "too_many"),
    [
        ("Invalid partition name specified", True, False),
        ("Requested node configuration is not available", True, False),
        ("Invalid account or account/partition combination specified", True, False),
        ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", False, True),
        ("QOSMaxSubmitJobPerUserLimit", False, True),
        ("AssocMaxSubmitJobLimit", False, True),
        ("AssocGrpSubmitJobsLimit", False, True),
        ("Slurm temporarily unable to accept job, sleeping and retrying", False, True),
        ("Slurmctld is currently not accepting requests", False, False),
        ("Unable to allocate memory", False, False),
        ("No space left on device", False, False),
        ("", True, False),
    ],
)
def test_only_what_passes_by_itself_is_worth_another_try(words: str, final: bool, too_many: bool) -> None:
    said = Rejection(f"sbatch: error: Batch job submission failed: {words}")
    assert (said.final, said.too_many) == (final, too_many)
