# Written by orc. The command itself is command.sh, beside this file, word for word.
# `conda activate` and `module load` work without anybody's rc files: each is looked for when first used.
__orc_find() { local f; for f in "$@"; do [ -r "$f" ] && printf '%s' "$f" && return; done; return 1; }
if ! type -t conda >/dev/null || [ "$(type -t conda)" = file ]; then
  conda() {
    local hook base
    base=${CONDA_EXE:+$(dirname "$(dirname "$CONDA_EXE")")}
    [ -n "$base" ] || { base=$(type -P conda) && base=$(dirname "$(dirname "$base")"); }
    hook=$(__orc_find ${base:+"$base/etc/profile.d/conda.sh"} "$HOME"/{miniforge3,mambaforge,miniconda3,anaconda3,conda}/etc/profile.d/conda.sh \
      /opt/{conda,miniforge3,miniconda3,anaconda3}/etc/profile.d/conda.sh /etc/profile.d/conda.sh) ||
      { echo "conda: not found on this machine" >&2; return 127; }
    unset -f conda
    . "$hook"
    conda "$@"
  }
fi
if ! type -t module >/dev/null; then
  module() {
    local hook
    hook=$(__orc_find ${LMOD_PKG:+"$LMOD_PKG/init/bash"} ${MODULESHOME:+"$MODULESHOME/init/bash"} /etc/profile.d/lmod.sh \
      /etc/profile.d/modules.sh /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash) ||
      { echo "module: not found on this machine" >&2; return 127; }
    unset -f module
    . "$hook"
    module "$@"
  }
  ml() { module "$@"; }
fi
if [ -r "$ORC_RUN_DIR/environment.sh" ]; then . "$ORC_RUN_DIR/environment.sh"; fi
. "$ORC_RUN_DIR/command.sh"
