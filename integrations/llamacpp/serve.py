"""llama.cpp's HTTP server from a wheel, for machines without a llama-server of their own.

    pip install xllamacpp
    python integrations/llamacpp/serve.py model.gguf --port 8080

It is the same server as `llama-server --jinja`, inside this process, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--alias", help="the name it is served under; else the file's")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--ctx-size", type=int, default=0, help="tokens of all slots; 0: the model's"
    )
    parser.add_argument("--parallel", type=int, default=1, help="slots, which share --ctx-size")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--api-key", help="what callers must send")
    parser.add_argument("--no-jinja", action="store_true", help="no tools, as --no-jinja has it")
    options = parser.parse_args()
    try:
        import xllamacpp
    except ModuleNotFoundError:
        print("llama.cpp is not here: pip install xllamacpp", file=sys.stderr)
        return 1
    # It has nothing to save, and winding it down while it still loads would wait for ever.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    server = xllamacpp.Server(parameters(xllamacpp, options))
    print(f"llama.cpp {xllamacpp.__version__} serves {options.model} at {server.listening_address}")
    threading.Event().wait()
    return 0


def parameters(xllamacpp, options):
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.model_alias = {options.alias or options.model.stem}
    params.hostnames, params.port = [options.host], options.port
    params.n_ctx, params.n_parallel = options.ctx_size, options.parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.use_jinja = not options.no_jinja
    if options.api_key:
        params.api_keys = [options.api_key]
    return params


if __name__ == "__main__":
    sys.exit(main())
