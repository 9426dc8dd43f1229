"""Advice from facts: the seed's table of GPU wrapping, how many at once, what to ask for."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.guidance.advice import (
    Like,
    Seen,
    compute_setup,
    estimated_effort,
    gpuwrap,
    parallel,
    pinning,
    soonest,
)

LOCAL = Seen("local_gpu", "healthy", 4, 1, 16, 3)
SLURM = Seen("slurm", "healthy", 24, 3, 16, 5)
CPU = Seen("cpu_only", "healthy", 0, 1, 8)


@pytest.mark.parametrize(
    ("seen", "config"),
    [
        (replace(LOCAL, strangers=["ada"]), {"enabled": True}),
        (LOCAL, {"enabled": True}),
        (SLURM, {"enabled": False}),
        (CPU, None),
    ],
)
def test_gpuwrap_by_the_seeds_table(seen: Seen, config: dict[str, bool] | None) -> None:
    assert gpuwrap(seen)["config"] == config


def test_who_shares_the_gpus_is_named() -> None:
    assert "ada" in gpuwrap(replace(LOCAL, strangers=["ada"]))["why"]


def test_pinning_by_cluster_type() -> None:
    assert [pinning(seen)["by"] for seen in (LOCAL, SLURM, CPU)] == ["CUDA_VISIBLE_DEVICES", "--gres", None]


def test_how_many_at_once() -> None:
    assert parallel(LOCAL, 1)["at_once"] == 4
    assert parallel(LOCAL, 2)["at_once"] == 2
    assert parallel(LOCAL, 8)["at_once"] == 1
    assert parallel(SLURM, 1)["at_once"] is None
    assert parallel(CPU, 0)["at_once"] == 8


def test_what_like_runs_used_is_asked_for_with_a_margin() -> None:
    assert Like(3, 1000 * 2**20, 600.0, 2).resources() == {"gpus": 2, "mem": "1536M", "time": "00:15:00"}
    assert Like().resources() == {}


def test_the_partition_that_starts_first_is_named_and_of_equals_the_longer() -> None:
    choices: list[dict[str, Any]] = [
        {"partition": "a", "expected_start": None, "seconds": 60.0},
        {"partition": "b", "expected_start": 10.0, "seconds": 60.0},
        {"partition": "c", "expected_start": 10.0, "seconds": 120.0},
        {"partition": "d", "expected_start": 20.0, "seconds": 600.0},
    ]
    best = soonest(choices)
    assert best is not None
    assert best["partition"] == "c"
    assert soonest(choices[:1]) is None


def test_the_sections_are_as_the_structure_wants_them() -> None:
    text = compute_setup(replace(SLURM, environment={"conda": "ml"}), {"gpus": 2, "partition": "gpu"})
    assert text.splitlines() == [
        "- Cluster type: slurm",
        "- GPU count: 2",
        "- gpuwrap: disabled",
        "- Environment: conda (ml)",
        "- Partition: gpu",
    ]
    assert "about 00:10:00 each" in estimated_effort(LOCAL, Like(3, None, 600.0), {"gpus": 1}, 4)
