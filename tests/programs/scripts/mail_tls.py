"""STARTTLS and TLS of the mail and file protocols' clients, each against the least of a server."""

import ftplib
import imaplib
import io
import poplib
import smtplib
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable

authority, certificate = sys.argv[1:]
server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
context = ssl.create_default_context(cafile=authority)


class Lines(socketserver.BaseRequestHandler):
    """Reads lines and answers; turns to TLS in the middle."""

    greeting = b""
    starts_in_tls = False

    def setup(self) -> None:
        self.request.settimeout(30)
        self.sock = self.request
        if self.starts_in_tls:
            self.to_tls()
        self.file = self.sock.makefile("rb")

    def to_tls(self) -> None:
        self.sock = server_context.wrap_socket(self.sock, server_side=True)
        self.file = self.sock.makefile("rb")

    def handle(self) -> None:
        self.send(self.greeting)
        while line := self.file.readline():
            if not self.answer(line.strip()):
                break

    def send(self, line: bytes) -> None:
        if line:
            self.sock.sendall(line + b"\r\n")

    def answer(self, line: bytes) -> bool:
        raise NotImplementedError

    def finish(self) -> None:
        self.sock.close()


class Smtp(Lines):
    greeting = b"220 here"

    def answer(self, line: bytes) -> bool:
        verb = line.split()[0].upper()
        if verb == b"EHLO":
            self.send(b"250-here\r\n250 STARTTLS")
        elif verb == b"STARTTLS":
            self.send(b"220 go on")
            self.to_tls()
        elif verb == b"DATA":
            self.send(b"354 go on")
            while (line := self.file.readline()) != b".\r\n":
                received.append(line)
            self.send(b"250 taken")
        else:
            self.send(b"221 bye" if verb == b"QUIT" else b"250 ok")
        return verb != b"QUIT"


class Imap(Lines):
    greeting = b"* OK here"

    def answer(self, line: bytes) -> bool:
        tag, verb = line.split()[:2]
        if verb == b"CAPABILITY":
            self.send(b"* CAPABILITY IMAP4REV1 STARTTLS")
        if verb == b"LOGOUT":
            self.send(b"* BYE")
        self.send(tag + b" OK done")
        if verb == b"STARTTLS":
            self.to_tls()
        return verb != b"LOGOUT"


class Imaps(Imap):
    starts_in_tls = True


class Pop(Lines):
    greeting = b"+OK here"

    def answer(self, line: bytes) -> bool:
        if line == b"CAPA":
            self.send(b"+OK\r\nSTLS\r\n.")
        elif line == b"STAT":
            self.send(b"+OK 3 1000")
        else:
            self.send(b"+OK")
        if line == b"STLS":
            self.to_tls()
        return line != b"QUIT"


class Pops(Pop):
    starts_in_tls = True


class Ftp(Lines):
    greeting = b"220 here"

    def answer(self, line: bytes) -> bool:
        verb = line.split()[0].upper()
        if verb == b"AUTH":
            self.send(b"234 go on")
            self.to_tls()
        elif verb == b"PASV":
            self.data = socket.create_server(("127.0.0.1", 0))
            port = self.data.getsockname()[1]
            self.send(b"227 (127,0,0,1,%d,%d)" % divmod(port, 256))
        elif verb == b"RETR":
            plain, _ = self.data.accept()
            self.data.close()
            self.send(b"150 coming")
            with server_context.wrap_socket(plain, server_side=True) as sock:
                sock.sendall(CONTENT)
                sock.unwrap().close()
            self.send(b"226 done")
        elif verb == b"CCC":
            self.send(b"200 in the clear")
            self.sock = self.sock.unwrap()
            self.file = self.sock.makefile("rb")
        elif verb == b"QUIT":
            self.send(b"221 bye")
            return False
        else:
            self.send({b"USER": b"331 password", b"PASS": b"230 in"}.get(verb, b"200 ok"))
        return True


CONTENT = bytes(range(256)) * 1000
received: list[bytes] = []


def serving(handler: type[Lines], talk: Callable[[int], None]) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        talk(server.server_address[1])
        server.shutdown()


def smtp(port: int) -> None:
    with smtplib.SMTP("localhost", port, timeout=30) as client:
        client.starttls(context=context)
        assert isinstance(client.sock, ssl.SSLSocket)
        client.sendmail("me@example.org", ["you@example.org"], "Subject: x\n\n" + "text\n" * 5000)
    assert received.count(b"text\r\n") == 5000


def imap(port: int) -> None:
    with imaplib.IMAP4("localhost", port, timeout=30) as client:
        client.starttls(context)
        assert client.noop()[0] == "OK"


def imaps(port: int) -> None:
    with imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=30) as client:
        assert client.noop()[0] == "OK"


def pop(port: int) -> None:
    client = poplib.POP3("localhost", port, timeout=30)
    client.stls(context)
    assert client.stat() == (3, 1000)
    client.quit()


def pops(port: int) -> None:
    client = poplib.POP3_SSL("localhost", port, context=context, timeout=30)
    assert client.stat() == (3, 1000)
    client.quit()


def ftp(port: int) -> None:
    client = ftplib.FTP_TLS(context=context, timeout=30)
    client.connect("localhost", port)
    client.login("me", "secret")
    client.prot_p()
    into = io.BytesIO()
    client.retrbinary("RETR file", into.write)
    assert into.getvalue() == CONTENT
    client.ccc()
    client.voidcmd("NOOP")
    client.quit()


serving(Smtp, smtp)
serving(Imap, imap)
serving(Imaps, imaps)
serving(Pop, pop)
serving(Pops, pops)
serving(Ftp, ftp)
print("all well")
