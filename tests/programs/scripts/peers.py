"""For the scripts: servers as processes of their own, started by their real commands."""

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator

SECONDS = 30


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Server:
    """A child process, and what it has written."""

    def __init__(self, command: tuple[str, ...], descriptors: tuple[int, ...]) -> None:
        self.process = subprocess.Popen(
            command,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("")  # the end
            self._news.notify_all()

    def until(self, text: str, times: int = 1) -> None:
        """Waits for lines with the text, counted from its start."""
        assert self.says(text, times, SECONDS), f"no {text!r} in {''.join(self.lines)}"

    def says(self, text: str, times: int, seconds: float) -> bool:
        """Whether it writes so many lines with the text before the time has passed."""

        def count() -> int:
            return sum(text in line for line in self.lines)

        with self._news:
            self._news.wait_for(lambda: count() >= times or self.lines[-1:] == [""], seconds)
            return count() >= times

    def end(self) -> None:
        """Ends it as an operator does, and shows what it wrote."""
        try:
            self.process.terminate()
            self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self._reader.join(SECONDS)
            self.process.stdout.close()
            sys.stderr.write("".join(self.lines))


@contextlib.contextmanager
def serving(
    ready: str, *command: str, times: int = 1, descriptors: tuple[int, ...] = ()
) -> Iterator[Server]:
    """A server, from when it has written `ready`; it inherits the descriptors."""
    server = Server(command, descriptors)
    try:
        server.until(ready, times)
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def threaded(*servers: socketserver.BaseServer) -> Iterator[None]:
    """Servers in threads of this process, while the block runs."""
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()


def python(*words: str) -> tuple[str, ...]:
    """The command line of a module or a script for this interpreter."""
    return (sys.executable, *words)
