"""A signal handler asks the backend while its own thread waits for an answer of the backend."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

import pifus
from pifus._core._channel import Channel
from pifus._core._session import Session
from pifus._core._settings import Settings
from tests.conftest import BackendProcess, descriptors

StartBackend = Callable[..., BackendProcess]


@contextmanager
def handling(what: Callable[[], None]) -> Iterator[None]:
    """Calls it by a signal, once for each `soon`, when the main thread is in a request."""

    def handle(_number: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not Channel.request.__code__:
            frame = frame.f_back
        if frame is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            what()

    handler = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def soon() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)


@pytest.fixture
def started(start_backend: StartBackend) -> Iterator[BackendProcess]:
    backend = start_backend("nested")
    yield backend
    backend.process.send_signal(signal.SIGCONT)


@pytest.fixture
def session(started: BackendProcess) -> Iterator[Session]:
    session = Session.join(started.path, Settings(max_sockets=4, arena_bytes=65536), None)
    yield session
    started.process.send_signal(signal.SIGCONT)
    session.close()


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_each_gets_its_own_answer(started: BackendProcess, session: Session, levels: int) -> None:
    _, mirror = session.take_mirror()
    taken: list[int] = []

    def ask(level: int) -> None:
        if level < levels:
            soon()
        else:
            started.process.send_signal(signal.SIGCONT)
        asked.append(level)
        taken.append(session.show(mirror))

    asked: list[int] = []
    before = descriptors()
    with handling(lambda: ask(len(asked))):
        for _ in range(3):
            asked.clear()
            started.process.send_signal(signal.SIGSTOP)
            ask(0)
            assert asked == list(range(levels + 1))
    assert len(set(taken)) == len(taken) == 3 * (levels + 1)
    assert min(taken) > 0
    # Nothing of them is left to the next one.
    bell = session.take_bell()
    assert session.show(mirror) > max(taken)
    os.close(bell)
    assert descriptors() == before
    os.close(mirror)


def test_mirrors_are_neither_lost_nor_given_twice(
    started: BackendProcess, session: Session
) -> None:
    first = descriptors()
    taken: list[tuple[int, int]] = []

    def take() -> None:
        started.process.send_signal(signal.SIGCONT)
        taken.extend(session.take_mirror() for _ in range(3))

    try:
        with handling(take):
            for _ in range(10):
                started.process.send_signal(signal.SIGSTOP)
                soon()
                while session._mirrors:
                    taken.append(session.take_mirror())
                taken.append(session.take_mirror())
        fds = {fd for _, fd in taken}
        assert len({number for number, _ in taken}) == len(taken) == len(fds)
        assert len(fds) == descriptors() - first - len(session._mirrors)
    finally:
        for _, fd in taken:
            os.close(fd)


@pytest.mark.parametrize("which", ["take_mirror", "take_bell"])
def test_a_close_in_the_middle_of_it(started: BackendProcess, session: Session, which: str) -> None:
    def close() -> None:
        started.process.send_signal(signal.SIGCONT)
        session.close()

    before = descriptors()
    with handling(close):
        started.process.send_signal(signal.SIGSTOP)
        soon()
        with pytest.raises(pifus.ClientClosed, match="closed"):
            getattr(session, which)()
    assert session.closed
    # What came for the one that was in the middle is closed, and so is the connection.
    assert descriptors() <= before


@pytest.mark.parametrize("which", ["take_mirror", "take_bell", "show"])
@pytest.mark.parametrize("sent", [False, True], ids=["before", "after"])
def test_a_close_around_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, which: str, sent: bool
) -> None:
    """By a handler, or another thread: before the request goes out, or after the answer."""
    _, mirror = session.take_mirror()
    session._mirrors, left = [], session._mirrors
    exchange = Channel._exchange
    arguments = (mirror,) if which == "show" else ()

    def closing(*args: Any) -> Any:
        monkeypatch.undo()
        if not sent:
            session.close()
            return exchange(*args)
        answer = exchange(*args)
        session.close()
        return answer

    monkeypatch.setattr(Channel, "_exchange", closing)
    before = descriptors()
    with pytest.raises(pifus.ClientClosed, match="closed"):
        getattr(session, which)(*arguments)
    assert descriptors() < before
    for _, fd in left:
        os.close(fd)
    os.close(mirror)


def test_sockets_of_a_handler_while_the_first_session_opens(
    started: BackendProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one session in the end, and the sockets of both are in it."""
    from pifus._compat import _current, _making  # noqa: F401 - not while the handler makes one
    from pifus.compat import socket as stack

    monkeypatch.setenv("PIFUS_BACKEND", started.path)
    monkeypatch.setattr(_current, "_session", None)
    made: list[socket.socket] = []

    def make() -> None:
        started.process.send_signal(signal.SIGCONT)
        made.append(stack.socket())

    with handling(make):
        started.process.send_signal(signal.SIGSTOP)
        soon()
        made.append(stack.socket())
    assert len(made) == 2
    for sock in made:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
    assert len({sock.fileno() for sock in made}) == 2
    with pifus.Client(started.path) as other:
        reply, _ = other._session._channel.request(pifus._core._protocol.Status(), "status")
    assert reply["clients"] == 2
    for sock in made:
        sock.close()
    _current.session().close()
