# shellcheck shell=bash
# Functions to make Debian systems and work inside them.  Scripts in this directory
# source this file after common.sh.

# The systems are kept here for later runs.
debians=${CHATWEBHOOK_MATRIX:-${XDG_CACHE_HOME:-$HOME/.cache}/chatwebhook/matrix}

# Exit unless root runs the script.
need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "only root can make a Debian system and run commands in it" >&2
        exit 1
    fi
}

# Print the lines of a sources.list for some suites, with the mirrors that apt uses here.
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
            echo "apt has no Debian mirror configured" >&2
            return 1
        fi
    done
}

# make_debian LOG TARGET "SUITE..." "PACKAGE..." [OPTION...]: make a system with
# mmdebstrap, from the suites (the main one first) and with the packages.
make_debian() {
    local log=$1 target=$2 suites packages=$4 lines
    read -r -a suites <<<"$3"
    shift 4
    scripts/install-deps matrix && lines=$(sources "${suites[@]}") || return
    rm -rf "$target" "$target.new"
    mkdir -p "$debians"
    # A mirror may be out of date.  The hook keeps packages from creating or
    # starting a cluster; its own shell expands the variable.
    # shellcheck disable=SC2016
    run_logged "$log" mmdebstrap --mode=root --variant=apt "$@" \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --essential-hook='mkdir -p "$1/etc/postgresql-common/createcluster.d" &&
            echo "create_main_cluster = false" \
                >"$1/etc/postgresql-common/createcluster.d/matrix.conf"' \
        --include="${packages// /,}" "${suites[0]}" "$target.new" - <<<"$lines" &&
        mv "$target.new" "$target"
}

# suites_of VERSION: print the suites that have a major version of PostgreSQL, the main
# one first.
suites_of() {
    case $1 in
        15) echo bookworm ;;
        17) echo trixie ;;
        18) echo sid ;;
        19) echo sid experimental ;;
        *) return 1 ;;
    esac
}

# in_debian ROOT COMMAND...: run a command with ROOT as /, in namespaces of its own
# for mounts, processes, network, and shared memory, and with an empty environment.
# When the command or the caller ends, everything that it started ends, too.
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
