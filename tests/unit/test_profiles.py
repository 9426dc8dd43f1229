"""Profiles: what a file says stands in for what a request leaves out, and never for what it says."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.data import shipped
from orchestrator.errors import BadInput
from orchestrator.profiles import Profiles
from orchestrator.resources import Resources
from orchestrator.shapes import RunCreate

A100 = """\
description = "One A100"
signal = "USR1@300"
tags = ["a100"]
priority = 5
[resources]
gpus = 1
gpu_type = "a100"
mem = "60G"
[env]
OMP_NUM_THREADS = "8"
NAME = "profile"
[retry]
max = 3
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The user's folder and the site's; the site's has a100."""
    user, site = tmp_path / "user", tmp_path / "site"
    for folder in (user, site):
        folder.mkdir()
    (site / "a100.toml").write_text(A100)
    return user, site


@pytest.fixture
def profiles(folders: tuple[Path, Path]) -> Profiles:
    return Profiles(folders)


def asked(**told: Any) -> RunCreate:
    return RunCreate.model_validate({"name": "r", "command": "true", **told})


def refused(profiles: Profiles, **told: Any) -> BadInput:
    with pytest.raises(BadInput) as error:
        profiles.apply(asked(**told))
    assert error.value.field == "profile"
    return error.value


def test_a_profile_says_what_the_request_leaves_out(profiles: Profiles) -> None:
    body = profiles.apply(asked(profile="a100"))
    assert body.resources == Resources(gpus=1, gpu_type="a100", mem="60G")
    assert body.env == {"OMP_NUM_THREADS": "8", "NAME": "profile"}
    assert (body.signal, body.tags, body.priority) == ("USR1@300", ["a100"], 5)
    assert body.retry is not None
    assert body.retry.max == 3
    assert (body.name, body.command, body.profile) == ("r", "true", "a100")


def test_what_the_request_says_goes_before(profiles: Profiles) -> None:
    body = profiles.apply(asked(profile="a100", signal="USR2@60", tags=[], priority=0, retry={"max": 1}))
    assert (body.signal, body.tags, body.priority) == ("USR2@60", [], 0)
    assert body.retry is not None
    assert body.retry.max == 1


def test_a_null_that_the_request_says_goes_before_too(profiles: Profiles) -> None:
    body = profiles.apply(asked(profile="a100", signal=None, retry=None))
    assert (body.signal, body.retry) == (None, None)


def test_resources_and_environment_are_merged_field_by_field(profiles: Profiles) -> None:
    body = profiles.apply(asked(profile="a100", resources={"gpus": 4, "time": 60}, env={"NAME": "mine", "OTHER": "1"}))
    assert body.resources == Resources(gpus=4, gpu_type="a100", mem="60G", time=60)
    assert body.env == {"OMP_NUM_THREADS": "8", "NAME": "mine", "OTHER": "1"}


def test_a_single_resource_can_be_taken_back(profiles: Profiles) -> None:
    body = profiles.apply(asked(profile="a100", resources={"gpu_type": None, "mem": None}))
    assert body.resources == Resources(gpus=1)


def test_without_a_profile_nothing_changes(profiles: Profiles) -> None:
    body = asked(resources={"gpus": 1})
    assert profiles.apply(body) is body


def test_the_request_itself_is_left_as_it_is(profiles: Profiles) -> None:
    body = asked(profile="a100", env={"NAME": "mine"})
    profiles.apply(body)
    assert (body.env, body.resources) == ({"NAME": "mine"}, Resources())


def test_the_users_profile_goes_before_the_sites(folders: tuple[Path, Path], profiles: Profiles) -> None:
    (folders[0] / "a100.toml").write_text("[resources]\ncpus = 2\n")
    assert profiles.apply(asked(profile="a100")).resources == Resources(cpus=2)
    assert profiles.names() == ["a100"]


def test_files_are_read_when_they_are_asked_for(folders: tuple[Path, Path], profiles: Profiles) -> None:
    (folders[0] / "later.toml").write_text("priority = 7\n")
    assert profiles.apply(asked(profile="later")).priority == 7
    assert profiles.names() == ["a100", "later"]


def test_an_unknown_profile_lists_those_that_there_are(folders: tuple[Path, Path], profiles: Profiles) -> None:
    (folders[0] / "mine.toml").write_text("")
    (folders[0] / "notes.txt").write_text("")
    told = refused(profiles, profile="nope")
    assert ("'nope'" in told.message, told.choices) == (True, ["a100", "mine"])


def test_folders_that_are_not_there_hold_no_profiles(tmp_path: Path) -> None:
    nothing = Profiles([tmp_path / "none"])
    assert (nothing.names(), nothing.public()) == ([], [])
    assert refused(nothing, profile="a100").choices == []


@pytest.mark.parametrize("text", ["resources = ", "[resources", 'a = "', "\x00", "a = 1\na = 2\n"])
def test_broken_toml_is_told_with_its_file(folders: tuple[Path, Path], profiles: Profiles, text: str) -> None:
    (folders[0] / "bad.toml").write_text(text)
    assert str(folders[0] / "bad.toml") in refused(profiles, profile="bad").message


def test_a_file_that_is_no_text_is_told(folders: tuple[Path, Path], profiles: Profiles) -> None:
    (folders[0] / "bad.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(profiles, profile="bad").message


def test_a_folder_in_a_profiles_place_is_told(folders: tuple[Path, Path], profiles: Profiles) -> None:
    (folders[0] / "bad.toml").mkdir()
    assert "cannot be read" in refused(profiles, profile="bad").message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resource = 1\n", "resource"),
        ("[resources]\ngpu = 1\n", "resources.gpu"),
        ("[resources]\ngpus = -1\n", "resources.gpus"),
        ('signal = "TERM@5"\n', "signal"),
        ("priority = []\n", "priority"),
        ("resources = 3\n", "resources"),
        ("env = 3\n", "env"),
    ],
)
@pytest.mark.parametrize("own", [{}, {"resources": {"cpus": 1}, "env": {"A": "1"}}])
def test_a_profile_that_cannot_be_is_refused_by_its_field(
    folders: tuple[Path, Path], profiles: Profiles, text: str, words: str, own: dict[str, Any]
) -> None:
    (folders[0] / "bad.toml").write_text(text)
    assert words in refused(profiles, profile="bad", **own).message


def test_one_broken_profile_does_not_hide_the_others(folders: tuple[Path, Path], profiles: Profiles) -> None:
    (folders[0] / "bad.toml").write_text("= 1")
    assert "a100" in {shown["name"] for shown in profiles.public()}


def test_a_profile_is_shown_as_it_is_written(profiles: Profiles) -> None:
    (shown,) = profiles.public()
    assert (shown["name"], shown["description"], shown["resources"]["gpu_type"]) == ("a100", "One A100", "a100")


def test_the_shipped_example_is_a_valid_profile() -> None:
    examples = Profiles([shipped("config") / "example-profiles"])
    assert "a100" in examples.names()
    for name in examples.names():
        body = examples.apply(asked(profile=name))
        assert body.resources != Resources()
    body = examples.apply(asked(profile="a100", resources={"gpus": 2}))
    assert (body.resources.gpus, body.resources.gpu_type, body.signal) == (2, "a100", "USR1@300")
    assert body.retry is not None
    assert body.environment is not None
    assert body.retry.on == ["PREEMPTED", "NODE_FAIL"]
