#!/bin/sh
# Migrates two simulated devices between two processes on this machine, with
# the progress on the screen and both reports at the end: a NIC of 300 MiB that
# its guest keeps dirtying, and an accelerator of 176 bytes, which lacks the P2P
# states: no peer reaches a simulated device by DMA.
#
# usage: test/demo.sh BIN    BIN has mig-send and mig-recv
# It fails unless both sides committed and both destination devices hold the
# state that their source had when it stopped.
set -eu
bin=$(cd "${1:-bin}" && pwd)

work=$(mktemp -d)
recv=
finish() {
	[ -z "$recv" ] || kill "$recv" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Keys of their own, so that the demo leaves none behind.
export XDG_CONFIG_HOME="$work"
source_id=$("$bin/mig-send" id)
destination_id=$("$bin/mig-recv" id)

# The destination's progress goes to a file: there is one screen for two.
"$bin/mig-recv" --listen 127.0.0.1:0 --peer "$source_id" \
	--device nic0=sim:mlx5 --device acc0=sim:hisi_acc \
	>"$work/report" 2>"$work/log" &
recv=$!

address=
for _ in $(seq 100); do
	address=$(sed -n 's/^mig-recv: listening on //p' "$work/log")
	[ -z "$address" ] || break
	sleep 0.1
done
if [ -z "$address" ]; then
	cat "$work/log" >&2
	exit 1
fi

echo "== the source =="
status=0
"$bin/mig-send" --to "$address" --peer "$destination_id" \
	--device 'nic0=sim:mlx5?size=300MiB&dirty=20MiB/s&save=80MiB/s&content=mixed' \
	--device acc0=sim:hisi_acc --without-p2p || status=$?

[ "$status" = 0 ] || kill "$recv" 2>/dev/null || true
wait "$recv" || status=$?
recv=

echo
echo "== the destination =="
cat "$work/report"
if [ "$status" != 0 ]; then
	cat "$work/log" >&2
	exit "$status"
fi
grep -q '^  verified  nic0, acc0$' "$work/report"
