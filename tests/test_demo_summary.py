"""The demo's figures, against numbers worked out by hand."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from slm_adapters import CallStore
from slm_adapters.calls import Call, Message, Reply, ToolCall, Usage
from slm_adapters.demo import summary
from slm_adapters.demo.judge import Answer, answer_of, is_right, problem
from slm_adapters.demo.roles import LOOKUP, REPLY, TRIAGE, expected_lookup, expected_triage
from slm_adapters.demo.summary import CallStats, RoleRow, Share
from slm_adapters.demo.tables import role_table
from slm_adapters.demo.tickets import Ticket, generate

MS = 1_000_000


def call(
    number: int,
    ms: float,
    *,
    role: str = TRIAGE.name,
    text: str | None = None,
    tools: tuple[ToolCall, ...] = (),
    stage: str = "before",
    flow: str = "crewai",
    run_id: str | None = None,
    model: str = "big",
    provider: str = "openai",
    usage: Usage | None = None,
    outcome: str = "finished",
    fallback: str | None = None,
) -> Call:
    """A recorded call that took ``ms`` milliseconds."""
    attributes = {"flow": flow, "stage": stage}
    if fallback:
        attributes["slm_adapters.fallback.reason"] = fallback
    return Call(
        call_id=f"c{number}",
        framework=flow,
        role=role,
        run_id=run_id,
        provider=provider,
        model=model,
        replies=(Reply(Message("assistant", text, tool_calls=tools)),),
        usage=usage,
        started_ns=number * 1000 * MS,
        ended_ns=number * 1000 * MS + int(ms * MS),
        outcome=outcome,
        attributes=attributes,
    )


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson_gives_the_textbook_intervals(right, n, low, high) -> None:
    """Values of the Wilson score interval at 95 %, to four digits."""
    assert summary.wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_percentiles_interpolate_between_the_neighbours() -> None:
    """p50 of four values lies between the middle two; of nothing there is none."""
    assert summary.percentile([4, 1, 3, 2], 50) == 2.5
    assert summary.percentile([10, 20, 30, 40, 50], 95) == pytest.approx(48)
    assert summary.percentile([7], 95) == 7
    assert summary.percentile([], 50) is None


@pytest.fixture
def tickets() -> list[Ticket]:
    """Four tickets, the first two of which name an order."""
    made = generate(40)
    return [t for t in made if t.order][:2] + [t for t in made if not t.order][:2]


def test_the_table_of_a_small_store_is_what_a_hand_computes(tmp_path, tickets) -> None:
    """Two triage calls before, three after of which one fell back: every figure is known."""
    one, two, *_ = tickets
    right, wrong = expected_triage(one), '{"category":"nonsense"}'
    slm = {"stage": "after", "model": "small", "provider": "slm_adapters"}
    with CallStore(tmp_path / "calls.db") as store:
        for each in [
            call(1, 100, text=right, run_id=one.id, usage=Usage(100, 10)),
            call(2, 300, text=wrong, run_id=two.id, usage=Usage(200, 20)),
            call(3, 10, text=right, run_id=one.id, usage=Usage(90, 9), **slm),
            call(4, 500, text=expected_triage(two), run_id=two.id, fallback="overflow", **slm),
            call(5, 400, stage="after", text=expected_triage(two), run_id=two.id,
                 usage=Usage(50, 5)),
        ]:  # fmt: skip
            store.write(each)
        rows = summary.by_role(store, tickets)
        (moved,) = summary.moved(store)
    before, after, fallback = (row for row in rows if row.role == TRIAGE.name)
    assert (before.stats.calls, before.stats.input_tokens, before.stats.output_tokens) == (
        2, 300, 30,
    )  # fmt: skip
    assert before.stats.p50_s == pytest.approx(0.2)
    assert before.stats.p95_s == pytest.approx(0.29)
    assert (before.correct.right, before.correct.n) == (1, 4)

    assert after.local
    assert after.stats.models == ("small",)
    assert after.stats.calls == 2
    assert after.stats.p50_s == pytest.approx(0.01)
    assert after.stats.fallbacks == (("overflow", 1),)
    assert (after.correct.right, after.correct.n) == (2, 4)

    assert (fallback.stage, fallback.correct) == ("fallback", None)
    assert (fallback.stats.calls, fallback.stats.input_tokens) == (1, 50)

    assert (moved.slm_calls, moved.calls) == (1, 2)
    assert (moved.llm_tokens_before, moved.llm_tokens_after) == (330, 55)
    assert moved.calls_share == pytest.approx(0.5)
    assert moved.tokens_share == pytest.approx(1 - 55 / 330)


def test_a_ticket_that_was_never_answered_counts_as_wrong(tickets) -> None:
    """A role with no record at all still has every ticket in its denominator."""
    rows = summary.by_role([call(1, 5, run_id=tickets[0].id, outcome="failed")], tickets)
    by_role = {row.role: row for row in rows}
    assert (by_role[REPLY.name].correct.right, by_role[REPLY.name].correct.n) == (0, 4)
    assert by_role[TRIAGE.name].stats.failed == 1
    assert by_role[TRIAGE.name].stats.p50_s is None


def test_the_same_answer_in_the_other_framework_or_stage_does_not_count(tickets) -> None:
    """Rows see their own framework and stage only."""
    good = expected_triage(tickets[0])
    calls = [
        call(1, 5, flow="crewai", text=good, run_id=tickets[0].id),
        call(2, 5, flow="langgraph", text="no", run_id=tickets[0].id),
    ]
    rows = {(r.flow, r.role): r for r in summary.by_role(calls, tickets)}
    assert rows["crewai", TRIAGE.name].correct.right == 1
    assert rows["langgraph", TRIAGE.name].correct.right == 0


def test_any_store_is_summed_up_per_role_and_model() -> None:
    """Calls without role or model are shown, not lost."""
    calls = [
        call(1, 5, role=None, usage=Usage(1, 1)),
        call(2, 5, usage=Usage(2, 2)),
        call(3, 7, model=None, outcome="failed"),
        call(4, 7, usage=Usage(3, 3)),
    ]
    rows = summary.calls_per_role_and_model(calls)
    assert [(role, model, s.calls, s.failed, s.input_tokens) for role, model, s in rows] == [
        ("Triage", "big", 2, 0, 5),
        ("(no role)", "big", 1, 0, 1),
        ("Triage", "unknown", 1, 1, 0),
    ]


def looked_up(order_id: str) -> ToolCall:
    """The call of the demo's tool."""
    return ToolCall("1", "lookup_order", f'{{"order_id": "{order_id}"}}')


def test_a_look_up_is_right_only_with_the_right_tool_call(tickets) -> None:
    """The right JSON without the call, or after another order's, is not a right look-up."""
    with_order, without = tickets[0], tickets[2]
    good = expected_lookup(with_order)

    def verdict(ticket: Ticket, *ids: str, text: str = good) -> str | None:
        calls = [call(n, 5, role=LOOKUP.name, tools=(looked_up(i),)) for n, i in enumerate(ids)]
        calls.append(call(9, 5, role=LOOKUP.name, text=text))
        return problem(LOOKUP.name, ticket, answer_of(calls))

    assert verdict(with_order, with_order.order_id) is None
    assert verdict(with_order) == "did not call the tool"
    assert verdict(with_order, "another", with_order.order_id) == "looked up another id"
    assert verdict(with_order, with_order.order_id, text="{}") == "not the expected fields"
    assert verdict(without, text=expected_lookup(without)) is None
    assert verdict(without, "X-1", text=expected_lookup(without)) == "looked up another id"


def test_json_may_be_spaced_and_ordered_differently() -> None:
    """Equality of values, not of characters."""
    (ticket,) = generate(1)
    spaced = expected_triage(ticket).replace(",", ", \n")
    assert is_right(TRIAGE.name, ticket, Answer(spaced))
    assert problem(TRIAGE.name, ticket, Answer(f"Here it is: {spaced}")) == "not JSON"
    other = spaced.replace(f'"{ticket.priority}"', '"whenever"')
    assert problem(TRIAGE.name, ticket, Answer(other)) == "wrong priority"


def test_replies_pass_simple_checks_of_language_order_and_status() -> None:
    """The reply must be in the ticket's language and name the order and its status."""
    tickets = [t for t in generate(200) if t.order]
    english = next(t for t in tickets if t.language == "en" and t.order["status"] == "in transit")
    japanese = next(t for t in tickets if t.language == "ja" and t.order["status"] == "delivered")
    order, order_ja = english.order_id, japanese.order_id

    def verdict(ticket: Ticket, text: str) -> str | None:
        return problem(REPLY.name, ticket, Answer(text))

    assert verdict(english, f"Order {order} is on its way.") is None
    assert verdict(english, f"注文{order}は輸送中です。") == "wrong language"
    assert verdict(english, "It is in transit.") == "does not name the order"
    assert verdict(english, f"Order {order}: we look into it.") == "does not name the status"
    assert verdict(english, "") == "no answer"
    assert verdict(japanese, f"ご注文{order_ja}は配達済みです。") is None
    assert verdict(japanese, f"Order {order_ja} was delivered.") == "wrong language"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_loses_nothing_on_a_narrow_terminal(width) -> None:
    """With hundreds of tickets every cell is whole at 80 columns, the last one included."""
    stats = CallStats(345, 0, 151_693, 10_305, 0.146, 1.2, (("overflow", 7),), ("bundled",))
    row = RoleRow(
        "crewai", "after", "Order look-up", stats, Share(200, 200, 0.981, 1.0), (0.1,), True
    )
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(role_table([row], "crewai"))
    text = console.export_text()
    for cell in ("Order look-up", "bundled", "345", "151,693", "10,305", "200/200 100.0 %", "7"):
        assert cell in text, text
    assert max(map(len, text.splitlines())) <= width
