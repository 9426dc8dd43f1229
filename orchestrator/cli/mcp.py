"""mcp: the agents' tools on standard input and output."""

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import agenttools
from orchestrator.cli.common import emit, say, usage

app = typer.Typer()


@app.command()
def mcp(
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what an MCP client's configuration takes, and end.")
    ] = False,
) -> None:
    """Serves the tools for agents over MCP, on standard input and output."""
    if print_config:
        emit({"mcpServers": {"orc": configuration()}})
        if not os.environ.get("ORC_TOKEN_FILE"):
            say(
                "Without ORC_TOKEN_FILE the agent has the administrator's token and may approve its own plans: "
                "orc token create NAME --scope plan --scope run --require-plan prints the file to name."
            )
        return
    if not agenttools.installed():
        usage(agenttools.MISSING)
    from orchestrator.agenttools.caller import RunningServer
    from orchestrator.agenttools.server import AgentServer

    # Standard output is the protocol's. What is said of a call goes to the client as its answer.
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="orc mcp: %(levelname)s %(message)s", force=True
    )
    with suppress(KeyboardInterrupt):  # how a person ends it
        AgentServer(RunningServer()).run("stdio")


def configuration() -> dict[str, Any]:
    """How a client starts this: the command by its full path, and where home and token are (never the token itself)."""
    if os.environ.get("ORC_TOKEN") and not os.environ.get("ORC_TOKEN_FILE"):
        usage("A configuration holds no token: put it into a file (0600) and name that, ORC_TOKEN_FILE=FILE.")
    command = Path(sys.argv[0]).absolute()
    found: dict[str, Any] = {"command": str(command), "args": ["mcp"]}
    named = {name: os.environ[name] for name in ("ORC_HOME", "ORC_TOKEN_FILE", "ORC_URL") if os.environ.get(name)}
    for name in ("ORC_HOME", "ORC_TOKEN_FILE"):  # the client starts it wherever it likes
        if name in named:
            named[name] = str(Path(named[name]).expanduser().absolute())
    return found | ({"env": named} if named else {})
