"""The tools that agents get over MCP: each one or two calls of the service's own HTTP API, and a short answer.

Nothing here is imported before it is needed: the SDK takes half a second.
"""

from importlib.util import find_spec

MISSING = "MCP needs a package that is not installed: pip install 'hpc-orchestrator[mcp]'"


def installed() -> bool:
    """Whether the MCP SDK is there: its version 2, whose types are a package of their own."""
    return find_spec("mcp_types") is not None
