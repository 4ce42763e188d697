/* Clients come and go, killed at random moments, and the backend goes: whoever stays loses nothing,
 * and everything comes back.
 *
 * Client processes are children of a nursery, forked before there is any thread. PIFUS_KILLS sets
 * their number. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>

#include "rig.h"

#define DEFAULT_KILLS 200
#define BYSTANDER_PORT 7
#define CROSS_PORT 8

enum role { ROLE_BYSTANDER = 1, ROLE_VICTIM, ROLE_CROSS };

struct order {
    enum role role;
    uint64_t seed;
};

static struct rig rig;
static struct rig_counts start;
static int nursery;

/* ---- in a client process ---- */

static void self_echo(struct pf_client *client, int control, uint16_t port, uint64_t seed) {
    static uint8_t out[30000];
    static uint8_t back[30000];
    struct rig_pair p = rig_connect(client, client, rig_addr(port), 0);
    struct pollfd stop = {.fd = control, .events = POLLIN};
    uint64_t rounds = 0;
    for (uint64_t at = 0; poll(&stop, 1, 0) == 0; rounds++) {
        uint32_t length = 1 + (uint32_t)(check_random_next(&seed) % sizeof(out));
        rig_fill(out, port, at, length);
        rig_send_all(client, p.near, out, length);
        rig_recv_all(client, p.far, back, length);
        CHECK(!rig_differs(back, port, at, length));
        at += length;
    }
    ssize_t written = write(control, &rounds, sizeof(rounds));
    CHECK_EQ(written, sizeof(rounds));
    rig_sleep_ms(100000); /* the test ends it */
}

/* Everything at once, until killed. */
static void victim(struct pf_client *client, uint64_t seed) {
    static uint8_t data[60000];
    uint16_t port = (uint16_t)(10000 + seed % 20000);
    struct pf_addr addr = rig_addr(port);
    int listener = pf_socket_open(client, PF_FAMILY_IPV4, 1, 0);
    (void)RIG_SUBMIT(client, (uint32_t)listener, PF_OP_BIND, .addr = &addr);
    (void)RIG_SUBMIT(client, (uint32_t)listener, PF_OP_LISTEN, .length = 8);
    for (;;) {
        struct pf_done done;
        int64_t accept = RIG_SUBMIT(client, (uint32_t)listener, PF_OP_ACCEPT, 0);
        int near = pf_socket_open(client, PF_FAMILY_IPV4, (int)(seed % 3), 4096U << seed % 7);
        if (near < 0 || accept < 0 ||
            RIG_CALL(client, (uint32_t)near, PF_OP_CONNECT, .addr = &addr) != 0 ||
            pf_await(client, (uint32_t)listener, (uint64_t)accept, RIG_PATIENCE, &done) != 1) {
            continue;
        }
        int far = pf_socket_adopt(client, done.token, 1);
        for (int i = 0; i < 20; i++) {
            uint32_t length = 1 + (uint32_t)(check_random_next(&seed) % sizeof(data));
            (void)pf_send(client, (uint32_t)near, data, length, 1000000);
            (void)pf_send(client, (uint32_t)far, data, length, 1000000);
            (void)pf_recv(client, (uint32_t)far, data, length, 0, 1000000);
        }
        (void)pf_socket_release(client, (uint32_t)far, (int)(seed & 1));
        (void)pf_socket_release(client, (uint32_t)near, (int)(seed >> 1 & 1));
    }
}

/* One connection to the test itself: sends until it is killed. */
static void cross(struct pf_client *client) {
    static uint8_t data[20000];
    struct pf_addr addr = rig_addr(CROSS_PORT);
    uint32_t slot = rig_socket(client, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(client, slot, PF_OP_CONNECT, .addr = &addr), 0);
    for (uint64_t at = 0;; at += sizeof(data)) {
        rig_fill(data, 5, at, sizeof(data));
        rig_send_all(client, slot, data, sizeof(data));
    }
}

static void client_process(const struct order *order, const int *fds) {
    char error[300] = "";
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    check_watchdog(250);
    struct pf_client *client =
        pf_client_attach(fds[4], fds[0], fds[1], fds[2], fds[3], error, sizeof(error));
    CHECK(client);
    if (order->role == ROLE_BYSTANDER) {
        self_echo(client, fds[4], BYSTANDER_PORT, order->seed | 1);
    } else if (order->role == ROLE_VICTIM) {
        victim(client, order->seed | 1);
    } else {
        cross(client);
    }
    _exit(0);
}

static void nursery_main(int order_fd) {
    (void)signal(SIGCHLD, SIG_IGN);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        struct order order;
        union {
            struct cmsghdr header;
            char bytes[CMSG_SPACE(5 * sizeof(int))];
        } control;
        struct iovec part = {&order, sizeof(order)};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = &control,
                                 .msg_controllen = sizeof(control)};
        if (recvmsg(order_fd, &message, MSG_CMSG_CLOEXEC) != sizeof(order)) {
            _exit(0);
        }
        int fds[5];
        memcpy(fds, CMSG_DATA(&control.header), sizeof(fds));
        pid_t pid = fork();
        if (pid == 0) {
            (void)close(order_fd);
            client_process(&order, fds);
        }
        for (int i = 0; i < 5; i++) {
            (void)close(fds[i]);
        }
        CHECK_EQ(write(order_fd, &pid, sizeof(pid)), sizeof(pid));
    }
}

static void start_nursery(void) {
    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        (void)close(pair[0]);
        nursery_main(pair[1]);
    }
    (void)close(pair[1]);
    nursery = pair[0];
}

/* ---- in the test ---- */

struct process {
    pid_t pid;
    uint64_t session;
    int control;
};

static struct process spawn(enum role role) {
    struct order order = {role, check_random_next(&check_state)};
    struct pf_session_request request = rig_request();
    struct pf_session_fds fds;
    struct process out;
    int pair[2];
    out.session = rig_session(&rig, &request, &fds);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    int sent[5] = {fds.c2b, fds.b2c, fds.public_region, fds.doorbell, pair[0]};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(sent))];
    } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(sent)),
                            .cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.header), sent, sizeof(sent));
    struct iovec part = {&order, sizeof(order)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    CHECK_EQ(sendmsg(nursery, &message, 0), sizeof(order));
    CHECK_EQ(read(nursery, &out.pid, sizeof(out.pid)), sizeof(out.pid));
    for (int i = 0; i < 5; i++) {
        (void)close(sent[i]);
    }
    out.control = pair[1];
    return out;
}

/* SIGKILL, then what the control plane does when the connection hangs up. */
static void kill_process(struct process *process) {
    struct pollfd hung = {.fd = process->control, .events = 0};
    CHECK_EQ(kill(process->pid, SIGKILL), 0);
    CHECK_EQ(poll(&hung, 1, 10000), 1);
    (void)close(process->control);
    CHECK_EQ(pf_session_end(rig.backend, process->session, PF_ENDED_CLOSED), 0);
    rig_notices(&rig);
}

static void stop_bystander(struct process *process) {
    uint64_t rounds = 0;
    CHECK_EQ(write(process->control, "s", 1), 1);
    struct pollfd answer = {.fd = process->control, .events = POLLIN};
    CHECK_EQ(poll(&answer, 1, 20000), 1);
    CHECK_EQ(read(process->control, &rounds, sizeof(rounds)), sizeof(rounds)); /* else it failed */
    printf("    the bystander did %llu rounds\n", (unsigned long long)rounds);
    CHECK(rounds > 0);
    kill_process(process);
}

static void test_kills(void) {
    const char *text = getenv("PIFUS_KILLS");
    int kills = text ? (int)strtol(text, NULL, 10) : DEFAULT_KILLS;
    struct process bystander = spawn(ROLE_BYSTANDER);
    for (int i = 0; i < kills; i++) {
        struct process one = spawn(ROLE_VICTIM);
        struct timespec pause = {0, (long)check_random(40000) * 1000};
        (void)nanosleep(&pause, NULL);
        kill_process(&one);
        if (i % 16 == 0) {
            rig_skip_time_wait();
        }
    }
    stop_bystander(&bystander);
    rig_settle(&rig, &start);
}

/* The peer of a killed client gets a correct prefix of the stream, and then its end. */
static void test_peer_of_the_dead(void) {
    static uint8_t got[50000];
    struct rig_client own = rig_attach(&rig);
    uint32_t listener = rig_listener(own.client, rig_addr(CROSS_PORT), 4);
    for (int i = 0; i < 20; i++) {
        struct pf_done done;
        int64_t accept = RIG_SUBMIT(own.client, listener, PF_OP_ACCEPT, 0);
        struct process peer = spawn(ROLE_CROSS);
        CHECK_EQ(rig_await(own.client, listener, accept, &done), 0);
        int slot = pf_socket_adopt(own.client, done.token, 1);
        uint64_t at = 0;
        uint64_t until = pf_now_ns() + check_random(20000000);
        int64_t count = 1;
        bool killed = false;
        while (count > 0) {
            if (!killed && pf_now_ns() > until) {
                kill_process(&peer);
                killed = true;
            }
            count = pf_recv(own.client, (uint32_t)slot, got, sizeof(got), 0, RIG_PATIENCE);
            CHECK(count >= 0 || count == -ECONNRESET);
            CHECK(count < 0 || !rig_differs(got, 5, at, (uint32_t)count));
            at += count > 0 ? (uint64_t)count : 0;
        }
        CHECK(killed);
        rig_close(own.client, (uint32_t)slot, 0);
    }
    rig_detach(&rig, &own, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
}

/* What was submitted before the session ended still arrives. */
static void test_last_words_arrive(void) {
    enum { BYTES = 700000 };
    static uint8_t data[BYTES];
    static uint8_t got[BYTES];
    rig_fill(data, 9, 0, BYTES);
    struct rig_client reader = rig_attach(&rig);
    for (int i = 0; i < 5; i++) {
        struct rig_client writer = rig_attach(&rig);
        struct rig_pair p =
            rig_connect(writer.client, reader.client, rig_addr((uint16_t)(20 + i)), 0);
        CHECK(pf_write(writer.client, p.near, data, BYTES, PF_DELIVER_NONE) > 0);
        rig_detach(&rig, &writer, PF_ENDED_CLOSED);
        rig_recv_all(reader.client, p.far, got, BYTES);
        CHECK(!rig_differs(got, 9, 0, BYTES));
        CHECK_EQ(pf_recv(reader.client, p.far, got, 1, 0, RIG_PATIENCE), 0);
        rig_close(reader.client, p.far, 0);
    }
    rig_detach(&rig, &reader, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
}

static void test_room_in_a_full_queue(void) {
    uint8_t byte = 1;
    struct rig_client own = rig_attach(&rig);
    struct rig_pair p = rig_connect(own.client, own.client, rig_addr(30), 0);
    int64_t first = RIG_SUBMIT(own.client, p.near, PF_OP_RECV, .length = 1);
    CHECK_EQ(pf_await_room(own.client, p.near, 0), 1);
    int64_t last = first;
    for (int64_t op = first; op > 0; op = RIG_SUBMIT(own.client, p.near, PF_OP_RECV, .length = 1)) {
        last = op;
    }
    CHECK(last != first);
    CHECK_EQ(pf_await_room(own.client, p.near, 1000000), 0);
    rig_send_all(own.client, p.far, &byte, 1);
    CHECK_EQ(pf_await_room(own.client, p.near, RIG_PATIENCE), 1);
    CHECK(RIG_SUBMIT(own.client, p.near, PF_OP_RECV, .length = 1) > 0);
    CHECK_EQ(pf_await_room(own.client, UINT32_MAX, 0), -EBADF);
    rig_detach(&rig, &own, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
}

static void test_many_sessions(void) {
    enum { SESSIONS = 64 };
    static struct rig_client clients[SESSIONS];
    static struct rig_pair pairs[SESSIONS];
    uint8_t byte = 1;
    for (int i = 0; i < SESSIONS; i++) {
        clients[i] = rig_attach(&rig);
    }
    for (int i = 0; i < SESSIONS; i++) { /* each with the next one */
        pairs[i] = rig_connect(clients[i].client, clients[(i + 1) % SESSIONS].client,
                               rig_addr((uint16_t)(100 + i)), 0);
    }
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < SESSIONS; i++) {
            rig_send_all(clients[i].client, pairs[i].near, &byte, 1);
        }
        for (int i = 0; i < SESSIONS; i++) {
            rig_recv_all(clients[(i + 1) % SESSIONS].client, pairs[i].far, &byte, 1);
        }
    }
    for (int i = 0; i < SESSIONS; i++) {
        rig_detach(&rig, &clients[i], i % 2 ? PF_ENDED_CLOSED : PF_ENDED_ADMIN);
    }
    rig_settle(&rig, &start);
}

/* Slots come back in whatever order their closes complete, whoever notices. */
static void test_slots_come_back(void) {
    struct pf_session_request request = rig_request();
    static uint8_t much[600000];
    struct rig_client peer = rig_attach(&rig);
    request.max_sockets = 3;
    struct rig_client few = rig_attach_with(&rig, &request);
    struct rig_pair p = rig_connect(few.client, peer.client, rig_addr(10), 0);
    CHECK(pf_write(few.client, p.near, much, sizeof(much), PF_DELIVER_NONE) > 0);
    uint32_t quick = rig_socket(few.client, PF_FAMILY_IPV4, 0);
    rig_sleep_ms(20);
    CHECK_EQ(pf_socket_release(few.client, p.near, 0), 0); /* takes until the peer has read */
    CHECK_EQ(pf_socket_release(few.client, quick, 0), 0);
    for (int i = 0; i < 50; i++) { /* the quick one's end is noticed here */
        struct pf_done done;
        CHECK(pf_poll_any(few.client, &done) >= 0);
        rig_sleep_ms(1);
    }
    rig_recv_all(peer.client, p.far, much, sizeof(much));
    CHECK_EQ(pf_recv(peer.client, p.far, much, 1, 0, RIG_PATIENCE), 0);
    rig_sleep_ms(50);
    for (int i = 0; i < 3; i++) {
        CHECK(pf_socket_open(few.client, PF_FAMILY_IPV4, 0, 0) >= 0);
    }
    rig_detach(&rig, &few, PF_ENDED_CLOSED);
    rig_detach(&rig, &peer, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
}

/* Connections that were reset while they waited for their accept are not kept for ever. */
static void test_queue_of_dead_connections(void) {
    struct rig_client own = rig_attach(&rig);
    struct pf_client *c = own.client;
    struct pf_addr addr = rig_addr(14);
    uint32_t listener = rig_listener(c, addr, 8);
    for (int i = 0; i < 100; i++) {
        uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
        (void)RIG_CALL(c, s, PF_OP_CONNECT, .addr = &addr);
        rig_close(c, s, PF_CLOSE_ABORT);
    }
    uint32_t s = rig_socket(c, PF_FAMILY_IPV4, 0);
    CHECK_EQ(RIG_CALL(c, s, PF_OP_CONNECT, .addr = &addr), 0);
    struct pf_done done;
    uint32_t before = 0;
    for (;; before++) {
        CHECK_EQ(rig_await(c, listener, RIG_SUBMIT(c, listener, PF_OP_ACCEPT, 0), &done), 0);
        struct pf_socket_b2c state;
        CHECK_EQ(pf_socket_state(c, s, &state), 0);
        if (done.addr.port == state.local.port) {
            break;
        }
    }
    CHECK(before <= 8); /* the backlog bounds it */
    rig_close(c, s, PF_CLOSE_ABORT);
    rig_close(c, listener, 0);
    rig_detach(&rig, &own, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
}

static void test_bad_requests(void) {
    char error[300];
    struct pf_session_fds fds;
    struct pf_session_request request = rig_request();
    request.best_priority = PF_PRIORITIES;
    CHECK(pf_session_create(rig.backend, &request, &fds, error, sizeof(error)) < 0);
    request.best_priority = UINT32_MAX;
    CHECK(pf_session_create(rig.backend, &request, &fds, error, sizeof(error)) < 0);
    /* A second backend in the process is refused, and that costs the first one nothing. */
    struct pf_backend_config config = {.max_pcbs = 100, .cpu = -1};
    CHECK(!pf_backend_new(&config, error, sizeof(error)));
    struct rig_client own = rig_attach(&rig);
    struct rig_pair p = rig_connect(own.client, own.client, rig_addr(11), 0);
    rig_close(own.client, p.near, 0);
    rig_close(own.client, p.far, 0);
    rig_detach(&rig, &own, PF_ENDED_CLOSED);
}

/* ---- the end of the backend ---- */

struct waiter {
    pthread_t thread;
    int kind;
    struct pf_client *client;
    uint32_t slot;
    int64_t op;
    int64_t result;
    uint64_t ended_ns;
};

static void *wait_for_the_end(void *argument) {
    struct waiter *waiter = argument;
    struct pf_done done;
    uint8_t byte;
    switch (waiter->kind) {
    case 0:
        waiter->result = pf_recv(waiter->client, waiter->slot, &byte, 1, 0, -1);
        break;
    case 1:
        waiter->result = pf_wait(waiter->client, waiter->slot, -1, &done);
        break;
    case 2:
        waiter->result = pf_wait_any(waiter->client, -1, &done);
        break;
    default:
        waiter->result = pf_await(waiter->client, waiter->slot, (uint64_t)waiter->op, -1, &done);
        if (waiter->result == 1) { /* or its last completion came through */
            waiter->result = done.result == -ECANCELED ? -EPIPE : done.result;
        }
        break;
    }
    waiter->ended_ns = pf_now_ns();
    return NULL;
}

static void test_end_of_the_backend(void) {
    enum { WAITERS = 12 };
    struct waiter waiters[WAITERS];
    struct rig_client client = rig_attach(&rig);
    struct rig_pair p = rig_connect(client.client, client.client, rig_addr(12), 0);
    uint32_t listener = rig_listener(client.client, rig_addr(13), 4);
    int64_t accept = RIG_SUBMIT(client.client, listener, PF_OP_ACCEPT, 0);
    for (int i = 0; i < WAITERS; i++) {
        waiters[i] = (struct waiter){.kind = i % 4, .client = client.client, .slot = p.near};
        if (i % 4 == 3) {
            waiters[i].slot = listener;
            waiters[i].op = accept;
            accept = RIG_SUBMIT(client.client, listener, PF_OP_ACCEPT, 0);
        }
        CHECK_EQ(pthread_create(&waiters[i].thread, NULL, wait_for_the_end, &waiters[i]), 0);
    }
    rig_sleep_ms(100);
    uint64_t begun = pf_now_ns();
    rig_stop(&rig);
    for (int i = 0; i < WAITERS; i++) {
        CHECK_EQ(pthread_join(waiters[i].thread, NULL), 0);
        CHECK_EQ(waiters[i].result, -EPIPE);
        CHECK(waiters[i].ended_ns - begun < (uint64_t)RIG_SECOND);
    }
    CHECK_EQ(pf_client_ended(client.client), PF_ENDED_BACKEND);
    CHECK_EQ(pf_socket_open(client.client, PF_FAMILY_IPV4, 0, 0), -EPIPE);
    CHECK_EQ(pf_nop(client.client, p.near), -EPIPE);
    pf_client_detach(client.client);
}

int main(void) {
    check_random_init();
    check_watchdog(280);
    start_nursery();
    rig_start(&rig);
    rig_sleep_ms(20);
    start = rig_counts(&rig);
    RUN(test_bad_requests);
    RUN(test_slots_come_back);
    RUN(test_queue_of_dead_connections);
    RUN(test_last_words_arrive);
    RUN(test_room_in_a_full_queue);
    RUN(test_many_sessions);
    RUN(test_peer_of_the_dead);
    RUN(test_kills);
    RUN(test_end_of_the_backend);
    return 0;
}
