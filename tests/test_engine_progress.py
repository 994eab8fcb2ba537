"""A person at a terminal sees a big model load; nobody else sees anything."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import tiny_model

from slm_adapters.engine import quiet
from slm_adapters.engine.loader import load_engine


class Terminal(io.StringIO):
    """What tqdm asks of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("progress") / "tiny")


def seen(folder: Path, monkeypatch: Any, stderr: io.StringIO, long_load: int) -> str:
    """What a load writes to this stderr."""
    monkeypatch.setattr(quiet, "_LONG_LOAD_BYTES", long_load)
    monkeypatch.setattr(sys, "stderr", stderr)
    load_engine(folder, device="cpu", quantization="none").warm_up()
    return stderr.getvalue()


def test_a_terminal_shows_a_long_load(folder, monkeypatch) -> None:
    """transformers' own bar, and nothing beside it."""
    said = seen(folder, monkeypatch, Terminal(), 1)
    assert "Loading weights: 100%" in said
    assert all(line.startswith("Loading weights") for line in said.split("\r") if line)


def test_neither_a_short_load_nor_a_log_file_shows_any(folder, monkeypatch) -> None:
    """The bundled model's blink needs no bar, and files need no carriage returns."""
    assert seen(folder, monkeypatch, Terminal(), 10**9) == ""
    assert seen(folder, monkeypatch, io.StringIO(), 1) == ""
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    assert not quiet.somebody_waits(None)
