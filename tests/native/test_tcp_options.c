/* Options of TCP endpoints where they act: groups that share a port, time limits, limits of windows
 * and segments, deferred accepts. Over the loopback link, one step at a time. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "backend/stack.h"
#include "check.h"
#include "lwip/conn.h"
#include "lwip/priv/tcp_priv.h"

static int acceptable;
static int failures;
static int last_error;

static void on_owner(void *owner) { (void)owner; }
static void on_acceptable(void *owner) {
    (void)owner;
    acceptable++;
}
static void on_acknowledged(void *owner, uint32_t bytes) {
    (void)owner;
    (void)bytes;
}
static void on_failed(void *owner, int error) {
    (void)owner;
    failures++;
    last_error = error;
}

static const struct stk_events events = {.connected = on_owner,
                                         .acceptable = on_acceptable,
                                         .readable = on_owner,
                                         .acknowledged = on_acknowledged,
                                         .failed = on_failed};
static int owner;

static struct pf_addr addr_of(uint8_t last, uint16_t port) {
    return (struct pf_addr){.family = PF_FAMILY_IPV4, .port = port, .ip = {127, 0, 0, last}};
}

static void run(void) {
    bool any = true;
    while (any) {
        any = false;
        while (stk_tcp_reset_some(STK_FRAMES_AT_ONCE)) {
        }
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

static struct stk_conn *fresh(void) {
    struct stk_conn *conn = NULL;
    CHECK_EQ(stk_tcp_open(PF_FAMILY_IPV4, PF_PRIORITY_MEDIUM, &owner, &conn), 0);
    return conn;
}

static int bind_shared(struct stk_conn *conn, uint64_t user, uint8_t last, uint16_t port) {
    struct pf_addr addr = addr_of(last, port);
    CHECK_EQ(stk_tcp_set_option(conn, PF_OPT_REUSEPORT, user), 0);
    return stk_tcp_bind(conn, &addr);
}

static struct stk_conn *connected(uint8_t last, uint16_t port) {
    struct stk_conn *conn = fresh();
    struct pf_addr addr = addr_of(last, port);
    CHECK_EQ(stk_tcp_connect(conn, &addr), 0);
    run();
    return conn;
}

static void end(struct stk_conn *conn) {
    stk_tcp_abort(conn);
    run();
}

static void test_groups_share_by_turns(void) {
    struct stk_conn *members[3];
    struct stk_conn *clients[9];
    for (int i = 0; i < 3; i++) {
        members[i] = fresh();
        CHECK_EQ(bind_shared(members[i], 1001, 1, 4000), 0);
        CHECK_EQ(stk_tcp_listen(members[i], 3), 0);
    }
    for (int i = 0; i < 9; i++) {
        clients[i] = connected(1, 4000);
    }
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) {
            struct stk_conn *taken = stk_tcp_accept(members[i]);
            CHECK(taken);
            end(taken);
        }
        CHECK(!stk_tcp_acceptable(members[i]));
    }
    for (int i = 0; i < 9; i++) {
        end(clients[i]);
    }
    /* One is full or gone: the others get its share. */
    stk_tcp_close(members[1]);
    for (int i = 0; i < 6; i++) {
        clients[i] = connected(1, 4000);
    }
    for (int i = 0; i < 6; i++) {
        struct stk_conn *taken = stk_tcp_accept(members[i < 3 ? 0 : 2]);
        CHECK(taken);
        end(taken);
    }
    for (int i = 0; i < 6; i++) {
        end(clients[i]);
    }
    stk_tcp_close(members[0]);
    stk_tcp_close(members[2]);
    struct stk_conn *refused = connected(1, 4000);
    CHECK_EQ(last_error, ECONNREFUSED);
    end(refused);
}

static void test_groups_belong_to_one_user(void) {
    struct stk_conn *mine = fresh();
    struct stk_conn *theirs = fresh();
    struct stk_conn *plain = fresh();
    struct pf_addr addr = addr_of(1, 4001);
    CHECK_EQ(bind_shared(mine, 1001, 1, 4001), 0);
    CHECK_EQ(bind_shared(theirs, 1002, 1, 4001), -EADDRINUSE);
    CHECK_EQ(stk_tcp_bind(plain, &addr), -EADDRINUSE);
    CHECK_EQ(bind_shared(mine, 1001, 1, 4001), -EINVAL); /* once */
    struct pf_addr local;
    struct pf_addr peer;
    stk_tcp_names(mine, &local, &peer);
    CHECK_EQ(local.port, 4001);
    CHECK_EQ(peer.port, 0);
    stk_tcp_close(mine);
    CHECK_EQ(bind_shared(theirs, 1002, 1, 4001), 0);
    stk_tcp_close(theirs);
    CHECK_EQ(stk_tcp_bind(plain, &addr), 0);
    stk_tcp_close(plain);
}

static void test_waiting_connections_of_a_member_end_with_it(void) {
    struct stk_conn *member = fresh();
    struct stk_conn *other = fresh();
    CHECK_EQ(bind_shared(member, 7, 1, 4002), 0);
    CHECK_EQ(bind_shared(other, 7, 1, 4002), 0);
    CHECK_EQ(stk_tcp_listen(member, 5), 0);
    struct stk_conn *client = connected(1, 4002);
    CHECK(stk_tcp_acceptable(member));
    int before = failures;
    stk_tcp_close(member);
    run();
    CHECK_EQ(failures, before + 1);
    CHECK_EQ(last_error, ECONNRESET);
    end(client);
    /* The one that never listened can still connect from there. */
    struct stk_conn *listener = fresh();
    struct pf_addr addr = addr_of(2, 4003);
    CHECK_EQ(stk_tcp_bind(listener, &addr), 0);
    CHECK_EQ(stk_tcp_listen(listener, 1), 0);
    CHECK_EQ(stk_tcp_connect(other, &addr), 0);
    run();
    CHECK(stk_tcp_acceptable(listener));
    struct pf_addr local;
    stk_tcp_names(other, &local, &addr);
    CHECK_EQ(local.port, 4002);
    end(other);
    stk_tcp_close(listener);
}

struct ends {
    struct stk_conn *near;
    struct stk_conn *far;
    struct stk_conn *listener;
};

static struct ends pair(uint32_t window, uint16_t segment) {
    static uint16_t port = 4100;
    struct pf_addr addr = addr_of(1, ++port);
    struct ends ends = {.listener = fresh()};
    if (window) {
        CHECK_EQ(stk_tcp_set_option(ends.listener, PF_OPT_RCVBUF, window), 0);
    }
    CHECK_EQ(stk_tcp_bind(ends.listener, &addr), 0);
    CHECK_EQ(stk_tcp_listen(ends.listener, 5), 0);
    ends.near = fresh();
    if (segment) {
        CHECK_EQ(stk_tcp_set_option(ends.near, PF_OPT_MAXSEG, segment), 0);
    }
    CHECK_EQ(stk_tcp_connect(ends.near, &addr), 0);
    run();
    ends.far = stk_tcp_accept(ends.listener);
    CHECK(ends.far);
    stk_tcp_set_owner(ends.far, &owner);
    return ends;
}

static void part(struct ends ends) {
    end(ends.near);
    end(ends.far);
    stk_tcp_close(ends.listener);
}

/* Bytes arrive one window after the other; never more than that at once. */
static void test_windows(void) {
    static const uint8_t data[50000];
    static uint8_t buffer[50000];
    static const uint32_t windows[] = {PF_RCVBUF_MIN, 5000, 40000, 65535, 100000, TCP_WND};
    for (size_t i = 0; i < sizeof(windows) / sizeof(windows[0]); i++) {
        struct ends ends = pair(windows[i], 0);
        CHECK_EQ(stk_tcp_window(ends.far), windows[i]);
        uint32_t written = 0;
        uint32_t got = 0;
        while (got < sizeof(data)) {
            written += (uint32_t)stk_tcp_write(ends.near, data + written,
                                               (uint32_t)sizeof(data) - written, false);
            stk_tcp_push(ends.near);
            run();
            uint32_t unread = stk_tcp_unread(ends.far);
            CHECK(unread <= windows[i]);
            if (unread == 0) { /* held back by the sender: its timer sends what fits */
                tcp_slowtmr();
                run();
                continue;
            }
            got += stk_tcp_read(ends.far, buffer, sizeof(buffer));
            stk_tcp_credit(ends.far, unread);
            run();
        }
        CHECK_EQ(got, sizeof(data));
        part(ends);
    }
}

static void test_segments(void) {
    struct ends ends = pair(0, 1000);
    CHECK_EQ(stk_tcp_segment(ends.near), 1000);
    CHECK_EQ(stk_tcp_segment(ends.far), 1000);
    part(ends);
    ends = pair(0, 0);
    CHECK(stk_tcp_segment(ends.near) > 1000);
    part(ends);
}

static void pass_ms(uint32_t ms) {
    static const struct timespec step = {.tv_nsec = 10000000};
    uint32_t started = sys_now();
    while (sys_now() - started < ms) {
        (void)nanosleep(&step, NULL);
        tcp_slowtmr();
        run();
    }
}

static void test_user_timeout(void) {
    static const uint8_t data[100];
    struct ends ends = pair(0, 0);
    CHECK_EQ(stk_tcp_set_option(ends.near, PF_OPT_USER_TIMEOUT, 300), 0);
    pass_ms(400); /* idle is not stuck */
    int before = failures;
    CHECK_EQ(stk_tcp_write(ends.near, data, sizeof(data), false), sizeof(data));
    stk_tcp_push(ends.near);
    run();
    pass_ms(400);
    CHECK_EQ(failures, before); /* acknowledged */
    stk_inject_loss(1000000, 1);
    CHECK_EQ(stk_tcp_write(ends.near, data, sizeof(data), false), sizeof(data));
    stk_tcp_push(ends.near);
    run();
    pass_ms(200);
    CHECK_EQ(failures, before);
    pass_ms(300);
    CHECK_EQ(failures, before + 1);
    CHECK_EQ(last_error, ETIMEDOUT);
    CHECK_EQ(stk_tcp_error(ends.near), ETIMEDOUT);
    stk_inject_loss(0, 1);
    part(ends);
}

static void test_few_syns(void) {
    struct stk_conn *conn = fresh();
    struct pf_addr addr = addr_of(1, 4999);
    CHECK_EQ(stk_tcp_set_option(conn, PF_OPT_SYNCNT, 1), 0);
    stk_inject_loss(1000000, 1);
    int before = failures;
    CHECK_EQ(stk_tcp_connect(conn, &addr), 0);
    run();
    for (int i = 0; i < 2000 && failures == before; i++) {
        tcp_slowtmr();
        run();
    }
    CHECK_EQ(failures, before + 1);
    CHECK_EQ(last_error, ETIMEDOUT);
    struct pf_tcp_info info;
    stk_tcp_info(conn, &info);
    CHECK_EQ(info.state, 7);
    stk_inject_loss(0, 1);
    end(conn);
}

static void test_deferred_accepts(void) {
    static const uint8_t data[10];
    struct stk_conn *listener = fresh();
    struct pf_addr addr = addr_of(1, 4500);
    CHECK_EQ(stk_tcp_bind(listener, &addr), 0);
    CHECK_EQ(stk_tcp_set_option(listener, PF_OPT_DEFER_ACCEPT, 1), 0);
    CHECK_EQ(stk_tcp_listen(listener, 5), 0);
    int before = acceptable;
    struct stk_conn *silent = connected(1, 4500);
    struct stk_conn *gone = connected(1, 4500);
    struct stk_conn *talking = connected(1, 4500);
    CHECK(!stk_tcp_acceptable(listener));
    CHECK(!stk_tcp_accept(listener));
    end(gone);
    CHECK_EQ(stk_tcp_write(talking, data, sizeof(data), false), sizeof(data));
    stk_tcp_push(talking);
    run();
    CHECK_EQ(acceptable, before + 1);
    struct stk_conn *first = stk_tcp_accept(listener);
    CHECK(first);
    CHECK_EQ(stk_tcp_unread(first), sizeof(data));
    CHECK(!stk_tcp_acceptable(listener));
    pass_ms(1200); /* in the end the silent one, too */
    CHECK_EQ(acceptable, before + 2);
    struct stk_conn *second = stk_tcp_accept(listener);
    CHECK(second);
    end(first);
    end(second);
    end(silent);
    end(talking);
    struct stk_conn *left = connected(1, 4500);
    stk_tcp_close(listener); /* with a deferred connection in its queue */
    run();
    end(left);
}

static void test_devices(void) {
    struct stk_conn *conn = fresh();
    char name[16] = "lo";
    CHECK_EQ(stk_tcp_bind_device(conn, name), 0);
    memset(name, 'x', sizeof(name)); /* no zero at the end */
    CHECK_EQ(stk_tcp_bind_device(conn, name), -ENODEV);
    memset(name, 0, sizeof(name));
    CHECK_EQ(stk_tcp_bind_device(conn, name), 0);
    stk_tcp_close(conn);
}

static void test_info(void) {
    static const uint8_t data[3000];
    struct ends ends = pair(0, 0);
    struct pf_tcp_info info;
    CHECK_EQ(stk_tcp_write(ends.near, data, sizeof(data), false), sizeof(data));
    stk_tcp_push(ends.near);
    run();
    stk_tcp_info(ends.near, &info);
    CHECK_EQ(info.state, 1);
    CHECK_EQ(info.bytes_acked, sizeof(data));
    CHECK_EQ(info.unacked, 0);
    stk_tcp_info(ends.far, &info);
    CHECK_EQ(info.bytes_received, sizeof(data));
    stk_tcp_info(ends.listener, &info);
    CHECK_EQ(info.state, 10);
    CHECK_EQ(info.sacked, 5);
    struct pf_addr local;
    struct pf_addr peer;
    stk_tcp_names(ends.listener, &local, &peer);
    CHECK_EQ(stk_tcp_listeners(&local), 1);
    local.port++;
    CHECK_EQ(stk_tcp_listeners(&local), 0);
    local.family = 9;
    CHECK_EQ(stk_tcp_listeners(&local), 0);
    part(ends);
}

int main(void) {
    char error[256] = "";
    check_random_init();
    check_watchdog(60);
    CHECK_EQ(stk_init(&events), 0);
    CHECK_EQ(stk_add_loopback(error, sizeof(error)), 0);
    RUN(test_groups_share_by_turns);
    RUN(test_groups_belong_to_one_user);
    RUN(test_waiting_connections_of_a_member_end_with_it);
    RUN(test_windows);
    RUN(test_segments);
    RUN(test_user_timeout);
    RUN(test_few_syns);
    RUN(test_deferred_accepts);
    RUN(test_devices);
    RUN(test_info);
    stk_shutdown();
    return 0;
}
