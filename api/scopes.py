"""Which scope a route needs, said once: it is checked, and stands in the OpenAPI schema.

A router's module says what its changes need (``SCOPE``); to read needs "read"; a single route may say otherwise
(``openapi_extra=needs(…)``).
"""

from types import ModuleType
from typing import Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from orchestrator.access import SCOPES, Identity

WORD = "x-scope"


def needs(scope: str) -> dict[str, Any]:
    """For a route that needs another scope than its neighbours."""
    return {WORD: scope}


def apply(module: ModuleType, route: APIRoute) -> None:
    """Has the route check its scope before anything else of the request is looked at. Raises LookupError for one
    that changes something and names none."""
    said = (route.openapi_extra or {}).get(WORD)
    reads = route.methods is not None and route.methods <= {"GET", "HEAD"}
    scope = said or ("read" if reads else getattr(module, "SCOPE", None))
    if scope not in SCOPES:
        raise LookupError(f"{route.path} needs one of the scopes {SCOPES}, not {scope!r}")
    route.openapi_extra = {**(route.openapi_extra or {}), WORD: scope}
    route.dependencies = [Depends(_Check(scope)), *route.dependencies]


class _Check:
    def __init__(self, scope: str) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> None:
        identity: Identity = request.state.identity
        identity.check(self._scope)
