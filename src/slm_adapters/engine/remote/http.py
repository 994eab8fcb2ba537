"""HTTP to a model server: one connection pool per event loop, deadlines, lines of a stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ...errors import DeadlineExceededError, MissingExtraError, UnreachableServerError

if TYPE_CHECKING:
    import httpx

__all__ = ["KEY_VARIABLE", "Deadline", "Http", "Rejected"]

T = TypeVar("T")

#: The key of copies and other processes; a key given in code is written nowhere.
KEY_VARIABLE = "SLM_ADAPTERS_API_KEY"
_CONNECT_S = 10.0
#: Pauses before connecting again, in seconds: a server that restarts is back soon.
_CONNECT_AGAIN_S = (0.1, 0.4)
#: Below the 5 s after which uvicorn closes an idle connection: no request meets a closing one.
_KEEP_ALIVE_S = 2.0


class Rejected(Exception):  # noqa: N818 - never leaves the engine
    """The server answered a request with an error."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Deadline:
    """What is left of a call's time; connecting and every wait for a piece count."""

    def __init__(self, timeout: float | None, server: str) -> None:
        self._timeout, self._server = timeout, server
        self._end = None if timeout is None else time.monotonic() + timeout

    async def within(self, waiting: Awaitable[T]) -> T:
        """What ``waiting`` gives; raises ``DeadlineExceededError`` when the time is over first."""
        left = None if self._end is None else max(self._end - time.monotonic(), 0.0)
        limit = asyncio.timeout(left)
        try:
            async with limit:
                return await waiting
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise DeadlineExceededError(
                f"the model on {self._server} did not finish within {self._timeout:g} s: raise "
                "timeout=, lower max_tokens, or give the model a fallback=."
            ) from error


class Http:
    """A server's address and the ways to ask it. ``host``: what errors may say of it."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        parts = urlsplit(base_url)
        if "@" in parts.netloc:
            raise ValueError("base_url holds a user or password: pass a key as api_key=.")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f'base_url={base_url!r} is no address: pass one such as "http://localhost:8000/v1".'
            )
        self.address = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.host = f"{self.address}:{self.port}"
        self.base_url = base_url.rstrip("/")
        #: Where a server keeps what is not OpenAI's: the address without /v1.
        self.root = self.base_url.removesuffix("/v1")
        self._key = api_key
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}
        self._lock = threading.Lock()

    async def get(self, url: str, deadline: Deadline) -> tuple[Any, str]:
        """A JSON answer and the server's own name; raises ``Rejected``."""
        return await self._fetch("GET", url, None, deadline)

    async def post(self, url: str, body: dict[str, Any], deadline: Deadline) -> Any:
        """The JSON answer to ``body``; raises ``Rejected``."""
        answer, _ = await self._fetch("POST", url, body, deadline)
        return answer

    async def _fetch(
        self, method: str, url: str, body: dict[str, Any] | None, deadline: Deadline
    ) -> tuple[Any, str]:
        async with self._asked(method, url, body, deadline) as response:
            raw = await self._heard(response.aread(), deadline)
            try:
                return json.loads(raw), response.headers.get("server", "")
            except ValueError as error:
                raise UnreachableServerError(
                    f"{self.host} did not answer in JSON: check that base_url is the address of "
                    "an OpenAI-compatible server."
                ) from error

    @contextlib.asynccontextmanager
    async def lines(
        self, url: str, body: dict[str, Any], deadline: Deadline
    ) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of a streamed answer; leaving the block closes the connection."""
        async with self._asked("POST", url, body, deadline) as response:
            yield self._lines(response, deadline)

    async def _lines(self, response: httpx.Response, deadline: Deadline) -> AsyncIterator[str]:
        # Not httpx's own: it also breaks at U+2028 and the like, which JSON strings may hold.
        chunks, rest = response.aiter_bytes(), b""
        while True:
            chunk = await self._heard(anext(chunks, None), deadline)
            if chunk is None:
                break
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode("utf-8", "replace").rstrip("\r")
        if rest:
            yield rest.decode("utf-8", "replace")

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, url: str, body: dict[str, Any] | None, deadline: Deadline
    ) -> AsyncIterator[httpx.Response]:
        response = await self._send(method, url, body, deadline)
        try:
            if response.status_code != 200:
                raw = await self._heard(response.aread(), deadline)
                raise Rejected(response.status_code, raw.decode("utf-8", "replace"))
            yield response
        finally:
            await response.aclose()

    async def _send(
        self, method: str, url: str, body: dict[str, Any] | None, deadline: Deadline
    ) -> httpx.Response:
        import httpx

        client = self._client()
        key = self._key or os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        for pause in (*_CONNECT_AGAIN_S, None):
            request = client.build_request(method, url, json=body, headers=headers)
            try:
                return await deadline.within(client.send(request, stream=True))
            except httpx.ConnectError as error:
                # Nothing was sent yet, so asking again is safe.
                if pause is None or not _refused(error):
                    raise self._unreachable(error) from error
                await deadline.within(asyncio.sleep(pause))
            except httpx.ConnectTimeout as error:
                raise self._unreachable(error) from error
            except httpx.TransportError as error:
                raise self.broke_off(type(error).__name__) from error
        raise AssertionError("the last attempt returns or raises")

    async def _heard(self, waiting: Awaitable[T], deadline: Deadline) -> T:
        import httpx

        try:
            return await deadline.within(waiting)
        except httpx.TransportError as error:
            raise self.broke_off(type(error).__name__) from error

    def _unreachable(self, error: Exception) -> UnreachableServerError:
        return UnreachableServerError(
            f"no model server answers at {self.host} ({type(error).__name__}): start it, correct "
            "base_url, or give the model a fallback=."
        )

    def broke_off(self, why: str = "it ended") -> UnreachableServerError:
        """The error for an answer that is not whole."""
        return UnreachableServerError(
            f"the connection to {self.host} broke before the answer was whole ({why}): look at "
            "the server's log, or give the model a fallback=."
        )

    def _client(self) -> httpx.AsyncClient:
        """This loop's connections; a pool cannot serve two loops."""
        try:
            import httpx
        except ModuleNotFoundError:
            raise MissingExtraError("base_url=", "httpx", "remote") from None
        loop = asyncio.get_running_loop()
        with self._lock:
            for ended in [other for other in self._clients if other.is_closed()]:
                del self._clients[ended]
            client = self._clients.get(loop)
            if client is None or client.is_closed:
                client = self._clients[loop] = httpx.AsyncClient(
                    timeout=httpx.Timeout(None, connect=_CONNECT_S),
                    limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_S),
                    headers={"User-Agent": "slm-adapters"},
                )
            return client


def _refused(error: BaseException) -> bool:
    """Whether the host itself said that nothing listens there; a wrong name stays wrong."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return True
        if isinstance(cause, OSError) and "refused" in str(cause).lower():
            return True
        cause = cause.__cause__ or cause.__context__
    return "connection attempts failed" in str(error).lower()
