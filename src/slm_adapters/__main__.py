"""``python -m slm_adapters``."""

from .cli import main

main()
