"""multiprocessing over TCP: a manager's objects, listeners, passed sockets; all start methods."""

import hashlib
import multiprocessing
import os
import socket
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.context import BaseContext
from multiprocessing.managers import BaseManager, ValueProxy

CHILDREN = 4
TIMES = 50
KEY = b"a key"
SECONDS = 30
BLOB = bytes(range(256)) * 8000


class Tally:
    """Lives in the manager's process."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, number: int) -> int:
        self._count += number
        return self._count

    def digest(self, data: bytes) -> tuple[bytes, int]:
        return hashlib.sha256(data).digest(), os.getpid()


class Manager(BaseManager):
    """Serves the tally that it made first."""


_tally = Tally()


def tally() -> Tally:
    return _tally


Manager.register("tally", tally)


def count(address: tuple[str, int]) -> None:
    manager = Manager(address, KEY)
    manager.connect()
    shared: ValueProxy = manager.tally()
    for _ in range(TIMES):
        shared.add(1)
    assert shared.digest(BLOB)[0] == hashlib.sha256(BLOB).digest()


def all_ended(children: list[multiprocessing.Process]) -> None:
    for child in children:
        child.join(SECONDS)
        assert child.exitcode == 0


def shared_objects(context: BaseContext) -> None:
    with Manager(("127.0.0.1", 0), KEY, ctx=context) as manager:
        children = [context.Process(target=count, args=(manager.address,)) for _ in range(CHILDREN)]
        for child in children:
            child.start()
        all_ended(children)
        assert manager.tally().add(0) == CHILDREN * TIMES
        assert manager.tally().digest(b"")[1] != os.getpid()


def report(address: tuple[str, int], number: int) -> None:
    with Client(address, authkey=KEY) as connection:
        connection.send((number, BLOB))
        assert connection.recv() == number
        connection.recv_bytes()


def listeners(context: BaseContext) -> None:
    """Children that report over connections of their own, waited for together."""
    with Listener(("127.0.0.1", 0), backlog=CHILDREN, authkey=KEY) as listener:
        children = [
            context.Process(target=report, args=(listener.address, n)) for n in range(CHILDREN)
        ]
        for child in children:
            child.start()
        open_ones: list[Connection] = [listener.accept() for _ in children]
        reported = set()
        while len(reported) < CHILDREN:
            for connection in wait(open_ones, SECONDS):
                number, data = connection.recv()
                assert data == BLOB
                connection.send(number)
                reported.add(number)
        for connection in open_ones:
            connection.send_bytes(b"end")
            connection.close()
        all_ended(children)


def serve(pipe: Connection) -> None:
    """Serves sockets that are passed to it."""
    while (sock := pipe.recv()) is not None:
        with sock, sock.makefile("rb") as file:
            digest = hashlib.sha256(file.read()).digest()
            sock.sendall(digest)


def passed_sockets(context: BaseContext) -> None:
    ours, theirs = context.Pipe()
    child = context.Process(target=serve, args=(theirs,))
    child.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for size in (0, 1000, len(BLOB)):
            with socket.create_connection(listener.getsockname(), SECONDS) as client:
                accepted, _ = listener.accept()
                ours.send(accepted)
                client.sendall(BLOB[:size])
                client.shutdown(socket.SHUT_WR)
                assert client.recv(100) == hashlib.sha256(BLOB[:size]).digest()
                accepted.close()
    ours.send(None)
    all_ended([child])


def main() -> None:
    for kind in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(kind)
        for part in (shared_objects, listeners, passed_sockets):
            part(context)
    print("all well")


if __name__ == "__main__":
    main()
