/* Connections that were accepted and go back to the queue of their listener. */
#define _GNU_SOURCE
#include <sched.h>

#include "rig.h"

enum { PORT = 4000, MANY = 200 };

static struct rig rig;

/* With connections that wait, and the ports of their other ends in the order in which they came. */
struct waiting {
    struct rig_client client;
    uint32_t listener;
    uint16_t ports[MANY];
    uint32_t near[MANY];
};

static struct waiting waiting;

static struct pf_done accept_one(void) {
    struct pf_client *client = waiting.client.client;
    struct pf_done done;
    int64_t op;
    while ((op = RIG_SUBMIT(client, waiting.listener, PF_OP_ACCEPT, 0)) == -EAGAIN) {
        (void)sched_yield(); /* what was submitted before it fills the queue */
    }
    CHECK_EQ(rig_await(client, waiting.listener, op, &done), 0);
    return done;
}

static void connect_some(int count) {
    struct pf_client *client = waiting.client.client;
    struct pf_addr there = rig_addr(PORT);
    for (int i = 0; i < count; i++) {
        struct pf_socket_b2c state;
        waiting.near[i] = rig_socket(client, PF_FAMILY_IPV4, 4096);
        CHECK_EQ(RIG_CALL(client, waiting.near[i], PF_OP_CONNECT, .addr = &there), 0);
        CHECK_EQ(pf_socket_state(client, waiting.near[i], &state), 0);
        waiting.ports[i] = state.local.port;
    }
}

static void begin(int count) {
    struct pf_session_request request = rig_request();
    request.max_sockets = 2 * MANY + 8;
    waiting.client = rig_attach_with(&rig, &request);
    waiting.listener = rig_listener(waiting.client.client, rig_addr(PORT), MANY);
    connect_some(count);
}

static void end(int count) {
    for (int i = 0; i < count; i++) {
        rig_close(waiting.client.client, waiting.near[i], PF_CLOSE_ABORT);
    }
    rig_close(waiting.client.client, waiting.listener, PF_CLOSE_ABORT);
    rig_detach(&rig, &waiting.client, PF_ENDED_CLOSED);
}

/* Whoever is accepted next came first, in whatever order they went back. */
static void test_order(void) {
    enum { SOME = 6 };
    static const int orders[][SOME] = {{0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {2, 5, 0, 1, 4, 3}};
    begin(SOME);
    for (size_t k = 0; k < sizeof(orders) / sizeof(*orders); k++) {
        uint64_t tokens[SOME];
        for (int i = 0; i < SOME - (k == 2); i++) { /* one stays there, behind them */
            struct pf_done done = accept_one();
            CHECK_EQ(done.addr.port, waiting.ports[i]);
            tokens[i] = done.token;
        }
        for (int i = 0; i < SOME; i++) {
            if (k != 2 || orders[k][i] != SOME - 1) {
                uint64_t token = tokens[orders[k][i]];
                CHECK_EQ(pf_accept_return(waiting.client.client, waiting.listener, token), 0);
            }
        }
    }
    for (int i = 0; i < SOME; i++) {
        CHECK_EQ(accept_one().addr.port, waiting.ports[i]);
    }
    end(SOME);
}

/* The stack's thread is where ours is to be in test_many(). */
static int first_cpu(void) {
    cpu_set_t mine;
    int cpu = 0;
    CHECK_EQ(sched_getaffinity(0, sizeof(mine), &mine), 0);
    while (!CPU_ISSET(cpu, &mine)) {
        cpu++;
    }
    return cpu;
}

/* More go back at once than there is room for in the queue, on the only processor that the stack
 * has as well: none is lost, none stays with nobody. */
static void test_many(void) {
    static uint64_t tokens[MANY];
    cpu_set_t before;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first_cpu(), &one);
    begin(MANY);
    for (int i = 0; i < MANY; i++) {
        tokens[i] = accept_one().token;
    }
    CHECK_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(pf_accept_return(waiting.client.client, waiting.listener, tokens[i]), 0);
    }
    CHECK_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(accept_one().addr.port, waiting.ports[i]);
    }
    end(MANY);
}

int main(void) {
    check_random_init();
    check_watchdog(100);
    struct pf_backend_config config = {.max_pcbs = 20000, .cpu = first_cpu()};
    rig_start_with(&rig, &config);
    struct rig_counts start = rig_counts(&rig);
    RUN(test_order);
    RUN(test_many);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
