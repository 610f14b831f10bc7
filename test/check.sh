#!/usr/bin/env bash
# What a reviewer would not want to say by hand. Arguments: the staticcheck and
# the govulncheck module with version.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { echo "check: $*"; }

step gofmt
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	echo "not formatted, run gofmt -w on:" "$unformatted" >&2
	exit 1
fi

step go vet
go vet ./...
go vet -tags failpoints ./internal/failpoint ./transport/handoff

step go mod tidy
go mod tidy -diff

step staticcheck
go run "$1" ./...

# It needs the vulnerability database, which is not reachable from everywhere.
step govulncheck
if ! out=$(go run "$2" ./... 2>&1); then
	if grep -q '^govulncheck: fetching vulnerabilities' <<<"$out"; then
		echo "SKIP govulncheck: the vulnerability database cannot be reached: $(grep -m 1 '^govulncheck: ' <<<"$out")" |
			tee -a "${MIGPIPE_SKIPPED:-/dev/null}"
	else
		echo "$out" >&2
		exit 1
	fi
fi
