"""Names: the system's resolver and the stack's (`--dns`) answer alike; `localhost` everywhere."""

from __future__ import annotations

import ast
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import launch_backend
from tests.contract.conftest import PATIENCE_SECONDS, python_environment
from tests.dns_server import SILENT, DnsServer, Zone
from tests.integration.test_tap import Tap, may_make_devices, start_tap

MANY = 60
CLI = [sys.executable, "-m", "pifus.cli", "run"]

HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost  # a comment
10.9.8.7 InHosts.pifus.test inhosts ih
10.9.8.6 four.pifus.test
not-an-address wrong.pifus.test
"""
RESOLV_CONF = """\
search nowhere.pifus.test sub.pifus.test
options timeout:1 attempts:1 ndots:2
nameserver {server}
"""
# Prints what a list of calls on the socket module comes to.
ASK = """
import ast, socket, sys
def outcome(call):
    name, arguments, keywords = call
    try:
        return getattr(socket, name)(*arguments, **keywords)
    except (OSError, UnicodeError, TypeError) as error:
        return type(error).__name__, getattr(error, "errno", None), str(error)
def plain(value):
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return int(value) if isinstance(value, int) else value
for line in sys.stdin:
    print(repr(plain(outcome(ast.literal_eval(line)))), flush=True)
"""

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def call(name: str, *arguments: Any, **keywords: Any) -> Call:
    """One that can be written down: enums as their numbers."""
    numbers = tuple(int(word) if isinstance(word, int) else word for word in arguments)
    return name, numbers, {key: int(word) for key, word in keywords.items()}


@dataclass(slots=True)
class Network:
    """A TAP device, on whose other end, the kernel, a name server is reached."""

    tap: Tap
    server: DnsServer
    hosts: Path
    resolv_conf: Path

    def command(self, world: str, *words: str, server: str | None = None) -> list[str]:
        """A command with our own /etc/hosts and /etc/resolv.conf, in a namespace of its own."""
        over = [*CLI, "--backend", self.tap.backend.path, "--dns", server or self.tap.host4, "--"]
        binds = f"mount --bind '{self.hosts}' /etc/hosts && "
        binds += f"mount --bind '{self.resolv_conf}' /etc/resolv.conf && "
        shell = ["unshare", "-m", "sh", "-c", binds + 'exec "$@"', "sh"]
        return [*shell, *(over if world == "pifus" else []), *words]

    def ask(self, world: str, *calls: Call, server: str | None = None) -> list[Any]:
        done = subprocess.run(
            self.command(world, sys.executable, "-W", "error", "-c", ASK, server=server),
            input="".join(f"{each!r}\n" for each in calls),
            env=python_environment(),
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_SECONDS,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return [ast.literal_eval(line) for line in done.stdout.splitlines()]


def zone(tap: Tap) -> Zone:
    four, six = tap.host4, tap.host6
    return {
        "both.pifus.test": {"A": [four], "AAAA": [six]},
        "four.sub.pifus.test": {"A": [four]},
        "six.pifus.test": {"AAAA": [six]},
        "alias.pifus.test": {"CNAME": ["both.pifus.test."]},
        "short.sub.pifus.test": {"A": [four]},
        "text.pifus.test": {"TXT": ["nothing else"]},
        "dotted.name.sub.pifus.test": {"A": [four]},
        "many.pifus.test": {"A": [f"10.1.2.{number}" for number in range(1, MANY + 1)]},
        "far.pifus.test": {"A": [four], "AAAA": ["2001:db8::9"]},
        "half.pifus.test": {"A": [four], "AAAA": "NXDOMAIN"},
        "other-half.pifus.test": {"A": "SERVFAIL", "AAAA": [six]},
        "broken.pifus.test": "SERVFAIL",
        "refused.pifus.test": "REFUSED",
        "silent.pifus.test": SILENT,
        "3.2.1.10.in-addr.arpa": {"PTR": ["both.pifus.test."]},
        "9.8.7.10.in-addr.arpa": SILENT,
        "1.8.7.10.in-addr.arpa": {"PTR": ["a\\032b.pifus.test."]},
    }


@pytest.fixture(scope="module")
def network(runtime_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if not may_make_devices():
        pytest.skip("making a TAP device needs CAP_NET_ADMIN and /dev/net/tun")
    place = tmp_path_factory.mktemp("etc")
    started = []

    def start(name: str, *options: str) -> Any:
        started.append(launch_backend(name, *options))
        return started[-1]

    tap = start_tap(start)
    hosts, resolv_conf = place / "hosts", place / "resolv.conf"
    hosts.write_text(HOSTS)
    resolv_conf.write_text(RESOLV_CONF.format(server=tap.host4))
    addresses = [(tap.host4, 53), (tap.host6, 53)]
    with DnsServer(zone(tap), addresses, socket) as server:
        yield Network(tap, server, hosts, resolv_conf)
    for backend in started:
        assert backend.stop() == 0


STREAM = {"type": socket.SOCK_STREAM}
CANON = {"type": socket.SOCK_STREAM, "flags": socket.AI_CANONNAME}
ALIKE = {
    "addresses": [
        call("getaddrinfo", "both.pifus.test", 80),
        call("getaddrinfo", "both.pifus.test", "http", **STREAM),
        call("getaddrinfo", b"both.pifus.test", None, socket.AF_INET, **STREAM),
        call("getaddrinfo", "BOTH.pifus.test.", 1, socket.AF_INET6, **STREAM),
        call("getaddrinfo", "alias.pifus.test", 80, **CANON),
        call("getaddrinfo", "half.pifus.test", 80, **STREAM),
        call("getaddrinfo", "other-half.pifus.test", 80, **STREAM),
        call("gethostbyname", "both.pifus.test"),
        call("gethostbyname_ex", "alias.pifus.test"),
    ],
    "without names": [
        call("getaddrinfo", None, 80, flags=socket.AI_PASSIVE),
        call("getaddrinfo", "10.1.2.3", 80),
        call("getaddrinfo", "::1", "80", **CANON),
        call("getaddrinfo", "", 80),
        call("getaddrinfo", None, None),
        call("getaddrinfo", "both.pifus.test", 80, flags=socket.AI_NUMERICHOST),
        call("gethostbyname", "127.1"),
        call("gethostbyname", ""),
        call("gethostbyname", "<broadcast>"),
        call("gethostbyname_ex", "10.1.2.3"),
    ],
    "hosts": [
        call("getaddrinfo", "inhosts.pifus.test", 80, **CANON),
        call("getaddrinfo", "ih", "https", **STREAM),
        call("getaddrinfo", "four.pifus.test", 80, **STREAM),
        call("getaddrinfo", "localhost", 80, socket.AF_INET6, **STREAM),
        call("getaddrinfo", "ip6-localhost", 80, socket.AF_INET, **STREAM),
        call("getaddrinfo", "ip6-localhost", 80, **STREAM),
        call("getaddrinfo", "localhost", 80, **STREAM),
        call("gethostbyname", "localhost"),
        call("gethostbyname_ex", "inhosts"),
        call("gethostbyaddr", "10.9.8.7"),
        call("gethostbyaddr", "inhosts"),
        call("getnameinfo", ("10.9.8.7", 80), 0),
        call("getfqdn", "inhosts"),
        call("getaddrinfo", "wrong.pifus.test", 80),
    ],
    "search": [
        call("getaddrinfo", "short", 80, **CANON),
        call("getaddrinfo", "short.", 80, **STREAM),
        call("getaddrinfo", "dotted.name", 80, **STREAM),
        call("getaddrinfo", "six.pifus.test", 80, **STREAM),
        call("gethostbyname_ex", "short"),
    ],
    "failures": [
        call("getaddrinfo", "no.such.pifus.test", 80),
        call("getaddrinfo", "text.pifus.test", 80),
        call("getaddrinfo", "six.pifus.test", 80, socket.AF_INET),
        call("getaddrinfo", "silent.pifus.test", 80),
        call("getaddrinfo", "broken.pifus.test", 80),
        call("getaddrinfo", "refused.pifus.test", 80),
        call("getaddrinfo", "both.pifus.test", "no-such-service"),
        call("getaddrinfo", "both.pifus.test", "http", flags=socket.AI_NUMERICSERV),
        call("getaddrinfo", "both.pifus.test", 80, 77),
        call("getaddrinfo", "both.pifus.test", 80, 0, 77),
        call("getaddrinfo", "both.pifus.test", 80, flags=0x100000),
        call("getaddrinfo", "10.1.2.3", 80, socket.AF_INET6),
        call("getaddrinfo", "a..b", 80),
        call("getaddrinfo", b"a..b", 80),
        call("getaddrinfo", "a" * 64, 80),
        call("getaddrinfo", "a b.pifus.test", 80),
        call("getaddrinfo", b"\xff.pifus.test", 80),
        call("getaddrinfo", 5, 80),
        call("gethostbyname", "no.such.pifus.test"),
        call("gethostbyname", None),
        call("gethostbyname_ex", "six.pifus.test"),
    ],
    "flags": [
        call("getaddrinfo", "both.pifus.test", 80, flags=socket.AI_ADDRCONFIG, **STREAM),
        call("getaddrinfo", "four.sub.pifus.test", 80, 10, flags=socket.AI_V4MAPPED, **STREAM),
        call("getaddrinfo", "both.pifus.test", 80, 10, flags=socket.AI_V4MAPPED, **STREAM),
        call("getaddrinfo", "far.pifus.test", 80, **STREAM),
    ],
    "backwards": [
        call("getnameinfo", ("10.1.2.3", 80), socket.NI_NUMERICHOST),
        call("getnameinfo", ("10.1.2.3", 80), socket.NI_NUMERICSERV),
        call("getnameinfo", ("10.1.2.3", 80), socket.NI_NAMEREQD),
        call("getnameinfo", ("10.7.8.1", 80), 0),
        call("getnameinfo", ("both.pifus.test", 80), 0),
        call("getnameinfo", ("10.7.8.9", 80), 0),
        call("gethostbyaddr", "10.1.2.3"),
        call("gethostbyaddr", "10.7.8.9"),
        call("gethostbyaddr", "both.pifus.test"),
        call("gethostbyaddr", "no.such.pifus.test"),
        call("gethostbyaddr", "127.0.0.1"),
        call("getfqdn", "10.1.2.3"),
    ],
}


@pytest.mark.parametrize("topic", ALIKE)
def test_both_resolvers_answer_alike(network: Network, topic: str) -> None:
    calls = ALIKE[topic]
    kernel, ours = network.ask("kernel", *calls), network.ask("pifus", *calls)
    pairs = zip(calls, kernel, ours, strict=True)
    assert [entry for entry in pairs if entry[1] != entry[2]] == []


def seen(network: Network, name: str) -> set[tuple[str, str, str]]:
    found = {(each.kind, each.transport, each.peer) for each in network.server.asked}
    assert found, name
    return found


@pytest.mark.parametrize("version", [4, 6])
def test_name_servers_are_asked_by_the_stack(network: Network, version: int) -> None:
    """By IPv4 or IPv6; and again by TCP where the answer was too long."""
    ours = network.tap.stack4 if version == 4 else network.tap.stack6
    server = network.tap.host4 if version == 4 else network.tap.host6
    network.server.asked.clear()
    (found,) = network.ask("pifus", call("gethostbyname_ex", "many.pifus.test"), server=server)
    assert sorted(found[2]) == sorted(zone(network.tap)["many.pifus.test"]["A"])  # type: ignore[index]
    assert seen(network, "many") == {("A", "udp", ours), ("A", "tcp", ours)}
    network.server.asked.clear()
    network.ask("pifus", call("getaddrinfo", "both.pifus.test", 80), server=server)
    assert seen(network, "both") == {("A", "udp", ours), ("AAAA", "udp", ours)}


def test_no_name_server_is_asked_without_need(network: Network) -> None:
    """Of RFC 6761: `localhost` and what is below it never; nor what the hosts file has."""
    network.server.asked.clear()
    calls = [
        call("getaddrinfo", "localhost", 80, socket.AF_INET, **STREAM),
        call("getaddrinfo", "db.LocalHost.", 80, **STREAM),
        call("gethostbyname", "a.b.localhost"),
        call("gethostbyaddr", "::1"),
        call("getaddrinfo", "ih", 80),
        call("getaddrinfo", "10.1.2.3", 80),
        call("getaddrinfo", "both.pifus.test", "no-such-service"),
    ]
    found = network.ask("pifus", *calls)
    assert found[0] == [(2, 1, 6, "", ("127.0.0.1", 80))]
    assert [entry[4][0] for entry in found[1]] == ["::1", "127.0.0.1"]
    assert found[2] == "127.0.0.1"
    assert found[3][0] == "localhost"
    assert network.server.asked == []


def test_the_next_name_server_helps(network: Network) -> None:
    """One that nobody is at, one that refuses (no server there), then the right one."""
    nobody = network.tap.host4.rsplit(".", 1)[0] + ".9"
    servers = f"{nobody},{network.tap.host4}:9,{network.tap.host4}"
    (found,) = network.ask("pifus", call("gethostbyname", "both.pifus.test"), server=servers)
    assert found == network.tap.host4


CLIENTS = r"""
import asyncio, socket, sys, threading
import requests
port = int(sys.argv[1])
from pifus._compat import _table
print(requests.get(f"http://both.pifus.test:{port}/", timeout=20).text)

async def fetch():
    reader, writer = await asyncio.open_connection("short", port)
    ours = writer.get_extra_info("socket").fileno() in _table.endpoints
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    print(ours, (await reader.read()).rpartition(b"\n")[2])
    writer.close()
    loop = asyncio.get_running_loop()
    print((await loop.getnameinfo(("10.1.2.3", 80)))[0])

asyncio.run(fetch())
# Without getaddrinfo: names in the calls of a socket.
with socket.socket() as sock:
    sock.connect(("four.sub.pifus.test", port))
    print(sock.getpeername()[1] == port)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    print(sock.sendto(b"x", ("four.sub.pifus.test", port)))
with socket.socket() as sock:  # the kernel's: the rules say so
    sock.bind(("localhost", 0))
    print(sock.fileno() in _table.endpoints, sock.getsockname()[0])
try:
    socket.socket().connect(("no.such.pifus.test", port))
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
import subprocess
code = "import socket; print(socket.gethostbyname('short'))"
subprocess.run([sys.executable, "-c", code], check=True)
"""


class _Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *arguments: Any) -> None:
        """Nobody reads it."""


def test_programs_that_ask_by_name(network: Network) -> None:
    """requests, asyncio, names given to a socket's methods, children: the stack asks for all."""
    tap = network.tap
    server = http.server.ThreadingHTTPServer((tap.host4, 0), _Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    network.server.asked.clear()
    try:
        done = subprocess.run(
            network.command("pifus", sys.executable, "-c", CLIENTS, str(server.server_port)),
            env=python_environment(),
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_SECONDS,
            check=False,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("hello", "True b'hello'", "both.pifus.test", "True", "1", "False 127.0.0.1", "True"),
        tap.host4,
    ]
    assert {each.peer for each in network.server.asked} == {tap.stack4}
