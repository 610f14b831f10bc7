#!/usr/bin/env bash
# What a reviewer would not want to say by hand, in both modules. Arguments: the golangci-lint
# and the govulncheck command, with version.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT

step() { echo "check: $*"; }

# in_modules runs a command in the directory of each module.
in_modules() {
	for module in . bench; do (cd "$module" && "$@") || return; done
}

step gofmt
unformatted=$(gofmt -l $(git ls-files '*.go'))
if [ -n "$unformatted" ]; then
	echo "not formatted, run gofmt -w on:" "$unformatted" >&2
	exit 1
fi

step go vet
in_modules go vet ./...
go vet -tags failpoints ./internal/failpoint ./transport/handoff

step go mod tidy
in_modules go mod tidy -diff

# A whole build for another machine; test/arch checks the types for more of them.
step arm64
GOARCH=arm64 CGO_ENABLED=0 go build -o "$tools/" ./cmd/mig-send ./cmd/mig-recv

step golangci-lint
GOBIN=$tools go install "$1"
in_modules "$tools/golangci-lint" run --config "$PWD/.golangci.yml" ./...

# It needs the vulnerability database, which is not reachable from everywhere.
step govulncheck
if ! out=$(in_modules go run "$2" ./... 2>&1); then
	if grep -q '^govulncheck: fetching vulnerabilities' <<<"$out"; then
		echo "SKIP govulncheck: the vulnerability database cannot be reached: $(grep -m 1 '^govulncheck: ' <<<"$out")" |
			tee -a "${MIGPIPE_SKIPPED:-/dev/null}"
	else
		echo "$out" >&2
		exit 1
	fi
fi
