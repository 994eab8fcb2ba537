"""Ask models on an Ollama server everything a swapped role needs, as for vLLM.

Exit code 0: all of it works, or no server answered (it says which). 1: something does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import model_servers


def main() -> int:
    return model_servers.run(
        __file__, __doc__, "Ollama", "http://localhost:11434/v1", "qwen3:4b", "names Ollama lists"
    )


if __name__ == "__main__":
    sys.exit(main())
