"""Memory: ``500``, ``16G``, ``1T`` and back. MiB inside."""

_UNITS = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


class BadMemory(ValueError):
    """Not an amount of memory."""


def parse_memory(text: str) -> int:
    """MiB, rounded up; without a unit it is MiB."""
    number, unit = text.strip(), "M"
    if number[-1:].upper() == "B":
        number = number[:-1]
    if number[-1:].upper() in _UNITS:
        number, unit = number[:-1], number[-1].upper()
    if not number.isdigit():
        raise BadMemory(text)
    return -int(-int(number) * _UNITS[unit] // 1)


def parse_bytes(text: str) -> int:
    """Bytes of an amount with a unit."""
    return parse_memory(text) * 1024 * 1024


def show_memory(mib: int) -> str:
    """``500M``, ``16G``, ``1T``: the largest unit that keeps the number whole."""
    for unit, size in (("T", 1024 * 1024), ("G", 1024)):
        if mib and mib % size == 0:
            return f"{mib // size}{unit}"
    return f"{mib}M"


def show_node_memory(mib: int) -> str:
    """As in CfgTRES: ``62.50G`` where two decimals say it exactly, else ``16000M``."""
    if mib >= 1024 and (mib * 100) % 1024 == 0:
        return f"{mib / 1024:.2f}G" if mib % 1024 else f"{mib // 1024}G"
    return f"{mib}M"
