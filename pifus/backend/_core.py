"""The C core of the backend, as the control plane uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pifus._core import _protocol
from pifus.backend._stack import ffi, lib

if TYPE_CHECKING:
    from pifus.backend._config import Config
    from pifus.backend._stack import CData

_ERROR_BYTES = 512
ENDED_CLOSED = lib.PF_ENDED_CLOSED
ENDED_VIOLATION = lib.PF_ENDED_VIOLATION
ENDED_BACKEND = lib.PF_ENDED_BACKEND
ENDED_ADMIN = lib.PF_ENDED_ADMIN


class CoreError(Exception):
    """The C core refused; the text is its own.

    Attributes:
        code: the errno.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Ended:
    """News of a session: it has ended (`reason`), or also all it had is free again (`freed`)."""

    session: int
    reason: int
    freed: bool


class Core:
    """The stack and its thread.

    Args:
        config: the configuration.
        address: where clients reach the control plane.

    Raises:
        CoreError: it cannot be started: no privilege for a driver, no memory…
    """

    def __init__(self, config: Config, address: str = "") -> None:
        native = ffi.new("struct pf_backend_config *")
        native.spin_ns = config.spin_ns
        native.client_spin_ns = config.spin_ns
        native.spin_follows = config.spin_follows
        native.max_pcbs = config.max_pcbs
        native.max_held_bytes = config.max_held_bytes
        native.max_held_bytes_per_user = config.held_bytes_per_user
        native.min_share_medium = config.min_share_medium
        native.min_share_low = config.min_share_low
        native.cpu = config.cpu
        native.realtime_priority = config.realtime
        native.lock_memory = config.mlock
        native.address = os.fsencode(address)
        self._error = ffi.new("char[]", _ERROR_BYTES)
        self._backend: CData = lib.pf_backend_new(native, self._error, _ERROR_BYTES)
        if not self._backend:
            raise CoreError(self._text(), ffi.errno)
        try:
            for driver in config.drivers:
                self._add(driver, config)
            self._check(lib.pf_backend_start(self._backend, self._error, _ERROR_BYTES))
        except BaseException:
            lib.pf_backend_free(self._backend)
            raise

    def _add(self, driver: str, config: Config) -> None:
        if driver == "loopback":
            self._check(lib.pf_backend_add_loopback(self._backend, self._error, _ERROR_BYTES))
            return
        # Kept alive until the call returns: the structure only points to them.
        texts = {
            "interface": config.tap_name,
            "ipv4": config.tap_ipv4,
            "ipv6": config.tap_ipv6,
            "gateway4": config.gateway4,
            "gateway6": config.gateway6,
            "host_ipv4": config.tap_host_ipv4,
            "host_ipv6": config.tap_host_ipv6,
        }
        natives = {key: ffi.new("char[]", text.encode()) for key, text in texts.items() if text}
        options = ffi.new("struct pf_tap_options *", natives)
        options.mtu = config.tap_mtu
        options.offload = config.offload
        self._check(lib.pf_backend_add_tap(self._backend, options, self._error, _ERROR_BYTES))

    def _text(self) -> str:
        return ffi.string(self._error).decode(errors="replace")

    def _check(self, result: int) -> int:
        if result < 0:
            raise CoreError(self._text(), -result)
        return result

    def free(self) -> None:
        """Ends every session, stops the thread, frees all. Nothing may be called afterwards."""
        lib.pf_backend_free(self._backend)

    def create(
        self, wanted: _protocol.Attach, best: int, uid: int, pid: int, raw: bool
    ) -> tuple[int, list[int]]:
        """Makes a session.

        Args:
            wanted: what the client asks for.
            best: the best priority granted, an enum pf_priority.
            uid: of the client, as the kernel says.
            pid: likewise.
            raw: whether it may have raw sockets.

        Returns:
            The number of the session, and the descriptors c2b, b2c, public, doorbell to be sent to
            the client and closed.

        Raises:
            CoreError: no memory, no descriptors.
        """
        request = ffi.new("struct pf_session_request *")
        request.max_sockets = wanted.max_sockets
        request.queue_depth = wanted.queue_depth
        request.rx_bytes = wanted.rx_bytes
        request.arena_bytes = wanted.arena_bytes
        request.best_priority = best
        request.uid = uid
        request.pid = pid
        request.raw = raw
        fds = ffi.new("struct pf_session_fds *")
        number = self._check(
            lib.pf_session_create(self._backend, request, fds, self._error, _ERROR_BYTES)
        )
        return number, [fds.c2b, fds.b2c, fds.public_region, fds.doorbell]

    def end(self, session: int, reason: int) -> None:
        """Ends a session: its sockets close as those of a dying process.

        Raises:
            MemoryError: it cannot even be told.
        """
        if lib.pf_session_end(self._backend, session, reason) < 0:
            raise MemoryError

    def mirrors(self, session: int, count: int) -> tuple[int, list[int]]:
        """Makes mirror descriptors: the number of the first, and the client's ends.

        Raises:
            CoreError: no descriptors left.
        """
        fds = ffi.new("int32_t[]", count)
        first = ffi.new("uint64_t *")
        result = lib.pf_session_mirrors(self._backend, session, count, fds, first)
        if result < 0:
            raise CoreError("no mirror descriptors left", -result)
        return first[0], [fds[i] for i in range(count)]

    def bell(self, session: int) -> int:
        """Makes the bell of a session: the client's end.

        Raises:
            CoreError: no descriptors left.
        """
        fd = ffi.new("int32_t *")
        result = lib.pf_session_bell(self._backend, session, fd)
        if result < 0:
            raise CoreError("no descriptors left for a bell", -result)
        return int(fd[0])

    def show(self, session: int, fd: int) -> int:
        """Takes note that the client of a session holds a mirror descriptor; a ticket for it.

        Raises:
            CoreError: it is no UNIX socket.
        """
        ticket = ffi.new("uint64_t *")
        result = lib.pf_session_show(self._backend, session, fd, ticket)
        if result < 0:
            raise CoreError("the descriptor is no mirror", -result)
        return int(ticket[0])

    def event_fd(self) -> int:
        """Readable when `ended` has something."""
        return lib.pf_backend_event_fd(self._backend)

    def ended(self) -> Iterator[Ended]:
        """The sessions that have ended since the last call."""
        session = ffi.new("uint64_t *")
        reason = ffi.new("int32_t *")
        freed = ffi.new("int32_t *")
        while lib.pf_backend_next_ended(self._backend, session, reason, freed):
            yield Ended(session[0], reason[0], bool(freed[0]))

    def orphans(self) -> int:
        """How many sockets only a descriptor in some process keeps open."""
        return int(lib.pf_backend_public(self._backend).orphans)

    def spin_ns(self) -> int:
        """How long the stack thread and its clients spin at most, as of now."""
        return int(lib.pf_backend_public(self._backend).spin_ns)

    def statistics(self) -> _protocol.Message:
        """The counters of the public region."""
        public = lib.pf_backend_public(self._backend)
        names = (
            "pid",
            "started_ns",
            "frames_in",
            "frames_out",
            "frames_dropped",
            "wakeups",
            "sessions",
            "sessions_ended",
            "violations",
            "sockets",
            "pcbs",
            "time_wait",
            "pbufs",
            "segments",
            "mirrors",
            "datagrams_dropped",
            "held_bytes",
            "promised_bytes",
            "mss_raised",
            "refused",
            "orphans",
        )
        counters: _protocol.Message = {name: int(getattr(public, name)) for name in names}
        operations = zip(_protocol.PRIORITIES, public.operations, strict=True)
        counters["operations"] = {name: int(count) for name, count in operations}
        return counters
