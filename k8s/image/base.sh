#!/usr/bin/env bash
# k8s/image/base.sh NAME: the image NAME on which the Dockerfile builds where no registry is at hand: Debian bookworm's
# minimal system with Python 3.11, by debootstrap, with the security updates of today. Needs root. Packages come from
# where this machine's apt gets bookworm's, or else from debootstrap's own default. Nothing of it stays in the product's
# image but Python, the libraries that it loads, and the certificate authorities.
set -euo pipefail
name=$1
suite=bookworm
# debootstrap resolves no virtual packages: distutils and lib2to3 are asked for by name
packages=ca-certificates,python3.11,python3.11-venv,python3-distutils,python3-lib2to3

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
log=$work/log

sources() { # "deb URI SUITE main" of this machine for the suite, its updates and its security updates
    { apt-get indextargets --format '$(CREATED_BY) $(REPO_URI) $(RELEASE) $(COMPONENT)' 2>/dev/null || true; } |
        awk -v suite="$suite" '$1 == "Packages" && $4 == "main" && ($3 == suite || index($3, suite "-") == 1) \
            && $2 ~ /debian/ { print "deb", $2, $3, "main" }' | sort -u
}
inside() {
    DEBIAN_FRONTEND=noninteractive chroot "$root" "$@" >>"$log" 2>&1 || { tail -n 20 "$log" >&2; return 1; }
}

mirror=$(sources | awk -v suite="$suite" '$3 == suite && !found++ { print $2 }')
echo "base: debootstrap $suite"
debootstrap --variant=minbase --include="$packages" "$suite" "$root" ${mirror:+"$mirror"} >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; exit 1; }
if [[ -n $(sources) ]]; then
    sources >"$root/etc/apt/sources.list"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    inside apt-get -qq update
    inside apt-get -qq -y --no-install-recommends dist-upgrade
    rm -f "$root/etc/resolv.conf" "$root/etc/apt/sources.list"
fi
rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root"/var/log/*
echo "base: $(chroot "$root" python3 -V), $(du -sh "$root" | cut -f 1)"

container=$(buildah from scratch)
trap 'buildah rm "$container" >/dev/null; rm -rf --one-file-system "$work"' EXIT
tar -C "$root" --one-file-system -c . >"$work/root.tar"
buildah add --quiet "$container" "$work/root.tar" / >/dev/null
buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 "$container"
buildah commit --quiet "$container" "$name" >/dev/null
