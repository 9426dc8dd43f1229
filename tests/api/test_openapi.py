"""/openapi.json is good enough to build a client from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from api.app import create_app
from api.examples import EXAMPLES
from orchestrator.access import SCOPES
from orchestrator.settings import Settings
from tests.support.service import InProcess

OPEN = {"/healthz", "/readyz"}
SCHEMA: dict[str, Any] = create_app(Settings(home=Path("/nowhere"))).openapi()
OPERATIONS = [
    pytest.param(path, operation, id=f"{method.upper()} {path}")
    for path, item in SCHEMA["paths"].items()
    for method, operation in item.items()
]


def references(node: Any) -> Iterator[str]:
    """Every $ref below a node."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for item in node.values():
            yield from references(item)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def test_it_is_served_as_it_is_made(service: InProcess) -> None:
    assert service.get("/openapi.json") == SCHEMA


def test_it_says_what_it_is() -> None:
    assert SCHEMA["openapi"].startswith("3.")
    assert SCHEMA["info"]["title"]
    assert SCHEMA["info"]["version"]


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_route_explains_itself(path: str, operation: dict[str, Any]) -> None:
    assert operation["tags"]
    assert operation["summary"].strip()
    assert operation["description"].strip()
    assert "200" in operation["responses"]


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_route_names_its_parameters(path: str, operation: dict[str, Any]) -> None:
    named = {(item["in"], item["name"]) for item in operation.get("parameters", [])}
    in_path = {part[1:-1] for part in path.split("/") if part.startswith("{")}
    assert {name for where, name in named if where == "path"} == in_path


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_route_says_which_tokens_it_takes(path: str, operation: dict[str, Any]) -> None:
    schemes = SCHEMA["components"]["securitySchemes"]
    taken = [schemes[name] for item in operation.get("security", []) for name in item]
    if path in OPEN:
        assert taken == []
    else:
        assert {"type": "apiKey", "in": "header", "name": "X-Auth-Token"} in taken
        assert {"type": "http", "scheme": "bearer"} in taken


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for item in SCHEMA["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere() -> None:
    found = set(references(SCHEMA))
    assert "#/components/schemas/RunCreate" in found
    for reference in found:
        node: Any = SCHEMA
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
        assert node


@pytest.mark.parametrize(
    ("path", "method", "fields"),
    [
        ("/runs", "post", {"name", "command", "workdir", "sweep_id", "auto_start", "gpuwrap_config", "resources"}),
        ("/runs/{run_id}", "put", {"name", "command", "workdir"}),
        ("/sweeps", "post", {"name", "base_command", "parameters", "max_runs", "auto_start", "goal", "status"}),
        ("/sweeps/wild", "post", {"name", "goal", "chat_session_id"}),
        ("/plans", "post", {"title", "goal", "session_id", "sections", "raw_markdown"}),
    ],
)
def test_bodies_are_described_field_by_field(path: str, method: str, fields: set[str]) -> None:
    body = SCHEMA["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
    schema = SCHEMA["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]
    assert fields <= set(schema["properties"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("path", ["/runs", "/sweeps", "/sweeps/wild", "/plans", "/runs/{run_id}/rerun"])
def test_what_creates_takes_an_idempotency_key(path: str) -> None:
    headers = {item["name"].lower() for item in SCHEMA["paths"][path]["post"]["parameters"] if item["in"] == "header"}
    assert "idempotency-key" in headers


BODIES = [
    pytest.param(operation["requestBody"]["content"]["application/json"]["schema"], id=f"{method.upper()} {path}")
    for path, item in SCHEMA["paths"].items()
    for method, operation in item.items()
    if "requestBody" in operation
]


@pytest.mark.parametrize("body", BODIES)
def test_every_body_has_an_example(body: dict[str, Any]) -> None:
    names = [part["$ref"] for part in body.get("anyOf", [body]) if "$ref" in part]
    assert names
    for name in names:
        assert SCHEMA["components"]["schemas"][name.rsplit("/", 1)[1]]["examples"]


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_every_example_is_one_that_would_be_taken(model: type[BaseModel]) -> None:
    model.model_validate(EXAMPLES[model])


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_route_describes_its_errors(path: str, operation: dict[str, Any]) -> None:
    if path in OPEN:
        return
    told = operation["responses"]
    assert {"401", "403", "422"} <= set(told)
    assert ("404" in told) >= ("{" in path)
    for status, answer in told.items():
        assert answer["description"].strip()
        if status != "200":
            assert answer["content"]["application/json"]["schema"]["$ref"]


@pytest.mark.parametrize(("path", "operation"), OPERATIONS)
def test_each_route_says_which_scope_it_needs(path: str, operation: dict[str, Any]) -> None:
    assert path in OPEN or operation["x-scope"] in SCOPES
