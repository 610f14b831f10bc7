#!/usr/bin/env bash
# Runs go test with some arguments, on all packages of both modules. It prints the packages as
# they pass, all of a failure, and in the end what was skipped, and why. It appends the last to
# the file that MIGPIPE_SKIPPED names, too.
set -uo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() {
	local status=0
	go test -v "$@" ./... || status=1
	go test -C bench -v "$@" ./... || status=1
	return $status
}
run "$@" 2>&1 | tee "$log" | grep --line-buffered -E '^(ok|FAIL|panic:)[[:space:]]'
status=${PIPESTATUS[0]}
if [ "$status" -ne 0 ]; then
	grep -vE '^(=== |\s*--- (PASS|SKIP)|PASS$|ok |\?)' "$log"
fi
skipped=$(grep -E '\.go:[0-9]+: SKIP: ' "$log" | sed 's/^ *[a-z_]*\.go:[0-9]*: //' | sort | uniq -c)
[ -z "$skipped" ] || { echo "skipped, and how often:"; echo "$skipped"; } | tee -a "${MIGPIPE_SKIPPED:-/dev/null}"
exit "$status"
