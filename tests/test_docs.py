"""Every Python snippet of the README and the docs runs, as printed, in a new interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_openai import fake_openai

ROOT = Path(__file__).parent.parent
PLACES = ("*.md", "docs/*.md", "integrations/*/*.md", "examples/**/*.md", "src/**/*.md")
PAGES = [page for place in PLACES for page in sorted(ROOT.glob(place))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = re.compile(r"^```(?:py|python3|Python)\b", re.MULTILINE)


def snippets(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


PAGES_WITH_CODE = [page for page in PAGES if snippets(page)]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    """A page's snippets, one after the other, end without an error; hosted models are faked."""
    program = tmp_path / "snippets.py"
    program.write_text("\n".join(snippets(page)), encoding="utf-8")
    with fake_openai('{"category": "damaged"}') as fake:
        done = subprocess.run(
            [sys.executable, str(program)],
            cwd=tmp_path,
            env=os.environ
            | {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": fake.base_url, "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]


def test_the_first_snippet_comes_early() -> None:
    """The README shows the first gesture before line 30."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.index("```python") < 30


def test_no_snippet_hides_from_this_test() -> None:
    """Python code is fenced as ```python, so that it is run."""
    for page in PAGES:
        assert not ELSEWHERE.search(page.read_text(encoding="utf-8")), page
    assert {page.name for page in PAGES_WITH_CODE} >= {"README.md"}
