/* Short connections: an end that is not waited for, and a close that wakes nobody. */
#define _GNU_SOURCE
#include "client/internal.h"
#include "rig.h"

#define PAIRS 40

static struct rig rig;
static struct rig_client one;
static struct pf_client *c;
static uint16_t port = 4000;

/* When this client rang last. */
static uint64_t rang(void) { return pf_load64_relaxed(&c->c2b_control->rang_ns); }

static void await_sleep(void) {
    while (!pf_load_relaxed(&pf_client_public(c)->sleeping)) {
        rig_sleep_ms(1);
    }
}

static void expect_end(uint32_t slot) {
    uint8_t byte;
    CHECK_EQ(pf_recv(c, slot, &byte, 1, 0, RIG_PATIENCE), 0);
}

/* A pair of which both directions have ended, and both sides know. */
static struct rig_pair ended_pair(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    CHECK_EQ(pf_end_writing(c, p.near), 1);
    expect_end(p.far);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    expect_end(p.near);
    return p;
}

static void test_what_is_known_is_not_waited_for(void) {
    uint8_t byte = 0;
    int fresh = pf_socket_open(c, PF_FAMILY_IPV4, 0, 0);
    CHECK(fresh >= 0);
    CHECK_EQ(pf_end_writing(c, (uint32_t)fresh), 0); /* ENOTCONN is to be told */
    CHECK_EQ(pf_socket_flags(c, PF_ANY_SOCKET), -EBADF);
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    CHECK(pf_socket_flags(c, p.near) & PF_STATE_CONNECTED);
    CHECK_EQ(pf_send(c, p.near, "x", 1, RIG_PATIENCE), 1);
    CHECK_EQ(pf_end_writing(c, p.near), 1);
    /* At once, whatever the backend has heard. */
    CHECK_EQ(pf_send(c, p.near, "y", 1, RIG_PATIENCE), -EPIPE);
    rig_recv_all(c, p.far, &byte, 1);
    CHECK_EQ(byte, 'x');
    expect_end(p.far);
    /* The other way goes on; who has heard an end, or has ended it, is to ask. */
    CHECK_EQ(pf_send(c, p.far, "z", 1, RIG_PATIENCE), 1);
    rig_recv_all(c, p.near, &byte, 1);
    CHECK_EQ(byte, 'z');
    CHECK_EQ(pf_end_writing(c, p.near), 0);
    CHECK_EQ(pf_end_writing(c, p.far), 0);
    rig_close(c, p.far, 0);
    expect_end(p.near);
    rig_close(c, p.near, 0);
    rig_close(c, (uint32_t)fresh, 0);
}

/* What is taken reaches the peer: behind an end whose answer is awaited, too, nothing is taken. */
static void test_no_write_is_taken_behind_the_end(void) {
    for (int i = 0; i < PAIRS; i++) {
        struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
        await_sleep();
        int64_t op = RIG_SUBMIT(c, p.near, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE);
        CHECK(op > 0);
        CHECK_EQ(pf_send(c, p.near, "x", 1, RIG_PATIENCE), -EPIPE);
        CHECK_EQ(rig_await(c, p.near, op, NULL), 0);
        expect_end(p.far);
        rig_close(c, p.far, PF_CLOSE_ABORT);
        rig_close(c, p.near, PF_CLOSE_ABORT);
    }
}

/* However much waits: whoever ends the writing may be who reads at the other side. */
static void test_an_end_has_room_behind_many_writes(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    while (pf_send(c, p.near, "x", 1, 0) == 1) {
    }
    int64_t late = pf_send(c, p.near, "x", 1, 0);
    CHECK_EQ(late, -EAGAIN);
    CHECK_EQ(pf_end_writing(c, p.near), 1);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

static void test_another_connection_may_write(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    CHECK_EQ(pf_end_writing(c, p.near), 1);
    expect_end(p.far);
    rig_close(c, p.far, PF_CLOSE_ABORT);
    while (!(pf_socket_flags(c, p.near) & PF_STATE_ERROR)) {
        rig_sleep_ms(1);
    }
    struct rig_pair other = rig_connect(c, c, rig_addr(++port), 0);
    struct pf_addr to = rig_addr(++port);
    uint32_t listener = rig_socket(c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_BIND, .addr = &to), 0);
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_LISTEN, .length = 1), 0);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_CONNECT, .addr = &to), 0);
    CHECK_EQ(pf_send(c, p.near, "x", 1, RIG_PATIENCE), 1);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, listener, 0);
    rig_close(c, other.near, PF_CLOSE_ABORT);
    rig_close(c, other.far, PF_CLOSE_ABORT);
}

/* Nobody waits for it, so it wakes nobody, and still is done when nothing else ever happens. */
static void test_an_ended_close_wakes_nobody(void) {
    struct rig_pair pairs[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        pairs[i] = ended_pair();
    }
    int rings = 0;
    for (int i = 0; i < PAIRS; i++) {
        await_sleep();
        uint64_t last = rang();
        CHECK_EQ(pf_socket_release_ended(c, pairs[i].near, 0), 0);
        CHECK_EQ(pf_socket_release_ended(c, pairs[i].far, 0), 0);
        rings += rang() != last;
    }
    CHECK(rings <= 2 * PAIRS / (int)PF_QUIET_CLOSES);
    while (rig_counts(&rig).sockets != 0) { /* without another call of this client */
        rig_sleep_ms(1);
    }
}

/* Whatever there is to tell or to throw away is told at once: here a FIN that somebody waits for.
 */
static void test_what_has_not_ended_is_closed_at_once(void) {
    int rings = 0;
    for (int i = 0; i < PAIRS; i++) {
        struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
        CHECK_EQ(pf_end_writing(c, p.near), 1);
        expect_end(p.far);
        await_sleep();
        uint64_t last = rang();
        CHECK_EQ(pf_socket_release_ended(c, p.far, 0), 0);
        rings += rang() != last;
        expect_end(p.near);
        CHECK_EQ(pf_socket_release_ended(c, p.near, 0), 0);
    }
    CHECK(rings > PAIRS / 2); /* now and then a timer has woken it already */
}

int main(void) {
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    struct pf_session_request request = rig_request();
    request.max_sockets = 200;
    one = rig_attach_with(&rig, &request);
    c = one.client;
    RUN(test_what_is_known_is_not_waited_for);
    RUN(test_no_write_is_taken_behind_the_end);
    RUN(test_an_end_has_room_behind_many_writes);
    RUN(test_another_connection_may_write);
    RUN(test_an_ended_close_wakes_nobody);
    RUN(test_what_has_not_ended_is_closed_at_once);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
