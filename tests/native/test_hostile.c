/* A client that breaks every rule: only it is ended, while a bystander goes on with every byte
 * right.
 *
 * PIFUS_FUZZ_SEED repeats a run (but for what the scheduler does), PIFUS_FUZZ_COUNT sets the number
 * of submissions that the backend must take up. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hostile_fuzz.h"
#include "raw_client.h"
#include "rig.h"

#ifdef __SANITIZE_THREAD__
#define DEFAULT_COUNT 150000 /* regions are mapped twice here, which TSan cannot see through */
#else
#define DEFAULT_COUNT 1050000
#endif
#define FLIPPED_SHARE 10 /* one in so many is taken up while another thread flips bytes */

static struct rig rig;
static struct raw_client raw;
static struct rig_client bystander;
static atomic_bool bystander_stop;
static atomic_ulong echoes;

/* ---- the bystander ---- */

static void *echo(void *unused) {
    struct rig_pair p = rig_connect(bystander.client, bystander.client, rig_addr(7), 0);
    static uint8_t out[5000];
    static uint8_t back[5000];
    uint64_t at = 0;
    (void)unused;
    while (!atomic_load(&bystander_stop)) {
        uint32_t length = 1 + (uint32_t)(at * 7 % sizeof(out));
        rig_fill(out, 11, at, length);
        rig_send_all(bystander.client, p.near, out, length);
        rig_recv_all(bystander.client, p.far, back, length);
        CHECK(!rig_differs(back, 11, at, length));
        rig_send_all(bystander.client, p.far, back, length);
        rig_recv_all(bystander.client, p.near, back, length);
        CHECK(!rig_differs(back, 11, at, length));
        at += length;
        atomic_fetch_add(&echoes, 1);
        rig_sleep_ms(at % 4 == 0);
    }
    rig_close(bystander.client, p.near, 0);
    rig_close(bystander.client, p.far, 0);
    return NULL;
}

static void bystander_lives(void) {
    unsigned long seen = atomic_load(&echoes);
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    CHECK_EQ(pf_client_ended(bystander.client), 0);
    while (atomic_load(&echoes) < seen + 2) {
        CHECK(pf_now_ns() < end);
        rig_sleep_ms(1);
    }
}

/* ---- one wrong thing at a time ---- */

static struct pf_sqe sqe_of(uint8_t opcode) {
    return (struct pf_sqe){.opcode = opcode,
                           .generation = raw.slots[0].generation,
                           .op_id = ++raw.next_op,
                           .length = 1};
}

/* A session with an open socket in slot 0. */
static void begin(void) {
    struct pf_session_request request = rig_request();
    request.arena_bytes = 131072;
    request.queue_depth = 8;
    raw_attach(&rig, &raw, &request);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4).result, 0);
}

static void look(void) {
    raw_hint(&raw, 0, PF_PRIORITY_MEDIUM);
    raw_ring(&raw);
}

static void expect_ended(const char *what) {
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    while (raw_ended(&raw) == PF_ENDED_NOT) {
        if (pf_now_ns() > end) {
            fprintf(stderr, "not ended: %s\n", what);
            CHECK(!"the client is ended");
        }
        rig_sleep_ms(1);
    }
    CHECK_EQ(raw_ended(&raw), PF_ENDED_VIOLATION);
    raw_detach(&rig, &raw, false);
    bystander_lives();
}

static void expect_alive(void) {
    struct pf_cqe cqe;
    uint64_t op = RAW_SUBMIT(&raw, 0, .opcode = PF_OP_NOP);
    raw_ring(&raw);
    do {
        cqe = raw_next(&raw, 0);
    } while (cqe.op_id != op);
    CHECK_EQ(raw_ended(&raw), 0);
    raw_detach(&rig, &raw, true);
    bystander_lives();
}

static void push_bad(struct pf_sqe sqe, const char *what) {
    CHECK(raw_push(&raw, 0, &sqe));
    look();
    expect_ended(what);
}

static void test_forged_indices(void) {
    static const uint32_t jumps[] = {9, 255, 65536, UINT32_C(1) << 31, UINT32_MAX - 100};
    for (size_t i = 0; i < sizeof(jumps) / sizeof(jumps[0]); i++) {
        for (int which = 0; which < 6; which++) {
            uint32_t jump = jumps[i];
            begin();
            struct pf_socket_c2b *c2b = raw_c2b(&raw, 0);
            uint32_t *words[] = {&c2b->sq_tail,
                                 &c2b->cq_head,
                                 &raw.control->hint_tail[1],
                                 &raw.control->event_head[0],
                                 &raw.control->hint_tail[0],
                                 &c2b->rx_tail};
            if (which == 2 || which == 4) {
                jump += raw.layout.hint_entries;
            } else if (which == 1) {
                jump += 16;
            } else if (which == 5) { /* looked at when the slot is taken again */
                CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_CLOSE).result, 0);
            }
            if (which == 3) {
                jump = UINT32_MAX - raw.layout.hint_entries - jump % 1000; /* ahead of the tail */
            }
            pf_store_release(words[which], *words[which] + jump);
            if (which == 5) {
                raw.slots[0].generation++;
            }
            struct pf_sqe sqe = sqe_of(which == 5 ? PF_OP_OPEN : PF_OP_NOP);
            if (which != 0) {
                CHECK(raw_push(&raw, 0, &sqe));
            }
            if (which != 2 && which != 4) {
                raw_hint(&raw, 0, PF_PRIORITY_LOW);
            }
            raw_ring(&raw);
            expect_ended("forged index");
        }
    }
}

static void test_forged_hints(void) {
    static const uint32_t slots[] = {32, 33, 65535, UINT32_C(1) << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        begin();
        raw.hints[2].ring[0] = slots[i];
        raw.hints[2].recent[0] = slots[i];
        pf_store_release(&raw.control->hint_tail[2], 1);
        raw_ring(&raw);
        expect_ended("hint for a slot that does not exist");
        begin(); /* four at once: read from the ring, not from the line of the tail */
        raw.hints[2].ring[3] = slots[i];
        pf_store_release(&raw.control->hint_tail[2], 4);
        raw_ring(&raw);
        expect_ended("hint in the ring for a slot that does not exist");
    }
    /* The same slot over and over, and empty slots, are only useless. */
    begin();
    for (int round = 0; round < 1000; round++) {
        for (uint32_t i = 0; i < 32; i++) {
            raw.hints[0].ring[i] = i;
        }
        pf_store_release(&raw.control->hint_tail[0], pf_load_relaxed(&raw.news->hint_head[0]) + 32);
        raw_ring(&raw);
    }
    expect_alive();
}

static void test_opcodes(void) {
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        if (opcode != PF_OP_INVALID && opcode < PF_OP_COUNT) {
            continue;
        }
        begin();
        push_bad(sqe_of((uint8_t)opcode), "unknown opcode");
    }
    begin();
    struct pf_sqe sqe = sqe_of(PF_OP_NOP);
    sqe.op_id = 0;
    push_bad(sqe, "operation id 0");
    for (uint32_t opcode = 1; opcode < PF_OP_COUNT; opcode++) {
        begin();
        sqe = sqe_of((uint8_t)opcode);
        sqe.generation += opcode == PF_OP_OPEN || opcode == PF_OP_ADOPT ? 1 : UINT32_MAX;
        push_bad(sqe, "wrong generation, or open of an open slot");
        begin();
        CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_CLOSE).result, 0);
        push_bad(sqe_of((uint8_t)opcode), "operation on an empty slot, or an old generation");
    }
    /* Fields that mean nothing to an operation. */
    begin();
    sqe = sqe_of(PF_OP_NOP);
    memset(&sqe.addr, 0xff, sizeof(sqe.addr));
    sqe.flags = 0xff;
    sqe.general = 0xffff;
    sqe.deadline_ns = UINT64_MAX;
    sqe.token = UINT64_MAX;
    sqe.offset = UINT32_MAX;
    sqe.length = UINT32_MAX;
    CHECK(raw_push(&raw, 0, &sqe));
    raw.slots[0].flying++;
    expect_alive();
}

static void test_write_edges(void) {
    static const struct {
        uint32_t offset;
        uint32_t length;
        bool inside;
    } cases[] = {{0, 1, true},
                 {0, 131072, true},
                 {131071, 1, true},
                 {65536, 65536, true},
                 {0, 0, false},
                 {131072, 0, false},
                 {131072, 1, false},
                 {131071, 2, false},
                 {0, 131073, false},
                 {1, 131072, false},
                 {UINT32_MAX, 1, false},
                 {UINT32_MAX, UINT32_MAX, false},
                 {1, UINT32_MAX, false},
                 {0, UINT32_MAX, false},
                 {0, PF_MAX_WRITE_BYTES + 1, false},
                 {UINT32_C(1) << 31, UINT32_C(1) << 31, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin();
        struct pf_sqe sqe = sqe_of(PF_OP_WRITE);
        sqe.offset = cases[i].offset;
        sqe.length = cases[i].length;
        if (cases[i].inside) {
            CHECK(raw_push(&raw, 0, &sqe));
            raw.slots[0].flying++;
            expect_alive();
        } else {
            push_bad(sqe, "write outside of the arena");
        }
    }
}

static void test_sendto_edges(void) {
    static const struct {
        uint32_t offset;
        uint32_t length;
        bool inside;
    } cases[] = {{0, 0, true},           {131072, 0, true},
                 {131071, 1, true},      {65536, 65535, true},
                 {131073, 0, false},     {131072, 1, false},
                 {0, 65536, false},      {65537, 65536, false},
                 {UINT32_MAX, 1, false}, {UINT32_MAX, UINT32_MAX, false},
                 {0, UINT32_MAX, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct pf_session_request request = rig_request();
        request.arena_bytes = 131072;
        raw_attach(&rig, &raw, &request);
        CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4,
                          .offset = PF_KIND_DATAGRAM)
                     .result,
                 0);
        struct pf_sqe sqe = sqe_of(PF_OP_SENDTO);
        sqe.offset = cases[i].offset;
        sqe.length = cases[i].length;
        sqe.addr = rig_addr(9);
        if (cases[i].inside) {
            CHECK(raw_push(&raw, 0, &sqe));
            raw.slots[0].flying++;
            expect_alive();
        } else {
            push_bad(sqe, "datagram outside of the arena");
        }
    }
}

/* A place in the receive ring that is inside of a datagram: only the client itself is confused. */
static void test_read_from_inside_a_datagram(void) {
    struct pf_session_request request = rig_request();
    raw_attach(&rig, &raw, &request);
    struct pf_addr addr = rig_addr(4000);
    CHECK_EQ(
        RAW_CALL(&raw, 0, .opcode = PF_OP_OPEN, .flags = PF_FAMILY_IPV4, .offset = PF_KIND_DATAGRAM)
            .result,
        0);
    memset(raw.c2b + raw.layout.c2b_arena, 0xff, 1000);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_BIND, .addr = addr).result, 0);
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_SENDTO, .length = 1000, .addr = addr).result, 1000);
    const struct pf_socket_b2c *b2c = raw_b2c(&raw, 0);
    uint64_t end = pf_now_ns() + (uint64_t)RIG_PATIENCE;
    uint32_t start = raw_c2b(&raw, 0)->rx_tail;
    while (pf_load_acquire(&b2c->rx_head) == start) {
        CHECK(pf_now_ns() < end);
        raw_ring(&raw);
    }
    pf_store_release(&raw_c2b(&raw, 0)->rx_tail, start + 72 + 16);
    struct pf_sqe sqe = sqe_of(PF_OP_RECV);
    push_bad(sqe, "receive from inside a datagram");
}

static void test_never_reaped(void) {
    begin();
    for (uint32_t i = 0; i < raw.layout.cq_depth + 1; i++) {
        struct pf_sqe sqe = sqe_of(PF_OP_NOP);
        while (!raw_push(&raw, 0, &sqe) && !raw_ended(&raw)) {
            look();
        }
        look();
    }
    expect_ended("more operations than the completion queue holds");
}

static void test_doorbell_storm(void) {
    begin();
    uint64_t most = UINT64_MAX - 1;
    (void)fcntl(raw.fds.doorbell, F_SETFL, 0); /* the file is shared: this is how it looks to all */
    uint64_t end = pf_now_ns() + 400000000;
    while (pf_now_ns() < end) {
        raw_ring(&raw);
    }
    bystander_lives();
    (void)fcntl(raw.fds.doorbell, F_SETFL, O_NONBLOCK);
    (void)!read(raw.fds.doorbell, &most, sizeof(most));
    most = UINT64_MAX - 1;
    ssize_t ignored = write(raw.fds.doorbell, &most, sizeof(most)); /* rings no more: EAGAIN */
    (void)ignored;
    expect_alive();
}

static void test_regions_are_sealed(void) {
    begin();
    CHECK_EQ(ftruncate(raw.fds.c2b, 4096), -1);
    CHECK_EQ(errno, EPERM);
    CHECK_EQ(ftruncate(raw.fds.c2b, (off_t)raw.fds.c2b_bytes * 2), -1);
    const int fds[] = {raw.fds.b2c, raw.fds.public_region};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(ftruncate(fds[i], 0), -1);
        CHECK_EQ(errno, EPERM);
        CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0) == MAP_FAILED);
        CHECK_EQ(errno, EPERM);
        CHECK_EQ(write(fds[i], "x", 1), -1);
        CHECK_EQ(errno, EPERM);
        CHECK_EQ(fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
        CHECK_EQ(errno, EPERM);
        CHECK_EQ(fcntl(fds[i], F_ADD_SEALS, F_SEAL_WRITE), -1);
    }
    CHECK_EQ(mprotect((void *)(uintptr_t)raw.b2c, 4096, PROT_READ | PROT_WRITE), -1);
    CHECK(madvise((void *)(uintptr_t)raw.b2c, 4096, MADV_REMOVE) != 0);
    for (uint64_t at = 0; at < raw.layout.c2b_bytes; at += 4096) {
        CHECK_EQ(madvise(raw.c2b + at, 4096, MADV_REMOVE), 0);
    }
    look();
    raw_detach(&rig, &raw, true); /* all indices are 0 now: whatever the backend makes of it */
    bystander_lives();
}

/* ---- a mirror descriptor that never runs dry ---- */

static atomic_bool flood_stop;

static void *flood(void *argument) {
    static const char filler[65536];
    while (!atomic_load(&flood_stop)) {
        ssize_t ignored = send(*(int *)argument, filler, sizeof(filler), MSG_DONTWAIT);
        (void)ignored;
    }
    return NULL;
}

static void test_mirror_flood(void) {
    int fd = -1;
    uint64_t id = 0;
    int much = 1 << 24;
    pthread_t threads[2];
    begin();
    CHECK_EQ(pf_session_mirrors(rig.backend, raw.session, 1, &fd, &id), 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &much, sizeof(much));
    atomic_store(&flood_stop, false);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, flood, &fd), 0);
    }
    CHECK_EQ(RAW_CALL(&raw, 0, .opcode = PF_OP_MIRROR, .token = id).result, 0);
    for (uint32_t i = 1; i < 200; i++) {
        pf_store_release(&raw_c2b(&raw, 0)->write_arm, i);
        look();
        rig_sleep_ms(1);
    }
    unsigned long seen = atomic_load(&echoes);
    uint64_t begun = pf_now_ns();
    while (atomic_load(&echoes) < seen + 2 && pf_now_ns() - begun < (uint64_t)(4 * RIG_SECOND)) {
        look();
        rig_sleep_ms(1);
    }
    CHECK(atomic_load(&echoes) >= seen + 2); /* while the flood goes on */
    atomic_store(&flood_stop, true);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    (void)close(fd);
    expect_alive();
}

/* ---- at random ---- */

static atomic_bool flip_stop;

/* Unsynchronised on purpose. */
__attribute__((no_sanitize("thread"))) static void *flip(void *argument) {
    struct fuzz *fuzz = argument;
    uint64_t state = check_seed | 1;
    while (!atomic_load(&flip_stop)) {
        (void)pthread_mutex_lock(&fuzz->lock);
        struct raw_client *r = &fuzz->raw;
        for (int i = 0; i < 200; i++) {
            uint64_t any = check_random_next(&state);
            uint64_t from = any % 16 ? r->layout.c2b_sq : 0;
            uint64_t to = any % 16 == 1 ? r->layout.c2b_bytes : r->layout.c2b_arena;
            volatile uint8_t *byte = r->c2b + from + check_random_next(&state) % (to - from);
            *byte = (uint8_t)(*byte ^ (1U << (any >> 32) % 8));
        }
        (void)pthread_mutex_unlock(&fuzz->lock);
    }
    return NULL;
}

static void fuzz_until(struct fuzz *fuzz, uint64_t count, uint32_t odds, uint32_t words) {
    unsigned long seen = atomic_load(&echoes);
    uint32_t idle = 0;
    while (fuzz->consumed < count) {
        uint64_t before = fuzz->consumed;
        fuzz_batch(fuzz, odds, words);
        idle = fuzz->consumed == before ? idle + 1 : 0;
        if (raw_ended(&fuzz->raw) || idle > 2 || fuzz_random(fuzz, 300) == 0) {
            fuzz_exchange(fuzz);
        }
    }
    CHECK(atomic_load(&echoes) > seen);
    bystander_lives();
}

static void test_fuzz(void) {
    static struct fuzz fuzz = {.rig = &rig, .lock = PTHREAD_MUTEX_INITIALIZER};
    const char *seed = getenv("PIFUS_FUZZ_SEED");
    const char *text = getenv("PIFUS_FUZZ_COUNT");
    uint64_t count = text ? strtoull(text, NULL, 10) : DEFAULT_COUNT;
    uint64_t chosen = seed ? strtoull(seed, NULL, 10) : check_seed;
    uint64_t begun = pf_now_ns();
    pthread_t thread;
    fuzz.state = chosen * UINT64_C(0x9e3779b97f4a7c15) | 1;
    printf("    PIFUS_FUZZ_SEED=%llu PIFUS_FUZZ_COUNT=%llu\n", (unsigned long long)chosen,
           (unsigned long long)count);
    fuzz_attach(&fuzz);
    fuzz_until(&fuzz, count / 2, 12, 12);
    fuzz_until(&fuzz, count - count / FLIPPED_SHARE, 200, 0); /* deeper: few violations */
    atomic_store(&flip_stop, false);
    CHECK_EQ(pthread_create(&thread, NULL, flip, &fuzz), 0);
    fuzz_until(&fuzz, count, 30, 30);
    atomic_store(&flip_stop, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    raw_detach(&rig, &fuzz.raw, true);
    printf("    %llu submissions taken up of %llu, %llu sessions, %llu ended, %lu echoes, %.1f s\n",
           (unsigned long long)fuzz.consumed, (unsigned long long)fuzz.pushed,
           (unsigned long long)fuzz.sessions, (unsigned long long)fuzz.violations,
           (unsigned long)atomic_load(&echoes), (double)(pf_now_ns() - begun) / 1e9);
}

int main(void) {
    pthread_t thread;
    check_random_init();
    check_watchdog(280);
    rig_start(&rig);
    struct rig_counts start = rig_counts(&rig);
    bystander = rig_attach(&rig);
    CHECK_EQ(pthread_create(&thread, NULL, echo, NULL), 0);
    RUN(test_forged_indices);
    RUN(test_forged_hints);
    RUN(test_opcodes);
    RUN(test_write_edges);
    RUN(test_sendto_edges);
    RUN(test_read_from_inside_a_datagram);
    RUN(test_never_reaped);
    RUN(test_doorbell_storm);
    RUN(test_regions_are_sealed);
    RUN(test_mirror_flood);
    RUN(test_fuzz);
    atomic_store(&bystander_stop, true);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    rig_detach(&rig, &bystander, PF_ENDED_CLOSED);
    rig_settle(&rig, &start);
    rig_stop(&rig);
    return 0;
}
