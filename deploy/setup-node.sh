#!/bin/sh
# Makes a machine with Ubuntu 24.04 or Debian 12 a node of the cluster: environment, GPU libraries, weights.
# Runs again at every `ray up` and does only what is missing.
set -eu
cd "$(dirname "$0")/.."
chmod 600 ~/.ray/auth_token ~/.config/rushes/database_url

if ! command -v make >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null; then
    # A machine that has just started installs its own updates first.
    sudo apt-get -o DPkg::Lock::Timeout=300 -q update
    sudo apt-get -o DPkg::Lock::Timeout=300 -q -y install make python3-venv
fi
make install

# ctranslate2 wants CUDA 12's cuBLAS beside torch's CUDA 13.
if nvidia-smi -L >/dev/null 2>&1; then
    .venv/bin/uv pip install --quiet --python .venv/bin/python --constraint requirements.lock -e '.[gpu]'
fi

.venv/bin/rushes models warm
