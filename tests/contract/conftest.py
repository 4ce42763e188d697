"""Each test runs over the kernel's sockets, over pifus, and over a wire between them: `legs`."""

from __future__ import annotations

import contextlib
import os
import select
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.certificates import Certificates
from tests.certificates import make as make_certificates
from tests.conftest import BackendProcess
from tests.contract import legs
from tests.contract.legs import Leg, Side

# No test waits longer for what has to happen.
PATIENCE_SECONDS = 20.0
# Buffers stand still: what trickles into the peer's last bytes of window makes room before.
QUIET_SECONDS = 1.0


@pytest.fixture(autouse=True)
def drop_in_backend(backend: BackendProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """What drop-in sockets of this process and its children attach to."""
    monkeypatch.setenv("PIFUS_BACKEND", backend.path)
    # Children with -X dev or -W error tell of leaks; the interpreter's own path must win.
    monkeypatch.delenv("PIFUS_RUN", raising=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The legs of each test."""
    legs.choose(metafunc)


@pytest.fixture(scope="package")
def wire(runtime_dir: Path) -> Iterator[legs.Wire]:
    """A backend on a TAP device, shared by the tests."""
    yield from legs.started_wire()


@pytest.fixture
def leg(
    request: pytest.FixtureRequest, drop_in_backend: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Leg]:
    """Where the sockets of both sides are."""
    if request.param in legs.BOTH:
        yield legs.loopback(request.param)
        return
    wire = request.getfixturevalue("wire")
    with contextlib.contextmanager(legs.attached)(wire, monkeypatch):
        yield legs.over(wire, request.param)


@pytest.fixture
def leg_backend(
    request: pytest.FixtureRequest, leg: Leg, backend: BackendProcess
) -> BackendProcess:
    """The backend of the stack's sockets."""
    if leg.name in legs.BOTH:
        return backend
    wired: BackendProcess = request.getfixturevalue("wire").tap.backend
    return wired


@pytest.fixture
def net(leg: Leg) -> ModuleType:
    """The socket module under test, of a test that has but one side."""
    assert leg.client is leg.server
    return leg.client.net


@pytest.fixture
def client_side(leg: Leg) -> Side:
    """Where the client's sockets are."""
    return leg.client


@pytest.fixture
def server_side(leg: Leg) -> Side:
    """Where the server's sockets are."""
    return leg.server


@pytest.fixture
def client_net(client_side: Side) -> ModuleType:
    """The socket module of the client."""
    return client_side.net


@pytest.fixture
def server_net(server_side: Side) -> ModuleType:
    """The socket module of the server."""
    return server_side.net


@pytest.fixture
def host(leg: Leg) -> str:
    """The server's IPv4 address; that of a test that has but one side."""
    return leg.server.host


@pytest.fixture
def pifus_net() -> ModuleType:
    """The drop-in, for what is not the kernel's business."""
    import pifus.compat.socket

    return pifus.compat.socket


@pytest.fixture
def closing() -> Iterator[Callable[[Any], Any]]:
    """Closes at the end of the test whatever it is given, and hands it back."""
    with contextlib.ExitStack() as stack:

        def register(thing: Any) -> Any:
            stack.callback(thing.close)
            return thing

        yield register


@pytest.fixture
def spawn() -> Iterator[Callable[..., Future[Any]]]:
    """Runs a function in a thread; its result has to be asked for."""
    with ThreadPoolExecutor(64) as pool:
        yield pool.submit


@pytest.fixture
def listener(server_side: Side, closing: Callable[[Any], Any]) -> Any:
    """A listening socket on a free port of the server's side."""
    return closing(server_side.net.create_server((server_side.host, 0)))


@pytest.fixture
def pair(make_pair: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Two connected sockets: the one that connected, the one that was accepted."""
    return make_pair()


def errno_of(call: Callable[..., Any], *arguments: Any) -> int | None:
    """The errno of the OSError that a call raises."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return pytest.fail("no OSError was raised")


def receive_exactly(sock: Any, count: int) -> bytes:
    """So many bytes, or fewer if the stream ends."""
    parts = []
    while count and (part := sock.recv(min(count, 65536))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def await_events(sock: Any, wanted: int, among: int) -> None:
    """Until of the events `among` exactly the wanted ones show."""
    poller = select.poll()
    poller.register(sock, among)
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = poller.poll(0)
        events = found[0][1] & among if found else 0
        if events == wanted:
            return
        assert time.monotonic() < end, f"events are {events:#x}, not {wanted:#x}"
        time.sleep(0.001)


def python_environment() -> dict[str, str]:
    """For child interpreters: the backend of the test, no leftovers of `pifus run`."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def launcher(*command: str) -> list[str]:
    """The command line of `pifus run` for a command."""
    return [sys.executable, "-m", "pifus.cli", "run", "--", *command]


# ---- TLS ----


@pytest.fixture
def tells_ragged_ends(certificates: Certificates) -> bool:
    """Whether an end without TLS's goodbye is an error: from Python 3.11.3 on."""
    options = certificates.client_context().options
    return not options & getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority and what it issued."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls(leg: Leg) -> ModuleType:
    """The ssl module that belongs to the server's sockets."""
    if leg.name == "kernel":
        return ssl
    import pifus.compat.ssl

    return ssl if leg.name == "connects" else pifus.compat.ssl


def until_done(sock: Any, call: Callable[[], Any]) -> Any:
    """What a program without blocking does: waits for what the engine asks for, and tries again."""
    while True:
        try:
            return call()
        except ssl.SSLWantReadError:
            assert select.select([sock], [], [], PATIENCE_SECONDS)[0]
        except ssl.SSLWantWriteError:
            assert select.select([], [sock], [], PATIENCE_SECONDS)[1]


Pair = tuple[Any, Any]
MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair(
    client_net: ModuleType, listener: Any, closing: Callable[[Any], Any]
) -> Callable[[], tuple[Any, Any]]:
    """Makes pairs of connected sockets: the one that connected, the one that was accepted."""

    def make() -> Pair:
        client = closing(client_net.create_connection(listener.getsockname(), PATIENCE_SECONDS))
        server, _ = listener.accept()
        closing(server)
        client.settimeout(PATIENCE_SECONDS)
        server.settimeout(PATIENCE_SECONDS)
        return client, server

    return make


@pytest.fixture
def make_tls_pair(
    tls: ModuleType,
    make_pair: Callable[[], Pair],
    certificates: Certificates,
    spawn: Callable[..., Future[Any]],
    closing: Callable[[Any], Any],
) -> MakePair:
    """Makes pairs of connected SSLSockets; takes the contexts and the options of wrap_socket."""

    def make(
        client_context: Any = None, server_context: Any = None, session: Any = None, **options: Any
    ) -> Pair:
        client, server = make_pair()
        serving = spawn(
            (server_context or certificates.server_context()).wrap_socket,
            server,
            server_side=True,
            **options,
        )
        client = (client_context or certificates.client_context()).wrap_socket(
            client, server_hostname="localhost", session=session, **options
        )
        return closing(client), closing(serving.result(PATIENCE_SECONDS))

    return make


@pytest.fixture
def tls_pair(make_tls_pair: MakePair) -> Pair:
    """Two connected SSLSockets: the client's, the server's."""
    return make_tls_pair()


def fill(sock: Any) -> int:
    """Sends until nothing moves any more, neither here nor on the way to the peer; the bytes."""
    sock.setblocking(False)
    sent = 0
    while True:
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += sock.send(b"x" * 65536)
        if not select.select([], [sock], [], QUIET_SECONDS)[1]:
            break
    with contextlib.suppress(BlockingIOError):
        while True:  # too little for poll to call it writable, but it is taken
            sent += sock.send(b"x")
    return sent
