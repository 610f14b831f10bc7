#!/usr/bin/env bash
# Runs every fuzz target of the module, one after the other, for the time given.
# Each has seeds in testdata, valid ones and near misses.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:?usage: test/fuzz.sh TIME}

targets=0
for package in $(go list ./...); do
	dir=${package#github.com/migpipe/migpipe}
	grep -qs '^func Fuzz' ".$dir"/*_test.go || continue
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
		[ -n "$(ls ".$dir/testdata/fuzz/$target" 2>/dev/null)" ] ||
			{ echo "fuzz: $package $target has no seeds in .$dir/testdata/fuzz/$target" >&2; exit 1; }
		echo "fuzz: $package $target for $time"
		# -run '^$': only the fuzzing. -parallel 2: one worker for each of the
		# two cores that this is planned for.
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel 2 "$package" >/tmp/fuzz.$$ 2>&1 ||
			{ cat /tmp/fuzz.$$ >&2; rm -f /tmp/fuzz.$$; exit 1; }
		targets=$((targets + 1))
	done
done
rm -f /tmp/fuzz.$$
echo "fuzz: $targets targets"
[ "$targets" -gt 0 ]
