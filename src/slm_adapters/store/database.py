"""Calls in a database: SQLite in one file by default, any SQLAlchemy URL (PostgreSQL) beyond it.

Writing happens on one background thread, so an agent never waits for a disk.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import NoSuchModuleError, OperationalError, SQLAlchemyError

from ..calls import Call
from ..errors import StoreError
from ..telemetry.harmless import note_failure, warn_once

__all__ = ["CallStore"]

_metadata = sa.MetaData()
_calls = sa.Table(
    "calls",
    _metadata,
    sa.Column("call_id", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(255), index=True),
    sa.Column("started_ns", sa.BigInteger, index=True),
    sa.Column("framework", sa.String(32)),
    sa.Column("role", sa.Text),
    sa.Column("task", sa.Text),
    sa.Column("provider", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("outcome", sa.String(16)),
    sa.Column("error_type", sa.Text),
    sa.Column("input_tokens", sa.Integer),
    sa.Column("output_tokens", sa.Integer),
    sa.Column("body", sa.Text, nullable=False),
)
_PENDING_LIMIT = 10_000
_BATCH = 200


class CallStore:
    """Every recorded call as a row: ``CallStore("calls.db")``, ``CallStore("postgresql://...")``.

    ``write`` queues and returns at once; ``flush`` waits. A database that cannot be opened raises
    ``StoreError``; one that fails later costs a warning and the calls it could not take, counted
    in ``dropped``. Use as a context manager, or rely on the flush at exit.
    """

    def __init__(self, location: str | Path) -> None:
        self.url = _url(location)
        self.dropped = 0
        self._engine = _open(self.url)
        self._begin()
        _stores.add(self)
        atexit.register(_close_at_exit, weakref.ref(self))

    def write(self, call: Call) -> None:
        """Queue one call; drops it, counted, when 10,000 are waiting."""
        self._start_worker()
        try:
            self._queue.put_nowait(call)
        except queue.Full:
            self._drop(1, "its queue is full")

    def flush(self) -> None:
        """Return when everything queued so far is in the database or counted as dropped."""
        self._queue.join()

    def close(self) -> None:
        """Flush and let go of the database; a later ``write`` opens it again."""
        self.flush()
        self._engine.dispose()

    def calls(self, **equal: str | None) -> Iterator[Call]:
        """The stored calls in order of start; ``calls(role="Triage", model="bundled")`` filters."""
        self.flush()
        unknown = equal.keys() - _calls.c.keys()
        if unknown:
            raise StoreError(
                f"calls have no column {sorted(unknown)}: filter by {sorted(_calls.c.keys())}."
            )
        wanted = [_calls.c[name] == value for name, value in equal.items()]
        query = sa.select(_calls.c.body).where(*wanted).order_by(_calls.c.started_ns)
        with self._engine.connect() as connection:
            for (body,) in connection.execute(query):
                yield Call.from_json(body)

    def __len__(self) -> int:
        self.flush()
        with self._engine.connect() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(_calls)).scalar_one()
        return int(count)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Call]:
        return self.calls()

    def __enter__(self) -> CallStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _begin(self) -> None:
        self._queue: queue.Queue[Call] = queue.Queue(_PENDING_LIMIT)
        self._lock = threading.Lock()
        #: Held while a batch is written.
        self._writing = threading.Lock()
        self._worker: threading.Thread | None = None

    def _begin_in_child(self) -> None:
        """What waits is the parent's to write, its locks may be held, its connections are its."""
        self.dropped = 0
        _inherited.append(self._engine.pool)
        self._engine.dispose(close=False)
        self._begin()

    def _start_worker(self) -> None:
        if self._worker is not None and self._worker.is_alive():
            return
        with self._lock:
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(
                    target=_work, args=(weakref.ref(self), self._queue), daemon=True,
                    name="slm-adapters-store",
                )  # fmt: skip
                self._worker.start()

    def _insert_pausing(self, batch: list[Call]) -> None:
        """Between two batches a process may fork."""
        with self._writing:
            self._insert(batch)

    def _insert(self, batch: list[Call]) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_calls), [_row(call) for call in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, OperationalError):
                # One of them is at fault, not the database: the others are not lost with it.
                for call in batch:
                    self._insert([call])
                return
            note_failure("the call store", error)
            self._drop(len(batch), "the database refused them")

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        warn_once(
            "dropped calls",
            f"calls are not being stored in {self.url!r} because {why}; your program goes on.",
        )


# Forks. SQLite's own locks are copied as they are, so none is held meanwhile: a child would find
# its database locked for ever.

_FORK_WAITS_S = 5.0
_stores: weakref.WeakSet[CallStore] = weakref.WeakSet()
_paused: list[threading.Lock] = []
#: The parent's connections, never closed in a child: that would write.
_inherited: list[sa.Pool] = []


def _before_fork() -> None:
    locks = [store._writing for store in list(_stores)]
    _paused.extend(lock for lock in locks if lock.acquire(timeout=_FORK_WAITS_S))


def _after_fork_in_parent() -> None:
    while _paused:
        _paused.pop().release()


def _after_fork_in_child() -> None:
    _paused.clear()
    for store in list(_stores):
        store._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


def _work(store: weakref.ref[CallStore], pending: queue.Queue[Call]) -> None:
    while True:
        try:
            batch = [pending.get(timeout=1.0)]
        except queue.Empty:
            if store() is None:
                return
            continue
        while len(batch) < _BATCH and not pending.empty():
            batch.append(pending.get_nowait())
        owner = store()
        if owner is not None:
            owner._insert_pausing(batch)
        del owner
        for _ in batch:
            pending.task_done()


def _close_at_exit(store: weakref.ref[CallStore]) -> None:
    owner = store()
    if owner is not None:
        owner.close()


def _url(location: str | Path) -> str:
    text = str(location)
    return text if "://" in text else f"sqlite:///{Path(text).expanduser()}"


def _open(url: str) -> sa.Engine:
    shown = url.removeprefix("sqlite:///")
    try:
        engine = sa.create_engine(url)
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _use_write_ahead_log)
        _create_table(engine)
        return engine
    except ModuleNotFoundError as error:
        raise StoreError(
            f"the database at {shown!r} needs the driver {error.name!r}: pip install it."
        ) from error
    except NoSuchModuleError as error:
        raise StoreError(
            f"SQLAlchemy knows no database for {shown!r}: use a file path, or a URL such as "
            "postgresql+psycopg://user@host/name."
        ) from error
    except (SQLAlchemyError, OSError) as error:
        raise StoreError(
            f"cannot write calls to {shown!r} ({type(error).__name__}): "
            "check that the folder exists and is writable, or pass another store=."
        ) from error


def _create_table(engine: sa.Engine) -> None:
    try:
        _metadata.create_all(engine)
    except SQLAlchemyError:
        # Another process that started at the same moment may have made it meanwhile.
        _metadata.create_all(engine)


def _use_write_ahead_log(connection: Any, _record: Any) -> None:
    # Readers never block the agent's writes, and two processes can share the file.
    cursor = connection.cursor()
    # The timeout first: switching the journal mode waits for other processes, too.
    cursor.execute("PRAGMA busy_timeout=5000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _row(call: Call) -> dict[str, Any]:
    usage = call.usage
    return {
        "call_id": call.call_id,
        "run_id": call.run_id,
        "started_ns": call.started_ns,
        "framework": call.framework,
        "role": call.role,
        "task": call.task,
        "provider": call.provider,
        "model": call.model,
        "outcome": call.outcome,
        "error_type": call.error_type,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "body": _storable(call.to_json()),
    }


def _storable(text: str) -> str:
    """Halves of surrogate pairs, which no database takes, as JSON's escapes: they come back."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return json.dumps(json.loads(text))
