/* The bell: rings once for each arming, for everything that came; says when nothing comes any more;
 * a client that does not listen, or lies, harms nobody. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>

#include "rig.h"

static struct rig rig;

struct bell {
    struct rig_client one;
    struct pf_client *c;
    int fd;
};

static struct bell bell_attach(void) {
    struct bell bell = {.one = rig_attach(&rig)};
    bell.c = bell.one.client;
    CHECK_EQ(pf_session_bell(rig.backend, bell.one.session, &bell.fd), 0);
    return bell;
}

static void bell_detach(struct bell *bell) {
    (void)close(bell->fd);
    rig_detach(&rig, &bell->one, PF_ENDED_CLOSED);
}

static int rung(const struct bell *bell, int timeout_ms) {
    struct pollfd look = {.fd = bell->fd, .events = POLLIN};
    return poll(&look, 1, timeout_ms) == 1;
}

static ssize_t drain(const struct bell *bell) {
    char bytes[64];
    return read(bell->fd, bytes, sizeof(bytes));
}

static uint32_t take_all(const struct bell *bell) {
    struct pf_done done;
    uint32_t count = 0;
    while (pf_poll_any(bell->c, &done) == 1) {
        count++;
    }
    return count;
}

/* Takes what is there, and waits by the bell until `count` completions have been taken. */
static void take(const struct bell *bell, uint32_t count) {
    uint32_t taken = 0;
    while ((taken += take_all(bell)) < count) {
        if (pf_bell_arm(bell->c) == 0) {
            CHECK(rung(bell, 20000));
            CHECK(drain(bell) > 0);
        }
    }
    CHECK_EQ(taken, count);
}

/* The ring with which the bell begins has been heard, and nothing is armed. */
static void quiet(const struct bell *bell) {
    CHECK(rung(bell, 20000));
    CHECK(drain(bell) > 0);
    CHECK_EQ(take_all(bell), 0);
}

static void test_rings_once_for_each_arming(void) {
    struct bell bell = bell_attach();
    uint32_t slot = rig_socket(bell.c, PF_FAMILY_IPV4, 0);
    quiet(&bell);
    /* Not armed: silent, however much comes. */
    CHECK(pf_nop(bell.c, slot) > 0);
    CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
    CHECK(!rung(&bell, 50));
    /* Something is there: to be taken instead of waiting. */
    CHECK_EQ(pf_bell_arm(bell.c), 1);
    CHECK_EQ(take_all(&bell), 1);
    CHECK_EQ(pf_bell_arm(bell.c), 0);
    CHECK(!rung(&bell, 50));
    for (int i = 0; i < 10; i++) {
        CHECK(pf_nop(bell.c, slot) > 0);
        CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
        CHECK(rung(&bell, 20000));
    }
    CHECK_EQ(drain(&bell), 1);
    CHECK(!rung(&bell, 50));
    CHECK_EQ(take_all(&bell), 10);
    CHECK_EQ(pf_socket_release(bell.c, slot, 0), 0);
    bell_detach(&bell);
}

static void test_no_ring_is_lost(void) {
    enum { ROUNDS = 20000, DEPTH = 8 };
    struct bell bell = bell_attach();
    uint32_t slots[4];
    for (int i = 0; i < 4; i++) {
        slots[i] = rig_socket(bell.c, PF_FAMILY_IPV4, 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t count = 1 + (uint32_t)round % DEPTH;
        for (uint32_t i = 0; i < count; i++) {
            CHECK(pf_nop(bell.c, slots[i % 4]) > 0);
        }
        take(&bell, count);
    }
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(pf_socket_release(bell.c, slots[i], 0), 0);
    }
    bell_detach(&bell);
}

static void test_what_came_before_the_bell(void) {
    struct rig_client one = rig_attach(&rig);
    struct bell bell = {.one = one, .c = one.client};
    uint32_t slot = rig_socket(bell.c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
    CHECK_EQ(take_all(&bell), 0);
    CHECK_EQ(pf_bell_arm(bell.c), 0); /* before the stack thread has heard of the bell */
    CHECK(pf_nop(bell.c, slot) > 0);
    CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
    CHECK_EQ(pf_session_bell(rig.backend, one.session, &bell.fd), 0);
    CHECK(rung(&bell, 20000));
    CHECK_EQ(take_all(&bell), 1);
    /* Another one replaces it, which hangs up. */
    struct bell second = bell;
    CHECK_EQ(pf_session_bell(rig.backend, one.session, &second.fd), 0);
    CHECK(rung(&second, 20000));
    CHECK(drain(&bell) > 0);
    CHECK_EQ(drain(&bell), 0);
    (void)close(bell.fd);
    CHECK_EQ(pf_socket_release(bell.c, slot, 0), 0);
    bell_detach(&second);
}

static void test_the_end_hangs_up(void) {
    struct bell bell = bell_attach();
    quiet(&bell);
    CHECK_EQ(pf_session_end(rig.backend, bell.one.session, PF_ENDED_ADMIN), 0);
    CHECK(rung(&bell, 20000));
    CHECK_EQ(drain(&bell), 0);
    CHECK_EQ(pf_bell_arm(bell.c), -EPIPE);
    bell_detach(&bell);
    int fd = -1;
    CHECK_EQ(pf_session_bell(rig.backend, UINT64_C(1) << 60, &fd), 0); /* of nobody */
    struct pollfd look = {.fd = fd, .events = POLLIN};
    CHECK_EQ(poll(&look, 1, 20000), 1);
    (void)close(fd);
}

/* A client that arms without end, never listens, and has made its end blocking and full. */
static void test_who_does_not_listen(void) {
    struct bell bell = bell_attach();
    struct bell other = bell_attach();
    quiet(&other);
    CHECK_EQ(fcntl(bell.fd, F_SETFL, 0), 0);
    uint32_t slot = rig_socket(bell.c, PF_FAMILY_IPV4, 0);
    uint32_t theirs = rig_socket(other.c, PF_FAMILY_IPV4, 0);
    for (int i = 0; i < 3000; i++) {
        (void)pf_bell_arm(bell.c);
        CHECK(pf_nop(bell.c, slot) > 0);
        CHECK(pf_nop(other.c, theirs) > 0);
        take(&other, 1);
        CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
        CHECK_EQ(take_all(&bell), 1);
    }
    /* Nor one that has closed it. */
    (void)shutdown(bell.fd, SHUT_RDWR);
    (void)pf_bell_arm(bell.c);
    CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
    CHECK_EQ(pf_socket_release(bell.c, slot, 0), 0);
    CHECK_EQ(pf_socket_release(other.c, theirs, 0), 0);
    bell_detach(&bell);
    bell_detach(&other);
}

/* Waits by the bell until what can be read of `slot` is told of. */
static void await_told(const struct bell *bell, uint32_t slot) {
    struct pf_done done;
    int got;
    while ((got = pf_poll_any(bell->c, &done)) == 0) {
        if (pf_bell_arm(bell->c) == 0) {
            CHECK(rung(bell, 20000));
            CHECK(drain(bell) > 0);
        }
    }
    CHECK_EQ(got, 1);
    CHECK_EQ(done.op_id, 0);
    CHECK_EQ(done.opcode, PF_OP_RECV);
    CHECK_EQ(done.slot, slot);
    CHECK_EQ(done.generation, pf_socket_generation(bell->c, slot));
}

static void test_a_watch_is_told_once(void) {
    struct bell bell = bell_attach();
    struct rig_client two = rig_attach(&rig);
    struct rig_pair pair = rig_connect(bell.c, two.client, rig_addr(7301), 0);
    uint8_t data[8];
    quiet(&bell);
    CHECK_EQ(pf_watch(bell.c, pair.near), 0);
    CHECK_EQ(pf_bell_arm(bell.c), 0);
    CHECK(!rung(&bell, 50));
    rig_send_all(two.client, pair.far, data, 4);
    await_told(&bell, pair.near);
    CHECK_EQ(pf_watch(bell.c, pair.near), 1); /* there it is */
    rig_recv_all(bell.c, pair.near, data, 4);
    CHECK_EQ(take_all(&bell), 0);
    /* Without a question nothing is told. */
    rig_send_all(two.client, pair.far, data, 4);
    rig_recv_all(bell.c, pair.near, data, 4);
    CHECK_EQ(take_all(&bell), 0);
    /* The end. */
    CHECK_EQ(pf_watch(bell.c, pair.near), 0);
    CHECK_EQ(RIG_CALL(two.client, pair.far, PF_OP_SHUTDOWN, .flags = PF_SHUT_WRITE), 0);
    await_told(&bell, pair.near);
    CHECK_EQ(pf_recv(bell.c, pair.near, data, 1, 0, 0), 0);
    /* A socket that is not there, or that has ended with the session. */
    CHECK_EQ(pf_watch(bell.c, 9), -EBADF);
    CHECK_EQ(pf_watch(bell.c, UINT32_MAX), -EBADF);
    rig_close(two.client, pair.far, 0);
    rig_close(bell.c, pair.near, 0);
    rig_detach(&rig, &two, PF_ENDED_CLOSED);
    CHECK_EQ(pf_session_end(rig.backend, bell.one.session, PF_ENDED_ADMIN), 0);
    while (drain(&bell) != 0) {
        CHECK(rung(&bell, 20000));
    }
    CHECK_EQ(pf_watch(bell.c, pair.near), -EPIPE);
    bell_detach(&bell);
}

static void test_no_watch_is_forgotten(void) {
    enum { ROUNDS = 20000 };
    struct bell bell = bell_attach();
    struct rig_client two = rig_attach(&rig);
    struct rig_pair pair = rig_connect(bell.c, two.client, rig_addr(7302), 0);
    uint8_t byte = 0;
    for (int round = 0; round < ROUNDS; round++) {
        CHECK_EQ(pf_send(two.client, pair.far, &byte, 1, RIG_PATIENCE), 1);
        for (int spin = round % 64; spin > 0; spin--) {
            pf_bell_spin(bell.c, 0); /* so that it arrives before, behind and in the middle */
        }
        int64_t got;
        while ((got = pf_rx_read(bell.c, pair.near, &byte, 1, 0)) == -EAGAIN) {
            int told = pf_watch(bell.c, pair.near);
            if (told == 0) {
                await_told(&bell, pair.near);
            }
        }
        CHECK_EQ(got, 1);
        (void)take_all(&bell);
    }
    rig_close(two.client, pair.far, 0);
    rig_close(bell.c, pair.near, 0);
    rig_detach(&rig, &two, PF_ENDED_CLOSED);
    bell_detach(&bell);
}

static void test_a_spin_ends(void) {
    struct bell bell = bell_attach();
    uint32_t slot = rig_socket(bell.c, PF_FAMILY_IPV4, 0);
    quiet(&bell);
    pf_client_set_spin(bell.c, 50000);
    CHECK_EQ(pf_bell_spin(bell.c, 0), 0);
    /* First what there is to tell of the open, which may be late. Then nothing comes: 200 us. */
    do {
        (void)take_all(&bell);
    } while (pf_bell_arm(bell.c) != 0 || pf_bell_spin(bell.c, 1000000) != 0);
    CHECK(pf_nop(bell.c, slot) > 0);
    CHECK_EQ(RIG_CALL(bell.c, slot, PF_OP_NOP, 0), 0);
    CHECK_EQ(pf_bell_spin(bell.c, 1000000), 1);
    CHECK(rung(&bell, 20000)); /* and so the wait behind it returns */
    CHECK_EQ(take_all(&bell), 1);
    pf_client_set_spin(bell.c, 0);
    CHECK_EQ(pf_bell_spin(bell.c, 1000000), 0);
    CHECK_EQ(pf_socket_release(bell.c, slot, 0), 0);
    bell_detach(&bell);
}

int main(void) {
    check_random_init();
    check_watchdog(120);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    RUN(test_rings_once_for_each_arming);
    RUN(test_no_ring_is_lost);
    RUN(test_what_came_before_the_bell);
    RUN(test_the_end_hangs_up);
    RUN(test_who_does_not_listen);
    RUN(test_a_watch_is_told_once);
    RUN(test_no_watch_is_forgotten);
    RUN(test_a_spin_ends);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
