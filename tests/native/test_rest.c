/* backend/rest.h: a stack thread with a real-time priority leaves the kernel its share, in pieces
 * so small that nothing waits for long. */
#include "backend/rest.h"

#include <time.h>

#include "rig.h"

#define SECOND_NS UINT64_C(1000000000)
#define MS_NS UINT64_C(1000000)
#define KERNEL_NS (950 * MS_NS) /* of a second: sched_rt_runtime_us */

/* A thread that has always work, for ten seconds: how much of each it runs, and how long it stops
 * at a time. Sleeps are cut short at random, as by news. */
static void always_busy(bool high, uint64_t longest_ns) {
    struct pf_rest rest = {.needed = true};
    uint64_t now = 0;
    uint64_t random = 5;
    for (int second = 0; second < 10; second++) {
        uint64_t ran = 0;
        uint64_t stopped = 0;
        while (now < (uint64_t)(second + 1) * SECOND_NS) {
            if (pf_rest_due(&rest, now, high)) {
                uint64_t piece = pf_rest_piece(&rest, now);
                CHECK(piece > 0);
                uint64_t slept = 1 + check_random_next(&random) % piece;
                pf_rest_slept(&rest, now, now + slept);
                now += slept;
                stopped += slept;
                CHECK(stopped <= longest_ns);
            } else {
                uint64_t step = 500 + check_random_next(&random) % 20000;
                now += step;
                ran += step;
                stopped = 0;
            }
        }
        CHECK(ran < KERNEL_NS);
        CHECK(ran > KERNEL_NS * 9 / 10);
    }
}

static void test_low_work(void) { always_busy(false, 2 * PF_REST_FROM_NS); }

static void test_high_work(void) { always_busy(true, 4 * PF_REST_FROM_NS); }

/* HIGH work goes on while lower work rests. */
static void test_high_beside_low(void) {
    struct pf_rest rest = {.needed = true};
    uint64_t now = 2 * MS_NS;
    CHECK(pf_rest_due(&rest, now, false));
    CHECK(!pf_rest_due(&rest, now, true));
    now += MS_NS;
    CHECK(pf_rest_due(&rest, now, false)); /* it still owes */
    pf_rest_slept(&rest, now, now + pf_rest_piece(&rest, now));
    CHECK(!pf_rest_due(&rest, rest.awake_ns, false));
}

/* Having slept for long gives no right to run for long. */
static void test_no_savings(void) {
    struct pf_rest rest = {.needed = true};
    pf_rest_slept(&rest, 0, SECOND_NS);
    CHECK(!pf_rest_due(&rest, SECOND_NS + MS_NS, false));
    CHECK(pf_rest_due(&rest, SECOND_NS + 2 * MS_NS, false));
}

static uint64_t processor_ns(clockid_t clock) {
    struct timespec now;
    CHECK_EQ(clock_gettime(clock, &now), 0);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* A real one, which would always spin between operations, and never sleep. */
static void test_stack_thread(void) {
    struct pf_backend_config config = {
        .max_pcbs = 100, .cpu = -1, .realtime_priority = 1, .spin_ns = SECOND_NS};
    char error[300] = "";
    struct rig rig = {.backend = pf_backend_new(&config, error, sizeof(error))};
    CHECK(rig.backend);
    CHECK_EQ(pf_backend_add_loopback(rig.backend, error, sizeof(error)), 0);
    if (pf_backend_start(rig.backend, error, sizeof(error)) != 0) {
        printf("    not here: %s\n", error);
        rig_stop(&rig);
        return;
    }
    struct rig_client client = rig_attach(&rig);
    uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, 0);
    uint64_t start = processor_ns(CLOCK_MONOTONIC);
    uint64_t used = processor_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t ours = processor_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t wall = 0;
    while (wall < SECOND_NS / 2) {
        struct pf_done done;
        CHECK(pf_nop(client.client, slot) > 0);
        CHECK_EQ(pf_wait(client.client, slot, RIG_PATIENCE, &done), 1);
        wall = processor_ns(CLOCK_MONOTONIC) - start;
    }
    ours = processor_ns(CLOCK_THREAD_CPUTIME_ID) - ours;
    used = processor_ns(CLOCK_PROCESS_CPUTIME_ID) - used - ours;
    printf("    it ran %llu %% of the time\n", (unsigned long long)(used * 100 / wall));
    CHECK(used < wall / 100 * 95);
    rig_close(client.client, slot, 0);
    rig_detach(&rig, &client, PF_ENDED_CLOSED);
    rig_stop(&rig);
}

int main(void) {
    check_watchdog(60);
    RUN(test_low_work);
    RUN(test_high_work);
    RUN(test_high_beside_low);
    RUN(test_no_savings);
    RUN(test_stack_thread);
    return 0;
}
