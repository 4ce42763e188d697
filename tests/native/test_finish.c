/* The end of an application with many sockets is done in pieces, whatever it left to do: this
 * thread plays the stack thread, so that what one piece does can be counted. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "rig.h"

#include "backend/internal.h"
#include "client/internal.h"

enum { SOCKETS = 200, WORDS = 4 };

static struct rig rig;

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
    *client = rig_attach_with(&rig, &request);
    pf_commands_run(rig.backend);
    struct pf_session *session = pf_session_find(rig.backend, client->session);
    CHECK(session);
    return session;
}

/* Opened, bound, and more, and nothing of it looked at yet. */
static void speak(const struct rig_client *client) {
    for (int i = 0; i < SOCKETS; i++) {
        struct pf_addr any = rig_addr(0);
        uint32_t slot = rig_socket(client->client, PF_FAMILY_IPV4, 4096);
        CHECK(RIG_SUBMIT(client->client, slot, PF_OP_BIND, .addr = &any) > 0);
        CHECK(RIG_SUBMIT(client->client, slot, PF_OP_LISTEN, .length = 1) > 0);
        CHECK(RIG_SUBMIT(client->client, slot, PF_OP_NOP, 0) > 0);
    }
}

static void reap(struct pf_session *session) {
    pf_post_flush(rig.backend); /* as the loop does before */
    pf_session_reap(session);
    rig_notices(&rig);
}

static void part(struct rig_client *client) {
    pf_client_detach(client->client);
    (void)close(client->control[0]);
    (void)close(client->control[1]);
}

/* The last words are taken a few at a time, then the sockets are closed a few at a time. */
static void test_pieces_are_small(void) {
    struct rig_client client;
    struct pf_session *session = attach(&client);
    uint64_t before = operations();
    speak(&client);
    pf_session_finish(session, PF_ENDED_CLOSED);
    CHECK_EQ(operations(), before);
    CHECK(!session->dying);
    uint32_t pieces = 0;
    uint32_t closed = 0;
    while (session->finishing) {
        uint64_t operations_before = operations();
        uint32_t live_before = session->live_socks;
        (void)pf_session_finish_piece(rig.backend);
        CHECK(operations() - operations_before <= 1);
        if (session->live_socks < live_before) {
            CHECK_EQ(operations() - before, SOCKETS * WORDS); /* first the words, then the end */
            CHECK(live_before - session->live_socks <= PF_FINISH_PIECE);
            closed += live_before - session->live_socks;
        }
        pieces++;
    }
    CHECK_EQ(closed, SOCKETS);
    CHECK(pieces >= SOCKETS * (WORDS + 1) / PF_FINISH_PIECE);
    CHECK_EQ(session->live_socks, 0);
    CHECK(session->ended);
    reap(session);
    part(&client);
}

/* One that broke the protocol: not a word more. Also when it did so in its last words. */
static void test_violation_ends_the_words(void) {
    for (int spoken = 0; spoken < 2; spoken++) {
        struct rig_client client;
        struct pf_session *session = attach(&client);
        speak(&client);
        if (spoken) {
            pf_session_finish(session, PF_ENDED_CLOSED);
            (void)pf_session_finish_piece(rig.backend);
        }
        uint64_t before = operations();
        pf_session_finish(session, PF_ENDED_VIOLATION);
        CHECK(session->dying);
        pf_session_finish(session, PF_ENDED_CLOSED); /* its connection ends, too */
        while (pf_session_finish_piece(rig.backend)) {
        }
        CHECK_EQ(operations(), before);
        CHECK_EQ(session->live_socks, 0);
        CHECK_EQ(session->reason, PF_ENDED_VIOLATION);
        reap(session);
        part(&client);
    }
}

static uint32_t resident(void *memory, uint64_t bytes) {
    static unsigned char pages[4096];
    CHECK(bytes / 4096 < sizeof(pages));
    CHECK_EQ(mincore(memory, bytes, pages), 0);
    uint32_t count = 0;
    for (uint64_t page = 0; page < (bytes + 4095) / 4096; page++) {
        count += pages[page] & 1;
    }
    return count;
}

/* A session that may have many sockets costs no more than those it has, from its start to its end:
 * a forked child has one, and lives for as long as one connection. */
static void test_slots_cost_nothing_unused(void) {
    struct rig_client client;
    struct pf_session_request request = rig_request();
    request.max_sockets = 16384;
    client = rig_attach_with(&rig, &request);
    pf_commands_run(rig.backend);
    struct pf_session *session = pf_session_find(rig.backend, client.session);
    uint64_t theirs = request.max_sockets * sizeof(struct pf_bsock);
    uint64_t ours = request.max_sockets * sizeof(struct pf_sock);
    uint32_t slot = rig_socket(client.client, PF_FAMILY_IPV4, 4096);
    CHECK(RIG_SUBMIT(client.client, slot, PF_OP_NOP, 0) > 0);
    uint64_t before = operations();
    pf_session_finish(session, PF_ENDED_CLOSED);
    while (pf_session_finish_piece(rig.backend)) {
    }
    CHECK_EQ(operations() - before, 2); /* not looked at before: it counts all the same */
    CHECK(resident(client.client->socks, ours) <= 2);
    CHECK(resident(session->socks, theirs) <= 2);
    reap(session);
    part(&client);
}

/* Several at once. */
static void test_ends_overlap(void) {
    struct rig_client clients[3];
    struct pf_session *sessions[3];
    for (int i = 0; i < 3; i++) {
        sessions[i] = attach(&clients[i]);
        speak(&clients[i]);
        pf_session_finish(sessions[i], PF_ENDED_CLOSED);
        for (int piece = 0; piece < 20; piece++) {
            CHECK(pf_session_finish_piece(rig.backend));
        }
    }
    while (pf_session_finish_piece(rig.backend)) {
    }
    for (int i = 0; i < 3; i++) {
        CHECK(!sessions[i]->finishing);
        CHECK_EQ(sessions[i]->live_socks, 0);
        reap(sessions[i]);
        part(&clients[i]);
    }
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
    RUN(test_pieces_are_small);
    RUN(test_violation_ends_the_words);
    RUN(test_slots_cost_nothing_unused);
    RUN(test_ends_overlap);
    rig_stop(&rig);
    return 0;
}
