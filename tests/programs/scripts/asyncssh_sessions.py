"""asyncssh: a server and its clients: commands, 1 MB both ways by SFTP, tunnels both ways."""

import asyncio
import os
from pathlib import Path

import asyncssh

BLOB = os.urandom(1_000_000)
CLIENTS = 5


class Server(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == "right"

    def connection_requested(self, *where: object) -> bool:
        return True

    def server_requested(self, *where: object) -> bool:
        return True


async def command(process: asyncssh.SSHServerProcess) -> None:
    async for line in process.stdin:
        process.stdout.write(line.upper())
    process.stdout.write(f"ran {process.command}")
    process.exit(3)


def connect(port: int, password: str = "right") -> object:
    return asyncssh.connect(
        "127.0.0.1", port, username="user", password=password, known_hosts=None, config=None
    )


async def session(port: int, number: int) -> None:
    async with connect(port) as connection:
        result = await connection.run("it", input="a\nb\n")
        assert (result.stdout, result.exit_status) == ("A\nB\nran it", 3)
        async with connection.start_sftp_client() as sftp:
            await sftp.put("sent", f"there{number}")
            await sftp.get(f"there{number}", f"back{number}")


async def tunnels(port: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server, connect(port) as ssh:
        target = server.sockets[0].getsockname()[1]
        for forward in (ssh.forward_local_port, ssh.forward_remote_port):
            listener = await forward("127.0.0.1", 0, "127.0.0.1", target)
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.get_port())
            writer.write(b"hello")
            assert await reader.read() == b"hello"
            writer.close()
            listener.close()


async def main() -> None:
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        process_factory=command,
        sftp_factory=True,
    )
    port = server.get_port()
    await asyncio.gather(*(session(port, number) for number in range(CLIENTS)))
    await tunnels(port)
    try:
        await connect(port, "wrong")
    except asyncssh.PermissionDenied:
        server.close()
        await server.wait_closed()
    else:
        raise AssertionError("let in")


Path("sent").write_bytes(BLOB)
asyncio.run(main())
assert all(Path(f"back{number}").read_bytes() == BLOB for number in range(CLIENTS))
print("all well")
