"""``python -m api``: the service as a process of its own; ``orc serve`` becomes it."""

import argparse
import logging
import os
import sys

from api.server import serve
from orchestrator.errors import BadSettings
from orchestrator.settings import load


def main() -> int:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(prog="orc serve")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--on-demand", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # our own handlers say it
    if "ORC_RUN_ID" in os.environ:
        sys.stderr.write("A server started from inside a run would end with it: start it outside.\n")
        return 1
    given = {name: value for name in ("host", "port") if (value := getattr(options, name)) is not None}
    try:
        settings = load(**given)
    except BadSettings as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    return serve(settings, on_demand=options.on_demand)


if __name__ == "__main__":
    sys.exit(main())
