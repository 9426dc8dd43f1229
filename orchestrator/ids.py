"""Ids: short, random, opaque."""

import secrets


def run_id() -> str:
    """A run's, a sweep's or an alert's: 12 hex characters."""
    return secrets.token_hex(6)


def plan_id() -> str:
    """A plan's: 8 hex characters."""
    return secrets.token_hex(4)
