"""Files over a socket's descriptor, and numbers that get other files: kernel and pifus."""

from __future__ import annotations

from tests.contract.programs import HEAD, Run, run  # noqa: F401 - a fixture


def test_files_that_are_opened_over_a_descriptor(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
import io
near, far = pair()
raw = os.fdopen(os.dup(near.fileno()), "r+b", buffering=0)
assert isinstance(raw, io.FileIO) and raw.closefd and raw.readable() and raw.writable()
far.sendall(b"line\\nand more")
assert raw.readline() == b"line\\n"
into = bytearray(3)
while got := raw.readinto(into):
    if bytes(into[:got]).endswith(b"re"):
        break
assert raw.write(b"raw") == 3
assert exactly(far, 3) == b"raw"
raw.close()
with open(near.fileno(), "w", encoding="utf-8", closefd=False) as text:
    print("hé", file=text, flush=True)
    assert text.mode == "w" and text.encoding == "utf-8"
assert exactly(far, 4) == "hé\\n".encode()
with os.fdopen(os.dup(near.fileno()), "wb") as buffered:
    buffered.write(b"x" * 100_000)
    buffered.flush()
    assert exactly(far, 100_000) == b"x" * 100_000
far.sendall(b"first\\nsecond\\n")
far.shutdown(socket.SHUT_WR)
file = open(near.detach())  # the last of all
assert file.readlines() == ["first\\n", "second\\n"]
file.close()
assert far.recv(1) == b""
for mode in ("r+b", "w+"):
    near, far = pair()
    copy = os.dup(near.fileno())
    try:
        open(copy, mode)
    except io.UnsupportedOperation as error:
        print(error)
    try:
        os.close(copy)
    except OSError as error:
        print(error.errno)
    try:
        open(near.fileno(), "rb", buffering=0, closefd=False).write(b"x")
    except io.UnsupportedOperation as error:
        print(error)
"""
    )
    assert run(code) == "File or stream is not seekable.\n9\nFile not open for writing\n" * 2


def test_a_file_that_has_nothing_and_must_not_wait(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
near, far = pair()
os.set_blocking(near.fileno(), False)
with open(near.fileno(), "rb", buffering=0, closefd=False) as file:
    assert (file.read(1), file.readinto(bytearray(1)), file.readall()) == (None, None, None)
    far.sendall(b"x")
    assert select.select([file], [], [], 20)[0]
    assert file.read(1) == b"x"
    far.close()
    assert select.select([file], [], [], 20)[0]
    assert (file.read(1), file.readall()) == (b"", b"")
"""
    )
    assert run(code) == ""


def test_a_descriptor_that_is_replaced(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
near, far = pair()
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, near.fileno())
assert far.recv(1) == b""  # at once
try:
    near.send(b"x")
except OSError as error:
    print(error.errno)
far.close()
near.close()

(one, far_one), (two, far_two) = pair(), pair()
assert os.dup2(one.fileno(), two.fileno()) == two.fileno()
assert far_two.recv(1) == b""
two.sendall(b"by its number")
assert exactly(far_one, 13) == b"by its number"
one.close()
far_one.sendall(b"back")
assert exactly(two, 4) == b"back"
two.close()
assert far_one.recv(1) == b""

near, far = pair()
try:
    os.dup2(1_000_000, near.fileno())
except OSError as error:
    print(error.errno)
near.sendall(b"still there")
assert exactly(far, 11) == b"still there"
"""
    )
    assert run(code) == "88\n9\n"


def test_all_descriptors_are_closed_and_a_program_goes_on(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
def talk():
    near, far = pair()
    near.sendall(b"x")
    assert far.recv(1) == b"x"
    return near, far
kept, gone = talk()
os.dup2(kept.fileno(), 0)
os.closerange(3, 1000)
assert not os.path.exists("/proc/self/fd/%d" % gone.fileno())
again = socket.socket(fileno=0)
assert again.recv(1) == b""
for _ in range(20):
    for sock in talk():
        sock.close()
gone.detach()
kept.detach()
print("ok")
"""
    )
    assert run(code) == "ok\n"


def test_raw_files_that_are_made_by_their_class(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
import abc, io, tempfile
near, far = pair()
with io.FileIO(near.fileno(), "r+", closefd=False) as raw:
    assert isinstance(raw, io.FileIO) and not raw.closefd and raw.mode == "rb+"
    far.sendall(b"line\\nand more")
    assert raw.readline() == b"line\\n"
    into = bytearray(8)
    assert raw.readinto(into) == 8 and into == b"and more"
    assert raw.write(b"raw") == 3
assert exactly(far, 3) == b"raw"
class Upper(io.FileIO):
    def write(self, data):
        return super().write(bytes(data).upper())
with Upper(near.detach(), "w") as upper:
    assert upper.closefd
    buffered = io.BufferedWriter(upper)
    buffered.write(b"x")
    buffered.flush()
    assert buffered.detach() is upper
    assert upper.write(b"by a derived class") == 18
assert exactly(far, 19) == b"XBY A DERIVED CLASS" and far.recv(1) == b""

# Other files are as ever.
with tempfile.NamedTemporaryFile() as named:
    with io.FileIO(named.name, mode="w") as file:
        assert type(file) is type(open(named.name, "rb", 0)) and isinstance(file, io.FileIO)
        assert file.write(b"kept") == 4
    with Upper(named.name) as file:
        assert file.read() == b"kept" and file.name == named.name and file.closefd
    assert file.closed
    with io.FileIO(os.open(named.name, os.O_RDONLY)) as file:
        assert file.readall() == b"kept"
    with Upper(os.open(named.name, os.O_RDONLY), closefd=True) as file:
        fd = file.fileno()
        assert file.readall() == b"kept"
    assert not os.path.exists("/proc/self/fd/%d" % fd)
for arguments in (("/nowhere",), (-1,), (0, "no mode"), ("/nowhere", "r", False)):
    try:
        io.FileIO(*arguments)
    except (OSError, ValueError) as error:
        print(type(error).__name__, error)
assert issubclass(io.FileIO, io.RawIOBase) and issubclass(Upper, io.FileIO)
assert not isinstance(sys.stdin, io.FileIO) and not issubclass(int, io.FileIO)
assert not isinstance(raw, Upper) and isinstance(upper, Upper)
class Both(io.FileIO, io.RawIOBase):
    pass
print(io.FileIO.__name__, io.FileIO.__module__)
"""
    )
    assert run(code) == (
        "FileNotFoundError [Errno 2] No such file or directory: '/nowhere'\n"
        "ValueError negative file descriptor\n"
        "ValueError invalid mode: no mode\n"
        "ValueError Cannot use closefd=False with file name\n"
        "FileIO _io\n"
    )


def test_splicing_refuses_or_works(run: Run) -> None:  # noqa: F811
    code = (
        HEAD
        + """
import errno
near, far = pair()
reading, writing = os.pipe()
os.write(writing, b"to the peer")
try:
    os.splice(reading, near.fileno(), 100)
except OSError as error:
    assert error.errno == errno.EINVAL
    near.sendall(os.read(reading, 100))
assert exactly(far, 11) == b"to the peer"
far.sendall(b"from the peer")
try:
    os.splice(near.fileno(), writing, 13)
except OSError as error:
    assert error.errno == errno.EINVAL
    os.write(writing, near.recv(100))
assert os.read(reading, 100) == b"from the peer"
os.set_blocking(near.fileno(), False)
assert select.select([near], [], [], 0)[0] == []
other, end = os.pipe()
os.write(writing, b"pipes")
assert os.splice(reading, end, 5) == 5 and os.read(other, 10) == b"pipes"
"""
    )
    assert run(code) == ""
