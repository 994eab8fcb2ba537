"""Ask models on a vLLM server everything a swapped role needs, through the real classes.

Exit code 0: all of it works, or no server answered (it says which). 1: something does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import model_servers


def main() -> int:
    return model_servers.run(
        __file__, __doc__, "vLLM", "http://localhost:8000/v1", "qwen3-4b", "names on the server"
    )


if __name__ == "__main__":
    sys.exit(main())
