"""Node lists: ``n[1-3,7],login`` and what they stand for."""

from collections.abc import Iterable, Sequence

from orchestrator.testing.arrays import parse_tasks, runs, split_list


def compress_hosts(names: Sequence[str]) -> str:
    """``n1 n2 n3 a`` becomes ``n[1-3],a``. Order of the prefixes is kept; zero padding too."""
    groups: dict[tuple[str, int], list[int]] = {}
    for name in names:
        prefix = name.rstrip("0123456789")
        digits = name[len(prefix) :]
        width = len(digits) if digits.startswith("0") else 0
        groups.setdefault((prefix, width if digits else -1), []).append(int(digits or 0))
    return ",".join(_group(prefix, width, numbers) for (prefix, width), numbers in groups.items())


def _group(prefix: str, width: int, numbers: list[int]) -> str:
    if width < 0:
        return prefix
    if len(numbers) == 1:
        return f"{prefix}{numbers[0]:0{width}d}"
    parts = (
        f"{first:0{width}d}" + (f"-{last:0{width}d}" if last > first else "") for first, last in runs(sorted(numbers))
    )
    return f"{prefix}[{','.join(parts)}]"


def expand_hosts(text: str) -> list[str]:
    """``n[1-3],a`` becomes its names; what is no list stands for itself."""
    return [name for part in split_list(text) if part for name in _expand(part.strip())]


def _expand(part: str) -> Iterable[str]:
    prefix, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    inside, _, suffix = rest.partition("]")
    width = len(inside.split("-")[0].split(",")[0])
    padded = width if inside.startswith("0") else 0
    return [f"{prefix}{number:0{padded}d}{suffix}" for number in parse_tasks(inside)]
