"""A plan's block held against what can be executed."""

import pytest

from orchestrator.planning.reading import reading
from tests.support.plans import bindable


def problems(markdown: str) -> list[tuple[str, str]]:
    """Each problem's line as it stands in the plan, and the message."""
    lines = markdown.splitlines()
    return [(lines[found.line - 1], found.message) for found in reading(markdown).problems]


def test_a_place_that_is_nearly_a_parameters_is_a_problem_at_its_line() -> None:
    found = problems(bindable("python train.py --lr {lr} --seed {sead}"))
    message = "{sead} in the command is no place of a parameter, it stays so: did you mean {seed}?"
    assert found == [('command = """python train.py --lr {lr} --seed {sead}"""', message)]


@pytest.mark.parametrize(
    "written",
    ["{SEED}", "{ seed }", "{seed:.3f}", "{params.seed}", "<seed>", "$seed", "${seed}", "{seeds}"],
)
def test_a_place_that_is_written_otherwise_is_a_problem(written: str) -> None:
    [(_, message)] = problems(bindable(f"python train.py --lr {{lr}} --seed {written}"))
    assert message == f"{written} in the command is no place of a parameter, it stays so: did you mean {{seed}}?"


@pytest.mark.parametrize(
    "command",
    [
        "seed=$ORC_PARAM_SEED; echo {lr} $seed",
        "echo {lr} $SEED ${SEEDS} seed",
        "echo {lr} {seed} {seeds}",  # each parameter has its place: the others are the program's own
        "echo {lr} ${sead}",
        "awk '{print}' {lr}",
        "python train.py {lr}",  # the seed stands in ORC_PARAM_SEED
    ],
)
def test_braces_of_a_program_are_no_problem(command: str) -> None:
    assert problems(bindable(command)) == []


@pytest.mark.parametrize(
    ("more", "line", "message"),
    [
        ("[resources]\ngpu = 1", "gpu = 1", "The block's resources.gpu: There is no such field: did you mean gpus?"),
        ("comand = 1", "comand = 1", "The block's comand: There is no such field: did you mean command?"),
        (
            "[resources]\ncpus = 0",
            "cpus = 0",
            "The block's resources.cpus: Input should be greater than",
        ),
        ('[resources]\ntime = "soon"', 'time = "soon"', 'The block\'s resources.time: a time limit is "D-HH:MM:SS"'),
        ("[retry]\non = ['NEVER']", "on = ['NEVER']", "The block's retry.on.0: Input should be 'PREEMPTED'"),
    ],
)
def test_a_field_that_cannot_be_is_a_problem_at_its_line(more: str, line: str, message: str) -> None:
    [(at, words)] = problems(bindable(more=more))
    assert at == line
    assert words.startswith(message)


def test_many_long_names_are_not_compared_for_ever() -> None:
    rows = "\n".join(f"| {'p' * 180}{number} | 1 | |" for number in range(500))
    places = " ".join(f"{{{'p' * 170}x{number}}}" for number in range(50))
    assert problems(bindable(places, values=rows, runs=1)) == []
