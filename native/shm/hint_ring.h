/* Hint rings: "look at slot n". One hint per slot is untaken at most, and one more taken but not
 * yet published as taken, so a ring with at least twice as many entries as slots never overflows.
 *
 * Rule of the producer: publish what there is to see (release), then pf_hint_push. It does nothing
 * when an earlier hint for the slot has not been consumed yet. Rule of the consumer: pf_hint_pop,
 * and only afterwards look at the slots it names.
 *
 * Why no hint is lost: the producer writes its news and then reads head; the consumer writes head
 * and then reads the news; a full fence stands between on both sides. So either the producer sees
 * that the earlier hint is gone, and pushes a new one, or the consumer sees the news. (Dekker's
 * pattern; checked in tests/native/models/hint_ring.pml.) A hint too many does no harm, so whoever
 * knows from elsewhere that the consumer took the earlier one pushes without fence and look: the
 * consumer publishes what it took before it takes more, which bounds the hints of a slot to two.
 *
 * The latest hints also stand in the line of the tail (`recent`), because the consumer polls that
 * line: where hints are few it needs no other. An entry there is written after the tail that
 * precedes it by PF_HINT_RECENT was published: a consumer that then finds the tail no further than
 * PF_HINT_RECENT - 1 ahead has read what belonged there. */
#ifndef PF_SHM_HINT_RING_H
#define PF_SHM_HINT_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/atomics.h"

#define PF_HINT_RECENT 4U

/* The producer's private side. Positions are 64 bits wide, so that one from long ago is never taken
 * for a pending one after the 32-bit index wrapped. */
struct pf_hint_producer {
    uint64_t tail;
    uint64_t known_taken; /* of the hints before this position the consumer has taken all */
    uint32_t entries;
    uint32_t *ring;
    uint32_t *recent; /* PF_HINT_RECENT words beside the tail */
    uint32_t *shared_tail;
    const uint32_t *shared_head;
};

/* Per slot, private to the producer: one past the position of its last hint; 0: none yet. */
typedef uint64_t pf_hint_mark;

/* Puts the hint where the consumer finds it. */
static inline int pf_hint_put(struct pf_hint_producer *producer, pf_hint_mark *mark,
                              uint32_t slot) {
    uint32_t position = (uint32_t)producer->tail;
    pf_store_relaxed(&producer->ring[position & (producer->entries - 1)], slot);
    pf_store_release(&producer->recent[position % PF_HINT_RECENT], slot);
    producer->tail += 1;
    *mark = producer->tail;
    pf_store_release(producer->shared_tail, (uint32_t)producer->tail);
    return 1;
}

/* After a full fence of the caller's. 1: a new hint was published; 0: one is still outstanding; -1:
 * the consumer's index is impossible. */
static inline int pf_hint_push_fenced(struct pf_hint_producer *producer, pf_hint_mark *mark,
                                      uint32_t slot) {
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
    return pf_hint_put(producer, mark, slot);
}

/* The same with the fence, and without both where they are not needed. */
static inline int pf_hint_push(struct pf_hint_producer *producer, pf_hint_mark *mark,
                               uint32_t slot) {
    if (*mark <= producer->known_taken) {
        return pf_hint_put(producer, mark, slot);
    }
    pf_full_fence();
    return pf_hint_push_fenced(producer, mark, slot);
}

/* The consumer says otherwise than by its head that it took all hints before this position. */
static inline void pf_hint_learn(struct pf_hint_producer *producer, uint64_t taken) {
    if (taken > producer->known_taken && taken <= producer->tail) {
        producer->known_taken = taken;
    }
}

struct pf_hint_consumer {
    uint64_t head;
    uint32_t entries;
    const uint32_t *ring;
    const uint32_t *recent;
    const uint32_t *shared_tail;
    uint32_t *shared_head;
};

static inline bool pf_hint_waiting(const struct pf_hint_consumer *consumer) {
    return pf_load_relaxed(consumer->shared_tail) != (uint32_t)consumer->head;
}

/* Copies `count` hints, which are there, out of the line of the tail. False: they have been, or are
 * being, overwritten. */
static inline bool pf_hint_recent(const struct pf_hint_consumer *consumer, uint32_t *slots,
                                  uint32_t count) {
    uint32_t head = (uint32_t)consumer->head;
    if (count >= PF_HINT_RECENT) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        slots[i] = pf_load_acquire(&consumer->recent[(head + i) % PF_HINT_RECENT]);
    }
    return pf_load_relaxed(consumer->shared_tail) - head < PF_HINT_RECENT;
}

/* Takes up to `limit` hints, without saying so to the producer yet: until pf_hint_publish it pushes
 * no other hint for these slots. Returns how many, or -1 when the producer's index is impossible.
 * The caller checks the slot numbers. */
static inline int pf_hint_take(struct pf_hint_consumer *consumer, uint32_t *slots, uint32_t limit) {
    uint32_t head = (uint32_t)consumer->head;
    uint32_t used = pf_load_acquire(consumer->shared_tail) - head;
    if (used > consumer->entries) {
        return -1;
    }
    if (used == 0) {
        return 0;
    }
    uint32_t count = used < limit ? used : limit;
    if (!pf_hint_recent(consumer, slots, count)) {
        for (uint32_t i = 0; i < count; i++) {
            slots[i] = pf_load_relaxed(&consumer->ring[(head + i) & (consumer->entries - 1)]);
        }
    }
    consumer->head += count;
    return (int)count;
}

/* After this, look at the slots that were taken: also if they have been looked at before. */
static inline void pf_hint_publish(struct pf_hint_consumer *consumer) {
    pf_store_fence(consumer->shared_head, (uint32_t)consumer->head);
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
