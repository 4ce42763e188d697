/* A backend in this process, over the loopback driver, and clients of it: what the tests of the
 * core as a whole share. One rig per process, as lwIP's state is global. */
#ifndef PF_TESTS_RIG_H
#define PF_TESTS_RIG_H

#include <dirent.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "backend/backend_api.h"
#include "check.h"
#include "client/client_api.h"
#include "futex/futex.h"
#include "shm/layout.h"

#define RIG_SECOND INT64_C(1000000000)
#define RIG_PATIENCE (20 * RIG_SECOND)

struct rig {
    struct pf_backend *backend;
    const struct pf_public *public_region;
};

struct rig_client {
    struct pf_client *client;
    uint64_t session;
    int control[2]; /* the client's end, the backend's end */
};

/* What must be the same before and after. */
struct rig_counts {
    uint64_t pcbs;
    uint64_t pbufs;
    uint64_t segments;
    uint64_t sockets;
    uint64_t mirrors;
    uint64_t sessions;
    uint64_t promised;
    uint64_t descriptors;
};

static inline uint64_t rig_count(const uint64_t *word) {
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void rig_start_with(struct rig *rig, const struct pf_backend_config *config) {
    char error[300] = "";
    rig->backend = pf_backend_new(config, error, sizeof(error));
    if (!rig->backend || pf_backend_add_loopback(rig->backend, error, sizeof(error)) != 0 ||
        pf_backend_start(rig->backend, error, sizeof(error)) != 0) {
        fprintf(stderr, "backend: %s\n", error);
        CHECK(!"the backend starts");
    }
    rig->public_region = pf_backend_public(rig->backend);
}

static inline void rig_start(struct rig *rig) {
    struct pf_backend_config config = {.max_pcbs = 20000, .cpu = -1};
    rig_start_with(rig, &config);
}

/* As the control plane does: takes the notices, which unmaps what is dead. */
static inline void rig_notices(struct rig *rig) {
    uint64_t session;
    int32_t reason;
    int32_t freed;
    while (pf_backend_next_ended(rig->backend, &session, &reason, &freed)) {
    }
}

static inline void rig_stop(struct rig *rig) { pf_backend_free(rig->backend); }

static inline struct pf_session_request rig_request(void) {
    return (struct pf_session_request){.max_sockets = 32,
                                       .queue_depth = 16,
                                       .rx_bytes = 262144,
                                       .best_priority = PF_PRIORITY_HIGH,
                                       .arena_bytes = UINT64_C(4) << 20};
}

static inline uint64_t rig_session(struct rig *rig, const struct pf_session_request *request,
                                   struct pf_session_fds *fds) {
    char error[300] = "";
    int64_t id = pf_session_create(rig->backend, request, fds, error, sizeof(error));
    if (id <= 0) {
        fprintf(stderr, "session: %s\n", error);
        CHECK(!"the session is made");
    }
    return (uint64_t)id;
}

static inline struct rig_client rig_attach_with(struct rig *rig,
                                                const struct pf_session_request *request) {
    struct rig_client out;
    struct pf_session_fds fds;
    char error[300] = "";
    out.session = rig_session(rig, request, &fds);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out.control), 0);
    out.client = pf_client_attach(out.control[0], fds.c2b, fds.b2c, fds.public_region, fds.doorbell,
                                  error, sizeof(error));
    if (!out.client) {
        fprintf(stderr, "attach: %s\n", error);
        CHECK(!"the client attaches");
    }
    return out;
}

static inline struct rig_client rig_attach(struct rig *rig) {
    struct pf_session_request request = rig_request();
    return rig_attach_with(rig, &request);
}

static inline void rig_detach(struct rig *rig, struct rig_client *client, int reason) {
    pf_client_detach(client->client);
    (void)close(client->control[0]);
    (void)close(client->control[1]);
    CHECK_EQ(pf_session_end(rig->backend, client->session, reason), 0);
}

/* ---- operations ---- */

static inline struct pf_addr rig_addr(uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, 1}};
}

static inline struct pf_addr rig_addr6(uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV6, .port = port, .ip = {[15] = 1}};
}

static inline int32_t rig_await(struct pf_client *client, uint32_t slot, int64_t op,
                                struct pf_done *done) {
    struct pf_done unused;
    done = done ? done : &unused;
    CHECK(op > 0);
    CHECK_EQ(pf_await(client, slot, (uint64_t)op, RIG_PATIENCE, done), 1);
    return done->result;
}

struct rig_call {
    int flags;
    uint64_t token;
    uint32_t offset;
    uint32_t length;
    const struct pf_addr *addr;
};

static inline int64_t rig_submit(struct pf_client *client, uint32_t slot, int opcode,
                                 struct rig_call call) {
    return pf_submit(client, slot, opcode, call.flags, call.token, call.offset, call.length,
                     call.addr, PF_DELIVER_CALL);
}

#define RIG_SUBMIT(client, slot, opcode, ...)                                                      \
    rig_submit(client, slot, opcode, (struct rig_call){__VA_ARGS__})
/* Submits and waits: the result. */
#define RIG_CALL(client, slot, opcode, ...)                                                        \
    rig_await(client, slot, RIG_SUBMIT(client, slot, opcode, __VA_ARGS__), NULL)

static inline uint32_t rig_socket(struct pf_client *client, int family, uint32_t rx_bytes) {
    int slot = pf_socket_open(client, family, PF_PRIORITY_MEDIUM, rx_bytes);
    CHECK(slot >= 0);
    return (uint32_t)slot;
}

static inline uint32_t rig_listener(struct pf_client *client, struct pf_addr addr,
                                    uint32_t backlog) {
    uint32_t slot = rig_socket(client, addr.family, 0);
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_BIND, .addr = &addr), 0);
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_LISTEN, .length = backlog), 0);
    return slot;
}

struct rig_pair {
    uint32_t near; /* connected */
    uint32_t far;  /* accepted */
};

/* A connection between two sockets, each with a receive ring of its own size (0: the default). */
static inline struct rig_pair rig_connect(struct pf_client *near_client, struct pf_client *client,
                                          struct pf_addr addr, uint32_t near_rx) {
    struct pf_done done;
    struct rig_pair pair;
    uint32_t listener = rig_listener(client, addr, 4);
    int64_t accept = RIG_SUBMIT(client, listener, PF_OP_ACCEPT, 0);
    pair.near = rig_socket(near_client, addr.family, near_rx);
    CHECK_EQ(RIG_CALL(near_client, pair.near, PF_OP_CONNECT, .addr = &addr), 0);
    CHECK_EQ(rig_await(client, listener, accept, &done), 0);
    int slot = pf_socket_adopt(client, done.token, PF_PRIORITY_MEDIUM);
    CHECK(slot >= 0);
    pair.far = (uint32_t)slot;
    CHECK_EQ(RIG_CALL(client, listener, PF_OP_CLOSE, 0), 0);
    CHECK_EQ(pf_socket_release(client, listener, 0), 0);
    return pair;
}

static inline void rig_close(struct pf_client *client, uint32_t slot, int flags) {
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_CLOSE, .flags = flags), 0);
    CHECK_EQ(pf_socket_release(client, slot, 0), 0);
}

static inline void rig_send_all(struct pf_client *client, uint32_t slot, const uint8_t *data,
                                uint32_t length) {
    while (length > 0) {
        int64_t sent = pf_send(client, slot, data, length, RIG_PATIENCE);
        CHECK(sent > 0);
        data += sent;
        length -= (uint32_t)sent;
    }
}

static inline void rig_recv_all(struct pf_client *client, uint32_t slot, uint8_t *data,
                                uint32_t length) {
    while (length > 0) {
        int64_t got = pf_recv(client, slot, data, length, 0, RIG_PATIENCE);
        CHECK(got > 0);
        data += got;
        length -= (uint32_t)got;
    }
}

/* Byte `at` of the stream `seed`. */
static inline uint8_t rig_byte(uint64_t seed, uint64_t at) {
    uint64_t word = (at / 8 + seed) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint8_t)((word ^ (word >> 29)) >> (8 * (at % 8)));
}

static inline void rig_fill(uint8_t *out, uint64_t seed, uint64_t at, uint32_t length) {
    for (uint32_t i = 0; i < length; i++) {
        out[i] = rig_byte(seed, at + i);
    }
}

static inline int rig_differs(const uint8_t *data, uint64_t seed, uint64_t at, uint32_t length) {
    for (uint32_t i = 0; i < length; i++) {
        if (data[i] != rig_byte(seed, at + i)) {
            return 1;
        }
    }
    return 0;
}

/* ---- resources ---- */

extern uint32_t tcp_ticks;

/* lwIP's slow clock, minutes on: connections in TIME_WAIT are over at its next tick. */
__attribute__((no_sanitize("thread"))) static inline void rig_skip_time_wait(void) {
    (void)__atomic_fetch_add(&tcp_ticks, 2000, __ATOMIC_RELAXED);
}

static inline uint64_t rig_descriptors(void) {
    uint64_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    while (readdir(directory)) {
        count++;
    }
    (void)closedir(directory);
    return count;
}

static inline struct rig_counts rig_counts(const struct rig *rig) {
    const struct pf_public *p = rig->public_region;
    return (struct rig_counts){rig_count(&p->pcbs),           rig_count(&p->pbufs),
                               rig_count(&p->segments),       rig_count(&p->sockets),
                               rig_count(&p->mirrors),        rig_count(&p->sessions),
                               rig_count(&p->promised_bytes), rig_descriptors()};
}

/* Waits until everything that was there at `start` is there again, and nothing else. */
static inline void rig_settle(struct rig *rig, const struct rig_counts *start) {
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    struct rig_counts now;
    unsigned look = 0;
    do {
        if (look++ % 50 == 0) {
            rig_skip_time_wait();
        }
        struct timespec pause = {0, 10000000};
        (void)nanosleep(&pause, NULL);
        rig_notices(rig);
        now = rig_counts(rig);
    } while (memcmp(&now, start, sizeof(now)) != 0 && pf_now_ns() < end);
    CHECK_EQ(now.sessions, start->sessions);
    CHECK_EQ(now.sockets, start->sockets);
    CHECK_EQ(now.pcbs, start->pcbs);
    CHECK_EQ(now.pbufs, start->pbufs);
    CHECK_EQ(now.segments, start->segments);
    CHECK_EQ(now.mirrors, start->mirrors);
    CHECK_EQ(now.promised, start->promised);
    CHECK_EQ(now.descriptors, start->descriptors);
}

static inline void rig_sleep_ms(long ms) {
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    (void)nanosleep(&pause, NULL);
}

#endif
