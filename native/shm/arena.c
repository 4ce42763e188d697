#include "shm/arena.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    TAG_INSIDE = 0, /* not the start of a block */
    TAG_FREE = 0x40,
    TAG_USED = 0x80,
    TAG_ORDER = 0x0f,
};

static uint32_t order_units(unsigned order) { return UINT32_C(1) << order; }

static void list_push(struct pf_arena *arena, uint32_t unit, unsigned order) {
    uint32_t first = arena->free_list[order];
    arena->tag[unit] = (uint8_t)(TAG_FREE | order);
    arena->next[unit] = first;
    arena->prev[unit] = PF_ARENA_NONE;
    if (first != PF_ARENA_NONE) {
        arena->prev[first] = unit;
    }
    arena->free_list[order] = unit;
}

static void list_remove(struct pf_arena *arena, uint32_t unit, unsigned order) {
    uint32_t next = arena->next[unit];
    uint32_t prev = arena->prev[unit];
    if (prev == PF_ARENA_NONE) {
        arena->free_list[order] = next;
    } else {
        arena->next[prev] = next;
    }
    if (next != PF_ARENA_NONE) {
        arena->prev[next] = prev;
    }
    arena->tag[unit] = TAG_INSIDE;
}

int pf_arena_init(struct pf_arena *arena, uint64_t bytes) {
    memset(arena, 0, sizeof(*arena));
    if (bytes == 0 || bytes % 65536 != 0 || bytes > (UINT64_C(1) << 30)) {
        return -EINVAL;
    }
    arena->units = (uint32_t)(bytes >> PF_ARENA_MIN_ORDER);
    arena->tag = calloc(arena->units, sizeof(*arena->tag));
    arena->next = malloc(arena->units * sizeof(*arena->next));
    arena->prev = malloc(arena->units * sizeof(*arena->prev));
    if (!arena->tag || !arena->next || !arena->prev) {
        pf_arena_destroy(arena);
        return -ENOMEM;
    }
    for (unsigned order = 0; order < PF_ARENA_ORDERS; order++) {
        arena->free_list[order] = PF_ARENA_NONE;
    }
    /* The largest blocks are cut off when they are needed: what was never used costs no page, not
     * even of this book-keeping. What is left at the end is cut into aligned blocks now. */
    arena->fresh_end = arena->units - arena->units % order_units(PF_ARENA_ORDERS - 1);
    uint32_t end = arena->units;
    while (end > arena->fresh_end) {
        unsigned order = PF_ARENA_ORDERS - 1;
        while (order_units(order) > end || end % order_units(order) != 0) {
            order--;
        }
        end -= order_units(order);
        list_push(arena, end, order);
    }
    arena->total_bytes = bytes;
    arena->free_bytes = bytes;
    return 0;
}

void pf_arena_destroy(struct pf_arena *arena) {
    free(arena->tag);
    free(arena->next);
    free(arena->prev);
    memset(arena, 0, sizeof(*arena));
}

uint8_t pf_arena_marks(const struct pf_arena *arena, uint32_t offset) {
    return arena->tag[offset >> PF_ARENA_MIN_ORDER] & (PF_ARENA_BUSY | PF_ARENA_LET_GO);
}

void pf_arena_mark(struct pf_arena *arena, uint32_t offset, uint8_t marks) {
    uint8_t *tag = &arena->tag[offset >> PF_ARENA_MIN_ORDER];
    *tag = (uint8_t)((*tag & ~(PF_ARENA_BUSY | PF_ARENA_LET_GO)) | marks);
}

static unsigned order_for(uint32_t bytes) {
    unsigned order = 0;
    while ((UINT32_C(1) << (order + PF_ARENA_MIN_ORDER)) < bytes) {
        order++;
    }
    return order;
}

uint32_t pf_arena_block_bytes(uint32_t bytes) {
    return UINT32_C(1) << (order_for(bytes) + PF_ARENA_MIN_ORDER);
}

uint32_t pf_arena_alloc(struct pf_arena *arena, uint32_t bytes) {
    if (bytes == 0 || bytes > (UINT32_C(1) << PF_ARENA_MAX_ORDER)) {
        return PF_ARENA_NONE;
    }
    unsigned wanted = order_for(bytes);
    unsigned order = wanted;
    while (order < PF_ARENA_ORDERS && arena->free_list[order] == PF_ARENA_NONE) {
        order++;
    }
    uint32_t unit;
    if (order < PF_ARENA_ORDERS) {
        unit = arena->free_list[order];
        list_remove(arena, unit, order);
    } else if (arena->fresh < arena->fresh_end) {
        order = PF_ARENA_ORDERS - 1;
        unit = arena->fresh;
        arena->fresh += order_units(order);
    } else {
        return PF_ARENA_NONE;
    }
    while (order > wanted) {
        order--;
        list_push(arena, unit + order_units(order), order);
    }
    arena->tag[unit] = (uint8_t)(TAG_USED | wanted);
    arena->free_bytes -= (uint64_t)order_units(wanted) << PF_ARENA_MIN_ORDER;
    return unit << PF_ARENA_MIN_ORDER;
}

int pf_arena_free(struct pf_arena *arena, uint32_t offset) {
    uint32_t unit = offset >> PF_ARENA_MIN_ORDER;
    if ((offset & ((1U << PF_ARENA_MIN_ORDER) - 1)) != 0 || unit >= arena->units ||
        !(arena->tag[unit] & TAG_USED)) {
        return -EINVAL;
    }
    unsigned order = arena->tag[unit] & TAG_ORDER;
    arena->tag[unit] = TAG_INSIDE;
    arena->free_bytes += (uint64_t)order_units(order) << PF_ARENA_MIN_ORDER;
    while (order + 1 < PF_ARENA_ORDERS) {
        uint32_t buddy = unit ^ order_units(order);
        if (buddy + order_units(order) > arena->units || arena->tag[buddy] != (TAG_FREE | order)) {
            break;
        }
        list_remove(arena, buddy, order);
        unit = unit < buddy ? unit : buddy;
        order++;
    }
    list_push(arena, unit, order);
    return 0;
}
