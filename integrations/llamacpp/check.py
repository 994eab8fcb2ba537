"""Ask a model on a llama.cpp server everything a swapped role needs, as for vLLM.

Exit code 0: all of it works, or no server answered (it says which). 1: something does not.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

START = "docker compose -f integrations/llamacpp/compose.yaml up -d"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["qwen3-4b"], help="its --alias or file name")
    parser.add_argument("--base-url", default="http://localhost:8080/v1")
    options = parser.parse_args()
    return questions().check("llama.cpp", START, options.base_url, options.models)


def questions() -> ModuleType:
    """The questions are the same for every server; they live beside vLLM."""
    path = Path(__file__).parent.parent / "vllm" / "check.py"
    spec = importlib.util.spec_from_file_location("server_questions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
