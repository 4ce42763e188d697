/* futex/spin.h, and the budget that follows what a wake-up costs. */
#define _GNU_SOURCE
#include "futex/spin.h"

#include <sched.h>

#include "raw_client.h"
#include "rig.h"

#define LEAST_NS PF_SPIN_ANSWER_NS
#define MOST_NS (PF_SPIN_ANSWER_NS + PF_SPIN_WAKE_MOST_NS)
#define FIRST_NS 40000U

static uint32_t learn(uint32_t spin_ns, uint64_t took_ns, int times) {
    while (times-- > 0) {
        spin_ns = pf_spin_learn(spin_ns, took_ns);
    }
    return spin_ns;
}

/* Of a hundred thousand wake-ups, one in `rare` of them dear: the mean of the budget. */
static uint64_t mean(uint64_t rare, uint64_t dear_ns, uint64_t cheap_ns) {
    uint64_t random = 5;
    uint32_t spin = FIRST_NS;
    uint64_t sum = 0;
    for (int i = 0; i < 100000; i++) {
        spin = pf_spin_learn(spin, check_random_next(&random) % rare ? cheap_ns : dear_ns);
        sum += spin;
    }
    return sum / 100000;
}

/* From wherever it was, it is soon about what wake-ups take now. */
static void test_follows(void) {
    static const uint32_t costs[] = {3000, 20000, 45000, 70000};
    for (int from = 0; from < 4; from++) {
        for (int to = 0; to < 4; to++) {
            uint32_t spin = learn(LEAST_NS + costs[from], costs[to], 32);
            CHECK(spin > LEAST_NS + costs[to] - 2000);
            CHECK(spin < LEAST_NS + costs[to] + 2000);
        }
    }
}

/* Some find the processor awake: between the two. */
static void test_two_kinds(void) {
    uint64_t spin = mean(2, 65000, 5000);
    CHECK(spin > LEAST_NS + 32000);
    CHECK(spin < LEAST_NS + 38000);
}

/* Now and then a thread waits for milliseconds, as the processor is taken. */
static void test_few_long_ones(void) { CHECK(mean(20, 5000000, 20000) < LEAST_NS + 25000); }

/* Whatever it is told, the bounds hold, and it finds its way back. */
static void test_lies(void) {
    static const uint64_t lies[] = {0, 1, PF_SPIN_WAKE_MOST_NS, UINT32_MAX, UINT64_MAX};
    uint64_t random = 11;
    uint32_t spin = FIRST_NS;
    for (int i = 0; i < 1000000; i++) {
        uint64_t lie = check_random_next(&random);
        spin = pf_spin_learn(spin, i % 3 ? lie >> (lie % 64) : lies[lie % 5]);
        CHECK(spin >= LEAST_NS);
        CHECK(spin <= MOST_NS);
    }
    CHECK(learn(spin, UINT64_MAX, 100) > MOST_NS - 100);
    CHECK(learn(MOST_NS, 0, 100) < LEAST_NS + 100);
    CHECK(learn(MOST_NS, 20000, 32) < LEAST_NS + 22000);
}

static struct rig rig;

static uint32_t budget(void) { return pf_load_relaxed(&rig.public_region->spin_ns); }

static void await_sleep(void) {
    while (pf_load_relaxed(&rig.public_region->sleeping) == 0) {
        (void)sched_yield();
    }
}

static uint64_t wakeups(void) { return rig_count(&rig.public_region->wakeups); }

/* The client's library tells when it rang. */
static void test_a_client_is_heard(void) {
    struct rig_client client = rig_attach(&rig);
    uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, 0);
    uint32_t before = budget();
    struct pf_done done;
    for (int changes = 0; changes < 20;) {
        await_sleep();
        CHECK(pf_nop(client.client, slot) > 0);
        CHECK_EQ(pf_wait(client.client, slot, RIG_PATIENCE, &done), 1);
        uint32_t now = budget();
        CHECK(now >= LEAST_NS);
        CHECK(now <= MOST_NS);
        changes += now != before;
        before = now;
    }
    printf("    after some wake-ups: %u ns\n", before);
    rig_close(client.client, slot, 0);
    rig_detach(&rig, &client, PF_ENDED_CLOSED);
}

/* The first look of a wait, and the rest of it. */
static void test_a_glance(void) {
    struct rig_client client = rig_attach(&rig);
    uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, 0);
    struct pf_done done;
    CHECK_EQ(pf_glance(client.client, PF_MAX_SOCKETS_LIMIT, &done), -EBADF);
    for (int spins = 0; spins < 2; spins++) {
        pf_client_set_spin(client.client, spins ? 1000000 : 0);
        CHECK_EQ(pf_glance(client.client, slot, &done), 0);
        CHECK_EQ(pf_wait_on(client.client, slot, 1000, &done), 0);
        for (int i = 0; i < 1000; i++) {
            int64_t op = pf_nop(client.client, slot);
            int got = pf_glance(client.client, slot, &done);
            CHECK(got == 1 || pf_wait_on(client.client, slot, RIG_PATIENCE, &done) == 1);
            CHECK_EQ(done.op_id, (uint64_t)op);
        }
        CHECK_EQ(pf_glance(client.client, slot, &done), 0);
    }
    /* What is there is taken in any case. */
    CHECK(pf_nop(client.client, slot) > 0);
    pf_client_set_spin(client.client, 0);
    int got;
    while ((got = pf_glance(client.client, slot, &done)) == 0) {
        (void)sched_yield();
    }
    CHECK_EQ(got, 1);
    rig_close(client.client, slot, 0);
    rig_detach(&rig, &client, PF_ENDED_CLOSED);
}

/* Rings, once the stack thread sleeps for `slept_ns`, and says that it was at `rang_ns`, or (0)
 * half of that ago. */
static void lie(struct raw_client *raw, uint64_t slept_ns, uint64_t rang_ns) {
    uint64_t woken = wakeups();
    await_sleep();
    uint64_t from = pf_now_ns();
    while (pf_now_ns() - from < slept_ns) {
    }
    uint64_t told = rang_ns ? rang_ns : from + slept_ns / 2;
    pf_store64_relaxed(&raw->control->rang_ns, told);
    raw_ring(raw);
    while (wakeups() == woken) {
        (void)sched_yield();
    }
}

static void test_a_client_that_lies(void) {
    struct raw_client raw;
    struct pf_session_request request = rig_request();
    raw_attach(&rig, &raw, &request);
    while (budget() < MOST_NS - 100) {
        lie(&raw, 400000, 0);
        CHECK(budget() <= MOST_NS);
    }
    /* What cannot be is nothing. */
    uint32_t before = budget();
    for (int i = 0; i < 20; i++) {
        lie(&raw, 0, 1);
        lie(&raw, 0, UINT64_MAX);
        CHECK_EQ(budget(), before);
    }
    raw_detach(&rig, &raw, true);
}

static bool one_processor(void) {
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) == 1;
}

/* A client spins as the backend says now, unless it was told for how long. */
static void test_clients_follow(void) {
    struct pf_public *public_region = (struct pf_public *)(uintptr_t)rig.public_region;
    struct rig_client client = rig_attach(&rig);
    uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(client.client, slot, PF_OP_NOP, 0), 0);
    CHECK(pf_nop(client.client, slot) > 0); /* there is something to find from here on */
    CHECK_EQ(RIG_CALL(client.client, slot, PF_OP_NOP, 0), 0);
    int spins = one_processor() ? 0 : 1;
    pf_store_relaxed(&public_region->spin_ns, 0);
    CHECK_EQ(pf_bell_spin(client.client, 1000000), 0);
    pf_store_relaxed(&public_region->spin_ns, 1000);
    CHECK_EQ(pf_bell_spin(client.client, 1000000), spins);
    pf_client_set_spin(client.client, 0);
    CHECK_EQ(pf_bell_spin(client.client, 1000000), 0);
    pf_client_set_spin(client.client, -1);
    CHECK_EQ(pf_bell_spin(client.client, 1000000), spins);
    struct pf_done done;
    CHECK_EQ(pf_wait(client.client, slot, RIG_PATIENCE, &done), 1);
    rig_close(client.client, slot, 0);
    rig_detach(&rig, &client, PF_ENDED_CLOSED);
}

int main(void) {
    check_random_init();
    check_watchdog(60);
    RUN(test_follows);
    RUN(test_two_kinds);
    RUN(test_few_long_ones);
    RUN(test_lies);
    struct pf_backend_config config = {.max_pcbs = 100,
                                       .cpu = -1,
                                       .spin_ns = FIRST_NS,
                                       .client_spin_ns = FIRST_NS,
                                       .spin_follows = 1};
    rig_start_with(&rig, &config);
    CHECK_EQ(budget(), FIRST_NS);
    RUN(test_a_client_is_heard);
    RUN(test_a_glance);
    RUN(test_a_client_that_lies);
    RUN(test_clients_follow);
    rig_stop(&rig);
    return 0;
}
