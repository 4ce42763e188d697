/* Clients that lie about descriptors and sockets: nobody gets what he does not hold, and nobody
 * else notices. */
#define _GNU_SOURCE
#include "identity_rig.h"
#include "raw_client.h"

static struct raw_client raw;

static void raw_begin(void) {
    struct pf_session_request request = rig_request();
    request.arena_bytes = 131072;
    raw_attach(&rig, &raw, &request);
}

static void raw_end(void) {
    CHECK_EQ(raw_ended(&raw), 0);
    raw_detach(&rig, &raw, true);
}

static int32_t raw_adopt(uint32_t slot, uint64_t ticket) {
    return RAW_CALL(&raw, slot, .opcode = PF_OP_ADOPT, .flags = PF_SQE_TICKET, .token = ticket)
        .result;
}

static void raw_close(uint32_t slot, uint8_t flags) {
    CHECK_EQ(RAW_CALL(&raw, slot, .opcode = PF_OP_CLOSE, .flags = flags).result, 0);
    raw_level(&raw, slot);
}

/* Only who has shown the descriptor may have the socket. */
static void test_forged_claims(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    uint64_t others = ticket_of(two.session, fd);
    uint64_t unused = 0;
    int sockets[2];
    raw_begin();
    /* Another session's ticket, numbers near it, the kernel's number of the mirror itself. */
    uint64_t cookie = 0;
    socklen_t bytes = sizeof(cookie);
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &bytes), 0);
    uint64_t forged[] = {others, others + 1, others - 1, 0, UINT64_MAX, cookie};
    for (size_t i = 0; i < sizeof(forged) / sizeof(forged[0]); i++) {
        CHECK_EQ(raw_adopt(0, forged[i]), -EBADF);
        raw_close(0, i % 2 ? PF_CLOSE_SHARED : 0);
    }
    for (int i = 0; i < 500; i++) {
        CHECK_EQ(raw_adopt(1, (uint64_t)check_random(1000)), -EBADF);
        raw_close(1, 0);
    }
    /* Descriptors that are none of ours. */
    CHECK_EQ(pf_session_show(rig.backend, raw.session, -1, &unused), -EBADF);
    CHECK_EQ(pf_session_show(rig.backend, raw.session, 0, &unused), -ENOTSOCK);
    int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(pf_session_show(rig.backend, raw.session, tcp, &unused), -EINVAL);
    (void)close(tcp);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
    CHECK_EQ(raw_adopt(2, ticket_of(raw.session, sockets[0])), -EBADF);
    raw_close(2, 0);
    (void)close(sockets[0]);
    (void)close(sockets[1]);
    /* A mirror that stands for nothing yet, or nothing any more. */
    int idle = -1;
    uint64_t id = 0;
    CHECK_EQ(pf_session_mirrors(rig.backend, one.session, 1, &idle, &id), 0);
    CHECK_EQ(raw_adopt(2, ticket_of(raw.session, idle)), -EBADF);
    raw_close(2, 0);
    (void)close(idle);
    uint32_t closed = rig_socket(one.client, PF_FAMILY_IPV4, 0);
    int late = mirror_of(&one, closed);
    rig_close(one.client, closed, 0);
    CHECK_EQ(raw_adopt(2, ticket_of(raw.session, late)), -EBADF);
    raw_close(2, 0);
    (void)close(late);
    raw_end();
    send_range(&one, p.far, 0, 10); /* the real one never left */
    expect_range(&one, p.near, 0, 10);
    rig_close(one.client, p.near, 0);
    rig_close(one.client, p.far, 0);
    (void)close(fd);
}

/* Claims of a socket that is on its way out, and of one that is here already. */
static void test_claims_out_of_season(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    static uint8_t data[700000];
    raw_begin();
    uint64_t ticket = ticket_of(raw.session, fd);
    CHECK_EQ(raw_adopt(0, ticket), 0);
    CHECK_EQ(raw_adopt(1, ticket), -EALREADY);
    raw_close(1, 0);
    /* Back: then the slot here is only a shell. */
    uint32_t back = claim(&one, fd);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_BIND).result, -ESTALE);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_ACCEPT).result, -ESTALE);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_WRITE, .length = 100).result, -ESTALE);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_WRITE, .length = UINT32_MAX).result, -ESTALE);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_MIRROR, .token = 1).result, -ESTALE);
    /* A close that has begun cannot be stopped: its last bytes are still under way. */
    CHECK_EQ(pf_send(one.client, back, data, sizeof(data), RIG_PATIENCE) > 0, 1);
    int64_t closing = RIG_SUBMIT(one.client, back, PF_OP_CLOSE, 0);
    CHECK_EQ(raw_adopt(2, ticket), -EBADF);
    raw_close(2, 0);
    rig_close(one.client, p.far, PF_CLOSE_ABORT);
    CHECK_EQ(rig_await(one.client, back, closing, NULL), 0);
    CHECK_EQ(pf_socket_release(one.client, back, 0), 0);
    let_go(&one, p.near);
    raw_close(0, PF_CLOSE_SHARED);
    raw_end();
    (void)close(fd);
}

/* More tickets than a session keeps: the oldest are forgotten, nothing grows. */
static void test_a_flood_of_tickets(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    raw_begin();
    uint64_t oldest = ticket_of(raw.session, fd);
    uint64_t newest = 0;
    for (int i = 0; i < 5000; i++) {
        newest = ticket_of(raw.session, fd);
    }
    CHECK_EQ(raw_adopt(0, oldest), -EBADF);
    raw_close(0, 0);
    CHECK_EQ(raw_adopt(0, newest), 0);
    raw_end(); /* the descriptor is still here: it is an orphan now */
    await_word(&rig.public_region->orphans, 1);
    let_go(&one, p.near);
    (void)close(fd);
    expect_end(&one, p.far);
    rig_close(one.client, p.far, 0);
}

static void expect_violation(void) {
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    while (raw_ended(&raw) == PF_ENDED_NOT) {
        CHECK(pf_now_ns() < end);
        rig_sleep_ms(1);
    }
    CHECK_EQ(raw_ended(&raw), PF_ENDED_VIOLATION);
    raw_detach(&rig, &raw, false);
}

/* A holder that lies about what it has read: the next one gets an error, never its memory. */
static void test_lies_of_the_one_that_has_it(void) {
    static const uint32_t lies[] = {1, 262145, UINT32_C(1) << 31, UINT32_MAX - 5};
    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
        int fd = mirror_of(&one, p.near);
        raw_begin();
        CHECK_EQ(raw_adopt(0, ticket_of(raw.session, fd)), 0);
        let_go(&one, p.near);
        struct pf_socket_c2b *c2b = raw_c2b(&raw, 0);
        pf_store_release(&c2b->rx_tail, c2b->rx_tail + lies[i]);
        int got = try_claim(&two, ticket_of(two.session, fd), fd);
        CHECK(got == -ECONNRESET || got == -EBADF);
        expect_violation();
        rig_close(one.client, p.far, 0);
        (void)close(fd);
    }
    /* An impossible submission queue. */
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    raw_begin();
    CHECK_EQ(raw_adopt(0, ticket_of(raw.session, fd)), 0);
    let_go(&one, p.near);
    pf_store_release(&raw_c2b(&raw, 0)->sq_tail, 100000);
    int got = try_claim(&two, ticket_of(two.session, fd), fd);
    CHECK(got == -ECONNRESET || got == -EBADF);
    expect_violation();
    rig_close(one.client, p.far, 0);
    (void)close(fd);
}

static uint32_t raw_rx_reached(uint32_t slot, uint32_t wanted) {
    const uint32_t *head = &raw_b2c(&raw, slot)->rx_head;
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    while (pf_load_acquire(head) != wanted) {
        CHECK(pf_now_ns() < end);
        rig_sleep_ms(1);
    }
    return wanted;
}

/* Records of a datagram socket go along as they are; but not from where none begins. */
static void test_datagrams_and_lies_about_them(void) {
    for (uint32_t lie = 0; lie < 3; lie++) {
        struct pf_addr addr = rig_addr(++port);
        struct pf_socket_b2c state;
        struct pf_datagram info;
        uint8_t data[300];
        uint32_t records = 0;
        int made = pf_datagram_open(one.client, PF_FAMILY_IPV4, PF_PRIORITY_MEDIUM, 0);
        int sender = pf_datagram_open(one.client, PF_FAMILY_IPV4, PF_PRIORITY_MEDIUM, 0);
        CHECK(made >= 0 && sender >= 0);
        uint32_t near = (uint32_t)made;
        CHECK_EQ(RIG_CALL(one.client, near, PF_OP_BIND, .addr = &addr), 0);
        int fd = mirror_of(&one, near);
        raw_begin();
        CHECK_EQ(raw_adopt(0, ticket_of(raw.session, fd)), 0);
        let_go(&one, near);
        for (uint32_t i = 0; i < 4; i++) {
            rig_fill(data, 5, i, 100 + i);
            CHECK_EQ(rig_await(one.client, (uint32_t)sender,
                               pf_sendto(one.client, (uint32_t)sender, data, 100 + i, &addr, 0,
                                         PF_DELIVER_CALL),
                               NULL),
                     100 + i);
            records += (uint32_t)sizeof(struct pf_datagram) + ((100 + i + 7) & ~7U);
        }
        struct pf_socket_c2b *c2b = raw_c2b(&raw, 0);
        /* Sent is not yet received: all four have to be there before anything is said of them. */
        uint32_t head = raw_rx_reached(0, c2b->rx_tail + records);
        uint32_t places[] = {c2b->rx_tail, c2b->rx_tail + 12, head - 1};
        pf_store_release(&c2b->rx_tail, places[lie]);
        uint32_t moved = claim(&two, fd);
        CHECK_EQ(pf_socket_state(two.client, moved, &state), 0);
        CHECK(state.state & PF_STATE_DATAGRAM);
        for (uint32_t i = 0; i < 4 && lie == 0; i++) {
            CHECK_EQ(pf_recvfrom(two.client, moved, data, sizeof(data), 0, RIG_PATIENCE, &info),
                     100 + i);
            CHECK(!rig_differs(data, 5, i, 100 + i));
        }
        /* Whatever came along of a lie: what arrives from now on is right. */
        while (pf_recvfrom(two.client, moved, data, sizeof(data), 0, 0, &info) >= 0) {
        }
        rig_fill(data, 5, 9, 50);
        CHECK(pf_sendto(one.client, (uint32_t)sender, data, 50, &addr, 0, PF_DELIVER_NONE) > 0);
        CHECK_EQ(pf_recvfrom(two.client, moved, data, sizeof(data), 0, RIG_PATIENCE, &info), 50);
        CHECK(!rig_differs(data, 5, 9, 50));
        raw_end();
        (void)close(fd);
        let_go(&two, moved);
        rig_close(one.client, (uint32_t)sender, 0);
    }
}

/* Whoever let go of a slot has no say in it, although the socket may still be there. */
static void test_operations_after_letting_go(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    raw_begin();
    CHECK_EQ(raw_adopt(0, ticket_of(raw.session, fd)), 0);
    let_go(&one, p.near);
    (void)RAW_SUBMIT(&raw, 0, .opcode = PF_OP_CLOSE, .flags = PF_CLOSE_SHARED);
    await_word(&rig.public_region->orphans, 1);
    (void)RAW_SUBMIT(&raw, 0, .opcode = PF_OP_NOP);
    expect_violation();
    CHECK_EQ(rig_count(&rig.public_region->orphans), 1); /* others may hold it: it is theirs */
    send_range(&one, p.far, 0, 100);
    uint32_t saved = claim(&two, fd);
    expect_range(&two, saved, 0, 100);
    (void)close(fd);
    let_go(&two, saved);
    expect_end(&one, p.far);
    rig_close(one.client, p.far, 0);
}

int main(void) {
    check_watchdog(170);
    check_random_init();
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    one = rig_attach(&rig);
    two = rig_attach(&rig);
    RUN(test_forged_claims);
    RUN(test_claims_out_of_season);
    RUN(test_a_flood_of_tickets);
    RUN(test_lies_of_the_one_that_has_it);
    RUN(test_datagrams_and_lies_about_them);
    RUN(test_operations_after_letting_go);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_detach(&rig, &two, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
