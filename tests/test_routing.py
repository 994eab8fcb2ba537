"""The router's policy: checks, breaker, stickiness, samples, streams. No framework."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import pickle
import threading
import time
from typing import Any

import pytest
from streams import calls_of

from slm_adapters.calls import Message, Reply, Tool, ToolCall, Usage
from slm_adapters.engine.engine import ChatEngine, ChatRequest, Chunk, Completion
from slm_adapters.errors import (
    CancelledGenerationError,
    ContextOverflowError,
    DeadlineExceededError,
    EmptyReplyError,
    InvalidReplyError,
    ModelLoadError,
    NotAskedError,
    RejectedReplyError,
)
from slm_adapters.routing import (
    Answer,
    Breaker,
    Confident,
    Consistent,
    Copied,
    RoutedEngine,
    Router,
    Within,
)
from slm_adapters.routing.breaker import Circuit, is_a_failure
from slm_adapters.testing import ScriptedModel

LOOK_UP = Tool(
    "look_up",
    "",
    {
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "amount": {"type": "number"},
            "kind": {"enum": ["refund", "status"]},
        },
    },
)
ASKED = ChatRequest((Message("user", "Where is order AB-12?"),), tools=(LOOK_UP,))


def call(**arguments: Any) -> ToolCall:
    return ToolCall("c1", "look_up", json.dumps(arguments))


def answer(said: str | ToolCall, prompt: str = "", **facts: Any) -> Answer:
    """An answer as checks see it; ``facts`` are the engine's attributes."""
    calls = (said,) if isinstance(said, ToolCall) else ()
    message = Message("assistant", None if calls else said, tool_calls=calls)
    attributes = {f"slm_adapters.{name}": value for name, value in facts.items()}
    completion = Completion(Reply(message, "stop"), Usage(1, 1), "m", attributes=attributes)
    messages = (Message("system", "Example: order ZZ-99."), Message("user", prompt))
    return Answer(ChatRequest(messages, tools=(LOOK_UP,)), completion)


# Checks


@pytest.mark.parametrize(
    ("prompt", "arguments", "verdict"),
    [
        ("Where is AB-12?", {"order_id": "AB-12"}, None),
        ("where is ab-12?", {"order_id": "AB-12"}, None),
        ("Where is AB-123?", {"order_id": "AB-12"}, "not_copied"),
        ("Where is XAB-12?", {"order_id": "AB-12"}, "not_copied"),
        ("Where is AB-12?", {"order_id": "ZZ-99"}, "not_copied"),
        ("注文番号AB-12はどこ？", {"order_id": "AB-12"}, None),
        ("注文番号ＡＢ-１２はどこ？", {"order_id": "AB-12"}, None),
        ("東京都へ送って", {"order_id": "東京"}, None),
        ("I paid 1,200 yen", {"amount": 1200}, None),
        ("I paid 12.50 EUR", {"amount": 12.5}, None),
        ("I paid 3 EUR", {"amount": 3.0}, None),
        ("I paid 31 EUR", {"amount": 3}, "not_copied"),
        ("I paid 2.3 EUR", {"amount": 3}, "not_copied"),
        ("I paid 3.2 EUR", {"amount": 3}, "not_copied"),
        ("It is AB-12.", {"order_id": "AB-12", "kind": "refund"}, None),
        ("Nothing here", {"order_id": ""}, None),
        ("a   line\nbreak", {"order_id": "line break"}, None),
    ],
)
def test_copied_values_stand_whole_in_the_prompt(prompt, arguments, verdict) -> None:
    """In any width, case or script; never inside a longer word, never from the system's example."""
    assert Copied()(answer(call(**arguments), prompt)) == verdict


def test_copied_looks_at_named_fields_and_named_roles_only() -> None:
    """Other fields may be composed; an example counts if you say so."""
    made = answer(call(order_id="AB-12", note="made up"), "AB-12")
    assert Copied("order_id")(made) is None
    assert Copied("note")(made) == "not_copied"
    example = answer(call(order_id="ZZ-99"), "hello")
    assert Copied("order_id")(example) == "not_copied"
    assert Copied("order_id", roles=("system",))(example) is None
    assert Copied("city")(answer('{"city": "Köln"}', "Ich wohne in KÖLN.")) is None


@pytest.mark.parametrize(
    ("limits", "fits", "breaks"),
    [
        ({"order_id": r"[A-Z]{2}-\d+"}, "AB-12", "AB-12x"),
        ({"kind": {"refund", "status"}}, "refund", "sale"),
        ({"amount": (0, 500)}, 500, 500.5),
        ({"amount": (0, 500)}, 0, True),
        ({"amount": (0, 500)}, 0, "3"),
        ({"amount": lambda value: value % 2 == 0}, 4, 3),
    ],
)
def test_within_keeps_fields_to_their_limits(limits, fits, breaks) -> None:
    """Sets, ranges, expressions, functions; also inside lists; absent fields are the schema's."""
    (name,) = limits
    assert Within(**limits)(answer(call(**{name: fits}))) is None
    assert Within(**limits)(answer(call(**{name: [fits, breaks]}))) == "out_of_range"
    assert Within(**limits)(answer(json.dumps({"deep": [{name: breaks}]}))) == "out_of_range"
    assert Within(**limits)(answer("no JSON at all")) is None


def test_checks_refuse_settings_that_can_decide_nothing() -> None:
    """At construction, with what to pass."""
    with pytest.raises(TypeError, match="no limit"):
        Within(amount=3)  # type: ignore[arg-type]
    for make in (
        lambda: Consistent(1),
        lambda: Consistent(agreement=0),
        lambda: Consistent(temperature=0),
        lambda: Breaker(failures=0),
    ):
        with pytest.raises(ValueError, match="pass"):
            make()
    with pytest.raises(TypeError, match="callables"):
        Router("copied")  # type: ignore[arg-type]


def test_confidence_is_the_engine_s_and_its_absence_accepts_nothing() -> None:
    """Mean and lowest each have a bound; an engine that says nothing is not sure."""
    sure = answer("x", confidence=0.9, **{"confidence.lowest": 0.2})
    assert Confident(0.8)(sure) is None
    assert Confident(0.95)(sure) == "low_confidence"
    assert Confident(0.8, lowest=0.3)(sure) == "low_confidence"
    assert Confident(0.8)(answer("x")) == "no_confidence"


class Asked(ScriptedModel):
    """A scripted model that says how sure it is when asked to."""

    def stream(self, request, cancel=None):
        for event in super().stream(request, cancel):
            if isinstance(event, Completion) and request.logprobs:
                event.attributes["slm_adapters.confidence"] = 0.5
            yield event


def test_logprobs_are_asked_for_only_when_a_check_wants_them() -> None:
    """They cost a little in every step."""
    engine = Asked(["x"])
    Router().over(engine).complete(ASKED)
    with pytest.raises(RejectedReplyError) as caught:
        Router(Confident(0.6)).over(engine).complete(ASKED)
    assert caught.value.reason == "low_confidence"
    assert [request.logprobs for request in engine.requests] == [False, True]


# Any callable


@pytest.mark.parametrize(
    ("said", "reason"),
    [(None, None), (True, None), ("", None), ("too_long", "too_long"), (False, "my_check")],
)
def test_a_check_is_any_callable(said, reason) -> None:
    """None or True accepts; a text is the reason; False is known by the function's name."""
    seen: list[Answer] = []

    def my_check(of: Answer) -> Any:
        seen.append(of)
        return said

    routed = Router(my_check).over(ScriptedModel(["fine"]))
    if reason is None:
        assert routed.complete(ASKED).reply.message.text == "fine"
    else:
        with pytest.raises(RejectedReplyError) as caught:
            routed.complete(ASKED)
        assert caught.value.reason == reason
        assert caught.value.completion.usage.output_tokens == 1
    assert seen[0].request == ASKED
    assert seen[0].text == "fine"


def test_a_check_that_raises_has_accepted_nothing(caplog) -> None:
    """Its mistake is named in the log once; the answer does not count."""
    routed = Router(lambda answer: answer.no_such_thing).over(ScriptedModel(["x"]))
    with pytest.raises(RejectedReplyError) as caught:
        routed.complete(ASKED)
    assert caught.value.reason == "check_error"


def test_what_is_no_verdict_accepts_nothing(caplog) -> None:
    """A coroutine is true before anybody looked; a number or an object is a mistake."""

    async def later(of: Answer) -> str:
        return "no"

    with pytest.raises(TypeError, match="plain callables"):
        Router(later)  # type: ignore[arg-type]
    for said in (0, 0.9, [], object()):
        with pytest.raises(RejectedReplyError) as caught:
            Router(lambda _, said=said: said).over(ScriptedModel(["x"])).complete(ASKED)
        assert caught.value.reason == "check_error"


async def test_a_sample_that_ends_the_answer_leaves_none_behind() -> None:
    """The other samples stop computing when one is out of time."""
    stopped: list[str] = []

    class Drawn(ScriptedModel):
        async def acomplete(self, request):
            turn = len(self.requests)
            completion = self.complete(request)
            if turn == 1:
                await asyncio.sleep(0.01)
                raise DeadlineExceededError("late")
            try:
                await asyncio.sleep(5 if turn else 0)
            except asyncio.CancelledError:
                stopped.append("stopped")
                raise
            return completion

    with pytest.raises(DeadlineExceededError):
        await Router(Consistent(3)).over(Drawn(["x"])).acomplete(ASKED)
    await asyncio.sleep(0.01)
    assert stopped == ["stopped"]


def test_a_local_model_says_how_sure_it_is(tmp_path) -> None:
    """Mean and lowest probability of the very tokens it wrote, by transformers' own forward."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tiny_models import tiny_model

    folder = tiny_model(tmp_path / "tiny")
    routed = Router(breaker=None).over(folder, device="cpu", quantization="none")
    for number in range(20):  # a random model's reply may be a thought and nothing else
        request = ChatRequest((Message("user", f"order {number}"),), max_tokens=6, logprobs=True)
        with contextlib.suppress(EmptyReplyError):
            completion = routed.complete(request)
            break
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [message.to_openai() for message in request.messages],
        add_generation_prompt=True, return_tensors="pt", return_dict=True,
    )["input_ids"]  # fmt: skip
    values = []
    with torch.inference_mode():
        for _ in range(completion.usage.output_tokens):
            row = model(input_ids=ids).logits[0, -1].log_softmax(-1)
            values.append(float(row.max()))
            ids = torch.cat([ids, row.argmax()[None, None]], dim=1)
    mean, lowest = sum(values) / len(values), min(values)
    said = completion.attributes
    assert said["slm_adapters.confidence"] == pytest.approx(math.exp(mean), rel=1e-3)
    assert said["slm_adapters.confidence.lowest"] == pytest.approx(math.exp(lowest), rel=1e-3)
    plain = Router().over(folder, device="cpu", quantization="none")
    asked = dataclasses.replace(request, logprobs=False)
    assert "slm_adapters.confidence" not in plain.complete(asked).attributes
    with pytest.raises(RejectedReplyError, match="low_confidence"):
        Router(Confident(0.999)).over(folder, device="cpu", quantization="none").complete(request)


def test_the_first_refusal_wins_and_a_long_one_is_cut() -> None:
    """Reasons are words for tables, not texts."""
    with pytest.raises(RejectedReplyError) as caught:
        Router(lambda _: "x" * 500, lambda _: "later").over(ScriptedModel(["x"])).complete(ASKED)
    assert caught.value.reason == "x" * 64


def test_form_is_checked_before_anything_else() -> None:
    """A check never sees a broken call or an answer after a stop word."""
    seen: list[str] = []

    def watch(of: Answer) -> None:
        seen.append(of.text)

    request = ChatRequest((Message("user", "q"),), stop=("\nObservation:",))
    engine = ScriptedModel(["Action: x\nObservation: a lie"])
    assert Router(watch).over(engine).complete(request).reply.message.text == "Action: x"
    assert seen == ["Action: x"]
    with pytest.raises(InvalidReplyError) as caught:
        Router(watch).over(ScriptedModel([ToolCall("1", "rm", "{}")])).complete(ASKED)
    assert caught.value.completion is not None
    with pytest.raises(EmptyReplyError):
        Router(watch).over(ScriptedModel([""])).complete(ASKED)
    assert len(seen) == 1


# Samples


def sampled(*answers: Any) -> ScriptedModel:
    """First the answer, then its samples."""
    return ScriptedModel(list(answers))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("answers", "accepted"),
    [
        (["yes", "Yes", " yes"], True),
        (["yes", "no", "yes"], True),
        (["yes", "no", "no"], False),
        (['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', "x"], True),
        ([call(order_id="A", amount=1), call(amount=1, order_id="A"), "x"], True),
        ([call(order_id="A"), call(order_id="B"), call(order_id="C")], False),
        (["yes", EmptyReplyError("x"), InvalidReplyError("x")], False),
    ],
)
def test_consistency_compares_what_is_said(answers, accepted, asynchronous) -> None:
    """Meaning, not spelling; a sample that fails agrees with nothing."""
    engine = sampled(*answers)
    routed = Router(Consistent(3, agreement=0.6)).over(engine)

    def ask() -> Completion:
        return asyncio.run(routed.acomplete(ASKED)) if asynchronous else routed.complete(ASKED)

    if accepted:
        completion = ask()
        assert completion.attributes["slm_adapters.samples"] == 3
        assert completion.reply.message.tool_calls or completion.reply.message.text
    else:
        with pytest.raises(RejectedReplyError) as caught:
            ask()
        assert caught.value.reason == "inconsistent"
    assert [request.temperature for request in engine.requests] == [0.0, 0.7, 0.7]


def test_samples_are_drawn_at_once_count_their_tokens_and_share_the_deadline() -> None:
    """Side by side for a batching engine; in what is left of the caller's time."""

    class Together(ScriptedModel):
        both = threading.Barrier(2, timeout=5)

        def stream(self, request, cancel=None):
            if request.temperature:
                self.both.wait()
            else:
                time.sleep(0.02)
            yield from super().stream(request, cancel)

    engine = Together(["yes yes"])
    request = ChatRequest((Message("user", "one two three"),), timeout=10, seed=7)
    completion = Router(Consistent(3)).over(engine).complete(request)
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (9, 6)
    assert sorted(asked.seed for asked in engine.requests) == [7, 8, 9]
    assert all(asked.timeout < 10 for asked in engine.requests[1:])


def test_no_samples_are_drawn_for_an_answer_that_is_refused_anyway() -> None:
    """Cheap checks first, in whatever order they were passed; and no time left is a deadline."""
    engine = ScriptedModel(["x"])
    with pytest.raises(RejectedReplyError):
        Router(Consistent(5), lambda _: "no").over(engine).complete(ASKED)
    assert len(engine.requests) == 1
    with pytest.raises(DeadlineExceededError):
        Router(Consistent(5)).over(engine).complete(
            ChatRequest((Message("user", "q"),), timeout=1e-9)
        )


# Streams


class Pieces(ScriptedModel):
    """Notes how far its stream was read."""

    given = 0

    def stream(self, request, cancel=None):
        for event in super().stream(request, cancel):
            self.given += 1
            yield event


class Certain(ScriptedModel):
    """One whose calls a grammar holds to their tools."""

    def stream(self, request, cancel=None):
        for event in super().stream(request, cancel):
            if isinstance(event, Chunk) and event.tool_call:
                event = Chunk(tool_call=dataclasses.replace(event.tool_call, certain=True))
            yield event


async def everything(routed: ChatEngine, asynchronous: bool) -> list[Chunk | Completion]:
    if asynchronous:
        return [event async for event in routed.astream(ASKED)]
    return list(routed.stream(ASKED))


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_stream_is_held_back_only_when_a_check_wants_the_whole(asynchronous) -> None:
    """Without checks the first word comes at once; with them nothing before the verdict."""
    engine = Pieces(["one two three"])
    stream = Router().over(engine).stream(ASKED)
    assert next(stream) == Chunk("one")
    assert engine.given == 1
    events = await everything(Router(lambda _: None).over(engine), asynchronous)
    assert [event.text for event in events[:-1]] == ["one", " two", " three"]
    assert isinstance(events[-1], Completion)
    shown: list[Any] = []
    with pytest.raises(RejectedReplyError):
        for event in Router(lambda _: "no").over(engine).stream(ASKED):
            shown.append(event)
    assert shown == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_streamed_tool_call_is_checked_before_it_is_shown(asynchronous) -> None:
    """Where a fallback stands behind: once a piece is shown, it could not answer any more."""

    def routed(model: ScriptedModel, *checks: Any) -> RoutedEngine:
        return RoutedEngine(model, Router(*checks), gives_way=True)

    good = await everything(routed(ScriptedModel([call(order_id="A")])), asynchronous)
    assert [type(event) for event in good] == [Chunk, Completion]
    assert calls_of(good[:-1]) == good[-1].reply.message.tool_calls
    shown: list[Any] = []
    with pytest.raises(InvalidReplyError):
        async for event in routed(ScriptedModel([call(order_id=3)])).astream(ASKED):
            shown.append(event)
    assert shown == []


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_streamed_tool_call_comes_in_pieces_where_nothing_else_could_answer(
    asynchronous,
) -> None:
    """Or where a grammar holds it to its tool; a check of one's own wants the whole."""
    model = ScriptedModel([[call(order_id="A"), call(order_id="B C")]])
    events = await everything(RoutedEngine(model, Router()), asynchronous)
    assert len(events) == 8
    assert calls_of(events[:-1]) == events[-1].reply.message.tool_calls
    held = Certain([call(order_id="A")])
    events = await everything(RoutedEngine(held, Router(), gives_way=True), asynchronous)
    assert len(events) == 4
    checked = Router(lambda _: None)
    events = await everything(RoutedEngine(held, checked, gives_way=True), asynchronous)
    assert [type(event) for event in events] == [Chunk, Completion]


async def test_an_engine_that_shows_no_pieces_is_streamed_all_the_same() -> None:
    """Its completion has the calls."""

    class Whole(ScriptedModel):
        def stream(self, request, cancel=None):
            yield list(super().stream(request, cancel))[-1]

    events = await everything(RoutedEngine(Whole([call(order_id="A")]), Router()), True)
    assert calls_of(events[:-1]) == events[-1].reply.message.tool_calls


def test_closing_a_routed_stream_closes_the_engine_s_and_judges_nothing() -> None:
    """The model stops; its breaker hears no verdict."""
    closed = threading.Event()

    class Endless(ScriptedModel):
        def stream(self, request, cancel=None):
            try:
                while True:
                    yield Chunk("x")
            finally:
                closed.set()

    router = Router(breaker=Breaker(failures=1))
    stream = RoutedEngine(Endless(["x"]), router, gives_way=True).stream(ASKED)
    next(stream)
    stream.close()
    assert closed.is_set()
    assert router._circuit("scripted").admits()


# Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_circuit_opens_rests_probes_once_and_closes() -> None:
    """Three failures in a row; one probe at a time; a failed probe rests again."""
    clock = Clock()
    circuit = Circuit(Breaker(3, within=60, pause=30), clock)
    circuit.failed()
    circuit.failed()
    circuit.succeeded()
    circuit.failed()
    circuit.failed()
    assert circuit.admits()
    circuit.failed()
    assert not circuit.admits()
    clock.now = 29.9
    assert not circuit.admits()
    clock.now = 30
    assert [circuit.admits() for _ in range(3)] == [True, False, False]
    circuit.failed()
    clock.now = 59
    assert not circuit.admits()
    clock.now = 61
    assert circuit.admits()
    circuit.undecided()
    assert circuit.admits()
    circuit.succeeded()
    assert [circuit.admits() for _ in range(3)] == [True] * 3
    circuit.failed()
    assert circuit.admits()


def test_failures_far_apart_and_late_ones_of_older_calls_do_not_open_it() -> None:
    """The window slides; while it rests, a straggler neither prolongs nor ends the pause."""
    clock = Clock()
    circuit = Circuit(Breaker(2, within=10, pause=30), clock)
    circuit.failed()
    clock.now = 11
    circuit.failed()
    assert circuit.admits()
    clock.now = 12
    circuit.failed()
    assert not circuit.admits()
    clock.now = 40
    circuit.failed()
    clock.now = 42
    assert circuit.admits()


def test_a_probe_that_never_reports_does_not_keep_the_model_away() -> None:
    """A thread may die; another probe follows after a pause."""
    clock = Clock()
    circuit = Circuit(Breaker(1, pause=30), clock)
    circuit.failed()
    clock.now = 30
    assert circuit.admits()
    clock.now = 59
    assert not circuit.admits()
    clock.now = 60
    assert circuit.admits()


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ModelLoadError("x"), True),
        (DeadlineExceededError("x"), True),
        (EmptyReplyError("x"), True),
        (InvalidReplyError("x"), True),
        (RejectedReplyError("m", "r"), False),
        (CancelledGenerationError("x"), False),
        (ContextOverflowError("m", 1, 2, 3), False),
        (NotAskedError("m", "sticky"), False),
        (ZeroDivisionError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_what_says_that_the_model_does_not_work_counts(error, counts) -> None:
    """One odd request, a verdict, or the caller's own doing says nothing of the model."""
    assert is_a_failure(error) is counts


def test_a_resting_model_is_not_asked_when_a_fallback_stands_behind_it() -> None:
    """And is asked as ever when none does: an error then is better than nothing at all."""
    broken = ScriptedModel([ModelLoadError("x")])
    router = Router(breaker=Breaker(failures=2, pause=60))
    routed = RoutedEngine(broken, router, gives_way=True)
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            routed.complete(ASKED)
    with pytest.raises(NotAskedError) as caught:
        routed.complete(ASKED)
    assert caught.value.reason == "circuit_open"
    assert len(broken.requests) == 2
    with pytest.raises(ModelLoadError):
        RoutedEngine(broken, router).complete(ASKED)
    other = RoutedEngine(ScriptedModel(["x"], name="other"), router, gives_way=True)
    assert other.complete(ASKED).model == "other"
    assert RoutedEngine(broken, Router(breaker=None), gives_way=True).router.breaker is None


def test_after_the_pause_one_call_of_many_tries_the_model() -> None:
    """Eight threads at once: one probe."""
    answers: list[Any] = [ModelLoadError("x"), "back"]
    engine = ScriptedModel(lambda request: answers.pop(0) if len(answers) > 1 else answers[0])
    router = Router(breaker=Breaker(failures=1, pause=0.05))
    routed = RoutedEngine(engine, router, gives_way=True)
    with pytest.raises(ModelLoadError):
        routed.complete(ASKED)
    time.sleep(0.06)
    together, outcomes = threading.Barrier(8), []

    def ask() -> None:
        together.wait()
        try:
            router.admit("scripted", ASKED, None, None)
            outcomes.append("asked")
        except NotAskedError:
            outcomes.append("not")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["asked"] + ["not"] * 7
    router.ended("scripted", None)
    assert routed.complete(ASKED).reply.message.text == "back"


# Before, sticky


def test_before_sends_a_request_straight_to_the_fallback() -> None:
    """With its reason, or its name for True; without a fallback nothing is refused unasked."""
    engine = ScriptedModel(["x"])

    def japanese(request: ChatRequest) -> bool:
        return any("ぁ" <= char <= "ん" for char in request.messages[-1].text)

    router = Router(before=japanese)
    routed = RoutedEngine(engine, router, gives_way=True)
    hard = ChatRequest((Message("user", "おねがい"),))
    with pytest.raises(NotAskedError) as caught:
        routed.complete(hard)
    assert caught.value.reason == "japanese"
    assert engine.requests == []
    assert routed.complete(ASKED) is not None
    assert RoutedEngine(engine, router).complete(hard) is not None


def test_sticky_keeps_the_rest_of_a_run_with_the_fallback() -> None:
    """For that role of that run only, and only if the option is on."""
    engine, router = ScriptedModel(["x"]), Router(sticky=True)

    def routed(role: str | None, run: str | None, policy: Router = router) -> RoutedEngine:
        return RoutedEngine(engine, policy, gives_way=True, role=role, run=run)

    routed("triage", "1").gave_way()
    with pytest.raises(NotAskedError) as caught:
        routed("triage", "1").complete(ASKED)
    assert caught.value.reason == "sticky"
    for role, run in [("triage", "2"), ("reply", "1"), ("triage", None)]:
        assert routed(role, run).complete(ASKED) is not None
    routed("triage", None).gave_way()
    assert routed("triage", None).complete(ASKED) is not None
    loose = Router()
    routed("triage", "1", loose).gave_way()
    assert routed("triage", "1", loose).complete(ASKED) is not None


def test_remembered_runs_are_bounded() -> None:
    """A service that runs for months forgets the oldest."""
    router = Router(sticky=True)
    for number in range(10_050):
        router.gave_way("r", str(number))
    assert len(router._left) == 10_000
    assert ("r", "0") not in router._left


def test_a_router_survives_pickling_with_its_policy_and_a_fresh_memory() -> None:
    """Processes of a pool each judge for themselves."""
    router = Router(Copied("a"), Confident(0.9), sticky=True, breaker=None)
    router.gave_way("r", "1")
    again = pickle.loads(pickle.dumps(router))
    assert repr(again) == repr(router)
    assert "Copied('a')" in repr(router)
    assert not again._left


def test_a_routed_engine_is_an_engine_like_the_one_inside() -> None:
    """Name, window, place and counts are the model's."""
    inner = ScriptedModel(["x"], name="inner", context_window=99)
    routed = Router().over(inner)
    assert isinstance(routed, ChatEngine)
    assert (routed.name, routed.context_window, routed.local) == ("inner", 99, True)
    assert routed.count_tokens([Message("user", "a b")]) == 2
