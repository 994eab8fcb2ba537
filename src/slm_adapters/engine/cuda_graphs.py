"""Kernels launched together: run once one by one, from then on captured and replayed."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

__all__ = ["Graphs"]

#: A graph of 1,500 kernels takes about 2 MB.
_MOST = 64

#: By device, of models that are gone: what cuBLAS keeps for a stream, it keeps for good.
_idle_streams: defaultdict[str, list[Any]] = defaultdict(list)

logger = logging.getLogger("slm_adapters.load")


class Graphs:
    """CUDA graphs by key; what they read and write must stay where it is.

    The first run of a key launches its kernels one by one, which compiles them and gives the
    result at once; the second captures. On a device without graphs all runs are like the first.
    The graphs used last stay, as many as there is room for.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._works = device.type == "cuda"
        self._pool: Any = None
        self._stream: Any = None
        if self._works:
            self._stream = _stream(device)
            weakref.finalize(self, _idle_streams[str(device)].append, self._stream)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Launches of this thread run beside other threads' work, and have ended afterwards.

        On the stream of the captures, so that cuBLAS needs room for one stream, not two.
        """
        import torch

        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do what ``work`` launches."""
        graph = self._graphs.get(key)
        if graph is None and self._works and key in self._seen:
            graph = self._captured(key, work)
        if graph is None:
            self._seen.add(key)
            work()
        else:
            self._graphs.move_to_end(key)
            graph.replay()

    def _captured(self, key: Hashable, work: Callable[[], None]) -> Any:
        import torch

        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            here = torch.cuda.current_stream(self._device)
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                # Other threads may use the device as they like meanwhile.
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
            here.wait_stream(self._stream)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.debug("no CUDA graphs on %s: %r", self._device, error)
            self._works = False
            return None
        self._graphs[key] = graph
        if len(self._graphs) > _MOST:
            self._seen.discard(self._graphs.popitem(last=False)[0])
        return graph


def _stream(device: Any) -> Any:
    import torch

    idle = _idle_streams[str(device)]
    with contextlib.suppress(IndexError):
        return idle.pop()
    stream: Any = torch.cuda.Stream
    return stream(device)
