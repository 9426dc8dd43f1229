"""What may be asked for as a run's environment."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.environments.model import Environment, EnvironmentAsked


class Asked(BaseModel):
    """A body that may ask."""

    environment: EnvironmentAsked | None = None


def test_an_environment_is_auto_or_written_out_or_none() -> None:
    assert Asked.model_validate({}).environment is None
    assert Asked.model_validate({"environment": "auto"}).environment == "auto"
    given = Asked.model_validate({"environment": {"venv": ".venv", "modules": ["cuda/12.4"]}}).environment
    assert given == Environment(venv=".venv", modules=["cuda/12.4"])
    assert Asked(environment=Environment(uv=True)).model_dump(exclude_defaults=True) == {"environment": {"uv": True}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("Auto", 'an environment is "auto", or an object such as'),
        ({"venv": "a", "conda": "b"}, "venv and conda exclude each other"),
        ({"uv": True, "conda": "b"}, "conda and uv exclude each other"),
        ({"venv": "a", "conda": "b", "uv": True}, "at most one of venv, conda and uv"),
        ({"venv": " "}, "must not be empty"),
        ({"conda": "a b"}, 'begins with no "-"'),
        ({"conda": "-h"}, 'begins with no "-"'),
        ({"conda": ".."}, 'begins with no "-"'),
        ({"conda_tool": "pixi"}, "'micromamba'"),
        ({"pip": "x"}, "There is no such field; there are modules, venv"),
        (["auto"], "an object with names and values"),
    ],
)
def test_what_cannot_be_is_refused_once_and_in_words(value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate({"environment": value})
    [error] = caught.value.errors()
    assert words in error["msg"]


@pytest.mark.parametrize("char", ["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\ud800", "\x7f", "\t"])
@pytest.mark.parametrize("field", ["venv", "conda", "setup", "modules"])
def test_no_value_holds_a_control_character(field: str, char: str) -> None:
    value = f"/a{char}b"
    with pytest.raises(ValidationError):
        Environment.model_validate({field: [value] if field == "modules" else value})


@pytest.mark.parametrize(
    "name",
    ["cuda/12.4", "GCCcore/12.3.0", "Python/3.11.3-GCCcore-12.3.0", "openmpi@4.1:", "foo+bar~baz", "/site/modules/x"],
)
def test_modules_are_named_as_sites_name_them(name: str) -> None:
    assert Environment(modules=[name]).modules == [name]


@pytest.mark.parametrize("name", ["-cuda", "--purge", "", "a b", "a;b", "$(x)", "a'b", "ä", "cuda\n"])
def test_what_is_no_module_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Environment(modules=[name])


def test_an_environment_has_a_schema_and_stays_as_it_is() -> None:
    assert TypeAdapter(EnvironmentAsked).json_schema()["oneOf"]
    with pytest.raises(ValidationError, match="frozen"):
        Environment().venv = "x"  # type: ignore[misc]
