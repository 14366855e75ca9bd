# shellcheck shell=sh
# What the scripts beside this file share.  They source it at the top of the
# tree, after "set -u".

# make may have started them; the makes that they start are their own.
unset MAKEFLAGS MFLAGS MAKELEVEL

LOGS=$PWD/log

# Whether there is such a command.
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

# Set PG_CONFIG: the one given, the one in the PATH if it can build
# extensions, else the one of Debian 12's PostgreSQL.
find_postgresql() {
    if [ -z "${PG_CONFIG:-}" ]; then
        PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
        if headers=$(pg_config --includedir-server 2>/dev/null) && [ -f "$headers/postgres.h" ]; then
            PG_CONFIG=$(command -v pg_config)
        fi
    fi
    export PG_CONFIG
}

# run_logged NAME COMMAND...: the output goes to the log NAME, and is shown
# only when the command fails.
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

# copy_tree DIRECTORY [PATH...]: the files that git knows of, or those of them at
# the paths, go there.
copy_tree() {
    directory=$1
    shift
    mkdir -p "$directory" || return
    git ls-files -z -- "$@" | tar -c --null -T - | tar -x --no-same-owner -C "$directory"
}

# Make a directory that every identity can look into, and print its name.
make_scratch() {
    directory=$(mktemp -d /tmp/chatwebhook.XXXXXX) || return
    chmod 755 "$directory" && echo "$directory"
}

# Compile, and install into the PostgreSQL of PG_CONFIG.
build_and_install() {
    run_logged build.log make -j "$(nproc)" with_llvm=no all || return
    echo "built"
    if [ -w "$("$PG_CONFIG" --pkglibdir)" ] && [ -w "$("$PG_CONFIG" --sharedir)/extension" ]; then
        run_logged install.log make with_llvm=no install || return
    else
        run_logged install.log as_root make with_llvm=no "PG_CONFIG=$PG_CONFIG" install || return
    fi
    echo "installed into $("$PG_CONFIG" --version)"
}
