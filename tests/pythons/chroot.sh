#!/bin/bash
# usage: chroot.sh ROOT COMMAND...
# Runs COMMAND in the Debian folder ROOT, in a mount namespace of its own that ends with it; this checkout is /checkout in
# there. Needs root. Certificates, DNS and pip's settings are copies: packages installed in ROOT rewrite /etc/ssl/certs.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
root=$1
shift
mkdir -p "$root/checkout" "$root/etc/ssl/certs"
for file in /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    # By a rename: another chroot.sh may be doing the same.
    if [ -f "$file" ]; then cp -L "$file" "$root$file.$$" && mv -f "$root$file.$$" "$root$file"; fi
done
# shellcheck disable=SC2016
exec unshare --mount --propagation private bash -c '
    root=$1 checkout=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind --read-only /sys "$root/sys"
    mount --bind "$checkout" "$root/checkout"
    exec chroot "$root" /bin/bash -c "cd /checkout && exec \"\$@\"" _ "$@"' _ "$root" "$checkout" "$@"
