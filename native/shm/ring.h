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

/* PRODUCER: puts one submission. False: full. */
static inline bool pf_sq_push(struct pf_sqe *ring, uint32_t entries, uint32_t *tail,
                              uint32_t *shared_tail, const uint32_t *shared_head,
                              const struct pf_sqe *entry) {
    if (pf_ring_used(*tail, pf_load_acquire(shared_head)) >= entries) {
        return false;
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

#endif
