/* A stack thread with a real-time priority, and a client that hints without end. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <time.h>

#define RAW_SLOTS 4096 /* hint rings of twice as many */
#include "raw_client.h"
#include "rig.h"

static struct raw_client flooder;
static atomic_bool flood_over;

static void run_on(int cpu, int priority) {
    struct sched_param parameters = {.sched_priority = priority};
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
    CHECK_EQ(sched_setscheduler(0, SCHED_FIFO, &parameters), 0);
}

/* Hints of LOW priority without end. */
static void *flood(void *unused) {
    struct pf_hint_producer *hints = &flooder.hints[PF_PRIORITY_LOW];
    pf_hint_mark mark = 0;
    (void)unused;
    run_on(1, 1);
    while (!atomic_load(&flood_over)) {
        uint32_t head = pf_load_acquire(hints->shared_head);
        while ((uint32_t)hints->tail - head < hints->entries) {
            (void)pf_hint_put(hints, &mark, 0);
        }
    }
    return NULL;
}

/* A client does not keep the thread from its rests, whose debt would then stop HIGH as well. */
static void test_hints_end_no_rest(void) {
    struct pf_backend_config config = {
        .max_pcbs = 100, .cpu = 0, .realtime_priority = 1, .spin_ns = 50000};
    char error[300] = "";
    struct rig rig = {.backend = pf_backend_new(&config, error, sizeof(error))};
    CHECK(rig.backend);
    CHECK_EQ(pf_backend_add_loopback(rig.backend, error, sizeof(error)), 0);
    if (sysconf(_SC_NPROCESSORS_ONLN) < 2 ||
        pf_backend_start(rig.backend, error, sizeof(error)) != 0) {
        printf("    not here: %s\n", error);
        rig_stop(&rig);
        return;
    }
    struct rig_client client = rig_attach(&rig);
    pf_client_set_spin(client.client, 0);
    uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, PF_PRIORITY_HIGH);
    struct pf_session_request request = rig_request();
    request.max_sockets = RAW_SLOTS;
    raw_attach(&rig, &flooder, &request);
    pthread_t thread;
    run_on(1, 2); /* beside the flood, and before it */
    CHECK_EQ(pthread_create(&thread, NULL, flood, NULL), 0);
    for (int i = 0; i < 200; i++) { /* a second: long enough to owe much */
        struct pf_done done;
        CHECK(pf_nop(client.client, slot) > 0);
        /* It takes 0.2 ms; without rests, seconds. */
        CHECK_EQ(pf_wait(client.client, slot, 2 * RIG_SECOND, &done), 1);
        CHECK_EQ(nanosleep(&(struct timespec){.tv_nsec = 5 * 1000000L}, NULL), 0);
    }
    atomic_store(&flood_over, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    raw_detach(&rig, &flooder, true);
    rig_close(client.client, slot, 0);
    rig_detach(&rig, &client, PF_ENDED_CLOSED);
    rig_stop(&rig);
}

int main(void) {
    check_watchdog(60);
    RUN(test_hints_end_no_rest);
    return 0;
}
