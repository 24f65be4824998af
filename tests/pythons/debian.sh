#!/bin/bash
# usage: debian.sh ROOT
# Puts a Debian unstable with CPython 3.14 and 3.15, their headers, their tests and gcc into the folder ROOT (about a minute
# and 1 GB), or finds that it is there. Needs root. Use it with chroot.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$1
[ ! -e "$root/.complete" ] || exit 0
if ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq debootstrap
fi
mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
[ -n "$mirror" ] || mirror=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' /etc/apt/sources.list)
if [ ! -d "$root/var/lib/apt/lists" ]; then
    rm -rf "$root"
    mkdir -p "$(dirname "$root")"
    debootstrap --variant=minbase sid "$root" "$mirror" || {
        rm -rf "$root"
        exit 1
    }
fi
bash "$here/chroot.sh" "$root" env DEBIAN_FRONTEND=noninteractive bash -euc '
    apt-get update -qq -o Acquire::Check-Valid-Until=false
    apt-get install -y -qq --no-install-recommends \
        python3.14-dev python3.14-venv libpython3.14-testsuite \
        python3.15-dev python3.15-venv libpython3.15-testsuite gcc libc6-dev make
    python3.14 -VV
    python3.15 -VV'
touch "$root/.complete"
