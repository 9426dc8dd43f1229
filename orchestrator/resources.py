"""What a run asks for, validated once."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints

from orchestrator.strict import Strict

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


# What may stand in a #SBATCH line: nothing that sbatch's own reading of quotes, a shell or a line end could make into
# something else. The patterns are those of the Slurm manual's own names and lists.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+\-]{0,199}$")]
Words = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+,\-]{0,999}$")]
Hosts = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,\[\]\-]{0,1999}$")]
Features = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_(\[][A-Za-z0-9_.,&|()*\[\]:\-]{0,999}$")]
Licenses = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@:,|\-]{0,999}$")]
Moment = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:+./ \-]{0,99}$")]
OptionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9\-]{1,60}$")]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,4096}$")]
OptionText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:;=@+%/&|()*\[\]^~ \-]{1,1000}$")]


class Resources(Strict):
    """What a run asks for; ``gpus`` and ``cpus`` are per node, ``mem`` (per node) as "16G", ``time`` as "8:00:00" or
    minutes. From ``nodes`` on they are Slurm's; ``slurm`` holds any other option of sbatch by its long name."""

    model_config = ConfigDict(frozen=True)

    gpus: int | None = Field(default=None, ge=0, le=1024)
    cpus: int | None = Field(default=None, ge=1, le=65536)
    mem: Memory | None = None
    time: TimeLimit | None = None
    gpu_type: Word | None = None
    nodes: int | None = Field(default=None, ge=1, le=100_000)
    tasks_per_node: int | None = Field(default=None, ge=1, le=65536)
    partition: Words | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Features | None = None
    exclude: Hosts | None = None
    nodelist: Hosts | None = None
    reservation: Words | None = None
    exclusive: bool | Word | None = None
    begin: Moment | None = None
    licenses: Licenses | None = None
    slurm: dict[OptionName, bool | int | OptionText] | None = Field(default=None, max_length=50)

    @property
    def time_seconds(self) -> float | None:
        """The time limit in seconds."""
        return None if self.time is None else parse_time(self.time)

    @property
    def mem_bytes(self) -> int | None:
        """The memory of each node in bytes."""
        return None if self.mem is None else parse_memory(self.mem)

    @property
    def node_count(self) -> int:
        """How many nodes; one unless more are asked for."""
        return self.nodes or 1


class Container(Strict):
    """The image that the command runs in. ``binds``: as "/data" or "/data:/inside:ro"."""

    model_config = ConfigDict(frozen=True)

    image: Line
    engine: Literal["apptainer", "pyxis"] = "apptainer"
    binds: list[Line] = Field(default_factory=list, max_length=100)


SLURM_ONLY = tuple(name for name in Resources.model_fields if name not in {"gpus", "cpus", "mem", "time"})
