"""An HTTPS server of the standard library, and its clients."""

import http.client
import http.server
import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

authority, certificate = sys.argv[1:]
BODY = os.urandom(300_000)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server_context.load_cert_chain(certificate)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.socket = server_context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
port = server.server_address[1]
context = ssl.create_default_context(cafile=authority)

connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
for _ in range(3):
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.read() == BODY
    connection.request("POST", "/", body=BODY)
    response = connection.getresponse()
    assert (response.status, response.read()) == (201, BODY)
connection.close()

with urllib.request.urlopen(f"https://localhost:{port}/", context=context, timeout=30) as response:
    assert response.read() == BODY

try:
    urllib.request.urlopen(f"https://127.0.0.1:{port}/", timeout=30)
except urllib.error.URLError as error:
    reason = error.reason
else:
    reason = None
assert isinstance(reason, ssl.SSLCertVerificationError), reason

pem = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=authority, timeout=30)
assert pem.strip() in Path(certificate).read_text()

results = []


def ask() -> None:
    with urllib.request.urlopen(f"https://localhost:{port}/", context=context) as response:
        results.append(response.read() == BODY)


threads = [threading.Thread(target=ask) for _ in range(20)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert results == [True] * 20
server.shutdown()
server.server_close()
print("all well")
