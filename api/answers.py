"""How answers and errors look on the wire."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from orchestrator import amendments
from orchestrator.errors import BadInput, Conflict, OrcError, OutsidePlan, Unauthorized
from orchestrator.wiring import System

log = logging.getLogger(__name__)
UNREADABLE = "There was an error parsing the body"  # FastAPI's words for what json cannot read


class Kept(Exception):
    """The first answer to an Idempotency-Key: it ends the request that repeats it."""

    def __init__(self, status: int, answer: Any) -> None:
        super().__init__()
        self.status = status
        self.answer = answer


def dumps(content: Any) -> bytes:
    """JSON as it goes out; NaN and infinities become null."""
    return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)


class Json(Response):
    """A JSON answer made from plain dicts, without passing a model again."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return dumps(content)


def page(request: Request, items: Sequence[Any], limit: int, cursor: int | None) -> Json:
    """A list; with a Link to the next page where this one is full."""
    headers = {}
    if cursor is not None and len(items) == limit:
        url = request.url.include_query_params(before=cursor)
        headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'
    return Json(list(items), headers=headers)


def explain(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """Validation errors without what cannot be JSON, each with its field and the valid choices."""
    shown = []
    for error in errors:
        item = {"loc": list(error["loc"]), "msg": str(error["msg"]), "type": error["type"]}
        context = error.get("ctx") or {}
        if error["type"] == "json_invalid" and context.get("error"):
            item["msg"] = f"The body is not JSON: {context['error']} (at character {error['loc'][-1]})."
        if error["type"] in {"literal_error", "enum"}:
            item["choices"] = re.findall(r"'([^']*)'", str(context.get("expected")))
        shown.append(item)
    return shown


def _problem(error: OrcError) -> Json:
    if isinstance(error, BadInput):
        loc = ["body", *error.field.split(".")]
        item = {"loc": loc, "msg": error.message, "type": "value_error"} | (
            {"choices": error.choices} if error.choices else {}
        )
        return Json({"detail": [item]}, 422)
    body: dict[str, Any] = {"detail": error.message}
    if isinstance(error, OutsidePlan):
        body |= {"plan_id": error.plan_id, "diff": error.diff, "amendment": error.amendment, "refusal": error.refusal}
    if isinstance(error, Conflict) and error.problems:
        body["problems"] = error.problems
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None
    return Json(body, error.status, headers)


def _keep(request: Request, error: OutsidePlan) -> None:
    """So that a person can look at what was refused, and allow it."""
    system: System = request.app.state.system
    actor = request.state.identity.actor
    try:
        error.kept(system.db.write(lambda session: amendments.refused(session, error, actor)))
    except OrcError as trouble:  # the answer stands, whether it can be kept or not
        log.error("a refusal could not be kept: %s", trouble.message)
    except Exception:
        log.exception("a refusal could not be kept")


def _methods(request: Request) -> list[str]:
    """What this path can be asked with, all its routes together; the router names those of the first alone."""
    paths = request.app.openapi()["paths"]
    there = [item for path, item in paths.items() if compile_path(path)[0].match(request.url.path)]
    return sorted({method.upper() for item in there for method in item})


def install(app: FastAPI) -> None:
    """The one place where errors become answers."""

    @app.exception_handler(OrcError)
    def on_orc_error(request: Request, error: OrcError) -> Json:
        if isinstance(error, OutsidePlan) and error.asked_for:
            _keep(request, error)
        return _problem(error)

    @app.exception_handler(RequestValidationError)
    def on_bad_request(request: Request, error: RequestValidationError) -> Json:
        found = explain(error.errors())
        for item in found:
            if item["loc"] == ["body"] and "json" not in request.headers.get("content-type", ""):
                item["msg"] = "The body must be JSON, sent with the header Content-Type: application/json."
        return Json({"detail": found}, 422)

    @app.exception_handler(ValidationError)
    def on_bad_value(_request: Request, error: ValidationError) -> Json:
        return Json({"detail": explain(error.errors())}, 422)

    @app.exception_handler(Kept)
    def on_kept(_request: Request, kept: Kept) -> Json:
        return Json(kept.answer, kept.status)

    @app.exception_handler(Exception)
    def on_defect(request: Request, error: Exception) -> Json:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return Json({"detail": f"The server failed on this request ({type(error).__name__}); its log tells more."}, 500)

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> Json:
        if error.status_code == 400 and error.detail == UNREADABLE:
            item = {"loc": ["body"], "msg": "The body cannot be read as JSON.", "type": "json_invalid"}
            return Json({"detail": [item]}, 422)
        detail, headers, path = error.detail, error.headers or {}, request.url.path[:200]
        if (error.status_code, detail) == (404, "Not Found"):
            detail = f"There is nothing at {path}: /docs lists all that there is."
        if (error.status_code, detail) == (405, "Method Not Allowed"):
            allowed = ", ".join(_methods(request)) or headers.get("Allow", "")
            detail, headers = f"{path} knows {allowed}, not {request.method[:20]}.", {"Allow": allowed}
        return Json({"detail": detail}, error.status_code, dict(headers))
