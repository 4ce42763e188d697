"""Pyro5: a name server, a daemon of threads and of select; proxies, streams, one-way calls."""

import base64
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import Pyro5.api
import Pyro5.errors
from peers import free_port, python, serving
from Pyro5 import config

BLOB = os.urandom(1_000_000)


@Pyro5.api.expose
class Account:
    """Counts what it is told."""

    def __init__(self) -> None:
        self._sum = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> int:
        with self._lock:
            self._sum += number
            return self._sum

    @Pyro5.api.oneway
    def add_later(self, number: int) -> None:
        self.add(number)

    @property
    def sum(self) -> int:
        return self._sum

    def numbers(self, count: int) -> object:
        yield from range(count)

    def echo(self, data: object) -> object:
        return data

    def fail(self) -> None:
        raise ZeroDivisionError("remote")


def work(_: int) -> None:
    with Pyro5.api.Proxy("PYRONAME:account") as account:
        for _ in range(25):
            account.add(1)
        assert list(account.numbers(20)) == list(range(20))


def use(account: Pyro5.api.Proxy) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert account.sum == 200
    assert base64.b64decode(account.echo(BLOB)["data"]) == BLOB
    batch = Pyro5.api.BatchProxy(account)
    for _ in range(10):
        batch.add(1)
    assert list(batch()) == list(range(201, 211))
    try:
        account.fail()
    except ZeroDivisionError as error:
        assert error.args == ("remote",)
    else:
        raise AssertionError("no exception")
    account.add_later(5)
    while account.sum != 215:
        pass


def serve(kind: str) -> None:
    config.SERVERTYPE = kind
    with Pyro5.api.Daemon(host="127.0.0.1") as daemon:
        name_server = Pyro5.api.locate_ns()
        name_server.register("account", daemon.register(Account()))
        thread = threading.Thread(target=daemon.requestLoop)
        thread.start()
        with Pyro5.api.Proxy("PYRONAME:account") as account:
            use(account)
        name_server.remove("account")
        daemon.shutdown()
        thread.join()


port = free_port()
config.NS_HOST, config.NS_PORT = "127.0.0.1", port
config.COMMTIMEOUT = 30
command = ("-m", "Pyro5.nameserver", "--host", "127.0.0.1", "--port", str(port), "--nobc")
with serving("NS running on", *python(*command)):
    for kind in ("thread", "multiplex"):
        serve(kind)
print("all well")
