#!/usr/bin/env bash
# The VM test. Its argument is 1 (skip where the machine cannot run it) or
# require (fail there).
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# -v: what was skipped, and why, is said only then. -timeout: the first run
# builds two kernels, and guests are emulated.
# What it does is printed as it begins: the kernels, then each scenario.
set +e
MIGPIPE_VM=$1 go test -v -count=1 -timeout 40m ./test/vm 2>&1 | tee "$log" |
	sed -un 's/^=== RUN *TestVM\//vm: runs /p; /^vm: /p'
status=${PIPESTATUS[0]}
set -e
if [ "$status" -ne 0 ]; then
	cat "$log"
	exit "$status"
fi
# How many of the plan's scenarios were played, and which were not, is in the log;
# so is what became of each kill.
grep -E '^ *--- |^ok|^FAIL|scenarios played' "$log"
# The reason is the line before each "--- SKIP".
grep -B1 -E '^ *--- SKIP' "$log" || true
grep -ohE 'SKIP: ?the VM test .*' "$log" >>"${MIGPIPE_SKIPPED:-/dev/null}" || true
