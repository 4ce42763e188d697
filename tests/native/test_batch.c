/* Batches: all of it at the end, or nothing and no trace; and many completions in one call. */
#define _GNU_SOURCE
#include <pthread.h>

#include "rig.h"

static struct rig rig;
static struct rig_client one;
static struct pf_client *c;
static uint16_t port = 3000;

static int64_t queue(uint32_t slot, int opcode, uint32_t offset, uint64_t token) {
    int64_t op = pf_submit(c, slot, opcode, 0, token, offset, 0, NULL, PF_DELIVER_QUEUE);
    CHECK(op > 0);
    return op;
}

static uint32_t take(struct pf_done *done, uint32_t count) {
    uint32_t got = 0;
    while (got < count) {
        CHECK_EQ(pf_wait_any(c, RIG_PATIENCE, &done[got]), 1);
        got++;
        int more = pf_poll_many(c, PF_ANY_SOCKET, &done[got], count - got);
        CHECK(more >= 0);
        got += (uint32_t)more;
    }
    return got;
}

static void test_together(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    struct pf_done done[16];
    uint8_t got[10];
    CHECK_EQ(pf_batch_begin(c), 0);
    CHECK_EQ(pf_batch_begin(c), -EBUSY);
    for (int i = 0; i < 5; i++) {
        CHECK(pf_write(c, p.near, "ab", 2, PF_DELIVER_QUEUE) > 0);
        queue(p.far, PF_OP_NOP, 0, 0);
    }
    /* What somebody waits for is not kept back, and what was kept back has not started. */
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_NOP, 0), 0);
    CHECK_EQ(pf_poll_many(c, PF_ANY_SOCKET, done, 16), 0);
    CHECK_EQ(pf_batch_end(c, 1), 10);
    CHECK_EQ(take(done, 10), 10);
    for (int i = 0; i < 10; i++) {
        CHECK(done[i].result == (done[i].slot == p.near ? 2 : 0));
        CHECK_EQ(done[i].reaped_ns, 0);
    }
    rig_recv_all(c, p.far, got, 10);
    CHECK_EQ(memcmp(got, "ababababab", 10), 0);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

static void test_nothing_and_no_trace(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    uint64_t room = pf_client_arena_free(c);
    struct pf_done done[16];
    int64_t block = pf_block_register(c, 100);
    CHECK(block >= 0);
    for (int round = 0; round < 100; round++) {
        CHECK_EQ(pf_batch_begin(c), 0);
        queue(p.near, PF_OP_SETOPT, PF_OPT_PRIORITY, PF_PRIORITY_LOW);
        CHECK(pf_block_write(c, p.near, (uint32_t)block, 10, 0, 0, PF_DELIVER_QUEUE) > 0);
        CHECK_EQ(pf_block_busy(c, (uint32_t)block), 1);
        while (pf_write(c, p.near, "never", 5, PF_DELIVER_QUEUE) > 0) {
        }
        queue(p.near, PF_OP_CLOSE, 0, 0);
        CHECK_EQ(pf_submit(c, p.near, PF_OP_NOP, 0, 0, 0, 0, NULL, PF_DELIVER_QUEUE), -EBADF);
        CHECK(pf_batch_end(c, 0) > 0);
        CHECK_EQ(pf_block_busy(c, (uint32_t)block), 0);
    }
    CHECK_EQ(pf_block_release(c, (uint32_t)block), 0);
    CHECK_EQ(pf_client_arena_free(c), room);
    for (uint32_t i = 0; i < pf_client_queue_depth(c); i++) {
        queue(p.near, PF_OP_NOP, 0, 0);
    }
    CHECK_EQ(take(done, 16), 16);
    /* Its close is taken back when it has been let go: it is closed all the same. */
    CHECK_EQ(pf_batch_begin(c), 0);
    queue(p.near, PF_OP_CLOSE, 0, 0);
    CHECK_EQ(pf_socket_release(c, p.near, PF_CLOSE_GRACEFUL), 0);
    CHECK_EQ(pf_batch_end(c, 0), 1);
    uint8_t byte;
    CHECK_EQ(pf_recv(c, p.far, &byte, 1, 0, RIG_PATIENCE), 0);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

static void *close_it(void *slot) {
    int64_t op = pf_submit(c, *(uint32_t *)slot, PF_OP_CLOSE, PF_CLOSE_GRACEFUL, 0, 0, 0, NULL,
                           PF_DELIVER_QUEUE);
    CHECK(op > 0);
    return NULL;
}

/* A close that is not kept back must not overtake what is: that would break the protocol. */
static void test_a_close_does_not_overtake(void) {
    struct rig_pair p = rig_connect(c, c, rig_addr(++port), 0);
    struct pf_done done;
    uint8_t got[3];
    pthread_t thread;
    CHECK_EQ(pf_batch_begin(c), 0);
    CHECK(pf_write(c, p.near, "one", 3, PF_DELIVER_QUEUE) > 0);
    CHECK_EQ(pf_socket_release(c, p.near, PF_CLOSE_GRACEFUL), 0);
    rig_recv_all(c, p.far, got, 3); /* before its close, which drops what was not read */
    queue(p.far, PF_OP_NOP, 0, 0);
    CHECK_EQ(pthread_create(&thread, NULL, close_it, &p.far), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pf_batch_end(c, 1), 0);
    CHECK_EQ(pf_wait(c, p.far, RIG_PATIENCE, &done), 1);
    CHECK_EQ(done.opcode, PF_OP_NOP);
    CHECK_EQ(pf_wait(c, p.far, RIG_PATIENCE, &done), 1);
    CHECK_EQ(done.opcode, PF_OP_CLOSE);
    CHECK_EQ(pf_socket_release(c, p.far, 0), 0);
    CHECK_EQ(pf_client_ended(c), 0);
}

static void test_full(void) {
    uint32_t slots[PF_BATCH_MAX];
    uint32_t count = 0;
    uint32_t depth = pf_client_queue_depth(c);
    CHECK_EQ(pf_batch_begin(c), 0);
    int64_t op = 1;
    while (op > 0) {
        slots[count] = rig_socket(c, PF_FAMILY_IPV4, 4096);
        CHECK_EQ(pf_socket_set_queue_depth(c, slots[count], depth + 1), -EINVAL);
        CHECK_EQ(pf_socket_set_queue_depth(c, slots[count], 0), -EINVAL);
        CHECK_EQ(pf_socket_set_queue_depth(c, slots[count], count ? depth : 1), 0);
        while ((op = pf_nop(c, slots[count])) > 0) {
        }
        op = op == -EAGAIN ? 1 : op;
        count++;
    }
    CHECK_EQ(op, -ENOSPC);
    CHECK_EQ(pf_batch_end(c, 1), PF_BATCH_MAX);
    pf_client_stamp_reaped(c, 1);
    struct pf_done done;
    uint64_t before = pf_now_ns();
    for (uint32_t i = 0; i < PF_BATCH_MAX; i++) {
        CHECK_EQ(pf_wait_any(c, RIG_PATIENCE, &done), 1);
        CHECK(done.reaped_ns >= before && done.reaped_ns >= done.completed_ns);
    }
    pf_client_stamp_reaped(c, 0);
    while (count-- > 0) {
        CHECK_EQ(pf_socket_release(c, slots[count], 0), 0);
    }
}

int main(void) {
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    struct pf_session_request request = rig_request();
    request.max_sockets = 100;
    one = rig_attach_with(&rig, &request);
    c = one.client;
    RUN(test_together);
    RUN(test_nothing_and_no_trace);
    RUN(test_a_close_does_not_overtake);
    RUN(test_full);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
