"""Applying an environment: bash text.

It is sourced after ``slurm_templates/wrapper.sh`` has made ``conda`` and ``module`` work, before the command.
"""

import os
import re
import shlex

from orchestrator.environments.model import LEVELS_UP, CondaTool, Environment, is_path

EXIT_CODE = 78  # EX_CONFIG of sysexits.h: the command was not started, for its environment could not be had
REFUSED = "environment.refused"  # in the attempt's directory

# Values come in as arguments only. What is sourced is sourced outside of functions: in one, `declare` would be local.
_FUNCTIONS = r"""__orc_refuse() { # leaves a word that it was no exit code of the command's own
  printf 'orc: environment: %s\n' "$1" >&2
  { printf '%s\n' "$1" >| "${ORC_RUN_DIR-}/attempts/${ORC_ATTEMPT-}/@REFUSED@"; } 2>/dev/null || :
  exit @EXIT_CODE@
}
__orc_module() {
  module load "$1" || __orc_refuse "module load $1 failed on $HOSTNAME; 'module avail' tells the names"
  case ${MODULE_VERSION-} in
    3.*) case ":${LOADEDMODULES-}:" in *":$1:"* | *":$1/"*) ;; *) # Modules 3 fails with status 0
      __orc_refuse "module load $1 loaded nothing on $HOSTNAME; 'module avail' tells the names" ;; esac ;;
  esac
}
__orc_uv_root() {
  local dir=$1 level
  for level in @LEVELS@; do
    [ -f "$dir/uv.lock" ] && printf '%s' "$dir" && return
    dir=$(dirname "$dir")
  done
  __orc_refuse "no uv.lock in $1 or close above on $HOSTNAME; make one there with 'uv sync', or give the path as venv"
}
__orc_venv_there() {
  local path
  path=$(printf %q "$1")
  [ -f "$1/bin/activate" ] && [ -r "$1/bin/activate" ] ||
    __orc_refuse "no virtualenv at $path on $HOSTNAME (bin/activate cannot be read); make it with: $2"
  [ -x "$1/bin/python" ] ||
    __orc_refuse "the virtualenv $path is broken: its python is not on $HOSTNAME; make it anew with: $2"
}
__orc_venv_on() {
  [ "$(dirname "$(type -P python)")" -ef "$1/bin" ] ||
    __orc_refuse "the virtualenv $(printf %q "$1") was made at another path, or moved; make it anew with: $2"
}
__orc_hook() { # the tool's own `activate` for this shell; status 1 where there is none
  local exe hook
  [ "$(type -t "$1")" = function ] && return
  for exe in "$(type -P "$1")" "${MAMBA_EXE-}" "$HOME"/{.local,.,micromamba,miniforge3,mambaforge}/bin/"$1"; do
    [ "${exe##*/}" = "$1" ] && [ -x "$exe" ] && hook=$("$exe" shell hook --shell bash 2>/dev/null) && eval "$hook" &&
      [ "$(type -t "$1")" = function ] && return
  done
  return 1
}
"""
_FUNCTION_NAMES = re.findall(r"^(\w+)\(\)", _FUNCTIONS, re.MULTILINE)


def activation_script(environment: Environment, workdir: str) -> str:
    """Bash text that applies the environment, to be sourced before the command; "" where there is nothing to apply.

    ``workdir`` is absolute (ValueError). What is not there is told on standard error and in the attempt's file
    ``REFUSED``, with what would be right, and ends the shell with ``EXIT_CODE``. So does a setup script whose last
    status is not 0; its own ``exit`` and ``set -e`` end the shell as they do anywhere. Modules 3 answers 0 whatever
    happens (envmodules/modules issue 110): there, LOADEDMODULES tells.
    """
    if not workdir.startswith("/"):
        raise ValueError(f"the workdir {workdir!r} is not absolute")
    lines = [f"__orc_module {shlex.quote(name)}" for name in environment.modules]
    if environment.uv:
        lines += [f"__orc_uv=$(__orc_uv_root {shlex.quote(workdir)}) || exit"]
        lines += [*_virtualenv('"$__orc_uv"/.venv', "uv sync"), "unset __orc_uv"]
    if environment.venv is not None:
        path = _path(environment.venv, workdir)
        lines += _virtualenv(path, f"python3 -m venv --clear {path}")
    if environment.conda is not None:
        lines += _conda(environment.conda, environment.conda_tool, workdir)
    if environment.setup is not None:
        lines += _setup(environment.setup, workdir)
    if not lines:
        return ""
    functions = _FUNCTIONS.replace("@EXIT_CODE@", str(EXIT_CODE)).replace("@REFUSED@", REFUSED)
    functions = functions.replace("@LEVELS@", " ".join("0123"[: LEVELS_UP + 1]))
    head = f"# The run's environment, applied before its command. Exit code {EXIT_CODE}: it could not be had.\n"
    return "\n".join([head + functions + lines[0], *lines[1:], f"unset -f {' '.join(_FUNCTION_NAMES)}", ""])


def _virtualenv(path: str, remedy: str) -> list[str]:
    """The lines for a virtualenv whose path is ``path``, as shell text."""
    remedy = shlex.quote(remedy)
    return [f"__orc_venv_there {path} {remedy}", f". {path}/bin/activate", f"__orc_venv_on {path} {remedy}"]


def _conda(conda: str, tool: CondaTool, workdir: str) -> list[str]:
    target = _path(conda, workdir) if is_path(conda) else shlex.quote(conda)
    activate = f"{tool} activate {target}"
    if tool == "micromamba":
        missing = "'micromamba is not on '\"$HOSTNAME\"': put it into ~/.local/bin, or name another conda_tool'"
        activate = f"__orc_hook micromamba || __orc_refuse {missing}\n{activate}"
    if tool == "mamba":
        # mamba 1 has no such hook, and a shell without rc files may not find mamba. Its environments are conda's, too.
        activate = f"if __orc_hook mamba; then {activate}; else conda activate {target}; fi"
    words = f"{tool} could not activate {conda}; '{tool} env list' tells what there is. Host: "
    return [f'{activate} || __orc_refuse {shlex.quote(words)}"$HOSTNAME"']


def _setup(setup: str, workdir: str) -> list[str]:
    path, words = _path(setup, workdir), f"the setup script {setup}"
    missing = shlex.quote(f"{words} is not there, is no file or may not be read. Workdir: {workdir}; host: ")
    failed = shlex.quote(f"{words} ended with a status other than 0; where that is no failure, end it with: true")
    return [
        f'[ -f {path} ] && [ -r {path} ] || __orc_refuse {missing}"$HOSTNAME"',
        f". {path}",  # not `. … ||`, in which the script's own `set -e` would do nothing
        f"[ $? = 0 ] || __orc_refuse {failed}",
    ]


def _path(value: str, workdir: str) -> str:
    """A path as shell text: absolute, so that it is neither an option nor looked for on PATH."""
    if value == "~" or value.startswith("~/"):
        return '"$HOME"' + shlex.quote(value[1:] or "/")
    return shlex.quote(os.path.join(workdir, value))  # noqa: PTH118 — pathlib would tidy "." away, and it is text
