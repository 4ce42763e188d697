"""pg8000: prepared statements, transactions, COPY, notifications, large values, in threads; TLS."""

import hashlib
import io
import os
import ssl
import sys
import threading
import time

import pg8000.native

host, port, client_address, authority = sys.argv[1:]
BLOB = os.urandom(5_000_000)
ROWS = 20_000
context = ssl.create_default_context(cafile=authority)
context.check_hostname = False  # the server's certificate names localhost


def connect(ssl_context: ssl.SSLContext | bool = False) -> pg8000.native.Connection:
    return pg8000.native.Connection(
        "postgres", host=host, port=int(port), database="postgres", ssl_context=ssl_context
    )


def rows(connection: pg8000.native.Connection) -> None:
    assert connection.run("SELECT host(inet_client_addr())") == [[client_address]]
    connection.run("DROP TABLE IF EXISTS numbers")
    connection.run("CREATE TABLE numbers (id int PRIMARY KEY, square bigint, name text)")
    text = "".join(f"{number}\t{number**2}\tname {number}\n" for number in range(ROWS))
    connection.run("COPY numbers FROM STDIN", stream=io.BytesIO(text.encode()))
    assert connection.run("SELECT count(*), sum(id) FROM numbers") == [[ROWS, sum(range(ROWS))]]
    found = connection.run("SELECT * FROM numbers ORDER BY id")
    assert found == [[number, number**2, f"name {number}"] for number in range(ROWS)]
    out = io.BytesIO()
    connection.run("COPY (SELECT * FROM numbers ORDER BY id) TO STDOUT", stream=out)
    assert out.getvalue() == text.encode()
    ((digest,),) = connection.run("SELECT sha256(:blob)", blob=BLOB)
    assert digest == hashlib.sha256(BLOB).digest()
    assert connection.run("SELECT :blob ::bytea", blob=BLOB) == [[BLOB]]


def transactions(connection: pg8000.native.Connection) -> None:
    connection.run("START TRANSACTION")
    connection.run("DELETE FROM numbers")
    connection.run("ROLLBACK")
    assert connection.run("SELECT count(*) FROM numbers") == [[ROWS]]
    try:
        connection.run("SELECT 1/0")
    except pg8000.exceptions.DatabaseError as error:
        assert error.args[0]["C"] == "22012"
    else:
        raise AssertionError("no error")


def in_threads() -> None:
    """Each with a connection of its own, all changing one row."""
    with_one = connect()
    with_one.run("UPDATE numbers SET square = 0 WHERE id = 0")

    def work() -> None:
        connection = connect()
        statement = connection.prepare("UPDATE numbers SET square = square + :by WHERE id = 0")
        for _ in range(100):
            statement.run(by=2)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert with_one.run("SELECT square FROM numbers WHERE id = 0") == [[1600]]
    with_one.close()


def notified(connection: pg8000.native.Connection) -> None:
    connection.run("LISTEN news")
    other = connect()
    for number in range(10):
        other.run(f"NOTIFY news, '{number}'")
    other.close()
    end = time.monotonic() + 30
    while len(connection.notifications) < 10:
        assert time.monotonic() < end
        connection.run("SELECT 1")  # they come along with answers
    assert [payload for _, _, payload in connection.notifications] == [str(n) for n in range(10)]


for ssl_context in (False, context):
    connection = connect(ssl_context)
    used = connection.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert used == [[bool(ssl_context)]]
    rows(connection)
    transactions(connection)
    in_threads()
    notified(connection)
    connection.close()
print("all well")
