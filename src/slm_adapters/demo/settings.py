"""What to run, who is told about it, and the tickets it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import RequestError, SLMAdaptersError
from .summary import Flow
from .tickets import Ticket, generate, read, write

if TYPE_CHECKING:
    from ..engine.loader import Quantization

__all__ = ["LOG", "STORE", "DemoError", "Progress", "Settings", "tickets_for"]

STORE: Final = "demo-calls.db"
LOG: Final = "demo.log"


class DemoError(SLMAdaptersError):
    """The demo cannot go on; the message says what to change."""

    reason = "demo"


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run. ``llm``: None for the stand-in. ``folder``: tickets to read, or to write.

    ``slm``: a name, a path or an engine; ``workers``: tickets at a time in each framework.
    """

    output: Path
    folder: Path | None = None
    count: int = 200
    seed: int = 0
    flows: tuple[Flow, ...] = ("crewai", "langgraph")
    llm: str | None = None
    slm: Any = "bundled"
    quantization: Quantization = "nf4"
    workers: int = 1
    otlp: str | None = None


class Progress(Protocol):
    """What the runner tells while it works; frameworks may run side by side."""

    def start(self, flow: Flow, title: str, total: int) -> None:
        """A stage of one framework begins; 0: its length is not known."""

    def advance(self, flow: Flow) -> None:
        """One more ticket is done."""

    def warn(self, text: str) -> None:
        """Something of ours did not work; the run goes on."""


def tickets_for(settings: Settings) -> tuple[list[Ticket], int | None]:
    """The tickets and the seed they come from; None for a folder the user brought.

    The tickets go through the folder either way. Raises ``RequestError`` for a folder without any.
    """
    folder = settings.folder or settings.output / "tickets"
    own = settings.folder is not None and folder.is_dir() and any(folder.iterdir())
    try:
        if not own:
            write(folder, generate(settings.count, seed=settings.seed, split="heldout"))
        tickets = read(folder)[: settings.count]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{folder} holds no tickets that can be read ({type(error).__name__}): name an empty "
            "or new folder to have tickets generated there, or one that the demo wrote."
        ) from error
    if not tickets:
        raise RequestError(f"{folder} holds no tickets: name an empty or new folder.")
    return tickets, None if own else settings.seed
