# shellcheck shell=sh
# Functions that the scripts in this directory share.  They source this file at
# the top of the tree, after "set -u".

# If make started the script, keep its options from the makes that we start.
unset MAKEFLAGS MFLAGS MAKELEVEL

LOGS=$PWD/log

# Is there such a command?
have() {
    command -v "$1" >/dev/null 2>&1
}

# Run a command as root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# Set PG_CONFIG, unless it is set: to the one in the PATH if it can build
# extensions, otherwise to that of Debian 12's PostgreSQL.
find_postgresql() {
    if [ -z "${PG_CONFIG:-}" ]; then
        PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
        if headers=$(pg_config --includedir-server 2>/dev/null) && [ -f "$headers/postgres.h" ]; then
            PG_CONFIG=$(command -v pg_config)
        fi
    fi
    export PG_CONFIG
}

# run_logged NAME COMMAND...: run a command with its output in the log NAME, and
# show the output only if the command fails.
run_logged() {
    log=$LOGS/$1
    shift
    mkdir -p "$LOGS"
    if ! "$@" >"$log" 2>&1; then
        echo "failed: $*" >&2
        tail -n 100 "$log" >&2
        return 1
    fi
}

# copy_tree DIRECTORY [PATH...]: copy the files that git tracks, or those of them
# at the paths, to the directory.
copy_tree() {
    directory=$1
    shift
    mkdir -p "$directory" || return
    git ls-files -z -- "$@" | tar -c --null -T - | tar -x --no-same-owner -C "$directory"
}

# Make a directory that every user can read, and print its name.
make_scratch() {
    directory=$(mktemp -d /tmp/chatwebhook.XXXXXX) || return
    chmod 755 "$directory" && echo "$directory"
}

# build_and_install [DIRECTORY]: build the extension, or the one in the directory,
# and install it into the PostgreSQL of PG_CONFIG.
build_and_install() {
    directory=${1:-.}
    logs=${1:+$(basename "$1").}
    run_logged "${logs}build.log" make -C "$directory" -j "$(nproc)" with_llvm=no all || return
    echo "built"
    if [ -w "$("$PG_CONFIG" --pkglibdir)" ] && [ -w "$("$PG_CONFIG" --sharedir)/extension" ]; then
        run_logged "${logs}install.log" make -C "$directory" with_llvm=no install || return
    else
        run_logged "${logs}install.log" as_root make -C "$directory" with_llvm=no \
            "PG_CONFIG=$PG_CONFIG" install || return
    fi
    echo "installed into $("$PG_CONFIG" --version)"
}
