"""The emulator's pure parts: how Slurm writes array tasks, node lists, times, memory and GRES."""

import ast
import sys
from pathlib import Path

import pytest

import orchestrator.testing
from orchestrator.testing import gres, memory, times
from orchestrator.testing.arguments import UsageError, options_table, parse
from orchestrator.testing.arrays import BadArray, JobRef, compress, parse_array, parse_refs
from orchestrator.testing.hostlist import compress_hosts, expand_hosts
from orchestrator.testing.profiles import profile_for

NOW = 1_700_000_000
SPARSE = (1, 3, 7, 10, 13, 17, 22, 26, 31, 37, 41, 48, 53, 59, 66, 71, 80, 91, 102, 115, 119, 123, 127, 133)


def test_imports_the_standard_library_and_itself_only() -> None:
    package = Path(orchestrator.testing.__file__).parent
    strange = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            strange |= {name for name in names if not _allowed(name, path)}
    assert not strange


def _allowed(name: str, path: Path) -> bool:
    own = name.startswith("orchestrator.testing")
    return own or name.partition(".")[0] in sys.stdlib_module_names or (name, path.name) == ("pytest", "plugin.py")


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tasks", "throttle", "step"),
    [
        ("3", (3,), 0, 1),
        ("0-4", (0, 1, 2, 3, 4), 0, 1),
        ("1-7:3%2", (1, 4, 7), 2, 3),
        ("5,1,1,3-4", (1, 3, 4, 5), 0, 1),
    ],
)
def test_array_expressions(text: str, tasks: tuple[int, ...], throttle: int, step: int) -> None:
    spec = parse_array(text)
    assert (spec.tasks, spec.throttle, spec.step) == (tasks, throttle, step)


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-2:0", "1:2", "1%x", "1,,2", "-1"])
def test_what_is_no_array_expression(text: str) -> None:
    with pytest.raises(BadArray):
        parse_array(text)


@pytest.mark.parametrize(
    ("tasks", "shown"),
    [
        (range(3, 21), "3-20"),
        ((22, 24, 26), "22,24,26"),
        (range(0, 13, 3), "0,3,6,9,12"),
        (range(0, 11, 2), "0,2,4,6,8,10"),
        (range(0, 13, 2), "0-12:2"),
        (range(0, 51, 10), "0-50:10"),
        ((0, 2, 3, 4, 5), "0,2-5"),
    ],
)
def test_waiting_tasks_are_written_as_by_squeue(tasks: range | tuple[int, ...], shown: str) -> None:
    assert compress(tuple(tasks)) == shown


def test_long_task_lists_are_cut_before_the_throttle() -> None:
    assert compress(SPARSE, 7, 30) == "1,3,7,10,13,17,22,26,31,37...%7"
    assert compress(SPARSE, 7, 64) == "1,3,7,10,13,17,22,26,31,37,41,48,53,59,66,71,80,91,102,115,1...%7"
    assert compress(SPARSE, 7).endswith("127,133%7")


def test_job_references() -> None:
    found = parse_refs("12,13_4,14_[1-3,7%2],15.batch,16+0")
    assert found == [
        JobRef(12),
        JobRef(13, (4,)),
        JobRef(14, (1, 2, 3, 7)),
        JobRef(15, None, "batch"),
        JobRef(16),
    ]
    with pytest.raises(BadArray, match="abc"):
        parse_refs("12,abc")


# -- node lists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["n1"], "n1"),
        (["n1", "n2", "n3", "n7"], "n[1-3,7]"),
        (["n01", "n02"], "n[01-02]"),
        (["login", "n1"], "login,n1"),
        ([], ""),
    ],
)
def test_node_lists(names: list[str], text: str) -> None:
    assert compress_hosts(names) == text
    assert expand_hosts(text) == names


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("10", 10),
        ("0:01", 1),
        ("1:30", 2),
        ("1:00:00", 60),
        ("0:59:01", 60),
        ("1-0", 1440),
        ("1-2:3", 1563),
        ("1-00:00:01", 1441),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_are_whole_minutes_rounded_up(text: str, minutes: int | None) -> None:
    assert times.parse_limit(text) == minutes


@pytest.mark.parametrize("text", ["1x", "", "1:2:3:4", "-5", "a-1"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(times.BadTime):
        times.parse_limit(text)


@pytest.mark.parametrize(
    ("text", "ahead"), [("now", 0), ("now+30", 30), ("now+1hour", 3600), ("now+2days", 172800), ("now-10minutes", -600)]
)
def test_points_in_time_from_now(text: str, ahead: int) -> None:
    assert times.parse_when(text, NOW) == NOW + ahead


def test_points_in_time_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()
    assert times.stamp(times.parse_when("2030-01-02T03:04", NOW), {}) == "2030-01-02T03:04:00"
    assert times.stamp(times.parse_when("2030-01-02", NOW), {}) == "2030-01-02T00:00:00"
    assert 0 < times.parse_when("noon", NOW) - NOW <= 86400
    assert 0 < times.parse_when("16:00", NOW) - NOW <= 86400
    assert times.parse_when("tomorrow", NOW) - times.parse_when("today", NOW) == 86400
    with pytest.raises(times.BadTime):
        times.parse_when("yesterdayish", NOW)


def test_time_format_of_the_environment() -> None:
    assert times.stamp(NOW, {"SLURM_TIME_FORMAT": "%s"}) == str(NOW)
    assert times.stamp(0, {}, "N/A") == "N/A"


def test_durations() -> None:
    assert [times.short(seconds) for seconds in (5, 3545, 3600, 172800)] == ["0:05", "59:05", "1:00:00", "2-00:00:00"]
    assert [times.long(seconds) for seconds in (5, 3600, 172800)] == ["00:00:05", "01:00:00", "2-00:00:00"]
    assert [times.cpu_time(seconds) for seconds in (0, 0.001, 61.5)] == ["00:00:00", "00:00.001", "01:01.500"]


# -- memory, GRES ------------------------------------------------------------------------------------------------------


def test_memory() -> None:
    assert [memory.parse_memory(text) for text in ("500", "500M", "2G", "1T", "100K", "2GB")] == [
        500,
        500,
        2048,
        1048576,
        1,
        2048,
    ]
    assert [memory.show_memory(mib) for mib in (500, 2048, 1048576, 1500)] == ["500M", "2G", "1T", "1500M"]
    assert [memory.show_node_memory(mib) for mib in (64000, 128000, 16000)] == ["62.50G", "125G", "16000M"]
    with pytest.raises(memory.BadMemory):
        memory.parse_memory("xx")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu", ("gpu", "", 1)),
        ("gpu:2", ("gpu", "", 2)),
        ("gpu:a100", ("gpu", "a100", 1)),
        ("gpu:a100:2", ("gpu", "a100", 2)),
        ("gpu:a100:2(S:0-1)", ("gpu", "a100", 2)),
    ],
)
def test_gres(text: str, found: tuple[str, str, int]) -> None:
    (one,) = gres.parse_gres(text)
    assert (one.name, one.type, one.count) == found


def test_gres_indices_are_numbered_through_the_types() -> None:
    free = gres.indices("gpu:a100:2,gpu:v100:2")
    assert free == {"gpu:a100": [0, 1], "gpu:v100": [2, 3]}
    assert gres.take(free, gres.parse_gres("gpu:v100:1")) == {"gpu:v100": [2]}
    assert gres.take(free, gres.parse_gres("gpu:3")) == {"gpu:a100": [0, 1], "gpu:v100": [2]}
    assert gres.take(free, gres.parse_gres("gpu:v100:3")) is None


def test_gres_in_use_as_sinfo_shows_it() -> None:
    assert gres.used_text("gpu:h100:4", {"gpu:h100": [0, 1, 3]}) == "gpu:h100:3(IDX:0-1,3)"
    assert gres.used_text("gpu:h100:4", {}) == "gpu:h100:0(IDX:N/A)"
    assert gres.used_text("", {}) == "(null)"


# -- command lines, versions -------------------------------------------------------------------------------------------

TABLE = options_table("-n/--number= -v/--verbose -N/--nice? -j/--jobs~ --numeric")


def test_options_in_all_their_forms() -> None:
    assert parse("x", TABLE, ["-vn5", "word", "-v"]).words == ["word", "-v"]
    assert parse("x", TABLE, ["-vn5", "word", "-n", "6"], interleaved=True).get("number") == "6"
    assert parse("x", TABLE, ["--verb", "--nice", "3"]).words == ["3"]
    assert parse("x", TABLE, ["-j", "5", "-v"]).get("jobs") == "5"
    assert parse("x", TABLE, ["-j", "-v"]).options == {"jobs": "", "verbose": ""}
    assert parse("x", TABLE, ["--", "-v"]).words == ["-v"]


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--foo"], "x: unrecognized option '--foo'"),
        (["-Z"], "x: invalid option -- 'Z'"),
        (["--number"], "x: option '--number' requires an argument"),
        (["-n"], "x: option requires an argument -- 'n'"),
        (["--verbose=1"], "x: option '--verbose' doesn't allow an argument"),
        (["--num", "1"], "x: option '--num' is ambiguous; possibilities: '--number' '--numeric'"),
    ],
)
def test_errors_are_those_of_getopt(argv: list[str], error: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse("x", TABLE, argv)
    assert str(raised.value) == error


@pytest.mark.parametrize(
    ("version", "banner", "separator"),
    [
        ("22.05.8", "slurm-wlm 22.05.8", ":"),
        ("23.11.4", "slurm-wlm 23.11.4", ":"),
        ("24.11", "slurm-wlm 24.11.5", "/"),
        ("25.11.7", "slurm 25.11.7", "/"),
        ("26.05.5", "slurm-wlm 26.05.5", "/"),
    ],
)
def test_versions(version: str, banner: str, separator: str) -> None:
    profile = profile_for(version)
    assert (profile.banner, profile.gres_separator) == (banner, separator)


def test_what_is_no_version() -> None:
    with pytest.raises(ValueError, match=r"known: 22\.05\.8"):
        profile_for("new")
