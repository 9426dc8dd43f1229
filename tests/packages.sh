#!/usr/bin/env bash
# Installs the real parts that the tests use (PostgreSQL, Chromium, Slurm with its database), where it may: as root, with
# apt. Where it may not, it says loudly what will be skipped. No service is started: the tests start their own.
# With an argument, only that part: tests/packages.sh slurm
set -euo pipefail

declare -A packages=(
  [postgresql]="postgresql"
  [chromium]="chromium"
  [slurm]="slurmctld slurmd slurmdbd slurm-client slurm-wlm-basic-plugins slurm-wlm-mysql-plugin munge mariadb-server"
)
missing=()
lacks() { for command in "$@"; do command -v "$command" >/dev/null || return 0; done; return 1; }
for part in ${1:-postgresql chromium slurm}; do
  case $part in
    postgresql) ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=("$part") ;;
    chromium) ! lacks chromium || missing+=("$part") ;;
    slurm) ! lacks slurmctld slurmd slurmdbd sbatch munged mariadbd mariadb-install-db || missing+=("$part") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=""
cleanup() { rm -f "$log" $made_policy; }
trap cleanup EXIT

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing for the tests: ${missing[*]}."
  if [ ! -e "$policy" ]; then # packages must not start their services
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=$policy
  fi
  wanted=()
  for part in "${missing[@]}"; do read -ra more <<<"${packages[$part]}"; wanted+=("${more[@]}"); done
  export DEBIAN_FRONTEND=noninteractive
  (apt-get -qq update && apt-get -qq install -y --no-install-recommends "${wanted[@]}") >"$log" 2>&1 && exit 0
  tail -5 "$log"
fi
echo "!!! ------------------------------------------------------------------------------------------ !!!"
echo "!!! Not installed and not to be installed here: ${missing[*]}. Tests that need them are SKIPPED. !!!"
echo "!!! ------------------------------------------------------------------------------------------ !!!"
