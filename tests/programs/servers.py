"""Real servers in the kernel, each on the TAP device's address of the machine."""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.certificates import Certificates

SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server runs.

    Attributes:
        directory: empty, and the server's own.
        host: the address that it listens on.
        client: the stack's address: what the server has to see of its clients.
        certificates: for servers with TLS.
    """

    directory: Path
    host: str
    client: str
    certificates: Certificates


def find(program: str) -> str | None:
    """A server's program; PostgreSQL's are in a directory of their version."""
    places = [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    places += map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    return shutil.which(program, path=os.pathsep.join(places))


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def _running(site: Site, port: int, *command: str, **options: Any) -> Iterator[None]:
    """A server from when it takes connections; it ends with the block."""
    log = site.directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, **options
        )
    try:
        end = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((site.host, port), SECONDS).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} does not run: {log.read_text(errors='replace')}")
            time.sleep(0.05)  # nobody tells when a server listens
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


@contextlib.contextmanager
def redis(site: Site) -> Iterator[tuple[object, ...]]:
    """redis-server, without a file."""
    port = _free_port(site.host)
    options = ["--bind", site.host, "--port", str(port), "--protected-mode", "no"]
    options += ["--dir", str(site.directory), "--save", "", "--appendonly", "no"]
    with _running(site, port, str(find("redis-server")), *options):
        yield site.host, port, site.client


@contextlib.contextmanager
def mosquitto(site: Site) -> Iterator[tuple[object, ...]]:
    """mosquitto, open to all, without a file."""
    port = _free_port(site.host)
    config = site.directory / "mosquitto.conf"
    config.write_text(
        f"listener {port} {site.host}\nallow_anonymous true\npersistence false\n"
        "log_dest stderr\nset_tcp_nodelay true\n"
    )
    with _running(site, port, str(find("mosquitto")), "-c", str(config)):
        yield site.host, port, site.client


@contextlib.contextmanager
def postgresql(site: Site) -> Iterator[tuple[object, ...]]:
    """A new database cluster; its server does not run as root, so it has another user."""
    port = _free_port(site.host)
    data = site.directory / "data"
    data.mkdir(mode=0o700)
    key = data.with_name("server.pem")
    shutil.copy(site.certificates.server, key)
    key.chmod(0o600)
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        options = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        for path in (data, key):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    make = [
        str(find("initdb")),
        "--auth=trust",
        "--username=postgres",
        "--no-sync",
        "-D",
        str(data),
    ]
    subprocess.run(make, check=True, capture_output=True, cwd="/", **options)
    (data / "pg_hba.conf").write_text("host all all all trust\n")
    settings = {
        "listen_addresses": site.host,
        "port": port,
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": key,
        "ssl_key_file": key,
        "fsync": "off",
    }
    words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    command = (str(find("postgres")), "-D", str(data), *words)
    with _running(site, port, *command, cwd="/", **options):
        yield site.host, port, site.client, site.certificates.authority


@contextlib.contextmanager
def sshd(site: Site) -> Iterator[tuple[object, ...]]:
    """OpenSSH's server for the user who runs this, by a new key."""
    port = _free_port(site.host)
    for name in ("host_key", "key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
        subprocess.run([*command, str(site.directory / name)], check=True)
    known = site.directory / "known_hosts"
    public = (site.directory / "host_key.pub").read_text()
    known.write_text(f"[{site.host}]:{port} {public}")
    files = site.directory / "files"
    files.mkdir()
    config = site.directory / "sshd_config"
    config.write_text(
        f"ListenAddress {site.host}\nPort {port}\nHostKey {site.directory}/host_key\n"
        f"AuthorizedKeysFile {site.directory}/key.pub\nPidFile none\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nUsePAM no\n"
        "Subsystem sftp internal-sftp\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # it insists on this directory
    # By its whole path: it starts itself again for each connection.
    with _running(site, port, str(find("sshd")), "-D", "-e", "-f", str(config)):
        who = getpass.getuser()
        yield site.host, port, site.client, who, site.directory / "key", known, files, port


@contextlib.contextmanager
def chromium(site: Site) -> Iterator[tuple[object, ...]]:
    """The one peer that is a client: the script serves, and starts it.

    It gives up its requests when an address of the machine changes, as those of a device that was
    just made do, when they turn out to be nobody else's.
    """
    tentative, flags = 0x40, 4  # IFA_F_TENTATIVE; the fifth word
    end = time.monotonic() + SECONDS
    addresses = Path("/proc/net/if_inet6")
    while any(
        int(line.split()[flags], 16) & tentative for line in addresses.read_text().splitlines()
    ):
        if time.monotonic() > end:
            raise RuntimeError(f"addresses are not settled: {addresses.read_text()}")
        time.sleep(0.05)  # nobody tells
    yield site.client, site.host, site.certificates.server, find("chromium")


@dataclass(frozen=True, slots=True)
class Server:
    """What a server needs, and what starts it: the arguments of the script."""

    programs: tuple[str, ...]
    start: Callable[[Site], AbstractContextManager[tuple[object, ...]]]

    def missing(self) -> list[str]:
        """Its programs that are not installed."""
        return [program for program in self.programs if find(program) is None]


SERVERS: Mapping[str, Server] = {
    "redis-server": Server(("redis-server",), redis),
    "mosquitto": Server(("mosquitto",), mosquitto),
    "PostgreSQL": Server(("postgres", "initdb"), postgresql),
    "OpenSSH sshd": Server(("sshd", "ssh-keygen"), sshd),
    "Chromium": Server(("chromium",), chromium),
}
