"""``orc emulate-slurm`` and the pytest plugin."""

import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli.common import Rest
from orchestrator.cli.emulate import emulate_slurm
from orchestrator.testing import EmulatedSlurm

pytest_plugins = ["orchestrator.testing.plugin"]

app = typer.Typer()
app.command()(emulate_slurm)


def emulate(*argv: str, command: list[str]) -> int:
    return CliRunner().invoke(app, [*argv], obj=Rest(command)).exit_code


def test_a_command_runs_on_an_emulated_cluster(tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = f"sinfo --version > {out}; sinfo -h -N -o '%N %G' >> {out}; exit 5"
    folder = tmp_path / "slurm"
    argv = ("--version", "22.05.8", "--nodes", "2", "--gpus", "3", "--no-accounting", str(folder))
    assert emulate(*argv, command=["sh", "-c", script]) == 5
    assert out.read_text() == "slurm-wlm 22.05.8\nn1 gpu:a100:3\nn2 gpu:a100:3\n"
    assert not (folder / "controller.sock").exists()


def test_a_command_that_is_not_there() -> None:
    assert emulate(command=["no-such-command"]) == 127


def test_a_version_that_is_none() -> None:
    assert emulate("--version", "new", command=["true"]) == 2


def test_the_fixture_puts_the_commands_on_path(emulated_slurm: EmulatedSlurm) -> None:
    found = subprocess.run(["sinfo", "-h", "-o", "%D"], capture_output=True, text=True, check=True)
    assert found.stdout == "2\n"
    assert emulated_slurm.calls()["sinfo"] == 1


@pytest.mark.parametrize("name", ["EmulatedSlurm", "Node", "Partition", "Cluster", "Job", "ControllerDown"])
def test_the_package_gives_its_names_when_asked(name: str) -> None:
    import orchestrator.testing

    assert getattr(orchestrator.testing, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = orchestrator.testing.nothing
