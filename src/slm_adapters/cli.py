"""The ``slm-adapters`` command: ``demo``, ``calls``, ``fit``, ``version``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .errors import MissingExtraError, ModelNotFoundError, RequestError, SLMAdaptersError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help=(
        "Record the model calls of LangChain and CrewAI agents, and move the narrow ones to small "
        "local models.\n\n"
        "Start with `slm-adapters demo`: a support desk moves two of its three roles to "
        "the model inside this package. It needs no API key and no network.\n\n"
        "Then add `CallRecorder(store=...)` to your own program, let it run, and "
        "see where its calls go: `slm-adapters calls FILE`\n\n"
        "Which model this machine can hold, before you download it: `slm-adapters fit MODEL`"
    ),
)  # fmt: skip


class Framework(StrEnum):
    """Which framework runs the demo's support desk."""

    both = "both"
    crewai = "crewai"
    langgraph = "langgraph"


class Quantization(StrEnum):
    """How the SLM's weights are held."""

    nf4 = "nf4"
    int8 = "int8"
    none = "none"
    auto = "auto"


@app.command()
def demo(
    tickets: Annotated[int, typer.Option(min=1, help="How many support tickets.")] = 200,
    seed: Annotated[int, typer.Option(help="Which tickets are generated.")] = 0,
    framework: Annotated[Framework, typer.Option(help="Run the crew, the graph or both.")] = (
        Framework.both
    ),
    llm: Annotated[
        str | None,
        typer.Option(
            help="The large LLM, such as gpt-4.1-mini (needs its API key). "
            "Without it, a scripted stand-in plays the LLM.",
            show_default="scripted stand-in",
        ),
    ] = None,
    slm: Annotated[
        str, typer.Option(help="The small model: bundled, a local path or a Hugging Face id.")
    ] = "bundled",
    quantization: Annotated[
        Quantization, typer.Option(help="How the small model's weights are held.")
    ] = Quantization.nf4,
    workers: Annotated[int, typer.Option(min=1, help="Tickets at a time in each framework.")] = 1,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Folder of tickets: read if it holds some, else generated into it.",
            show_default="OUTPUT/tickets, generated",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(help="Folder for report.html, demo-calls.db and demo.log; earlier ones go."),
    ] = Path("demo-output"),
    otlp: Annotated[
        str | None,
        typer.Option(
            help="Also send spans to this OTLP endpoint, such as http://localhost:4318.",
            show_default="off",
        ),
    ] = None,
) -> None:
    """Move two roles of a support desk to a small local model, and see what that does.

    Three roles (triage, order look-up, reply writing) work through generated English and Japanese
    tickets, as a CrewAI crew and as a LangGraph graph: first all on a large LLM, then triage and
    look-up on the small model. Prints a table per framework and writes a page.
    """
    from .demo.command import show_demo
    from .demo.settings import Settings
    from .demo.summary import FLOWS

    settings = Settings(
        output=output,
        folder=folder,
        count=tickets,
        seed=seed,
        flows=tuple(flow for flow in FLOWS if framework in (Framework.both, flow)),
        llm=llm,
        slm=slm,
        quantization=quantization.value,
        workers=workers,
        otlp=otlp,
    )
    with _readable_errors():
        show_demo(settings, Console(file=sys.stdout))


@app.command()
def calls(
    store: Annotated[str, typer.Argument(help="A call store: its file, or a database URL.")],
    role: Annotated[str | None, typer.Option(help="Only this role's calls.")] = None,
) -> None:
    """Show what a call store holds: calls, tokens and latency per role and model."""
    from .demo.command import show_calls

    with _readable_errors():
        show_calls(store, role, Console())


@app.command()
def fit(
    model: Annotated[
        str, typer.Argument(help="bundled, a folder, or the Hugging Face id of a cached model.")
    ],
    rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapters.")] = 16,
    adapters: Annotated[
        int, typer.Option(min=0, help="How many adapters share the model, one per role.")
    ] = 0,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Free memory in GB of another machine.",
            show_default="what is free on this one",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda:0, ...", show_default="the GPU if there is one"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the model brings along.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, in bytes.")] = False,
) -> None:
    """Tell whether a model fits this machine: weights, adapters, and the window it can have.

    Only the model's config is read, so nothing big need be there yet. For a model on the Hub, get
    the config first: `hf download Qwen/Qwen3-1.7B config.json`

    The **cache** is what a conversation takes beside the weights: it grows with every token of
    prompt and reply. Layers with a sliding window or a state of fixed size stop growing. A window
    **fits** when its cache takes no more than half of the memory the weights leave free, the
    other half being for computing and for conversations beside it. The row marked * is what
    `SLM(MODEL)` chooses by itself.
    """
    from .engine.fit import fit as compare
    from .fit_table import print_fit, print_json

    free = None if memory is None else int(memory * 1e9)
    with _readable_errors():
        found = compare(
            model,
            rank=rank,
            adapters=adapters,
            device=device,
            memory=free,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        print_json(found, Console())
    else:
        print_fit(found, rank=rank, adapters=adapters, console=Console())


@app.command()
def version() -> None:
    """Print the version."""
    from . import __version__

    Console().print(f"slm-adapters {__version__}", highlight=False)


def main() -> None:
    """Run the command line."""
    app()


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """An error of ours becomes one sentence: exit code 2 for wrong input, 1 for the rest."""
    try:
        yield
    except SLMAdaptersError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        raise typer.Exit(2 if isinstance(error, _WRONG_INPUT) else 1) from None


_WRONG_INPUT = (MissingExtraError, ModelNotFoundError, RequestError)
