"""`pifus.monkey`, early and late, and the drop-in module on every Python that is at hand."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.certificates import Certificates
from tests.contract.conftest import errno_of, python_environment

ROOT = Path(__file__).resolve().parents[2]

TALK = """
def talk(create_server, create_connection):
    from pifus._compat import _table
    with create_server(("127.0.0.1", 0)) as listener:
        with create_connection(listener.getsockname(), 10) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"x" * 100)
                assert server.recv(200)
                server.setblocking(False)
                return sum(sock.fileno() in _table.endpoints for sock in (listener, client, server))
"""
EARLY = """
from pifus import monkey
monkey.patch()
import socket
from socket import create_connection, create_server
"""
LATE = """
import socket, ssl, selectors, http.client, asyncio
from socket import create_connection, create_server
before = socket.socket
from pifus import monkey
monkey.patch()
assert socket.socket is before
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("when", [EARLY, LATE], ids=["early", "late"])
def test_patch(when: str) -> None:
    assert run(
        when + TALK + "print(monkey.is_patched(), talk(create_server, create_connection))"
    ) == ("True 3\n")


def test_unpatch_gives_back_what_was() -> None:
    code = """
import os, socket
before = dict(vars(socket.socket)), dict(vars(socket)), os.sendfile
from pifus import monkey
assert not monkey.is_patched()
monkey.patch()
monkey.patch()
assert dict(vars(socket.socket)) != before[0]
monkey.unpatch()
monkey.unpatch()
assert not monkey.is_patched()
assert (dict(vars(socket.socket)), dict(vars(socket)), os.sendfile) == before
with socket.socket() as sock:
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 0
    from pifus._compat import _table
    print(sock.fileno() in _table.endpoints)
"""
    assert run(code) == "False\n"


def test_open_stack_sockets_survive_unpatch() -> None:
    code = """
import socket
from pifus import monkey
monkey.patch()
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname(), 10)
monkey.unpatch()
server, _ = listener.accept()
client.sendall(b"still")
print(server.recv(10))
with socket.socket() as kernel:
    assert kernel.connect_ex(listener.getsockname()) != 0
for sock in (listener, client, server):
    sock.close()
monkey.patch()
with socket.socket() as again:
    again.connect_ex(("127.0.0.1", 1))
"""
    assert run(code) == "b'still'\n"


def test_a_derived_class_made_before_is_patched_too() -> None:
    code = """
import socket
class Mine(socket.socket):
    pass
from pifus import monkey
monkey.patch()
from pifus._compat import _table
with Mine() as sock:
    print(sock.fileno() in _table.endpoints)
"""
    assert run(code) == "True\n"


def test_addresses_of_the_world_are_the_kernels_without_a_network(pifus_net: ModuleType) -> None:
    from pifus._compat import _table

    with pifus_net.socket() as sock:
        fd = sock.fileno()
        assert fd in _table.endpoints
        sock.setsockopt(pifus_net.SOL_SOCKET, pifus_net.SO_KEEPALIVE, 1)
        assert errno_of(sock.bind, ("203.0.113.1", 0)) == errno.EADDRNOTAVAIL
        assert sock.fileno() == fd
        assert fd not in _table.endpoints
        assert sock.getsockopt(pifus_net.SOL_SOCKET, pifus_net.SO_KEEPALIVE) == 1


def test_no_backend_is_a_clear_error() -> None:
    code = """
import os
os.environ["PIFUS_BACKEND"] = "no-such-backend"
import pifus.compat.socket as socket
try:
    socket.socket()
except ConnectionRefusedError as error:
    print("no-such-backend" in str(error))
"""
    assert run(code) == "True\n"


@pytest.mark.parametrize("value", ["many", "0", "16385"])
def test_a_wrong_number_of_sockets_is_a_clear_error(value: str) -> None:
    code = f"""
import os
os.environ["PIFUS_MAX_SOCKETS"] = {value!r}
import pifus.compat.socket as socket
try:
    socket.socket()
except ValueError as error:
    print(error)
"""
    assert run(code) == f"$PIFUS_MAX_SOCKETS is {value!r}: allowed is 1 to 16384\n"


def test_the_module_has_every_name_of_the_original(pifus_net: ModuleType) -> None:
    import socket

    assert set(dir(socket)) <= set(dir(pifus_net))
    assert pifus_net.AddressFamily is not socket.AddressFamily
    assert pifus_net.AF_INET == socket.AF_INET
    assert pifus_net.gaierror is socket.gaierror
    assert pifus_net.timeout is TimeoutError


VERSIONS = """
import sys
sys.path.append({root!r})
import _socket, types
# Without the C core, which is not built for this interpreter: the class and the module alone.
import pifus.compat.socket as socket
left, right = socket.socketpair()
with left, right:
    assert type(left) is socket.socket and issubclass(socket.socket, _socket.socket)
    left.sendall(b"x")
    assert right.makefile("rb").read(1) == b"x"
assert not hasattr(_socket.socket(_socket.AF_UNIX), "__dict__")
from pifus import monkey
import socket as original
monkey.patch()
left, right = original.socketpair()
left.send(b"y")
assert right.recv(1) == b"y"
left.close()
assert right.recv(1) == b""
right.close()
monkey.unpatch()
print("fine", socket.AddressFamily(2).name)
"""


def interpreters() -> list[str]:
    """Every CPython from 3.11 on that this machine has beside the running one."""
    import shutil

    found = {}
    for minor in range(11, 15):
        name = f"python3.{minor}"
        places = [*Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"), shutil.which(name)]
        for place in filter(None, map(str, filter(None, places))):
            probe = [place, "-c", "import sys; print(sys.version_info[:2])"]
            answer = subprocess.run(probe, capture_output=True, text=True, check=False)
            if answer.stdout.strip() == f"(3, {minor})":
                found.setdefault(minor, place)
    return [found[minor] for minor in sorted(found)]


@pytest.mark.parametrize("python", interpreters(), ids=lambda path: Path(path).name)
def test_the_module_executes_on_other_pythons(python: str) -> None:
    done = subprocess.run(
        [python, "-W", "error", "-c", VERSIONS.format(root=str(ROOT))],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "fine AF_INET\n", done.stderr


TLS = """
def talk_tls():
    import socket, ssl, sys, threading
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(sys.argv[2])
    client_context = ssl.create_default_context(cafile=sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), 10) as client:
            server, _ = listener.accept()
            def serve():
                with server_context.wrap_socket(server, server_side=True) as there:
                    there.sendall(there.recv(100).upper())
            thread = threading.Thread(target=serve)
            thread.start()
            with client_context.wrap_socket(client, server_hostname="localhost") as here:
                here.sendall(b"hello")
                assert here.recv(100) == b"HELLO"
                kind, engine = type(here), type(here._sslobj)
            thread.join()
    assert kind is ssl.SSLSocket
    return engine.__module__
"""
STACKED, KERNELS = "pifus._compat._tls", "_ssl"


@pytest.mark.parametrize("when", [EARLY, LATE], ids=["early", "late"])
def test_patch_reaches_tls(when: str, certificates: Certificates) -> None:
    """Whenever ssl is imported; and unpatch undoes it."""
    code = (
        "import sys\nassert 'ssl' not in sys.modules\n"
        + TLS
        + when
        + """
first = talk_tls()
import ssl
wired = "_wrap_socket" in vars(ssl.SSLContext)
monkey.unpatch()
print(first, wired, talk_tls(), "_wrap_socket" in vars(ssl.SSLContext))
"""
    )
    output = run(code, str(certificates.authority), str(certificates.server))
    assert output.split() == [STACKED, "True", KERNELS, "False"]


def test_unpatch_before_ssl_is_imported() -> None:
    code = """
import sys
from pifus import monkey
before = list(sys.meta_path)
monkey.patch()
monkey.unpatch()
assert sys.meta_path == before
assert "ssl" not in sys.modules
import ssl
assert "_wrap_socket" not in vars(ssl.SSLContext)
"""
    assert run(code) == ""


def test_the_drop_in_socket_module_needs_no_other_ssl(certificates: Certificates) -> None:
    """`import pifus.compat.socket as socket` beside the interpreter's ssl, imported later."""
    code = (
        TLS.replace("import socket, ssl", "import pifus.compat.socket as socket, ssl").replace(
            "kind is ssl.SSLSocket", "kind is not ssl.SSLSocket"
        )
        + "print(talk_tls())"
    )
    output = run(code, str(certificates.authority), str(certificates.server))
    assert output.split() == [STACKED]
