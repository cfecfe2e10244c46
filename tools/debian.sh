# To be sourced by scripts that fetch packages of Debian without root. apt has folders of its own: the system's
# packages and sources are neither read nor touched. Debian's signature is checked.
#
# The script sets: program (its name in messages), dir (an existing folder, absolute), log (a file).
# WHISPER_NPU_DEBIAN_MIRROR is another mirror, or a day of Debian's archive.
mirror=${WHISPER_NPU_DEBIAN_MIRROR:-http://deb.debian.org/debian}

say() { echo "$program: $*" >&2; }
die() { say "$*"; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || die "needs $1: $2"; }

# The keys that Debian signs its archive with: the system's, or (Ubuntu) its package unpacked here.
find_keyring() {
    for keyring in /usr/share/keyrings/debian-archive-keyring.gpg /usr/share/keyrings/debian-archive-keyring.pgp \
        "$dir"/keyring/usr/share/keyrings/debian-archive-keyring.gpg; do
        [ -r "$keyring" ] && return
    done
    mkdir -p "$dir/keyring"
    (cd "$dir/keyring" && apt-get download debian-archive-keyring && dpkg -x debian-archive-keyring_*.deb .) \
        >>"$log" 2>&1 || true
    [ -r "$keyring" ] || die "no keys to check Debian's signature with: install the package debian-archive-keyring"
}

write_apt_configuration() { # SUITE
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial" "$dir/apt/etc/apt.conf.d" "$dir/apt/etc/preferences.d"
    : >"$dir/apt/status"
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$dir/apt/etc/sources.list"
    cat >"$dir/apt/apt.conf" <<END
Dir::State "$dir/apt";
Dir::State::lists "$dir/apt/lists";
Dir::State::status "$dir/apt/status";
Dir::Cache "$dir/apt";
Dir::Cache::archives "$dir/apt/archives";
Dir::Etc "$dir/apt/etc";
Dir::Log "$dir/apt";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
END
}

apt_get() { APT_CONFIG=$dir/apt/apt.conf apt-get -qq "$@"; }

# Reads the package lists of a suite, which apt_get takes packages from then.
open_suite() { # SUITE
    need apt-get "Debian's package tools; on other systems use a Debian or Ubuntu container"
    need dpkg "Debian's package tools; on other systems use a Debian or Ubuntu container"
    find_keyring
    write_apt_configuration "$1"
    apt_get update >>"$log" 2>&1 || { tail -n 5 "$log" >&2; die "cannot read Debian's package lists from $mirror"; }
}
