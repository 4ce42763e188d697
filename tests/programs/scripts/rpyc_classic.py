"""rpyc: its classic server, threaded and forking: modules, callbacks, 5 MB by value, exceptions."""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rpyc
from peers import free_port, python, serving

BLOB = os.urandom(5_000_000)


def talk(port: int, whole: bool) -> int:
    connection = rpyc.classic.connect("127.0.0.1", port)
    remote_os = connection.modules.os
    if whole:
        assert connection.modules.hashlib.sha256(BLOB).digest() == hashlib.sha256(BLOB).digest()
        assert bytes(connection.eval("bytes")(1000)) == bytes(1000)
    calls: list[int] = []
    connection.execute("def each(callback, times):\n for number in range(times): callback(number)")
    connection.namespace["each"](calls.append, 50)
    assert calls == list(range(50))
    asynchronous = rpyc.async_(connection.modules.time.sleep)(0.01)
    asynchronous.wait()
    assert asynchronous.ready
    try:
        connection.modules.os.stat("/there is no such file")
    except FileNotFoundError:
        pass
    else:
        raise AssertionError("no exception")
    process = remote_os.getpid()
    connection.close()
    return process


command = str(Path(sys.executable).with_name("rpyc_classic"))
for mode in ("threaded", "forking"):
    port = free_port()
    options = ("--mode", mode, "--host", "127.0.0.1", "--port", str(port))
    with serving("server started", *python(command, *options)) as server:
        with ThreadPoolExecutor(8) as pool:
            processes = set(pool.map(lambda number, port=port: talk(port, number == 0), range(16)))
        assert (processes == {server.process.pid}) == (mode == "threaded")
        assert mode == "threaded" or len(processes) == 16
print("all well")
