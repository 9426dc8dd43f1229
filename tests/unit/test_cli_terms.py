"""The options of ``orc run`` and ``orc sweep`` become the fields of a request."""

from dataclasses import fields
from typing import Any

import pytest
import typer

from orchestrator.cli.common import Rest, command_text
from orchestrator.cli.main import app
from orchestrator.cli.terms import RETRIED, Terms
from orchestrator.shapes import RunTerms


@pytest.mark.parametrize(
    ("said", "body"),
    [
        ({}, {}),
        ({"gpus": 0}, {"resources": {"gpus": 0}}),
        ({"time": "8:00:00", "resource": ["mem=16G"]}, {"resources": {"time": "8:00:00", "mem": "16G"}}),
        ({"resource": ["nodes=2", "partition=1"]}, {"resources": {"nodes": 2, "partition": "1"}}),
        (
            {"resource": ["slurm.switches=1", "slurm.requeue=true"]},
            {"resources": {"slurm": {"switches": 1, "requeue": True}}},
        ),
        ({"env": ["A=1=2"], "tag": ["a", "b c"]}, {"env": {"A": "1=2"}, "tags": ["a", "b c"]}),
        ({"executor": "local", "profile": "a100"}, {"executor": "local", "profile": "a100"}),
        ({"retry": 0}, {"retry": {"max": 0, "on": RETRIED}}),
        ({"retry": 3, "retry_on": ["PREEMPTED"]}, {"retry": {"max": 3, "on": ["PREEMPTED"]}}),
        ({"retry_on": ["75", "9"]}, {"retry": {"on": [], "exit_codes": [75, 9]}}),
        ({"retry_on": ["timeout, 75", "lost"]}, {"retry": {"on": ["TIMEOUT", "LOST"], "exit_codes": [75]}}),
        ({"signal": "USR1@300"}, {"signal": "USR1@300"}),
        (
            {"launch": "torchrun", "resource": ["nodes=2"], "gpus": 4},
            {"launch": "torchrun", "resources": {"gpus": 4, "nodes": 2}},
        ),
        ({"container": "x.sif"}, {"container": {"image": "x.sif"}}),
        (
            {"container": "x", "engine": "pyxis", "bind": ["/a", "/b:/c:ro"]},
            {"container": {"image": "x", "engine": "pyxis", "binds": ["/a", "/b:/c:ro"]}},
        ),
        ({"module": ["cuda/12.4", "gcc"]}, {"environment": {"modules": ["cuda/12.4", "gcc"]}}),
        ({"setup": "env.sh"}, {"environment": {"setup": "env.sh"}}),
        ({"auto_env": True, "snapshot": True}, {"environment": "auto", "snapshot": True}),
    ],
)
def test_what_was_said_is_asked_for_and_nothing_else(said: dict[str, Any], body: dict[str, Any]) -> None:
    found = Terms(**said).body()
    assert found == body
    RunTerms.model_validate(found)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"engine": "pyxis"}, "--container IMAGE"),
        ({"bind": ["/a"]}, "--container IMAGE"),
        ({"auto_env": True, "module": ["gcc"]}, "one or the other"),
        ({"auto_env": True, "setup": "env.sh"}, "one or the other"),
        ({"env": ["A"]}, "--env must be NAME=VALUE"),
        ({"resource": ["=2"]}, "--resource must be NAME=VALUE"),
    ],
)
def test_what_does_not_go_together_is_bad_usage(
    said: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        Terms(**said).body()
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_both_commands_have_every_option_and_its_help(name: str) -> None:
    root: Any = typer.main.get_command(app)
    params = {param.name: param for param in root.commands[name].params}
    for field in fields(Terms):
        assert params[field.name].help, field.name
    assert "terms" not in params
    assert params["resource"].opts == ["--resource", "-R"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["python", "t.py", "--lr={lr}", "{lr}"], "python t.py --lr={lr} {lr}"),
        (["echo", "a b {lr} {seed}"], "echo 'a b {lr} {seed}'"),
        (["echo", "{lr}{seed}", ""], "echo '{lr}{seed}' ''"),
        (["bash", "-c", "echo ${lr}"], "bash -c 'echo ${lr}'"),
        (["echo {lr} | tee x"], "echo {lr} | tee x"),
    ],
)
def test_a_sweeps_places_stay_open_in_the_command(words: list[str], text: str) -> None:
    assert command_text([], Rest(words), places={"lr": [1]}) == text
