"""What can never run is told at once, with what could; what looks hostile does no harm."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.resources import Resources
from tests.support.service import Json, RealServer
from tests.support.sites import Site, Slurm

pytestmark = pytest.mark.acceptance

BODY = {"name": "test", "command": "true", "auto_start": True}
TEXT_FIELDS = (
    *("mem", "time", "gpu_type", "partition", "account", "qos", "constraint", "exclude", "nodelist"),
    *("reservation", "exclusive", "begin", "licenses"),
)
HOSTILE = {"newline": "x\n#SBATCH --hold", "quote": "x'y", "double-quote": 'x"y', "backslash": "x\\y"}
PROTECTED = ("output", "error", "wrap", "job-name", "array", "comment", "chdir", "export", "wait", "test-only")
NAMED = {
    "partition": "partition",
    "gres": "gpus",
    "mem": "mem",
    "time": "time",
    "cpus-per-task": "cpus",
    "nodes": "nodes",
    "signal": "signal",
    "dependency": "depends_on",
    "nice": "priority",
}


ABBREVIATED = {
    "arra": "array",
    "outpu": "output",
    "job-nam": "job-name",
    "wra": "wrap",
    "partitio": "partition",
    "tim": "time",
    "mail-us": "mail-user",
    "no-req": "no-requeue",
}


def problem(orc: RealServer, resources: Json, **fields: Any) -> Json:
    """The one problem that such a run has; nothing is made."""
    status, detail = orc.refused("POST", "/runs", {**BODY, "resources": resources, **fields})
    assert status == 422, detail
    assert len(detail) == 1, detail
    return dict(detail[0])


@pytest.mark.parametrize(
    ("resources", "field", "choice"),
    [
        ({"partition": "nowhere"}, "partition", "normal"),
        ({"gpus": 1, "gpu_type": "h100"}, "gpu_type", "a100"),
        ({"gpus": 5}, "gpus", "0..4"),
        ({"cpus": 9}, "cpus", "1..8"),
        ({"mem": "17G"}, "mem", "up to 16000M"),
        ({"partition": "short", "time": 3}, "time", "up to 00:02:00"),
        ({"licenses": "maple:1"}, "licenses", "matlab"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_cluster_never_gives_is_refused_with_what_it_gives(
    orc: RealServer, resources: Json, field: str, choice: str
) -> None:
    found = problem(orc, resources)
    assert found["loc"] == ["body", "resources", field]
    assert choice in found["choices"]


def test_more_nodes_than_there_are_are_refused(orc: RealServer) -> None:
    found = problem(orc, {"nodes": 5}, launch="env")
    assert (found["loc"], found["choices"]) == (["body", "resources", "nodes"], ["1..4"])


@pytest.mark.parametrize(("field", "choice"), [("account", "research"), ("qos", "few")])
def test_an_unknown_account_or_qos_is_refused_where_there_are_accounts(
    orc: RealServer, slurm: Slurm, field: str, choice: str
) -> None:
    if not slurm.accounting:
        pytest.skip("without accounting there are neither accounts nor QOS")
    found = problem(orc, {field: "nobody"})
    assert found["loc"] == ["body", "resources", field]
    assert choice in found["choices"]


def test_several_nodes_need_a_way_to_start_on_them(orc: RealServer) -> None:
    found = problem(orc, {"nodes": 2})
    assert (found["loc"], found["choices"]) == (["body", "launch"], ["torchrun", "env"])


@pytest.mark.parametrize("option", PROTECTED)
def test_what_the_service_says_itself_is_not_a_runs_to_set(orc: RealServer, option: str) -> None:
    found = problem(orc, {"slurm": {option: "x"}})
    assert found["loc"] == ["body", "resources", "slurm", option]
    assert "protected" in found["msg"]


@pytest.mark.parametrize("option", NAMED)
def test_an_option_that_has_a_field_is_sent_there(orc: RealServer, option: str) -> None:
    found = problem(orc, {"slurm": {option: "1"}})
    assert found["loc"] == ["body", "resources", "slurm", option]
    assert NAMED[option] in found["msg"]


@pytest.mark.parametrize("short", ABBREVIATED)
def test_an_option_is_written_out(orc: RealServer, short: str) -> None:
    found = problem(orc, {"slurm": {short: "1"}})
    assert found["loc"] == ["body", "resources", "slurm", short]
    assert ABBREVIATED[short] in found["choices"]
    assert f"--{ABBREVIATED[short]}" in found["msg"]


def test_a_misspelt_option_is_told_with_the_right_one(orc: RealServer) -> None:
    found = problem(orc, {"slurm": {"mail-usr": "a"}})
    assert (found["loc"], found["choices"]) == (["body", "resources", "slurm", "mail-usr"], ["mail-user"])


def test_an_option_that_only_sbatch_can_know_is_left_to_it(orc: RealServer) -> None:
    run = orc.over(orc.run("true", resources={"slurm": {"of-the-next-release": "x"}})["id"])
    assert (run["status"], run["reason"]) == ("failed", "SUBMIT_REJECTED")
    assert "unrecognized option '--of-the-next-release" in run["error"]


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_field_of_resources_holds_what_a_script_could_misread(orc: RealServer, kind: str) -> None:
    before = len(orc.get("/runs", limit=1000))
    for field in TEXT_FIELDS:
        status, detail = orc.refused("POST", "/runs", {**BODY, "resources": {field: HOSTILE[kind]}})
        assert status == 422, (field, detail)
        assert all(item["loc"][:3] == ["body", "resources", field] for item in detail), detail
    status, detail = orc.refused("POST", "/runs", {**BODY, "resources": {"slurm": {"wckey": HOSTILE[kind]}}})
    assert (status, detail[0]["loc"][:4]) == (422, ["body", "resources", "slurm", "wckey"])
    assert len(orc.get("/runs", limit=1000)) == before


def test_every_text_field_of_resources_is_among_those_tried() -> None:
    numbers = {"gpus", "cpus", "nodes", "tasks_per_node", "slurm"}
    assert set(TEXT_FIELDS) == set(Resources.model_fields) - numbers


def test_what_sbatch_alone_can_judge_fails_with_its_own_words(orc: RealServer) -> None:
    run = orc.over(orc.run("true", resources={"constraint": "granite"})["id"])
    assert (run["status"], run["reason"]) == ("failed", "SUBMIT_REJECTED")
    assert "feature specification" in run["error"].lower() or "node configuration" in run["error"]
    assert orc.get(f"/runs/{run['id']}/why")["category"] == "request"


def test_hostile_names_commands_and_values_arrive_as_they_are(orc: RealServer, place: Site) -> None:
    trap = place.folder / "trap"
    words = f"a'b\"c \\ $(touch {trap}) `touch {trap}` ; touch {trap}\n#SBATCH --hold\nüñ→日本 %j %A | * ~"
    header = '#SBATCH --hold\n#SBATCH --partition=nowhere\necho begun\ncat <<"X"\n' + words + "\nX\n"
    valued = orc.run('printf %s "$WORDS"', env={"WORDS": words})
    named = orc.run("echo named", name=words[:500], tags=[words])
    commanded = orc.run(header)
    over = [orc.over(run["id"]) for run in (valued, named, commanded)]
    assert [(run["status"], run["error"]) for run in over] == [("finished", None)] * 3
    assert orc.log(valued["id"]) == words
    assert (over[1]["name"], over[1]["tags"]) == (words[:500], [words])
    assert orc.log(named["id"]) == "named\n"
    assert orc.log(commanded["id"]) == f"begun\n{words}\n"
    assert over[2]["scheduler"]["partition"] in {"normal", None}
    assert not trap.exists()


def test_a_hostile_workdir_is_only_a_folder(orc: RealServer, place: Site) -> None:
    folder = place.folder / "a 'b\" $(touch trapped)\n#SBATCH --hold ü"
    folder.mkdir(exist_ok=True)
    run = orc.over(orc.run("pwd", workdir=str(folder))["id"])
    assert (run["status"], orc.log(run["id"])) == ("finished", f"{folder}\n")
    assert not list(Path(place.folder).rglob("trapped"))
