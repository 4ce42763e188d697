"""Types of the extension module made from native/shm/abi.h and native/client/client.h."""

from typing import Any, Protocol

from typing_extensions import Buffer

class CData(Protocol):
    """A C object: a pointer, a structure or an array of them; fields by name."""

    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def __getitem__(self, index: int) -> Any: ...
    def __setitem__(self, index: int, value: Any) -> None: ...
    def __bool__(self) -> bool: ...

class CBuffer(Buffer, Protocol):
    """A view of memory of C."""

    def __getitem__(self, index: slice) -> bytes: ...
    def __len__(self) -> int: ...

class _CType(Protocol):
    elements: dict[int, str]
    relements: dict[str, int]

class _FFI(Protocol):
    NULL: CData
    def new(self, cdecl: str, init: object = ...) -> CData: ...
    def gc(self, cdata: CData, destructor: object, size: int = 0) -> CData: ...
    def buffer(self, cdata: CData, size: int = -1) -> CBuffer: ...
    def from_buffer(self, cdecl: str, buffer: object, require_writable: bool = False) -> CData: ...
    def release(self, cdata: CData) -> None: ...
    def string(self, cdata: CData, maxlen: int = -1) -> bytes: ...
    def sizeof(self, cdecl: str | CData) -> int: ...
    def offsetof(self, cdecl: str, field: str) -> int: ...
    def cast(self, cdecl: str, value: object) -> Any: ...
    def addressof(self, cdata: CData) -> CData: ...
    def typeof(self, cdecl: str | CData) -> _CType: ...
    def unpack(self, cdata: CData, length: int) -> bytes: ...
    def memmove(self, dest: object, src: object, n: int) -> None: ...

class _Constants(Protocol):
    PF_MAGIC: int
    PF_ABI_VERSION: int
    PF_PRIORITIES: int
    PF_CACHE_LINE: int
    PF_MAX_SOCKETS_LIMIT: int
    PF_MIN_QUEUE_DEPTH: int
    PF_MAX_QUEUE_DEPTH: int
    PF_MIN_RX_BYTES: int
    PF_MAX_RX_BYTES: int
    PF_MIN_ARENA_BYTES: int
    PF_MAX_ARENA_BYTES: int
    PF_MAX_WRITE_BYTES: int
    PF_MAX_DATAGRAM_BYTES: int
    PF_MAX_ICMP_BYTES: int
    PF_PRIORITY_HIGH: int
    PF_PRIORITY_MEDIUM: int
    PF_PRIORITY_LOW: int
    PF_OP_INVALID: int
    PF_OP_OPEN: int
    PF_OP_ADOPT: int
    PF_OP_BIND: int
    PF_OP_LISTEN: int
    PF_OP_ACCEPT: int
    PF_OP_CONNECT: int
    PF_OP_WRITE: int
    PF_OP_RECV: int
    PF_OP_SHUTDOWN: int
    PF_OP_CLOSE: int
    PF_OP_NOP: int
    PF_OP_CANCEL: int
    PF_OP_SETOPT: int
    PF_OP_MIRROR: int
    PF_OP_QUERY: int
    PF_OP_SENDTO: int
    PF_OP_GROUP: int
    PF_GROUP_JOIN: int
    PF_SEND_TTL: int
    PF_SEND_TOS: int
    PF_SEND_INTERFACE: int
    PF_SEND_SOURCE4: int
    PF_GROUP_LEAVE: int
    PF_OP_DRAIN: int
    PF_OP_COUNT: int
    PF_ANY_SOCKET: int
    PF_BATCH_MAX: int
    PF_DEFAULT_SEND_LIMIT: int
    PF_FAMILY_NONE: int
    PF_FAMILY_IPV4: int
    PF_FAMILY_IPV6: int
    PF_SQE_MULTISHOT: int
    PF_SQE_NOWAIT: int
    PF_SQE_ALL: int
    PF_SQE_LINK: int
    PF_SHUT_READ: int
    PF_SHUT_WRITE: int
    PF_CLOSE_GRACEFUL: int
    PF_CLOSE_ABORT: int
    PF_CLOSE_SHARED: int
    PF_CQE_MORE: int
    PF_CQE_DEADLINE: int
    PF_OPT_NODELAY: int
    PF_OPT_KEEPALIVE: int
    PF_OPT_KEEPIDLE: int
    PF_OPT_KEEPINTVL: int
    PF_OPT_KEEPCNT: int
    PF_OPT_REUSEADDR: int
    PF_OPT_V6ONLY: int
    PF_OPT_PRIORITY: int
    PF_OPT_TOS: int
    PF_OPT_TTL: int
    PF_OPT_CORK: int
    PF_OPT_REUSEPORT: int
    PF_OPT_RCVBUF: int
    PF_OPT_MAXSEG: int
    PF_OPT_USER_TIMEOUT: int
    PF_OPT_DEFER_ACCEPT: int
    PF_OPT_QUICKACK: int
    PF_OPT_SYNCNT: int
    PF_OPT_BINDTODEVICE: int
    PF_OPT_ICMP_FILTER: int
    PF_QUERY_LISTENERS: int
    PF_QUERY_INFO: int
    PF_OPT_BROADCAST: int
    PF_OPT_MULTICAST_TTL: int
    PF_OPT_MULTICAST_LOOP: int
    PF_OPT_MULTICAST_IF: int
    PF_STATE_OPEN: int
    PF_STATE_CONNECTED: int
    PF_STATE_LISTENING: int
    PF_STATE_EOF: int
    PF_STATE_ERROR: int
    PF_STATE_WANTS_HINT: int
    PF_STATE_TX_CLOSED: int
    PF_STATE_SHARED: int
    PF_STATE_MOVED: int
    PF_STATE_DATAGRAM: int
    PF_STATE_RAW: int
    PF_ENDED_NOT: int
    PF_ENDED_CLOSED: int
    PF_ENDED_VIOLATION: int
    PF_ENDED_BACKEND: int
    PF_ENDED_ADMIN: int
    PF_DELIVER_QUEUE: int
    PF_DELIVER_NONE: int
    PF_DELIVER_CALL: int
    PF_DATAGRAM_PEEK: int
    PF_DATAGRAM_ERRORS: int

class _Lib(_Constants, Protocol):
    def pf_client_attach(
        self,
        control_fd: int,
        c2b_fd: int,
        b2c_fd: int,
        public_fd: int,
        doorbell_fd: int,
        error: CData,
        error_bytes: int,
        /,
    ) -> CData: ...
    def pf_client_detach(self, client: CData, /) -> None: ...
    def pf_client_abandon(self, client: CData, /) -> None: ...
    def pf_client_ended(self, client: CData, /) -> int: ...
    def pf_client_look(self, client: CData, /) -> int: ...
    def pf_client_set_spin(self, client: CData, spin_ns: int, /) -> None: ...
    def pf_client_stamp_reaped(self, client: CData, on: int, /) -> None: ...
    def pf_batch_begin(self, client: CData, /) -> int: ...
    def pf_batch_end(self, client: CData, submit: int, /) -> int: ...
    def pf_client_max_sockets(self, client: CData, /) -> int: ...
    def pf_client_queue_depth(self, client: CData, /) -> int: ...
    def pf_client_arena_free(self, client: CData, /) -> int: ...
    def pf_client_public(self, client: CData, /) -> CData: ...
    def pf_socket_open(
        self, client: CData, family: int, priority: int, rx_bytes: int, /
    ) -> int: ...
    def pf_datagram_open(
        self, client: CData, family: int, priority: int, rx_bytes: int, /
    ) -> int: ...
    def pf_ping_open(self, client: CData, family: int, priority: int, rx_bytes: int, /) -> int: ...
    def pf_raw_open(self, client: CData, family: int, priority: int, rx_bytes: int, /) -> int: ...
    def pf_socket_adopt(self, client: CData, token: int, priority: int, /) -> int: ...
    def pf_accept_adopt(
        self, client: CData, listener: int, token: int, priority: int, /
    ) -> int: ...
    def pf_socket_claim(
        self, client: CData, ticket: int, priority: int, fd: int, op: CData, /
    ) -> int: ...
    def pf_socket_interrupt(self, client: CData, slot: int, /) -> int: ...
    def pf_client_forked(self, client: CData, /) -> None: ...
    def pf_accept_reject(self, client: CData, listener: int, token: int, /) -> int: ...
    def pf_accept_return(self, client: CData, listener: int, token: int, /) -> int: ...
    def pf_socket_release(self, client: CData, slot: int, flags: int, /) -> int: ...
    def pf_socket_generation(self, client: CData, slot: int, /) -> int: ...
    def pf_socket_state(self, client: CData, slot: int, out: CData, /) -> int: ...
    def pf_socket_flags(self, client: CData, slot: int, /) -> int: ...
    def pf_end_writing(self, client: CData, slot: int, /) -> int: ...
    def pf_socket_release_ended(self, client: CData, slot: int, flags: int, /) -> int: ...
    def pf_socket_set_queue_depth(self, client: CData, slot: int, depth: int, /) -> int: ...
    def pf_socket_set_send_limit(self, client: CData, slot: int, bytes_: int, /) -> int: ...
    def pf_socket_send_used(self, client: CData, slot: int, /) -> int: ...
    def pf_submit(
        self,
        client: CData,
        slot: int,
        opcode: int,
        flags: int,
        token: int,
        offset: int,
        length: int,
        addr: CData,
        delivery: int,
        /,
    ) -> int: ...
    def pf_write(
        self, client: CData, slot: int, data: CData | bytes, length: int, delivery: int, /
    ) -> int: ...
    def pf_submit_sqe(self, client: CData, slot: int, sqe: CData, delivery: int, /) -> int: ...
    def pf_submit_block(
        self,
        client: CData,
        slot: int,
        sqe: CData,
        data: CData | bytes,
        length: int,
        delivery: int,
        /,
    ) -> int: ...
    def pf_block_register(self, client: CData, bytes_: int, /) -> int: ...
    def pf_block_data(self, client: CData, block: int, /) -> CData: ...
    def pf_block_busy(self, client: CData, block: int, /) -> int: ...
    def pf_block_release(self, client: CData, block: int, /) -> int: ...
    def pf_block_write(
        self,
        client: CData,
        slot: int,
        block: int,
        length: int,
        general: int,
        deadline_ns: int,
        delivery: int,
        /,
    ) -> int: ...
    def pf_nop(self, client: CData, slot: int, /) -> int: ...
    def pf_poll(self, client: CData, slot: int, out: CData, /) -> int: ...
    def pf_wait(self, client: CData, slot: int, timeout_ns: int, out: CData, /) -> int: ...
    def pf_poll_many(self, client: CData, slot: int, out: CData, limit: int, /) -> int: ...
    def pf_poll_any(self, client: CData, out: CData, /) -> int: ...
    def pf_wait_any(self, client: CData, timeout_ns: int, out: CData, /) -> int: ...
    def pf_bell_arm(self, client: CData, /) -> int: ...
    def pf_bell_spin(self, client: CData, most_ns: int, /) -> int: ...
    def pf_watch(self, client: CData, slot: int, /) -> int: ...
    def pf_wake_any(self, client: CData, /) -> None: ...
    def pf_await(
        self, client: CData, slot: int, op_id: int, timeout_ns: int, out: CData, /
    ) -> int: ...
    def pf_await_room(self, client: CData, slot: int, timeout_ns: int, /) -> int: ...
    def pf_forget(self, client: CData, slot: int, op_id: int, /) -> None: ...
    def pf_rx_spans(self, client: CData, slot: int, limit: int, spans: CData, /) -> int: ...
    def pf_rx_consume(self, client: CData, slot: int, bytes_: int, /) -> int: ...
    def pf_rx_read(
        self, client: CData, slot: int, buffer: CData, limit: int, peek: int, /
    ) -> int: ...
    def pf_sendto(
        self,
        client: CData,
        slot: int,
        data: object,
        length: int,
        to: CData,
        how: int,
        delivery: int,
        /,
    ) -> int: ...
    def pf_sendto_wait(
        self,
        client: CData,
        slot: int,
        data: object,
        length: int,
        to: CData,
        how: int,
        delivery: int,
        timeout_ns: int,
        /,
    ) -> int: ...
    def pf_recvfrom(
        self,
        client: CData,
        slot: int,
        buffer: object,
        limit: int,
        flags: int,
        timeout_ns: int,
        info: CData,
        /,
    ) -> int: ...
    def pf_datagram_error(self, client: CData, slot: int, /) -> int: ...
    def pf_recv(
        self,
        client: CData,
        slot: int,
        buffer: CData,
        limit: int,
        peek: int,
        timeout_ns: int,
        /,
    ) -> int: ...
    def pf_send(
        self, client: CData, slot: int, data: CData | bytes, length: int, timeout_ns: int, /
    ) -> int: ...
    def pf_send_urgent(
        self, client: CData, slot: int, data: CData | bytes, length: int, timeout_ns: int, /
    ) -> int: ...
    def pf_mirror_attach(self, client: CData, slot: int, mirror_id: int, fd: int, /) -> int: ...
    def pf_mirror_arm(self, client: CData, slot: int, /) -> int: ...
    def pf_mirror_move(self, client: CData, slot: int, fd: int, /) -> int: ...
    def pf_mirror_rearm_read(self, client: CData, slot: int, /) -> int: ...
    def pf_mirror_rearm_write(self, client: CData, slot: int, /) -> int: ...
    def pf_mirror_sent(self, client: CData, slot: int, /) -> int: ...
    def pf_mirror_is_unsure(self, client: CData, slot: int, /) -> int: ...
    def pf_mirror_settle(self, client: CData, slot: int, /) -> int: ...
    def pf_is_unix(self, fd: int, /) -> int: ...
    def pf_epoll_add(self, epoll_fd: int, fd: int, events: int, data: int, /) -> int: ...
    def pf_mirror_told(self, client: CData, slot: int, /) -> int: ...

ffi: _FFI
lib: _Lib
