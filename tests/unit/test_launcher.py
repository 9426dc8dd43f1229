"""How a command starts on several nodes or in a container: the rendered launch.sh, run by bash, with srun, scontrol and
apptainer that say how they were called."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.executors.base import Task
from orchestrator.executors.preparing import Preparer
from orchestrator.resources import Container, Resources
from orchestrator.rundir import RunDir
from orchestrator.slurm.script import Templates

RECORDER = """#!/bin/bash
printf '%s\\0' "${{0##*/}}" "$@" >> {calls}
printf '\\n' >> {calls}
case "${{0##*/}}" in
  scontrol) printf 'n1\\nn2\\n' ;;
  srun)  # one task, as on the second node
    while [ "$1" != /bin/bash ]; do shift; done
    SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_NNODES=2 SLURM_NTASKS=4 exec "$@" ;;
  apptainer)  # as in the container
    while [ "$1" != /bin/bash ]; do shift; done
    exec "$@" ;;
esac
"""
HOSTILE = 'it\'s $(touch pwned) "a" `b` ; & | * é'
SHOWN = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "NNODES", "NPROC_PER_NODE", "RANK", "LOCAL_RANK", "WORLD_SIZE")


class Place:
    """A run directory, and the commands that are found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.templates = Templates(folder / "templates")
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name in ("srun", "scontrol", "apptainer"):
            (bin_folder / name).write_text(RECORDER.format(calls=self.calls))
            (bin_folder / name).chmod(0o755)

    def launch(self, **fields: Any) -> tuple[list[list[str]], dict[str, str]]:
        """Runs a task's launcher; how each command was called, and what the command itself saw."""
        shown = " ".join(f'"{name}": "\'"${{{name}-}}"\'",' for name in SHOWN)
        command = f'echo \'{{ {shown} "pwd": "\'"$PWD"\'" }}\''
        task = Task("r1", 1, command, **{"workdir": str(self.folder), "resources": Resources(), "env": {}, **fields})
        preparer = Preparer(self.folder / "runs", [], self.templates)
        preparer.prepare(task, {})
        run_dir = RunDir(self.folder / "runs", "r1")
        done = subprocess.run(
            ["/bin/bash", "--noprofile", "--norc", str(run_dir.launcher)],
            env={
                "PATH": f"{self.folder}/bin:/usr/bin:/bin",
                "ORC_RUN_DIR": str(run_dir.path),
                "ORC_ATTEMPT": "1",
                "SLURM_JOB_NODELIST": "n[1-2]",
                "SLURM_JOB_ID": "20007",
                "SLURM_EXPORT_ENV": "NONE",
                "SLURM_CPUS_PER_TASK": "4",
            },
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        lines = self.calls.read_text().split("\0\n")[:-1]
        return [line.split("\0") for line in lines], dict(json.loads(done.stdout))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def option(call: list[str], name: str) -> list[str]:
    """Every value of an option, written ``--name=value`` or ``--name value``."""
    found = [word.partition("=")[2] for word in call if word.startswith(f"--{name}=")]
    return found + [after for word, after in pairwise(call) if word == f"--{name}"]


def test_a_plain_run_has_no_launcher(tmp_path: Path) -> None:
    preparer = Preparer(tmp_path, [], Templates())
    assert preparer.launcher(Task("r1", 1, "true", None, Resources(), {})) == ""


def test_torchrun_starts_once_on_each_node_and_knows_where_the_first_is(place: Place) -> None:
    calls, seen = place.launch(launch="torchrun", resources=Resources(nodes=2, gpus=4))
    assert [call[0] for call in calls] == ["scontrol", "srun"]
    assert option(calls[1], "ntasks-per-node") == ["1"]
    assert "--kill-on-bad-exit=1" in calls[1]
    expected = {"MASTER_ADDR": "n1", "MASTER_PORT": "20007", "NODE_RANK": "1", "NNODES": "2", "NPROC_PER_NODE": "4"}
    assert expected.items() <= seen.items()
    assert (seen["RANK"], seen["WORLD_SIZE"]) == ("", "")


def test_env_starts_a_process_for_each_task_which_knows_its_rank(place: Place) -> None:
    calls, seen = place.launch(launch="env", resources=Resources(nodes=2, tasks_per_node=2))
    assert option(calls[1], "ntasks-per-node") == ["2"]
    expected = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1", "MASTER_ADDR": "n1"}
    assert expected.items() <= seen.items()


def test_apptainer_has_the_run_directory_the_workdir_and_what_was_asked_for(place: Place) -> None:
    container = Container(image="/images/torch.sif", binds=["/data", "/scratch:/tmp:ro"])
    (call,), seen = place.launch(container=container)
    assert call[:2] == ["apptainer", "exec"]
    assert option(call, "bind") == ["/data", "/scratch:/tmp:ro", f"{place.folder}/runs/r1", str(place.folder)]
    assert option(call, "pwd") == [str(place.folder)]
    assert call[-5:] == [
        "/images/torch.sif",
        "/bin/bash",
        "--noprofile",
        "--norc",
        f"{place.folder}/runs/r1/wrapper.sh",
    ]
    assert "--nv" not in call
    assert seen["pwd"] == str(place.folder)


@pytest.mark.parametrize("fields", [{"resources": Resources(gpus=1)}, {"gpus": 1}])
def test_a_container_of_a_run_with_gpus_has_the_driver(place: Place, fields: dict[str, Any]) -> None:
    (call,), _ = place.launch(container=Container(image="x.sif"), **fields)
    assert "--nv" in call


def test_pyxis_is_an_srun_with_the_image_and_its_mounts(place: Place) -> None:
    container = Container(image="docker://nvcr.io#nvidia/pytorch:24.01", engine="pyxis", binds=["/data:/data"])
    (call,), _ = place.launch(container=container)
    run_dir = f"{place.folder}/runs/r1"
    assert call[0] == "srun"
    assert option(call, "container-image") == ["docker://nvcr.io#nvidia/pytorch:24.01"]
    mounts = f"{place.folder}:{place.folder},/data:/data,{run_dir}:{run_dir}"
    assert option(call, "container-mounts") == [mounts]
    assert option(call, "container-workdir") == [str(place.folder)]
    assert option(call, "ntasks") == ["1"]


def test_pyxis_without_a_workdir_mounts_none(place: Place) -> None:
    (call,), _ = place.launch(container=Container(image="x.sqsh", engine="pyxis"), workdir=None)
    run_dir = f"{place.folder}/runs/r1"
    assert (option(call, "container-mounts"), option(call, "container-workdir")) == ([f"{run_dir}:{run_dir}"], [])


def test_pyxis_on_several_nodes_is_in_the_srun_of_the_launch(place: Place) -> None:
    container = Container(image="torch.sqsh", engine="pyxis")
    calls, seen = place.launch(container=container, launch="torchrun", resources=Resources(nodes=2))
    assert [call[0] for call in calls] == ["scontrol", "srun"]
    assert option(calls[1], "container-image") == ["torch.sqsh"]
    assert seen["MASTER_ADDR"] == "n1"


def test_apptainer_on_several_nodes_starts_within_each_task(place: Place) -> None:
    calls, seen = place.launch(container=Container(image="x.sif"), launch="env", resources=Resources(nodes=2))
    assert [call[0] for call in calls] == ["scontrol", "srun", "apptainer"]
    assert seen["RANK"] == "3"


@pytest.mark.parametrize("engine", ["apptainer", "pyxis"])
def test_hostile_images_binds_and_workdirs_are_words_and_nothing_else(place: Place, engine: str) -> None:
    workdir = place.folder / HOSTILE
    workdir.mkdir()
    container = Container.model_validate({"image": HOSTILE, "engine": engine, "binds": [HOSTILE]})
    (call,), _ = place.launch(container=container, workdir=str(workdir))
    assert any(word.endswith(HOSTILE) for word in call)
    if engine == "apptainer":
        assert call.count(HOSTILE) == 2
        assert option(call, "pwd") == [str(workdir)]
    else:
        assert option(call, "container-image") == [HOSTILE]
        assert option(call, "container-workdir") == [str(workdir)]
        assert option(call, "container-mounts")[0].startswith(f"{workdir}:{workdir},{HOSTILE},")
    assert not list(place.folder.rglob("pwned"))


def test_a_site_has_a_launcher_of_its_own(place: Place) -> None:
    (place.folder / "templates").mkdir()
    own = 'exec apptainer exec --site {{ container.image | quote }} /bin/bash --norc "$ORC_RUN_DIR/wrapper.sh"\n'
    (place.folder / "templates" / "launch.sh.j2").write_text(own)
    (call,), _ = place.launch(container=Container(image="x.sif"))
    assert call[:4] == ["apptainer", "exec", "--site", "x.sif"]
