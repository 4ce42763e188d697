/* Index arithmetic of the single-producer single-consumer rings (SQ, CQ, receive ring).
 *
 * Indices run freely modulo 2^32; `entries` is a power of two. The producer writes an entry, then
 * publishes tail with release; the consumer reads tail with acquire, copies the entry, then
 * publishes head with release. Each side keeps its own index privately and never reads it back from
 * memory that the other side could have written. */
#ifndef PF_SHM_RING_H
#define PF_SHM_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/atomics.h"
#include "shm/layout.h"

static inline bool pf_is_power_of_two(uint64_t value) { return value && !(value & (value - 1)); }

/* Entries between head and tail. More than the ring holds means: the other side lied. */
static inline uint32_t pf_ring_used(uint32_t tail, uint32_t head) { return tail - head; }

static inline bool pf_ring_sane(uint32_t tail, uint32_t head, uint32_t entries) {
    return pf_ring_used(tail, head) <= entries;
}

/* PRODUCER: puts one submission. False: full. `known_head` is the head as last seen: the shared one
 * is asked only when the ring looks full by it, because the consumer writes it with every entry,
 * and each look would fetch the line from another core. */
static inline bool pf_sq_push(struct pf_sqe *ring, uint32_t entries, uint32_t *tail,
                              uint32_t *shared_tail, uint32_t *known_head,
                              const uint32_t *shared_head, const struct pf_sqe *entry) {
    if (pf_ring_used(*tail, *known_head) >= entries) {
        *known_head = pf_load_acquire(shared_head);
        if (pf_ring_used(*tail, *known_head) >= entries) {
            return false;
        }
    }
    ring[*tail & (entries - 1)] = *entry;
    *tail += 1;
    pf_store_release(shared_tail, *tail);
    return true;
}

/* CONSUMER: 1 one copied, 0 empty, -1 the producer's index is impossible. The entry is copied
 * exactly once: what is checked afterwards is what is acted on. */
static inline int pf_sq_pop(const struct pf_sqe *ring, uint32_t entries, uint32_t *head,
                            const uint32_t *shared_tail, uint32_t *shared_head,
                            struct pf_sqe *out) {
    uint32_t tail = pf_load_acquire(shared_tail);
    if (!pf_ring_sane(tail, *head, entries)) {
        return -1;
    }
    if (tail == *head) {
        return 0;
    }
    *out = ring[*head & (entries - 1)];
    /* The compiler may not go back to the ring for a second look. */
    __asm__ __volatile__("" : : "r"(out) : "memory");
    *head += 1;
    pf_store_release(shared_head, *head);
    return 1;
}

/* What the `lap` of a completion is at this position: different each time round, and never that of
 * memory still zero. So the entry itself says that it is there, in the line that the consumer needs
 * anyway; a shared tail would be one more line to fetch. */
static inline uint16_t pf_cq_lap(uint32_t position, uint32_t entries) {
    return (uint16_t)((position >> __builtin_ctz(entries)) + 1);
}

/* PRODUCER: `entries` is a power of two; the caller knows that there is room. */
static inline void pf_cq_put(struct pf_cqe *ring, uint32_t entries, uint32_t position,
                             const struct pf_cqe *entry) {
    struct pf_cqe *place = &ring[position & (entries - 1)];
    place->op_id = entry->op_id;
    place->result = entry->result;
    place->opcode = entry->opcode;
    place->flags = entry->flags;
    place->token = entry->token;
    place->completed_ns = entry->completed_ns;
    place->picked_ns = entry->picked_ns;
    place->addr = entry->addr;
    pf_store16_release(&place->lap, pf_cq_lap(position, entries));
}

/* CONSUMER: the completion at this position is there, and may be read. */
static inline bool pf_cq_ready(const struct pf_cqe *ring, uint32_t entries, uint32_t position) {
    return pf_load16_acquire(&ring[position & (entries - 1)].lap) == pf_cq_lap(position, entries);
}

/* In a completion: of which hint ring how many hints had been taken when it was written. */
static inline uint64_t pf_hints_taken(uint32_t priority, uint64_t position) {
    return position << 2 | priority;
}

#endif
