"""An echo server over completions: one thread, any number of connections; prints its port."""

import pifus

CHUNK = 16384
WRITES = 4  # under way for one connection; beyond that it reads no further


class Connection:
    """A connection: what it still has to echo, and how much is under way."""

    def __init__(self, sock: pifus.Socket) -> None:
        self.sock = sock
        self.flying = 0
        self.held = b""  # there was no room for it in the send arena
        self.reading = False
        self.ended = False
        self.read_on()

    def read_on(self) -> None:
        """Receives more, unless enough is under way; lets go of it when all has been echoed."""
        if self.ended:
            if not self.flying and not self.held:
                self.sock.release()
        elif not self.reading and not self.held and self.flying < WRITES:
            self.sock.recv(CHUNK)
            self.reading = True

    def echo(self) -> bool:
        """Sends what is held; False: there is no room now."""
        try:
            self.sock.write(self.held)
        except pifus.ArenaFull:
            return False
        self.flying += 1
        self.held = b""
        self.read_on()
        return True

    def take(self, done: pifus.Completion) -> bool:
        """A receive or a write of it has ended; False: there was no room for the echo."""
        if done.opcode == pifus.Opcode.WRITE:
            self.flying -= 1
        else:
            self.reading = False
            self.held = done.data or b""
        self.ended = self.ended or done.result <= 0  # the end, or an error
        if done.result < 0:
            self.held = b""
        if self.held and done.opcode == pifus.Opcode.RECV:
            return self.echo()
        self.read_on()
        return True


def main() -> None:
    connections: dict[pifus.Socket, Connection] = {}
    held: list[Connection] = []
    with pifus.Client(max_sockets=4096, queue_depth=8, rx_bytes=65536, name="echo") as client:
        listener = client.socket()
        listener.bind(("127.0.0.1", 0))
        listener.wait().check()
        listener.listen(1024)
        listener.wait().check()
        address = listener.local_address
        assert address is not None
        print(address[1], flush=True)
        listener.accept(multishot=True)
        while True:
            done = client.wait_any()
            if done.opcode == pifus.Opcode.ACCEPT:
                sock = done.check().accepted
                assert sock is not None
                connections[sock] = Connection(sock)
                continue
            connection = connections[done.sock]
            if not connection.take(done):
                held.append(connection)
            elif held and done.opcode == pifus.Opcode.WRITE and held[0].echo():
                held.pop(0)
            if connection.ended and not connection.flying and not connection.held:
                del connections[done.sock]


if __name__ == "__main__":
    main()
