"""Turns a research plan into tracked runs. See docs/design.md for the shape."""

__version__ = "0.1.0"
