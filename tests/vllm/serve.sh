#!/bin/bash
# Serve the tiny model with the vLLM that install.sh made, on 127.0.0.1 only, until SIGTERM or SIGINT.
#
#   serve.sh PORT [ENVIRONMENT] [further `vllm serve` arguments...]
#
# ENVIRONMENT defaults to .venv-vllm at the project's root. VLLM_TEST_MODEL names another model there. GET /health
# answers 200 when it is ready.
set -euo pipefail

usage="usage: serve.sh PORT [ENVIRONMENT] [vllm serve arguments...]"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
port=${1:?$usage}
environment=${2:-$root/.venv-vllm}
shift $(($# < 2 ? $# : 2))

model=$environment/${VLLM_TEST_MODEL:-tiny-model}
if [ ! -f "$model/config.json" ]; then
  echo "no vLLM in $environment: run tests/vllm/install.sh $environment" >&2
  exit 1
fi

export PATH="$environment/bin:$PATH"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_HOST_IP=127.0.0.1
export VLLM_TARGET_DEVICE=cpu
# GiB. The tiny model needs 512 bytes a token, so this holds two million of them.
export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
# More threads than this only wait for each other: the model is too small to share out.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# The worker inside the engine's process ("uni", below) is accepted on a CPU only with this: 0.5 GB and 10 s less.
export VLLM_ENABLE_V1_MULTIPROCESSING=0

# No chunked prefill: on a CPU, vLLM 0.32.0 dies of a seeded request whose prompt it takes in parts
# ("CPU Generator does not use offset").
# processed_logprobs: of what the grammar leaves, for random weights put next to nothing on digits.
# disable_any_whitespace: random weights, allowed whitespace between JSON tokens, would write nothing else.
exec vllm serve "$model" \
  --host 127.0.0.1 --port "$port" --served-model-name tiny \
  --dtype bfloat16 --max-model-len 8192 --max-num-seqs 64 \
  --no-enable-chunked-prefill --max-num-batched-tokens 8192 \
  --enforce-eager --distributed-executor-backend uni \
  --enable-prefix-caching --enable-prompt-tokens-details --logprobs-mode processed_logprobs \
  --scheduling-policy priority --enable-request-id-headers \
  --structured-outputs-config '{"backend":"xgrammar","disable_any_whitespace":true}' \
  --disable-uvicorn-access-log \
  "$@"
