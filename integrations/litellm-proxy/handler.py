"""What ``custom_provider_map`` in config.yaml names: slm-adapters' provider.

Names of your own go in here: ``register({"triage": "Qwen/Qwen3-1.7B"})`` serves ``slm/triage``.
"""

from slm_adapters.litellm import register

slm = register()
