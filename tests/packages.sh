#!/usr/bin/env bash
# Installs the real parts that the tests use (PostgreSQL, Chromium), where it may: as root, with apt.
# Where it may not, it says loudly what will be skipped.
set -euo pipefail

missing=()
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
command -v chromium >/dev/null || missing+=(chromium)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing ${missing[*]} for the tests."
  export DEBIAN_FRONTEND=noninteractive
  (apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}") >/tmp/orc-test-packages.log 2>&1 && exit 0
  tail -5 /tmp/orc-test-packages.log
fi
echo "!!! ------------------------------------------------------------------------------------------ !!!"
echo "!!! Not installed and not to be installed here: ${missing[*]}. Tests that need them are SKIPPED. !!!"
echo "!!! ------------------------------------------------------------------------------------------ !!!"
