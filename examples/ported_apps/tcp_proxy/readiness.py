"""The proxy by readiness (selectors): `readiness.py TARGET_PORT`; prints its port.

An unmodified program: it runs over the kernel's sockets as well.
"""

import selectors
import socket
import sys

CHUNK = 65536
TARGET = ("127.0.0.1", int(sys.argv[1]))


class Pipe:
    """One direction of a connection: what was read from `source` and not yet sent to `sink`."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.held = memoryview(b"")
        self.ended = False  # at the source
        self.done = False  # and told to the sink

    def read(self) -> None:
        try:
            data = self.source.recv(CHUNK)
        except BlockingIOError:
            return
        self.held, self.ended = memoryview(data), not data
        self.write()

    def write(self) -> None:
        try:
            while self.held:
                self.held = self.held[self.sink.send(self.held) :]
        except BlockingIOError:
            return
        if self.ended and not self.done:
            self.sink.shutdown(socket.SHUT_WR)
            self.done = True


class Pair:
    """A client and its connection to the target."""

    def __init__(self, selector: selectors.BaseSelector, client: socket.socket) -> None:
        self.selector = selector
        self.sockets = (client, socket.create_connection(TARGET))
        self.masks: dict[socket.socket, int] = dict.fromkeys(self.sockets, 0)
        there, back = self.sockets
        self.pipes = (Pipe(there, back), Pipe(back, there))
        for sock in self.sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.watch()

    def watch(self) -> None:
        """Reads where nothing is held, writes where something is."""
        wanted = dict.fromkeys(self.sockets, 0)
        for pipe in self.pipes:
            if pipe.held:
                wanted[pipe.sink] |= selectors.EVENT_WRITE
            elif not pipe.ended:
                wanted[pipe.source] |= selectors.EVENT_READ
        for sock, mask in wanted.items():
            before, self.masks[sock] = self.masks[sock], mask
            if before and not mask:
                self.selector.unregister(sock)
            elif mask and not before:
                self.selector.register(sock, mask, self)
            elif mask != before:
                self.selector.modify(sock, mask, self)

    def take(self, sock: socket.socket, mask: int) -> None:
        try:
            for pipe in self.pipes:
                if mask & selectors.EVENT_WRITE and pipe.sink is sock and pipe.held:
                    pipe.write()
                elif mask & selectors.EVENT_READ and pipe.source is sock and not pipe.held:
                    pipe.read()
        except OSError:
            self.close()
            return
        if all(pipe.done for pipe in self.pipes):
            self.close()
        else:
            self.watch()

    def close(self) -> None:
        for sock in self.sockets:
            if self.masks[sock]:
                self.selector.unregister(sock)
                self.masks[sock] = 0
            sock.close()


def main() -> None:
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
    ):
        print(listener.getsockname()[1], flush=True)
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, mask in selector.select():
                if key.data is None:
                    Pair(selector, listener.accept()[0])
                elif key.data.masks[key.fileobj]:  # not closed by an event before this one
                    key.data.take(key.fileobj, mask)


main()
