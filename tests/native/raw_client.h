/* A client that trusts nobody and need not be trusted: it writes the regions by itself, so it sees
 * every completion as it is posted, and can break every rule. */
#ifndef PF_TESTS_RAW_CLIENT_H
#define PF_TESTS_RAW_CLIENT_H

#include <sys/mman.h>

#include "futex/doorbell.h"
#include "rig.h"
#include "shm/hint_ring.h"
#include "shm/region.h"
#include "shm/ring.h"

#ifndef RAW_SLOTS
#define RAW_SLOTS 32
#endif

struct raw_slot {
    uint32_t sq_tail;
    uint32_t sq_head;
    uint32_t cq_head;
    uint32_t rx_tail;
    uint32_t generation;
    uint32_t flying; /* submitted, no final completion seen */
    pf_hint_mark mark[PF_PRIORITIES];
};

struct raw_client {
    uint64_t session;
    struct pf_session_fds fds;
    struct pf_b2c_header layout;
    uint8_t *c2b;
    const uint8_t *b2c;
    const struct pf_public *public_region;
    struct pf_c2b_control *control;
    const struct pf_b2c_control *news;
    struct pf_hint_producer hints[PF_PRIORITIES];
    struct raw_slot slots[RAW_SLOTS];
    uint64_t next_op;
};

static inline struct pf_socket_c2b *raw_c2b(struct raw_client *raw, uint32_t slot) {
    return (struct pf_socket_c2b *)(raw->c2b + raw->layout.c2b_sockets) + slot;
}

static inline const struct pf_socket_b2c *raw_b2c(const struct raw_client *raw, uint32_t slot) {
    return (const struct pf_socket_b2c *)(raw->b2c + raw->layout.b2c_sockets) + slot;
}

static inline struct pf_sqe *raw_sq(struct raw_client *raw, uint32_t slot) {
    return (struct pf_sqe *)(raw->c2b + raw->layout.c2b_sq) + (size_t)slot * raw->layout.sq_depth;
}

static inline const struct pf_cqe *raw_cq(const struct raw_client *raw, uint32_t slot) {
    return (const struct pf_cqe *)(raw->b2c + raw->layout.b2c_cq) +
           (size_t)slot * raw->layout.cq_depth;
}

static inline uint32_t raw_ended(const struct raw_client *raw) {
    return pf_load_acquire(&raw->news->ended);
}

static inline void raw_attach(struct rig *rig, struct raw_client *raw,
                              const struct pf_session_request *request) {
    memset(raw, 0, sizeof(*raw));
    CHECK(request->max_sockets <= RAW_SLOTS);
    raw->session = rig_session(rig, request, &raw->fds);
    raw->c2b = pf_region_map(raw->fds.c2b, raw->fds.c2b_bytes, 1);
    raw->b2c = pf_region_map(raw->fds.b2c, raw->fds.b2c_bytes, 0);
    raw->public_region = pf_region_map(raw->fds.public_region, sizeof(struct pf_public), 0);
    CHECK(raw->c2b && raw->b2c && raw->public_region);
    memcpy(&raw->layout, raw->b2c, sizeof(raw->layout));
    raw->control = (struct pf_c2b_control *)raw->c2b;
    raw->news = (const struct pf_b2c_control *)(raw->b2c + raw->layout.b2c_control);
    for (int p = 0; p < PF_PRIORITIES; p++) {
        raw->hints[p] = (struct pf_hint_producer){
            .entries = raw->layout.hint_entries,
            .ring = (uint32_t *)(raw->c2b + raw->layout.c2b_hints) +
                    (size_t)p * raw->layout.hint_entries,
            .recent = &raw->control->hint_recent[p * PF_HINT_RECENT],
            .shared_tail = &raw->control->hint_tail[p],
            .shared_head = &raw->news->hint_head[p],
        };
    }
}

/* The mapping goes; the session is ended by whoever watches the control connection: `end`. */
static inline void raw_detach(struct rig *rig, struct raw_client *raw, bool end) {
    pf_region_unmap(raw->c2b, raw->fds.c2b_bytes);
    pf_region_unmap((void *)(uintptr_t)raw->b2c, raw->fds.b2c_bytes);
    pf_region_unmap((void *)(uintptr_t)raw->public_region, sizeof(struct pf_public));
    (void)close(raw->fds.c2b);
    (void)close(raw->fds.b2c);
    (void)close(raw->fds.public_region);
    (void)close(raw->fds.doorbell);
    if (end) {
        CHECK_EQ(pf_session_end(rig->backend, raw->session, PF_ENDED_CLOSED), 0);
    }
    rig_notices(rig);
}

static inline void raw_ring(struct raw_client *raw) {
    uint64_t one = 1;
    ssize_t written = write(raw->fds.doorbell, &one, sizeof(one));
    (void)written; /* EAGAIN: rung often enough */
}

static inline void raw_hint(struct raw_client *raw, uint32_t slot, int priority) {
    if (pf_hint_push(&raw->hints[priority], &raw->slots[slot].mark[priority], slot) > 0 &&
        pf_doorbell_must_ring(&raw->public_region->sleeping, (uint32_t)priority)) {
        raw_ring(raw);
    }
}

/* Puts the entry in as it is. False: the queue is full. */
static inline bool raw_push(struct raw_client *raw, uint32_t slot, const struct pf_sqe *sqe) {
    return pf_sq_push(raw_sq(raw, slot), raw->layout.sq_depth, &raw->slots[slot].sq_tail,
                      &raw_c2b(raw, slot)->sq_tail, &raw->slots[slot].sq_head,
                      &raw_b2c(raw, slot)->sq_head, sqe);
}

/* Fills in generation and op_id, and hints. The op_id. */
static inline uint64_t raw_submit(struct raw_client *raw, uint32_t slot, struct pf_sqe sqe) {
    if (sqe.opcode == PF_OP_OPEN || sqe.opcode == PF_OP_ADOPT) {
        raw->slots[slot].generation++;
    }
    sqe.generation = raw->slots[slot].generation;
    sqe.op_id = ++raw->next_op;
    CHECK(raw_push(raw, slot, &sqe));
    raw->slots[slot].flying++;
    raw_hint(raw, slot, PF_PRIORITY_MEDIUM);
    return sqe.op_id;
}

#define RAW_SUBMIT(raw, slot, ...) raw_submit(raw, slot, (struct pf_sqe){__VA_ARGS__})

/* 1: a completion; 0: none now. */
static inline int raw_reap(struct raw_client *raw, uint32_t slot, struct pf_cqe *out) {
    struct raw_slot *own = &raw->slots[slot];
    if (!pf_cq_ready(raw_cq(raw, slot), raw->layout.cq_depth, own->cq_head)) {
        return 0;
    }
    *out = raw_cq(raw, slot)[own->cq_head & (raw->layout.cq_depth - 1)];
    own->cq_head++;
    pf_store_release(&raw_c2b(raw, slot)->cq_head, own->cq_head);
    if (!(out->flags & PF_CQE_MORE)) {
        CHECK(own->flying > 0);
        own->flying--;
    }
    return 1;
}

/* Waits for the next completion of the slot. */
static inline struct pf_cqe raw_next(struct raw_client *raw, uint32_t slot) {
    struct pf_cqe cqe;
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    while (!raw_reap(raw, slot, &cqe)) {
        CHECK(pf_now_ns() < end);
        CHECK_EQ(raw_ended(raw), 0);
        struct timespec pause = {0, 20000};
        (void)nanosleep(&pause, NULL);
    }
    return cqe;
}

/* Submits, and waits for the completion of just this. */
#define RAW_CALL(raw, slot, ...) raw_call(raw, slot, (struct pf_sqe){__VA_ARGS__})
static inline struct pf_cqe raw_call(struct raw_client *raw, uint32_t slot, struct pf_sqe sqe) {
    uint64_t op = raw_submit(raw, slot, sqe);
    struct pf_cqe cqe = raw_next(raw, slot);
    CHECK_EQ(cqe.op_id, op);
    CHECK_EQ(cqe.opcode, sqe.opcode);
    return cqe;
}

/* What a client does that takes a slot again: its receive ring is level. */
static inline void raw_level(struct raw_client *raw, uint32_t slot) {
    raw->slots[slot].rx_tail = pf_load_acquire(&raw_b2c(raw, slot)->rx_head);
    pf_store_release(&raw_c2b(raw, slot)->rx_tail, raw->slots[slot].rx_tail);
}

#endif
