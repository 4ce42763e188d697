/* Every operation: what it does, every errno, exactly one final completion, nothing left over. */
#define _GNU_SOURCE
#include <pthread.h>

#include "raw_client.h"
#include "rig.h"

static struct rig rig;
static struct rig_client one;
static struct pf_client *c;
static uint16_t port = 2000;

static int32_t option(uint32_t slot, uint32_t which, uint64_t value) {
    return RIG_CALL(c, slot, PF_OP_SETOPT, .offset = which, .token = value);
}

static int32_t bind_to(uint32_t slot, struct pf_addr addr) {
    return RIG_CALL(c, slot, PF_OP_BIND, .addr = &addr);
}

static int32_t connect_to(uint32_t slot, struct pf_addr addr) {
    return RIG_CALL(c, slot, PF_OP_CONNECT, .addr = &addr);
}

static int32_t write_bytes(uint32_t slot, const void *data, uint32_t length) {
    int64_t op;
    while ((op = pf_write(c, slot, data, length, PF_DELIVER_CALL)) == -ENOBUFS) {
        rig_sleep_ms(1); /* earlier bytes still hold the socket's share of the arena */
    }
    return rig_await(c, slot, op, NULL);
}

static struct rig_pair pair(void) { return rig_connect(c, c, rig_addr(++port), 0); }

static void test_open(void) {
    CHECK_EQ(pf_socket_open(c, 5, 0, 0), -EINVAL);
    CHECK_EQ(pf_socket_open(c, PF_FAMILY_IPV4, 3, 0), -EINVAL);
    const uint32_t bad[] = {1, 4095, 5000, 2048, 524288, UINT32_MAX, UINT32_C(1) << 31};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int slot = pf_socket_open(c, PF_FAMILY_IPV4, 0, bad[i]);
        CHECK(slot >= 0);
        int64_t op;
        while ((op = pf_nop(c, (uint32_t)slot)) > 0) { /* until the refusal has come */
            struct pf_done done;
            CHECK_EQ(pf_wait(c, (uint32_t)slot, RIG_PATIENCE, &done), 1);
        }
        CHECK_EQ(op, -EINVAL);
        CHECK_EQ(pf_socket_release(c, (uint32_t)slot, 0), 0);
    }
    for (uint32_t bytes = 4096; bytes <= 262144; bytes *= 2) {
        uint32_t slot = rig_socket(c, PF_FAMILY_IPV6, bytes);
        CHECK_EQ(RIG_CALL(c, slot, PF_OP_NOP, 0), 0);
        struct pf_socket_b2c state;
        CHECK_EQ(pf_socket_state(c, slot, &state), 0);
        CHECK_EQ(state.rx_bytes, bytes);
        rig_close(c, slot, 0);
    }
    int last = 0;
    uint32_t count = 0;
    while ((last = pf_socket_open(c, PF_FAMILY_IPV4, 2, 0)) >= 0) {
        count++;
    }
    CHECK_EQ(last, -EMFILE);
    CHECK_EQ(count, pf_client_max_sockets(c));
    for (uint32_t slot = 0; slot < count; slot++) {
        rig_close(c, slot, (int)slot % 2);
        CHECK_EQ(pf_socket_release(c, slot, 0), -EBADF);
    }
}

static void test_bind_and_listen(void) {
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    struct pf_addr bad = rig_addr(++port);
    bad.family = 7;
    CHECK_EQ(bind_to(s, bad), -EAFNOSUPPORT);
    CHECK_EQ(bind_to(s, rig_addr6(port)), -EAFNOSUPPORT);
    bad = rig_addr(port);
    bad.ip[0] = 10;
    CHECK_EQ(bind_to(s, bad), -EADDRNOTAVAIL);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_ACCEPT, 0), -EINVAL);
    CHECK_EQ(bind_to(s, rig_addr(port)), 0);
    CHECK_EQ(bind_to(s, rig_addr(port)), -EINVAL);
    CHECK_EQ(bind_to(s, rig_addr(port + 1)), -EINVAL);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_LISTEN, .length = 3), 0);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_LISTEN, .length = 500), 0);
    CHECK_EQ(bind_to(s, rig_addr(port)), -EINVAL);
    CHECK_EQ(connect_to(s, rig_addr(port)), -EISCONN);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_RECV, .length = 1), -ENOTCONN);
    CHECK_EQ(write_bytes(s, "x", 1), -EPIPE);
    uint32_t other = rig_socket(c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(bind_to(other, rig_addr(port)), -EADDRINUSE);
    CHECK_EQ(bind_to(other, rig_addr(0)), 0);
    CHECK_EQ(RIG_CALL(c, other, PF_OP_LISTEN, .length = 0), 0);
    struct pf_socket_b2c state;
    CHECK_EQ(pf_socket_state(c, other, &state), 0);
    CHECK(state.local.port >= 32768);
    CHECK(state.state & PF_STATE_LISTENING);
    uint32_t unbound = rig_socket(c, PF_FAMILY_IPV6, 0);
    CHECK_EQ(RIG_CALL(c, unbound, PF_OP_LISTEN, .length = 1), 0);
    rig_close(c, unbound, 0);
    rig_close(c, other, 0);
    rig_close(c, s, 0);
    uint32_t again = rig_socket(c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(bind_to(again, rig_addr(port)), 0);
    rig_close(c, again, 0);
}

static void test_connect(void) {
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    struct pf_addr bad = rig_addr(9);
    CHECK_EQ(write_bytes(s, "x", 1), -EPIPE);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_RECV, .length = 1), -ENOTCONN);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_SHUTDOWN, .flags = PF_SHUT_READ), -ENOTCONN);
    bad.family = 0;
    CHECK_EQ(connect_to(s, bad), -EAFNOSUPPORT);
    CHECK_EQ(connect_to(s, rig_addr6(9)), -EAFNOSUPPORT);
    bad = rig_addr(9);
    bad.ip[0] = 10;
    CHECK_EQ(connect_to(s, bad), -ENETUNREACH);
    CHECK_EQ(connect_to(s, rig_addr(0)), -ECONNREFUSED);
    CHECK_EQ(connect_to(s, rig_addr(9)), -ECONNREFUSED);
    CHECK_EQ(write_bytes(s, "x", 1), -ECONNREFUSED);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_RECV, .length = 1), -ECONNREFUSED);
    CHECK_EQ(connect_to(s, rig_addr(9)), -ECONNREFUSED); /* may be tried again */
    uint32_t listener = rig_listener(c, rig_addr(++port), 4);
    struct pf_addr to = rig_addr(port);
    int64_t first = RIG_SUBMIT(c, s, PF_OP_CONNECT, .addr = &to);
    int32_t second = connect_to(s, to);
    CHECK(second == -EALREADY || second == -EISCONN);
    CHECK_EQ(rig_await(c, s, first, NULL), 0);
    CHECK_EQ(connect_to(s, to), -EISCONN);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_LISTEN, .length = 1), -EINVAL);
    CHECK_EQ(bind_to(s, rig_addr(port + 1)), -EINVAL);
    struct pf_socket_b2c state;
    CHECK_EQ(pf_socket_state(c, s, &state), 0);
    CHECK_EQ(state.peer.port, port);
    CHECK(state.state & PF_STATE_CONNECTED);
    rig_close(c, s, PF_CLOSE_ABORT);
    rig_close(c, listener, 0);
    uint32_t listener6 = rig_listener(c, rig_addr6(++port), 4);
    uint32_t six = rig_socket(c, PF_FAMILY_IPV6, 0);
    CHECK_EQ(connect_to(six, rig_addr6(port)), 0);
    rig_close(c, six, PF_CLOSE_ABORT);
    rig_close(c, listener6, 0);
}

static void test_accept(void) {
    struct pf_done done;
    uint32_t listener = rig_listener(c, rig_addr(++port), 16);
    int64_t multi = RIG_SUBMIT(c, listener, PF_OP_ACCEPT, .flags = PF_SQE_MULTISHOT);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_ACCEPT, 0), -EALREADY);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_ACCEPT, .flags = PF_SQE_MULTISHOT), -EALREADY);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_CANCEL, .token = 12345), -ENOENT);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_CANCEL, .token = (uint64_t)multi), 0);
    CHECK_EQ(rig_await(c, listener, multi, NULL), -ECANCELED);
    /* A single one beside it keeps a multishot out, and each takes one connection. */
    int64_t single = RIG_SUBMIT(c, listener, PF_OP_ACCEPT, 0);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_ACCEPT, .flags = PF_SQE_MULTISHOT), -EALREADY);
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(connect_to(s, rig_addr(port)), 0);
    CHECK_EQ(rig_await(c, listener, single, &done), 0);
    CHECK_EQ(done.addr.family, PF_FAMILY_IPV4);
    int wrong = pf_socket_adopt(c, done.token ^ 512, 0);
    CHECK(wrong >= 0);
    CHECK_EQ(pf_recv(c, (uint32_t)wrong, &done, 1, 0, RIG_PATIENCE), -EINVAL);
    rig_close(c, (uint32_t)wrong, 0);
    int right = pf_socket_adopt(c, done.token, 2);
    CHECK(right >= 0);
    CHECK_EQ(RIG_CALL(c, (uint32_t)right, PF_OP_NOP, 0), 0);
    int twice = pf_socket_adopt(c, done.token, 2);
    CHECK(twice >= 0);
    CHECK_EQ(pf_recv(c, (uint32_t)twice, &done, 1, 0, RIG_PATIENCE), -EINVAL);
    rig_close(c, (uint32_t)twice, 0);
    rig_close(c, (uint32_t)right, 0);
    rig_close(c, s, 0);
    /* Closing the listener ends what waits at it. */
    int64_t waiting = RIG_SUBMIT(c, listener, PF_OP_ACCEPT, 0);
    rig_close(c, listener, 0);
    (void)waiting;
}

static const struct {
    uint32_t option;
    uint64_t value;
    int32_t result;
} option_cases[] = {
    {0, 0, -ENOPROTOOPT},
    {PF_OPT_BINDTODEVICE + 1, 0, -ENOPROTOOPT},
    {UINT32_MAX, 0, -ENOPROTOOPT},
    {PF_OPT_NODELAY, 0, 0},
    {PF_OPT_NODELAY, 1, 0},
    {PF_OPT_CORK, 1, 0},
    {PF_OPT_CORK, 0, 0},
    {PF_OPT_KEEPALIVE, 1, 0},
    {PF_OPT_KEEPIDLE, 0, -EINVAL},
    {PF_OPT_KEEPIDLE, 60, 0},
    {PF_OPT_KEEPIDLE, 32768, -EINVAL},
    {PF_OPT_KEEPINTVL, 0, -EINVAL},
    {PF_OPT_KEEPINTVL, UINT64_MAX, -EINVAL},
    {PF_OPT_KEEPCNT, 0, -EINVAL},
    {PF_OPT_KEEPCNT, 9, 0},
    {PF_OPT_REUSEADDR, 1, 0},
    {PF_OPT_V6ONLY, 1, -ENOPROTOOPT},
    {PF_OPT_TOS, 255, 0},
    {PF_OPT_TOS, 256, -EINVAL},
    {PF_OPT_TTL, 0, -EINVAL},
    {PF_OPT_TTL, 255, 0},
    {PF_OPT_TTL, 256, -EINVAL},
    {PF_OPT_REUSEPORT, 1, 0},
    {PF_OPT_REUSEPORT, 0, 0},
    {PF_OPT_RCVBUF, 0, 0},
    {PF_OPT_RCVBUF, UINT64_MAX, 0},
    {PF_OPT_MAXSEG, PF_MAXSEG_MIN - 1, -EINVAL},
    {PF_OPT_MAXSEG, UINT64_MAX, -EINVAL},
    {PF_OPT_MAXSEG, 1000, 0},
    {PF_OPT_USER_TIMEOUT, UINT64_MAX, 0},
    {PF_OPT_DEFER_ACCEPT, UINT64_MAX, 0},
    {PF_OPT_DEFER_ACCEPT, 0, 0},
    {PF_OPT_QUICKACK, 1, 0},
    {PF_OPT_SYNCNT, UINT64_MAX, 0},
    {PF_OPT_BINDTODEVICE, 0, 0},
    {PF_OPT_PRIORITY, 3, -EINVAL},
    {PF_OPT_PRIORITY, UINT64_MAX, -EINVAL},
    {PF_OPT_PRIORITY, PF_PRIORITY_LOW, 0},
    {PF_OPT_PRIORITY, PF_PRIORITY_HIGH, 0},
};

static void test_options(void) {
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    uint32_t listener = rig_listener(c, rig_addr(++port), 1);
    for (size_t i = 0; i < sizeof(option_cases) / sizeof(option_cases[0]); i++) {
        CHECK_EQ(option(s, option_cases[i].option, option_cases[i].value), option_cases[i].result);
        (void)option(listener, option_cases[i].option,
                     option_cases[i].value); /* a smaller structure in lwIP */
    }
    CHECK_EQ(connect_to(s, rig_addr(port)), 0);
    rig_close(c, s, 0);
    rig_close(c, listener, 0);
    uint32_t six = rig_socket(c, PF_FAMILY_IPV6, 0);
    CHECK_EQ(option(six, PF_OPT_V6ONLY, 1), 0);
    CHECK_EQ(bind_to(six, rig_addr6(++port)), 0);
    CHECK_EQ(option(six, PF_OPT_V6ONLY, 0), -EINVAL);
    rig_close(c, six, 0);
    /* A client that may not be HIGH is not. */
    struct pf_session_request request = rig_request();
    request.best_priority = PF_PRIORITY_MEDIUM;
    struct rig_client humble = rig_attach_with(&rig, &request);
    struct pf_socket_b2c state;
    uint32_t slot = (uint32_t)pf_socket_open(humble.client, PF_FAMILY_IPV4, PF_PRIORITY_HIGH, 0);
    CHECK_EQ(RIG_CALL(humble.client, slot, PF_OP_SETOPT, .offset = PF_OPT_PRIORITY, .token = 0),
             -EPERM);
    CHECK_EQ(pf_socket_state(humble.client, slot, &state), 0);
    CHECK_EQ(state.priority, PF_PRIORITY_MEDIUM);
    rig_detach(&rig, &humble, PF_ENDED_CLOSED);
}

static void test_mirror(void) {
    int fd = -1;
    uint64_t first = 0;
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_MIRROR, .token = UINT64_MAX), -EBADF);
    for (int i = 0; i < 3; i++) { /* the last one replaces the others */
        CHECK_EQ(pf_session_mirrors(rig.backend, one.session, 1, &fd, &first), 0);
        CHECK_EQ(RIG_CALL(c, s, PF_OP_MIRROR, .token = first), 0);
        CHECK_EQ(RIG_CALL(c, s, PF_OP_MIRROR, .token = first), -EBADF);
        (void)close(fd);
    }
    rig_close(c, s, 0);
}

static void test_shutdown_and_end(void) {
    uint8_t byte = 0;
    struct rig_pair p = pair();
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_SHUTDOWN, .flags = 0), -EINVAL);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_SHUTDOWN, .flags = 4), -EINVAL);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_RECV, .length = 0), -EINVAL);
    int64_t op = RIG_SUBMIT(c, p.near, PF_OP_RECV, .length = 1);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_CANCEL, .token = (uint64_t)op), 0);
    CHECK_EQ(rig_await(c, p.near, op, NULL), -ECANCELED);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_CANCEL, .token = (uint64_t)op), -ENOENT);
    CHECK_EQ(write_bytes(p.near, "abc", 3), 3);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_RECV, .length = 2), 2);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_RECV, .length = 2), 1);
    /* One way is closed, the other one still works. */
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    CHECK_EQ(write_bytes(p.near, "x", 1), -EPIPE);
    uint8_t got[3];
    rig_recv_all(c, p.far, got, 3);
    CHECK_EQ(pf_recv(c, p.far, &byte, 1, 0, RIG_PATIENCE), 0);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_RECV, .length = 1), 0);
    CHECK_EQ(write_bytes(p.far, "y", 1), 1);
    rig_recv_all(c, p.near, &byte, 1);
    CHECK_EQ(byte, 'y');
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    CHECK_EQ(pf_recv(c, p.near, &byte, 1, 0, RIG_PATIENCE), 0);
    rig_close(c, p.near, 0);
    rig_close(c, p.far, 0);
    /* The reading side closed by its own client: the end; what comes can be read, as on Linux. */
    p = pair();
    op = RIG_SUBMIT(c, p.far, PF_OP_RECV, .length = 1);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_READ), 0);
    CHECK_EQ(rig_await(c, p.far, op, NULL), 0);
    CHECK_EQ(write_bytes(p.near, "z", 1), 1);
    rig_recv_all(c, p.far, &byte, 1);
    CHECK_EQ(byte, 'z');
    CHECK_EQ(pf_recv(c, p.far, &byte, 1, 0, RIG_PATIENCE), 0);
    rig_close(c, p.far, 0);
    rig_close(c, p.near, 0);
}

/* Both directions shut: who still sends is reset. */
static void test_shut_both_resets_who_sends(void) {
    struct rig_pair p = pair();
    struct pf_socket_b2c state;
    int64_t result = 1;
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_READ | PF_SHUT_WRITE), 0);
    while (result == 1) { /* the first ones may be acknowledged */
        result = write_bytes(p.near, "x", 1);
    }
    CHECK_EQ(result, -EPIPE);
    CHECK(pf_socket_state(c, p.far, &state) == 0 && state.error == ECONNRESET);
    rig_close(c, p.far, 0);
    rig_close(c, p.near, 0);
}

static void test_close(void) {
    uint8_t byte;
    /* The close of one side does not wait for the other one to close. */
    struct rig_pair p = pair();
    uint64_t begin = pf_now_ns();
    rig_close(c, p.near, 0);
    CHECK(pf_now_ns() - begin < (uint64_t)RIG_SECOND);
    CHECK_EQ(pf_recv(c, p.far, &byte, 1, 0, RIG_PATIENCE), 0);
    rig_close(c, p.far, 0);
    /* Unread data: the peer hears of it. */
    p = pair();
    CHECK_EQ(write_bytes(p.near, "lost", 4), 4);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_RECV, .length = 4), 4); /* arrived, not read */
    rig_close(c, p.far, 0);
    CHECK_EQ(pf_recv(c, p.near, &byte, 1, 0, RIG_PATIENCE), -ECONNRESET);
    CHECK_EQ(write_bytes(p.near, "x", 1), -ECONNRESET);
    rig_close(c, p.near, 0);
    /* Abort: the same. */
    p = pair();
    int64_t op = RIG_SUBMIT(c, p.near, PF_OP_RECV, .length = 4);
    rig_close(c, p.far, PF_CLOSE_ABORT);
    CHECK_EQ(rig_await(c, p.near, op, NULL), -ECONNRESET);
    rig_close(c, p.near, 0);
    /* Data in flight arrives, and then the end. */
    p = pair();
    static uint8_t data[200000];
    static uint8_t got[200000];
    rig_fill(data, 7, 0, sizeof(data));
    op = pf_write(c, p.near, data, sizeof(data), PF_DELIVER_NONE);
    CHECK(op > 0);
    rig_close(c, p.near, 0);
    rig_recv_all(c, p.far, got, sizeof(got));
    CHECK(!rig_differs(got, 7, 0, sizeof(got)));
    CHECK_EQ(pf_recv(c, p.far, &byte, 1, 0, RIG_PATIENCE), 0);
    rig_close(c, p.far, 0);
    /* While connecting, and while never connected. */
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    struct pf_addr to = rig_addr(9);
    op = RIG_SUBMIT(c, s, PF_OP_CONNECT, .addr = &to);
    CHECK(op > 0);
    rig_close(c, s, 0);
}

/* The peer is not there to send its FIN: both closes must come to an end all the same. */
static void test_close_both_at_once(void) {
    for (int i = 0; i < 20; i++) {
        struct rig_pair p = pair();
        int64_t a = RIG_SUBMIT(c, p.near, PF_OP_CLOSE, 0);
        int64_t b = RIG_SUBMIT(c, p.far, PF_OP_CLOSE, 0);
        CHECK_EQ(rig_await(c, p.near, a, NULL), 0);
        CHECK_EQ(rig_await(c, p.far, b, NULL), 0);
        CHECK_EQ(pf_socket_release(c, p.near, 0), 0);
        CHECK_EQ(pf_socket_release(c, p.far, 0), 0);
    }
}

/* After a connection broke with bytes unacknowledged, the next one of the socket counts anew. */
static void test_connect_again(void) {
    struct rig_pair p = pair();
    static uint8_t much[900000];
    int64_t op = pf_write(c, p.near, much, sizeof(much), PF_DELIVER_CALL);
    struct pf_done done;
    CHECK_EQ(pf_await(c, p.near, (uint64_t)op, 30000000, &done), 0);
    rig_close(c, p.far, PF_CLOSE_ABORT);
    CHECK_EQ(rig_await(c, p.near, op, NULL), -ECONNRESET);
    uint32_t listener = rig_listener(c, rig_addr(++port), 1);
    int64_t accept = RIG_SUBMIT(c, listener, PF_OP_ACCEPT, 0);
    CHECK_EQ(connect_to(p.near, rig_addr(port)), 0);
    CHECK_EQ(rig_await(c, listener, accept, &done), 0);
    int far = pf_socket_adopt(c, done.token, 0);
    CHECK(far >= 0);
    CHECK_EQ(write_bytes(p.near, much, 1000), 1000);
    rig_close(c, p.near, 0);
    rig_close(c, (uint32_t)far, PF_CLOSE_ABORT);
    rig_close(c, listener, 0);
}

static void *send_megabyte(void *argument) {
    static uint8_t data[1 << 20];
    rig_fill(data, 3, 0, sizeof(data));
    rig_send_all(c, *(uint32_t *)argument, data, sizeof(data));
    return NULL;
}

static void test_small_ring(void) {
    static const uint32_t reads[] = {1 << 20, 4096, 4095, 1000};
    for (size_t i = 0; i < sizeof(reads) / sizeof(reads[0]); i++) {
        struct rig_pair p = rig_connect(c, c, rig_addr(++port), 4096);
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, send_megabyte, &p.far), 0);
        static uint8_t got[1 << 20];
        uint32_t at = 0;
        while (at < sizeof(got)) {
            uint32_t most = sizeof(got) - at < reads[i] ? (uint32_t)sizeof(got) - at : reads[i];
            int64_t count = pf_recv(c, p.near, got + at, most, 0, RIG_PATIENCE);
            CHECK(count > 0 && count <= 4096);
            at += (uint32_t)count;
        }
        CHECK(!rig_differs(got, 3, 0, sizeof(got)));
        CHECK_EQ(pthread_join(thread, NULL), 0);
        rig_close(c, p.near, 0);
        rig_close(c, p.far, 0);
    }
}

static void test_queue_and_arena_full(void) {
    struct rig_pair p = pair();
    int64_t ops[64];
    uint32_t count = 0;
    int64_t op;
    /* Receives that wait hold a place each: as many as promised are taken, and then no more. */
    for (int refused = 0; refused < 20;) {
        op = RIG_SUBMIT(c, p.near, PF_OP_RECV, .length = 1);
        if (op > 0) {
            CHECK(count < 64);
            ops[count++] = op;
        } else {
            CHECK_EQ(op, -EAGAIN);
            CHECK(count >= pf_client_queue_depth(c));
            refused++;
            rig_sleep_ms(1);
        }
    }
    rig_close(c, p.far, PF_CLOSE_ABORT);
    for (uint32_t i = 0; i < count; i++) {
        CHECK_EQ(rig_await(c, p.near, ops[i], NULL), -ECONNRESET);
    }
    rig_close(c, p.near, 0);
    /* Bytes that nobody reads fill this socket's share, and another socket still gets through. */
    p = pair();
    static uint8_t block[65536];
    int64_t sent;
    while ((sent = pf_send(c, p.near, block, sizeof(block), 100000000)) > 0) {
    }
    CHECK_EQ(sent, -EAGAIN);
    op = pf_write(c, p.near, block, sizeof(block), PF_DELIVER_NONE);
    CHECK(op == -ENOBUFS || op == -EAGAIN);
    struct rig_pair q = pair();
    CHECK_EQ(write_bytes(q.near, "through", 7), 7);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
    rig_close(c, q.near, PF_CLOSE_ABORT);
    rig_close(c, q.far, PF_CLOSE_ABORT);
    CHECK_EQ(pf_client_arena_free(c), UINT64_C(4) << 20);
}

/* ---- completions, as they are posted ---- */

static void expect_once(struct raw_client *raw, uint32_t slot, uint64_t last) {
    static uint8_t finals[4096];
    memset(finals, 0, sizeof(finals));
    CHECK(raw->next_op < sizeof(finals));
    struct pf_cqe cqe;
    do {
        cqe = raw_next(raw, slot);
        CHECK(cqe.op_id > 0 && cqe.op_id <= raw->next_op);
        if (!(cqe.flags & PF_CQE_MORE)) {
            CHECK_EQ(finals[cqe.op_id]++, 0);
        }
    } while (cqe.op_id != last);
    CHECK_EQ(raw->slots[slot].flying, 0); /* everything before the close has ended */
    rig_sleep_ms(2);
    CHECK_EQ(raw_reap(raw, slot, &cqe), 0); /* and nothing comes behind it */
}

static void test_exactly_once(void) {
    struct raw_client raw;
    struct pf_session_request request = rig_request();
    raw_attach(&rig, &raw, &request);
    struct pf_addr to = rig_addr(++port);
    for (int round = 0; round < 40; round++) {
        RAW_SUBMIT(&raw, 0, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4);
        RAW_SUBMIT(&raw, 0, .opcode = PF_OP_BIND, .addr = to);
        RAW_SUBMIT(&raw, 0, .opcode = PF_OP_LISTEN, .length = 8);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(raw_next(&raw, 0).result, 0);
        }
        uint64_t multi = RAW_SUBMIT(&raw, 0, .opcode = PF_OP_ACCEPT, .flags = (uint8_t)(round % 2));
        RAW_SUBMIT(&raw, 1, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4);
        RAW_SUBMIT(&raw, 1, .opcode = PF_OP_CONNECT, .addr = to);
        RAW_SUBMIT(&raw, 1, .opcode = PF_OP_WRITE, .offset = 100, .length = 40000);
        struct pf_cqe accepted = raw_next(&raw, 0);
        CHECK_EQ(accepted.op_id, multi);
        CHECK_EQ(accepted.flags, round % 2 ? PF_CQE_MORE : 0);
        RAW_SUBMIT(&raw, 2, .opcode = PF_OP_ADOPT, .token = accepted.token);
        for (int i = 0; i < round % 7; i++) {
            RAW_SUBMIT(&raw, 2, .opcode = PF_OP_RECV, .length = 1 + check_random(30000));
            RAW_SUBMIT(&raw, 2, .opcode = PF_OP_WRITE, .offset = 50000, .length = 15000);
            RAW_SUBMIT(&raw, 1, .opcode = PF_OP_RECV, .length = 10000);
        }
        RAW_SUBMIT(&raw, 1, .opcode = PF_OP_CANCEL, .token = raw.next_op);
        uint8_t how = (uint8_t)check_random(2);
        uint64_t ends[3];
        for (uint32_t slot = 0; slot < 3; slot++) {
            ends[slot] = RAW_SUBMIT(&raw, slot, .opcode = PF_OP_CLOSE, .flags = how);
        }
        for (uint32_t slot = 0; slot < 3; slot++) {
            expect_once(&raw, slot, ends[slot]);
            raw_level(&raw, slot);
        }
    }
    raw_detach(&rig, &raw, true);
}

/* A multishot accept whose completions nobody reaps stops, and goes on once somebody does. */
static void test_accept_waits_for_room(void) {
    struct raw_client raw;
    struct pf_session_request request = rig_request();
    request.queue_depth = 4; /* a CQ of eight */
    raw_attach(&rig, &raw, &request);
    struct pf_addr to = rig_addr(++port);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4).result, 0);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_BIND, .addr = to).result, 0);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_LISTEN, .length = 64).result, 0);
    RAW_SUBMIT(&raw, 0, .opcode = PF_OP_ACCEPT, .flags = PF_SQE_MULTISHOT);
    uint32_t accepted = 0;
    for (int round = 0; round < 30; round++) {
        uint32_t s[20];
        for (int i = 0; i < 20; i++) {
            s[i] = rig_socket(c, PF_FAMILY_IPV4, 0);
            CHECK_EQ(connect_to(s[i], to), 0);
        }
        uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
        while (accepted < 20U * (unsigned)(round + 1)) {
            struct pf_cqe cqe;
            CHECK(pf_now_ns() < end);
            if (!raw_reap(&raw, 0, &cqe)) {
                continue;
            }
            CHECK_EQ(cqe.flags, PF_CQE_MORE);
            accepted++;
            CHECK_EQ(RAW_CALL(&raw, 1, .opcode = PF_OP_ADOPT, .token = cqe.token).result, 0);
            CHECK_EQ(RAW_CALL(&raw, 1, .opcode = PF_OP_CLOSE, .flags = PF_CLOSE_ABORT).result, 0);
            pf_full_fence();
            if (pf_load_relaxed(&raw_b2c(&raw, 0)->state) & PF_STATE_WANTS_HINT) {
                raw_hint(&raw, 0, PF_PRIORITY_MEDIUM);
            }
        }
        for (int i = 0; i < 20; i++) {
            rig_close(c, s[i], PF_CLOSE_ABORT);
        }
    }
    raw_detach(&rig, &raw, true);
}

int main(void) {
    check_random_init();
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    one = rig_attach(&rig);
    c = one.client;
    rig_sleep_ms(20);
    RUN(test_open);
    RUN(test_bind_and_listen);
    RUN(test_connect);
    RUN(test_accept);
    RUN(test_options);
    RUN(test_mirror);
    RUN(test_shutdown_and_end);
    RUN(test_shut_both_resets_who_sends);
    RUN(test_close);
    RUN(test_close_both_at_once);
    RUN(test_connect_again);
    RUN(test_small_ring);
    RUN(test_queue_and_arena_full);
    RUN(test_exactly_once);
    RUN(test_accept_waits_for_room);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
