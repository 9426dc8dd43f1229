"""What a run asks for, held against what the cluster has: named by field, with what would be right."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import BadInput
from orchestrator.resources import Resources
from orchestrator.slurm.checks import Bounds, Limits, check_resources
from orchestrator.slurm.facts import Facts, Partition

GPU = Partition("gpu", True, True, 2, None, 2 * 86400.0, 3600.0, 1)
DEBUG = Partition("debug", False, True, 1, 1, 1800.0, None, 1)
LONG = Partition("long", False, True, 4, None, None, None, 1)
FACTS = Facts(
    partitions=(GPU, DEBUG, LONG), accounts=("lab", "course"), qos=("normal",), licenses=("matlab", "ansys@flex")
)


def node(partitions: list[str], gpus: dict[str, int], cpus: int = 16, memory: int = 64000) -> dict[str, Any]:
    return {
        "partitions": partitions,
        "gpus": sum(gpus.values()),
        "gpu_types": gpus,
        "cpus_total": cpus,
        "memory_mb": memory,
    }


NODES = {
    "n1": node(["gpu", "debug"], {"h100": 4}),
    "n2": node(["gpu", "long"], {"a100": 2, "v100": 1}, cpus=32, memory=128000),
    "n3": node(["long"], {}, cpus=64),
}


def refused(facts: Facts = FACTS, there: dict[str, dict[str, Any]] = NODES, **asked: Any) -> BadInput:
    with pytest.raises(BadInput) as told:
        check_resources(Resources(**asked), facts, there)
    return told.value


def passes(facts: Facts = FACTS, there: dict[str, dict[str, Any]] = NODES, **asked: Any) -> None:
    check_resources(Resources(**asked), facts, there)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"gpus": 4, "gpu_type": "h100", "cpus": 32, "mem": "128000M", "time": "2-00:00:00", "nodes": 2},
        {"partition": "debug", "gpus": 4, "time": 30},
        {"partition": "debug,long", "time": "30-0", "nodes": 4},
        {"partition": "long", "time": "300-0"},
        {"account": "lab", "qos": "normal", "licenses": "matlab:2"},
        {"licenses": "ansys@flex:1"},
        {"gpus": 0},
    ],
)
def test_what_the_cluster_has_is_not_refused(asked: dict[str, Any]) -> None:
    passes(**asked)


@pytest.mark.parametrize(
    ("asked", "field", "choices"),
    [
        ({"partition": "nope"}, "resources.partition", ["gpu", "debug", "long"]),
        ({"partition": "gpu,nope"}, "resources.partition", ["gpu", "debug", "long"]),
        ({"account": "nope"}, "resources.account", ["lab", "course"]),
        ({"qos": "nope"}, "resources.qos", ["normal"]),
        ({"licenses": "nope:1"}, "resources.licenses", ["matlab", "ansys@flex"]),
        ({"licenses": "matlab,nope"}, "resources.licenses", ["matlab", "ansys@flex"]),
        ({"licenses": "matlab|nope:2"}, "resources.licenses", ["matlab", "ansys@flex"]),
        ({"time": "2-00:00:01"}, "resources.time", ["up to 2-00:00:00"]),
        ({"partition": "debug", "time": 31}, "resources.time", ["up to 00:30:00"]),
        ({"partition": "debug,gpu", "time": "3-0"}, "resources.time", ["up to 2-00:00:00"]),
        ({"nodes": 3}, "resources.nodes", ["1..2"]),
        ({"partition": "debug", "nodes": 2}, "resources.nodes", ["1..1"]),
        ({"partition": "long,debug", "nodes": 5}, "resources.nodes", ["1..4"]),
        ({"gpus": 1, "gpu_type": "nope"}, "resources.gpu_type", ["a100", "h100", "v100"]),
        ({"partition": "debug", "gpus": 1, "gpu_type": "a100"}, "resources.gpu_type", ["h100"]),
        ({"gpus": 5}, "resources.gpus", ["0..4"]),
        ({"gpus": 3, "gpu_type": "a100"}, "resources.gpus", ["0..2"]),
        ({"partition": "long", "gpus": 4}, "resources.gpus", ["0..3"]),
        ({"cpus": 33}, "resources.cpus", ["1..32"]),
        ({"partition": "debug", "cpus": 17}, "resources.cpus", ["1..16"]),
        ({"mem": "128001M"}, "resources.mem", ["up to 128000M"]),
    ],
)
def test_what_the_cluster_can_never_give_is_refused_with_what_would_be_right(
    asked: dict[str, Any], field: str, choices: list[str]
) -> None:
    told = refused(**asked)
    assert (told.field, told.choices) == (field, choices)


def test_a_message_names_what_was_asked_for_and_where() -> None:
    told = refused(partition="debug", time="1-00:00:00").message
    assert "1-00:00:00" in told
    assert "debug" in told
    assert "00:30:00" in told


def test_without_a_default_partition_one_must_be_named() -> None:
    facts = replace(FACTS, partitions=(DEBUG, LONG))
    told = refused(facts)
    assert (told.field, told.choices) == ("resources.partition", ["debug", "long"])
    passes(facts, partition="long")


def test_where_nothing_is_enforced_any_account_and_qos_pass() -> None:
    facts = replace(FACTS, accounts=None, qos=None)
    passes(facts, account="any", qos="any")


def test_of_a_cluster_that_tells_nothing_everything_passes() -> None:
    passes(Facts(), {}, partition="any", account="any", qos="any", time="300-0", nodes=99, gpus=99, cpus=999, mem="9T")


def test_of_nodes_that_tell_nothing_nothing_is_refused_but_gpus() -> None:
    nodes: dict[str, dict[str, Any]] = {"n1": {"partitions": ["gpu"]}}
    passes(there=nodes, cpus=999, mem="9T")
    assert refused(there=nodes, gpus=1).field == "resources.gpus"


def test_a_partition_without_known_nodes_refuses_nothing_of_a_node() -> None:
    passes(there={"n3": NODES["n3"]}, gpus=8)


def test_a_node_must_have_all_its_gpus_of_one_type_only_where_a_type_is_named() -> None:
    passes(partition="long", gpus=3)
    assert refused(partition="long", gpus=3, gpu_type="a100").field == "resources.gpus"


def test_a_limit_without_end_beats_any_other() -> None:
    passes(partition="debug,long", time="400-0")


# -- what there is to be had -------------------------------------------------------------------------------------------

BOUNDS = Bounds(FACTS, NODES)


@pytest.mark.parametrize(
    ("asked", "mib"),
    [
        ({}, 128_000),
        ({"partition": "debug"}, 64_000),
        ({"partition": "debug,long"}, 128_000),
        ({"gpus": 4}, 64_000),
        ({"gpus": 1, "gpu_type": "a100"}, 128_000),
        ({"partition": "long", "cpus": 64}, 64_000),
        ({"nodes": 2}, 64_000),
        ({"gpus": 99}, 128_000),
    ],
)
def test_the_most_memory_is_that_of_the_nodes_which_have_the_rest(asked: dict[str, Any], mib: int) -> None:
    assert BOUNDS.memory(asked) == BOUNDS.of(asked).mem_bytes == mib * 2**20


def test_the_most_time_is_its_partitions_and_those_with_more_are_known() -> None:
    here = BOUNDS.of({"partition": "debug", "time": 30})
    assert (here.partitions, here.time_seconds) == ("debug", 1800.0)
    assert here.longer == (("gpu", 2 * 86400.0), ("long", None))
    default = BOUNDS.of({})
    assert (default.partitions, default.time_seconds, default.longer) == ("gpu", 2 * 86400.0, (("long", None),))
    assert BOUNDS.of({"partition": "gpu,long"}).time_seconds is None


def test_only_partitions_that_would_take_it_have_more_time_for_it() -> None:
    assert BOUNDS.of({"partition": "debug", "gpu_type": "h100", "gpus": 4}).longer == (("gpu", 2 * 86400.0),)
    down = Bounds(replace(FACTS, partitions=(GPU, DEBUG, replace(LONG, up=False))), NODES)
    assert down.of({}).longer == ()
    assert Bounds(FACTS, {}).of({}).longer == ()


def test_of_a_cluster_that_says_nothing_no_limit_is_known() -> None:
    assert Bounds().of({"mem": "1G", "partition": "gone"}) == Limits()
    assert BOUNDS.of({"partition": "gone"}) == Limits()
    assert BOUNDS.memory({"partition": "gone"}) is None


@pytest.mark.parametrize("asked", [{"partition": "debug"}, {}, {"gpus": 1, "gpu_type": "v100"}, {"cpus": 32}])
def test_what_the_limits_give_is_not_refused(asked: dict[str, Any]) -> None:
    limits = BOUNDS.of(asked)
    assert limits.mem_bytes is not None
    assert limits.time_seconds is not None
    passes(**asked, mem=f"{limits.mem_bytes // 2**20}M", time=int(limits.time_seconds // 60))
    for name, longest in limits.longer:
        passes(**{**asked, "partition": name, "time": int((longest or 9e6) // 60)})
