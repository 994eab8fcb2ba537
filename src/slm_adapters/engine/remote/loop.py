"""Answers for callers without an event loop: one daemon thread in the process runs one.

The asynchronous code is the only code that talks to a server; a thread that waits here looks at
its cancel event and gives up a connection that is in the middle of a read.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, TypeVar, cast

from ..patience import Patience

__all__ = ["run", "run_stream"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: tuple[int, asyncio.AbstractEventLoop] | None = None


def run(work: Coroutine[Any, Any, T], cancel: threading.Event | None = None) -> T:
    """The result; setting ``cancel``, or an exception here, ends ``work``."""
    future = asyncio.run_coroutine_threadsafe(work, _running_loop())
    patience = Patience(cancel=cancel)
    try:
        while True:
            try:
                return future.result(patience.nap())
            except TimeoutError:
                if future.done():
                    return future.result()
                patience.check()
    finally:
        future.cancel()


def run_stream(events: AsyncIterator[T], cancel: threading.Event | None = None) -> Iterator[T]:
    """The events, as they come; closing this iterator closes theirs."""
    pieces: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    async def pump() -> None:
        try:
            async with aclosing(cast("Any", events)):
                async for event in events:
                    pieces.put((event, None))
            pieces.put((None, None))
        except BaseException as error:
            pieces.put((None, error))
            raise

    future: Future[None] = asyncio.run_coroutine_threadsafe(pump(), _running_loop())
    patience = Patience(cancel=cancel)
    try:
        while True:
            try:
                event, error = pieces.get(timeout=patience.nap())
            except queue.Empty:
                patience.check()
                continue
            if error is not None:
                raise error
            if event is None:
                return
            yield event
    finally:
        future.cancel()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        # A fork takes the loop along, but not its thread.
        if _loop is None or _loop[0] != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="slm-remote", daemon=True).start()
            _loop = (os.getpid(), loop)
        return _loop[1]
