"""The proxy by completions: `completions.py TARGET_PORT`; prints its port.

Says beforehand what is to be done, and is told when it is done: no call that would block, no
registrations, and what is sent has been acknowledged by the peer.
"""

import socket
import sys
from collections import deque

import pifus

CHUNK = 65536
WRITES = 4  # under way in one direction: beyond that nothing more is read
TARGET = ("127.0.0.1", int(sys.argv[1]))


class Pipe:
    """One direction of a connection."""

    def __init__(self, source: pifus.Socket, sink: pifus.Socket) -> None:
        self.source = source
        self.sink = sink
        self.held = b""  # there is no room for it in the send arena
        self.flying = 0
        self.reading = False
        self.ended = False

    def read_on(self) -> None:
        if not (self.reading or self.ended or self.held) and self.flying < WRITES:
            self.source.recv(CHUNK)
            self.reading = True

    def take(self, data: bytes) -> None:
        """What came from the source; b"" at its end."""
        self.reading = False
        self.held, self.ended = data, not data
        if self.ended:
            self.sink.shutdown(socket.SHUT_WR)

    def send(self) -> bool:
        """Sends what is held; False: there is no room now."""
        if self.held:
            try:
                self.sink.write(self.held)
            except pifus.ArenaFull:
                return False
            self.flying += 1
            self.held = b""
        self.read_on()
        return True

    @property
    def done(self) -> bool:
        return self.ended and not self.flying


class Proxy:
    """All connections, in one thread."""

    def __init__(self, client: pifus.Client) -> None:
        self.client = client
        self.from_: dict[pifus.Socket, Pipe] = {}
        self.to: dict[pifus.Socket, Pipe] = {}
        self.held: deque[Pipe] = deque()
        self.listener = client.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.wait().check()
        self.listener.listen()
        self.listener.wait().check()
        self.listener.accept(multishot=True)

    def accept(self, near: pifus.Socket) -> None:
        far = self.client.socket()
        far.connect(TARGET)
        for source, sink in ((near, far), (far, near)):
            self.from_[source] = self.to[sink] = Pipe(source, sink)
            source.setopt(pifus.Option.NODELAY, 1)

    def take(self, done: pifus.Completion) -> None:
        """One completion."""
        if done.opcode == pifus.Opcode.ACCEPT:
            accepted = done.check().accepted
            assert accepted is not None
            self.accept(accepted)
            return
        pipe = self.from_.get(done.sock)
        if pipe is None:
            return  # of a connection that was given up
        if done.errno:
            self.close(pipe, abort=True)
        elif done.opcode == pifus.Opcode.CONNECT:
            pipe.read_on()
            self.to[done.sock].read_on()
        elif done.opcode == pifus.Opcode.RECV:
            pipe.take(done.data or b"")
            self.send(pipe)
        elif done.opcode == pifus.Opcode.WRITE:
            pipe = self.to[done.sock]
            pipe.flying -= 1
            pipe.read_on()
            if self.held:
                self.send(self.held.popleft())
        if pipe.done and self.to[pipe.source].done:
            self.close(pipe, abort=False)

    def send(self, pipe: Pipe) -> None:
        if not pipe.send():
            self.held.append(pipe)

    def close(self, pipe: Pipe, abort: bool) -> None:
        for sock in (pipe.source, pipe.sink):
            other = self.from_.pop(sock)
            del self.to[sock]
            if other in self.held:
                self.held.remove(other)
            sock.close(abort)


def main() -> None:
    with pifus.Client(rx_bytes=131072, name="proxy") as client:
        proxy = Proxy(client)
        address = proxy.listener.local_address
        assert address is not None
        print(address[1], flush=True)
        while True:
            proxy.take(client.wait_any())


main()
