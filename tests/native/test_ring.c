/* shm/ring.h: the submission ring between two threads, at its edges and against a lying peer. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>

#ifdef __SANITIZE_THREAD__
/* gcc expands a small memcpy inline and does not tell ThreadSanitizer: a missing acquire or release
 * would stay unseen. These loads and stores it does see. */
static inline void copy_seen_by_tsan(void *to, const void *from, size_t bytes) {
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++) {
        ((uint64_t *)to)[i] = ((const uint64_t *)from)[i];
    }
}
#define __builtin_memcpy(to, from, bytes) copy_seen_by_tsan((to), (from), (bytes))
#endif

#include "shm/ring.h"

#include <pthread.h>
#include <sched.h>

#include "check.h"

enum { MAX_ENTRIES = 64, GUARDS = 2, THREAD_ENTRIES = 8 };

#define THREAD_OPERATIONS UINT64_C(2000000)

struct ring {
    uint32_t entries;
    uint32_t tail;
    uint32_t head;
    uint32_t padding[13];
    uint32_t known_head;
    _Alignas(64) uint32_t shared_tail;
    _Alignas(64) uint32_t shared_head;
    /* Guards on both sides: a wrong mask writes there. */
    _Alignas(64) struct pf_sqe memory[GUARDS + MAX_ENTRIES + GUARDS];
};

static uint64_t mix(uint64_t value) {
    value ^= value >> 31;
    value *= UINT64_C(0x7fb5d329728ea185);
    value ^= value >> 27;
    return value;
}

static void fill(struct pf_sqe *entry, uint64_t number) {
    memset(entry, 0, sizeof(*entry));
    entry->opcode = (uint8_t)(1 + number % (PF_OP_COUNT - 1));
    entry->generation = (uint32_t)mix(number);
    entry->op_id = number;
    entry->token = mix(number + 1);
    entry->offset = (uint32_t)mix(number + 2);
    entry->length = (uint32_t)mix(number + 3);
    entry->addr.port = (uint16_t)number;
    memcpy(entry->addr.ip, &entry->token, sizeof(entry->token));
    entry->deadline_ns = mix(number + 4);
}

static void check_entry(const struct pf_sqe *entry, uint64_t number) {
    struct pf_sqe expected;
    fill(&expected, number);
    CHECK_EQ(entry->op_id, number);
    CHECK(memcmp(entry, &expected, sizeof(expected)) == 0);
}

static struct pf_sqe *slots(struct ring *ring) { return ring->memory + GUARDS; }

static void ring_init(struct ring *ring, uint32_t entries, uint32_t start) {
    memset(ring, 0, sizeof(*ring));
    memset(ring->memory, 0xa5, sizeof(ring->memory));
    ring->entries = entries;
    ring->tail = ring->head = ring->shared_tail = ring->shared_head = start;
    ring->known_head = start;
}

static bool push(struct ring *ring, uint64_t number) {
    struct pf_sqe entry;
    fill(&entry, number);
    return pf_sq_push(slots(ring), ring->entries, &ring->tail, &ring->shared_tail,
                      &ring->known_head, &ring->shared_head, &entry);
}

static int pop(struct ring *ring, struct pf_sqe *out) {
    return pf_sq_pop(slots(ring), ring->entries, &ring->head, &ring->shared_tail,
                     &ring->shared_head, out);
}

static void check_untouched(const void *memory, size_t bytes) {
    const uint8_t *byte = memory;
    for (size_t i = 0; i < bytes; i++) {
        CHECK_EQ(byte[i], 0xa5);
    }
}

static void check_guards(const struct ring *ring) {
    check_untouched(ring->memory, GUARDS * sizeof(struct pf_sqe));
    check_untouched(ring->memory + GUARDS + ring->entries,
                    sizeof(ring->memory) - (GUARDS + ring->entries) * sizeof(struct pf_sqe));
}

static void test_arithmetic(void) {
    CHECK(!pf_is_power_of_two(0));
    CHECK(pf_is_power_of_two(1));
    CHECK(!pf_is_power_of_two(3));
    CHECK(pf_is_power_of_two(UINT64_C(1) << 63));
    CHECK(!pf_is_power_of_two((UINT64_C(1) << 32) + 1));
    CHECK_EQ(pf_ring_used(2, UINT32_MAX - 1), 4);
    CHECK(pf_ring_sane(7, 7, 8));
    CHECK(pf_ring_sane(3, UINT32_MAX - 4, 8));
    CHECK(!pf_ring_sane(4, UINT32_MAX - 4, 8));
    CHECK(!pf_ring_sane(6, 7, 8));
}

static void test_empty_and_full(void) {
    static const uint32_t starts[] = {0, 5, 0x7ffffffe, UINT32_MAX - 2, UINT32_MAX};
    for (size_t s = 0; s < sizeof(starts) / sizeof(starts[0]); s++) {
        for (uint32_t entries = 1; entries <= MAX_ENTRIES; entries *= 2) {
            struct ring ring;
            struct pf_sqe out;
            ring_init(&ring, entries, starts[s]);
            memset(&out, 0xa5, sizeof(out));
            CHECK_EQ(pop(&ring, &out), 0);
            check_untouched(&out, sizeof(out));
            for (uint32_t i = 0; i < entries; i++) {
                CHECK(push(&ring, i));
                CHECK_EQ(ring.shared_tail, starts[s] + i + 1);
            }
            CHECK(!push(&ring, 999));
            CHECK_EQ(ring.shared_tail, starts[s] + entries);
            CHECK_EQ(ring.tail, starts[s] + entries);
            for (uint32_t i = 0; i < entries; i++) {
                CHECK_EQ(pop(&ring, &out), 1);
                check_entry(&out, i);
                CHECK_EQ(ring.shared_head, starts[s] + i + 1);
                CHECK(push(&ring, entries + i));
                CHECK(!push(&ring, 999));
            }
            check_guards(&ring);
        }
    }
}

static void test_random_against_model(void) {
    struct ring ring;
    ring_init(&ring, 16, UINT32_MAX - 1000);
    uint64_t pushed = 0;
    uint64_t popped = 0;
    while (popped < 200000) {
        if (check_random(2)) {
            CHECK_EQ(push(&ring, pushed), pushed - popped < 16);
            pushed += pushed - popped < 16;
        } else {
            struct pf_sqe out;
            CHECK_EQ(pop(&ring, &out), pushed > popped);
            if (pushed > popped) {
                check_entry(&out, popped++);
            }
        }
    }
    check_guards(&ring);
}

/* The producer is a client: its tail may be anything. */
static void test_impossible_tail(void) {
    static const uint32_t heads[] = {0, 100, UINT32_MAX - 3};
    for (size_t h = 0; h < sizeof(heads) / sizeof(heads[0]); h++) {
        static const uint32_t ahead[] = {17, 18, 1000, 0x80000000, UINT32_MAX};
        for (size_t a = 0; a < sizeof(ahead) / sizeof(ahead[0]); a++) {
            struct ring ring;
            struct pf_sqe out;
            ring_init(&ring, 16, heads[h]);
            memset(&out, 0xa5, sizeof(out));
            ring.shared_tail = heads[h] + ahead[a];
            CHECK_EQ(pop(&ring, &out), -1);
            check_untouched(&out, sizeof(out));
            CHECK_EQ(ring.head, heads[h]);
            CHECK_EQ(ring.shared_head, heads[h]);
            ring.shared_tail = heads[h] + 16; /* exactly full is possible */
            CHECK_EQ(pop(&ring, &out), 1);
        }
    }
}

/* The consumer may lie as well: nothing may be overwritten that it has not taken. */
static void test_impossible_head(void) {
    static const uint32_t forged[] = {1, 1000, 0x80000000, UINT32_MAX - 16};
    for (size_t i = 0; i < sizeof(forged) / sizeof(forged[0]); i++) {
        struct ring ring;
        ring_init(&ring, 16, 7);
        for (uint64_t number = 0; number < 16; number++) {
            CHECK(push(&ring, number));
        }
        ring.shared_head = ring.tail + forged[i];
        CHECK(!push(&ring, 16));
        CHECK_EQ(ring.shared_tail, 23);
        check_guards(&ring);
    }
}

/* A completion is there when its lap says so, and only then: not in zeroed memory, not one lap
 * later, not after the position wrapped. */
static void test_completion_laps(void) {
    static struct pf_cqe ring[16];
    static const uint32_t starts[] = {0, 16, 16 * 65534, UINT32_MAX - 40};
    for (size_t s = 0; s < sizeof(starts) / sizeof(starts[0]); s++) {
        uint32_t position = starts[s] & ~UINT32_C(15);
        memset(ring, 0, sizeof(ring));
        if (position >= 16) { /* what the lap before has left */
            for (uint32_t i = 0; i < 16; i++) {
                ring[i].lap = pf_cq_lap(position - 16, 16);
            }
        }
        for (uint32_t i = 0; i < 100; i++, position++) {
            struct pf_cqe entry = {.op_id = i, .result = -5, .opcode = 3, .flags = 1, .token = 9};
            CHECK(!pf_cq_ready(ring, 16, position));
            pf_cq_put(ring, 16, position, &entry);
            CHECK(pf_cq_ready(ring, 16, position));
            CHECK(!pf_cq_ready(ring, 16, position + 16));
            CHECK(!pf_cq_ready(ring, 16, position - 16));
            entry.lap = ring[position & 15].lap;
            CHECK(memcmp(&entry, &ring[position & 15], sizeof(entry)) == 0);
        }
    }
}

static void *consumer_thread(void *argument) {
    struct ring *ring = argument;
    for (uint64_t number = 0; number < THREAD_OPERATIONS;) {
        struct pf_sqe out;
        int result = pop(ring, &out);
        CHECK(result >= 0);
        if (result == 0) {
            (void)sched_yield();
            continue;
        }
        check_entry(&out, number++);
    }
    return NULL;
}

static void test_two_threads(void) {
    static struct ring ring;
    /* Crosses the wrap of the index in the middle of the run. */
    ring_init(&ring, THREAD_ENTRIES, (uint32_t)(0 - THREAD_OPERATIONS / 2));
    pthread_t consumer;
    CHECK_EQ(pthread_create(&consumer, NULL, consumer_thread, &ring), 0);
    for (uint64_t number = 0; number < THREAD_OPERATIONS;) {
        if (push(&ring, number)) {
            number++;
        } else {
            (void)sched_yield();
        }
    }
    CHECK_EQ(pthread_join(consumer, NULL), 0);
    CHECK_EQ(ring.shared_head, ring.shared_tail);
    check_guards(&ring);
}

int main(void) {
    check_random_init();
    check_watchdog(240);
    RUN(test_arithmetic);
    RUN(test_empty_and_full);
    RUN(test_random_against_model);
    RUN(test_impossible_tail);
    RUN(test_impossible_head);
    RUN(test_completion_laps);
    RUN(test_two_threads);
    return 0;
}
