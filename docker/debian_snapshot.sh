#!/bin/sh
# Let apt take the packages of one day, e.g. 20251101T000000Z, from Debian's archive of all days. Nothing given: of today.
# The archive is the host `snapshot` in the domain of the host `deb` that the image takes its packages from.
set -eu
day=$1
sources=${2:-/etc/apt/sources.list.d/debian.sources}
if [ -z "$day" ]; then exit 0; fi
grep -q '^URIs: http://deb\.[^/]*/debian' "$sources" || { echo "$sources does not look as expected" >&2; exit 1; }
sed -i -E \
    -e "s|^URIs: http://deb\.([^/]*)/(debian[a-z-]*)/?\$|URIs: http://snapshot.\\1/archive/\\2/$day|" \
    -e '/^URIs:/a Check-Valid-Until: no' "$sources"
