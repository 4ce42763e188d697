/* Linked operations, deadlines, cancelling, registered blocks: each operation ends exactly once,
 * and what has begun is never cut in half. */
#define _GNU_SOURCE
#include "raw_client.h"
#include "rig.h"

#define MS UINT64_C(1000000)
/* More than the window and the stack's buffers hold. */
#define BEGUN 1000000U

static struct rig rig;
static struct rig_client one;
static struct pf_client *c;
static struct raw_client raw;
static uint16_t port = 2000;

/* Submits with what every operation may have; its completion is to be awaited. */
#define SUBMIT(slot, ...) submit(slot, (struct pf_sqe){__VA_ARGS__})
static int64_t submit(uint32_t slot, struct pf_sqe sqe) {
    int64_t op = pf_submit_sqe(c, slot, &sqe, PF_DELIVER_CALL);
    CHECK(op > 0);
    return op;
}

static int64_t write_with(uint32_t slot, const void *data, uint32_t length, uint16_t general,
                          uint64_t deadline_ns) {
    struct pf_sqe sqe = {.opcode = PF_OP_WRITE, .general = general, .deadline_ns = deadline_ns};
    int64_t op = pf_submit_block(c, slot, &sqe, data, length, PF_DELIVER_CALL);
    CHECK(op > 0);
    return op;
}

static int32_t await(uint32_t slot, int64_t op) { return rig_await(c, slot, op, NULL); }

static bool pending(uint32_t slot, int64_t op, struct pf_done *done) {
    return pf_await(c, slot, (uint64_t)op, 20 * (int64_t)MS, done) == 0;
}

static struct rig_pair pair(uint32_t near_rx) {
    return rig_connect(c, c, rig_addr(++port), near_rx);
}

static void close_pair(struct rig_pair p) {
    rig_close(c, p.near, PF_CLOSE_ABORT);
    rig_close(c, p.far, PF_CLOSE_ABORT);
}

/* ---- links ---- */

static void test_each_starts_after_the_one_before(void) {
    struct rig_pair p = pair(0);
    struct pf_done done;
    uint8_t got[8];
    int64_t first = SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 3, .general = PF_SQE_LINK);
    int64_t second = write_with(p.near, "answer", 6, PF_SQE_LINK, 0);
    int64_t third = SUBMIT(p.near, .opcode = PF_OP_NOP);
    int64_t behind = SUBMIT(p.near, .opcode = PF_OP_NOP); /* no part of it, and yet in order */
    CHECK(pending(p.near, first, &done));
    CHECK(pending(p.near, second, &done));
    CHECK(pending(p.near, behind, &done));
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_NOP, 0), 0); /* nobody else waits */
    rig_send_all(c, p.far, (const uint8_t *)"ask", 3);
    CHECK_EQ(await(p.near, first), 3);
    CHECK_EQ(rig_await(c, p.near, second, &done), 6);
    CHECK_EQ(await(p.near, third), 0);
    CHECK_EQ(await(p.near, behind), 0);
    rig_recv_all(c, p.far, got, 6);
    CHECK_EQ(memcmp(got, "answer", 6), 0);
    close_pair(p);
}

static void test_a_failure_cancels_the_rest(void) {
    uint32_t slot = rig_socket(c, PF_FAMILY_IPV4, 0);
    struct pf_addr nobody = rig_addr(++port);
    int64_t ops[5];
    ops[0] = SUBMIT(slot, .opcode = PF_OP_CONNECT, .addr = nobody, .general = PF_SQE_LINK);
    ops[1] = write_with(slot, "x", 1, PF_SQE_LINK, 0);
    ops[2] = SUBMIT(slot, .opcode = PF_OP_NOP, .general = PF_SQE_LINK);
    ops[3] = SUBMIT(slot, .opcode = PF_OP_NOP);
    ops[4] = SUBMIT(slot, .opcode = PF_OP_NOP);
    CHECK_EQ(await(slot, ops[0]), -ECONNREFUSED);
    for (int i = 1; i < 4; i++) {
        CHECK_EQ(await(slot, ops[i]), -ECANCELED);
    }
    CHECK_EQ(await(slot, ops[4]), 0);
    /* The rest may come when the failure is known. */
    CHECK_EQ(await(slot, SUBMIT(slot, .opcode = PF_OP_RECV, .length = 1, .general = PF_SQE_LINK)),
             -ECONNREFUSED);
    CHECK_EQ(await(slot, SUBMIT(slot, .opcode = PF_OP_NOP, .general = PF_SQE_LINK)), -ECANCELED);
    CHECK_EQ(await(slot, SUBMIT(slot, .opcode = PF_OP_NOP)), -ECANCELED);
    CHECK_EQ(await(slot, SUBMIT(slot, .opcode = PF_OP_NOP)), 0);
    /* And a chain whose first one succeeded at once goes on. */
    CHECK_EQ(await(slot, SUBMIT(slot, .opcode = PF_OP_NOP, .general = PF_SQE_LINK)), 0);
    CHECK_EQ(await(slot, SUBMIT(slot, .opcode = PF_OP_NOP)), 0);
    rig_close(c, slot, 0);
}

static void test_a_close_ends_the_chain(void) {
    struct rig_pair p = pair(0);
    struct pf_done done;
    int64_t first = SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 3, .general = PF_SQE_LINK);
    int64_t second = SUBMIT(p.near, .opcode = PF_OP_NOP, .general = PF_SQE_LINK);
    int64_t third = SUBMIT(p.near, .opcode = PF_OP_NOP);
    CHECK(pending(p.near, third, &done));
    CHECK_EQ(await(p.near, SUBMIT(p.near, .opcode = PF_OP_CLOSE)), 0);
    CHECK_EQ(await(p.near, first), -ECANCELED);
    CHECK_EQ(await(p.near, second), -ECANCELED);
    CHECK_EQ(await(p.near, third), -ECANCELED);
    CHECK_EQ(pf_socket_release(c, p.near, 0), 0);
    rig_close(c, p.far, 0);
}

/* ---- cancelling ---- */

static int32_t cancel(uint32_t slot, int64_t op) {
    return await(slot, SUBMIT(slot, .opcode = PF_OP_CANCEL, .token = (uint64_t)op));
}

static int32_t cancel_all(uint32_t slot) {
    return await(slot, SUBMIT(slot, .opcode = PF_OP_CANCEL, .flags = PF_SQE_ALL));
}

static void test_cancel_in_a_chain(void) {
    struct rig_pair p = pair(0);
    struct pf_done done;
    int64_t first = SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 3, .general = PF_SQE_LINK);
    int64_t ops[5];
    for (int i = 0; i < 5; i++) { /* first -> 0 -> 1, 2 -> 3, 4 */
        ops[i] = SUBMIT(p.near, .opcode = PF_OP_NOP, .general = i == 0 || i == 2 ? PF_SQE_LINK : 0);
    }
    CHECK_EQ(cancel(p.near, ops[2]), 0);
    CHECK_EQ(await(p.near, ops[2]), -ECANCELED);
    CHECK_EQ(await(p.near, ops[3]), -ECANCELED);
    CHECK_EQ(cancel(p.near, ops[1]), 0); /* then 0 is the last, and 4 still no part of it */
    CHECK_EQ(await(p.near, ops[1]), -ECANCELED);
    CHECK(pending(p.near, ops[0], &done));
    CHECK_EQ(cancel(p.near, first), 0);
    CHECK_EQ(await(p.near, first), -ECANCELED);
    CHECK_EQ(await(p.near, ops[0]), -ECANCELED);
    CHECK_EQ(await(p.near, ops[4]), 0);
    /* All of them, and what comes next is on its own. */
    first = SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 3, .general = PF_SQE_LINK);
    ops[0] = SUBMIT(p.near, .opcode = PF_OP_NOP, .general = PF_SQE_LINK);
    CHECK_EQ(cancel_all(p.near), 2);
    CHECK_EQ(await(p.near, first), -ECANCELED);
    CHECK_EQ(await(p.near, ops[0]), -ECANCELED);
    CHECK_EQ(await(p.near, SUBMIT(p.near, .opcode = PF_OP_NOP)), 0);
    CHECK_EQ(cancel_all(p.near), 0);
    close_pair(p);
}

/* The first is partly in the stack, the others are not: near does not read. */
static void test_cancel_writes(void) {
    static uint8_t out[BEGUN + 200000];
    static uint8_t in[sizeof(out)];
    struct rig_pair p = pair(4096);
    struct pf_done done;
    CHECK_EQ(pf_socket_set_send_limit(c, p.far, 8U << 20), 0);
    rig_fill(out, 5, 0, sizeof(out));
    int64_t begun = write_with(p.far, out, BEGUN, 0, 0);
    int64_t second = write_with(p.far, "never", 5, 0, 0);
    int64_t third = write_with(p.far, out + BEGUN, 200000, 0, 0);
    CHECK(pending(p.far, begun, &done));
    CHECK_EQ(cancel(p.far, begun), -ENOENT);
    CHECK_EQ(cancel(p.far, second), 0);
    CHECK_EQ(await(p.far, second), -ECANCELED);
    int64_t end = SUBMIT(p.far, .opcode = PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE);
    CHECK_EQ(await(p.far, end), 0);
    rig_recv_all(c, p.near, in, sizeof(in));
    CHECK_EQ(memcmp(in, out, sizeof(in)), 0);
    CHECK_EQ(pf_recv(c, p.near, in, 1, 0, RIG_PATIENCE), 0);
    CHECK_EQ(rig_await(c, p.far, begun, &done), BEGUN);
    uint64_t handed;
    memcpy(&handed, done.addr.ip, sizeof(handed));
    CHECK(handed >= done.picked_ns && handed <= done.completed_ns);
    CHECK_EQ(await(p.far, third), 200000);
    close_pair(p);
}

static void test_drain(void) {
    static uint8_t out[BEGUN];
    static uint8_t in[BEGUN];
    uint32_t alone = rig_socket(c, PF_FAMILY_IPV4, 0);
    struct rig_pair p = pair(4096);
    struct pf_done done;
    CHECK_EQ(RIG_CALL(c, alone, PF_OP_DRAIN, 0), -ENOTCONN);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_DRAIN, 0), 0);
    CHECK_EQ(pf_socket_set_send_limit(c, p.far, 8U << 20), 0);
    int64_t write = write_with(p.far, out, BEGUN, 0, 0);
    int64_t first = SUBMIT(p.far, .opcode = PF_OP_DRAIN);
    int64_t second = SUBMIT(p.far, .opcode = PF_OP_DRAIN);
    int64_t dropped = SUBMIT(p.far, .opcode = PF_OP_DRAIN, .deadline_ns = pf_now_ns() + 5 * MS);
    int64_t last = write_with(p.far, "x", 1, 0, 0);
    CHECK_EQ(await(p.far, dropped), -ETIMEDOUT);
    CHECK(pending(p.far, first, &done));
    rig_recv_all(c, p.near, in, BEGUN);
    CHECK_EQ(await(p.far, second), 0);
    CHECK_EQ(await(p.far, first), 0);
    CHECK_EQ(await(p.far, write), BEGUN);
    rig_recv_all(c, p.near, in, 1);
    CHECK_EQ(in[0], 'x');
    CHECK_EQ(await(p.far, last), 1);
    rig_close(c, p.near, PF_CLOSE_ABORT);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_RECV, .length = 1), -ECONNRESET);
    CHECK_EQ(RIG_CALL(c, p.far, PF_OP_DRAIN, 0), -ECONNRESET);
    rig_close(c, p.far, 0);
    rig_close(c, alone, 0);
}

/* A connect that nobody answers: the listener's queue is full. */
static uint32_t stuck_connect(uint32_t listener_slots[4], struct pf_addr addr, int64_t *op,
                              uint64_t deadline_ns) {
    struct pf_done done;
    for (int i = 0; i < 4; i++) {
        uint32_t slot = rig_socket(c, PF_FAMILY_IPV4, 0);
        *op = SUBMIT(slot, .opcode = PF_OP_CONNECT, .addr = addr, .deadline_ns = deadline_ns);
        listener_slots[i] = slot;
        if (pending(slot, *op, &done)) {
            return (uint32_t)i;
        }
        CHECK_EQ(done.result, 0);
    }
    CHECK(!"one connect is not answered");
    return 0;
}

static void test_cancel_connect(void) {
    uint32_t slots[4];
    int64_t op;
    struct pf_addr addr = rig_addr(++port);
    uint32_t listener = rig_listener(c, addr, 1);
    uint32_t last = stuck_connect(slots, addr, &op, 0);
    int64_t queued = write_with(slots[last], "x", 1, 0, 0);
    CHECK_EQ(cancel(slots[last], op), 0);
    CHECK_EQ(await(slots[last], op), -ECANCELED);
    CHECK_EQ(await(slots[last], queued), -ECANCELED);
    /* It may be tried again: this time it is too late. */
    struct pf_done done;
    uint64_t deadline = pf_now_ns() + 30 * MS;
    op = SUBMIT(slots[last], .opcode = PF_OP_CONNECT, .addr = addr, .deadline_ns = deadline);
    CHECK_EQ(rig_await(c, slots[last], op, &done), -ETIMEDOUT);
    CHECK_EQ(done.flags, PF_CQE_DEADLINE);
    CHECK(done.completed_ns >= deadline);
    /* And once there is room, it succeeds. */
    rig_close(c, slots[0], PF_CLOSE_ABORT);
    for (uint32_t i = 1; i < last; i++) {
        rig_close(c, slots[i], PF_CLOSE_ABORT);
    }
    CHECK_EQ(RIG_CALL(c, listener, PF_OP_CLOSE, 0), 0);
    CHECK_EQ(pf_socket_release(c, listener, 0), 0);
    listener = rig_listener(c, addr, 1);
    CHECK_EQ(RIG_CALL(c, slots[last], PF_OP_CONNECT, .addr = &addr), 0);
    rig_close(c, slots[last], PF_CLOSE_ABORT);
    rig_close(c, listener, 0);
}

/* ---- deadlines ---- */

static void test_deadlines(void) {
    struct rig_pair p = pair(0);
    struct pf_done done;
    uint64_t now = pf_now_ns();
    int64_t ops[6];
    /* In another order than they end. */
    static const int order[] = {3, 0, 5, 1, 4, 2};
    for (int i = 0; i < 6; i++) {
        ops[order[i]] = SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 1,
                               .deadline_ns = now + (uint64_t)(order[i] + 1) * 10 * MS);
    }
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(rig_await(c, p.near, ops[i], &done), -ETIMEDOUT);
        CHECK_EQ(done.flags, PF_CQE_DEADLINE);
        CHECK(done.completed_ns >= now + (uint64_t)(i + 1) * 10 * MS);
    }
    /* Past already: it never starts. */
    CHECK_EQ(await(p.near, write_with(p.near, "late", 4, 0, now)), -ETIMEDOUT);
    CHECK_EQ(await(p.near, SUBMIT(p.near, .opcode = PF_OP_NOP, .deadline_ns = 1)), -ETIMEDOUT);
    /* In time: nothing comes of it. */
    int64_t op =
        SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 1, .deadline_ns = pf_now_ns() + 50 * MS);
    rig_send_all(c, p.far, (const uint8_t *)"b", 1);
    CHECK_EQ(rig_await(c, p.near, op, &done), 1);
    CHECK_EQ(done.flags, 0);
    uint8_t byte;
    rig_recv_all(c, p.near, &byte, 1);
    CHECK_EQ(byte, 'b');
    /* Held behind a link. */
    op = SUBMIT(p.near, .opcode = PF_OP_RECV, .length = 1, .general = PF_SQE_LINK);
    ops[0] = SUBMIT(p.near, .opcode = PF_OP_NOP, .general = PF_SQE_LINK,
                    .deadline_ns = pf_now_ns() + 5 * MS);
    CHECK_EQ(rig_await(c, p.near, ops[0], &done), -ETIMEDOUT);
    CHECK_EQ(await(p.near, SUBMIT(p.near, .opcode = PF_OP_NOP)), -ECANCELED);
    ops[1] = SUBMIT(p.near, .opcode = PF_OP_NOP);
    CHECK(pending(p.near, op, &done));
    CHECK_EQ(cancel(p.near, op), 0);
    CHECK_EQ(await(p.near, op), -ECANCELED);
    CHECK_EQ(await(p.near, ops[1]), 0);
    close_pair(p);
}

static void test_a_late_write_is_dropped_whole(void) {
    static uint8_t out[BEGUN + 200000];
    static uint8_t in[sizeof(out)];
    struct rig_pair p = pair(4096);
    struct pf_done done;
    CHECK_EQ(pf_socket_set_send_limit(c, p.far, 8U << 20), 0);
    rig_fill(out, 6, 0, sizeof(out));
    uint64_t deadline = pf_now_ns() + 20 * MS;
    int64_t begun = write_with(p.far, out, BEGUN, 0, deadline); /* goes on */
    int64_t late = write_with(p.far, "never", 5, PF_SQE_LINK, deadline);
    int64_t next = write_with(p.far, "nor this", 8, 0, 0);
    int64_t last = write_with(p.far, out + BEGUN, 200000, 0, 0);
    CHECK_EQ(rig_await(c, p.far, late, &done), -ETIMEDOUT);
    CHECK(done.completed_ns >= deadline);
    CHECK_EQ(await(p.far, next), -ECANCELED);
    rig_recv_all(c, p.near, in, sizeof(in));
    CHECK_EQ(memcmp(in, out, sizeof(in)), 0);
    CHECK_EQ(await(p.far, begun), BEGUN);
    CHECK_EQ(await(p.far, last), 200000);
    close_pair(p);
}

/* Accepts, and one socket's deadlines beside many others'. */
static void test_many_deadlines(void) {
    enum { COUNT = 24 };
    uint32_t slots[COUNT];
    int64_t ops[COUNT];
    struct pf_done done;
    uint64_t now = pf_now_ns();
    uint64_t state = 7;
    for (int i = 0; i < COUNT; i++) {
        slots[i] = rig_listener(c, rig_addr(++port), 1);
        ops[i] = SUBMIT(slots[i], .opcode = PF_OP_ACCEPT, .flags = i % 2 ? PF_SQE_MULTISHOT : 0,
                        .deadline_ns = now + check_random_next(&state) % (60 * MS));
    }
    for (int i = 0; i < COUNT; i += 3) { /* some leave the heap from its middle */
        rig_close(c, slots[i], 0);
    }
    for (int i = 0; i < COUNT; i++) {
        if (i % 3) {
            CHECK_EQ(rig_await(c, slots[i], ops[i], &done), -ETIMEDOUT);
            CHECK_EQ(done.flags, PF_CQE_DEADLINE);
            CHECK_EQ(
                await(slots[i], SUBMIT(slots[i], .opcode = PF_OP_ACCEPT, .flags = PF_SQE_NOWAIT)),
                -EAGAIN); /* no multishot accept is in its way */
            rig_close(c, slots[i], 0);
        }
    }
}

/* ---- registered blocks ---- */

static int64_t write_block(uint32_t slot, int64_t block, uint32_t length) {
    return pf_block_write(c, slot, (uint32_t)block, length, 0, 0, PF_DELIVER_CALL);
}

static void test_blocks(void) {
    struct rig_pair p = pair(4096);
    uint64_t free_bytes = pf_client_arena_free(c);
    uint8_t got[16];
    CHECK_EQ(pf_block_register(c, 0), -EINVAL);
    CHECK_EQ(pf_block_register(c, PF_MAX_WRITE_BYTES + 1), -EINVAL);
    int64_t block = pf_block_register(c, 300000);
    CHECK(block >= 0);
    CHECK_EQ(pf_client_arena_free(c), free_bytes - 524288);
    uint8_t *data = pf_block_data(c, (uint32_t)block);
    for (uint8_t i = 0; i < 50; i++) {
        memset(data, i, 10);
        CHECK_EQ(await(p.far, write_block(p.far, block, 10)), 10);
        rig_recv_all(c, p.near, got, 10);
        CHECK_EQ(got[0], i);
        CHECK_EQ(got[9], i);
        CHECK_EQ(pf_block_busy(c, (uint32_t)block), 0);
    }
    /* Under way: refused, and given back only when that is over. */
    int64_t op = write_block(p.far, block, 300000);
    CHECK(op > 0);
    CHECK_EQ(pf_block_busy(c, (uint32_t)block), 1);
    CHECK_EQ(write_block(p.far, block, 1), -EBUSY);
    CHECK_EQ(pf_block_release(c, (uint32_t)block), 0);
    CHECK_EQ(pf_client_arena_free(c), free_bytes - 524288);
    rig_close(c, p.far, PF_CLOSE_ABORT);
    CHECK_EQ(pf_client_arena_free(c), free_bytes);
    CHECK_EQ(pf_block_release(c, (uint32_t)block), -EINVAL);
    rig_close(c, p.near, PF_CLOSE_ABORT);
}

/* ---- a client that does as it likes ---- */

/* The same op_id many times, chains without an end, and everything cancelled at once. */
static void test_hostile_chains(void) {
    struct pf_session_request request = rig_request();
    raw_attach(&rig, &raw, &request);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4).result, 0);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_BIND, .addr = rig_addr(++port)).result, 0);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_LISTEN, .length = 1).result, 0);
    for (int round = 0; round < 50; round++) {
        RAW_SUBMIT(&raw, 0, .opcode = PF_OP_ACCEPT, .general = PF_SQE_LINK);
        for (int i = 0; i < 20; i++) {
            raw.next_op = 77;
            RAW_SUBMIT(&raw, 0, .opcode = PF_OP_NOP, .general = UINT16_MAX,
                       .deadline_ns = i % 3 ? pf_now_ns() + (uint64_t)i * 10000 : 0);
        }
        RAW_SUBMIT(&raw, 0, .opcode = PF_OP_CANCEL, .general = PF_SQE_LINK,
                   .flags = round % 2 ? PF_SQE_ALL : 0, .token = 78, .deadline_ns = 1);
        RAW_SUBMIT(&raw, 0, .opcode = PF_OP_CANCEL, .flags = PF_SQE_ALL);
        while (raw.slots[0].flying > 0) {
            (void)raw_next(&raw, 0);
        }
    }
    /* A failed open with a deadline, and the session's end with a chain that waits. */
    RAW_SUBMIT(&raw, 1, .opcode = PF_OP_OPEN, .flags = 9, .general = PF_SQE_LINK,
               .deadline_ns = pf_now_ns() + 20 * MS);
    CHECK_EQ(raw_next(&raw, 1).result, -EAFNOSUPPORT);
    RAW_SUBMIT(&raw, 2, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4, .deadline_ns = 1);
    CHECK_EQ(raw_next(&raw, 2).result, -ETIMEDOUT);
    RAW_SUBMIT(&raw, 0, .opcode = PF_OP_ACCEPT, .general = PF_SQE_LINK,
               .deadline_ns = pf_now_ns() + 5 * MS);
    RAW_SUBMIT(&raw, 0, .opcode = PF_OP_NOP, .general = PF_SQE_LINK);
    raw_detach(&rig, &raw, true);
    rig_sleep_ms(30); /* the deadlines of a session that is gone come */
}

int main(void) {
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    struct pf_session_request request = rig_request();
    request.arena_bytes = UINT64_C(16) << 20;
    one = rig_attach_with(&rig, &request);
    c = one.client;
    RUN(test_each_starts_after_the_one_before);
    RUN(test_a_failure_cancels_the_rest);
    RUN(test_a_close_ends_the_chain);
    RUN(test_cancel_in_a_chain);
    RUN(test_cancel_writes);
    RUN(test_drain);
    RUN(test_cancel_connect);
    RUN(test_deadlines);
    RUN(test_a_late_write_is_dropped_whole);
    RUN(test_many_deadlines);
    RUN(test_blocks);
    RUN(test_hostile_chains);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
