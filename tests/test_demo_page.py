"""The demo's page: well formed, self-contained, honest and escaped, checked without a browser."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from slm_adapters.demo import page
from slm_adapters.demo.report import Example, Report, RoleAnswer
from slm_adapters.demo.roles import ROLES
from slm_adapters.demo.spans import SpanNode
from slm_adapters.demo.summary import FLOWS, STAGES, CallStats, Moved, RoleRow, share
from slm_adapters.demo.tickets import Ticket

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects what a test asks for, and complains about tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> repeats an attribute"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def example(text: str, language: str, *, right: bool) -> Example:
    """A ticket whose triage is right or wrong."""
    ticket = Ticket("t", text, "billing", "low", language, None)
    problem = None if right else "not the expected JSON"
    answers = [RoleAnswer(r.name, "{}", ("A-1",), problem, '{"a":1}') for r in ROLES]
    return Example("crewai", ticket, tuple(answers))


@pytest.fixture
def report() -> Report:
    """A report with every kind of row, a fallback and a hostile ticket."""
    stats = CallStats(20, 1, 1234, 56, 0.2, 0.31, (("overflow", 2),), ("bundled",))
    rows = [
        RoleRow(flow, stage, role.name, stats, share(18, 20), (0.1, 0.2, 0.31), stage == "after")
        for flow in FLOWS
        for role in ROLES
        for stage in STAGES
    ]
    rows.insert(2, RoleRow("crewai", "fallback", "Triage", stats, None, (0.5,), False))
    tree = SpanNode(
        "invoke_workflow Support desk", "internal", 0.5, (), False,
        [SpanNode("chat bundled", "internal", 0.2, ("fell back: overflow",), True)],
    )  # fmt: skip
    return Report(
        llm="stand-in",
        slm="bundled",
        tickets=20,
        japanese=1,
        seed=0,
        processes=2,
        workers=2,
        rows=rows,
        moved=[Moved("crewai", 40, 60, 1000, 300)],
        traces={"crewai": [tree]},
        examples=[
            example("Subject: <script>alert(1)</script>\n\nbody", "en", right=False),
            example("件名: 注文について\n\n本文です。", "ja", right=True),
        ],
        failed={"CrewAI, two roles on the SLM": 1},
        wall_s=12.3,
        peak_mib=345.6,
    )


def test_the_page_is_well_formed_and_asks_for_nothing_outside(report) -> None:
    """Every tag is closed, and no attribute or style names a resource elsewhere."""
    html = page.render(report)
    parsed = Page(html)
    for tag, attributes in parsed.tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed"}
        for name, value in attributes.items():
            assert name not in {"src", "srcset", "action"}, (tag, name)
            if name in {"href", "xlink:href"}:
                assert value.startswith("#"), (tag, value)
    assert "@import" not in html
    assert re.findall(r"url\((?!#)", html) == []
    outside = [u for u in re.findall(r"https?://[^\s\"'<]+", html) if "www.w3.org/" not in u]
    assert outside == []


def test_ids_that_the_page_refers_to_exist_once(report) -> None:
    """Clip paths, marks and captions of the two plots do not collide."""
    html = page.render(report)
    assert page.render(report) == html
    ids = [a["id"] for _, a in Page(html).tags if a.get("id")]
    used = set(re.findall(r'(?:xlink:href="#|url\(#|aria-labelledby=")([\w-]+)', html))
    assert used <= set(ids)
    for name in used:
        assert ids.count(name) == 1, name


def test_texts_of_tickets_are_escaped_and_carry_their_language(report) -> None:
    """A ticket cannot put markup into the page; Japanese is marked as such."""
    html = page.render(report)
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    japanese = [a for a in Page(html).all("pre") if a.get("lang") == "ja"]
    assert japanese
    assert "本文です。" in html


def test_the_tables_can_be_read_without_seeing_them(report) -> None:
    """One caption per table, a scope on every header cell, roles kept where CSS changes display."""
    parsed = Page(page.render(report))
    assert parsed.all("html")[0]["lang"] == "en"
    assert len(parsed.all("table")) == len(parsed.all("caption")) == 2
    assert all(cell.get("scope") in {"row", "col"} for cell in parsed.all("th"))
    assert all(cell.get("role") == "cell" for cell in parsed.all("td"))


def test_the_page_says_what_the_figures_are_not(report) -> None:
    """The stand-in, the reply's simple checks, the failed tickets and the fallbacks are named."""
    text = " ".join("".join(Page(page.render(report)).text).split())
    assert "scripted stand-in, not a model" in text
    assert "no model's latency" in text
    assert "simple checks only" in text
    assert "1 ticket(s) ended in an error and count as wrong" in text
    assert "2 (overflow 2)" in text
    assert "18/20, 90.0 %" in text
    assert "fell back: overflow" in text


def test_a_real_llm_is_not_called_a_stand_in(report) -> None:
    """Nothing on the page speaks of a script when a real LLM was given."""
    html = page.render(dataclasses.replace(report, llm="gpt-4.1-mini"))
    assert "stand-in" not in html
    assert "scripted" not in html.replace(".scripted", "")


def test_the_plots_follow_the_theme(report) -> None:
    """Colours are the page's variables; text stays text, for search and screen readers."""
    parsed = Page(page.render(report))
    assert len(parsed.all("svg")) == 2
    styles = " ".join(a.get("style") or "" for _, a in parsed.tags)
    assert "var(--slm)" in styles
    assert "var(--llm)" in styles
    assert re.findall(r"#0[1-5]0[1-5]0[1-5]", styles) == []
    assert "Order look-up" in parsed.text
