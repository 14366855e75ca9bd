#!/bin/bash
# The entrypoint of the image that scripts/test-image makes in place of the official
# one: that much of its documented behavior as an image built on it depends on.

set -eu

# run_init_files ARGUMENT...: run them while a server with these arguments runs, which
# listens on no address.
run_init_files() {
    local file
    pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@" -c listen_addresses=)" -w start
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh) "$file" ;;
            *.sql) psql -X -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -f "$file" ;;
        esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
}

if [ "$1" = postgres ]; then
    if [ "$(id -u)" -eq 0 ]; then
        mkdir -p "$PGDATA"
        chmod 700 "$PGDATA"
        chown -R postgres "$PGDATA"
        exec gosu postgres "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        POSTGRES_USER=${POSTGRES_USER:-postgres}
        initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=<(echo "${POSTGRES_PASSWORD:?}")
        echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
        run_init_files "${@:2}"
    fi
fi
exec "$@"
