"""Connections as children's standard streams: CGI by http.server, an inetd; Python and others."""

import http.server
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from peers import SECONDS, threaded

PYTHON = f"""#!{sys.executable}
import os, sys
data = sys.stdin.buffer.read(int(os.environ.get("CONTENT_LENGTH") or 0))
print("Content-Type: text/plain")
print()
print("python", os.environ["REMOTE_ADDR"], len(data), data == b"z" * len(data))
"""
SHELL = """#!/bin/sh
printf 'Content-Type: text/plain\\n\\n'
echo "shell $REMOTE_ADDR $QUERY_STRING"
head -c "${CONTENT_LENGTH:-0}" | wc -c
"""


class Handler(http.server.CGIHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def cgi() -> None:
    """The server forks, and becomes the script: it must not become another user's."""
    http.server.nobody_uid = os.getuid
    place = Path(tempfile.mkdtemp(dir=".")) / "cgi-bin"
    place.mkdir()
    for name, text in (("python", PYTHON), ("shell", SHELL)):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    os.chdir(place.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}/cgi-bin/"

    def ask(number: int) -> None:
        with urllib.request.urlopen(f"{url}shell?q={number}", None, SECONDS) as answer:
            assert answer.read().split() == [b"shell", b"127.0.0.1", b"q=%d" % number, b"0"]
        with urllib.request.urlopen(f"{url}python", b"z" * 200_000, SECONDS) as answer:
            assert answer.read() == b"python 127.0.0.1 200000 True\n"

    with threaded(server), ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(8)))


class Inetd(socketserver.ThreadingTCPServer):
    command: tuple[str, ...] = ()

    def process_request_thread(self, request: socket.socket, address: object) -> None:
        with subprocess.Popen(self.command, stdin=request, stdout=request):
            request.close()


def inetd() -> None:
    upper = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"
    for command in (("tr", "a-z", "A-Z"), (sys.executable, "-c", upper)):
        server = Inetd(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        server.command = command

        def talk(number: int, address: object = server.server_address) -> None:
            text = f"line of {number}\n" * 300
            with socket.create_connection(address, SECONDS) as sock, sock.makefile("r") as file:
                sender = threading.Thread(target=sock.sendall, args=(text.encode(),))
                sender.start()
                sender.join()
                sock.shutdown(socket.SHUT_WR)
                assert file.read() == text.upper()

        with threaded(server), ThreadPoolExecutor(4) as pool:
            list(pool.map(talk, range(8)))


inetd()
cgi()
print("all well")
