/* Which submissions wake a backend that sleeps: all that it can do something about. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>

#include "rig.h"
#include "shm/atomics.h"

#define ROUNDS 20

static struct rig rig;
static struct rig_client one;
static struct pf_client *c;
static int bell; /* the doorbell, which the backend never reads */
static uint16_t port = 4000;

static void await_sleep(void) {
    while (pf_load_relaxed(&rig.public_region->sleeping) == 0) {
        (void)sched_yield();
    }
}

/* How often the client rang since the last call. */
static uint64_t rings(void) {
    uint64_t count = 0;
    ssize_t got = read(bell, &count, sizeof(count));
    CHECK(got == (ssize_t)sizeof(count) || errno == EAGAIN);
    return count;
}

static int64_t receive(uint32_t slot, int flags, uint32_t length) {
    int64_t op = RIG_SUBMIT(c, slot, PF_OP_RECV, .flags = flags, .length = length);
    CHECK(op > 0);
    return op;
}

static void read_byte(uint32_t slot, char expected) {
    char got;
    CHECK_EQ(pf_rx_read(c, slot, &got, 1, 0), 1);
    CHECK_EQ(got, expected);
}

/* Until it shows: the backend has published what came. */
static void await_byte(uint32_t slot) {
    struct pf_span spans[2];
    while (pf_rx_spans(c, slot, 1, spans) != 1) {
        (void)sched_yield();
    }
}

/* Nothing to receive: nobody is woken, and what comes completes it. */
static void test_a_receive_waits_in_silence(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    for (int i = 0; i < ROUNDS; i++) {
        await_sleep();
        (void)rings();
        int64_t op = receive(p.near, 0, 10);
        CHECK_EQ(rings(), 0);
        CHECK_EQ(pf_send(c, p.far, "a", 1, RIG_PATIENCE), 1);
        CHECK_EQ(rig_await(c, p.near, op, NULL), 1);
        read_byte(p.near, 'a');
    }
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

/* What is submitted behind it finds its hint there, and rings for both. The backend may have woken
 * by itself just then, but not each time. */
static void test_the_next_one_rings(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    uint64_t rang = 0;
    for (int i = 0; i < ROUNDS; i++) {
        await_sleep();
        int64_t op = receive(p.near, 0, 10);
        (void)rings();
        CHECK_EQ(RIG_CALL(c, p.near, PF_OP_NOP, 0), 0);
        rang += rings();
        CHECK_EQ(RIG_CALL(c, p.near, PF_OP_CANCEL, .token = (uint64_t)op), 0);
        CHECK_EQ(rig_await(c, p.near, op, NULL), -ECANCELED);
    }
    CHECK(rang > 0);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

/* Submits it to a backend that sleeps, and takes its result. */
static uint64_t rung_for(uint32_t slot, struct pf_sqe sqe, int32_t result) {
    await_sleep();
    (void)rings();
    int64_t op = pf_submit_sqe(c, slot, &sqe, PF_DELIVER_CALL);
    CHECK(op > 0);
    uint64_t rang = rings();
    CHECK_EQ(rig_await(c, slot, op, NULL), result);
    return rang;
}

/* Everything that a receive can end with at once, or in time. */
static void test_what_is_there_rings(void) {
    uint64_t rang[5] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
        struct pf_sqe sqe = {.opcode = PF_OP_RECV, .length = 10};
        CHECK_EQ(pf_send(c, p.far, "b", 1, RIG_PATIENCE), 1);
        await_byte(p.near);
        rang[0] += rung_for(p.near, sqe, 1);
        read_byte(p.near, 'b');
        struct pf_sqe timed = sqe;
        timed.deadline_ns = pf_now_ns() + 1000000;
        rang[1] += rung_for(p.near, timed, -ETIMEDOUT);
        int64_t all = receive(p.near, PF_SQE_MULTISHOT, 10);
        rang[2] += rung_for(p.near, sqe, -EALREADY);
        CHECK_EQ(RIG_CALL(c, p.near, PF_OP_CANCEL, .token = (uint64_t)all), 0);
        CHECK_EQ(rig_await(c, p.near, all, NULL), -ECANCELED);
        CHECK_EQ(RIG_CALL(c, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
        struct pf_socket_b2c state;
        do {
            CHECK_EQ(pf_socket_state(c, p.near, &state), 0);
        } while (!(state.state & PF_STATE_EOF));
        rang[3] += rung_for(p.near, sqe, 0);
        rig_close(c, p.far, PF_CLOSE_ABORT);
        rig_close(c, p.near, PF_CLOSE_ABORT);
        uint32_t idle = rig_socket(c, PF_FAMILY_IPV4, 0);
        rang[4] += rung_for(idle, sqe, -ENOTCONN);
        rig_close(c, idle, 0);
    }
    for (int i = 0; i < 5; i++) {
        CHECK(rang[i] > 0);
    }
}

/* Behind a link that has failed it is cancelled, which is an answer. */
static void test_behind_a_link_it_rings(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    struct pf_sqe sqe = {.opcode = PF_OP_RECV, .length = 10};
    uint64_t rang = 0;
    for (int i = 0; i < ROUNDS; i++) {
        struct pf_sqe failing = {.opcode = PF_OP_SETOPT, .general = PF_SQE_LINK, .offset = ~0U};
        int64_t op = pf_submit_sqe(c, p.near, &failing, PF_DELIVER_CALL);
        CHECK(op > 0);
        CHECK(rig_await(c, p.near, op, NULL) < 0);
        rang += rung_for(p.near, sqe, -ECANCELED);
    }
    CHECK(rang > 0);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

/* A multishot receive that has ended is in nobody's way. */
static void test_silence_after_a_multishot_receive(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    int64_t all = receive(p.near, PF_SQE_MULTISHOT, 10);
    CHECK_EQ(RIG_CALL(c, p.near, PF_OP_CANCEL, .token = (uint64_t)all), 0);
    CHECK_EQ(rig_await(c, p.near, all, NULL), -ECANCELED);
    await_sleep();
    (void)rings();
    int64_t op = receive(p.near, 0, 10);
    CHECK_EQ(rings(), 0);
    CHECK_EQ(pf_send(c, p.far, "c", 1, RIG_PATIENCE), 1);
    CHECK_EQ(rig_await(c, p.near, op, NULL), 1);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

/* The close of the other side, a reset, and the own end find it, too. */
static void test_what_ends_it(void) {
    for (int i = 0; i < ROUNDS; i++) {
        struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
        bool reset = i % 2;
        await_sleep();
        int64_t op = receive(p.near, 0, 10);
        rig_close(c, p.far, reset ? PF_CLOSE_ABORT : 0);
        CHECK_EQ(rig_await(c, p.near, op, NULL), reset ? -ECONNRESET : 0);
        rig_close(c, p.near, PF_CLOSE_ABORT);
        p = rig_connect(c, c, rig_addr(++port), 0);
        await_sleep();
        op = receive(p.near, 0, 10);
        int64_t close = RIG_SUBMIT(c, p.near, PF_OP_CLOSE, .flags = PF_CLOSE_ABORT);
        CHECK_EQ(rig_await(c, p.near, op, NULL), -ECANCELED);
        CHECK_EQ(rig_await(c, p.near, close, NULL), 0);
        CHECK_EQ(pf_socket_release(c, p.near, 0), 0);
        rig_close(c, p.far, PF_CLOSE_ABORT);
    }
}

int main(void) {
    check_watchdog(120);
    struct pf_backend_config config = {.max_pcbs = 20000, .cpu = -1}; /* it never spins */
    rig_start_with(&rig, &config);
    struct rig_counts start = rig_counts(&rig);
    struct pf_session_request request = rig_request();
    struct pf_session_fds fds;
    char error[300] = "";
    one.session = rig_session(&rig, &request, &fds);
    bell = fcntl(fds.doorbell, F_DUPFD_CLOEXEC, 0);
    CHECK(bell >= 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, one.control), 0);
    one.client = pf_client_attach(one.control[0], fds.c2b, fds.b2c, fds.public_region, fds.doorbell,
                                  error, sizeof(error));
    CHECK(one.client);
    c = one.client;
    RUN(test_a_receive_waits_in_silence);
    RUN(test_the_next_one_rings);
    RUN(test_what_is_there_rings);
    RUN(test_behind_a_link_it_rings);
    RUN(test_silence_after_a_multishot_receive);
    RUN(test_what_ends_it);
    (void)close(bell);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
