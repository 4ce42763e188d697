/* Hint rings: "look at slot n". One hint per slot is outstanding at most, so a ring with at least
 * as many entries as slots never overflows.
 *
 * Rule of the producer: publish what there is to see (release), then pf_hint_push. It does nothing
 * when an earlier hint for the slot has not been consumed yet. Rule of the consumer: pf_hint_pop,
 * and only afterwards look at the slots it names.
 *
 * Why no hint is lost: the producer writes its news and then reads head; the consumer writes head
 * and then reads the news; a full fence stands between on both sides. So either the producer sees
 * that the earlier hint is gone, and pushes a new one, or the consumer sees the news. (Dekker's
 * pattern; checked in tests/native/models/hint_ring.pml.) */
#ifndef PF_SHM_HINT_RING_H
#define PF_SHM_HINT_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/atomics.h"

/* The producer's private side. Positions are 64 bits wide, so that one from long ago is never taken
 * for a pending one after the 32-bit index wrapped. */
struct pf_hint_producer {
    uint64_t tail;
    uint32_t entries;
    uint32_t *ring;
    uint32_t *shared_tail;
    const uint32_t *shared_head;
};

/* Per slot, private to the producer: one past the position of its last hint; 0: none yet. */
typedef uint64_t pf_hint_mark;

/* 1: a new hint was published; 0: one is still outstanding; -1: the consumer's index is impossible.
 */
static inline int pf_hint_push(struct pf_hint_producer *producer, pf_hint_mark *mark,
                               uint32_t slot) {
    pf_full_fence();
    uint32_t used = (uint32_t)producer->tail - pf_load_acquire(producer->shared_head);
    if (used > producer->entries) {
        return -1;
    }
    uint64_t head = producer->tail - used;
    if (*mark > head) {
        return 0;
    }
    if (used == producer->entries) {
        return -1;
    }
    pf_store_relaxed(&producer->ring[(uint32_t)producer->tail & (producer->entries - 1)], slot);
    producer->tail += 1;
    *mark = producer->tail;
    pf_store_release(producer->shared_tail, (uint32_t)producer->tail);
    return 1;
}

struct pf_hint_consumer {
    uint32_t head;
    uint32_t entries;
    const uint32_t *ring;
    const uint32_t *shared_tail;
    uint32_t *shared_head;
};

static inline bool pf_hint_waiting(const struct pf_hint_consumer *consumer) {
    return pf_load_relaxed(consumer->shared_tail) != consumer->head;
}

/* Takes up to `limit` hints, without saying so to the producer yet: until pf_hint_publish it pushes
 * no other hint for these slots. Returns how many, or -1 when the producer's index is impossible.
 * The caller checks the slot numbers. */
static inline int pf_hint_take(struct pf_hint_consumer *consumer, uint32_t *slots, uint32_t limit) {
    uint32_t tail = pf_load_acquire(consumer->shared_tail);
    uint32_t used = tail - consumer->head;
    if (used > consumer->entries) {
        return -1;
    }
    if (used == 0) {
        return 0;
    }
    uint32_t count = used < limit ? used : limit;
    for (uint32_t i = 0; i < count; i++) {
        slots[i] = pf_load_relaxed(&consumer->ring[(consumer->head + i) & (consumer->entries - 1)]);
    }
    consumer->head += count;
    return (int)count;
}

/* After this, look at the slots that were taken: also if they have been looked at before. */
static inline void pf_hint_publish(struct pf_hint_consumer *consumer) {
    pf_store_fence(consumer->shared_head, consumer->head);
}

/* Takes and publishes: now look at the slots. */
static inline int pf_hint_pop(struct pf_hint_consumer *consumer, uint32_t *slots, uint32_t limit) {
    int count = pf_hint_take(consumer, slots, limit);
    if (count > 0) {
        pf_hint_publish(consumer);
    }
    return count;
}

#endif
