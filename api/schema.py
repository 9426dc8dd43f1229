"""What the OpenAPI schema says besides what FastAPI sees by itself: every error, and an example of every body."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

from api.answers import Json
from api.examples import EXAMPLES
from api.scopes import WORD


class Problem(BaseModel):
    """What went wrong, in words that say what would be right."""

    detail: str


class Fault(BaseModel):
    """One field that cannot be, and the valid choices where there are some."""

    loc: list[str | int]
    msg: str
    type: str
    choices: list[Any] | None = None


class Faults(BaseModel):
    """Which fields of the request cannot be."""

    detail: list[Fault] | str


class Refusal(BaseModel):
    """The token may not, or the plan does not allow it: then with the differences, and what would allow it."""

    detail: str
    plan_id: str | None = None
    diff: list[dict[str, Any]] | None = None
    amendment: dict[str, Any] | None = None
    refusal: int | None = None


class Conflicting(BaseModel):
    """Right in itself, but not together with what is there; ``problems``: those of a plan's markdown."""

    detail: str
    problems: list[dict[str, Any]] | None = None


# Whose status is asked to change, and cannot from where it is.
MOVES = frozenset(
    {"queue", "start", "stop", "hold", "release", "requeue", "priority", "archive", "approve", "execute", "complete"}
)


def describe(route: APIRoute) -> None:
    """Adds what a route may answer when it cannot do what is asked."""
    scope = (route.openapi_extra or {})[WORD]
    changes = route.methods is not None and not route.methods <= {"GET", "HEAD"}
    found: dict[int | str, dict[str, Any]] = {
        401: _answer(Problem, "No token, or one that is not (or no more) one of this server's."),
        403: _answer(Refusal, f"The token lacks the scope {scope!r}, or the plan does not allow it."),
        421: _answer(Problem, "The server does not answer to this Host name."),
        422: _answer(Faults, "A value cannot be: its field, and what would be right."),
        503: _answer(Problem, "The database, or who was to be asked, gives no answer just now: try again."),
    }
    if "{" in route.path or changes:
        found[404] = _answer(Problem, "There is no such thing: the path, or an id in the body.")
    if route.path.rsplit("/", 1)[-1] in MOVES:
        found[400] = _answer(Problem, "Its status cannot become that from what it is.")
    if changes:
        found[409] = _answer(Conflicting, "Right in itself, but not together with what is there.")
        found[413] = _answer(Problem, "The body is too long.")
        found[507] = _answer(Problem, "The disk is full; nothing was stored.")
    if getattr(route.response_class, "media_type", Json.media_type) != Json.media_type:
        found = {status: _as_json(answer) for status, answer in found.items()}
    route.responses = {**found, **route.responses}


def _as_json(answer: dict[str, Any]) -> dict[str, Any]:
    """An error of a route that answers text or a stream: JSON all the same."""
    reference = {"$ref": f"#/components/schemas/{answer['model'].__name__}"}
    return {"description": answer["description"], "content": {Json.media_type: {"schema": reference}}}


def _answer(model: type[BaseModel], words: str) -> dict[str, Any]:
    return {"model": model, "description": words}


def with_examples(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The application's schema with an example in each body."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        for model, example in EXAMPLES.items():
            schema["components"]["schemas"][model.__name__]["examples"] = [example]
        return schema

    return openapi
