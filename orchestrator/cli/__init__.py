"""The ``orc`` command. Only what a command needs is imported, when it is needed."""

from orchestrator.cli.main import main

__all__ = ["main"]
