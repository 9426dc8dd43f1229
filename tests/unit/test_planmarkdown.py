"""A plan's markdown against the structure that the seed prescribes."""

import pytest

from orchestrator.planmarkdown import OPTIONAL, REQUIRED, Problem, problems

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
LINES = SEED.splitlines()
HEADERS = [line.removeprefix("### ") for line in LINES if line.startswith("### ")]


def line_of(header: str) -> int:
    return LINES.index(f"### {header}") + 1


def with_lines(at: int, *more: str) -> str:
    """The seed's plan with ``more`` before line ``at`` (from 1)."""
    return "\n".join([*LINES[: at - 1], *more, *LINES[at - 1 :]])


def told(markdown: str) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in problems(markdown)]


def test_the_seeds_own_structure_has_no_problems() -> None:
    assert told(SEED) == []
    assert set(HEADERS) == {*REQUIRED, *OPTIONAL}


@pytest.mark.parametrize("markdown", ["", " ", "\n\n\t\n"])
def test_a_plan_without_markdown_has_no_problems(markdown: str) -> None:
    assert told(markdown) == []


@pytest.mark.parametrize(
    "variant", ["\n\n" + SEED, SEED.replace("\n", "\r\n"), SEED.rstrip("\n"), SEED.replace("ve\n", "ve  \n")]
)
def test_blank_lines_before_and_line_ends_do_not_matter(variant: str) -> None:
    assert told(variant) == []


def test_the_parameters_to_sweep_may_be_left_out() -> None:
    start, end = line_of("Parameters to Sweep"), line_of("Metrics")
    assert told("\n".join(LINES[: start - 1] + LINES[end - 1 :])) == []


@pytest.mark.parametrize("header", REQUIRED)
def test_a_missing_header_is_named(header: str) -> None:
    assert told(SEED.replace(f"### {header}\n", "")) == [(0, f'The header "### {header}" is missing.')]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_stands_twice_is_named_with_the_second_ones_line(header: str) -> None:
    again = line_of(header) + 1
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
    found = told(SEED.replace("### Metrics", "### Metric"))
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
    found = problems("\n".join([title, *LINES[1:]]))
    assert Problem(1, 'The plan must begin with "## 📋 Plan: <title>".') in found


def test_words_before_the_title_are_a_problem_with_their_line() -> None:
    assert told("\n\nSure! Here it is:\n" + SEED) == [(3, 'The plan must begin with "## 📋 Plan: <title>".')]


def test_every_problem_is_told_in_the_order_of_the_lines() -> None:
    found = told("a plan\n### Objective\n### Other\n### Objective\n")
    assert [line for line, _ in found] == [0] * (len(REQUIRED) - 1) + [1, 3, 4]


@pytest.mark.parametrize(
    "block",
    [
        ["```", "### Other", "```"],
        ["```bash", "### a comment", "```"],
        ["~~~", "### Other", "~~~"],
        ["  ```", "### Other", "  ```"],
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
