"""waitress with falcon, cheroot with bottle: many requests, uploads, streams; TLS."""

import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import bottle
import cheroot.ssl.builtin
import cheroot.wsgi
import falcon
import requests
import waitress

BLOB = b"z" * 1_000_000


class Resource:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = {"from": request.remote_addr, **request.params}

    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = {"length": len(request.bounded_stream.read())}


def with_falcon() -> Callable[..., object]:
    application = falcon.App()
    application.add_route("/", Resource())
    return application


def with_bottle() -> Callable[..., object]:
    application = bottle.Bottle()
    bottle.BaseRequest.MEMFILE_MAX = 2 * len(BLOB)

    @application.get("/")
    def get() -> dict[str, str]:
        return {"from": bottle.request.remote_addr, **bottle.request.query}

    @application.post("/")
    def post() -> dict[str, int]:
        return {"length": len(bottle.request.body.read())}

    @application.get("/stream")
    def stream() -> Iterator[bytes]:
        for number in range(100):
            yield b"line %d\n" % number

    return application


def use(url: str, authority: str) -> None:
    def work(number: int) -> None:
        with requests.Session() as session:
            for turn in range(10):
                got = session.get(url, params={"turn": turn}, verify=authority).json()
                assert got == {"from": "127.0.0.1", "turn": str(turn)}
            answer = session.post(url, data=BLOB, verify=authority).json()
            assert answer == {"length": len(BLOB)}

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(work, range(20)))


def main(authority: str, certificate: str) -> None:
    server = waitress.create_server(with_falcon(), host="127.0.0.1", port=0, threads=12)
    thread = threading.Thread(target=server.run, daemon=True)  # it has no end but the program's
    thread.start()
    use(f"http://127.0.0.1:{server.effective_port}/", authority)
    server.task_dispatcher.shutdown()
    for scheme in ("http", "https"):
        gateway = cheroot.wsgi.Server(("127.0.0.1", 0), with_bottle(), numthreads=12)
        if scheme == "https":
            adapter = cheroot.ssl.builtin.BuiltinSSLAdapter(certificate, certificate)
            adapter.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            adapter.context.load_cert_chain(certificate)
            gateway.ssl_adapter = adapter
        gateway.prepare()
        thread = threading.Thread(target=gateway.serve)
        thread.start()
        url = f"{scheme}://127.0.0.1:{gateway.bind_addr[1]}/"
        use(url, authority)
        streamed = requests.get(f"{url}stream", verify=authority, timeout=30).content
        assert streamed.count(b"line") == 100
        gateway.stop()
        thread.join()


main(*sys.argv[1:])
print("all well")
