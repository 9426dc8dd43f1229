"""What sbatch is asked: its options from the command line, the environment and the script's ``#SBATCH`` lines.

https://slurm.schedmd.com/sbatch.html. The command line wins over the environment, that over the script.
"""

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.testing.arguments import Arguments, UsageError, options_table, parse

SBATCH = options_table(
    "-A/--account= -a/--array= -b/--begin= -c/--cpus-per-task= -C/--constraint= -d/--dependency= -D/--chdir= "
    "-e/--error= -G/--gpus= -H/--hold -i/--input= -J/--job-name= -k/--no-kill? -L/--licenses= -M/--clusters= "
    "-m/--distribution= -N/--nodes= -n/--ntasks= -O/--overcommit -o/--output= -p/--partition= -q/--qos= -Q/--quiet "
    "-s/--oversubscribe -S/--core-spec= -t/--time= -v/--verbose -V/--version -W/--wait -w/--nodelist= -x/--exclude= "
    "-F/--nodefile= -B/--extra-node-info= -h/--help --acctg-freq= --batch= --bb= --bbf= --cluster= "
    "--cluster-constraint= --comment= --container= --contiguous --cores-per-socket= "
    "--cpu-freq= --cpus-per-gpu= --deadline= --delay-boot= "
    "--exclusive? --export= --export-file= --extra= --get-user-env? --gid= --gpu-bind= --gpu-freq= --gpus-per-node= "
    "--gpus-per-socket= --gpus-per-task= --gres= --gres-flags= --hint= --ignore-pbs --kill-on-invalid-dep= "
    "--mail-type= --mail-user= --mcs-label= --mem= --mem-bind= --mem-per-cpu= --mem-per-gpu= --mincpus= --network= "
    "--nice? --no-requeue --ntasks-per-core= --ntasks-per-gpu= --ntasks-per-node= --ntasks-per-socket= --open-mode= "
    "--parsable --power= --prefer= --priority= --profile= --propagate? --reboot --requeue --reservation= --signal= "
    "--sockets-per-node= --spread-job --switches= --test-only --thread-spec= --threads-per-core= --time-min= --tmp= "
    "--tres-bind= --tres-per-task= --uid= --use-min-nodes --usage --wait-all-nodes= --wckey= --wrap="
)

_RENAMED = {"SBATCH_TIMELIMIT": "time", "SBATCH_JOB_NAME": "job-name", "SBATCH_NO_REQUEUE": "no-requeue"}
_UNSHARED = frozenset(
    {"version", "help", "usage", "wrap", "test-only", "parsable", "quiet", "verbose", "hold", "uid", "gid", "chdir"}
    | {"output", "error", "input", "nodes", "ntasks", "cpus-per-task", "dependency", "nodelist", "exclude", "begin"}
    | {"comment", "licenses", "nice", "priority", "mail-type", "mail-user", "ntasks-per-node", "mem", "mem-per-cpu"}
)


class BadDirective(UsageError):
    """A word of an ``#SBATCH`` line that is no option."""


def environment_name(option: str) -> str | None:
    """``SBATCH_PARTITION`` for ``partition``; None for an option that has no such variable."""
    for variable, name in _RENAMED.items():
        if name == option:
            return variable
    if option in {"mem", "mem-per-cpu"}:
        return {"mem": "SBATCH_MEM_PER_NODE", "mem-per-cpu": "SBATCH_MEM_PER_CPU"}[option]
    return None if option in _UNSHARED else "SBATCH_" + option.upper().replace("-", "_")


def read(argv: Sequence[str], environment: Mapping[str, str], script: str) -> Arguments:
    """All that sbatch was asked, one source over the other; words are the script's. UsageError."""
    given = parse("sbatch", SBATCH, argv)
    merged = Arguments(words=given.words)
    for name, value in [*directives(script), *_from_environment(environment), *given.order]:
        _lay(merged, name, value)
    return merged


def _lay(merged: Arguments, name: str, value: str) -> None:
    """A later word undoes what it excludes."""
    for one, other in (("requeue", "no-requeue"), ("mem", "mem-per-cpu")):
        if name == one:
            merged.options.pop(other, None)
        elif name == other:
            merged.options.pop(one, None)
    merged.add(name, value)


def _from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for option in SBATCH.values():
        variable = environment_name(option.name)
        if variable is not None and variable in environment:
            yield option.name, "" if option.takes == "nothing" else environment[variable]


def directives(script: str) -> list[tuple[str, str]]:
    """The options of the ``#SBATCH`` lines before the first command. UsageError, BadDirective."""
    words: list[str] = []
    for line in script.split("\n"):
        if line.startswith("#SBATCH") and line[7:8] in {" ", "\t"}:
            words += split_words(line[7:])
        elif line.strip() and not line.startswith("#"):
            break
    found = parse("sbatch", SBATCH, words)
    if found.words:
        raise BadDirective(f"sbatch: error: Invalid directive found in batch script: {found.words[0]}")
    return found.order


def split_words(line: str) -> list[str]:
    """Words as sbatch splits a directive: quotes of both kinds, a backslash, ``#`` begins a comment."""
    words: list[str] = []
    current: str | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if character == "\\":
            current = (current or "") + next(characters, "")
        elif quote:
            if character == quote:
                quote = ""
            else:
                current = (current or "") + character
        elif character in "\"'":
            quote, current = character, current or ""
        elif character.isspace():
            if current is not None:
                words.append(current)
            current = None
        elif character == "#" and current is None:
            break
        else:
            current = (current or "") + character
    return words if current is None else [*words, current]


def pretend_words(script: str) -> dict[str, str] | None:
    """The words of the script's ``#EMULATE duration=30 exit=0 state=OUT_OF_MEMORY rss=2G`` line, or None."""
    for line in script.split("\n"):
        if line.startswith("#EMULATE") and (len(line) == 8 or line[8].isspace()):
            return dict(word.partition("=")[::2] for word in line.split()[1:])
    return None
