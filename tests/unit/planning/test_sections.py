"""What is read from a plan's sections, table and block, and what is wrong in them."""

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.markdown import PlanText, read
from orchestrator.planning.runblock import RunBlock
from tests.support.plans import GOOD


def with_section(name: str, body: str) -> str:
    """The good plan, with another body under that header."""
    before, _, after = GOOD.partition(f"### {name}\n")
    _, header, rest = after.partition("\n### ")
    return f"{before}### {name}\n{body}\n{header}{rest}"


def section(name: str, key: str, body: str) -> tuple[Any, list[tuple[int, str]]]:
    """What is read under the header, and the problems with their lines counted from it."""
    markdown = with_section(name, body)
    found = read(markdown)
    at = markdown.splitlines().index(f"### {name}") + 1
    return found.sections[key], [(problem.line - at, problem.message) for problem in found.problems]


def cell(text: str) -> tuple[Any, list[str]]:
    """The grid's values for one cell, and the problems."""
    body = f"| Parameter | Values | Rationale |\n|---|---|---|\n| a | {text} | why |"
    markdown = with_section("Parameters to Sweep", body).replace("- **Runs**: 6", "- **Runs**: some")
    found = read(markdown)
    return found.parameters.get("a"), [problem.message for problem in found.problems]


def with_block(block: str, plan: str = GOOD) -> PlanText:
    return read(f"{plan}\n```toml orc\n{block}\n```\n")


BLOCK_AT = len(GOOD.splitlines()) + 2


def told(found: PlanText) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in found.problems]


def test_a_good_plan_is_read_whole() -> None:
    found = read(GOOD)
    assert found.sections == {
        "title": "Learning rates for the small model",
        "objective": "Find the learning rate that trains the small model best.",
        "compute_setup": {
            "cluster_type": "local_gpu",
            "gpu_count": 4,
            "gpuwrap": "enabled",
            "environment": "venv",
            "other": {},
        },
        "approach": [
            {"title": "Baseline", "text": "one run as it is"},
            {"title": "Sweep", "text": "one run per configuration"},
            {"title": "Compare the runs", "text": ""},
        ],
        "parameters": [
            {"name": "lr", "values": [0.001, 0.01], "rationale": "the usual range", "line": 20},
            {"name": "seed", "values": [1, 2, 3], "rationale": "how much chance there is", "line": 21},
        ],
        "metrics": {
            "primary": {"name": "val/loss", "why": "what we care about"},
            "secondary": [{"name": "throughput", "why": "what it costs"}],
        },
        "success_criteria": [
            {"text": "val/loss < 0.5", "done": False, "metric": "val/loss", "operator": "<", "value": 0.5, "line": 28},
            {"text": "every run finished", "done": True, "metric": None, "operator": None, "value": None, "line": 29},
        ],
        "risks": [{"risk": "divergence", "mitigation": "warm-up"}],
        "effort": {"runs": 6, "time": "1 h", "resources": "1 GPU each"},
        "improvements": ["A script for the sweep"],
    }
    assert found.parameters == {"lr": [0.001, 0.01], "seed": [1, 2, 3]}
    assert found.block == RunBlock()


def test_a_section_that_is_not_there_is_not_in_what_is_read() -> None:
    assert set(read("## 📋 Plan: x\n### Objective\ny").sections) == {"title", "objective"}


# -- compute setup -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("- **Cluster type**: slurm", "cluster_type", "slurm"),
        ("- **cluster TYPE:** `slurm`", "cluster_type", "slurm"),
        ("- Cluster type: cpu_only (a laptop)", "cluster_type", "cpu_only"),
        ("* `GPU count`: 8 (2 nodes of 4)", "gpu_count", 8),
        ("- GPU count: 4× A100", "gpu_count", 4),
        ("- GPU count: 0", "gpu_count", 0),
        ("- gpuwrap: Enabled (shared machine)", "gpuwrap", "enabled"),
        ("- gpuwrap: disabled", "gpuwrap", "disabled"),
        ("- gpuwrap: not applicable", "gpuwrap", "not applicable"),
        ("- Environment: `uv` venv", "environment", "uv venv"),
        ("- Environment:", "environment", None),
        ("- Partition: short", "other", {"Partition": "short"}),
    ],
)
def test_the_compute_setup_is_read(line: str, key: str, value: Any) -> None:
    found, problems = section("Compute Setup", "compute_setup", line)
    assert found == {**dict.fromkeys(("cluster_type", "gpu_count", "gpuwrap", "environment")), "other": {}, key: value}
    assert problems == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("- Cluster type: kubernetes", "local_gpu, slurm, cpu_only"),
        ("- Cluster type: slurm or local_gpu", "local_gpu, slurm, cpu_only"),
        ("- GPU count: a few", "not a number"),
        ("- GPU count: 2-4", "not a number"),
        ("- GPU count: 1.5", "not a number"),
        ("- GPU count: <N>", "structure's own"),
        ("- gpuwrap: <enabled / disabled>", "structure's own"),
    ],
)
def test_a_compute_setup_that_says_nothing_known_is_a_problem_at_its_line(line: str, words: str) -> None:
    found, [(at, message)] = section("Compute Setup", "compute_setup", f"- Partition: short\n{line}")
    assert at == 2
    assert words in message
    assert [value for key, value in found.items() if key != "other"] == [None] * 4


def test_a_label_that_stands_twice_is_a_problem() -> None:
    found, [(at, _)] = section("Compute Setup", "compute_setup", "- GPU count: 1\n- GPU count: 2")
    assert (found["gpu_count"], at) == (1, 2)


# -- approach, metrics, criteria, risks, effort, improvements ----------------------------------------------------------


@pytest.mark.parametrize("sign", [" — ", " – ", " - ", ": ", "—"])
def test_a_step_has_a_title_and_a_text(sign: str) -> None:
    found, _ = section("Approach", "approach", f"1. **Train**{sign}do it\n2. Look{sign}at it\n   - closely\n- aside")
    assert found == [{"title": "Train", "text": "do it"}, {"title": "Look", "text": "at it\n- closely"}]


def test_a_step_may_have_its_colon_in_its_title() -> None:
    assert section("Approach", "approach", "1. **Train:** do it")[0] == [{"title": "Train", "text": "do it"}]


def test_a_metrics_name_is_the_word_in_backticks_or_what_comes_before_the_dash() -> None:
    body = "- **Primary**: the `val_acc` of it — see `x`\n- Secondary: a/b – c\n- **Secondary**:\n  - d - e\n  - f"
    found, problems = section("Metrics", "metrics", body)
    assert found["primary"] == {"name": "val_acc", "why": "see x"}
    assert found["secondary"] == [{"name": "a/b", "why": "c"}, {"name": "d", "why": "e"}, {"name": "f", "why": ""}]
    assert problems == []


@pytest.mark.parametrize("body", ["", "- **Secondary**: a — b", "loss", "- **Primary**:"])
def test_a_plan_without_a_primary_metric_has_a_problem(body: str) -> None:
    found, [(at, message)] = section("Metrics", "metrics", body)
    assert found["primary"] is None
    assert at == 0
    assert "primary metric" in message


@pytest.mark.parametrize(
    ("text", "metric", "operator", "value"),
    [
        ("val_acc >= 0.95", "val_acc", ">=", 0.95),
        ("`val_acc` ≥ 95 % on the test set", "val_acc", ">=", 0.95),
        ("accuracy of 99.9%: acc>99.9%", "acc", ">", 0.999),
        ("`val/loss <= 1e-3`", "val/loss", "<=", 1e-3),
        ("**loss** ≤ .5", "loss", "<=", 0.5),
        ("steps < 1,000", "steps", "<", 1000.0),
        ("epochs == 3", "epochs", "==", 3.0),
        ("epochs = -3.5.", "epochs", "==", -3.5),
        ("with lr=0.1 the loss < 2", "loss", "<", 2.0),
        ("loss < 2x the baseline", None, None, None),
        ("the loss goes 3->1, loss->0", None, None, None),
        ("every run finished", None, None, None),
        ("loss < 1e999", None, None, None),
    ],
)
def test_a_criterion_that_a_program_can_check_is_read(
    text: str, metric: str | None, operator: str | None, value: float | None
) -> None:
    [found], problems = section("Success Criteria", "success_criteria", f"- [ ] {text}")
    assert (found["metric"], found["operator"], found["value"]) == (metric, operator, value)
    assert (found["text"], found["done"], problems) == (text, False, [])


def test_criteria_need_no_box_and_may_be_ticked() -> None:
    found, _ = section("Success Criteria", "success_criteria", "- a\n- [X] b\n- [x](link) c")
    assert [(item["text"], item["done"]) for item in found] == [("a", False), ("b", True), ("[x](link) c", False)]


def test_a_plan_without_criteria_has_a_problem() -> None:
    assert [at for at, _ in section("Success Criteria", "success_criteria", "It works.")[1]] == [0]


@pytest.mark.parametrize(
    "line",
    [
        "- **Risk**: a: b → **Mitigation**: c",
        "- **Risk**: a: b -> **Mitigation**: c",
        "- **Risk:** a: b **Mitigation:** c",
        "- a: b → c",
        "- **Risk**: a: b\n  - **Mitigation**: c",
    ],
)
def test_a_risk_has_its_mitigation(line: str) -> None:
    assert section("Risks & Mitigations", "risks", line)[0] == [{"risk": "a: b", "mitigation": "c"}]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("9 runs", 9),
        ("12 (4 lr × 3 seeds)", 12),
        ("3 × 3 = 9", 9),
        ("1,000", 1000),
        ("~20", 20),
        ("2.5 h of 3 runs", 3),
        ("a few", None),
        ("9" * 5000, None),
        ("<number of runs/experiments>", None),
    ],
)
def test_the_efforts_runs_are_its_whole_number(text: str, runs: int | None) -> None:
    assert section("Estimated Effort", "effort", f"- **Runs**: {text}")[0]["runs"] == runs


def test_improvements_are_the_items() -> None:
    body = "- use `x`\n- a\n  - b\n\nand so on"
    assert section("💡 Workflow Improvements", "improvements", body)[0] == ["use `x`", "a\n- b"]


# -- the table's cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2; 3", [1, 2, 3]),
        ("1e-3, 1_000, -1, +2, .5, 1.", [0.001, 1000, -1, 2, 0.5, 1.0]),
        ("true, false, null", [True, False, None]),
        ("True, False, None", [True, False, None]),
        ("NaN, Infinity, 1e999, 007", ["NaN", "Infinity", "1e999", "007"]),
        ("99999999999999999999", ["99999999999999999999"]),
        ("`adam`, `sgd`", ["adam", "sgd"]),
        ("`0.1`, **0.2**", [0.1, 0.2]),
        ("**1, 2**", [1, 2]),
        ("[1, 2]", [1, 2]),
        ("`[1, 2]`", [1, 2]),
        ("{a, b}", ["a", "b"]),
        ("(a; b)", ["a", "b"]),
        ("(1, 2), (3, 4)", ["(1, 2)", "(3, 4)"]),
        ("\"a, b\", 'c; d', `e, f`", ["a, b", "c; d", "e, f"]),
        ('"1", \'true\', "1-10"', ["1", "true", "1-10"]),
        ("it's, that's", ["it's", "that's"]),
        (
            "resnet-50, 2024-01-01, v1-2, 1:00:00, a/b, 3x3",
            ["resnet-50", "2024-01-01", "v1-2", "1:00:00", "a/b", "3x3"],
        ),
        ("uniform, normal, range", ["uniform", "normal", "range"]),
        ("100,200,300", [100, 200, 300]),
        ("1, true", [1, True]),
        ("a\\|b, c", ["a|b", "c"]),
        ("1, 2,", [1, 2]),
    ],
)
def test_a_cells_values_are_read(text: str, values: list[Any]) -> None:
    found, problems = cell(text)
    assert problems == []
    assert [(type(value), value) for value in found] == [(type(value), value) for value in values]


@pytest.mark.parametrize(
    "text",
    [
        "1e-5 to 1e-2",
        "from 1 to 10",
        "between 1 and 10",
        "0.1–0.5",
        "0.1 — 0.5",
        "1-10",
        "1 - 10",
        "-1 - 1",
        "1..10",
        "1...10",
        "1-10 (log scale)",
        "log-uniform(1e-5, 1e-3)",
        "loguniform(1e-5, 1e-3)",
        "uniform(0, 1)",
        "range(1, 10)",
        "np.linspace(0, 1, 5)",
        "linspace 0 1 5",
        "3 seeds",
        "5 random seeds",
        "...",
        "1, 2, ...",
        "1, 2, …",
        "a, b, etc.",
        "0.1 0.2 0.3",
        "adam / sgd",
        "0.1 (the default)",
        "<values>",
        ">= 0.1",
        "TBD",
    ],
)
def test_a_description_is_not_a_list_of_values(text: str) -> None:
    found, [message] = cell(text)
    assert found is None
    assert '"a"' in message
    assert "is not a list of values: write each one" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no values"),
        ("[]", "no values"),
        (",", "no values"),
        ("(1, 2", "open"),
        ("'a, b", "open"),
        ("1,000, 2", "thousands"),
        (", ".join(str(number) for number in range(1002)), "more than 1000"),
    ],
)
def test_a_cell_that_cannot_be_read_is_a_problem_and_no_part_of_the_grid(text: str, words: str) -> None:
    found, [message] = cell(text)
    assert found is None
    assert words in message


@pytest.mark.parametrize("text", ["1, 2, 1", "0.1, 1e-1, 0.10", "1, 1.0", "a, `a`"])
def test_a_value_that_stands_twice_is_a_problem_and_counts_once(text: str) -> None:
    found, [message] = cell(text)
    assert len(found) == len(set(found))
    assert "twice" in message


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_columns_have_their_names_in_any_order_and_case() -> None:
    body = "| RATIONALE | **values** | `Parameter` |\n|-|-|-|\n| why | 1, 2 | the `optim.lr` of it |"
    [row], _ = section("Parameters to Sweep", "parameters", body)
    assert row == {"name": "optim.lr", "values": [1, 2], "rationale": "why", "line": 20}


@pytest.mark.parametrize("gone", ["Parameter", "Values"])
def test_a_table_without_a_column_is_a_problem(gone: str) -> None:
    body = "\n".join(["| Parameter | Values |", "|-|-|", "| a | 1 |"]).replace(gone, "Other")
    found, [(at, message)] = section("Parameters to Sweep", "parameters", body)
    assert (found, at) == ([], 1)
    assert gone in message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("| ... | ... | ... |", "names no parameter"),
        ("| | | |", "names no parameter"),
        ("| … |", "names no parameter"),
        ("| learning rate | 1 | |", "not a name"),
        ("| --lr | 1 | |", "not a name"),
        ("| a | 2 | |", "second time"),
    ],
)
def test_a_row_that_is_no_parameter_is_a_problem_at_its_line(row: str, words: str) -> None:
    body = f"| Parameter | Values | Rationale |\n|-|-|-|\n| a | 1 | |\n{row}"
    markdown = with_section("Parameters to Sweep", body)
    found = read(markdown)
    [(line, message)] = told(found)  # and none on the effort's runs, for the grid is not known
    assert markdown.splitlines()[line - 1] == row
    assert words in message
    assert found.parameters == {"a": [1]}


@pytest.mark.parametrize("name", ["_lr", "lr", "optim.lr", "a/b-c", "`_a`", "**lr**"])
def test_names_as_sweeps_take_them(name: str) -> None:
    body = f"| Parameter | Values |\n|-|-|\n| {name} | 1,2,3,4,5,6 |"
    found, problems = section("Parameters to Sweep", "parameters", body)
    assert (found[0]["name"], problems) == (name.strip("`*"), [])


@pytest.mark.parametrize("body", ["- lr: 0.1, 0.2", "| Parameter | Values |\n| a | 1 |"])
def test_parameters_in_another_form_are_a_problem(body: str) -> None:
    [(at, message)] = section("Parameters to Sweep", "parameters", body)[1]
    assert at == 0
    assert "table" in message


def test_no_parameters_in_words_is_no_problem() -> None:
    assert section("Parameters to Sweep", "parameters", "None: a single run.") == ([], [])


def test_tables_beyond_ten_thousand_cells_are_not_read() -> None:
    rows = "".join(f"| p{number} | 1 |\n" for number in range(5_001))
    found = read(with_section("Parameters to Sweep", "| Parameter | Values |\n|-|-|\n" + rows))
    [(_, message)] = told(found)
    assert "10000 cells" in message
    assert found.parameters == {}


# -- the block ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fence", ["```toml orc", "```orc", "~~~toml orc", "````orc toml"])
@pytest.mark.parametrize("indent", ["", "- x\n  ", "1. x\n   - y\n     "])
def test_the_block_is_found_in_any_section_and_list(fence: str, indent: str) -> None:
    marks = fence.rstrip("tomlrc ")
    lead = " " * len(indent.rpartition("\n")[2])
    block = f'{indent}{fence}\n{lead}command = "x"\n{lead}[resources]\n{lead}gpus = 1\n{lead}{marks}\n'
    markdown = GOOD.replace("### Approach\n", f"### Approach\n{block}")
    found = read(markdown)
    assert found.problems == []
    assert found.block.table == found.sections["run"] == {"command": "x", "resources": {"gpus": 1}}
    assert markdown.splitlines()[found.block.line - 1].strip() == fence


@pytest.mark.parametrize("fence", ["```toml", "```orchestra", "```"])
def test_other_blocks_are_not_the_block(fence: str) -> None:
    assert read(f"{GOOD}\n{fence}\nx\n```\n").block.table is None


def test_a_block_within_an_example_is_not_the_block() -> None:
    assert read(f"{GOOD}\n````markdown\n```toml orc\na = 1\n```\n````\n").block.table is None


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("a = 1\nb = ", 2, "Invalid value"),
        ("a = 1\na = 2\nb = 3", 2, "Cannot overwrite a value"),
        ("a = 1\nb = [1,\n\n", 2, "Invalid value"),
        ("a = 1\n\nwhen = 2024-01-01", 3, "date"),
        ("[x]\nwhen = 10:00:00", 2, "date or a time"),
        ("a = inf", 1, "finite"),
        (f"a = {2**63}", 1, "64 bits"),
        ("a = " + "[" * 20 + "]" * 20, 1, "levels"),
        ("a = " + "[" * 4_000 + "]" * 4_000, 0, "too far"),
        ("a = " + "9" * 5_000, 0, "too far"),
        ("#" * 10_001, 0, "10000 characters"),
    ],
)
def test_a_block_that_cannot_be_read_is_a_problem_at_its_line(content: str, line: int, words: str) -> None:
    found = with_block(content)
    [(at, message)] = told(found)
    assert at == BLOCK_AT + line
    assert words in message
    assert (found.block.table, found.block.line) == (None, BLOCK_AT)


def test_a_second_block_is_a_problem() -> None:
    found = with_block('command = "a"\n```\n\n```orc\ncommand = "b"')
    assert found.block.table == {"command": "a"}
    [(at, message)] = told(found)
    assert (at, str(BLOCK_AT) in message) == (BLOCK_AT + 4, True)


@pytest.mark.parametrize("fence", ["```toml orc\n", "```", "~~~~\n~~~\n", "> ```\n> x\n"])
def test_a_fence_that_is_never_closed_is_a_problem_at_its_line(fence: str) -> None:
    found = [line for line, message in told(read(f"{GOOD}\n{fence}")) if "never closed" in message]
    assert found == [len(GOOD.splitlines()) + 2]


def test_a_block_that_lacks_its_mark_is_a_problem() -> None:
    [(line, message)] = told(read(f'{GOOD}\n```toml\ncommand = "a"\n```\n'))
    assert (line, '"```toml orc"' in message) == (len(GOOD.splitlines()) + 2, True)


@pytest.mark.parametrize("fence", ["```toml\n[tool.x]\ny = 1", '```bash\ncommand = "a"', '```toml\n# command = "a"'])
def test_an_example_is_no_block_that_lacks_its_mark(fence: str) -> None:
    assert told(read(f"{GOOD}\n{fence}\n```\n")) == []


# -- contradictions ----------------------------------------------------------------------------------------------------


def test_the_efforts_runs_are_the_grids() -> None:
    plan = GOOD.replace("**Runs**: 6", "**Runs**: 9")
    [(at, message)] = told(read(plan))
    assert plan.splitlines()[at - 1] == "- **Runs**: 9"
    assert "9 run(s)" in message
    assert "6" in message


@pytest.mark.parametrize(
    "plan", [GOOD.replace("Runs**: 6", "Runs**: a few"), with_section("Parameters to Sweep", "None.")]
)
def test_runs_are_not_compared_where_one_side_is_not_known(plan: str) -> None:
    assert told(read(plan)) == []


CPU = GOOD.replace("local_gpu", "cpu_only")


@pytest.mark.parametrize(
    ("plan", "block", "line", "words"),
    [
        (GOOD, 'command = "x"\n[budget]\nruns = 5', 3, "budget"),
        (GOOD, "budget.runs = 5", 1, "budget"),
        (GOOD, "a = 1\n[parameters]\nlr = [1]", 2, "table"),
        (GOOD.replace("GPU count: 4", "GPU count: 0"), "[resources]\ngpus = 1", 2, "has none"),
        (CPU, "[resources]\ncpus = 1\ngpus = 1", 3, "cpu_only"),
        (GOOD, "[gpuwrap_config]\nenabled = false", 2, "gpuwrap is enabled"),
        (GOOD.replace(": enabled", ": disabled"), "gpuwrap_config = {enabled = true}", 0, "gpuwrap is disabled"),
    ],
)
def test_words_and_block_that_contradict_each_other_are_a_problem(plan: str, block: str, line: int, words: str) -> None:
    [(at, message)] = told(with_block(block, plan))
    assert at == BLOCK_AT + line
    assert words in message


@pytest.mark.parametrize(
    ("plan", "block"),
    [
        (GOOD, "[budget]\nruns = 6\n[resources]\ngpus = 4\n[gpuwrap_config]\nenabled = true"),
        (CPU, "[resources]\ngpus = 0"),
        (GOOD.replace(": enabled", ": not applicable"), "[gpuwrap_config]\nenabled = false"),
        (GOOD, 'command = "a {nothing} {lr}"\nbudget = 3\nresources = "x"\ngpuwrap_config = []'),
    ],
)
def test_words_and_block_that_agree_are_no_problem(plan: str, block: str) -> None:
    assert told(with_block(block, plan)) == []


def test_a_grid_of_thousands_of_digits_is_told_of_without_them() -> None:
    rows = "".join(f"|p{number}|0,1,2,3,4,5,6,7,8,9|\n" for number in range(4_900))
    [(_, message)] = told(read(with_section("Parameters to Sweep", "|Parameter|Values|\n|-|-|\n" + rows)))
    assert "more runs than there is time for" in message


# -- whatever the text -------------------------------------------------------------------------------------------------


def well_formed(found: PlanText) -> None:
    lines = [problem.line for problem in found.problems]
    assert lines == sorted(lines)
    assert all(line >= 0 for line in lines)
    json.dumps(found.sections, allow_nan=False)
    assert set(found.parameters) <= {row["name"] for row in found.sections.get("parameters", [])}


@settings(max_examples=60)
@given(st.text() | st.text(alphabet="#|-`~>*[]()1. \t\n\rax:<!=_"))
def test_any_text_is_read(text: str) -> None:
    well_formed(read(text))


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([*GOOD.splitlines(), "```", "```toml orc", "a = 1", "> ", "- ", "<!--", "|-|-|", "---"]))
)
def test_any_shuffle_of_a_plans_lines_is_read(lines: list[str]) -> None:
    well_formed(read("\n".join(lines)))


@settings(max_examples=60)
@given(st.text(alphabet=string.printable.replace("\n", "") + "–—…≥→"))
def test_any_cell_item_and_block_is_read(text: str) -> None:
    well_formed(read(with_section("Parameters to Sweep", f"|Parameter|Values|\n|-|-|\n|{text}|{text}|")))
    for name in ("Compute Setup", "Approach", "Metrics", "Success Criteria", "Risks & Mitigations", "Estimated Effort"):
        well_formed(read(with_section(name, f"- Runs: {text}\n1. Primary: {text}\n- [ ] {text}\n- GPU count: {text}")))
    well_formed(with_block(text))


def many(text: str) -> str:
    return (text * (200_000 // len(text) + 1))[:200_000]


WIDE = "|a" * 256 + "|\n" + "|-" * 256 + "|\n" + "x\n" * 256 + "\n"
HOSTILE = {
    "nested quotes": many("> "),
    "nested lists": many("- "),
    "lazy lines": ("> " * 20 + "a\n" + many("b\n"))[:200_000],
    "items": many("- a\n"),
    "rows": many("|a|b|\n"),
    "definitions": many('[a]: b "\n'),
    "tags": "<a" + many(' a="')[:199_990],
    "backticks": many("` `` ``` "),
    "fences": many("```\n"),
    "a wide table": "|a" * 49_990 + "|\n" + "|-" * 49_990 + "|\n",
    "tables that fill up": many(WIDE),
    "no words": many("\0"),
    "lone surrogates": many("\ud800\n"),
    "headers": many("### a\n"),
    "a cell": with_section("Parameters to Sweep", "|Parameter|Values|\n|-|-|\n|a|" + "1-" * 90_000 + "|"),
    "a name": with_section("Parameters to Sweep", "|Parameter|Values|\n|-|-|\n|" + "`" * 180_000 + "|1|"),
    "a criterion": with_section("Success Criteria", "- " + "a=" * 90_000),
    "a block": GOOD + "```orc\n" + "a." * 90_000 + "b=1\n```\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_read_or_refused(name: str) -> None:
    text = HOSTILE[name]
    assert len(text) <= 200_000
    well_formed(read(text))
    assert len(read(text).problems) <= 201


@pytest.mark.parametrize("name", ["lazy lines", "items", "tables that fill up", "lone surrogates"])
def test_more_than_a_person_reads_is_given_up_after_a_count_of_steps(name: str) -> None:
    [problem] = read(HOSTILE[name]).problems
    assert "not read" in problem.message
    assert read(HOSTILE[name]).sections == {}


def test_a_long_plan_of_a_person_is_read() -> None:
    steps = "".join(f"{number}. **Step {number}** — {'what to do, ' * 6}\n" for number in range(1, 2_000))
    found = read(with_section("Approach", steps))
    assert told(found) == []
    assert len(found.sections["approach"]) == 1_999
