"""pyftpdlib: active and passive transfers, appended, resumed; by select, threads, processes; TLS"""

import ftplib
import io
import os
import ssl
import sys
from pathlib import Path

from peers import python, serving

authority, certificate = sys.argv[1:]
client_context = ssl.create_default_context(cafile=authority)
BLOB = os.urandom(3_000_000)
SERVER = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer, MultiprocessFTPServer, ThreadedFTPServer
kind, directory, certificate = sys.argv[1:]
handler = TLS_FTPHandler if kind == "TLS" else FTPHandler
handler.authorizer = DummyAuthorizer()
handler.authorizer.add_user("user", "secret", directory, perm="elradfmwMT")
handler.certfile = certificate
servers = {"threads": ThreadedFTPServer, "processes": MultiprocessFTPServer}
server = servers.get(kind, FTPServer)(("127.0.0.1", 0), handler)
print("port", server.address[1], flush=True)
server.serve_forever()
"""


def use(client: ftplib.FTP, name: str) -> None:
    client.storbinary(f"STOR {name}", io.BytesIO(BLOB))
    assert client.size(name) == len(BLOB)
    parts: list[bytes] = []
    client.retrbinary(f"RETR {name}", parts.append)
    assert b"".join(parts) == BLOB
    client.storbinary(f"APPE {name}", io.BytesIO(b"more"))
    parts.clear()
    client.retrbinary(f"RETR {name}", parts.append, rest=len(BLOB) - 10)
    assert b"".join(parts) == BLOB[-10:] + b"more"
    assert name in client.nlst()
    assert name in [entry for entry, _ in client.mlsd()]


def session(port: int, number: int, secure: bool) -> None:
    kind = ftplib.FTP_TLS if secure else ftplib.FTP
    options = {"context": client_context} if secure else {}
    with kind(timeout=30, **options) as client:
        client.connect("localhost", port)
        client.login("user", "secret")
        if secure:
            client.prot_p()
        client.set_pasv(number % 2 == 0)
        use(client, f"file {number}")
        client.rename(f"file {number}", f"done {number}")


for kind in ("select", "threads", "processes", "TLS"):
    directory = Path(kind)
    directory.mkdir()
    command = python("-c", SERVER, kind, str(directory.resolve()), certificate)
    with serving("port ", *command) as server:
        port = int(next(line for line in server.lines if line.startswith("port ")).split()[1])
        for number in range(8):
            session(port, number, kind == "TLS")
    assert sorted(path.name for path in directory.iterdir()) == [f"done {n}" for n in range(8)]
    assert all(path.read_bytes() == BLOB + b"more" for path in directory.iterdir())
print("all well")
