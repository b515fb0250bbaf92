#!/usr/bin/env bash
# Writes the lock files from pyproject.toml. Versions already locked are kept; `scripts/lock.sh --upgrade` takes the newest.
#
#   requirements.lock         what smallhold runs on (with the `hub` extra), every file by hash
#   requirements-dev.lock     what tests, lint and types need on top; nothing that the first file has
#   scripts/llama.lock        the source distribution of llama-cpp-python, which is compiled on the machine
#   scripts/llama-build.lock  what compiling it needs
#
# PyTorch is in none of them: the same version has other hashes as a CPU and as a CUDA build. It is pinned in
# scripts/torch.txt; SMALLHOLD_TORCH_INDEX (an index address or a folder of wheels) says where its CPU build is,
# so that its dependencies can be locked without CUDA's.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
: "${SMALLHOLD_TORCH_INDEX:?set it to an index or a folder that has the CPU build of $(<scripts/torch.txt)}"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

uv=${UV:-$(command -v uv || true)}
if [[ -z $uv ]]; then
    "${PYTHON:-python3}" -m venv "$scratch/uv"
    "$scratch/uv/bin/pip" install --quiet "uv==$UV_VERSION"
    uv=$scratch/uv/bin/uv
fi

if [[ -d $SMALLHOLD_TORCH_INDEX ]]; then
    torch_source=(--find-links "$SMALLHOLD_TORCH_INDEX")
else
    torch_source=(--extra-index-url "$SMALLHOLD_TORCH_INDEX" --index-strategy unsafe-best-match)
fi
echo "$(<scripts/torch.txt)+cpu" >"$scratch/torch-cpu.txt"

# No header of uv's own: it would carry the paths of the machine that made the lock.
compile() {
    "$uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --no-header "$@"
}

# with_header FILE COMMAND...: the old file is uv's preference for versions, so it is put back without its header.
with_header() {
    local file=$1 draft=$scratch/${1##*/}
    shift
    [[ -f $file ]] && cp "$file" "$draft"
    "$@" --output-file "$draft" >/dev/null
    { echo "# Written by scripts/lock.sh; not to be edited by hand."; grep -v '^# Written by' "$draft"; } >"$draft.new"
    mv "$draft.new" "$file"
}

# Every package that the runtime lock has, so that the second lock leaves it out.
runtime_packages() {
    sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package=\1/p' requirements.lock
}

with_header requirements.lock compile pyproject.toml scripts/setup.in --extra hub "${torch_source[@]}" \
    --override "$scratch/torch-cpu.txt" --no-emit-package torch --no-emit-package llama-cpp-python "$@"

mapfile -t locked < <(runtime_packages)
with_header requirements-dev.lock compile pyproject.toml scripts/setup.in --extra hub --extra dev "${torch_source[@]}" \
    --override "$scratch/torch-cpu.txt" --constraint requirements.lock "${locked[@]}" \
    --no-emit-package torch --no-emit-package llama-cpp-python "$@"

grep -o 'llama-cpp-python==[0-9.]*' pyproject.toml >"$scratch/llama.in"
with_header scripts/llama.lock compile "$scratch/llama.in" --no-deps --no-annotate "$@"

# What the source distribution asks for in its [build-system]; `packaging` and `pathspec` come with it.
echo 'scikit-build-core>=0.9.2' >"$scratch/llama-build.in"
with_header scripts/llama-build.lock compile "$scratch/llama-build.in" --no-annotate "$@"
