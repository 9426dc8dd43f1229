"""Conda environments, found by their names and places, whichever tool is there."""

import os
import time
from pathlib import Path

import pytest

from orchestrator.environments.conda import conda_name
from orchestrator.environments.detection import detect
from orchestrator.environments.model import Environment
from tests.support.environments import HOOK, applied, conda_prefix, executable, like_venv


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("name: torch\nchannels:\n  - x\n", "torch"),
        ("# name: no\nchannels: [a]\nname:   torch   # yes\r\ndependencies:\n", "torch"),
        ('name: "torch-2"', "torch-2"),
        ("name: 'torch'\n", "torch"),
        ('"name": torch\n', "torch"),
        ("name : torch\n", "torch"),
        ("name: é✓\n", "é✓"),
        ("name:\n  torch\n", None),
        ("name: |\n  torch\n", None),
        ("name: two words\n", None),
        ("name: &anchor\n", None),
        ("name: ../../x\n", None),
        ("name: -h\n", None),
        ("name: ..\n", None),
        ("name: ''\n", None),
        ("dependencies:\n  name: x\n", None),
        ("names: x\n", None),
        ("name:" + " " * 60_000 + "a b", None),
        ("", None),
    ],
)
def test_the_name_of_an_environment_file(text: str, name: str | None) -> None:
    begin = time.thread_time()
    assert conda_name(text) == name
    assert time.thread_time() - begin < 1


def test_a_named_environment_that_was_made_is_chosen_by_its_path(work: Path, home: Path) -> None:
    (work / "environment.yml").write_text("name: torch\n")
    found = detect(work)
    assert found.environment is None
    assert "names the conda environment torch, which was not found" in found.notes[0]
    assert "neither conda, mamba nor micromamba" in found.notes[0]
    executable(home / "miniforge3/bin/conda", "#!/bin/sh\n")
    found = detect(work)
    assert f"installed here: conda ({home}/miniforge3/bin/conda)" in found.notes[0]
    assert f"conda env create -f {work}/environment.yml" in found.notes[0]
    prefix = conda_prefix(home / "miniforge3/envs/torch")
    found = detect(work)
    assert found.environment == Environment(conda=str(prefix))
    assert found.activation == [f"conda activate {prefix}"]
    assert applied(found.environment, work).stdout.split() == [f"conda:{prefix}", "ran"]


def test_an_environment_in_condas_own_list_is_found(work: Path, home: Path, tmp_path: Path) -> None:
    prefix = conda_prefix(tmp_path / "scratch/torch")
    (home / ".conda").mkdir()
    (home / ".conda/environments.txt").write_text(f"relative/torch\n/gone/torch\n{prefix}\n")
    (work / "environment.yaml").write_text("name: torch\n")
    found = detect(work)
    assert found.environment is None
    assert "is a conda environment, but neither conda" in found.notes[0]
    executable(home / ".local/bin/micromamba", HOOK.replace("NAME", "micromamba"))
    found = detect(work)
    assert found.environment == Environment(conda=str(prefix), conda_tool="micromamba")
    assert found.activation == ['eval "$(micromamba shell hook --shell bash)"', f"micromamba activate {prefix}"]
    assert applied(found.environment, work).stdout.split() == [f"micromamba:{prefix}", "ran"]


@pytest.mark.parametrize("variable", ["CONDA_EXE", "MAMBA_EXE", "MAMBA_ROOT_PREFIX", "PATH"])
def test_where_conda_said_that_it_is_it_is_looked_for(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    base = tmp_path / "base"
    name = "mamba" if variable == "MAMBA_EXE" else "conda"
    exe = executable(base / "bin" / name, "#!/bin/sh\n")
    values = {"PATH": f"{exe.parent}:{os.environ['PATH']}", "MAMBA_ROOT_PREFIX": str(base)}
    monkeypatch.setenv(variable, values.get(variable, str(exe)))
    if variable == "MAMBA_ROOT_PREFIX":
        monkeypatch.setenv("CONDA_EXE", str(executable(tmp_path / "other/bin/conda", "")))
    conda_prefix(base / "envs/torch")
    (work / "environment.yml").write_text("name: torch\n")
    chosen = detect(work).environment
    assert chosen is not None
    assert (chosen.conda, chosen.conda_tool) == (str(base / "envs/torch"), name)


@pytest.mark.parametrize("name", [".conda", "env", "envs"])
def test_a_conda_environment_in_the_workdir_is_found(work: Path, home: Path, name: str) -> None:
    executable(home / "miniconda3/bin/conda", "#!/bin/sh\n")
    conda_prefix(work / name)
    assert detect(work).environment == Environment(conda=str(work / name))
    like_venv(work / ".venv")
    found = detect(work)
    assert found.environment == Environment(venv=str(work / ".venv"))
    assert f"Also found, and not chosen: conda activate {work}/{name}" in found.notes
