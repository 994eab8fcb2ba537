"""``python -m slm_adapters``."""

from .cli import main

# Guarded: processes that the demo starts import this file again.
if __name__ == "__main__":
    main()
