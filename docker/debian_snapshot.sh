#!/bin/sh
# Let apt take the packages of one day, e.g. 20251101T000000Z, from Debian's archive of all days. Nothing given: of today.
set -eu
day=$1
sources=${2:-/etc/apt/sources.list.d/debian.sources}
if [ -z "$day" ]; then exit 0; fi
grep -q '^URIs: http://deb.debian.org/' "$sources" || { echo "$sources does not look as expected" >&2; exit 1; }
sed -i -E \
    -e "s|^URIs: http://deb.debian.org/(debian[a-z-]*)/?\$|URIs: http://snapshot.debian.org/archive/\\1/$day|" \
    -e '/^URIs:/a Check-Valid-Until: no' "$sources"
