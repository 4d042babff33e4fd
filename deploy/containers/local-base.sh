#!/bin/sh
# A base image for takt without any image registry: Debian with Python 3, made by
# debootstrap from the Debian mirror that this machine uses.
#
#   TAKT_BASE_IMAGE=$(deploy/containers/local-base.sh [NAME] | tail -n 1)
#
# The image's name (takt-base by default) is the last line of stdout. An image of
# that name which is there already is kept; TAKT_BASE_FRESH=1 makes it anew. Needs
# root, debootstrap and a Docker engine. Where the site has its own certificate
# authority, this machine's certificates go into the image and pip is told of them.
#
# Settings (environment): TAKT_BASE_SUITE (bookworm), TAKT_BASE_MIRROR (the one of
# this machine's apt, else debootstrap's own), DOCKER (docker).
set -eu

say() { printf 'local-base: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

name=${1:-takt-base}
suite=${TAKT_BASE_SUITE:-bookworm}
docker=${DOCKER:-docker}
certificates=/etc/ssl/certs/ca-certificates.crt

command -v "$docker" >/dev/null || die "needs $docker; fix: apt-get install docker.io"
$docker info >/dev/null 2>&1 || die "no Docker engine answers; fix: start it"
if [ -z "${TAKT_BASE_FRESH-}" ] && $docker image inspect "$name" >/dev/null 2>&1; then
    say "$name is there already; TAKT_BASE_FRESH=1 makes it anew"
    echo "$name"
    exit 0
fi
command -v debootstrap >/dev/null ||
    die "needs debootstrap; fix: apt-get install debootstrap"
[ "$(id -u)" = 0 ] || die "debootstrap needs root; fix: sudo $0"

# The first Debian mirror that apt uses here, in either of its formats.
mirror_of_apt() {
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
        sed -n 's/^deb \(\[[^]]*\] *\)\{0,1\}\([^ ]*\) .*/\2/p'
    cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n 's/^URIs: *\([^ ]*\).*/\1/p'
}
mirror=${TAKT_BASE_MIRROR:-$(mirror_of_apt | grep -v security | head -n 1)}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
say "debootstrap of $suite, about a minute"
debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-venv "$suite" "$root/fs" ${mirror:+"$mirror"} \
    >"$root/log" 2>&1 || die "debootstrap failed: $(tail -n 1 "$root/log")"

if [ -s "$certificates" ]; then
    cp "$certificates" "$root/fs$certificates"
    printf '[global]\ncert = %s\n' "$certificates" >"$root/fs/etc/pip.conf"
fi
# What a container never needs.
rm -rf "$root"/fs/var/cache/apt/archives/*.deb "$root"/fs/var/lib/apt/lists/* \
    "$root"/fs/usr/share/doc/* "$root"/fs/usr/share/man/* "$root"/fs/usr/share/locale/*

tar -C "$root/fs" -c . |
    $docker import --change 'CMD ["/bin/sh"]' - "$name" >/dev/null
say "made $name"
echo "$name"
