#!/bin/sh
# Write docker/.env, which docker/compose.yaml reads: a random password for the database, and who you are. Once.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "docker/.env is there already; remove it, and the volume of the database, to make a new one" >&2
    exit 1
fi
umask 077
password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
cat > .env <<END
PLASTICINE_DB_PASSWORD=$password
PLASTICINE_UID=$(id -u)
PLASTICINE_GID=$(id -g)
END
mkdir -p ../work
