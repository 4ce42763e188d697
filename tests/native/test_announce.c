/* Waking a reader for bytes that are still on their way through the stack: who is told and who not,
 * and that it changes nothing but the time. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "client/internal.h"
#include "rig.h"

static struct rig rig;
static struct rig_client one;
static struct rig_pair pair;

static const struct pf_sock *far_sock(void) { return &one.client->socks[pair.far]; }

static uint32_t announced(void) { return pf_load_acquire(&far_sock()->b2c->announced); }

static void until_the_stack_sleeps(void) {
    while (pf_load_acquire(&rig.public_region->sleeping) == 0) {
        (void)sched_yield();
    }
}

/* One byte to a socket of which its client says that so many threads wait, on that processor. */
static void one_byte(uint32_t waiting, uint32_t cpu) {
    uint8_t byte = 'x';
    until_the_stack_sleeps();
    far_sock()->c2b->waiting_cpu = cpu;
    pf_store_release(&far_sock()->c2b->waiting, waiting);
    rig_send_all(one.client, pair.near, &byte, 1);
    while (!pf_sock_readable(far_sock())) {
        (void)sched_yield();
    }
    pf_store_release(&far_sock()->c2b->waiting, 0);
    rig_recv_all(one.client, pair.far, &byte, 1);
    CHECK_EQ(byte, 'x');
}

static void test_who_is_told(void) {
    uint32_t here = (uint32_t)sched_getcpu(); /* where all threads are bound to be */
    uint32_t before = announced();
    one_byte(0, here + 1);
    CHECK_EQ(announced(), before);
    one_byte(1, here);
    CHECK_EQ(announced(), before);
    one_byte(1, here + 1);
    CHECK_EQ(announced(), before + 1);
    CHECK_EQ(far_sock()->b2c->announced_cpu, here);
}

/* ---- a reader that is told, in memory of this test ---- */

static struct pf_socket_c2b c2b;
static struct pf_socket_b2c b2c;
static struct pf_sock told = {.c2b = &c2b, .b2c = &b2c};

static void *announce_for_nothing(void *unused) {
    (void)unused;
    while (pf_load_acquire(&c2b.waiting) == 0) {
        (void)sched_yield();
    }
    b2c.announced_cpu = UINT32_MAX;
    pf_store_release(&b2c.announced, b2c.announced + 1);
    while (pf_futex_wake(&b2c.event, 1) == 0) {
        (void)sched_yield(); /* it counts itself before it sleeps */
    }
    return NULL;
}

static void test_news_that_do_not_come(void) {
    pthread_t thread;
    struct pf_waiter waiter;
    CHECK_EQ(pthread_create(&thread, NULL, announce_for_nothing, NULL), 0);
    pf_waiter_start(&waiter, one.client, RIG_SECOND / 20);
    CHECK_EQ(pf_sock_sleep(&waiter, &told, 0), 0); /* look again */
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(pf_sock_sleep(&waiter, &told, 0), 0);
    CHECK_EQ(pf_sock_sleep(&waiter, &told, 0), -ETIMEDOUT);
    CHECK(pf_now_ns() >= waiter.deadline_ns);
}

/* ---- there and back, everybody asleep each time ---- */

enum { ROUNDS = 3000 };

static void *echo(void *unused) {
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t bytes[8];
        rig_recv_all(one.client, pair.far, bytes, sizeof(bytes));
        rig_send_all(one.client, pair.far, bytes, sizeof(bytes));
    }
    return NULL;
}

static void free_to_move(void) {
    cpu_set_t all;
    memset(&all, 0xff, sizeof(all));
    CHECK_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
}

static void *echo_anywhere(void *unused) {
    free_to_move();
    return echo(unused);
}

static void test_no_byte_waits_for_ever(void) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, echo_anywhere, NULL), 0);
    free_to_move();
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t out[8];
        uint8_t in[8];
        rig_fill(out, 1, (uint64_t)i * 8, sizeof(out));
        rig_send_all(one.client, pair.near, out, sizeof(out));
        rig_recv_all(one.client, pair.near, in, sizeof(in));
        CHECK(memcmp(out, in, sizeof(in)) == 0);
    }
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

int main(void) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET((size_t)sched_getcpu(), &first);
    check_watchdog(60);
    CHECK_EQ(sched_setaffinity(0, sizeof(first), &first), 0);
    rig_start(&rig);
    one = rig_attach(&rig);
    pf_client_set_spin(one.client, 0);
    pair = rig_connect(one.client, one.client, rig_addr(7000), 0);
    RUN(test_who_is_told);
    RUN(test_news_that_do_not_come);
    RUN(test_no_byte_waits_for_ever);
    rig_close(one.client, pair.near, 0);
    rig_close(one.client, pair.far, 0);
    rig_detach(&rig, &one, PF_ENDED_CLOSED);
    rig_stop(&rig);
    return 0;
}
