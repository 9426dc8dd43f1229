"""Time limits, points in time, durations: as Slurm's commands take them and print them."""

import time
from collections.abc import Mapping

INFINITE_WORDS = frozenset({"unlimited", "infinite", "-1"})
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_CLOCK = {"midnight": 0, "noon": 12 * 3600, "fika": 15 * 3600, "teatime": 16 * 3600}


class BadTime(ValueError):
    """Not a time limit, or not a point in time."""


def parse_limit(text: str) -> int | None:
    """Minutes of ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``, rounded up; None for no limit."""
    if text.lower() in INFINITE_WORDS:
        return None
    days, dash, clock = text.partition("-")
    parts = (clock if dash else text).split(":")
    if not all(part.isdigit() for part in parts) or (dash and not days.isdigit()) or len(parts) > 3:
        raise BadTime(text)
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
        total = int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    elif len(numbers) == 3:
        total = numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
    else:
        total = numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)
    return -(-total // 60)


def parse_when(text: str, now: int) -> int:
    """Seconds since the epoch of ``now+1hour``, ``2030-01-01T12:00:00``, ``01/31``, ``16:00``, ``tomorrow``, ``noon``.

    Local time. A clock time that has passed today is tomorrow's.
    """
    word = text.strip().lower()
    if word.startswith("now"):
        return now + _offset(word[3:], text)
    if word in {"today", "tomorrow"}:
        return _midnight(now) + 86400 * (word == "tomorrow")
    if word in _CLOCK or (":" in word and "t" not in word and "-" not in word and "/" not in word):
        moment = _midnight(now) + (_CLOCK[word] if word in _CLOCK else _clock(word, text))
        return moment if moment > now else moment + 86400
    return _date(text, now)


def _offset(text: str, whole: str) -> int:
    if not text:
        return 0
    sign, rest = text[0], text[1:]
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    unit = rest[len(digits) :].rstrip("s") or "second"
    known = next((seconds for name, seconds in _UNITS.items() if name.startswith(unit)), None)
    if sign not in "+-" or not digits or known is None:
        raise BadTime(whole)
    return (1 if sign == "+" else -1) * int(digits) * known


def _midnight(now: int) -> int:
    local = time.localtime(now)
    return int(time.mktime((local.tm_year, local.tm_mon, local.tm_mday, 0, 0, 0, 0, 0, -1)))


def _clock(word: str, whole: str) -> int:
    parts = word.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) > 3:
        raise BadTime(whole)
    hours, minutes, seconds = (*(int(part) for part in parts), 0, 0)[:3]
    return hours * 3600 + minutes * 60 + seconds


def _date(text: str, now: int) -> int:
    year = str(time.localtime(now).tm_year)
    formats = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%m/%d/%y", "%m%d%y")
    for pattern in formats:
        try:
            return int(time.mktime(time.strptime(text, pattern)))
        except ValueError:
            continue
    try:
        return int(time.mktime(time.strptime(f"{year}/{text}", "%Y/%m/%d")))
    except ValueError:
        raise BadTime(text) from None


def stamp(moment: int, environment: Mapping[str, str], unknown: str = "Unknown") -> str:
    """A point in time, honouring SLURM_TIME_FORMAT; ``unknown`` for 0."""
    if not moment:
        return unknown
    pattern = environment.get("SLURM_TIME_FORMAT", "standard")
    if pattern == "standard":
        pattern = "%Y-%m-%dT%H:%M:%S"
    if pattern == "relative":
        pattern = "%H:%M:%S"
    return time.strftime(pattern, time.localtime(moment))


def short(seconds: int) -> str:
    """squeue's durations: ``0:05``, ``59:05``, ``1:00:00``, ``2-00:00:00``."""
    days, rest = divmod(max(seconds, 0), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:{seconds:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def long(seconds: int) -> str:
    """sacct's and scontrol's: ``00:00:05``, ``2-00:00:00``."""
    days, rest = divmod(max(seconds, 0), 86400)
    text = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


def cpu_time(seconds: float) -> str:
    """sacct's TotalCPU: ``00:00.001`` below an hour, else ``01:00:00``."""
    if not seconds:
        return "00:00:00"
    if seconds >= 3600:
        return long(int(seconds))
    return f"{int(seconds) // 60:02}:{seconds % 60:06.3f}"
