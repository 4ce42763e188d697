/* shm/hint_ring.h: hints are not lost, not doubled, and never overflow. */
#define _GNU_SOURCE
#include "shm/hint_ring.h"

#include <pthread.h>
#include <sched.h>

#include "check.h"

enum { SLOTS = 64, ENTRIES = 64, GUARDS = 4, GUARD_VALUE = 0x5a5a5a5a };

#define NEWS_ITEMS UINT32_C(1000000)
#define PING_PONGS UINT32_C(1000000)

struct hints {
    struct pf_hint_producer producer;
    pf_hint_mark marks[SLOTS];
    _Alignas(64) struct pf_hint_consumer consumer;
    _Alignas(64) uint32_t shared_tail;
    uint32_t recent[PF_HINT_RECENT];
    _Alignas(64) uint32_t shared_head;
    _Alignas(64) uint32_t memory[GUARDS + ENTRIES + GUARDS];
    /* What the hints are about: one counter per slot, written by the producer's side only. */
    _Alignas(64) uint32_t news[SLOTS];
    _Alignas(64) uint32_t seen[SLOTS];
    uint32_t finished;
};

static struct hints hints;

static void hints_init(uint32_t entries, uint64_t start) {
    memset(&hints, 0, sizeof(hints));
    for (int i = 0; i < GUARDS + ENTRIES + GUARDS; i++) {
        hints.memory[i] = GUARD_VALUE;
    }
    hints.shared_tail = hints.shared_head = (uint32_t)start;
    hints.producer = (struct pf_hint_producer){
        .tail = start,
        .entries = entries,
        .ring = hints.memory + GUARDS,
        .recent = hints.recent,
        .shared_tail = &hints.shared_tail,
        .shared_head = &hints.shared_head,
    };
    hints.consumer = (struct pf_hint_consumer){
        .head = (uint32_t)start,
        .entries = entries,
        .ring = hints.memory + GUARDS,
        .recent = hints.recent,
        .shared_tail = &hints.shared_tail,
        .shared_head = &hints.shared_head,
    };
}

static int push(uint32_t slot) { return pf_hint_push(&hints.producer, &hints.marks[slot], slot); }

static void check_guards(uint32_t entries) {
    for (uint32_t i = 0; i < GUARDS; i++) {
        CHECK_EQ(hints.memory[i], GUARD_VALUE);
    }
    for (uint32_t i = GUARDS + entries; i < GUARDS + ENTRIES + GUARDS; i++) {
        CHECK_EQ(hints.memory[i], GUARD_VALUE);
    }
}

static void test_dedupe(void) {
    uint32_t out[4] = {0};
    hints_init(4, 0);
    CHECK(!pf_hint_waiting(&hints.consumer));
    CHECK_EQ(pf_hint_pop(&hints.consumer, out, 4), 0);
    CHECK_EQ(push(0), 1);
    CHECK_EQ(push(0), 0);
    CHECK_EQ(push(3), 1);
    CHECK_EQ(push(0), 0);
    CHECK_EQ(push(3), 0);
    CHECK(pf_hint_waiting(&hints.consumer));
    CHECK_EQ(hints.shared_tail, 2);
    CHECK_EQ(pf_hint_pop(&hints.consumer, out, 1), 1);
    CHECK_EQ(out[0], 0);
    CHECK_EQ(push(3), 0); /* still outstanding */
    CHECK_EQ(push(0), 1); /* was taken */
    CHECK_EQ(pf_hint_pop(&hints.consumer, out, 4), 2);
    CHECK_EQ(out[0], 3);
    CHECK_EQ(out[1], 0);
    CHECK(!pf_hint_waiting(&hints.consumer));
    check_guards(4);
}

/* As many slots as entries: the ring can be full, never too small. */
static void random_against_model(uint32_t entries, uint64_t start) {
    uint32_t order[ENTRIES];
    uint32_t count = 0;
    bool outstanding[SLOTS] = {false};
    hints_init(entries, start);
    for (int step = 0; step < 100000; step++) {
        if (check_random(3)) {
            uint32_t slot = check_random(entries);
            CHECK_EQ(push(slot), outstanding[slot] ? 0 : 1);
            if (!outstanding[slot]) {
                outstanding[slot] = true;
                order[count++] = slot;
            }
        } else {
            uint32_t out[ENTRIES];
            uint32_t limit = 1 + check_random(entries);
            uint32_t expected = count < limit ? count : limit;
            CHECK_EQ(pf_hint_pop(&hints.consumer, out, limit), expected);
            for (uint32_t i = 0; i < expected; i++) {
                CHECK_EQ(out[i], order[i]);
                outstanding[out[i]] = false;
            }
            count -= expected;
            memmove(order, order + expected, count * sizeof(order[0]));
        }
        CHECK(hints.shared_tail - hints.shared_head <= entries);
    }
    check_guards(entries);
}

static void test_random(void) {
    static const uint64_t starts[] = {0, UINT32_MAX - 5000, (UINT64_C(1) << 32) - 1,
                                      (UINT64_C(7) << 32) - 100};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        for (uint32_t entries = 1; entries <= ENTRIES; entries *= 4) {
            random_against_model(entries, starts[i]);
        }
    }
}

static void test_all_slots_fill_the_ring(void) {
    hints_init(ENTRIES, UINT32_MAX - 10);
    for (int round = 0; round < 3; round++) {
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            CHECK_EQ(push(slot), 1);
        }
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            CHECK_EQ(push(slot), 0);
        }
        uint32_t out[ENTRIES];
        CHECK_EQ(pf_hint_pop(&hints.consumer, out, ENTRIES), ENTRIES);
        for (uint32_t i = 0; i < ENTRIES; i++) {
            CHECK_EQ(out[i], i);
        }
    }
    check_guards(ENTRIES);
}

/* A slot that was silent while the index went round must not look as if its hint were pending. */
static void test_stale_marks(void) {
    static const uint64_t distances[] = {1,
                                         63,
                                         (UINT64_C(1) << 31) - 1,
                                         UINT64_C(1) << 31,
                                         (UINT64_C(1) << 31) + 1,
                                         (UINT64_C(1) << 32) - 2,
                                         (UINT64_C(1) << 32) - 1,
                                         UINT64_C(1) << 32,
                                         (UINT64_C(1) << 32) + 1,
                                         UINT64_C(3) << 32};
    static const uint64_t starts[] = {0, 5, UINT32_MAX - 1, UINT32_MAX};
    for (size_t s = 0; s < sizeof(starts) / sizeof(starts[0]); s++) {
        for (size_t d = 0; d < sizeof(distances) / sizeof(distances[0]); d++) {
            uint32_t out[ENTRIES];
            hints_init(ENTRIES, starts[s]);
            CHECK_EQ(push(7), 1);
            CHECK_EQ(pf_hint_pop(&hints.consumer, out, 1), 1);
            /* So many hints of other slots came and went since. */
            hints.producer.tail += distances[d];
            hints.shared_tail = hints.shared_head = (uint32_t)hints.producer.tail;
            hints.consumer.head = (uint32_t)hints.producer.tail;
            CHECK_EQ(push(9), 1);
            CHECK_EQ(push(7), 1);
            CHECK_EQ(push(7), 0);
            CHECK_EQ(pf_hint_pop(&hints.consumer, out, ENTRIES), 2);
            CHECK_EQ(out[1], 7);
        }
    }
}

/* Who knows that the earlier hint was taken pushes again before that is published: twice as many
 * entries as slots are enough for that, and nothing is lost. */
static void test_known_taken(void) {
    uint32_t out[ENTRIES];
    hints_init(ENTRIES, UINT32_MAX - 20);
    for (int round = 0; round < 100; round++) {
        for (uint32_t slot = 0; slot < ENTRIES / 2; slot++) {
            CHECK_EQ(push(slot), 1);
            CHECK_EQ(push(slot), 0);
        }
        CHECK_EQ(pf_hint_take(&hints.consumer, out, ENTRIES), ENTRIES / 2);
        CHECK_EQ(push(0), 0); /* not told yet */
        pf_hint_learn(&hints.producer, hints.consumer.head);
        pf_hint_learn(&hints.producer, hints.consumer.head - 1); /* what came late */
        pf_hint_learn(&hints.producer, hints.producer.tail + 1); /* impossible */
        for (uint32_t slot = 0; slot < ENTRIES / 2; slot++) {
            CHECK_EQ(push(slot), 1);
            CHECK_EQ(push(slot), 0);
        }
        CHECK_EQ(hints.shared_tail - hints.shared_head, ENTRIES);
        pf_hint_publish(&hints.consumer);
        CHECK_EQ(pf_hint_pop(&hints.consumer, out, ENTRIES), ENTRIES / 2);
        for (uint32_t i = 0; i < ENTRIES / 2; i++) {
            CHECK_EQ(out[i], i);
        }
    }
    check_guards(ENTRIES);
}

/* Up to three hints come from the line of the tail, more from the ring; both say the same. */
static void test_recent(void) {
    for (uint32_t count = 1; count <= 2 * PF_HINT_RECENT; count++) {
        uint32_t out[ENTRIES];
        hints_init(ENTRIES, UINT32_MAX - 2);
        for (uint32_t i = 0; i < count; i++) {
            CHECK_EQ(push(i), 1);
        }
        bool from_line = count < PF_HINT_RECENT;
        for (uint32_t i = 0; i < PF_HINT_RECENT; i++) {
            hints.recent[i] += from_line ? 0 : 1000;
        }
        for (uint32_t i = 0; i < ENTRIES; i++) {
            hints.memory[GUARDS + i] += from_line ? 1000 : 0;
        }
        CHECK_EQ(pf_hint_pop(&hints.consumer, out, ENTRIES), (int)count);
        for (uint32_t i = 0; i < count; i++) {
            CHECK_EQ(out[i], i);
        }
    }
}

static void test_forged_tail(void) {
    static const uint32_t ahead[] = {ENTRIES + 1, ENTRIES + 2, 0x80000000, UINT32_MAX};
    for (size_t i = 0; i < sizeof(ahead) / sizeof(ahead[0]); i++) {
        uint32_t out[ENTRIES + 1];
        memset(out, 0xa5, sizeof(out));
        hints_init(ENTRIES, UINT32_MAX - 3);
        hints.shared_tail = hints.shared_head + ahead[i];
        CHECK_EQ(pf_hint_pop(&hints.consumer, out, ENTRIES + 1), -1);
        CHECK_EQ(out[0], 0xa5a5a5a5);
        CHECK_EQ(hints.shared_head, UINT32_MAX - 3);
        CHECK_EQ(hints.consumer.head, UINT32_MAX - 3);
        hints.shared_tail = hints.shared_head + ENTRIES; /* exactly full is possible */
        CHECK_EQ(pf_hint_pop(&hints.consumer, out, ENTRIES + 1), ENTRIES);
        CHECK_EQ(out[ENTRIES], 0xa5a5a5a5);
    }
}

/* The backend is the producer here, and never goes without the look at the head. */
static int push_fenced(uint32_t slot) {
    pf_full_fence();
    return pf_hint_push_fenced(&hints.producer, &hints.marks[slot], slot);
}

static void test_forged_head(void) {
    static const uint32_t offsets[] = {1, 2, 0x80000000, (uint32_t)-(ENTRIES + 1)};
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
        hints_init(ENTRIES, 1000);
        CHECK_EQ(push_fenced(1), 1);
        hints.shared_head = hints.shared_tail + offsets[i];
        CHECK_EQ(push_fenced(2), -1);
        CHECK_EQ(push_fenced(1), -1);
        CHECK_EQ(hints.shared_tail, 1001);
        CHECK_EQ(hints.producer.tail, 1001);
        CHECK_EQ(hints.marks[2], 0);
        check_guards(ENTRIES);
    }
    /* "Full" although so many hints cannot be outstanding: refused, nothing overwritten. */
    hints_init(ENTRIES, 1000);
    CHECK_EQ(push_fenced(1), 1);
    hints.shared_head = hints.shared_tail - ENTRIES;
    CHECK_EQ(push_fenced(2), -1);
    CHECK_EQ(push_fenced(1), 0);
    CHECK_EQ(hints.shared_tail, 1001);
    /* Going back and forth within what is possible harms the liar only. */
    hints.shared_head = hints.shared_tail;
    CHECK_EQ(push_fenced(1), 1);
    hints.shared_head = hints.shared_tail - 2;
    CHECK_EQ(push_fenced(1), 0);
    CHECK_EQ(push_fenced(2), 1);
    check_guards(ENTRIES);
}

/* Takes hints and looks at the slots. True when there was one. */
static bool look(uint32_t limit) {
    uint32_t out[ENTRIES];
    int count = pf_hint_pop(&hints.consumer, out, limit);
    CHECK(count >= 0);
    for (int i = 0; i < count; i++) {
        CHECK(out[i] < SLOTS);
        uint32_t news = pf_load_acquire(&hints.news[out[i]]);
        CHECK(news >= hints.seen[out[i]]);
        pf_store_release(&hints.seen[out[i]], news);
    }
    return count > 0;
}

static void *looking_thread(void *argument) {
    (void)argument;
    uint64_t random = 88172645463325252u;
    for (;;) {
        uint32_t finished = pf_load_acquire(&hints.finished);
        bool found = look(1 + (uint32_t)(check_random_next(&random) % ENTRIES));
        if (!found && finished) {
            return NULL;
        }
        if (!found) {
            (void)sched_yield();
        }
    }
}

static void publish(uint32_t slot) {
    pf_store_release(&hints.news[slot], hints.news[slot] + 1);
    int result = push(slot);
    CHECK(result == 0 || result == 1);
}

static void test_every_item_is_looked_at(void) {
    pthread_t thread;
    hints_init(ENTRIES, UINT32_MAX - NEWS_ITEMS / 4);
    CHECK_EQ(pthread_create(&thread, NULL, looking_thread, NULL), 0);
    for (uint32_t i = 0; i < NEWS_ITEMS; i++) {
        /* Few slots most of the time: that is where hints are left out. */
        publish(check_random(check_random(8) ? 2 : SLOTS));
    }
    pf_store_release(&hints.finished, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    uint64_t total = 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        CHECK_EQ(hints.seen[slot], hints.news[slot]);
        total += hints.seen[slot];
    }
    CHECK_EQ(total, NEWS_ITEMS);
}

static void *eager_thread(void *argument) {
    (void)argument;
    unsigned idle = 0;
    for (;;) {
        uint32_t finished = pf_load_acquire(&hints.finished);
        if (look(ENTRIES)) {
            idle = 0;
        } else if (finished) {
            return NULL;
        } else if (++idle % 256 == 0) {
            (void)sched_yield(); /* one core may be all there is */
        } else {
            pf_cpu_relax();
        }
    }
}

/* The last item of a burst falls on the moment at which the consumer takes the hint of the first
 * one. If its hint is lost, nobody ever looks, and the watchdog ends the test. */
static void test_ping_pong(void) {
    pthread_t thread;
    hints_init(ENTRIES, UINT32_MAX - PING_PONGS);
    CHECK_EQ(pthread_create(&thread, NULL, eager_thread, NULL), 0);
    for (uint32_t i = 0; i < PING_PONGS; i++) {
        publish(0);
        for (uint32_t pause = check_random(16); pause > 0; pause--) {
            pf_cpu_relax();
        }
        publish(0);
        unsigned idle = 0;
        while (pf_load_acquire(&hints.seen[0]) != hints.news[0]) {
            if (++idle % 256 == 0) {
                (void)sched_yield();
            }
        }
    }
    pf_store_release(&hints.finished, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

int main(void) {
    check_random_init();
    check_watchdog(60);
    RUN(test_dedupe);
    RUN(test_random);
    RUN(test_all_slots_fill_the_ring);
    RUN(test_stale_marks);
    RUN(test_known_taken);
    RUN(test_recent);
    RUN(test_forged_tail);
    RUN(test_forged_head);
    check_watchdog(60);
    RUN(test_every_item_is_looked_at);
    check_watchdog(60);
    RUN(test_ping_pong);
    return 0;
}
