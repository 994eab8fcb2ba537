"""Adapters as PEFT writes them, with random weights large enough to change what a model says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def random_adapter(
    base: str | os.PathLike[str], folder: str | os.PathLike[str], seed: int, **options: Any
) -> Path:
    """A LoRA adapter on all linear layers of the model in ``base``, saved into ``folder``.

    ``options`` go to ``peft.LoraConfig``.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    given = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **given))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=random) * 0.15)
    tuned.save_pretrained(folder)
    return Path(folder)


def peft_model(base: Any, *folders: Path) -> Any:
    """PEFT's own model over a loaded base; the first adapter is active."""
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(base, folders[0], adapter_name=folders[0].name)
    for folder in folders[1:]:
        tuned.load_adapter(folder, adapter_name=folder.name)
    return tuned.eval()
