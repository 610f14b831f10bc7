#!/bin/bash
# Makes the two kernels of the VM test and prints where they are, one a line:
#
#	debian  DIR     Debian's own kernel: VFIO groups and containers
#	cdev    DIR     our own build of the same source: cdev, iommufd, vfio debugfs
#
# Each DIR holds vmlinuz, busybox, modules/*.ko and modules/list (load order).
# Nothing is installed: packages are downloaded and unpacked in the cache,
# ${MIGPIPE_CACHE:-${XDG_CACHE_HOME:-~/.cache}/migpipe}/vm. A DIR is named after
# the package version and a hash of its recipe, built under tmp.* and renamed
# when complete, so a DIR that exists is complete.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MIGPIPE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/migpipe}/vm
series=6.12

say() { echo "build.sh: $*" >&2; }
die() { say "$*"; exit 1; }

# Out-of-tree mtty wants headers of exactly the running kernel, so one version
# is picked for source, image and headers: the newest source apt knows of. apt
# takes its time, so that its answer is kept until its lists change.
pick_version() {
	if [[ ! -s $cache/version || ! $cache/version -nt /var/lib/apt/lists ]]; then
		apt-cache madison "linux-source-$series" 2>/dev/null |
			awk '/deb12/ && !n++ { print $3 }' >"$cache/version"
	fi
	cat "$cache/version"
}

# The recipe is every file that decides what a kernel becomes.
recipe_hash() { cat "$here/build.sh" "$here/cdev.config" | sha256sum | cut -c1-12; }

# fetch PACKAGE[=VERSION] DIR unpacks a package into DIR. The .deb stays in the
# cache; apt-get checks its digest and the rename keeps half a file out.
fetch() {
	local deb=$cache/deb/$1.deb
	if [[ ! -e $deb ]]; then
		say "downloading $1"
		mkdir -p "$tmp/deb"
		# As root: apt's own user may not write into the cache.
		(cd "$tmp/deb" && apt-get -qq -o APT::Sandbox::User=root download "$1") ||
			die "cannot download $1: run 'apt-get update' and try again"
		mv "$tmp"/deb/*.deb "$deb"
	fi
	mkdir -p "$2"
	dpkg -x "$deb" "$2"
}

# unpack_source gives the kernel tree, shared by both kernels of one run.
unpack_source() {
	source=$tmp/linux-source-$series
	[[ -d $source ]] && return
	fetch "linux-source-$series=$version" "$tmp/pkg"
	say "unpacking the kernel source"
	tar -C "$tmp" -xf "$tmp/pkg/usr/src/linux-source-$series.tar.xz"
	rm "$tmp/pkg/usr/src/linux-source-$series.tar.xz"
}

add_busybox() {
	fetch busybox-static "$tmp/busybox"
	cp "$tmp/busybox/bin/busybox" "$1/busybox"
}

# Debian's kernel lacks only the sample driver, built here against its headers.
build_debian() {
	local out=$tmp/debian pkg=$tmp/pkg abi=${version%%-*}+deb12 name ko
	mkdir -p "$out/modules"
	fetch "linux-image-$abi-amd64-unsigned=$version" "$pkg"
	fetch "linux-headers-$abi-amd64=$version" "$pkg"
	fetch "linux-headers-$abi-common=$version" "$pkg"
	fetch "linux-kbuild-$abi=$version" "$pkg"
	cp "$pkg/boot/vmlinuz-$abi-amd64" "$out/vmlinuz"

	unpack_source
	mkdir "$tmp/mtty"
	cp "$source/samples/vfio-mdev/mtty.c" "$tmp/mtty/"
	echo 'obj-m := mtty.o' >"$tmp/mtty/Makefile"
	# The headers name each other by their installed place; point them here.
	grep -rlI --include=Makefile --include=Kbuild /usr/ "$pkg/usr/src/linux-headers-$abi-amd64" |
		xargs -r sed -i "s#/usr/\(src\|lib\)/linux-#$pkg&#"
	# Type information (BTF) would need pahole and Debian's vmlinux.
	make_quiet -C "$pkg/usr/src/linux-headers-$abi-amd64" M="$tmp/mtty" CONFIG_DEBUG_INFO_BTF_MODULES= modules

	for name in failover net_failover virtio_net vfio vfio_iommu_type1 mdev; do
		ko=$(find "$pkg/lib/modules" "$pkg/usr/lib/modules" -name "$name.ko*" -print -quit 2>/dev/null || true)
		[[ $ko ]] || die "linux-image-$abi-amd64-unsigned has no module $name"
		add_module "$ko" "$out"
	done
	add_module "$tmp/mtty/mtty.ko" "$out"
	finish debian "$out"
}

# Our own kernel: the smallest one with every VFIO switch on.
build_cdev() {
	local out=$tmp/cdev option
	mkdir -p "$out/modules"
	unpack_source
	cd "$source"
	make_quiet tinyconfig
	for option in $(sed 's/#.*//' "$here/cdev.config"); do
		case $option in
		*=m) scripts/config --module "${option%=m}" ;;
		*) scripts/config --enable "$option" ;;
		esac
	done
	make_quiet olddefconfig
	check_config
	say "building the cdev kernel, some minutes"
	make_quiet bzImage modules
	cp arch/x86/boot/bzImage "$out/vmlinuz"
	add_module drivers/vfio/mdev/mdev.ko "$out"
	add_module samples/vfio-mdev/mtty.ko "$out"
	cp .config "$out/config"
	cd "$here"
	finish cdev "$out"
}

# olddefconfig drops a switch whose dependencies are missing without a word.
check_config() {
	local option
	for option in $(sed 's/#.*//' "$here/cdev.config"); do
		[[ $option == *=m ]] || option=$option=y
		grep -q "^CONFIG_$option\$" .config || die "cdev.config: $option did not survive olddefconfig"
	done
}

# add_module FILE.ko[.xz] DIR adds to modules/ and to the load order.
add_module() {
	local name
	name=$(basename "${1%.xz}")
	case $1 in
	*.xz) xz -dc "$1" >"$2/modules/$name" ;;
	*) cp "$1" "$2/modules/$name" ;;
	esac
	echo "$name" >>"$2/modules/list"
}

# A build's output matters only when it fails.
make_quiet() {
	make -j"$(nproc)" "$@" >"$tmp/make.log" 2>&1 && return
	tail -n 40 "$tmp/make.log" >&2
	die "make $* failed"
}

finish() {
	add_busybox "$2"
	sync -f "$2" # a power cut after the rename must not leave empty files
	mv -T "$2" "$cache/$1-$key"
}

main() {
	[[ $(id -u) == 0 ]] || die "run as root: the guests' devices and apt's cache need it"
	command -v apt-get >/dev/null || die "no apt-get: needs Debian 12"
	mkdir -p "$cache/deb"
	exec 9>"$cache/lock"
	flock 9

	version=$(pick_version)
	if [[ -z $version ]]; then
		say "apt knows no linux-source-$series, updating its lists"
		apt-get -qq update
		version=$(pick_version)
	fi
	[[ $version ]] || die "apt knows no linux-source-$series: Debian 12 has it in its security archive"
	key=$version-$(recipe_hash)

	if [[ ! -d $cache/debian-$key || ! -d $cache/cdev-$key ]]; then
		rm -rf "$cache"/tmp.* # of a killed run; the lock shows that no build uses them
		tmp=$(mktemp -d "$cache/tmp.XXXXXX")
		trap 'rm -rf "$tmp"' EXIT
		[[ -d $cache/debian-$key ]] || build_debian
		[[ -d $cache/cdev-$key ]] || build_cdev
	fi
	echo "debian $cache/debian-$key"
	echo "cdev $cache/cdev-$key"
}

main "$@"
