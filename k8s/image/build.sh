#!/usr/bin/env bash
# k8s/image/build.sh [NAME]: builds the Dockerfile into the image NAME (llm-sidecar:VERSION). With a Docker engine by
# `docker build`, on the official Python image. Else by buildah, which needs root and no engine, no registry and no kernel
# feature: the base comes from base.sh, packages are fetched beforehand by this machine's pip, and the build itself asks
# nobody. ENGINE=docker|buildah chooses. The same commit on the same base gives the same layers, byte for byte.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:-llm-sidecar:$(sed -n 's/^__version__ = "\(.*\)"/\1/p' sidecar/__init__.py)}
python=${PYTHON:-.venv/bin/python}
wheels=build/image/wheels-$(sha256sum requirements/image.txt | cut -c 1-12)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --pretty=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

if [[ -z ${ENGINE:-} ]]; then
    ENGINE=buildah
    if command -v docker >/dev/null && docker info >/dev/null 2>&1; then ENGINE=docker; fi
fi
if [[ $ENGINE == docker ]]; then
    exec docker build --build-arg SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" --tag "$name" .
fi
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || {
        echo "make image: neither a Docker engine nor $tool is here (Debian: apt-get install buildah debootstrap)" >&2
        exit 2
    }
done

# The base is made once for this recipe and kept in the machine's image store: `buildah rmi` it for newer packages.
base=${BASE:-localhost/llm-sidecar-base:bookworm-$(sha256sum k8s/image/base.sh | cut -c 1-12)}
buildah inspect --type image "$base" >/dev/null 2>&1 || bash k8s/image/base.sh "$base"

# Wheels for the base's Python and C library, whatever this machine's are. The lock has a hash for each.
if [[ ! -e $wheels/.whole ]]; then
    platforms=()
    for minor in $(seq 36 -1 5); do platforms+=(--platform "manylinux_2_${minor}_$(uname -m)"); done
    mkdir -p "$wheels"
    "$python" -m pip download -qq --disable-pip-version-check --require-hashes --no-deps --only-binary=:all: \
        --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none "${platforms[@]}" \
        --dest "$wheels" --requirement requirements/image.txt
    touch "$wheels/.whole"
fi

before=$(buildah inspect --type image --format '{{.FromImageID}}' "$name" 2>/dev/null || true)
# chroot: neither namespaces of the network nor cgroups are needed, so it works inside a container too
buildah build --quiet --isolation chroot --layers=false --format docker --timestamp "$SOURCE_DATE_EPOCH" \
    --build-arg PYTHON_IMAGE="$base" --build-arg SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
    --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheels --volume "$PWD/$wheels:/wheels:ro" \
    --tag "$name" . >/dev/null
after=$(buildah inspect --type image --format '{{.FromImageID}}' "$name")
# The image that had this name goes, unless it is the same or somebody else has use for it.
[[ -z $before || $before == "$after" ]] || buildah rmi "$before" >/dev/null 2>&1 || true
echo "image: $name ${after:0:12}"
