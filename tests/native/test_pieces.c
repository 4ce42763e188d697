/* What one application may have done at once is bounded, however much of it there is: this thread
 * plays the stack thread, so that what one step does can be counted. */
#include "rig.h"

#include "backend/identity.h"
#include "backend/internal.h"

enum { SOCKETS = 200, WORDS = 8, LISTENERS = 50 };

static struct rig rig;
static uint16_t port = 3000;

static uint64_t operations(void) {
    uint64_t sum = 0;
    for (int p = 0; p < PF_PRIORITIES; p++) {
        sum += rig_count(&rig.public_region->operations[p]);
    }
    return sum;
}

static struct pf_session *attach(struct rig_client *client) {
    struct pf_session_request request = rig_request();
    request.max_sockets = SOCKETS;
    request.queue_depth = 128;
    request.rx_bytes = 4096;
    *client = rig_attach_with(&rig, &request);
    pf_commands_run(rig.backend);
    struct pf_session *session = pf_session_find(rig.backend, client->session);
    CHECK(session);
    return session;
}

static void detach(struct pf_session *session, struct rig_client *client) {
    pf_client_detach(client->client);
    (void)close(client->control[0]);
    (void)close(client->control[1]);
    pf_session_finish(session, PF_ENDED_VIOLATION);
    while (pf_session_finish_piece(rig.backend) || stk_tcp_reset_some(8)) {
    }
    CHECK_EQ(session->live_socks, 0);
    pf_post_flush(rig.backend);
    pf_session_reap(session);
    rig_notices(&rig);
}

/* All that was submitted at the slot. */
static void serve(struct pf_session *session, uint32_t slot) {
    while (pf_dispatch_one(pf_session_slot(session, slot))) {
    }
    pf_post_flush(rig.backend);
}

static void run_frames(void) {
    for (bool any = true; any;) {
        any = stk_collect_frames(STK_FRAMES_AT_ONCE);
        for (int p = 0; p < PF_PRIORITIES; p++) {
            for (; stk_frame_waiting(p); any = true) {
                stk_process_frame(p);
            }
        }
    }
}

static uint32_t listener(struct pf_session *session, const struct rig_client *client) {
    uint32_t slot = rig_socket(client->client, PF_FAMILY_IPV4, 4096);
    struct pf_addr addr = rig_addr(++port);
    CHECK(RIG_SUBMIT(client->client, slot, PF_OP_BIND, .addr = &addr) > 0);
    CHECK(RIG_SUBMIT(client->client, slot, PF_OP_LISTEN, .length = 8) > 0);
    serve(session, slot);
    CHECK_EQ(session->socks[slot].phase, PF_SOCK_LISTENING);
    return slot;
}

static int mirror_of(struct pf_session *session, const struct rig_client *client, uint32_t slot) {
    int fd = -1;
    uint64_t id = 0;
    CHECK_EQ(pf_session_mirrors(rig.backend, client->session, 1, &fd, &id), 0);
    CHECK_EQ(pf_mirror_attach(client->client, slot, id, fd), 0);
    serve(session, slot);
    CHECK(session->socks[slot].identity);
    return fd;
}

struct claim {
    uint32_t slot;
    uint64_t op;
};

static struct claim claim(struct pf_session *session, const struct rig_client *client, int fd) {
    struct claim out;
    uint64_t ticket = 0;
    CHECK_EQ(pf_session_show(rig.backend, client->session, fd, &ticket), 0);
    pf_commands_run(rig.backend);
    int slot = pf_socket_claim(client->client, ticket, PF_PRIORITY_MEDIUM, fd, &out.op);
    CHECK(slot >= 0);
    out.slot = (uint32_t)slot;
    serve(session, out.slot);
    return out;
}

/* 1 and the result: it is done. */
static int outcome(const struct rig_client *client, struct claim claim, int32_t *result) {
    struct pf_done done;
    int got = pf_await(client->client, claim.slot, claim.op, 0, &done);
    *result = got == 1 ? done.result : 0;
    return got;
}

/* Before a listener is shared all that its client has submitted is taken: a submission at a time.
 */
static void test_a_listener_of_a_busy_client(void) {
    struct rig_client owner;
    struct rig_client other;
    struct pf_session *session = attach(&owner);
    struct pf_session *second = attach(&other);
    uint32_t shared = listener(session, &owner);
    int fd = mirror_of(session, &owner, shared);
    for (int i = 1; i < SOCKETS - 1; i++) {
        uint32_t slot = rig_socket(owner.client, PF_FAMILY_IPV4, 4096);
        for (int word = 1; word < WORDS; word++) {
            CHECK(RIG_SUBMIT(owner.client, slot, PF_OP_NOP, 0) > 0);
        }
    }
    uint64_t before = operations();
    struct claim taken = claim(second, &other, fd);
    int32_t result;
    CHECK_EQ(operations() - before, 1); /* the claim */
    CHECK_EQ(outcome(&other, taken, &result), 0);
    while (rig.backend->sharing) {
        uint64_t step = operations();
        CHECK_EQ(outcome(&other, taken, &result), 0);
        (void)pf_sharing_piece(rig.backend);
        CHECK(operations() - step <= 1);
    }
    CHECK_EQ(operations() - before, 1 + (SOCKETS - 2) * WORDS);
    pf_post_flush(rig.backend);
    CHECK_EQ(outcome(&other, taken, &result), 1);
    CHECK_EQ(result, 0);
    CHECK_EQ(second->socks[taken.slot].phase, PF_SOCK_LISTENING);
    (void)close(fd);
    detach(second, &other);
    detach(session, &owner);
}

/* What a socket that moves has submitted is not taken all at once, either. */
static void test_a_busy_socket_moves_later(void) {
    struct rig_client owner;
    struct rig_client other;
    struct pf_session *session = attach(&owner);
    struct pf_session *second = attach(&other);
    uint32_t slot = rig_socket(owner.client, PF_FAMILY_IPV4, 4096);
    serve(session, slot);
    int fd = mirror_of(session, &owner, slot);
    for (uint32_t i = 0; i < PF_SETTLE_MOST + 1; i++) {
        CHECK(RIG_SUBMIT(owner.client, slot, PF_OP_NOP, 0) > 0);
    }
    uint64_t before = operations();
    struct claim refused = claim(second, &other, fd);
    int32_t result;
    CHECK_EQ(operations() - before, 1);
    CHECK_EQ(outcome(&other, refused, &result), 1);
    CHECK_EQ(result, -EAGAIN);
    CHECK(pf_dispatch_one(&session->socks[slot])); /* its turn */
    struct claim taken = claim(second, &other, fd);
    CHECK_EQ(operations() - before, 2 + 1 + PF_SETTLE_MOST);
    CHECK_EQ(outcome(&other, taken, &result), 1);
    CHECK_EQ(result, 0);
    CHECK_EQ(session->socks[slot].phase, PF_SOCK_MOVED);
    (void)close(fd);
    detach(second, &other);
    detach(session, &owner);
}

/* A listener of `owner`, and a claim by `other` that waits for what `owner` has submitted. */
static struct claim wait_for_share(struct pf_session *session, const struct rig_client *owner,
                                   struct pf_session *second, const struct rig_client *other,
                                   uint32_t *shared) {
    *shared = listener(session, owner);
    int fd = mirror_of(session, owner, *shared);
    for (int i = 0; i < WORDS; i++) {
        CHECK(RIG_SUBMIT(owner->client, *shared, PF_OP_NOP, 0) > 0);
    }
    struct claim taken = claim(second, other, fd);
    (void)close(fd);
    CHECK(rig.backend->sharing);
    CHECK_EQ(second->socks[taken.slot].phase, PF_SOCK_LISTENING);
    return taken;
}

static void share_it(void) {
    while (pf_sharing_piece(rig.backend)) {
    }
    pf_post_flush(rig.backend);
}

/* A claim under way has its operation where a connect has it, and the listener is that of others:
 * to take the claim back must not end it. */
static void test_a_claim_cannot_be_taken_back(void) {
    struct rig_client owner;
    struct rig_client other;
    struct pf_session *session = attach(&owner);
    struct pf_session *second = attach(&other);
    uint32_t shared;
    struct claim taken = wait_for_share(session, &owner, second, &other, &shared);
    struct pf_done done;
    int64_t op = RIG_SUBMIT(other.client, taken.slot, PF_OP_CANCEL, .flags = PF_SQE_ALL);
    CHECK(op > 0);
    serve(second, taken.slot);
    CHECK_EQ(pf_await(other.client, taken.slot, (uint64_t)op, 0, &done), 1);
    CHECK_EQ(done.result, 0); /* operations */
    CHECK_EQ(second->socks[taken.slot].phase, PF_SOCK_LISTENING);
    CHECK(second->socks[taken.slot].conn == session->socks[shared].conn);
    share_it();
    int32_t result;
    CHECK_EQ(outcome(&other, taken, &result), 1);
    CHECK_EQ(result, 0);
    detach(second, &other);
    CHECK_EQ(session->socks[shared].phase, PF_SOCK_LISTENING);
    detach(session, &owner);
}

/* What was reported to one who accepts, and not adopted, is for the others when it goes. */
static void test_one_who_accepts_goes(void) {
    struct rig_client owner;
    struct rig_client other;
    struct pf_session *session = attach(&owner);
    struct pf_session *second = attach(&other);
    uint32_t shared;
    struct claim taken = wait_for_share(session, &owner, second, &other, &shared);
    share_it();
    CHECK(RIG_SUBMIT(other.client, taken.slot, PF_OP_ACCEPT, 0) > 0);
    serve(second, taken.slot);
    struct pf_addr addr = rig_addr(port);
    uint32_t near = rig_socket(owner.client, PF_FAMILY_IPV4, 4096);
    CHECK(RIG_SUBMIT(owner.client, near, PF_OP_CONNECT, .addr = &addr) > 0);
    serve(session, near);
    run_frames();
    pf_accept_report(&session->socks[shared]);
    CHECK_EQ(second->unadopted_count, 1);
    CHECK(RIG_SUBMIT(other.client, taken.slot, PF_OP_CLOSE, .flags = PF_CLOSE_SHARED) > 0);
    serve(second, taken.slot);
    CHECK_EQ(second->unadopted_count, 0);
    while (stk_tcp_reset_some(8)) {
    }
    run_frames();
    CHECK(stk_tcp_acceptable(session->socks[shared].conn));
    CHECK_EQ(session->socks[near].phase, PF_SOCK_CONNECTED);
    detach(second, &other);
    detach(session, &owner);
    run_frames();
}

static uint32_t ready_count(const struct pf_session *session) {
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < SOCKETS; slot++) {
        count += session->socks[slot].ready;
    }
    return count;
}

/* Many listeners wait until something is adopted: room for one is looked at by one. */
static void test_listeners_wait_for_room(void) {
    struct rig_client client;
    struct pf_session *session = attach(&client);
    uint32_t slots[LISTENERS];
    for (int i = 0; i < LISTENERS; i++) {
        slots[i] = listener(session, &client);
        struct pf_addr addr = rig_addr(port);
        uint32_t near = rig_socket(client.client, PF_FAMILY_IPV4, 4096);
        CHECK(RIG_SUBMIT(client.client, near, PF_OP_CONNECT, .addr = &addr) > 0);
        serve(session, near);
        run_frames();
    }
    session->unadopted_count = PF_MAX_UNADOPTED; /* others that it was told of */
    for (int i = 0; i < LISTENERS; i++) {
        CHECK(RIG_SUBMIT(client.client, slots[i], PF_OP_ACCEPT, 0) > 0);
        serve(session, slots[i]);
        CHECK_EQ(session->socks[slots[i]].accepts.tail - session->socks[slots[i]].accepts.head, 1);
    }
    for (uint32_t slot = 0; slot < SOCKETS; slot++) {
        pf_ready_remove(pf_session_slot(session, slot));
    }
    for (int i = 0; i < LISTENERS; i++) {
        session->unadopted_count--;
        pf_session_pass_room(session);
        CHECK_EQ(ready_count(session), 1);
        struct pf_bsock *sock = &session->socks[slots[i]]; /* in turn */
        CHECK(sock->ready);
        pf_ready_remove(sock);
        pf_accept_report(sock);
        CHECK_EQ(sock->accepts.head, sock->accepts.tail);
        CHECK_EQ(session->unadopted_count, PF_MAX_UNADOPTED);
    }
    session->unadopted_count = LISTENERS;
    detach(session, &client);
    run_frames();
}

static uint32_t connected(struct pf_session *session, const struct rig_client *client) {
    struct pf_addr addr = rig_addr(port);
    uint32_t near = rig_socket(client->client, PF_FAMILY_IPV4, 4096);
    CHECK(RIG_SUBMIT(client->client, near, PF_OP_CONNECT, .addr = &addr) > 0);
    serve(session, near);
    run_frames();
    CHECK_EQ(session->socks[near].phase, PF_SOCK_CONNECTED);
    return near;
}

/* Its queue is reset in pieces; its address is free at once, and whoever has it then keeps what
 * comes. */
static void test_the_address_of_a_closed_listener(void) {
    enum { QUEUED = 8 };
    struct rig_client client;
    struct pf_session *session = attach(&client);
    uint32_t old = listener(session, &client);
    uint32_t near[QUEUED];
    for (int i = 0; i < QUEUED; i++) {
        near[i] = connected(session, &client);
    }
    CHECK(RIG_SUBMIT(client.client, old, PF_OP_CLOSE, 0) > 0);
    serve(session, old);
    CHECK(stk_tcp_reset_some(1));
    port--;
    uint32_t next = listener(session, &client); /* the same port */
    uint32_t fresh = connected(session, &client);
    while (stk_tcp_reset_some(1)) {
    }
    run_frames();
    for (int i = 0; i < QUEUED; i++) {
        CHECK_EQ(session->socks[near[i]].phase, PF_SOCK_BROKEN);
        CHECK_EQ(session->socks[near[i]].error, ECONNRESET);
    }
    CHECK_EQ(session->socks[fresh].phase, PF_SOCK_CONNECTED);
    CHECK(stk_tcp_acceptable(session->socks[next].conn));
    detach(session, &client);
    run_frames();
}

int main(void) {
    char error[300] = "";
    struct pf_backend_config config = {.max_pcbs = 20000, .cpu = -1};
    check_random_init();
    check_watchdog(60);
    rig.backend = pf_backend_new(&config, error, sizeof(error));
    CHECK(rig.backend);
    CHECK_EQ(pf_backend_add_loopback(rig.backend, error, sizeof(error)), 0);
    rig.public_region = pf_backend_public(rig.backend);
    stk_adopt_thread();
    RUN(test_a_listener_of_a_busy_client);
    RUN(test_a_busy_socket_moves_later);
    RUN(test_a_claim_cannot_be_taken_back);
    RUN(test_one_who_accepts_goes);
    RUN(test_listeners_wait_for_room);
    RUN(test_the_address_of_a_closed_listener);
    rig_stop(&rig);
    return 0;
}
