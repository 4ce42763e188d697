"""paramiko: commands, 4 MB both ways by SFTP, a tunnel through the server, on one connection."""

import hashlib
import io
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import paramiko

host, port, client_address, user, key, host_key, directory, tunnel_port = sys.argv[1:]
BLOB = os.urandom(4_000_000)


def commands(client: paramiko.SSHClient) -> None:
    _, stdout, _ = client.exec_command("echo $SSH_CONNECTION", timeout=60)
    assert stdout.read().split()[0].decode() == client_address
    stdin, stdout, stderr = client.exec_command("cat; echo told >&2; exit 7", timeout=60)

    def write() -> None:
        stdin.write(BLOB)
        stdin.channel.shutdown_write()

    writer = threading.Thread(target=write)
    writer.start()
    assert stdout.read() == BLOB
    writer.join()
    assert (stderr.read(), stdout.channel.recv_exit_status()) == (b"told\n", 7)

    def ask(number: int) -> bool:
        return client.exec_command(f"echo {number}", timeout=60)[1].read() == b"%d\n" % number

    with ThreadPoolExecutor(5) as pool:
        assert all(pool.map(ask, range(20)))


def files(client: paramiko.SSHClient) -> None:
    name = f"{directory}/blob"
    with client.open_sftp() as sftp:
        sftp.putfo(io.BytesIO(BLOB), name)
        assert sftp.stat(name).st_size == len(BLOB)
        with open(name, "rb") as file:
            assert file.read() == BLOB
        back = io.BytesIO()
        sftp.getfo(name, back)
        assert hashlib.sha256(back.getvalue()).digest() == hashlib.sha256(BLOB).digest()
        sftp.remove(name)
        assert sftp.listdir(directory) == []


def tunnel(client: paramiko.SSHClient) -> None:
    """A second session within a channel of the first."""
    channel = client.get_transport().open_channel(
        "direct-tcpip", (host, int(tunnel_port)), ("127.0.0.1", 0), timeout=60
    )
    with connected(sock=channel) as inner:
        assert inner.exec_command("echo within", timeout=60)[1].read() == b"within\n"


def connected(**options: object) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.load_host_keys(host_key)
    client.connect(
        host, int(port), user, key_filename=key, timeout=60, look_for_keys=False, **options
    )
    return client


with connected() as client:
    commands(client)
    files(client)
    tunnel(client)
print("all well")
