"""Where a model is, and what its config.json says: no network, no heavy import."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import ModelNotFoundError

__all__ = ["configured_window", "folder_of", "locate", "split_adapter"]

_BUNDLED = Path(__file__).resolve().parent.parent / "models" / "bundled"
#: ``name`` or ``owner/name``, as the hub allows.
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


def locate(name: str) -> str:
    """The folder or hub id a name stands for; raises ``ModelNotFoundError`` if it is neither.

    ``locate("bundled")`` is the folder of the model inside this package.
    """
    if name == "bundled":
        if not (_BUNDLED / "config.json").is_file():
            raise ModelNotFoundError(
                "this installation has no bundled model: install slm-adapters from its wheel."
            )
        return str(_BUNDLED)
    if name.startswith("specialist:"):
        raise ModelNotFoundError(
            f"no specialist {name.removeprefix('specialist:')!r} is registered: "
            "promote one first, or pass a model id or folder."
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"{name} has no config.json: pass the folder of a saved Transformers model."
            )
        return str(folder.resolve())
    if folder.is_absolute() or name.startswith((".", "~")) or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(f"there is no folder {name}: check the path.")
    return name


def split_adapter(name: str) -> tuple[str, str | None]:
    """``"base:adapter"`` as its two parts; other names as they are.

    The form for places that take nothing but a model's name: ``slm/Qwen/Qwen3-1.7B:triage``.
    """
    base, _, adapter = name.partition(":")
    # A Windows drive is no base, and a folder may have a colon in its name.
    if not adapter or len(base) < 2 or base == "specialist" or Path(name).expanduser().is_dir():
        return name, None
    return base, adapter


def configured_window(path: str, revision: str | None = None) -> int | None:
    """``max_position_embeddings`` of a folder or a cached hub model; None when not known."""
    config = _read_config(path, revision)
    for part in (config, config.get("text_config") or {}):
        window = part.get("max_position_embeddings")
        if isinstance(window, int) and window > 0:
            return window
    return None


def folder_of(path: str, revision: str | None = None) -> Path | None:
    """Where the files of a folder or a cached hub model lie; None for one that is not here."""
    return Path(path) if Path(path).is_dir() else _cached_snapshot(path, revision)


def _read_config(path: str, revision: str | None) -> dict[str, Any]:
    folder = folder_of(path, revision)
    try:
        data = json.loads((folder / "config.json").read_text("utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _cached_snapshot(model_id: str, revision: str | None) -> Path | None:
    """The hub cache's folder for a model, found as huggingface_hub lays it out."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    root = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    repository = root / f"models--{model_id.replace('/', '--')}"
    wanted = revision or "main"
    try:
        commit = (repository / "refs" / wanted).read_text("utf-8").strip()
    except OSError:
        commit = wanted
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None
