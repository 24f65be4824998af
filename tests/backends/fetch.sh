#!/bin/bash
# usage: fetch.sh FOLDER
# Puts real back ends into FOLDER, or finds that those of this script are there: `otelcol`, an OpenTelemetry Collector built
# of Debian unstable's Go packages, `victoria-metrics`, which takes OTLP, `prometheus`, which keeps exemplars but in Debian
# takes no OTLP, with its `promtool`, `docker-compose`, which checks files without a daemon, and `pprof`, Go's own. About
# three minutes of processor time, 350 MB to keep. Needs Debian's apt (on any release with glibc 2.34), but neither root nor
# a chroot: nothing is installed, packages are unpacked and used in place.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9>"$folder/.lock"
flock 9
made_of=$(cat "$here/fetch.sh" "$here/collector.go" | sha256sum)
[ "$(cat "$folder/.complete" 2>/dev/null)" != "$made_of" ] || exit 0
rm -f "$folder/.complete"
work=$folder/work
rm -rf "$work" # of one that was interrupted
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/debs" "$work/root"

mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/*.sources 2>/dev/null || true)
[ -n "$mirror" ] || mirror=$(awk '$1 == "deb" {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}' /etc/apt/sources.list)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$work/sources.list"
: >"$work/status" # as if nothing was installed
apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State=$work" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work"
    -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false)
"${apt[@]}" update

# What the collector is built of, with all it depends on, as far as it is Go: neither a libc nor a shell.
mapfile -t packages < <("${apt[@]}" install --print-uris --no-install-recommends \
    golang-go golang-opentelemetry-collector-dev | awk '{print $2}' | sed -n 's/^\(golang-[^_]*\)_.*/\1/p')
(cd "$work/debs" && "${apt[@]}" download "${packages[@]}" docker-compose prometheus promtool victoria-metrics)
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
cp "$work/root/usr/bin/"{prometheus,promtool,victoria-metrics} "$folder/"
cp "$work/root/usr/libexec/docker/cli-plugins/docker-compose" "$folder/"

mkdir -p "$work/collector"
cp "$here/collector.go" "$work/collector/main.go"
goroot=$(echo "$work"/root/usr/lib/go-*)
build() {
    env GO111MODULE=off GOROOT="$goroot" GOPATH="$work/root/usr/share/gocode" GOTELEMETRY=off CGO_ENABLED=0 \
        GOCACHE="$work/gocache" "$goroot/bin/go" build -trimpath -ldflags '-s -w' -o "$@"
}
(cd "$work/collector" && build "$folder/otelcol" .)
build "$folder/pprof" cmd/pprof
"$folder/otelcol" components | grep -A 1 ^receivers
"$folder/prometheus" --version | head -n 1
"$folder/promtool" --version | head -n 1
"$folder/docker-compose" version
rm -rf "$work"
echo "$made_of" >"$folder/.complete"
