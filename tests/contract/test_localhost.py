"""Names on the stack's own loopback; `localhost` in every mode."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from pifus import _policy
from tests.conftest import BackendProcess
from tests.contract.conftest import PATIENCE_SECONDS, python_environment
from tests.dns_server import CLOSED, SILENT, DnsServer, Zone
from tests.integration.test_tap import needs_tap, start_tap

CLI = [sys.executable, "-m", "pifus.cli", "run"]


@pytest.fixture
def served(pifus_net: ModuleType) -> Iterator[DnsServer]:
    """A name server that only the stack reaches."""
    names: Zone = {
        "host.pifus.test": {"A": ["127.0.0.1"], "AAAA": ["::1"]},
        "silent.pifus.test": SILENT,
        "closed.pifus.test": CLOSED,
    }
    with DnsServer(names, [("127.0.0.1", 0)], pifus_net) as server:
        yield server


@pytest.fixture
def dns() -> Iterator[Callable[[str], None]]:
    """Sets the name servers of this process; afterwards the environment's hold again."""

    def use(servers: str) -> None:
        _policy.set_current(_policy.parse_dns(servers.split(",")))

    yield use
    _policy.set_current(None)


def test_the_drop_in_module_asks_the_stack(
    pifus_net: ModuleType, served: DnsServer, dns: Callable[[str], None]
) -> None:
    dns(f"127.0.0.1:{served.port}")
    assert pifus_net.gethostbyname("host.pifus.test.") == "127.0.0.1"
    with pifus_net.create_server(("host.pifus.test.", 0)) as listener:
        port = listener.getsockname()[1]
        with pifus_net.create_connection(("host.pifus.test.", port), PATIENCE_SECONDS) as client:
            assert client.getpeername() == ("127.0.0.1", port)
    with pytest.raises(socket.gaierror) as caught:
        pifus_net.getaddrinfo("no.such.pifus.test.", 80)
    assert caught.value.errno == socket.EAI_NONAME
    assert {each.transport for each in served.asked} == {"udp"}


def test_nobody_answers(
    pifus_net: ModuleType,
    served: DnsServer,
    dns: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked as often as resolv.conf(5) says, and then given up."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:2")
    dns(f"127.0.0.1:{served.port}")
    with pytest.raises(socket.gaierror) as caught:
        pifus_net.getaddrinfo("silent.pifus.test.", 80)
    assert caught.value.errno == socket.EAI_AGAIN
    assert [each.kind for each in served.asked] == ["A", "A"]
    dns("127.0.0.1:9")  # nothing is there: told at once
    with pytest.raises(socket.gaierror) as caught:
        pifus_net.getaddrinfo("host.pifus.test.", 80)
    assert caught.value.errno == socket.EAI_AGAIN


def test_what_is_no_answer_is_not_taken_for_one(
    pifus_net: ModuleType, served: DnsServer, dns: Callable[[str], None]
) -> None:
    served.noisy = True
    dns(f"127.0.0.1:{served.port}")
    found = pifus_net.getaddrinfo("host.pifus.test.", 80, type=socket.SOCK_STREAM)
    assert [entry[4][0] for entry in found] == ["::1", "127.0.0.1"]
    with pytest.raises(socket.gaierror) as caught:
        pifus_net.getaddrinfo("closed.pifus.test.", 80)
    assert caught.value.errno == socket.EAI_AGAIN
    assert [each.transport for each in served.asked][-2:] == ["udp", "tcp"]


GREENLETS = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, socket
waiting = gevent.spawn(socket.gethostbyname, "silent.pifus.test.")
print(socket.gethostbyname("host.pifus.test."), waiting.ready())
waiting.kill()
"""


def test_gevent_asks_the_stack(served: DnsServer) -> None:
    """By its own threads; the other greenlets go on meanwhile."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [*CLI, "--dns", f"127.0.0.1:{served.port}", "--", sys.executable, "-c", GREENLETS],
        env={**python_environment(), "RES_OPTIONS": "timeout:1 attempts:1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("127.0.0.1 False\n", "")


PATCHED = """
import socket, sys
from pifus import monkey
early = socket.getaddrinfo
monkey.patch()
monkey.patch(dns=[sys.argv[1]])
print(socket.gethostbyname("host.pifus.test."), early("host.pifus.test.", 1)[0][4][0])
with socket.create_server(("127.0.0.1", 0)):
    monkey.unpatch()
    print(socket.gethostbyname is __import__("_socket").gethostbyname)
try:
    monkey.patch(dns=["somewhere"])
except ValueError as error:
    print("somewhere" in str(error), monkey.is_patched())
"""


def test_patch_takes_name_servers(served: DnsServer) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PATCHED, f"127.0.0.1:{served.port}"],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "127.0.0.1 ::1\nTrue\nTrue False\n"


def test_without_dnspython_the_message_names_the_extra() -> None:
    hide = "import sys; sys.modules['dns'] = None"
    for code in (
        f"{hide}; from pifus.cli import main; sys.exit(main(sys.argv[1:]))",
        f"{hide}; from pifus import monkey; monkey.patch(dns=['127.0.0.1'])",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, "run", "--dns", "127.0.0.1", "--", "true"],
            env=python_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "pifus[dns]" in done.stderr


# ---- localhost ----

LOCALHOST = """
import socket
out = [socket.gethostbyname("localhost")]
with socket.create_server(("localhost", 0)) as server:
    port = server.getsockname()[1]
    with socket.create_connection(("localhost", port), 20) as client:
        accepted, _ = server.accept()
        out += [client.getpeername() == server.getsockname() == ("127.0.0.1", port)]
        client.sendall(b"x")
        out += [accepted.recv(1)]
        accepted.close()
print(*out, socket.getfqdn("localhost"))
"""
MODES = {
    "loopback": [],
    "dns": ["--dns", "192.0.2.1"],
    "rules": ["--stack", "127.0.0.0/8"],
    "kernel": ["--kernel", "127.0.0.0/8", "--kernel", "::1"],
    "strict": ["--strict"],
    "dns and kernel": ["--dns", "192.0.2.1", "--kernel", "*"],
}


def run_in_mode(mode: str, *words: str) -> None:
    done = subprocess.run(
        [*CLI, *words, *MODES[mode], "--", sys.executable, "-W", "error", "-c", LOCALHOST],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_SECONDS,
        check=False,
    )
    found = (mode, done.stdout, done.stderr)
    assert found == (mode, "127.0.0.1 True b'x' localhost\n", "")


@pytest.mark.parametrize("mode", MODES)
def test_localhost_in_every_mode(mode: str) -> None:
    run_in_mode(mode)


@needs_tap
def test_localhost_in_every_mode_on_a_tap_device(
    start_backend: Callable[..., BackendProcess],
) -> None:
    tap = start_tap(start_backend)
    for mode in MODES:
        run_in_mode(mode, "--backend", tap.backend.path)
