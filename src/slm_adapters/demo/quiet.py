"""Keep the frameworks' own talk off the terminal and out of the user's home: it goes to a log."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TextIO

__all__ = ["quiet"]

#: Read by the frameworks when they are imported.
_ENVIRONMENT = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",  # no .crewai folder in the working directory
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@contextlib.contextmanager
def quiet(
    log: Path, warn: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Send log records, warnings, stdout and stderr to ``log``; our own warnings also to ``warn``.

    ``environment``: further variables, where they are not set. Everything is put back at the end.
    """
    with contextlib.ExitStack() as undo:
        storage = undo.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        variables = {**_ENVIRONMENT, "CREWAI_STORAGE_DIR": storage, **(environment or {})}
        _set_environment(variables, undo)
        out = undo.enter_context(log.open("a", encoding="utf-8", errors="replace"))
        undo.enter_context(contextlib.redirect_stdout(out))
        undo.enter_context(contextlib.redirect_stderr(out))
        _route_logging(out, warn, undo)
        yield


def _set_environment(values: dict[str, str], undo: contextlib.ExitStack) -> None:
    for name, value in values.items():
        before = os.environ.get(name)
        if before is None:
            os.environ[name] = value
            undo.callback(os.environ.pop, name, None)


def _route_logging(out: TextIO, warn: Callable[[str], None], undo: contextlib.ExitStack) -> None:
    root, ours = logging.getLogger(), logging.getLogger("slm_adapters")
    file_handler = logging.StreamHandler(out)
    file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    before, root.handlers = root.handlers, [file_handler]
    undo.callback(setattr, root, "handlers", before)
    undo.callback(root.setLevel, root.level)
    root.setLevel(logging.INFO)
    terminal = _Terminal(warn)
    ours.addHandler(terminal)
    undo.callback(ours.removeHandler, terminal)
    logging.captureWarnings(True)
    undo.callback(logging.captureWarnings, False)


class _Terminal(logging.Handler):
    """Hands our own warnings to the command's console."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn = warn

    def emit(self, record: logging.LogRecord) -> None:
        self._warn(record.getMessage())
