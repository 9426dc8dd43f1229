"""An agent's plan and a person's word on it, both on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_cli import Orc
from tests.support.plans import bindable

pytestmark = pytest.mark.acceptance


@pytest.fixture
def orc(tmp_path: Path) -> Iterator[Orc]:
    made = Orc(tmp_path / "home")
    yield made
    made.close()


def test_the_loop_with_what_was_refused_and_allowed(orc: Orc, tmp_path: Path) -> None:
    file = tmp_path / "plan.md"
    file.write_text(bindable(budget="runs = 9"))
    orc("detect")
    token = orc("token", "create", "agent", "--scope", "plan", "--scope", "run", "--require-plan").stdout.strip()
    as_agent = {"ORC_TOKEN_FILE": token}
    assert "required structure" in orc("plan", "check", str(file)).stderr
    plan = orc("plan", "save", str(file), **as_agent).stdout.strip()
    assert orc("plan", "approve", "--yes", plan, **as_agent).returncode == 4
    approved = orc("plan", "approve", "--yes", "--runs", "6", plan)
    shown = approved.stderr.split("What it allows, once approved:\n")[1].splitlines()
    assert shown[:3] == ['  command: "echo lr={lr} seed={seed}"', "  {lr}: 0.1, 0.01", "  {seed}: 1, 2"]
    assert {'  executor: "local"', "  budget.runs: 6"} <= set(shown)
    assert orc("plan", "execute", "--dry-run", plan).stdout.splitlines()[0] == "echo lr=0.1 seed=1"

    refused = orc("run", "echo lr=0.3 seed=1", **as_agent)
    assert refused.returncode == 4  # no plan of its own is executing yet
    executed = orc("plan", "execute", plan, **as_agent)
    assert "Its runs are sweep" in executed.stderr
    report = orc("plan", "report", plan)
    assert "# Report: Learning rates for the small model" in report.stdout
    assert orc.json("plan", "report", plan)["plan"]["id"] == plan


def test_a_plan_with_problems_or_that_cannot_run_here_is_not_approved_without_a_word(orc: Orc, tmp_path: Path) -> None:
    file = tmp_path / "plan.md"
    file.write_text(bindable().replace("- **Primary**: val/loss — what we care about\n", ""))
    plan = orc("plan", "save", str(file)).stdout.strip()
    refused = orc("plan", "approve", "--yes", plan)
    assert (refused.returncode, "approve it all the same with --force" in refused.stderr) == (2, True)
    assert orc("plan", "approve", "--yes", "--force", plan).returncode == 0
    file.write_text(bindable(more='workdir = "/not/there"'))
    checked = orc("plan", "check", str(file))
    assert (checked.returncode, "line 17: This cannot run here: workdir" in checked.stderr) == (1, True)
    elsewhere = orc("plan", "save", str(file)).stdout.strip()
    refused = orc("plan", "approve", "--yes", "--force", elsewhere)
    assert (refused.returncode, "it cannot run here as it is" in refused.stderr) == (2, True)


def test_a_draft_is_mended_in_its_place_and_a_plan_is_waited_for(orc: Orc, tmp_path: Path) -> None:
    file = tmp_path / "plan.md"
    file.write_text(bindable("echo {lr} {sead}"))
    plan = orc("plan", "save", str(file)).stdout.strip()
    file.write_text(bindable())
    saved = orc("plan", "save", "--plan", plan, str(file))
    assert (saved.stdout.strip(), "did you mean" in saved.stderr) == (plan, False)
    assert "orc plan approve" in orc("plan", "execute", plan).stderr
    orc("plan", "approve", "--yes", plan)
    orc("plan", "execute", plan)
    waited = orc("wait", plan)
    assert (waited.returncode, waited.stderr.count("finished")) == (0, 4)
    nobody = orc("wait", "nope")
    assert (nobody.returncode, "there is no run, sweep or plan 'nope'" in nobody.stderr) == (2, True)


def test_an_amendment_is_named_where_nobody_can_be_asked(orc: Orc, tmp_path: Path) -> None:
    file = tmp_path / "plan.md"
    file.write_text(bindable())
    token = orc("token", "create", "agent", "--scope", "plan", "--scope", "run", "--require-plan").stdout.strip()
    plan = orc("plan", "save", str(file), ORC_TOKEN_FILE=token).stdout.strip()
    orc("plan", "approve", "--yes", plan)
    assert orc("plan", "amend", plan).returncode == 2
    refused = orc("plan", "execute", plan, "--", "echo", "{lr}", ORC_TOKEN_FILE=token)
    assert refused.returncode == 4
    assert "orc plan amend" in refused.stderr
    unnamed = orc("plan", "amend", "--yes", plan)
    number = refused.stderr.split("--refusal ")[1].rstrip(".\n")
    assert (unnamed.returncode, f"{number} (token:agent" in unnamed.stderr) == (2, True)
    other = orc("plan", "amend", "--yes", "--refusal", "999999", plan)
    assert (other.returncode, "there is no refusal 999999" in other.stderr) == (2, True)
    amended = orc("plan", "amend", "--yes", "--refusal", number, "--reason", "a try", plan)
    assert amended.returncode == 0, amended.stderr
    assert orc.json("plan", "show", plan)["amendments"][0]["reason"] == "a try"
    executed = orc("plan", "execute", plan, "--", "echo", "{lr}", ORC_TOKEN_FILE=token)
    assert executed.returncode == 0, executed.stderr
    by_file = tmp_path / "more.json"
    by_file.write_text(json.dumps({"budget": {"runs": 50}}))
    assert orc("plan", "amend", "--yes", "--file", str(by_file), plan).returncode == 0
    by_file.write_text(json.dumps({"budget": {"runs": 5}}))
    assert "budget.runs: 5 (LESS than before: 50)" in orc("plan", "amend", "--yes", "--file", str(by_file), plan).stderr


def test_tokens_are_listed_with_what_they_may(orc: Orc) -> None:
    orc("token", "create", "reader", "--expires", "1h")
    old = Path(orc("token", "create", "agent", "--scope", "run").stdout.strip()).read_text()
    assert Path(orc("token", "rotate", "agent").stdout.strip()).read_text() != old
    assert orc("token", "revoke", "agent").returncode == 0
    lines = orc("token", "list").stdout.splitlines()
    assert any("reader" in line and "read" in line and "ends in" in line for line in lines)
    assert any("agent" in line and "revoked" in line for line in lines)
    assert orc("token", "create", "x", "--expires", "soon").returncode == 2


def test_briefs_are_shown_filled_in_and_installed(orc: Orc, tmp_path: Path) -> None:
    assert "plan" in orc("skill", "list").stdout
    assert "{{goal}}" in orc("skill", "show", "plan").stdout
    assert "a good rate" in orc("skill", "render", "plan", "--goal", "a good rate").stdout
    missing = orc("skill", "install", "--for", "agent", "--dir", str(tmp_path / "skills"))
    assert missing.returncode == 2
    assert "orc token create agent" in missing.stderr
    orc("token", "create", "agent", "--scope", "plan", "--require-plan")
    assert orc("skill", "install", "--for", "agent", "--dir", str(tmp_path / "skills")).returncode == 0
    for name in ("plan", "watch"):
        text = (tmp_path / "skills" / f"orc-{name}" / "SKILL.md").read_text()
        assert text.startswith(f"---\nname: orc-{name}\ndescription: ")
        assert "{{" not in text
        assert f"@{orc.home / 'tokens' / 'agent.header'}" in text
        assert str(orc.home / "header") not in text  # an agent with that could approve what it planned
    assert "### Compute Setup" in orc("advice").stdout


@pytest.mark.parametrize(
    ("text", "said"), [(None, "does not exist"), ("{not json", "is not JSON"), ("[1]", "an object")]
)
def test_an_amendment_that_cannot_be_read_is_told_in_words(
    orc: Orc, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "amendment.json"
    if text is not None:
        file.write_text(text)
    done = orc("plan", "amend", "p", "--file", str(file), "--yes")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
