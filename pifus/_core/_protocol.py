"""The control connection: what a client and the control plane of the backend say to each other.

A UNIX SOCK_SEQPACKET connection; one JSON object per packet, at most 64 KiB. The client asks, the
backend answers each request with exactly one message, in order. A request may have an "id", a
number, which comes back in its answer:

    {"type": "attach", "abi": 2, "pid": 7, "name": "app", "max_sockets": 1024, "queue_depth": 64,
     "rx_bytes": 262144, "arena_bytes": 16777216, "priority": "high"}
        -> {"type": "attached", "session": 3} with four descriptors: c2b, b2c, public, doorbell.
           If one descriptor came along, as with "show", the answer has its "ticket", too
    {"type": "mirrors", "count": 16}
        -> {"type": "mirrors", "first": 40, "count": 16} with `count` descriptors
    {"type": "bell"}
        -> {"type": "bell"} with one descriptor: readable when completions came for a client that
           waits for them by it, at its end when the session has ended
    {"type": "show"} with one descriptor, a mirror that some process got for one of its sockets
        -> {"type": "shown", "ticket": 5}: by which its socket can be adopted
    {"type": "status", "after": 0}
        -> {"type": "status", …, "sessions": […], "more": false}; the sessions with a greater number
           than `after`, as many as fit
    {"type": "detach"}
        -> {"type": "detached", "remaining": 2}: so many other clients; then both sides close
    anything else
        -> {"type": "error", "errno": 22, "message": "…"}

The end of the connection, for whatever reason, is the end of the client.
"""

import errno
import json
import os
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from pifus.errors import ProtocolError

ABI_VERSION: Final = 9
MESSAGE_BYTES_MAX: Final = 65536
MIRRORS_MAX: Final = 64
ATTACH_FDS: Final = 4
NAME_CHARS_MAX: Final = 128
PRIORITIES: Final = ("high", "medium", "low")

# The ranges of native/shm/abi.h; a test compares them.
SOCKETS_MAX: Final = 16384
QUEUE_DEPTH_MIN: Final = 4
QUEUE_DEPTH_MAX: Final = 4096
RX_BYTES_MIN: Final = 4096
RX_BYTES_MAX: Final = 8388608
ARENA_BYTES_MIN: Final = 65536
ARENA_BYTES_MAX: Final = 1073741824
ARENA_BYTES_STEP: Final = 65536

Message = dict[str, Any]


class InvalidMessage(Exception):  # noqa: N818 - not an error of this process
    """A request that is not allowed; the text is for the one who sent it.

    Attributes:
        code: the errno to answer with.
        fatal: nothing after it can be trusted: close the connection.
    """

    def __init__(self, message: str, code: int = errno.EINVAL, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.fatal = fatal


def check_int(what: str, value: object, low: int, high: int) -> int:
    """Returns `value` if it is a whole number in the range.

    Raises:
        InvalidMessage: it is not.
    """
    if type(value) is not int or not low <= value <= high:
        raise InvalidMessage(f"{what} is {_short(value)}; allowed is {low} to {high}")
    return value


def check_power_of_two(what: str, value: object, low: int, high: int) -> int:
    """Returns `value` if it is a power of two in the range.

    Raises:
        InvalidMessage: it is not.
    """
    if type(value) is not int or not low <= value <= high or value & (value - 1):
        raise InvalidMessage(
            f"{what} is {_short(value)}; allowed is a power of two, {low} to {high}"
        )
    return value


@dataclass(frozen=True, slots=True)
class Attach:
    """The request for a session. Sizes in bytes and entries; `pid` is informative only."""

    type: ClassVar[str] = "attach"

    abi: int
    pid: int
    name: str
    max_sockets: int
    queue_depth: int
    rx_bytes: int
    arena_bytes: int
    priority: str

    def __post_init__(self) -> None:
        if self.abi != ABI_VERSION or type(self.abi) is not int:
            raise InvalidMessage(
                f"abi is {_short(self.abi)}; this backend speaks {ABI_VERSION}: "
                "use the same pifus on both sides",
                errno.EPROTO,
            )
        check_int("pid", self.pid, 1, 2**31 - 1)
        if (
            not isinstance(self.name, str)
            or len(self.name) > NAME_CHARS_MAX
            or not self.name.isprintable()
        ):
            raise InvalidMessage(
                f"name is {_short(self.name)}; allowed are up to {NAME_CHARS_MAX} "
                "printable characters"
            )
        check_int("max_sockets", self.max_sockets, 1, SOCKETS_MAX)
        check_power_of_two("queue_depth", self.queue_depth, QUEUE_DEPTH_MIN, QUEUE_DEPTH_MAX)
        check_power_of_two("rx_bytes", self.rx_bytes, RX_BYTES_MIN, RX_BYTES_MAX)
        check_int("arena_bytes", self.arena_bytes, ARENA_BYTES_MIN, ARENA_BYTES_MAX)
        if self.arena_bytes % ARENA_BYTES_STEP:
            raise InvalidMessage(
                f"arena_bytes is {self.arena_bytes}; allowed is a multiple of {ARENA_BYTES_STEP}"
            )
        if not isinstance(self.priority, str) or self.priority not in PRIORITIES:
            raise InvalidMessage(
                f"priority is {_short(self.priority)}; allowed is {', '.join(PRIORITIES)}"
            )


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The request for `count` mirror descriptors."""

    type: ClassVar[str] = "mirrors"

    count: int

    def __post_init__(self) -> None:
        check_int("count", self.count, 1, MIRRORS_MAX)


@dataclass(frozen=True, slots=True)
class Bell:
    """The request for the descriptor by which completions are waited for."""

    type: ClassVar[str] = "bell"


@dataclass(frozen=True, slots=True)
class Show:
    """Shows the one descriptor that comes with it: whoever holds a mirror may have its socket."""

    type: ClassVar[str] = "show"


@dataclass(frozen=True, slots=True)
class Status:
    """The request for statistics, with the sessions that come after number `after`."""

    type: ClassVar[str] = "status"

    after: int = 0

    def __post_init__(self) -> None:
        check_int("after", self.after, 0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Detach:
    """The announcement that the client closes: answered when its session has ended."""

    type: ClassVar[str] = "detach"


Request = Attach | Mirrors | Bell | Show | Status | Detach

_REQUESTS: Final[
    dict[
        str,
        type[Attach] | type[Mirrors] | type[Bell] | type[Show] | type[Status] | type[Detach],
    ]
] = {kind.type: kind for kind in (Attach, Mirrors, Bell, Show, Status, Detach)}


def encode(message: Message) -> bytes:
    """The packet of a message."""
    return json.dumps(message, separators=(",", ":")).encode()


def encode_request(request: Request, number: int | None = None) -> bytes:
    """The packet of a request, and the "id" of its answer."""
    message = {"type": request.type, **asdict(request)}
    if number is not None:
        message["id"] = number
    return encode(message)


def split_attach(request: Attach) -> tuple[bytes, bytes]:
    """The packet of the request, before and behind the number of the process."""
    head, found, tail = encode_request(request).partition(b'"pid":%d' % request.pid)
    return head + found[: len(b'"pid":')], tail


def refusal(code: int, message: str) -> Message:
    """An answer: an errno, and a sentence for the user."""
    return {"type": "error", "errno": code, "message": message}


def decode(packet: bytes) -> Message:
    """The message in a packet.

    Raises:
        InvalidMessage: too long, no JSON, no object, or without a type. Always fatal.
    """
    if len(packet) > MESSAGE_BYTES_MAX:
        raise InvalidMessage(
            f"the message is longer than {MESSAGE_BYTES_MAX} bytes", errno.EMSGSIZE, fatal=True
        )
    try:
        message = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(
            f"the message is not JSON: {str(error)[:100]}", errno.EBADMSG, fatal=True
        ) from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise InvalidMessage(
            'the message is not a JSON object with a "type"', errno.EBADMSG, fatal=True
        )
    return message


def take_id(message: Message) -> int | None:
    """Takes the "id" out of a request.

    Raises:
        InvalidMessage: it is no number.
    """
    if "id" not in message:
        return None
    return check_int("id", message.pop("id"), 1, 2**63 - 1)


def decode_request(message: Message) -> Request:
    """The request that a message is.

    Raises:
        InvalidMessage: with a sentence that names the value and what is allowed.
    """
    name = message.pop("type")
    kind = _REQUESTS.get(name)
    if kind is None:
        raise InvalidMessage(f"type is {_short(name)}; allowed is {', '.join(_REQUESTS)}")
    fields = kind.__dataclass_fields__
    known = [field for field in fields if field != "type"]
    unknown = sorted(set(message) - set(known))
    if unknown:
        raise InvalidMessage(
            f"{name} has no field {_short(unknown[0])}; allowed is {', '.join(known) or 'none'}"
        )
    required = [field for field in known if not (kind is Status and field == "after")]
    missing = [field for field in required if field not in message]
    if missing:
        raise InvalidMessage(f"{name} needs the field {missing[0]}")
    return kind(**message)


def decode_reply(packet: bytes) -> Message:
    """An answer of the backend.

    Raises:
        ProtocolError: it is none that this version understands.
    """
    try:
        return decode(packet)
    except InvalidMessage as error:
        raise ProtocolError(errno.EPROTO, f"bad answer of the backend: {error}") from None


def check_reply(message: Message, expected: str) -> Message:
    """The backend's answer, which has to be of type `expected`.

    Raises:
        OSError: the backend refused: its errno and its sentence.
        ProtocolError: the answer is another one.
    """
    if message["type"] == "error":
        code = message.get("errno")
        code = code if type(code) is int and code in errno.errorcode else errno.EPROTO
        raise OSError(code, str(message.get("message") or os.strerror(code)))
    if message["type"] != expected:
        raise ProtocolError(
            errno.EPROTO, f"the backend answered {_short(message['type'])}, not {expected!r}"
        )
    return message


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
