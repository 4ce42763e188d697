"""Who is attached, and who may be."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, field

from pifus._core import _protocol
from pifus._core._protocol import Attach, InvalidMessage
from pifus.backend._config import Config

# Sessions whose client is gone while the stack still sends their last bytes may be as many again:
# more means that somebody attaches and dies faster than the network forgets.
_LINGERING_FACTOR = 2
# The rest of a status message is small; a reader takes the sessions page by page.
_PAGE_BYTES = _protocol.MESSAGE_BYTES_MAX * 3 // 4


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a control connection, as the kernel says."""

    pid: int
    uid: int


@dataclass(slots=True)
class Record:
    """A session.

    Attributes:
        number: its number in the C core.
        peer: whose it is.
        granted: what was asked for, which is what was granted.
        priority: the best priority granted.
        since: when it attached, of time.monotonic.
        attached: the client is there; otherwise the stack is still sending its last bytes.
        ended: the stack has taken note that the client is gone.
    """

    number: int
    peer: Peer
    granted: Attach
    priority: str
    since: float = field(default_factory=time.monotonic)
    attached: bool = True
    ended: bool = False

    def describe(self) -> _protocol.Message:
        """For `pifus status`."""
        return {
            "session": self.number,
            "pid": self.peer.pid,
            "uid": self.peer.uid,
            "name": self.granted.name,
            "priority": self.priority,
            "max_sockets": self.granted.max_sockets,
            "queue_depth": self.granted.queue_depth,
            "rx_bytes": self.granted.rx_bytes,
            "arena_bytes": self.granted.arena_bytes,
            "attached": self.attached,
            "seconds": round(time.monotonic() - self.since, 3),
        }


class Sessions:
    """The sessions of a backend, and its limits."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._records: dict[int, Record] = {}
        self._attached = 0
        self._by_user: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._records)

    @property
    def attached(self) -> int:
        """How many clients there are."""
        return self._attached

    @property
    def lingering(self) -> int:
        """How many sessions without a client the stack has not finished yet."""
        return len(self._records) - self._attached

    @property
    def ending(self) -> bool:
        """True while the stack has not taken note of the end of a client."""
        return any(not (one.attached or one.ended) for one in self._records.values())

    def check(self, request: Attach, peer: Peer) -> str:
        """The best priority that the client is granted.

        Raises:
            InvalidMessage: a limit of this backend; the text says which, and how great it is.
        """
        config = self._config
        if request.max_sockets > config.max_sockets:
            raise InvalidMessage(
                f"max_sockets is {request.max_sockets}; this backend allows 1 to "
                f"{config.max_sockets} (--max-sockets)"
            )
        wanted = request.max_sockets * request.rx_bytes + request.arena_bytes
        if wanted > config.max_client_bytes:
            raise InvalidMessage(
                f"max_sockets * rx_bytes + arena_bytes is {wanted}; this backend allows up to "
                f"{config.max_client_bytes} (--max-client-bytes)",
                errno.ENOMEM,
            )
        if self._attached >= config.max_clients:
            raise InvalidMessage(
                f"{self._attached} clients are attached; this backend allows "
                f"{config.max_clients} (--max-clients)",
                errno.EUSERS,
            )
        if self._by_user.get(peer.uid, 0) >= config.max_clients_per_user:
            raise InvalidMessage(
                f"user {peer.uid} has {self._by_user[peer.uid]} clients attached; this backend "
                f"allows {config.max_clients_per_user} for each (--max-clients-per-user)",
                errno.EUSERS,
            )
        if len(self._records) >= _LINGERING_FACTOR * config.max_clients:
            raise InvalidMessage(
                f"{self.lingering} earlier clients have bytes left to send: try again later",
                errno.EAGAIN,
            )
        best = _protocol.PRIORITIES.index(config.best_priority)
        return _protocol.PRIORITIES[max(best, _protocol.PRIORITIES.index(request.priority))]

    def add(self, number: int, peer: Peer, request: Attach, priority: str) -> Record:
        """Notes a session that was made."""
        record = Record(number, peer, request, priority)
        self._records[number] = record
        self._attached += 1
        self._by_user[peer.uid] = self._by_user.get(peer.uid, 0) + 1
        return record

    def detach(self, record: Record) -> None:
        """Notes that the client is gone."""
        record.attached = False
        self._attached -= 1
        self._by_user[record.peer.uid] -= 1
        if not self._by_user[record.peer.uid]:
            del self._by_user[record.peer.uid]

    def get(self, number: int) -> Record | None:
        """The session of that number, if it is not freed yet."""
        return self._records.get(number)

    def freed(self, number: int) -> None:
        """Notes that nothing of the session is left."""
        self._records.pop(number, None)

    def page(self, after: int) -> tuple[list[_protocol.Message], bool]:
        """The sessions with a greater number than `after`, as many as fit; whether more come."""
        page: list[_protocol.Message] = []
        size = 0
        for number in sorted(number for number in self._records if number > after):
            entry = self._records[number].describe()
            size += len(_protocol.encode(entry)) + 1
            if size > _PAGE_BYTES:
                return page, True
            page.append(entry)
        return page, False
