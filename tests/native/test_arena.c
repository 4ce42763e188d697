/* shm/arena.h: the buddy allocator against a model that knows the owner of every unit. */
#define _GNU_SOURCE
#include "shm/arena.h"

#include <errno.h>

#include "check.h"

#define UNIT UINT32_C(256)
#define LARGEST (UINT32_C(1) << PF_ARENA_MAX_ORDER)

enum { MAX_BLOCKS = 8192 };

struct block {
    uint32_t offset;
    uint32_t bytes; /* set aside */
};

struct model {
    struct pf_arena arena;
    uint64_t total;
    uint64_t used;
    uint32_t count;
    struct block blocks[MAX_BLOCKS];
    uint8_t *owned; /* per unit */
};

static struct model model;

static void model_init(uint64_t bytes) {
    memset(&model, 0, sizeof(model));
    CHECK_EQ(pf_arena_init(&model.arena, bytes), 0);
    CHECK_EQ(model.arena.free_bytes, bytes);
    CHECK_EQ(model.arena.total_bytes, bytes);
    model.total = bytes;
    model.owned = calloc(bytes / UNIT, 1);
    CHECK(model.owned);
}

static void model_destroy(void) {
    pf_arena_destroy(&model.arena);
    free(model.owned);
}

static uint32_t expected_block(uint32_t bytes) {
    uint32_t block = UNIT;
    while (block < bytes) {
        block *= 2;
    }
    return block;
}

/* Is there an aligned hole of `bytes`? A buddy allocator must find it: all free buddies are merged.
 */
static int has_hole(uint32_t bytes) {
    uint32_t units = bytes / UNIT;
    for (uint64_t first = 0; first + units <= model.total / UNIT; first += units) {
        if (!memchr(model.owned + first, 1, units)) {
            return 1;
        }
    }
    return 0;
}

static int model_alloc(uint32_t bytes) {
    uint32_t offset = pf_arena_alloc(&model.arena, bytes);
    uint32_t block = expected_block(bytes);
    CHECK_EQ(pf_arena_block_bytes(bytes), block);
    if (offset == PF_ARENA_NONE) {
        CHECK(!has_hole(block));
        return 0;
    }
    CHECK_EQ(offset % block, 0);
    CHECK((uint64_t)offset + block <= model.total);
    CHECK(!memchr(model.owned + offset / UNIT, 1, block / UNIT));
    memset(model.owned + offset / UNIT, 1, block / UNIT);
    CHECK(model.count < MAX_BLOCKS);
    model.blocks[model.count++] = (struct block){offset, block};
    model.used += block;
    CHECK_EQ(model.arena.free_bytes, model.total - model.used);
    return 1;
}

static void model_free(uint32_t index) {
    struct block block = model.blocks[index];
    CHECK_EQ(pf_arena_free(&model.arena, block.offset), 0);
    memset(model.owned + block.offset / UNIT, 0, block.bytes / UNIT);
    model.blocks[index] = model.blocks[--model.count];
    model.used -= block.bytes;
    CHECK_EQ(model.arena.free_bytes, model.total - model.used);
    CHECK_EQ(pf_arena_free(&model.arena, block.offset), -EINVAL);
}

/* Everything given back: the largest blocks that the size allows must be there again. */
static void check_whole(void) {
    CHECK_EQ(model.count, 0);
    CHECK_EQ(model.arena.free_bytes, model.total);
    uint64_t got = 0;
    for (uint32_t block = LARGEST; block >= 65536; block /= 2) {
        uint32_t step = block;
        while (model_alloc(block)) {
            got += step;
        }
    }
    CHECK_EQ(got, model.total);
    CHECK_EQ(pf_arena_alloc(&model.arena, 1), PF_ARENA_NONE);
    while (model.count > 0) {
        model_free(check_random(model.count));
    }
}

static void test_init_limits(void) {
    static const uint64_t bad[] = {0,
                                   1,
                                   256,
                                   65535,
                                   65537,
                                   65536 + 4096,
                                   (UINT64_C(1) << 30) + 65536,
                                   UINT64_C(1) << 32,
                                   UINT64_MAX};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pf_arena arena;
        CHECK_EQ(pf_arena_init(&arena, bad[i]), -EINVAL);
        pf_arena_destroy(&arena); /* harmless after a failure */
    }
    struct pf_arena arena;
    CHECK_EQ(pf_arena_init(&arena, UINT64_C(1) << 30), 0);
    CHECK_EQ(arena.free_bytes, UINT64_C(1) << 30);
    pf_arena_destroy(&arena);
    CHECK_EQ(pf_arena_block_bytes(1), 256);
    CHECK_EQ(pf_arena_block_bytes(256), 256);
    CHECK_EQ(pf_arena_block_bytes(257), 512);
    CHECK_EQ(pf_arena_block_bytes(LARGEST - 1), LARGEST);
    CHECK_EQ(pf_arena_block_bytes(LARGEST), LARGEST);
}

static void test_bad_sizes(void) {
    model_init(4 * LARGEST);
    CHECK_EQ(pf_arena_alloc(&model.arena, 0), PF_ARENA_NONE);
    CHECK_EQ(pf_arena_alloc(&model.arena, LARGEST + 1), PF_ARENA_NONE);
    CHECK_EQ(pf_arena_alloc(&model.arena, UINT32_MAX), PF_ARENA_NONE);
    CHECK_EQ(model.arena.free_bytes, model.total);
    check_whole();
    model_destroy();
}

static void test_bad_frees(void) {
    model_init(2 * LARGEST);
    uint32_t offset = pf_arena_alloc(&model.arena, 4096);
    CHECK(offset != PF_ARENA_NONE);
    uint64_t before = model.arena.free_bytes;
    for (uint32_t inside = 1; inside < 4096; inside++) {
        CHECK_EQ(pf_arena_free(&model.arena, offset + inside), -EINVAL);
    }
    /* The free buddy beside it, a free block elsewhere, past the end, not an offset at all. */
    CHECK_EQ(pf_arena_free(&model.arena, offset ^ 4096), -EINVAL);
    CHECK_EQ(pf_arena_free(&model.arena, LARGEST), -EINVAL);
    CHECK_EQ(pf_arena_free(&model.arena, 2 * LARGEST), -EINVAL);
    CHECK_EQ(pf_arena_free(&model.arena, UINT32_MAX - 255), -EINVAL);
    CHECK_EQ(pf_arena_free(&model.arena, PF_ARENA_NONE), -EINVAL);
    CHECK_EQ(model.arena.free_bytes, before);
    CHECK_EQ(pf_arena_free(&model.arena, offset), 0);
    CHECK_EQ(pf_arena_free(&model.arena, offset), -EINVAL);
    check_whole();
    model_destroy();
}

/* The smallest blocks until nothing is left, then back in three orders. */
static void test_exhaustion_and_coalescing(void) {
    for (int order = 0; order < 3; order++) {
        model_init(LARGEST + 65536); /* a tail that no large block covers */
        uint32_t blocks = (uint32_t)(model.total / UNIT);
        for (uint32_t i = 0; i < blocks; i++) {
            CHECK(model_alloc(1 + check_random(UNIT)));
        }
        CHECK_EQ(model.arena.free_bytes, 0);
        CHECK_EQ(pf_arena_alloc(&model.arena, 1), PF_ARENA_NONE);
        while (model.count > 0) {
            uint32_t last = model.count - 1;
            model_free(order == 0 ? last : order == 1 ? 0 : check_random(model.count));
        }
        check_whole();
        model_destroy();
    }
}

static uint32_t random_size(void) {
    uint32_t order = PF_ARENA_MIN_ORDER + check_random(PF_ARENA_ORDERS);
    uint32_t bytes = (UINT32_C(1) << order) - check_random((UINT32_C(1) << order) / 2);
    return bytes ? bytes : 1;
}

static void test_random_against_model(void) {
    static const uint64_t sizes[] = {65536, 3 * 65536, LARGEST, 7 * LARGEST / 2 + 65536,
                                     16 * (uint64_t)LARGEST};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        model_init(sizes[s]);
        for (int step = 0; step < 40000; step++) {
            /* Phases of growing and of shrinking reach both ends. */
            uint32_t chance = (step / 2000) % 2 ? 35 : 65;
            int small = check_random(4) != 0;
            if (check_random(100) < chance && model.count < MAX_BLOCKS) {
                (void)model_alloc(small ? 1 + check_random(2048) : random_size());
            } else if (model.count > 0) {
                model_free(check_random(model.count));
            }
        }
        while (model.count > 0) {
            model_free(check_random(model.count));
        }
        check_whole();
        model_destroy();
    }
}

/* Half a million free blocks that cannot merge, and a million calls: a call that walked over the
 * blocks instead of the orders would need hours, and the watchdog would end it. */
static void test_bounded_steps(void) {
    struct pf_arena arena;
    const uint32_t blocks = UINT32_C(1) << 20;
    CHECK_EQ(pf_arena_init(&arena, (uint64_t)blocks * UNIT), 0);
    for (uint32_t i = 0; i < blocks; i++) {
        CHECK(pf_arena_alloc(&arena, UNIT) != PF_ARENA_NONE);
    }
    for (uint32_t i = 0; i < blocks; i += 2) {
        CHECK_EQ(pf_arena_free(&arena, i * UNIT), 0);
    }
    check_watchdog(20);
    for (uint32_t i = 0; i < blocks / 2; i++) {
        CHECK_EQ(pf_arena_alloc(&arena, 2 * UNIT), PF_ARENA_NONE);
        uint32_t offset = pf_arena_alloc(&arena, 1);
        CHECK(offset != PF_ARENA_NONE);
        CHECK_EQ(pf_arena_free(&arena, offset), 0);
    }
    /* Each of these merges with a neighbour somewhere in the middle of the list: an odd multiplier
     * visits every block of a power of two once, in no order. */
    for (uint32_t i = 0; i < blocks / 2; i++) {
        uint32_t pair = (i * 2654435761u) & (blocks / 2 - 1);
        CHECK_EQ(pf_arena_free(&arena, (2 * pair + 1) * UNIT), 0);
    }
    CHECK_EQ(arena.free_bytes, arena.total_bytes);
    for (uint32_t i = 0; i < blocks / (LARGEST / UNIT); i++) {
        CHECK(pf_arena_alloc(&arena, LARGEST) != PF_ARENA_NONE);
    }
    check_watchdog(120);
    pf_arena_destroy(&arena);
}

int main(void) {
    check_random_init();
    check_watchdog(120);
    RUN(test_init_limits);
    RUN(test_bad_sizes);
    RUN(test_bad_frees);
    RUN(test_exhaustion_and_coalescing);
    RUN(test_random_against_model);
    RUN(test_bounded_steps);
    return 0;
}
