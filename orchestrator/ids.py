"""Ids: short, random, opaque."""

import secrets


def run_id() -> str:
    """A run's or a sweep's: 12 hex characters."""
    return secrets.token_hex(6)


def plan_id() -> str:
    """A plan's or an alert's: 8 hex characters."""
    return secrets.token_hex(4)
