/* native/lwip/tcp.c and stack_lwip.c by themselves, one step at a time: what only shows at one
 * moment of a connection's life. */
#include "backend/stack.h"

#include <errno.h>

#include "check.h"
#include "lwip/priv/tcp_priv.h"

static uint64_t acknowledged;
static int failures;
static struct stk_conn *expected; /* a listener that has to have a connection when one is told of */

static void on_owner(void *owner) { (void)owner; }
static void on_connected(void *owner) {
    (void)owner;
    CHECK(!expected || stk_tcp_acceptable(expected));
    expected = NULL;
}
static void on_acknowledged(void *owner, uint32_t bytes) {
    (void)owner;
    acknowledged += bytes;
}
static void on_failed(void *owner, int error) {
    (void)owner;
    (void)error;
    failures++;
}

static const struct stk_events events = {.connected = on_connected,
                                         .acceptable = on_owner,
                                         .readable = on_owner,
                                         .acknowledged = on_acknowledged,
                                         .failed = on_failed};

static struct pf_addr addr_of(uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, 1}};
}

/* Until nothing is under way any more. */
static void run(void) {
    bool any = true;
    while (any) {
        any = false;
        (void)stk_collect_frames(STK_FRAMES_AT_ONCE);
        for (int p = 0; p < PF_PRIORITIES; p++) {
            while (stk_frame_waiting(p)) {
                stk_process_frame(p);
                any = true;
            }
        }
        any = any || stk_frames_pending();
    }
}

struct ends {
    struct stk_conn *near;
    struct stk_conn *far;
};

static struct ends connection(int priority) {
    static uint16_t port = 3000;
    struct pf_addr addr = addr_of(++port);
    struct stk_conn *listener;
    struct ends ends;
    CHECK_EQ(stk_tcp_open(PF_FAMILY_IPV4, priority, &port, &listener), 0);
    CHECK_EQ(stk_tcp_bind(listener, &addr), 0);
    CHECK_EQ(stk_tcp_listen(listener, 1), 0);
    CHECK_EQ(stk_tcp_open(PF_FAMILY_IPV4, priority, &port, &ends.near), 0);
    CHECK_EQ(stk_tcp_connect(ends.near, &addr), 0);
    expected = listener;
    run();
    CHECK(!expected); /* it was told */
    ends.far = stk_tcp_accept(listener);
    CHECK(ends.far);
    stk_tcp_set_owner(ends.far, &port);
    stk_tcp_close(listener);
    return ends;
}

/* lwIP frees what is in TIME_WAIT without telling anybody. */
static void let_time_wait_pass(void) {
    tcp_ticks += 2 * TCP_MSL / TCP_SLOW_INTERVAL + 10;
    tcp_slowtmr();
    tcp_slowtmr();
    CHECK(!tcp_tw_pcbs);
}

static void use_and_close(struct stk_conn *conn) {
    uint8_t byte;
    struct pf_addr local;
    struct pf_addr peer;
    CHECK(stk_tcp_at_end(conn));
    CHECK(stk_tcp_drained(conn));
    CHECK_EQ(stk_tcp_read(conn, &byte, 1), 0);
    stk_tcp_credit(conn, 1);
    stk_tcp_push(conn);
    CHECK_EQ(stk_tcp_write(conn, &byte, 1, false), -EPIPE);
    (void)stk_tcp_set_option(conn, PF_OPT_NODELAY, 1);
    stk_tcp_names(conn, &local, &peer);
    stk_tcp_close(conn);
}

static void test_after_time_wait(void) {
    struct ends ends = connection(PF_PRIORITY_LOW);
    CHECK_EQ(stk_tcp_finish(ends.near), 0);
    stk_tcp_push(ends.near);
    run();
    CHECK(stk_tcp_at_end(ends.far));
    CHECK_EQ(stk_tcp_finish(ends.far), 0);
    stk_tcp_push(ends.far);
    run();
    CHECK(tcp_tw_pcbs);
    let_time_wait_pass();
    use_and_close(ends.near);
    use_and_close(ends.far);
}

/* Both at once, with and without bytes before: over CLOSING. */
static void test_after_time_wait_of_both(void) {
    static const uint8_t data[40000];
    for (int round = 0; round < 2; round++) {
        struct ends ends = connection(PF_PRIORITY_HIGH);
        uint64_t before = acknowledged;
        if (round) {
            CHECK_EQ(stk_tcp_write(ends.near, data, sizeof(data), false), sizeof(data));
            CHECK_EQ(stk_tcp_write(ends.far, data, sizeof(data), false), sizeof(data));
        }
        CHECK_EQ(stk_tcp_finish(ends.near), 0);
        CHECK_EQ(stk_tcp_finish(ends.far), 0);
        stk_tcp_push(ends.near);
        stk_tcp_push(ends.far);
        run();
        CHECK_EQ(acknowledged - before, round ? 2 * sizeof(data) : 0);
        let_time_wait_pass();
        static uint8_t back[sizeof(data)];
        CHECK_EQ(stk_tcp_read(ends.near, back, sizeof(back)), round ? sizeof(data) : 0);
        CHECK_EQ(stk_tcp_read(ends.far, back, sizeof(back)), round ? sizeof(data) : 0);
        use_and_close(ends.near);
        use_and_close(ends.far);
    }
}

/* Frames of low priority that nobody has time for must not keep a HIGH one from being seen. */
static void test_low_frames_do_not_hide_high_ones(void) {
    static const uint8_t data[4000];
    struct ends low = connection(PF_PRIORITY_LOW);
    struct ends high = connection(PF_PRIORITY_HIGH);
    for (uint32_t i = 0; i < 4; i++) { /* the congestion window is still small */
        CHECK_EQ(stk_tcp_write(low.near, data, 4000, false), 4000);
        stk_tcp_push(low.near);
        run();
    }
    for (uint32_t i = 0; i < 300; i++) {
        CHECK_EQ(stk_tcp_write(low.near, data + i, 1, false), 1);
        stk_tcp_push(low.near);
    }
    CHECK_EQ(stk_tcp_write(high.near, data, 5, false), 5);
    stk_tcp_push(high.near);
    stk_collect_own_frames(); /* all, or the urgent one is not seen behind the others */
    stk_process_frame(PF_PRIORITY_HIGH);
    CHECK_EQ(stk_tcp_unread(high.far), 5);
    run();
    CHECK_EQ(stk_tcp_unread(low.far), 4 * 4000 + 300);
    stk_tcp_abort(low.near);
    stk_tcp_abort(high.near);
    run();
    CHECK_EQ(failures, 2 + 2 * 0);
    stk_tcp_close(low.far);
    stk_tcp_close(high.far);
}

/* A window full of single bytes that nobody reads: cheap to keep, and to take another one to. */
static void test_many_small_segments(void) {
    enum { SEGMENTS = 250000 };
    static uint8_t data[SEGMENTS];
    static uint8_t back[SEGMENTS];
    struct ends ends = connection(PF_PRIORITY_LOW);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        data[i] = (uint8_t)(i * 31 >> 3);
        CHECK_EQ(stk_tcp_write(ends.near, data + i, 1, false), 1);
        stk_tcp_push(ends.near);
        run();
    }
    CHECK_EQ(stk_tcp_unread(ends.far), SEGMENTS);
    uint32_t at = 0;
    while (at < SEGMENTS) {
        uint32_t most = 1 + check_random(9000);
        uint32_t got = stk_tcp_read(ends.far, back + at, most);
        CHECK(got > 0 && got <= most);
        at += got;
        if (at % 5 == 0) { /* reading and arriving by turns */
            stk_tcp_credit(ends.far, got);
        }
    }
    CHECK(memcmp(data, back, SEGMENTS) == 0);
    CHECK_EQ(stk_tcp_unread(ends.far), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        uint8_t byte = 0;
        CHECK_EQ(stk_tcp_write(ends.near, data + i, 1 + i % 3, false), 1 + i % 3);
        stk_tcp_push(ends.near);
        run();
        if (i % 4 == 3) {
            CHECK_EQ(stk_tcp_read(ends.far, &byte, 1), 1);
        }
    }
    stk_tcp_close(ends.far);
    run();
    stk_tcp_close(ends.near);
    run();
}

static uint64_t frames_out(void) {
    struct stk_counts counts;
    stk_count(&counts);
    return counts.frames_out;
}

/* To a peer that never answers: when the SYN is sent again, in seconds; then the end. */
static void test_syn_is_sent_again(void) {
    static const unsigned again[] = {1, 3, 7, 15, 31, 63};
    enum {
        TICKS_PER_SECOND = 1000 / TCP_SLOW_INTERVAL,
        GIVEN_UP_AFTER = 127,
        EVERYTHING = 1000000
    };
    static int owner;
    struct pf_addr addr = addr_of(2999);
    struct stk_conn *conn;
    int before = failures;
    stk_inject_loss(EVERYTHING, 1);
    CHECK_EQ(stk_tcp_open(PF_FAMILY_IPV4, PF_PRIORITY_LOW, &owner, &conn), 0);
    CHECK_EQ(stk_tcp_connect(conn, &addr), 0);
    unsigned ticks = 0;
    for (size_t i = 0; i < sizeof(again) / sizeof(again[0]); i++) {
        for (uint64_t sent = frames_out(); frames_out() == sent; ticks++) {
            run();
            tcp_slowtmr();
        }
        CHECK(ticks >= again[i] * TICKS_PER_SECOND && ticks <= again[i] * TICKS_PER_SECOND + 2);
    }
    for (; failures == before; ticks++) {
        tcp_slowtmr();
        CHECK(ticks <= (GIVEN_UP_AFTER + 1) * TICKS_PER_SECOND);
    }
    CHECK(ticks >= GIVEN_UP_AFTER * TICKS_PER_SECOND);
    CHECK_EQ(stk_tcp_error(conn), ETIMEDOUT);
    stk_tcp_close(conn);
    run();
    stk_inject_loss(0, 1);
}

int main(void) {
    char error[200];
    check_random_init();
    check_watchdog(60);
    CHECK_EQ(stk_init(&events), 0);
    CHECK_EQ(stk_add_loopback(error, sizeof(error)), 0);
    RUN(test_syn_is_sent_again);
    RUN(test_after_time_wait);
    RUN(test_after_time_wait_of_both);
    failures = 0;
    RUN(test_low_frames_do_not_hide_high_ones);
    RUN(test_many_small_segments);
    stk_shutdown();
    return 0;
}
