"""A plan's markdown against the structure that the seed prescribes: its headers and their problems."""

import pytest

from orchestrator.planning.markdown import OPTIONAL, REQUIRED, PlanText, Problem, read
from tests.support.plans import GOOD

# As in the seed (plan-mode-planning-assistant.txt, "Required Output Format"), word for word.
SEED = """\
## 📋 Plan: <concise plan title>

### Objective
<1-2 sentence summary of what we're trying to achieve>

### Compute Setup
- Cluster type: <local_gpu / slurm / cpu_only>
- GPU count: <N>
- gpuwrap: <enabled / disabled>
- Environment: <venv / conda / system>

### Approach
1. **Step 1 title** — Description of what to do
2. **Step 2 title** — Description of what to do
3. ... (as many steps as needed)

### Parameters to Sweep
| Parameter | Values | Rationale |
|-----------|--------|-----------|
| ... | ... | ... |

(Include this section only if parameter sweeps are relevant)

### Metrics
- **Primary**: <metric name> — <why this metric matters>
- **Secondary**: <metric name> — <why>

### Success Criteria
- [ ] <criterion 1>
- [ ] <criterion 2>

### Risks & Mitigations
- **Risk**: <description> → **Mitigation**: <how to handle>

### Estimated Effort
- **Runs**: <number of runs/experiments>
- **Time**: <estimated wall-clock time>
- **Resources**: <GPU/compute requirements>

### 💡 Workflow Improvements
- Any reusable scripts, templates, or patterns identified during planning
"""
LINES = GOOD.splitlines()
HEADERS = [line.removeprefix("### ") for line in LINES if line.startswith("### ")]


def line_of(header: str) -> int:
    return LINES.index(f"### {header}") + 1


def with_lines(at: int, *more: str) -> str:
    """The good plan with ``more`` before line ``at`` (from 1)."""
    return "\n".join([*LINES[: at - 1], *more, *LINES[at - 1 :]])


def told(markdown: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in read(markdown).problems]


def test_the_seeds_own_structure_is_the_structure() -> None:
    assert {line.removeprefix("### ") for line in SEED.splitlines() if line.startswith("### ")} == {
        *REQUIRED,
        *OPTIONAL,
    }
    assert not [message for _, message in told(SEED) if "header" in message or "must begin" in message]


def test_the_seeds_own_placeholders_are_no_plan() -> None:
    lines = SEED.splitlines()
    left = [lines[line - 1] for line, _ in told(SEED)]
    risks = next(line for line in lines if "**Risk**" in line)
    assert left == [line for line in lines if ("<" in line and line not in (risks, lines[3])) or "| ... |" in line]


def test_a_plan_that_is_filled_in_has_no_problems() -> None:
    assert told(GOOD) == []


@pytest.mark.parametrize("markdown", ["", " ", "\n\n\t\n"])
def test_a_plan_without_markdown_has_no_problems(markdown: str) -> None:
    assert told(markdown) == []


@pytest.mark.parametrize(
    "variant",
    [
        "\n\n" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip("\n"),
        GOOD.replace(".\n", ".  \n"),
        GOOD.rstrip() + "\n\n\n",
    ],
)
def test_blank_lines_before_and_line_ends_do_not_matter(variant: str) -> None:
    assert told(variant) == []


def test_the_parameters_to_sweep_may_be_left_out() -> None:
    start, end = line_of("Parameters to Sweep"), line_of("Metrics")
    assert told("\n".join(LINES[: start - 1] + LINES[end - 1 :])) == []


@pytest.mark.parametrize("header", REQUIRED)
def test_a_missing_header_is_named(header: str) -> None:
    assert told(GOOD.replace(f"### {header}\n", "")) == [(0, f'The header "### {header}" is missing.')]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_stands_twice_is_named_with_the_second_ones_line(header: str) -> None:
    again = len(LINES) + 1
    assert told(with_lines(again, f"### {header}")) == [(again, f'The header "### {header}" stands a second time.')]


@pytest.mark.parametrize(
    "header", ["Conclusions", "objective", "Objective:", "Workflow Improvements", "Risks and Mitigations", ""]
)
def test_an_unknown_header_is_named_with_its_line_and_the_right_ones(header: str) -> None:
    [(line, message)] = told(with_lines(10, f"### {header}"))
    assert line == 10
    assert f'"### {header}"' in message
    assert all(known in message for known in [*REQUIRED, *OPTIONAL])


def test_a_misspelt_header_is_both_unknown_and_missing() -> None:
    found = told(GOOD.replace("### Metrics", "### Metric"))
    assert [line for line, _ in found] == [0, line_of("Metrics")]
    assert '"### Metrics" is missing' in found[0][1]
    assert '"### Metric"' in found[1][1]


@pytest.mark.parametrize(
    "title",
    [
        "# 📋 Plan: x",
        "## Plan: x",
        "## 📋 Plan:",
        "## 📋 Plan: ",
        "### 📋 Plan: x",
        "Here is the plan:",
        "## 📋 plan: x",
    ],
)
def test_a_plan_must_begin_with_its_title(title: str) -> None:
    found = read("\n".join([title, *LINES[1:]])).problems
    assert Problem(1, 'The plan must begin with "## 📋 Plan: <title>".') in found


def test_words_before_the_title_are_a_problem_with_their_line() -> None:
    assert told("\n\nSure! Here it is:\n" + GOOD) == [(3, 'The plan must begin with "## 📋 Plan: <title>".')]


def test_every_problem_is_told_in_the_order_of_the_lines() -> None:
    found = told("a plan\n### Objective\n### Other\n### Objective\n")
    assert [line for line, _ in found] == [0] * (len(REQUIRED) - 1) + [1, 3, 4]


@pytest.mark.parametrize(
    "block",
    [
        ["```", "### Other", "```"],
        ["```bash", "### a comment", "```"],
        ["~~~", "### Other", "~~~"],
        [" ```", "### Other", " ```"],
        ["```", "~~~", "### Other", "```"],
        ["~~~", "```", "### Other", "~~~"],
        ["```", "### Other", "```", "```", "### Other", "```"],
        ["```", "### Objective", "```"],
    ],
)
def test_headers_in_code_fences_do_not_count(block: list[str]) -> None:
    assert told(with_lines(line_of("Approach"), *block)) == []


def test_a_header_that_stands_in_a_fence_only_is_missing() -> None:
    at = line_of("Metrics")
    fenced = "\n".join([*LINES[: at - 1], "```", "### Metrics", "```", *LINES[at:]])
    assert told(fenced) == [(0, 'The header "### Metrics" is missing.')]


def test_a_header_after_a_fence_counts_with_its_own_line() -> None:
    [(line, message)] = told(with_lines(10, "```", "### inside", "```", "### outside"))
    assert (line, "outside" in message) == (13, True)


@pytest.mark.parametrize("outer", ["````", "~~~~~"])
def test_a_longer_fence_is_not_ended_by_a_shorter_one(outer: str) -> None:
    # As in an example within an example.
    inner = outer[:3]
    block = [f"{outer}markdown", f"{inner}bash", "### a comment", inner, "### Other", outer]
    assert told(with_lines(line_of("Approach"), *block)) == []


def test_a_fence_is_not_ended_by_one_with_a_language() -> None:
    # An end has nothing after it (CommonMark 4.5).
    block = ["```text", "```bash", "### a comment", "```"]
    assert told(with_lines(line_of("Approach"), *block)) == []


def test_code_within_a_line_begins_no_fence() -> None:
    assert told(with_lines(line_of("Approach"), "```python train.py``` is how it runs.")) == []


@pytest.mark.parametrize(
    "line", ["#### Details", "##### Other", "###Other", "text ### Other", "    ### Other", r"\### Other"]
)
def test_what_is_no_header_of_the_third_level_does_not_count(line: str) -> None:
    assert told(with_lines(10, line)) == []


def test_a_problem_is_plain_json() -> None:
    assert Problem(3, "x").public() == {"line": 3, "message": "x"}


# -- what a parser sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        "### **Objective**",
        "### `Objective`",
        "### Objective ###",
        "###   Objective",
        "   ### Objective",
        "### _Objective_",
    ],
)
def test_a_headers_marks_do_not_matter(written: str) -> None:
    assert told(GOOD.replace("### Objective", written)) == []


def test_the_emojis_variation_selector_does_not_matter() -> None:
    assert told(GOOD.replace("💡", "💡\ufe0f").replace("📋", "📋\ufe0f")) == []


@pytest.mark.parametrize(
    "written", ["## Objective", "#### Objective", "# Objective", "Objective\n---", "Objective\n==="]
)
def test_a_header_at_another_level_is_missing_and_told_how_to_be_written(written: str) -> None:
    at = line_of("Objective")
    [missing, (line, message)] = told(GOOD.replace("### Objective", written))
    assert missing == (0, 'The header "### Objective" is missing.')
    assert line == at
    assert 'write it as "### Objective"' in message


def test_a_smaller_header_of_the_same_words_is_no_problem_where_the_right_one_stands() -> None:
    assert told(GOOD.replace("1. **Baseline**", "#### Objective\n1. **Baseline**")) == []


def test_the_order_of_the_sections_is_free() -> None:
    title, *sections = GOOD.split("### ")
    assert told(title + "".join(f"### {section.rstrip()}\n\n" for section in reversed(sections))) == []


@pytest.mark.parametrize(
    "hidden",
    [
        "> ### Other",
        "- a\n\n  ### Other",
        "<!--\n### Other\n-->",
        "<!--\n\n### Other\n\n-->",
        "<div>\n### Other\n</div>",
    ],
)
def test_headers_in_quotes_lists_and_html_do_not_count(hidden: str) -> None:
    assert told(with_lines(line_of("Approach"), *hidden.splitlines(), "")) == []


def test_the_title_is_read_wherever_it_stands() -> None:
    assert read(GOOD).title == "Learning rates for the small model"
    assert read("Sure!\n\n" + GOOD).title == "Learning rates for the small model"
    assert read("## Plan: x").title is None


def test_a_plan_without_markdown_says_nothing() -> None:
    assert read(" \n") == PlanText()


def test_what_was_read_is_kept() -> None:
    assert read(GOOD) is read(GOOD)


def test_a_plan_that_is_too_long_is_not_read() -> None:
    found = read("x" * 200_001)
    [problem] = found.problems
    assert found == PlanText(problems=[problem])
    assert all(words in problem.message for words in ("longer than a person reads", "200001", "200000"))


def test_problems_beyond_what_a_person_reads_are_counted() -> None:
    problems = read(GOOD + "### x\n" * 1000).problems
    assert len(problems) == 201
    assert "800 more" in problems[-1].message
