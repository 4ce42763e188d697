"""aiosmtpd: mail to its controller, with STARTTLS and a login, and by LMTP; many at once."""

import hashlib
import os
import smtplib
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import AuthResult, Envelope, Session
from peers import free_port

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
client_context = ssl.create_default_context(cafile=authority)
TIMES = 40


class Box:
    """Keeps the digests of what it was sent."""

    def __init__(self) -> None:
        self.got: dict[str, bytes] = {}

    async def handle_DATA(self, server: object, session: Session, envelope: Envelope) -> str:
        for address in envelope.rcpt_tos:
            self.got[address] = hashlib.sha256(envelope.content).digest()
        return "250 kept"


def login(server: object, session: object, envelope: object, how: str, data: object) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"user", b"secret"))


class LmtpController(Controller):
    def factory(self) -> LMTP:
        return LMTP(self.handler)


def mail(number: int) -> bytes:
    lines = [b"Subject: %d" % number, b"", *[os.urandom(30).hex().encode()] * (number * 100)]
    return b"\r\n".join([*lines, b".a line with a dot", b""])


def send(port: int, number: int, kind: type[smtplib.SMTP], secure: bool) -> tuple[str, bytes]:
    content = mail(number)
    with kind("localhost", port, timeout=30) as client:
        if secure:
            client.starttls(context=client_context)
            client.login("user", "secret")
        address = f"{number}@example.org"
        assert client.sendmail("me@example.org", [address], content) == {}
    return address, hashlib.sha256(content).digest()


def exchange(controller: Controller, kind: type[smtplib.SMTP], secure: bool) -> None:
    controller.start()
    try:
        with ThreadPoolExecutor(10) as pool:
            sent = dict(pool.map(lambda n: send(controller.port, n, kind, secure), range(TIMES)))
        assert controller.handler.got == sent
    finally:
        controller.stop()


def controller(kind: type[Controller] = Controller, **options: object) -> Controller:
    return kind(Box(), hostname="127.0.0.1", port=free_port(), **options)


exchange(controller(), smtplib.SMTP, secure=False)
options = {"tls_context": server_context, "require_starttls": True, "authenticator": login}
exchange(controller(**options), smtplib.SMTP, secure=True)
exchange(controller(LmtpController), smtplib.LMTP, secure=False)
print("all well")
