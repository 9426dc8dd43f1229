"""Generic resources: ``gpu:a100:4`` in a node, ``gpu:2,shard:1`` in a request, ``gpu:a100:2(IDX:0-1)`` in an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.testing.arrays import runs


class BadGres(ValueError):
    """Not a GRES list."""


@dataclass(frozen=True)
class Gres:
    """So many of one kind. ``type`` may be empty: any."""

    name: str
    type: str
    count: int

    @property
    def key(self) -> str:
        """``gpu:a100`` or ``gpu``."""
        return f"{self.name}:{self.type}" if self.type else self.name


def parse_gres(text: str) -> list[Gres]:
    """Reads ``gpu``, ``gpu:2``, ``gpu:a100``, ``gpu:a100:2(S:0)`` and lists of these. BadGres when it is none."""
    return [_one(part) for part in text.split(",") if part and part.lower() not in {"none", "(null)"}]


def parse_gpus(text: str) -> list[Gres]:
    """Reads ``--gpus``: ``2``, ``a100:2``, ``a100:2,v100:1``."""
    return [_one("gpu:" + part) for part in text.split(",") if part]


def _one(part: str) -> Gres:
    words = part.partition("(")[0].replace("=", ":").split(":")
    if len(words) > 3 or not all(words):
        raise BadGres(part)
    if len(words) == 1:
        return Gres(words[0], "", 1)
    if words[-1].isdigit():
        return Gres(words[0], words[1] if len(words) == 3 else "", int(words[-1]))
    if len(words) == 2 and not words[1][0].isdigit():
        return Gres(words[0], words[1], 1)
    raise BadGres(part)


def indices(configured: str) -> dict[str, list[int]]:
    """The indices of a node's GRES by ``key``. Types of one name are numbered through."""
    found: dict[str, list[int]] = {}
    next_index: dict[str, int] = {}
    for gres in parse_gres(configured):
        first = next_index.get(gres.name, 0)
        found[gres.key] = list(range(first, first + gres.count))
        next_index[gres.name] = first + gres.count
    return found


def take(free: Mapping[str, Sequence[int]], wanted: Sequence[Gres]) -> dict[str, list[int]] | None:
    """The lowest free indices that satisfy all that is wanted, or None."""
    left = {key: list(value) for key, value in free.items()}
    taken: dict[str, list[int]] = {}
    for gres in sorted(wanted, key=lambda one: not one.type):  # typed first: any kind will do for the others
        missing = gres.count
        for key in [key for key in left if matches(key, gres)]:
            got = left[key][:missing]
            left[key] = left[key][len(got) :]
            if got:
                taken.setdefault(key, []).extend(got)
            missing -= len(got)
        if missing:
            return None
    return {key: sorted(value) for key, value in taken.items()}


def matches(key: str, gres: Gres) -> bool:
    """Whether a node's ``gpu:a100`` is what is wanted."""
    name, _, kind = key.partition(":")
    return name == gres.name and gres.type in {"", kind}


def count(held: Mapping[str, Sequence[int]], name: str = "gpu") -> int:
    """How many of one name."""
    return sum(len(value) for key, value in held.items() if key.partition(":")[0] == name)


def used_text(configured: str, used: Mapping[str, Sequence[int]]) -> str:
    """sinfo's GresUsed: ``gpu:h100:3(IDX:0-2)``, ``gpu:h100:0(IDX:N/A)``; ``(null)`` for a node without."""
    parts = [f"{key}:{len(used.get(key, ()))}(IDX:{index_text(used.get(key, ()))})" for key in indices(configured)]
    return ",".join(parts) or "(null)"


def index_text(numbers: Sequence[int]) -> str:
    """``0-2,5`` or ``N/A``."""
    parts = (f"{first}-{last}" if last > first else str(first) for first, last in runs(sorted(numbers)))
    return ",".join(parts) or "N/A"
