/* The layout of everything that two processes share: THE single truth.
 *
 * Read by C through shm/layout.h and, verbatim, by cffi as its cdef. So: no include guards, no
 * #include, only plain integer #defines, enums and fixed-width structs with explicit padding.
 *
 * Who writes what.  Each word has exactly one writer:
 *   - the C2B region ("client to backend") is written by the client; the backend maps it read-only;
 *   - the B2C region ("backend to client") is written by the backend; the client can only ever map
 *     it read-only (the memfd is sealed against future writes);
 *   - the public region is written by the backend and read by every client.
 * All indices run freely modulo 2^32 and are masked on use. All places are offsets, never pointers.
 */

#define PF_MAGIC 0x70696675
#define PF_ABI_VERSION 9
#define PF_PRIORITIES 3
#define PF_CACHE_LINE 64
#define PF_MAX_SOCKETS_LIMIT 16384
#define PF_MIN_QUEUE_DEPTH 4
#define PF_MAX_QUEUE_DEPTH 4096
#define PF_MIN_RX_BYTES 4096
#define PF_MAX_RX_BYTES 8388608
#define PF_MIN_ARENA_BYTES 65536
#define PF_MAX_ARENA_BYTES 1073741824
#define PF_MAX_WRITE_BYTES 1048576
#define PF_MAX_DATAGRAM_BYTES 65507 /* over IPv6, 20 fewer */
#define PF_MAX_ICMP_BYTES 65515     /* over IPv6, 28 fewer */

enum pf_priority { PF_PRIORITY_HIGH = 0, PF_PRIORITY_MEDIUM = 1, PF_PRIORITY_LOW = 2 };

/* Operations. 0 is never valid, so that zeroed memory is not an operation. */
enum pf_opcode {
    PF_OP_INVALID = 0,
    PF_OP_OPEN = 1,     /* flags: family; token: priority; length: receive ring bytes (0: default);
                           offset: enum pf_kind */
    PF_OP_ADOPT = 2,    /* token: from the completion of an accept, or (PF_SQE_TICKET) a ticket */
    PF_OP_BIND = 3,     /* addr */
    PF_OP_LISTEN = 4,   /* length: backlog */
    PF_OP_ACCEPT = 5,   /* flags: PF_SQE_MULTISHOT */
    PF_OP_CONNECT = 6,  /* addr; datagrams: of no family to disconnect */
    PF_OP_WRITE = 7,    /* offset, length: a block of the send arena */
    PF_OP_RECV = 8,     /* length: at most so many bytes; flags: PF_SQE_MULTISHOT */
    PF_OP_SHUTDOWN = 9, /* flags: PF_SHUT_* */
    PF_OP_CLOSE = 10,   /* flags: PF_CLOSE_ABORT */
    PF_OP_NOP = 11,
    PF_OP_CANCEL = 12, /* token: op_id of the operation to cancel; or flags: PF_SQE_ALL */
    PF_OP_SETOPT = 13, /* offset: PF_OPT_*; token: value */
    PF_OP_MIRROR = 14, /* token: id of a mirror descriptor handed out to this client, 0: the same */
    PF_OP_SENDTO = 15, /* offset, length (may be 0): a block of the send arena; addr: where to, of
                          no family for the peer; token: enum pf_send_bits */
    PF_OP_GROUP = 16,  /* flags: PF_GROUP_*; addr: the multicast group; token: index of the
                          interface, 0: any; offset: or an IPv4 address of it, as on the wire */
    PF_OP_QUERY = 17,  /* offset: PF_QUERY_*; length: page; addr: as the query needs */
    PF_OP_DRAIN = 18,  /* completes when all that was written before is acknowledged */
    PF_OP_COUNT = 19
};

enum pf_kind {
    PF_KIND_STREAM = 0,
    PF_KIND_DATAGRAM = 1,
    PF_KIND_PING = 2, /* as datagrams; these are ICMP echo requests and their replies */
    PF_KIND_RAW = 3   /* as datagrams; all ICMP messages, received over IPv4 with their header */
};

enum pf_family { PF_FAMILY_NONE = 0, PF_FAMILY_IPV4 = 4, PF_FAMILY_IPV6 = 6 };

enum pf_sqe_flags {
    PF_SQE_MULTISHOT = 1,
    PF_SQE_REJECT = 2, /* cancel: token is of an accept whose connection nobody will adopt */
    PF_SQE_RETURN = 8, /* with it: nobody now; it goes back to the queue of its listener */
    PF_SQE_TICKET = 4, /* adopt: token is a ticket for a socket whose mirror the client holds */
    PF_SQE_NOWAIT = 8, /* accept: -EAGAIN when no connection waits */
    PF_SQE_ALL = 16,   /* cancel: every operation of the socket */
    PF_SQE_URGENT = 32 /* write: its last byte is urgent data */
};
/* Of every operation but CANCEL and CLOSE. */
enum pf_sqe_general {
    PF_SQE_LINK = 1 /* the next submission of the socket starts only if this one succeeds */
};
enum pf_shut_flags { PF_SHUT_READ = 1, PF_SHUT_WRITE = 2 };
/* Where in the token of PF_OP_SENDTO is what is different for this datagram; 0: nothing is. */
enum pf_send_bits {
    PF_SEND_TTL = 0,        /* 9 bits: TTL or hop limit, + 1 */
    PF_SEND_TOS = 9,        /* 9 bits: TOS or traffic class, + 1 */
    PF_SEND_INTERFACE = 18, /* 14 bits: index of the interface to leave by */
    PF_SEND_SOURCE4 = 32    /* 32 bits: IPv4 address to send from, as on the wire */
};
enum pf_group_flags { PF_GROUP_LEAVE = 0, PF_GROUP_JOIN = 1 };
enum pf_close_flags {
    PF_CLOSE_GRACEFUL = 0,
    PF_CLOSE_ABORT = 1,
    PF_CLOSE_SHARED = 2 /* only once no process holds the mirror descriptor any more */
};

enum pf_cqe_flags {
    PF_CQE_MORE = 1,    /* more completions of the same operation follow */
    PF_CQE_DEADLINE = 2 /* -ETIMEDOUT is because of the deadline that the client set */
};

enum pf_option {
    PF_OPT_NODELAY = 1,         /* 0 or 1; 1 unless set */
    PF_OPT_KEEPALIVE = 2,       /* 0 or 1 */
    PF_OPT_KEEPIDLE = 3,        /* seconds */
    PF_OPT_KEEPINTVL = 4,       /* seconds */
    PF_OPT_KEEPCNT = 5,         /* probes */
    PF_OPT_REUSEADDR = 6,       /* 0 or 1 */
    PF_OPT_V6ONLY = 7,          /* 0 or 1 */
    PF_OPT_PRIORITY = 8,        /* enum pf_priority */
    PF_OPT_TOS = 9,             /* 0..255 */
    PF_OPT_TTL = 10,            /* 1..255 */
    PF_OPT_CORK = 11,           /* 0 or 1 */
    PF_OPT_REUSEPORT = 12,      /* 0 or 1; before bind: for sockets of one user */
    PF_OPT_BROADCAST = 13,      /* 0 or 1; datagrams */
    PF_OPT_MULTICAST_TTL = 14,  /* 0..255; datagrams */
    PF_OPT_MULTICAST_LOOP = 15, /* 0 or 1; datagrams */
    PF_OPT_MULTICAST_IF = 16,   /* index of an interface, 0: any; or, 32 bits up, an address */
    PF_OPT_RCVBUF = 17,         /* the largest receive window, bytes */
    PF_OPT_MAXSEG = 18,         /* bytes, PF_MAXSEG_MIN or more */
    PF_OPT_USER_TIMEOUT = 19,   /* ms without an acknowledgement; 0: none */
    PF_OPT_DEFER_ACCEPT = 20,   /* seconds; 0: off */
    PF_OPT_QUICKACK = 21,       /* 0 or 1 */
    PF_OPT_SYNCNT = 22,         /* retransmissions of a SYN; 0: the stack's own limit */
    PF_OPT_BINDTODEVICE = 23,   /* addr.ip: the name of the link, padded with zeros; empty: any */
    PF_OPT_ICMP_FILTER = 32     /* raw; ... + 3: bits of the types not to receive, 64 in each */
};

#define PF_RCVBUF_MIN 1152
#define PF_MAXSEG_MIN 88

enum pf_query {
    PF_QUERY_LISTENERS = 1, /* addr: result is how many listeners a connect to it may reach */
    PF_QUERY_INFO = 2       /* a page of struct pf_tcp_info: 24 bytes in addr, 8 bytes in token */
};

#define PF_INFO_PAGE_BYTES 32

/* What the stack knows of a connection, in pages of 32 bytes. State and option bits are numbered as
 * in the kernel's struct tcp_info. */
struct pf_tcp_info {
    uint8_t state;
    uint8_t retransmits; /* in a row */
    uint8_t probes;
    uint8_t backoff;
    uint8_t options;
    uint8_t snd_scale;
    uint8_t rcv_scale;
    uint8_t reserved0;
    uint32_t rto_us;
    uint32_t rtt_us;
    uint32_t rttvar_us;
    uint32_t snd_mss; /* bytes */
    uint32_t rcv_mss;
    uint32_t unacked;  /* segments; of a listener: connections that wait */
    uint32_t sacked;   /* of a listener: its backlog */
    uint32_t ssthresh; /* segments */
    uint32_t cwnd;     /* segments */
    uint32_t total_retrans;
    uint32_t notsent_bytes;
    uint32_t rcv_space;
    uint32_t snd_wnd;
    uint32_t reserved1;
    uint64_t bytes_acked;
    uint64_t bytes_received;
    uint64_t reserved2[2];
};

/* Bits of pf_socket_b2c.state. */
enum pf_socket_state {
    PF_STATE_OPEN = 1, /* the slot holds a socket of the generation in the same header */
    PF_STATE_CONNECTED = 2,
    PF_STATE_LISTENING = 4,
    PF_STATE_EOF = 8,    /* the peer has ended its direction, or this side has shut its reading */
    PF_STATE_ERROR = 16, /* ended by pf_socket_b2c.error */
    PF_STATE_WANTS_HINT =
        32, /* the backend waits for the client to make room: reap or read, then hint */
    PF_STATE_TX_CLOSED = 64, /* our FIN is queued: writes fail */
    PF_STATE_SHARED = 4096,  /* listener: others accept from the same queue; `accepts` is 1 while it
                                has something */
    PF_STATE_MOVING = 8192,  /* the socket is on its way to another slot: wait for MOVED */
    PF_STATE_DATAGRAM = 32768, /* of a claimed socket: it is one of datagrams */
    PF_STATE_MOVED = 16384,    /* it is gone; moved_rx and moved_sq tell what still counted here */
    PF_STATE_RAW = 65536       /* a raw socket */
};

/* Why a client was ended: pf_b2c_control.ended. */
enum pf_ended {
    PF_ENDED_NOT = 0,
    PF_ENDED_CLOSED = 1,    /* the client's control connection closed */
    PF_ENDED_VIOLATION = 2, /* the client broke the protocol */
    PF_ENDED_BACKEND = 3,   /* the backend shut down */
    PF_ENDED_ADMIN = 4      /* ended by an operator or a limit */
};

struct pf_addr {
    uint16_t family;   /* enum pf_family */
    uint16_t port;     /* host byte order */
    uint32_t scope_id; /* IPv6: interface index, else 0 */
    uint8_t ip[16];    /* network byte order; IPv4 in the first four */
};

struct pf_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t general;    /* enum pf_sqe_general */
    uint32_t generation; /* of the socket in this slot */
    uint64_t op_id;
    uint64_t token;
    uint32_t offset;
    uint32_t length;
    struct pf_addr addr;
    uint64_t
        deadline_ns; /* CLOCK_MONOTONIC: it ends then, as far as it can be taken back; 0: none */
};

struct pf_cqe {
    uint64_t op_id;
    int32_t result; /* >= 0, or -errno */
    uint8_t opcode;
    uint8_t flags;
    uint16_t lap;   /* written last: pf_cq_lap of the entry's position, once it is complete */
    uint64_t token; /* accept: hand it to PF_OP_ADOPT; else: pf_hints_taken */
    uint64_t completed_ns; /* CLOCK_MONOTONIC: start of the backend's step that completed it */
    uint64_t picked_ns;  /* CLOCK_MONOTONIC: start of the backend's step that took the submission */
    struct pf_addr addr; /* accept: the peer; receive of a datagram: its sender; write: of no
                            family, and in the first 8 bytes of ip when the last byte was handed
                            to the stack, CLOCK_MONOTONIC */
};

/* What stands before each datagram in the receive ring; the next one follows at a multiple of
 * eight bytes. Any of it may lie across the end of the ring. */
struct pf_datagram {
    uint32_t length;      /* bytes of payload, behind this */
    uint32_t ifindex;     /* of the interface it came by */
    uint64_t received_ns; /* CLOCK_REALTIME */
    struct pf_addr source;
    struct pf_addr destination;
    uint8_t ttl; /* IPv6: hop limit */
    uint8_t tos; /* IPv6: traffic class */
    uint16_t pad0;
    uint32_t pad1;
};

/* C2B: first line of the region: what the backend polls. */
struct pf_c2b_control {
    uint32_t hint_tail[3];    /* one hint ring per priority: slots with new submissions */
    uint32_t hint_recent[12]; /* the latest four of each, in the line that is polled */
    uint32_t pad0;
    uint32_t event_head[3]; /* consumed position of each event ring of B2C */
    uint32_t waiting;       /* a thread sleeps on pf_b2c_control.event */
    uint32_t bell_arm;      /* bumped when the client waits for completions by its bell */
    uint32_t slots_used;    /* no slot from this one on was ever opened */
    uint64_t rang_ns;       /* CLOCK_MONOTONIC: the latest ring of the doorbell */
    uint32_t pad1[8];
};

/* C2B: one per socket slot. */
struct pf_socket_c2b {
    uint32_t sq_tail;
    uint32_t cq_head;
    uint32_t rx_tail;
    uint32_t waiting;       /* number of threads that sleep on pf_socket_b2c.event */
    uint32_t read_arm;      /* bumped when the client found nothing to read: tell it by the mirror's
                               token or, without a mirror, by a hint */
    uint32_t write_arm;     /* mirror: bumped when the client has made it unwritable */
    uint32_t accepts_taken; /* how many of pf_socket_b2c.accepts the program was given */
    uint32_t write_room;    /* mirror: there is room when blocks of so many bytes, modulo 2^32, have
                               come back since the open: pf_send_block() of each WRITE and SENDTO that
                               has ended */
    uint32_t pad[8];
};

/* B2C: the first page: what was granted. Written once, before the client sees it. */
struct pf_b2c_header {
    uint32_t magic;
    uint32_t abi_version;
    uint32_t session_id;
    uint32_t max_sockets;
    uint32_t hint_entries; /* power of two, >= 2 * max_sockets */
    uint32_t sq_depth;     /* power of two */
    uint32_t cq_depth;     /* power of two */
    uint32_t rx_bytes;     /* power of two: the most a receive ring may have */
    uint64_t c2b_bytes;
    uint64_t b2c_bytes;
    uint64_t c2b_hints;
    uint64_t c2b_sockets;
    uint64_t c2b_sq;
    uint64_t c2b_arena;
    uint64_t arena_bytes;
    uint64_t b2c_control;
    uint64_t b2c_hints;
    uint64_t b2c_sockets;
    uint64_t b2c_cq;
    uint64_t b2c_rx;
    uint32_t allowed_priority; /* the best priority granted: a lower number is clamped to it */
    uint32_t pad0;
};

struct pf_b2c_control {
    uint32_t hint_head[3]; /* consumed position of each hint ring of C2B */
    uint32_t pad0[13];
    uint32_t event_tail[3];    /* one event ring per priority: slots with news */
    uint32_t event_recent[12]; /* the latest four of each */
    uint32_t event;            /* futex: changes with each entry of an event ring */
    uint32_t ended;            /* enum pf_ended */
    uint32_t pad1[15];
};

/* B2C: one per socket slot. */
struct pf_socket_b2c {
    uint32_t rx_head;
    uint32_t rx_base; /* byte of position p is at (p - rx_base) & (rx_bytes - 1) */
    uint32_t rx_bytes;
    uint32_t state; /* enum pf_socket_state */
    int32_t error;  /* errno that ended the connection, 0 if none */
    uint32_t generation;
    uint32_t priority;
    uint32_t accepts;     /* modulo 2^32; listener: connections reported; datagrams: errors */
    uint32_t read_token;  /* mirror: the read_arm that the token in it answers */
    uint32_t write_token; /* mirror: the write_arm that was answered by draining it */
    uint32_t rx_dropped;  /* datagrams that found no room in the ring, modulo 2^32 */
    uint32_t pad0[5];
    /* Apart from the line above, because these change with every operation, and that one is read
     * with every completion. */
    uint32_t event; /* futex: changes with each completion, arrival, change of state */
    uint32_t sq_head;
    struct pf_addr local;
    struct pf_addr peer;
    uint32_t moved_rx; /* MOVED: received bytes up to here were the client's, later ones are not */
    uint32_t moved_sq; /* MOVED: submissions before this index counted, later ones do not */
};

struct pf_public {
    uint32_t magic;
    uint32_t abi_version;
    uint32_t pid;
    uint32_t spin_ns; /* how long a client may spin before it sleeps; may change at any time */
    uint32_t pad0[12];
    /* Not 0 while the stack thread sleeps or is about to: ring the doorbell for priorities below.
     */
    uint32_t sleeping;
    uint32_t pad1[15];
    uint64_t started_ns;
    uint64_t operations[3]; /* submissions served, by priority */
    uint64_t frames_in;
    uint64_t frames_out;
    uint64_t frames_dropped;
    uint64_t wakeups;
    uint64_t sessions;
    uint64_t sessions_ended;
    uint64_t violations;
    uint64_t sockets;
    uint64_t pcbs;
    uint64_t pbufs;
    uint64_t segments;
    uint64_t mirrors;
    uint64_t datagrams_dropped; /* for want of room in a receive ring */
    uint64_t orphans;    /* sockets that only a mirror descriptor in some process keeps open */
    uint64_t time_wait;  /* of the pcbs: connections that ended and wait for stray segments */
    uint64_t held_bytes; /* received, and in no receive ring: of connections that nobody adopted */
    uint64_t promised_bytes; /* that peers may send, or that were received and not read */
    uint64_t mss_raised;     /* peers that wanted segments of a few bytes */
    uint64_t refused;        /* what an application, or a user, may not have more of */
};
