"""What is known of a model server: its kind, its models, their windows, and how it counts.

Shared by every engine of the same address and key. Nothing is asked before the first call, and
only of servers of which it is known that they answer.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import UnreachableServerError
from .errors import as_error
from .http import Deadline, Http, Rejected
from .request import Dialect, short_name

__all__ = ["Server", "server_at"]

logger = logging.getLogger("slm_adapters")

#: ``owned_by`` in a server's model list -> its provider name.
_OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama_cpp",
    "library": "ollama",
    "organization_owner": "lm_studio",
    "openai": "openai",
    "system": "openai",
}
_PORTS = {11434: "ollama", 1234: "lm_studio"}
#: Of a prompt, enough to see whether it opens a thinking block.
_LAST_TOKENS = 16
#: A server of no kind we know.
_ANY = "openai_compatible"
#: What llama.cpp answers while it loads a model.
_LOADING = 503
#: A version that has no such endpoint, or one that is not open to us. Others are of one request.
_NO_SUCH_ENDPOINT = (401, 403, 404, 405, 501)


@dataclass(slots=True)
class _Model:
    """One name on the server. ``window``: tokens, once the server told; ``base``: of a LoRA."""

    dialect: Dialect = field(default_factory=Dialect)
    window: int | None = None
    base: str | None = None


class Server:
    """One address; ``look`` learns what it lists, ``count`` asks it for a prompt's tokens."""

    def __init__(self, base_url: str, api_key: str | None) -> None:
        self.http = Http(base_url, api_key)
        known = "openai" if self.http.address.endswith("openai.com") else _ANY
        #: ``gen_ai.provider.name``: a guess by address until the server listed its models.
        self.provider = _PORTS.get(self.http.port, known)
        self.listed: tuple[str, ...] = ()
        self._aliases: set[str] = set()
        self._models: dict[str, _Model] = {}
        self._looked: set[str] = set()
        self._counts = True
        self._lock = threading.Lock()

    def model(self, name: str) -> _Model:
        """What is known of one of its models."""
        with self._lock:
            return self._models.setdefault(name, _Model())

    def window(self, name: str) -> int | None:
        """Tokens of prompt and reply, if the server told; a LoRA's are its base's."""
        model = self.model(name)
        if model.window is None and model.base is not None:
            return self.model(model.base).window
        return model.window

    async def look(self, name: str, deadline: Deadline) -> None:
        """Learn the server's kind and the model's window, once; raises if nobody is there."""
        if name in self._looked:
            if self.provider == "ollama":
                await self.learn_window(name, deadline)  # known only once the model is loaded
            return
        known = True
        try:
            listing, software = await self.http.get(f"{self.http.base_url}/models", deadline)
        except Rejected as error:
            if error.status in (401, 403):
                raise as_error(
                    error.status, error.body, model=name, server=self.http.host, sent_tokens=0,
                    max_tokens=None,
                ) from error  # fmt: skip
            listing, software, known = {}, "", error.status != _LOADING
        self._read_list(listing, software)
        if self.provider == "llama_cpp":
            model = self.model(name)
            model.dialect = replace(model.dialect, talks_first=True)
        if await self.learn_window(name, deadline) and known:
            self._looked.add(name)
            self._say_who_answers(name)

    def _read_list(self, listing: Any, software: str) -> None:
        entries = listing.get("data") if isinstance(listing, dict) else None
        entries = [e for e in entries or () if isinstance(e, dict) and e.get("id")]
        self.listed = tuple(str(entry["id"]) for entry in entries)
        self._aliases = {str(name) for entry in entries for name in entry.get("aliases") or ()}
        for entry in entries:
            model = self.model(str(entry["id"]))
            window = entry.get("max_model_len")
            model.window = window if isinstance(window, int) else model.window
            base = entry.get("parent") or None
            model.base = base if isinstance(base, str) else None
            self.provider = _OWNERS.get(str(entry.get("owned_by")), self.provider)
        if "llama.cpp" in software:
            self.provider = "llama_cpp"

    def _say_who_answers(self, name: str) -> None:
        """llama.cpp answers to any name with the one model it has."""
        known = name in self.listed or name in self._aliases
        if self.provider == "llama_cpp" and len(self.listed) == 1 and not known:
            logger.warning(
                "%s has no model %r and answers with %r: use that name, or start it with --alias "
                "if that is the model you mean.",
                self.http.host, short_name(name), short_name(self.listed[0]),
            )  # fmt: skip

    async def learn_window(self, name: str, deadline: Deadline) -> bool:
        """Ask a server of a known kind for a window that its list does not tell.

        False: it is loading the model still, and will tell later.
        """
        find = _WINDOWS.get(self.provider)
        model = self.model(name)
        if self.window(name) is not None or find is None:
            return True
        path, read = find
        try:
            answer, _ = await self.http.get(f"{self.http.root}{path.format(name=name)}", deadline)
        except Rejected as error:
            return error.status != _LOADING
        except UnreachableServerError:
            return True
        with contextlib.suppress(TypeError, AttributeError, KeyError):
            found = read(answer, name)
            model.window = found if isinstance(found, int) and found > 0 else None
        return True

    async def count(self, name: str, body: dict[str, Any], deadline: Deadline) -> int | None:
        """Prompt tokens of a request's body by the server's own tokenizer; None: it has none."""
        counter = _COUNTERS.get(self.provider)
        if counter is None or not self._counts:
            return None
        try:
            return await counter(self.http, name, body, deadline)
        except Rejected as error:
            self._counts = error.status not in _NO_SUCH_ENDPOINT
        except (TypeError, KeyError):
            self._counts = False
        except UnreachableServerError:
            return None
        return None

    async def prompt_end(self, name: str, body: dict[str, Any], deadline: Deadline) -> str | None:
        """How the prompt ends that the server makes of a request's body; None: it does not say."""
        ask = _PROMPTS.get(self.provider)
        if ask is None:
            return None
        with contextlib.suppress(Rejected, UnreachableServerError, TypeError, KeyError):
            return str(await ask(self.http, name, body, deadline))
        return None


def _llama_cpp_window(answer: Any, name: str) -> Any:
    return answer["default_generation_settings"]["n_ctx"]


def _lm_studio_window(answer: Any, name: str) -> Any:
    return answer.get("loaded_context_length") or answer.get("max_context_length")


def _ollama_window(answer: Any, name: str) -> Any:
    """The window a model was loaded with: the default one is far smaller than the model's own."""
    names = {name, f"{name}:latest"}
    loaded = [m for m in answer["models"] if names & {m.get("name"), m.get("model")}]
    return loaded[0].get("context_length") if loaded else None


_WINDOWS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "llama_cpp": ("/props", _llama_cpp_window),
    "lm_studio": ("/api/v0/models/{name}", _lm_studio_window),
    "ollama": ("/api/ps", _ollama_window),
}


async def _vllm_tokens(http: Http, name: str, body: dict[str, Any], deadline: Deadline) -> Any:
    asked = {"model": name, "messages": body["messages"], "add_generation_prompt": True}
    if body.get("tools"):
        asked["tools"] = body["tools"]
    return await http.post(f"{http.root}/tokenize", asked, deadline)


async def _vllm_count(http: Http, name: str, body: dict[str, Any], deadline: Deadline) -> int:
    return int((await _vllm_tokens(http, name, body, deadline))["count"])


async def _vllm_prompt_end(http: Http, name: str, body: dict[str, Any], deadline: Deadline) -> Any:
    tokens = (await _vllm_tokens(http, name, body, deadline))["tokens"][-_LAST_TOKENS:]
    asked = {"model": name, "tokens": tokens}
    return (await http.post(f"{http.root}/detokenize", asked, deadline))["prompt"]


async def _llama_cpp_prompt(http: Http, name: str, body: dict[str, Any], deadline: Deadline) -> Any:
    asked = {"messages": body["messages"]}
    if body.get("tools"):
        asked["tools"] = body["tools"]
    return (await http.post(f"{http.root}/apply-template", asked, deadline))["prompt"]


async def _llama_cpp_count(http: Http, name: str, body: dict[str, Any], deadline: Deadline) -> int:
    prompt = await _llama_cpp_prompt(http, name, body, deadline)
    asked = {"content": prompt, "add_special": True, "parse_special": True}
    return len((await http.post(f"{http.root}/tokenize", asked, deadline))["tokens"])


_COUNTERS = {"vllm": _vllm_count, "llama_cpp": _llama_cpp_count}
_PROMPTS = {"vllm": _vllm_prompt_end, "llama_cpp": _llama_cpp_prompt}

_servers: weakref.WeakValueDictionary[tuple[str, str | None], Server] = (
    weakref.WeakValueDictionary()
)
_servers_lock = threading.Lock()


def server_at(base_url: str, api_key: str | None) -> Server:
    """The one object for an address and key in this process; raises ``ValueError`` for none."""
    with _servers_lock:
        server = _servers.get((base_url, api_key))
        if server is None:
            server = _servers[base_url, api_key] = Server(base_url, api_key)
        return server
