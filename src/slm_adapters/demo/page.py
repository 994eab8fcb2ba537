"""The demo's page: one HTML file without any outside resource."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingExtraError
from . import figures
from .plots import correctness_plot, latency_plot
from .report import SWAPPED, Report

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["check_extras", "render", "write"]


def check_extras() -> None:
    """Raise ``MissingExtraError`` now rather than after minutes of work."""
    for package in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(package)
        except ImportError:
            raise MissingExtraError("the demo's page", package, "demo") from None


def write(report: Report, path: Path) -> None:
    """Render ``report`` into ``path``."""
    path.write_text(render(report), encoding="utf-8")


def render(report: Report) -> str:
    """The page as a string; every text from a ticket or a model is escaped."""
    return _template().render(
        report=report,
        figures=figures,
        swapped=SWAPPED,
        latency_plot=latency_plot(report.rows),
        correctness_plot=correctness_plot(report.rows),
    )


def _template() -> Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
