"""One real, tiny model under everything at once: crowds, cancellations, failures in every place.

Whatever happens to one request, every waiter is released, every slot is given back, the others
get the reply they would get alone, and the next request is served.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tiny_models import tiny_model

from slm_adapters.calls import Message
from slm_adapters.engine.decoder import Generation
from slm_adapters.engine.engine import ChatRequest, Chunk, Completion
from slm_adapters.engine.loader import load_engine
from slm_adapters.engine.local import LocalEngine
from slm_adapters.engine.patience import Patience
from slm_adapters.engine.sampling import Sampling
from slm_adapters.engine.scheduler import Scheduler
from slm_adapters.engine.ticket import Ticket
from slm_adapters.engine.writer import ReplyWriter
from slm_adapters.errors import (
    CancelledGenerationError,
    ContextOverflowError,
    DeadlineExceededError,
    EmptyReplyError,
    GenerationError,
)

WINDOW = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("stress") / "tiny", window=WINDOW)


@pytest.fixture
def engine(folder) -> LocalEngine:
    made = load_engine(folder, device="cpu", quantization="none")
    assert isinstance(made, LocalEngine)
    made.warm_up()
    return made


def scheduler_of(engine: LocalEngine) -> Scheduler:
    return engine._handle.loaded().scheduler


def ask(text: str, **options: Any) -> ChatRequest:
    options.setdefault("max_tokens", 12)
    return ChatRequest((Message("system", "Be brief."), Message("user", text)), **options)


def is_idle(engine: LocalEngine) -> bool:
    scheduler = scheduler_of(engine)
    until = time.monotonic() + 10
    while scheduler.load != (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    return scheduler.load == (0, 0)


def said(engine: LocalEngine, request: ChatRequest) -> str:
    """The reply's text; a random model's may be empty, and is so every time."""
    try:
        return engine.complete(request).reply.message.text
    except EmptyReplyError as error:
        return str(error)


def together(engine: LocalEngine, requests: list[ChatRequest]) -> list[Any]:
    """All at once; what each said, or the error that ended it."""
    outcomes: list[Any] = [None] * len(requests)

    def run(index: int) -> None:
        try:
            outcomes[index] = said(engine, requests[index])
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a waiter was never released"
    return outcomes


# --- ten thousand requests -------------------------------------------------------------------

TYPED = (CancelledGenerationError, DeadlineExceededError, ContextOverflowError, EmptyReplyError)
THREADS = TASKS = 32
REQUESTS = 157 * (THREADS + TASKS)


def random_request(rng: random.Random) -> tuple[str, ChatRequest]:
    """(what is done with it, the request)"""
    kind = rng.choices(
        ["plain", "stream", "half", "cancel", "deadline", "oversized"], [35, 15, 10, 15, 15, 10]
    )[0]
    text = f"{rng.choice(['Where is my order', 'Please help', '注文はどこ'])} {rng.randint(1, 99)}"
    options: dict[str, Any] = {"max_tokens": rng.randint(1, 6)}
    if rng.random() < 0.3:
        options |= {"temperature": 0.8, "top_p": 0.9, "seed": rng.randint(0, 9)}
    if rng.random() < 0.3:
        options["stop"] = (rng.choice(["a", "order", "。", "no such text"]),)
    if kind == "deadline":
        options["timeout"] = rng.choice([1e-6, 0.001, 0.005, 0.02])
    if kind == "oversized":
        text, options["max_tokens"] = text * 3, WINDOW + rng.randint(0, 500)
    return kind, ask(text, **options)


def ask_in_thread(engine: LocalEngine, rng: random.Random) -> str:
    kind, request = random_request(rng)
    cancel = threading.Event()
    if kind == "cancel":
        if rng.random() < 0.5:
            cancel.set()
        else:
            threading.Timer(rng.random() * 0.01, cancel.set).start()
    if kind not in ("stream", "half"):
        return type(engine.complete(request, cancel)).__name__
    events = engine.stream(request, cancel)
    for event in events:
        if kind == "half":
            events.close()
            return "closed"
        if isinstance(event, Completion):
            return "Completion"
    raise AssertionError("a stream without an end")


async def ask_in_task(engine: LocalEngine, rng: random.Random) -> str:
    kind, request = random_request(rng)
    if kind == "cancel":
        task = asyncio.create_task(engine.acomplete(request))
        await asyncio.sleep(rng.random() * 0.01)
        task.cancel()
        try:
            return type(await task).__name__
        except asyncio.CancelledError:
            return "cancelled"
    if kind not in ("stream", "half"):
        return type(await engine.acomplete(request)).__name__
    events = engine.astream(request)
    async for event in events:
        if kind == "half":
            await events.aclose()
            return "closed"
        if isinstance(event, Completion):
            return "Completion"
    raise AssertionError("a stream without an end")


class Storm:
    """``count`` random requests from all threads and tasks at once, and how they ended."""

    def __init__(self, engine: LocalEngine, count: int, seed: int) -> None:
        self.engine, self.seed, self.each = engine, seed, count // (THREADS + TASKS)
        self.outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self) -> Counter[str]:
        threads = [threading.Thread(target=self._in_thread, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        asyncio.run(asyncio.wait_for(self._all_tasks(), 500))
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a waiter was never released"
        return self.outcomes

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _in_thread(self, number: int) -> None:
        rng = random.Random(f"{self.seed} thread {number}")
        for _ in range(self.each):
            try:
                self._note(ask_in_thread(self.engine, rng))
            except TYPED as error:
                self._note(type(error).__name__)

    async def _all_tasks(self) -> None:
        await asyncio.gather(*(self._in_task(number) for number in range(TASKS)))

    async def _in_task(self, number: int) -> None:
        rng = random.Random(f"{self.seed} task {number}")
        for _ in range(self.each):
            try:
                self._note(await ask_in_task(self.engine, rng))
            except TYPED as error:
                self._note(type(error).__name__)


def resident_mb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(item) is kind for item in gc.get_objects())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's memory counters")
def test_ten_thousand_requests_of_every_kind(engine) -> None:
    """From 32 threads and 32 tasks: all released, nothing leaked, memory flat."""
    before = threading.active_count()
    reference = said(engine, ask("Where is my order?"))
    Storm(engine, 1280, seed=0).run()
    settled = resident_mb()
    started = time.perf_counter()
    outcomes = Storm(engine, REQUESTS, seed=1).run()
    spent = time.perf_counter() - started
    grown = resident_mb() - settled
    print(f"\n{sum(outcomes.values())} requests in {spent:.1f} s, {grown:+.1f} MB: {outcomes}")
    assert sum(outcomes.values()) == REQUESTS > 10_000
    for kind in ("Completion", "closed", "cancelled", *(error.__name__ for error in TYPED[:3])):
        assert outcomes[kind] > 50, kind
    assert is_idle(engine)
    assert (alive(Ticket), alive(Generation)) == (0, 0)
    assert grown < 40
    assert said(engine, ask("Where is my order?")) == reference
    assert threading.active_count() <= before + 2  # the worker, and asyncio's last helper


# --- failures --------------------------------------------------------------------------------

QUESTIONS = [f"question number {number}" for number in range(6)]


@pytest.fixture
def alone(engine) -> dict[str, str]:
    """The reply each question gets without company."""
    return {q: said(engine, ask(q)) for q in QUESTIONS}


def guilty_tokens(engine: LocalEngine) -> list[int]:
    from slm_adapters.engine.writer import encode

    return list(encode(engine._handle.loaded(), ask(QUESTIONS[2])).tokens)


@pytest.fixture(params=["read", "advance", "choose"])
def broken_step(request, engine, alone, monkeypatch) -> None:
    """That step of the decoder raises whenever the guilty request takes part."""
    decoder, guilty = scheduler_of(engine).decoder, guilty_tokens(engine)
    real = getattr(decoder, request.param)

    def step(generations: Any, *arguments: Any) -> Any:
        taking_part = [generations] if isinstance(generations, Generation) else generations
        if any(generation.prompt == guilty for generation in taking_part):
            raise RuntimeError("a secret of the prompt")
        return real(generations, *arguments)

    monkeypatch.setattr(decoder, request.param, step)


def test_a_forward_that_fails_ends_the_guilty_request_alone(engine, alone, broken_step) -> None:
    """Its neighbours in the batch get the reply they get alone; the text of the error is ours."""
    outcomes = together(engine, [ask(question) for question in QUESTIONS])
    for question, outcome in zip(QUESTIONS, outcomes, strict=True):
        if question == QUESTIONS[2]:
            assert type(outcome) is GenerationError
            assert "RuntimeError" in str(outcome)
            assert "secret" not in str(outcome)
        else:
            assert outcome == alone[question]
    assert is_idle(engine)


@pytest.mark.parametrize("method", ["allowed", "accept", "read"])
def test_a_writer_that_fails_ends_its_own_reply(engine, alone, monkeypatch, method) -> None:
    """Wherever in the step it fails."""
    real = getattr(ReplyWriter, method)

    def failing(self: Any, *arguments: Any) -> Any:
        if self._request.messages[-1].text == QUESTIONS[2]:
            raise ZeroDivisionError
        return real(self, *arguments)

    monkeypatch.setattr(ReplyWriter, method, failing)
    outcomes = together(engine, [ask(question) for question in QUESTIONS])
    assert type(outcomes.pop(2)) is GenerationError
    assert outcomes == [alone[question] for question in QUESTIONS if question != QUESTIONS[2]]
    assert is_idle(engine)


class Parrot:
    """The least a writer can be."""

    banned: tuple[int, ...] = ()
    ended = False

    def allowed(self) -> None:
        return None

    def accept(self, token: int) -> bool:
        return True

    def read(self, token: int) -> list[Chunk]:
        return [Chunk(text="x")]


def test_a_receiver_that_fails_has_given_up(engine, alone) -> None:
    """Its slot is free within a step; nobody else notices."""
    delivered: list[Any] = []

    def deliver(chunk: Chunk | None) -> None:
        delivered.append(chunk)
        raise OSError("gone")

    ticket = Ticket(Parrot(), [5, 6, 7], Sampling(), 1000, Patience(), deliver)
    scheduler_of(engine).submit(ticket)
    assert together(engine, [ask(q) for q in QUESTIONS]) == list(alone.values())
    assert is_idle(engine)
    assert ticket.over
    assert isinstance(ticket.error, CancelledGenerationError)
    assert len(delivered) < 5


def test_too_little_memory_for_a_batch_goes_on_one_by_one(engine, alone, monkeypatch) -> None:
    """Kept prefixes are given up first; every reply is complete."""
    decoder = scheduler_of(engine).decoder
    network, real, freed = decoder.network, decoder.network.decode, []

    def decode(tokens: Any, caches: Any) -> Any:
        if len(caches) > 1:
            raise torch.OutOfMemoryError("simulated")
        return real(tokens, caches)

    monkeypatch.setattr(network, "decode", decode, raising=False)
    monkeypatch.setattr(decoder, "free", lambda: freed.append(1))
    assert together(engine, [ask(q) for q in QUESTIONS]) == list(alone.values())
    assert freed


def test_too_little_memory_for_one_reply_is_a_typed_error(engine, alone, monkeypatch) -> None:
    """Then the memory is back, and so is the model."""
    network = scheduler_of(engine).decoder.network

    def decode(tokens: Any, caches: Any) -> Any:
        raise torch.OutOfMemoryError("simulated")

    with monkeypatch.context() as patch:
        patch.setattr(network, "decode", decode, raising=False)
        with pytest.raises(GenerationError, match="outgrew the memory of cpu: lower max_tokens"):
            engine.complete(ask(QUESTIONS[0]))
    assert is_idle(engine)
    assert said(engine, ask(QUESTIONS[0])) == alone[QUESTIONS[0]]


@pytest.mark.parametrize("times", [1, 2])
def test_too_little_memory_for_a_prompt_is_tried_again_once(
    engine, alone, monkeypatch, times
) -> None:
    """After the kept prefixes are gone; the second time it is a typed error."""
    network = scheduler_of(engine).decoder.network
    real, left = network.step, [times]

    def step(tokens: Any, cache: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("simulated")
        return real(tokens, cache)

    monkeypatch.setattr(network, "step", step, raising=False)
    if times == 1:
        assert said(engine, ask(QUESTIONS[1])) == alone[QUESTIONS[1]]
    else:
        with pytest.raises(GenerationError, match="do not fit in the memory"):
            engine.complete(ask(QUESTIONS[1]))
        assert said(engine, ask(QUESTIONS[1])) == alone[QUESTIONS[1]]
    assert is_idle(engine)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_releases_everybody_and_is_replaced(engine, alone, monkeypatch) -> None:
    """Even an exception that ends the thread strands no one."""
    decoder = scheduler_of(engine).decoder
    dead = threading.Event()

    def advance(*_: Any) -> Any:
        dead.set()
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(decoder, "advance", advance)
        outcomes = together(engine, [ask(q) for q in QUESTIONS])
    assert dead.is_set()
    assert all(isinstance(outcome, GenerationError) for outcome in outcomes)
    assert said(engine, ask(QUESTIONS[3])) == alone[QUESTIONS[3]]


# --- traps of other engines ------------------------------------------------------------------


@pytest.fixture
def slow(engine, monkeypatch) -> Iterator[list[float]]:
    """10 ms a step, and when each step was made."""
    network = scheduler_of(engine).decoder.network
    real, steps = network.decode, []

    def decode(tokens: Any, caches: Any) -> Any:
        time.sleep(0.01)
        steps.append(time.monotonic())
        return real(tokens, caches)

    monkeypatch.setattr(network, "decode", decode, raising=False)
    return iter([steps])


@pytest.fixture
def steps(slow) -> list[float]:
    return next(slow)


def test_t39_an_oversized_request_never_reaches_the_worker(engine, alone, steps) -> None:
    """Refused in the caller, before any compute; the reply that runs meanwhile is untouched."""
    answers: list[str] = []
    running = threading.Thread(target=lambda: answers.append(said(engine, ask(QUESTIONS[0]))))
    running.start()
    for _ in range(50):
        with pytest.raises(ContextOverflowError):
            engine.complete(ask("word " * 500))
    running.join(30)
    assert answers == [alone[QUESTIONS[0]]]
    done = len(steps)
    with pytest.raises(ContextOverflowError):
        engine.complete(ask(QUESTIONS[0], max_tokens=WINDOW))
    assert (len(steps), scheduler_of(engine).load) == (done, (0, 0))
    assert said(engine, ask(QUESTIONS[0])) == alone[QUESTIONS[0]]


@pytest.mark.parametrize("waiting", [False, True])
def test_t41_cancelling_releases_the_waiter(engine, steps, waiting) -> None:
    """A reply that runs, and one that still waits for its turn, end with the typed error."""
    crowd = []
    if waiting:
        crowd = [
            threading.Thread(target=lambda: said(engine, ask("x", max_tokens=20)))
            for _ in range(scheduler_of(engine).slots)
        ]
        for thread in crowd:
            thread.start()
        while scheduler_of(engine).load[0] < len(crowd) and any(t.is_alive() for t in crowd):
            time.sleep(0.005)
    cancel = threading.Event()
    threading.Timer(0.05, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(CancelledGenerationError):
        engine.complete(ask("please", max_tokens=150), cancel)
    assert time.monotonic() - started < 5
    for thread in crowd:
        thread.join(60)
    assert is_idle(engine)


def test_t42_results_find_their_own_waiters_with_and_without_a_loop(engine, alone) -> None:
    """No event loop is needed, none is shared, and nobody gets another's answer."""

    async def in_a_loop() -> list[Any]:
        asked = [engine.acomplete(ask(question)) for question in QUESTIONS]
        done = await asyncio.gather(*asked, return_exceptions=True)
        return [str(d) if isinstance(d, EmptyReplyError) else d.reply.message.text for d in done]

    loops: list[Any] = []
    others = [
        threading.Thread(target=lambda: loops.append(asyncio.run(in_a_loop()))) for _ in range(3)
    ]
    for thread in others:
        thread.start()
    plain = together(engine, [ask(question) for question in QUESTIONS])
    for thread in others:
        thread.join(60)
    assert [plain, *loops] == [list(alone.values())] * 4


def test_t43_every_request_is_sampled_its_own_way(engine) -> None:
    """Greedy, seeded and restricted ones side by side: each as it is alone."""
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 1},
        {"temperature": 0.9, "seed": 2},
        {"temperature": 2.0, "top_k": 1},
        {"temperature": 0.7, "top_p": 0.5, "seed": 3},
        {"temperature": 1.5, "top_k": 5, "seed": 1},
    ]
    requests = [ask("Where is my order?", **way) for way in ways]
    alone = [said(engine, request) for request in requests]
    assert together(engine, requests) == alone
    assert alone[3] == alone[0]  # the best of one is greedy
    assert len(set(alone)) >= 4


def test_t51_a_seed_repeats_whoever_else_asks(engine) -> None:
    """Random numbers are a request's own."""
    request = ask("Where?", temperature=1.0, seed=11)
    first = said(engine, request)
    crowd = [request, *(ask(f"{n}", temperature=1.0) for n in range(5)), request]
    outcomes = together(engine, crowd)
    assert outcomes[0] == outcomes[-1] == first == said(engine, request)
