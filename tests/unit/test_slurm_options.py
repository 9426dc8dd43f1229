"""From what a run asks for to sbatch's options: each one asked for, none by habit."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.errors import BadInput
from orchestrator.resources import Resources
from orchestrator.slurm.longoptions import LONG_OPTIONS
from orchestrator.slurm.options import ALWAYS_PROTECTED, NAMED, Ask, Options, check, options
from orchestrator.testing.options import SBATCH


def asked(launch: str | None = None, signal: str | None = None, nice: int = 0, **resources: Any) -> Ask:
    return Ask(Resources(**resources), signal, launch, nice)


def refused(ask: Ask, protected: frozenset[str] = frozenset()) -> BadInput:
    with pytest.raises(BadInput) as told:
        check(ask, protected)
    return told.value


# -- a line for each field ---------------------------------------------------------------------------------------------


def test_a_run_that_asks_for_nothing_has_no_options() -> None:
    assert options(asked()) == {}


@pytest.mark.parametrize(
    ("resources", "found"),
    [
        ({"nodes": 1}, {"nodes": "1"}),
        ({"nodes": 4}, {"nodes": "4"}),
        ({"tasks_per_node": 2}, {"ntasks-per-node": "2"}),
        ({"cpus": 8}, {"cpus-per-task": "8"}),
        ({"cpus": 8, "tasks_per_node": 4}, {"cpus-per-task": "2", "ntasks-per-node": "4"}),
        ({"gpus": 2}, {"gres": "gpu:2"}),
        ({"gpus": 2, "gpu_type": "a100"}, {"gres": "gpu:a100:2"}),
        ({"gpus": 7, "gpu_type": "1g.10gb"}, {"gres": "gpu:1g.10gb:7"}),
        ({"gpus": 0}, {}),
        ({"mem": "16G"}, {"mem": "16384M"}),
        ({"mem": "500"}, {"mem": "500M"}),
        ({"mem": "1K"}, {"mem": "1M"}),
        ({"mem": "1.5M"}, {"mem": "2M"}),
        ({"time": 90}, {"time": "90"}),
        ({"time": "1-00:00:00"}, {"time": "1440"}),
        ({"time": "8:00:00"}, {"time": "480"}),
        ({"time": "00:00:01"}, {"time": "1"}),
        ({"time": "1:30"}, {"time": "2"}),
        ({"time": 0.5}, {"time": "1"}),
        ({"partition": "gpu,long"}, {"partition": "gpu,long"}),
        ({"account": "lab"}, {"account": "lab"}),
        ({"qos": "high"}, {"qos": "high"}),
        ({"constraint": "a100&nvlink"}, {"constraint": "a100&nvlink"}),
        ({"exclude": "n[1-3]"}, {"exclude": "n[1-3]"}),
        ({"nodelist": "n1"}, {"nodelist": "n1"}),
        ({"reservation": "course"}, {"reservation": "course"}),
        ({"begin": "now+1hour"}, {"begin": "now+1hour"}),
        ({"licenses": "matlab:1"}, {"licenses": "matlab:1"}),
        ({"exclusive": True}, {"exclusive": True}),
        ({"exclusive": "user"}, {"exclusive": "user"}),
        ({"exclusive": False}, {}),
        ({"slurm": {"mail-type": "END"}}, {"mail-type": "END"}),
        ({"slurm": {"requeue": True}}, {"requeue": True}),
        ({"slurm": {"requeue": False}}, {}),
        ({"slurm": {"threads-per-core": 1}}, {"threads-per-core": "1"}),
        ({"slurm": {"threads-per-core": 0}}, {"threads-per-core": "0"}),
    ],
)
def test_each_field_has_its_option(resources: dict[str, Any], found: Options) -> None:
    assert options(asked(**resources)) == found


def test_every_field_of_resources_makes_an_option() -> None:
    values: dict[str, Any] = {
        **dict.fromkeys(["gpus", "cpus", "time", "nodes", "tasks_per_node"], 1),
        "mem": "1G",
        "exclusive": True,
        "slurm": {"hold": True},
    }
    for name in Resources.model_fields:
        if name == "gpu_type":
            continue  # part of gpus' own
        assert len(options(asked(**{name: values.get(name, "x")}))) == 1, name


def test_a_signal_goes_to_job_py_alone() -> None:
    assert options(asked(signal="USR1@120")) == {"signal": "B:USR1@120"}


@pytest.mark.parametrize(("nice", "found"), [(100, {"nice": "100"}), (0, {}), (-5, {})])
def test_only_a_lower_priority_is_asked_for(nice: int, found: Options) -> None:
    assert options(asked(nice=nice)) == found


def test_torchrun_has_one_task_on_each_node_with_all_its_cpus() -> None:
    found = options(asked("torchrun", nodes=2, tasks_per_node=4, cpus=8))
    assert found == {"nodes": "2", "ntasks-per-node": "1", "cpus-per-task": "8"}


def test_env_has_the_tasks_that_were_asked_for() -> None:
    found = options(asked("env", nodes=2, tasks_per_node=4, cpus=8))
    assert found == {"nodes": "2", "ntasks-per-node": "4", "cpus-per-task": "2"}


@given(st.integers(1, 300_000_000))
def test_a_time_limit_is_never_rounded_down(seconds: int) -> None:
    minutes = int(
        options(asked(time=f"0-00:{seconds // 60}:{seconds % 60}" if seconds < 3600 else seconds / 60))["time"]
    )
    assert minutes * 60 >= seconds > (minutes - 1) * 60


# -- what may share an array -------------------------------------------------------------------------------------------


def test_equal_asks_have_equal_keys_and_others_have_not() -> None:
    one = asked(gpus=1, mem="1G", time=60)
    assert one.key() == asked(gpus=1, mem="1024M", time="1:00:00").key()
    others = [
        asked(gpus=2, mem="1G", time=60),
        asked(gpus=1, mem="2G", time=60),
        asked(gpus=1, mem="1G", time=60, signal="USR1@60"),
        asked(gpus=1, mem="1G", time=60, nice=1),
        asked(gpus=1, mem="1G", time=60, slurm={"hold": True}),
    ]
    assert len({one.key(), *(other.key() for other in others)}) == 6


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALWAYS_PROTECTED))
def test_what_is_the_services_own_is_refused_by_name(name: str) -> None:
    told = refused(asked(slurm={name: "x"}))
    assert told.field == f"resources.slurm.{name}"
    assert f"--{name} is protected" in told.message


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_has_a_field_is_refused_and_the_field_is_named(name: str) -> None:
    told = refused(asked(slurm={name: "x"}))
    assert told.field == f"resources.slurm.{name}"
    assert NAMED[name] in told.message


@pytest.mark.parametrize("value", [False, True, 1, "x"])
def test_a_protected_option_is_refused_whatever_its_value(value: object) -> None:
    assert refused(asked(slurm={"wrap": value})).field == "resources.slurm.wrap"


@pytest.mark.parametrize("protected", [frozenset({"comment", "mail-user"}), {"mail-user": "the site's"}])
def test_a_sites_protected_options_are_refused_and_all_are_listed(protected: Any) -> None:
    told = refused(asked(slurm={"mail-user": "a"}), protected)
    assert "--mail-user is protected" in told.message
    assert "output" in told.message
    check(asked(slurm={"mail-type": "END"}), protected)


ALLOWED = sorted(LONG_OPTIONS - ALWAYS_PROTECTED - set(NAMED))


@pytest.mark.parametrize("name", ALLOWED)
def test_every_other_option_of_sbatch_is_a_runs_to_set(name: str) -> None:
    check(asked(slurm={name: "x"}))


def beginnings(name: str) -> list[str]:
    """What sbatch may take for the option, and is no option itself."""
    return [
        name[:length] for length in range(2, len(name)) if name[:length] not in LONG_OPTIONS and name[length - 1] != "-"
    ]


@pytest.mark.parametrize("name", sorted(LONG_OPTIONS))
def test_an_abbreviation_is_refused_with_the_whole_names(name: str) -> None:
    for short in beginnings(name):
        told = refused(asked(slurm={short: "x"}))
        assert told.field == f"resources.slurm.{short}"
        assert name in told.choices
        assert f"--{name}" in told.message
        assert all(str(choice).startswith(short) for choice in told.choices)


def test_an_abbreviation_that_ends_in_a_hyphen_is_one_too() -> None:
    assert refused(asked(slurm={"job-": "x"})).choices == ["job-name"]


@pytest.mark.parametrize("short", ["x1", "x11", "x11-fo"])
def test_an_abbreviation_of_a_plugins_option_that_a_site_protects_is_refused(short: str) -> None:
    check(asked(slurm={short: "x"}))
    assert refused(asked(slurm={short: "x"}), frozenset({"x11-forward"})).choices == ["x11-forward"]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("mail-usr", "mail-user"),
        ("no-reqeue", "no-requeue"),
        ("mail-types", "mail-type"),
        ("thread-per-core", "threads-per-core"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_one_that_it_is_close_to(wrong: str, right: str) -> None:
    told = refused(asked(slurm={wrong: "x"}))
    assert (told.field, told.choices[0]) == (f"resources.slurm.{wrong}", right)
    assert f"no option --{wrong}" in told.message


PYXIS = ("image", "mounts", "workdir", "name", "save", "mount-home", "remap-root", "entrypoint", "writable", "env")


@pytest.mark.parametrize("name", ["of-the-next-release", "x11", *(f"container-{part}" for part in PYXIS)])
def test_an_option_of_a_newer_slurm_or_of_a_plugin_is_left_to_sbatch(name: str) -> None:
    check(asked(slurm={name: "x"}))


def test_no_option_that_an_older_slurm_lacks_is_short_for_what_is_refused() -> None:
    """There sbatch would take it for that. ``ntasks`` every one has."""
    off_limits = ALWAYS_PROTECTED | set(NAMED)
    assert [name for name in ALLOWED if any(other.startswith(name) for other in off_limits)] == ["ntasks"]


def test_every_option_that_is_refused_is_one_of_sbatchs() -> None:
    assert ALWAYS_PROTECTED | set(NAMED) <= LONG_OPTIONS


def test_every_option_that_the_emulator_takes_is_known() -> None:
    assert {option.name for option in SBATCH.values()} <= LONG_OPTIONS


@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no sbatch is installed that could tell its options")
def test_every_option_that_the_installed_sbatch_tells_of_is_known(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=x\nSlurmctldHost=localhost\n")
    done = subprocess.run(
        ["sbatch", "--help"],
        env={"PATH": "/usr/bin:/bin", "SLURM_CONF": str(conf)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = set(re.findall(r"^ .{0,5}--([a-z][a-z0-9-]+)", done.stdout, re.MULTILINE))
    assert len(found) > 80
    assert found <= LONG_OPTIONS


def test_every_named_option_is_one_that_the_service_can_make() -> None:
    everything = options(
        asked(
            "env",
            "USR1@60",
            1,
            **dict.fromkeys(
                ["partition", "account", "qos", "constraint", "exclude", "nodelist", "begin", "licenses"], "x"
            ),
            **dict.fromkeys(["tasks_per_node", "cpus", "gpus", "time"], 1),
            reservation="x",
            exclusive=True,
            nodes=2,
            mem="1G",
        )
    )
    assert set(everything) == set(NAMED) - {"gpus", "gpus-per-node", "dependency", "tasks-per-node", "nodefile"}


def test_cpus_that_cannot_be_shared_evenly_are_refused() -> None:
    told = refused(asked(cpus=7, tasks_per_node=2))
    assert (told.field, "7 CPUs" in told.message) == ("resources.cpus", True)
    check(asked(cpus=8, tasks_per_node=2))


@pytest.mark.parametrize("gpus", [None, 0])
def test_a_type_without_gpus_is_refused(gpus: int | None) -> None:
    assert refused(asked(gpu_type="a100", gpus=gpus)).field == "resources.gpu_type"
    check(asked(gpu_type="a100", gpus=1))


def test_several_nodes_need_a_way_to_start_on_them() -> None:
    told = refused(asked(nodes=2))
    assert (told.field, told.choices) == ("launch", ["torchrun", "env"])
    for launch in ("torchrun", "env"):
        check(asked(launch, nodes=2))
    check(asked(nodes=1))


def test_an_ask_without_anything_odd_passes() -> None:
    check(asked(gpus=1, cpus=4, mem="1G", time=60, partition="gpu", slurm={"mail-type": "END", "requeue": True}))


# -- hostile values never become a Resources ---------------------------------------------------------------------------

HOSTILE = [
    "a\n#SBATCH --uid=0",
    "a b",
    "$(id)",
    "`id`",
    "a;b",
    "'a'",
    '"a"',
    "a\\b",
    "a#b",
    "-a",
    "--wrap",
    "",
    "é",
    "a\x00b",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "name", ["partition", "account", "qos", "nodelist", "exclude", "reservation", "gpu_type", "constraint", "licenses"]
)
def test_a_hostile_value_is_no_resource(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Resources(**{name: value})


@pytest.mark.parametrize("value", [value for value in HOSTILE if value not in {"a b", "a;b", "-a", "--wrap"}])
@pytest.mark.parametrize("name", ["exclusive", "begin", "slurm"])
def test_a_hostile_text_is_no_resource_either(name: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Resources(**{name: {"mail-user": value} if name == "slurm" else value})


@pytest.mark.parametrize("name", ["Mail-user", "mail user", "mail\nuser", "m", "-x", "mail=user", "", "mail_user"])
def test_a_hostile_option_name_is_no_resource(name: str) -> None:
    with pytest.raises(ValidationError):
        Resources(slurm={name: True})


@pytest.mark.parametrize("ending", ["\n", "\r", "\n\n", "\u2028"])
@pytest.mark.parametrize(
    "name", ["partition", "account", "qos", "nodelist", "constraint", "licenses", "begin", "exclusive", "gpu_type"]
)
def test_a_value_with_a_line_end_at_its_end_is_refused(name: str, ending: str) -> None:
    with pytest.raises(ValidationError):
        Resources(**{name: f"gpu{ending}"})
