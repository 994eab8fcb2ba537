"""Demo tickets: deterministic, true to their text, and held out for real."""

import json
import re

import pytest

from slm_adapters.demo import roles, wordings
from slm_adapters.demo.tickets import (
    CATEGORIES,
    PRIORITIES,
    generate,
    order_database,
    read,
    write,
)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_same_seed_same_tickets(split):
    tickets = generate(50, seed=4, split=split)
    assert generate(50, seed=4, split=split) == tickets
    assert generate(20, seed=4, split=split) == tickets[:20]
    assert generate(50, seed=5, split=split) != tickets


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_truth_is_in_the_text(split):
    for ticket in generate(400, seed=1, split=split):
        assert "{" not in ticket.text
        assert "[" not in ticket.text
        japanese = re.search(r"[ぁ-ん]", ticket.text) is not None
        assert japanese == (ticket.language == "ja")
        if ticket.order:
            assert ticket.order_id in ticket.text
            gone = ticket.order["status"] in ("cancelled", "returned")
            assert (ticket.order["eta"] is None) == gone


def test_all_labels_occur_and_a_third_is_japanese():
    tickets = generate(600, seed=2)
    assert {t.category for t in tickets} == set(CATEGORIES)
    assert {t.priority for t in tickets} == set(PRIORITIES)
    share = sum(t.language == "ja" for t in tickets) / len(tickets)
    assert 0.22 < share < 0.38
    without = sum(t.order is None for t in tickets) / len(tickets)
    assert 0.2 < without < 0.45


def test_splits_share_no_value_and_no_template():
    for language in ("en", "ja"):
        for kind in ("first", "last"):
            names = wordings.NAMES[language]
            assert not set(names["train"][kind]) & set(names["heldout"][kind])
        items = wordings.ITEMS[language]
        assert not set(items["train"]) & set(items["heldout"])
        for problem in wordings.PROBLEMS[language].values():
            for part in ("subject", "body"):
                assert not set(problem["train"][part]) & set(problem["heldout"][part])
        around = wordings.AROUND[language]
        for part in around["train"]:
            # An empty line says nothing, so both may leave a part out.
            assert set(around["train"][part]) & set(around["heldout"][part]) <= {""}
    for kind in ("order", "other", "phone"):
        train, heldout = (wordings.SHAPES[s][kind] for s in ("train", "heldout"))
        assert not set(train) & set(heldout)


def test_heldout_ids_have_shapes_that_training_lacks():
    trained = {shape_of(shape) for shape in wordings.SHAPES["train"]["order"]}
    trained |= {shape_of(shape) for shape in wordings.SHAPES["train"]["other"]}
    ids = [t.order_id for t in generate(500, seed=3) if t.order_id]
    assert len(ids) > 200
    assert not {shape_of(i) for i in ids} & trained


def shape_of(text):
    return re.sub(r"[A-Z]", "A", re.sub(r"\d", "9", text))


def test_folder_round_trip(tmp_path):
    tickets = generate(30, seed=6)
    write(tmp_path / "inbox", tickets)
    assert read(tmp_path / "inbox") == tickets
    assert len(list((tmp_path / "inbox").glob("*.txt"))) == 30


def test_look_up_returns_the_record_or_null():
    tickets = generate(40, seed=7)
    orders = order_database(tickets)
    ticket = next(t for t in tickets if t.order)
    assert json.loads(roles.lookup_order(orders, ticket.order_id)) == ticket.order
    assert roles.lookup_order(orders, "no such order") == "null"


def test_expected_answers_and_their_comparison():
    ticket = next(t for t in generate(40, seed=8) if t.order)
    triage = json.loads(roles.expected_triage(ticket))
    assert list(triage) == ["category", "priority", "language", "order_id"]
    found = json.loads(roles.expected_lookup(ticket))
    assert found == {key: ticket.order[key] for key in ("order_id", "item", "status", "eta")}
    assert roles.same_answer(json.dumps(triage, indent=2), roles.expected_triage(ticket))
    assert not roles.same_answer("{}", roles.expected_triage(ticket))
    assert not roles.same_answer("not JSON", roles.expected_triage(ticket))
    empty = next(t for t in generate(40, seed=8) if not t.order)
    assert set(json.loads(roles.expected_lookup(empty)).values()) == {None}


def test_texts_of_the_roles_name_every_label():
    for label in (*CATEGORIES, *PRIORITIES):
        assert label in roles.TRIAGE.instructions
    assert roles.TOOL_NAME in roles.LOOKUP.instructions
    for role in roles.ROLES:
        assert "{ticket}" in role.description
        assert "{" not in role.system_prompt
