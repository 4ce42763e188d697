/* Mirror descriptors as identities: sockets that move between sessions, listeners that several
 * accept from, sockets that only a descriptor keeps open. */
#define _GNU_SOURCE
#include <poll.h>

#include "identity_rig.h"

/* ---- moving ---- */

static void test_unread_bytes_go_along(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    uint8_t byte;
    send_range(&one, p.far, 0, 200000);
    expect_range(&one, p.near, 0, 70001);
    uint32_t moved = claim(&two, fd);
    /* The old slot knows at once, and nothing is left to be read there. */
    CHECK_EQ(pf_recv(one.client, p.near, &byte, 1, 0, RIG_PATIENCE), -ESTALE);
    CHECK_EQ(pf_send(one.client, p.near, &byte, 1, RIG_PATIENCE), -ESTALE);
    CHECK_EQ(RIG_SUBMIT(one.client, p.near, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), -ESTALE);
    expect_range(&two, moved, 70001, 129999);
    send_range(&two, moved, 0, 5000);
    expect_range(&one, p.far, 0, 5000);
    let_go(&one, p.near);
    send_range(&one, p.far, 7, 1000);
    expect_range(&two, moved, 7, 1000);
    /* And back, with bytes that wrap around in the ring. */
    send_range(&one, p.far, 100, 150000);
    expect_range(&two, moved, 100, 149000);
    send_range(&one, p.far, 150100, 200000);
    uint32_t back = claim(&one, fd);
    expect_range(&one, back, 149100, 201000);
    let_go(&two, moved);
    (void)close(fd);
    let_go(&one, back);
    expect_end(&one, p.far);
    rig_close(one.client, p.far, 0);
}

/* More unread bytes than the new ring holds: the rest waits in the stack, behind a closed window.
 */
static void test_a_smaller_ring(void) {
    struct pf_session_request request = rig_request();
    request.rx_bytes = 4096;
    struct rig_client small = rig_attach_with(&rig, &request);
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    send_range(&one, p.far, 0, 240000);
    uint32_t moved = claim(&small, fd);
    expect_range(&small, moved, 0, 240000);
    send_range(&one, p.far, 240000, 400000);
    CHECK_EQ(RIG_CALL(one.client, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    expect_range(&small, moved, 240000, 400000);
    expect_end(&small, moved);
    let_go(&one, p.near);
    (void)close(fd);
    let_go(&small, moved);
    rig_close(one.client, p.far, 0);
    rig_detach(&rig, &small, PF_ENDED_CLOSED);
}

/* Its window is small: so few bytes fill it that the client has to tell of less than of others. */
static void test_a_small_window_goes_along(void) {
    enum { WINDOW = 16384 };
    struct pf_done done;
    struct pf_addr addr = rig_addr(++port);
    uint32_t listener = rig_listener(one.client, addr, 1);
    uint32_t near = rig_socket(one.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(one.client, near, PF_OP_SETOPT, .offset = PF_OPT_RCVBUF, .token = WINDOW), 0);
    CHECK_EQ(RIG_CALL(one.client, near, PF_OP_CONNECT, .addr = &addr), 0);
    int64_t accept = RIG_SUBMIT(one.client, listener, PF_OP_ACCEPT, 0);
    CHECK_EQ(rig_await(one.client, listener, accept, &done), 0);
    int far = pf_socket_adopt(one.client, done.token, PF_PRIORITY_MEDIUM);
    CHECK(far >= 0);
    int fd = mirror_of(&one, near);
    uint32_t moved = claim(&two, fd);
    struct pf_socket_b2c state = {0};
    send_range(&one, (uint32_t)far, 0, 4 * WINDOW);
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    do {
        CHECK(pf_now_ns() < end);
        rig_sleep_ms(1);
        CHECK_EQ(pf_socket_state(two.client, moved, &state), 0);
    } while (!(state.state & PF_STATE_WANTS_HINT));
    expect_range(&two, moved, 0, 4 * WINDOW);
    let_go(&one, near);
    (void)close(fd);
    let_go(&two, moved);
    rig_close(one.client, (uint32_t)far, 0);
    rig_close(one.client, listener, 0);
}

/* Writes stay in the memory of whoever made them, in their order, until they are acknowledged; also
 * when that session has ended. */
static void test_writes_in_flight(bool end_first) {
    struct rig_client writer = rig_attach(&rig);
    struct rig_pair p = rig_connect(writer.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&writer, p.near);
    static uint8_t data[65536];
    uint64_t sent = 0;
    int64_t got;
    rig_fill(data, 5, 0, sizeof(data));
    do {
        rig_fill(data, 5, sent, sizeof(data));
        got = pf_send(writer.client, p.near, data, sizeof(data), RIG_SECOND / 5);
        sent += got > 0 ? (uint64_t)got : 0;
    } while (got > 0);
    CHECK_EQ(got, -EAGAIN);
    uint32_t moved = claim(&two, fd);
    if (end_first) {
        rig_detach(&rig, &writer, PF_ENDED_CLOSED);
    }
    send_range(&two, moved, sent, 100000);
    uint32_t again = claim(&one, fd); /* two slots that are still sending, behind a third */
    send_range(&one, again, sent + 100000, 1000);
    let_go(&two, moved);
    (void)close(fd);
    let_go(&one, again);
    expect_range(&one, p.far, 0, (uint32_t)sent + 101000);
    expect_end(&one, p.far);
    rig_close(one.client, p.far, 0);
    if (!end_first) {
        rig_detach(&rig, &writer, PF_ENDED_CLOSED);
    }
}

static void test_writes_in_flight_of_one_that_lives(void) { test_writes_in_flight(false); }
static void test_writes_in_flight_of_one_that_ended(void) { test_writes_in_flight(true); }

/* A reset reaches whoever has it, and frees the writes of all. */
static void test_reset_after_a_move(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    static uint8_t data[300000];
    uint8_t byte;
    rig_send_all(one.client, p.near, data, sizeof(data));
    uint32_t moved = claim(&two, fd);
    rig_send_all(two.client, moved, data, 1000);
    rig_close(one.client, p.far, PF_CLOSE_ABORT);
    CHECK_EQ(pf_recv(two.client, moved, &byte, 1, 0, RIG_PATIENCE), -ECONNRESET);
    uint32_t back = claim(&one, fd); /* so does the next one */
    CHECK_EQ(pf_recv(one.client, back, &byte, 1, 0, RIG_PATIENCE), -ECONNRESET);
    let_go(&one, p.near);
    let_go(&two, moved);
    let_go(&one, back);
    (void)close(fd);
}

/* ---- two that read and write as they like ---- */

struct racer {
    const struct rig_client *client;
    int fd;
    uint64_t ticket;
    uint64_t count;
    uint64_t histogram[256];
    uint64_t moves;
    bool write;
};

enum { RACE_BYTES = 6000000, RACE_WRITES = 3000, RACE_PIECE = 700 };

static int claim_again(const struct racer *racer, int slot) {
    int got;
    do {
        got = try_claim(racer->client, racer->ticket, racer->fd);
    } while (got == -EAGAIN || got == -EMFILE); /* slots that were left behind still send */
    if (slot >= 0 && got >= 0) {
        let_go(racer->client, (uint32_t)slot);
    }
    return got;
}

static void *race_to_read(void *argument) {
    struct racer *racer = argument;
    int slot = claim_again(racer, -1);
    static _Thread_local uint8_t buffer[5000];
    for (uint32_t turn = 1;; turn++) {
        CHECK(slot >= 0);
        int64_t got = pf_recv(racer->client->client, (uint32_t)slot, buffer, sizeof(buffer), 0,
                              turn % 64 ? RIG_SECOND / 1000 : 0);
        if (got == 0) {
            break;
        }
        if (got == -ESTALE) {
            slot = claim_again(racer, slot);
            racer->moves++;
        } else if (got != -EAGAIN) {
            CHECK(got > 0);
            racer->count += (uint64_t)got;
            for (int64_t i = 0; i < got; i++) {
                racer->histogram[buffer[i]]++;
            }
        }
    }
    let_go(racer->client, (uint32_t)slot);
    return NULL;
}

static void *race_to_write(void *argument) {
    struct racer *racer = argument;
    int slot = claim_again(racer, -1);
    uint8_t data[RACE_PIECE];
    memset(data, racer->client == &one ? 1 : 2, sizeof(data));
    for (uint32_t done = 0; done < RACE_WRITES * RACE_PIECE;) {
        CHECK(slot >= 0);
        uint32_t left = RACE_WRITES * RACE_PIECE - done;
        int64_t sent = pf_send(racer->client->client, (uint32_t)slot, data,
                               left < RACE_PIECE ? left : RACE_PIECE, RIG_PATIENCE);
        if (sent == -ESTALE) {
            slot = claim_again(racer, slot);
            racer->moves++;
        } else {
            CHECK(sent > 0);
            done += (uint32_t)sent;
        }
    }
    let_go(racer->client, (uint32_t)slot);
    return NULL;
}

static void race(void *(*run)(void *), struct racer *racers, pthread_t *threads, int fd) {
    const struct rig_client *clients[] = {&one, &two};
    for (int i = 0; i < 2; i++) {
        racers[i] = (struct racer){
            .client = clients[i], .fd = fd, .ticket = ticket_of(clients[i]->session, fd)};
        CHECK_EQ(pthread_create(&threads[i], NULL, run, &racers[i]), 0);
    }
}

static void test_no_byte_twice_and_none_lost(void) {
    struct rig_client third = rig_attach(&rig);
    struct rig_pair p = rig_connect(third.client, third.client, rig_addr(++port), 0);
    static struct racer racers[2];
    pthread_t threads[2];
    uint64_t sent[256] = {0};
    static uint8_t data[9000];
    int fd = mirror_of(&third, p.near);
    let_go(&third, p.near);
    race(race_to_read, racers, threads, fd);
    for (uint32_t at = 0; at < RACE_BYTES; at += sizeof(data)) {
        uint32_t length = RACE_BYTES - at < sizeof(data) ? RACE_BYTES - at : sizeof(data);
        rig_fill(data, 9, at, length);
        for (uint32_t i = 0; i < length; i++) {
            sent[data[i]]++;
        }
        rig_send_all(third.client, p.far, data, length);
    }
    int64_t op;
    do { /* until there is room behind the writes */
        op = RIG_SUBMIT(third.client, p.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE);
    } while (op == -EAGAIN);
    CHECK_EQ(rig_await(third.client, p.far, op, NULL), 0);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    CHECK_EQ(racers[0].count + racers[1].count, RACE_BYTES);
    for (int i = 0; i < 256; i++) {
        CHECK_EQ(racers[0].histogram[i] + racers[1].histogram[i], sent[i]);
    }
    CHECK(racers[0].moves + racers[1].moves > 20);
    /* The other way: no piece is torn by a move, lost or sent twice. */
    (void)close(fd);
    rig_close(third.client, p.far, 0);
    p = rig_connect(third.client, third.client, rig_addr(++port), 0);
    fd = mirror_of(&third, p.near);
    let_go(&third, p.near);
    race(race_to_write, racers, threads, fd);
    uint64_t seen[3] = {0};
    for (uint64_t total = 0; total < UINT64_C(2) * RACE_WRITES * RACE_PIECE;) {
        int64_t got = pf_recv(third.client, p.far, data, sizeof(data), 0, RIG_PATIENCE);
        CHECK(got > 0);
        total += (uint64_t)got;
        for (int64_t i = 0; i < got; i++) {
            seen[data[i] <= 2 ? data[i] : 0]++;
        }
    }
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    CHECK_EQ(seen[0], 0);
    CHECK_EQ(seen[1], RACE_WRITES * RACE_PIECE);
    CHECK_EQ(seen[2], RACE_WRITES * RACE_PIECE);
    (void)close(fd);
    expect_end(&third, p.far);
    rig_close(third.client, p.far, 0);
    rig_detach(&rig, &third, PF_ENDED_CLOSED);
}

/* ---- nobody but a descriptor ---- */

static void test_an_orphan_lives_as_long_as_its_descriptor(void) {
    struct rig_client owner = rig_attach(&rig);
    struct rig_pair p = rig_connect(owner.client, one.client, rig_addr(++port), 0);
    struct rig_pair q = rig_connect(owner.client, one.client, rig_addr(++port), 0);
    int kept = mirror_of(&owner, p.near);
    int dropped = mirror_of(&owner, q.near);
    int copy = dup(kept);
    uint8_t byte;
    send_range(&one, p.far, 0, 10);
    (void)close(dropped);
    rig_detach(&rig, &owner, PF_ENDED_CLOSED);
    expect_end(&one, q.far); /* nobody had it any more */
    await_word(&rig.public_region->orphans, 1);
    CHECK_EQ(pf_recv(one.client, p.far, &byte, 1, 0, RIG_SECOND / 20), -EAGAIN);
    send_range(&one, p.far, 10, 10); /* to nobody, for now */
    (void)close(kept);
    uint32_t moved = claim(&two, copy);
    CHECK_EQ(rig_count(&rig.public_region->orphans), 0);
    expect_range(&two, moved, 0, 20);
    let_go(&two, moved); /* again */
    await_word(&rig.public_region->orphans, 1);
    (void)close(copy);
    expect_end(&one, p.far);
    await_word(&rig.public_region->orphans, 0);
    rig_close(one.client, p.far, 0);
    rig_close(one.client, q.far, 0);
}

/* ---- listeners ---- */

static int64_t connect_to(uint16_t where, uint32_t *slot) {
    struct pf_addr addr = rig_addr(where);
    *slot = rig_socket(one.client, PF_FAMILY_IPV4, 0);
    return RIG_CALL(one.client, *slot, PF_OP_CONNECT, .addr = &addr);
}

static void await_state(const struct rig_client *client, uint32_t slot, uint32_t wanted) {
    struct pf_socket_b2c state;
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    do {
        CHECK_EQ(pf_socket_state(client->client, slot, &state), 0);
        CHECK(pf_now_ns() < end);
    } while ((state.state & wanted) != wanted);
}

/* What was reported to the only one that accepted so far goes back when another one comes, in its
 * order; each connection goes to one. */
static void test_a_listener_is_shared(void) {
    struct pf_done done;
    uint32_t near[6];
    struct rig_client worker = rig_attach(&rig);
    uint32_t alone = rig_listener(one.client, rig_addr(++port), 16);
    int fd = mirror_of(&one, alone);
    int64_t all = pf_submit(one.client, alone, PF_OP_ACCEPT, PF_SQE_MULTISHOT, 0, 0, 0, NULL,
                            PF_DELIVER_QUEUE);
    CHECK(all > 0);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(connect_to(port, &near[i]), 0);
        send_range(&one, near[i], (uint64_t)i, 1);
    }
    CHECK_EQ(pf_wait(one.client, alone, RIG_PATIENCE, &done), 1);
    uint64_t stale = done.token;
    uint32_t shared = claim(&worker, fd);
    /* The token is worth nothing any more, and says so. */
    CHECK_EQ(pf_accept_adopt(one.client, alone, stale, PF_PRIORITY_MEDIUM), -ESTALE);
    await_state(&one, alone, PF_STATE_SHARED);
    CHECK_EQ(RIG_CALL(one.client, alone, PF_OP_ACCEPT, .flags = PF_SQE_MULTISHOT), -ESTALE);
    /* One of them does not end it for the others. */
    CHECK_EQ(RIG_CALL(one.client, alone, PF_OP_SHUTDOWN, .flags = PF_SHUT_READ), -EOPNOTSUPP);
    for (uint64_t i = 0; i < 3; i++) {
        const struct rig_client *who = i == 1 ? &one : &worker;
        uint32_t where = i == 1 ? alone : shared;
        int64_t op = RIG_SUBMIT(who->client, where, PF_OP_ACCEPT, .flags = PF_SQE_NOWAIT);
        CHECK_EQ(rig_await(who->client, where, op, &done), 0);
        int slot = pf_accept_adopt(who->client, where, done.token, PF_PRIORITY_MEDIUM);
        CHECK(slot >= 0);
        expect_range(who, (uint32_t)slot, i, 1);
        rig_close(who->client, (uint32_t)slot, 0);
    }
    CHECK_EQ(RIG_CALL(one.client, alone, PF_OP_ACCEPT, .flags = PF_SQE_NOWAIT), -EAGAIN);
    /* In turn, among those that wait. */
    int64_t first = RIG_SUBMIT(one.client, alone, PF_OP_ACCEPT, 0);
    int64_t second = RIG_SUBMIT(worker.client, shared, PF_OP_ACCEPT, 0);
    CHECK_EQ(connect_to(port, &near[3]), 0);
    CHECK_EQ(connect_to(port, &near[4]), 0);
    CHECK_EQ(rig_await(one.client, alone, first, &done), 0);
    CHECK_EQ(pf_accept_reject(one.client, alone, done.token), 0); /* for somebody else */
    CHECK_EQ(rig_await(worker.client, shared, second, &done), 0);
    /* Of what the worker did not adopt, and what was rejected, nothing is lost when it dies. */
    rig_detach(&rig, &worker, PF_ENDED_CLOSED);
    for (int i = 0; i < 2; i++) {
        int64_t op = RIG_SUBMIT(one.client, alone, PF_OP_ACCEPT, 0);
        CHECK_EQ(rig_await(one.client, alone, op, &done), 0);
        int slot = pf_accept_adopt(one.client, alone, done.token, PF_PRIORITY_MEDIUM);
        CHECK(slot >= 0);
        rig_close(one.client, (uint32_t)slot, 0);
    }
    for (int i = 0; i < 5; i++) {
        rig_close(one.client, near[i], 0);
    }
    /* Only when nobody has the descriptor is the port free. */
    let_go(&one, alone);
    await_word(&rig.public_region->orphans, 1);
    CHECK_EQ(connect_to(port, &near[5]), 0);
    rig_close(one.client, near[5], PF_CLOSE_ABORT);
    (void)close(fd);
    await_word(&rig.public_region->orphans, 0);
    CHECK_EQ(connect_to(port, &near[5]), -ECONNREFUSED);
    rig_close(one.client, near[5], 0);
}

/* The mirror shows what waits to each of them, whoever took the token out of it. */
static void test_the_mirror_of_a_shared_listener(void) {
    char token[64];
    uint32_t near;
    uint32_t alone = rig_listener(one.client, rig_addr(++port), 16);
    int fd = mirror_of(&one, alone);
    uint32_t shared = claim(&two, fd);
    CHECK_EQ(recv(fd, token, sizeof(token), MSG_DONTWAIT), -1);
    CHECK_EQ(connect_to(port, &near), 0);
    CHECK(recv(fd, token, sizeof(token), 0) > 0); /* one of them took it, and dies with it */
    let_go(&two, shared);
    CHECK(recv(fd, token, sizeof(token), 0) > 0);
    rig_close(one.client, near, PF_CLOSE_ABORT);
    let_go(&one, alone);
    (void)close(fd);
}

static bool writable(int fd) {
    struct pollfd look = {.fd = fd, .events = POLLOUT};
    return poll(&look, 1, 0) > 0;
}

/* A close that says nothing of others ends the listener of none of them. */
static void test_a_shared_listener_outlives_a_plain_close(void) {
    struct pf_addr addr = rig_addr(++port);
    struct pf_done done;
    uint32_t listener = rig_listener(one.client, addr, 4);
    int fd = mirror_of(&one, listener);
    uint32_t other = claim(&two, fd);
    rig_close(one.client, listener, 0);
    int64_t accept = RIG_SUBMIT(two.client, other, PF_OP_ACCEPT, 0);
    uint32_t near = rig_socket(one.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(one.client, near, PF_OP_CONNECT, .addr = &addr), 0);
    CHECK_EQ(rig_await(two.client, other, accept, &done), 0);
    CHECK_EQ(pf_accept_reject(two.client, other, done.token), 0);
    (void)close(fd);
    rig_close(two.client, other, 0);
    rig_close(one.client, near, 0);
}

/* What of the mirror's answer is about room: only writes that have ended, however they did. */
static void test_only_writes_that_end_make_room(void) {
    struct rig_pair p = rig_connect(one.client, one.client, rig_addr(++port), 0);
    int fd = mirror_of(&one, p.near);
    CHECK_EQ(pf_mirror_arm(one.client, p.near), 0);
    CHECK(writable(fd));
    static uint8_t data[65536];
    uint64_t sent = 0;
    int64_t got;
    do {
        rig_fill(data, 5, sent, sizeof(data));
        got = pf_send(one.client, p.near, data, sizeof(data), RIG_SECOND / 5);
        sent += got > 0 ? (uint64_t)got : 0;
    } while (got > 0);
    CHECK_EQ(got, -EAGAIN);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pf_mirror_rearm_write(one.client, p.near), 0);
        CHECK(pf_submit(one.client, p.near, PF_OP_NOP, 0, 0, 0, 0, NULL, PF_DELIVER_NONE) > 0);
        /* Taken up after it, and nobody has looked for the completion of the first. */
        CHECK_EQ(RIG_CALL(one.client, p.far, PF_OP_NOP, 0), 0);
        CHECK(!writable(fd));
    }
    expect_range(&one, p.far, 0, sent);
    struct pollfd look = {.fd = fd, .events = POLLOUT};
    CHECK_EQ(poll(&look, 1, 10000), 1);
    /* A chain that is cut: its held writes end without having begun, and give their memory back. */
    uint8_t byte = 0;
    CHECK_EQ(RIG_CALL(one.client, p.near, PF_OP_DRAIN, 0), 0);
    for (int i = 0; i < 3; i++) {
        struct pf_sqe failing = {.opcode = PF_OP_LISTEN, .general = PF_SQE_LINK};
        CHECK(pf_submit_sqe(one.client, p.near, &failing, PF_DELIVER_NONE) > 0);
        CHECK(pf_write(one.client, p.near, &byte, 1, PF_DELIVER_NONE) > 0);
        CHECK_EQ(pf_mirror_rearm_write(one.client, p.near), 0);
        CHECK_EQ(poll(&look, 1, 10000), 1);
    }
    (void)close(fd);
    rig_close(one.client, p.near, 0);
    rig_close(one.client, p.far, 0);
}

int main(void) {
    check_watchdog(170);
    check_random_init();
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    one = rig_attach(&rig);
    two = rig_attach(&rig);
    RUN(test_unread_bytes_go_along);
    RUN(test_a_smaller_ring);
    RUN(test_a_small_window_goes_along);
    RUN(test_writes_in_flight_of_one_that_lives);
    RUN(test_writes_in_flight_of_one_that_ended);
    RUN(test_reset_after_a_move);
    RUN(test_no_byte_twice_and_none_lost);
    RUN(test_an_orphan_lives_as_long_as_its_descriptor);
    RUN(test_a_listener_is_shared);
    RUN(test_the_mirror_of_a_shared_listener);
    RUN(test_a_shared_listener_outlives_a_plain_close);
    RUN(test_only_writes_that_end_make_room);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_detach(&rig, &two, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
