"""What a run asks for, validated once."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_MEMORY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([KMGT])(?:i?B)?)?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_TIME_FORMS = '"D-HH:MM:SS", "D-HH", "HH:MM:SS", "MM:SS" or minutes'
MAX_BYTES = 2**60
MAX_SECONDS = 10 * 365 * 86400


def parse_memory(text: str) -> int:
    """Bytes of a memory size as Slurm writes it: ``16G``, ``500M``; a bare number is MiB (sbatch --mem)."""
    match = _MEMORY.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match else 0
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f'a memory size such as "16G" or "500M", not {_short(text)}')
    return size


def parse_time(value: str | int | float) -> float:
    """Seconds of a time limit in any of sbatch's forms; a bare number is minutes (sbatch --time)."""
    if isinstance(value, bool):
        raise ValueError(f"a time limit is {_TIME_FORMS}, not {_short(value)}")
    if isinstance(value, int | float):
        seconds = float(max(-1, min(value, MAX_SECONDS))) * 60 if isinstance(value, int) else value * 60
    elif re.fullmatch(r"\d+(\.\d+)?", value.strip(), re.ASCII):
        seconds = float(value) * 60
    else:
        seconds = _clock(value.strip())
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"a time limit is above zero and at most ten years, not {_short(value)}")
    return seconds


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of that size"
    return text if len(text) <= 100 else text[:100] + "…"


def _clock(text: str) -> float:
    match = re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,2}))?(?::(\d{1,2}))?", text)
    if match is None:
        raise ValueError(f"a time limit is {_TIME_FORMS}, not {_short(text)}")
    days, first, second, third = (int(part) if part is not None else None for part in match.groups())
    if days is not None:
        return float(days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0))
    if third is not None:
        return float((first or 0) * 3600 + (second or 0) * 60 + third)
    return float((first or 0) * 60 + (second or 0))


def _checked_memory(value: str) -> str:
    parse_memory(value)
    return value


def _checked_time(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError(f"a time limit is {_TIME_FORMS}, not {_short(value)}")
    parse_time(value)
    return value


Memory = Annotated[str, AfterValidator(_checked_memory)]
TimeLimit = Annotated[str | int | float, BeforeValidator(_checked_time)]


class Resources(BaseModel):
    """What a run asks for; ``gpus`` and ``cpus`` are per node, ``mem`` as "16G", ``time`` as "8:00:00" or minutes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: int | None = Field(default=None, ge=0, le=1024)
    cpus: int | None = Field(default=None, ge=1, le=65536)
    mem: Memory | None = None
    time: TimeLimit | None = None

    @property
    def time_seconds(self) -> float | None:
        """The time limit in seconds."""
        return None if self.time is None else parse_time(self.time)
