"""What the emulated sbatch reads: options, their sources, scripts. Pure."""

import pytest

from orchestrator.testing import options
from orchestrator.testing.arguments import UsageError
from orchestrator.testing.submission import Refused, Submission, exported, read_submission

NOW = 1_700_000_000


def submission(*argv: str, script: str = "#!/bin/sh\n", **environment: str) -> Submission:
    return read_submission(options.read(argv, environment, script), "/work", environment, NOW)


# -- sources -----------------------------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_environment_and_that_over_the_script() -> None:
    script = "#!/bin/sh\n#SBATCH -p lines -t 10 -A mine\n"
    request = submission("-p", "given", script=script, SBATCH_PARTITION="env", SBATCH_TIMELIMIT="20").request
    assert (request.partitions, request.time_limit, request.account) == (["given"], 20, "mine")


def test_directives_end_at_the_first_command() -> None:
    script = "#!/bin/sh\n# words\n\n#SBATCH -J early\ntrue\n#SBATCH -J late\n"
    assert submission(script=script).request.name == "early"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (' -J "two words" --comment="a # b" # comment -p nope', ["-J", "two words", "--comment=a # b"]),
        (" -J 'single \\q' x\\ y", ["-J", "single q", "x y"]),
        (' --comment="say \\"hi\\""', ['--comment=say "hi"']),
        (" --comment=''", ["--comment="]),
        ("", []),
    ],
)
def test_words_of_a_directive(line: str, words: list[str]) -> None:
    assert options.split_words(line) == words


def test_a_stray_word_in_a_directive() -> None:
    with pytest.raises(options.BadDirective, match="Invalid directive found in batch script: words"):
        options.directives("#!/bin/sh\n#SBATCH -J two words\n")


def test_an_unknown_option_in_a_directive() -> None:
    with pytest.raises(UsageError, match="unrecognized option '--bogus'"):
        options.directives("#!/bin/sh\n#SBATCH --bogus\n")


def test_a_pretend_job_says_so_in_its_script() -> None:
    assert options.pretend_words("#!/bin/sh\n#EMULATE duration=30 exit=1 rss=2G\n") == {
        "duration": "30",
        "exit": "1",
        "rss": "2G",
    }
    assert options.pretend_words("#!/bin/sh\n#EMULATED\n") is None


# -- values ------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert submission("dir/train.sh").request.name == "train.sh"
    assert submission("--wrap", "true").request.name == "wrap"
    assert submission().request.name == "sbatch"
    assert submission("-J", "mine", "train.sh").request.name == "mine"


def test_sizes() -> None:
    request = submission("-N", "2-3", "-n", "8", "-c", "2", "--mem=1G", "--ntasks-per-node", "4").request
    assert (request.nodes_min, request.nodes_max, request.tasks, request.cpus_per_task) == (2, 3, 8, 2)
    assert (request.memory_per_node, request.tasks_per_node) == (1024, 4)


def test_fewer_tasks_than_nodes_need_fewer_nodes() -> None:
    found = submission("-N", "4", "-n", "2")
    assert found.request.nodes_min == 2
    assert found.warnings == ["sbatch: Warning: can't run 2 processes on 4 nodes, setting nnodes to 2"]


def test_memory_per_cpu_undoes_memory() -> None:
    request = submission("--mem-per-cpu=100", script="#!/bin/sh\n#SBATCH --mem=1G\n").request
    assert (request.memory_per_node, request.memory_per_cpu) == (0, 100)


def test_array_hold_begin_signal_licenses() -> None:
    found = submission("-a", "1-7:3%2", "-H", "-b", "now+1hour", "--signal=B:USR1@120", "-L", "matlab:2,idl")
    assert found.array is not None
    assert (found.array.tasks, found.hold) == ((1, 4, 7), True)
    assert (found.request.begin, found.request.signal) == (NOW + 3600, "B:USR1@120")
    assert found.request.licenses == {"matlab": 2, "idl": 1}


def test_a_begin_that_has_passed_is_none() -> None:
    assert submission("-b", "now-1hour").request.begin == 0


def test_requeue_is_the_default_and_the_last_word_counts() -> None:
    assert submission().request.requeue
    assert not submission("--no-requeue").request.requeue
    assert submission("--no-requeue", "--requeue").request.requeue


@pytest.mark.parametrize(
    ("argv", "line", "rc"),
    [
        (["-t", "1x"], "sbatch: error: Invalid --time specification", 255),
        (["--mem=xx"], "sbatch: error: Invalid --mem specification", 255),
        (["--signal=FOO@1"], "sbatch: error: Invalid --signal specification", 255),
        (["-b", "someday"], "sbatch: error: Invalid --begin specification", 255),
        (["-n", "0"], 'sbatch: error: Invalid numeric value "0" for --ntasks.', 1),
        (["-a", "3-1"], "sbatch: error: Batch job submission failed: Invalid job array specification", 1),
        (
            ["--gres=gpu:1:2:3"],
            "sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification",
            1,
        ),
    ],
)
def test_refusals_of_sbatch_itself(argv: list[str], line: str, rc: int) -> None:
    with pytest.raises(Refused) as raised:
        submission(*argv)
    assert (raised.value.lines[-1], raised.value.rc) == (line, rc)


def test_export() -> None:
    environment = {"HOME": "/root", "A": "1", "SBATCH_PARTITION": "p"}
    assert exported("ALL", environment) == {"HOME": "/root", "A": "1"}
    assert exported("NONE", environment)["SLURM_EXPORT_ENV"] == "NONE"
    assert exported("A,B=2", environment) == {"A": "1", "B": "2", "SLURM_EXPORT_ENV": "A,B=2"}
    assert exported("ALL,B=2", environment) == {"HOME": "/root", "A": "1", "B": "2"}
