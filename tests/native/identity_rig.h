/* Two sessions of one backend, and mirror descriptors that both hold. */
#ifndef PF_TESTS_IDENTITY_RIG_H
#define PF_TESTS_IDENTITY_RIG_H

#include <pthread.h>
#include <sys/socket.h>

#include "rig.h"

static struct rig rig;
static struct rig_client one;
static struct rig_client two;
static uint16_t port = 2000;

static inline int mirror_of(const struct rig_client *client, uint32_t slot) {
    int fd = -1;
    uint64_t id = 0;
    CHECK_EQ(pf_session_mirrors(rig.backend, client->session, 1, &fd, &id), 0);
    CHECK_EQ(pf_mirror_attach(client->client, slot, id, fd), 0);
    CHECK_EQ(RIG_CALL(client->client, slot, PF_OP_NOP, 0), 0);
    return fd;
}

static inline uint64_t ticket_of(uint64_t session, int fd) {
    uint64_t ticket = 0;
    CHECK_EQ(pf_session_show(rig.backend, session, fd, &ticket), 0);
    return ticket;
}

/* The slot, or -errno. */
static inline int try_claim(const struct rig_client *client, uint64_t ticket, int fd) {
    struct pf_done done;
    uint64_t op = 0;
    int slot = pf_socket_claim(client->client, ticket, PF_PRIORITY_MEDIUM, fd, &op);
    if (slot < 0) {
        return slot;
    }
    int32_t result = rig_await(client->client, (uint32_t)slot, (int64_t)op, &done);
    if (result < 0) {
        CHECK_EQ(pf_socket_release(client->client, (uint32_t)slot, 0), 0);
        return result;
    }
    return slot;
}

static inline uint32_t claim(const struct rig_client *client, int fd) {
    int slot = try_claim(client, ticket_of(client->session, fd), fd);
    CHECK(slot >= 0);
    return (uint32_t)slot;
}

static inline void let_go(const struct rig_client *client, uint32_t slot) {
    CHECK_EQ(pf_socket_release(client->client, slot, PF_CLOSE_SHARED), 0);
}

static inline void send_range(const struct rig_client *client, uint32_t slot, uint64_t at,
                              uint32_t length) {
    uint8_t *data = malloc(length + 1U);
    CHECK(data);
    rig_fill(data, 5, at, length);
    rig_send_all(client->client, slot, data, length);
    free(data);
}

static inline void expect_range(const struct rig_client *client, uint32_t slot, uint64_t at,
                                uint32_t length) {
    uint8_t *data = malloc(length + 1U);
    CHECK(data);
    rig_recv_all(client->client, slot, data, length);
    CHECK(!rig_differs(data, 5, at, length));
    free(data);
}

static inline void expect_end(const struct rig_client *client, uint32_t slot) {
    uint8_t byte;
    CHECK_EQ(pf_recv(client->client, slot, &byte, 1, 0, RIG_PATIENCE), 0);
}

static inline void await_word(const uint64_t *word, uint64_t wanted) {
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    while (rig_count(word) != wanted) {
        CHECK(pf_now_ns() < end);
        rig_sleep_ms(1);
    }
}

#endif
