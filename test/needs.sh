#!/usr/bin/env bash
# Says what `make test` needs and this machine lacks, before anything runs. What only leaves
# tests out is said too; what a step cannot do without ends it.
set -euo pipefail

if [ -n "${MIGPIPE_SKIPPED:-}" ]; then # the steps of this run append to it
	mkdir -p "$(dirname "$MIGPIPE_SKIPPED")"
	: >"$MIGPIPE_SKIPPED"
fi
lacks=0
lack() { echo "needs: $*" >&2; lacks=1; }
note() { echo "needs: $*"; }

command -v go >/dev/null || lack "go is missing: https://go.dev/dl, the version in go.mod or a newer one"
command -v git >/dev/null || lack "git is missing: apt-get install git"
command -v gcc >/dev/null || command -v "${CC:-cc}" >/dev/null ||
	lack "a C compiler is missing, which the race detector is linked with: apt-get install gcc libc6-dev"
for tool in ip nft mkfs.ext4; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null || note "$tool is missing: tests that use it are skipped: apt-get install iproute2 nftables e2fsprogs"
done
getent hosts localhost >/dev/null || note "localhost has no address, since /etc/hosts does not name it: tests that look it up are skipped"
cache=$(go env GOCACHE 2>/dev/null || echo /tmp)
until [ -e "$cache" ]; do cache=$(dirname "$cache"); done # a fresh machine has none yet
free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge 3 ] || note "$free GiB are free where Go keeps what it has compiled: the tests take about 2 GiB there"
[ "$(id -u)" = 0 ] || note "this user is not root: tests that change users, networks or mounts are skipped, and so is the VM test"
exit $lacks
