"""How a CUDA forward comes into service: laid out at once, compiled beside what runs, proved.

Kernels are compiled once a machine, for seconds. Until then a model answers with its own forward.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from .adapters import Adapters
from .lean_llama import is_plain_llama

if TYPE_CHECKING:
    from .cuda_llama import CudaLlama
    from .network import TransformersNetwork

__all__ = ["start"]

logger = logging.getLogger("slm_adapters.load")

_Result = TypeVar("_Result")

_PROOF = (1, 5, 2, 7, 3, 4)
#: Threads that compile. They compete with the replies meanwhile for Python's lock.
_COMPILERS = 4


def start(
    model: Any, own: TransformersNetwork, adapters: Adapters | None = None
) -> Future[CudaLlama | None] | None:
    """A CUDA forward in the making, or None where the model's own is the right one.

    The result is None where it gave other logits than ``own``. When this returns, the weights are
    laid out anew, in place.
    """
    if not _fits(model):
        return None
    # In a thread that ends: what cuBLAS allots to a thread goes to the next, the worker.
    with ThreadPoolExecutor(1) as thread:
        laid = thread.submit(_in_mode, model, lambda: _laid_out(model, own, adapters)).result()
    if laid is None:
        return None
    network, expected = laid
    behind = ThreadPoolExecutor(1, "slm-adapters-compile")
    coming = behind.submit(_in_mode, model, lambda: _proved(network, expected))
    behind.submit(_in_mode, model, network.compile_for_adapters)
    behind.shutdown(wait=False)
    return coming


def _in_mode(model: Any, work: Callable[[], _Result]) -> _Result:
    import torch

    with torch.inference_mode(), torch.cuda.device(model.device):
        return work()


def _laid_out(
    model: Any, own: TransformersNetwork, adapters: Adapters | None
) -> tuple[CudaLlama, Any] | None:
    """The network, and the logits that prove it."""
    import torch

    from .cuda_llama import CudaLlama

    try:
        expected = own.step(_PROOF, own.new_cache([])).clone()
        return CudaLlama(model, adapters), expected
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an architecture that only looked familiar
        logger.debug("no CUDA forward for %s: %r", type(model).__name__, error)
        return None


def _proved(network: CudaLlama, expected: Any) -> CudaLlama | None:
    import torch

    try:
        with network.graphs.beside():
            network.compile(_COMPILERS)
            distances = [float((r - expected).float().norm()) for r in _trials(network)]
    except torch.OutOfMemoryError:
        logger.warning(
            "No memory is left for the fast forward on this GPU: replies are slow. "
            "Give the model a smaller context_window=, or the GPU to it alone."
        )
        return None
    except Exception as error:
        logger.debug("no CUDA forward: %r", error)
        return None
    # Random weights, many layers and 16 bits come to 0.05; a mistake to 1.
    if max(distances) <= 0.1 * float(expected.float().norm()):
        return network
    logger.debug("no CUDA forward: other logits (%s)", distances)
    return None


def _trials(network: CudaLlama) -> list[Any]:
    """The proof's last logits: as a prompt, as a step run, captured, and as one of two."""
    results = [network.step(_PROOF, network.new_cache([])).clone()]
    for batch in (1, 1, 2):
        caches = [network.new_cache([]) for _ in range(batch)]
        for cache in caches:
            network.step(_PROOF[:-1], cache)
        results += network.decode(_PROOF[-1:] * batch, caches).clone().unbind()
    return results


def _fits(model: Any) -> bool:
    """Whether this is a plain model of a known class, whole on a GPU that the kernels know."""
    import torch

    if not is_plain_llama(model, "cuda") or importlib.util.find_spec("triton") is None:
        return False
    size = int(model.model.layers[0].self_attn.head_dim)
    return (
        torch.cuda.get_device_capability(model.device) >= (8, 0)
        and model.dtype in (torch.bfloat16, torch.float16)
        and size in (32, 64, 128, 256)
        and model.config.num_attention_heads // model.config.num_key_value_heads <= 64
        and model.config.hidden_size % 64 == 0
    )
