# shellcheck shell=bash
# Debians of their own to work in, for the scripts beside this file that source
# it after common.sh.  They are kept here, to be used again.
debians=${CHATWEBHOOK_MATRIX:-${XDG_CACHE_HOME:-$HOME/.cache}/chatwebhook/matrix}

# End the script, unless root runs it.
need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "only root can make a Debian and change into it" >&2
        exit 1
    fi
}

# The lines of a sources.list for some suites, by the mirrors that apt uses here.
sources() {
    local suite label uri
    for suite in "$@"; do
        label=Debian
        [ "$suite" = "${suite%-security}" ] || label=Debian-Security
        # apt expands this.
        # shellcheck disable=SC2016
        uri=$(apt-get indextargets --format '$(REPO_URI)' \
            'Identifier: Packages' "Label: $label" | head -n 1)
        if [ -n "$uri" ]; then
            echo "deb $uri $suite main"
        elif [ "$label" = Debian ]; then
            echo "apt knows no mirror of Debian here" >&2
            return 1
        fi
    done
}

# make_debian LOG TARGET "SUITE..." "PACKAGE..." [OPTION...]: have mmdebstrap make
# one of the suites, the main one first, and with the packages.
make_debian() {
    local log=$1 target=$2 suites packages=$4 lines
    read -r -a suites <<<"$3"
    shift 4
    scripts/install-deps matrix && lines=$(sources "${suites[@]}") || return
    rm -rf "$target" "$target.new"
    mkdir -p "$debians"
    # A mirror may have stood still.  No cluster is made or started meanwhile;
    # the hook's shell expands its variable.
    # shellcheck disable=SC2016
    run_logged "$log" mmdebstrap --mode=root --variant=apt "$@" \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --essential-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d" &&
            echo "create_main_cluster = false" \
                >"$1/etc/postgresql-common/createcluster.d/matrix.conf"' \
        --include="${packages// /,}" "${suites[0]}" "$target.new" - <<<"$lines" &&
        mv "$target.new" "$target"
}

# in_debian ROOT COMMAND...: run it with ROOT as / and nothing else of this
# machine, not its processes, network, shared memory or environment.  The mounts
# are the namespace's own, and its end is the end of all that runs in it; that
# comes with the end of the caller, too.
in_debian() {
    # The inner shell expands these.
    # shellcheck disable=SC2016
    setpriv --pdeathsig KILL \
        unshare --mount --pid --net --ipc --uts --fork --kill-child \
        --propagation private sh -euc '
            mount --bind "$1" "$1"
            cd "$1"
            mount -t proc proc proc
            mount -t sysfs sysfs sys
            mount -t tmpfs -o mode=1777 tmpfs dev/shm
            mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
            hostname localhost
            ip link set lo up
            pivot_root . .
            umount -l .
            cd /
            shift
            exec env -i HOME=/root LANG=C.UTF-8 \
                PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                "$@"' sh "$@"
}
