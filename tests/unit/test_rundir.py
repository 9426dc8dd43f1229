"""What one attempt wrote, as the service reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.environments.activation import REFUSED
from orchestrator.rundir import AttemptDir, RunDir


def attempt(folder: Path, refusal: str | None, **record: Any) -> AttemptDir:
    made = RunDir(folder, "run").attempt(1)
    made.path.mkdir(parents=True)
    (made.path / "exit.json").write_text(json.dumps({"code": None, "signal": None, "ended_at": 1.0, **record}))
    if refusal is not None:
        (made.path / REFUSED).write_text(refusal)
    return made


@pytest.mark.parametrize("code", [78, 143])
def test_a_refusal_of_the_activation_is_why_the_attempt_failed(tmp_path: Path, code: int) -> None:
    found = attempt(tmp_path, "no virtualenv\n", code=code).exit()
    assert found is not None
    assert (found.code, found.reason) == (code, "BAD_ENVIRONMENT")
    assert found.error == "The environment could not be set up: no virtualenv"


@pytest.mark.parametrize(
    ("refusal", "record"),
    [
        (None, {"code": 78}),
        ("", {"code": 78}),
        ("no virtualenv", {"code": 0}),
        ("no virtualenv", {"code": None, "signal": 9}),
        ("no virtualenv", {"code": 143, "stopped": True}),
        ("no virtualenv", {"code": 143, "timed_out": True}),
    ],
)
def test_any_other_end_is_what_it_is(tmp_path: Path, refusal: str | None, record: dict[str, Any]) -> None:
    found = attempt(tmp_path, refusal, **record).exit()
    assert found is not None
    assert (found.reason, found.error, found.code) == (None, None, record["code"])


def test_a_reason_that_job_py_gave_stays(tmp_path: Path) -> None:
    found = attempt(tmp_path, "no virtualenv", code=1, reason="BAD_WORKDIR", error="No workdir.").exit()
    assert found is not None
    assert (found.reason, found.error) == ("BAD_WORKDIR", "No workdir.")
