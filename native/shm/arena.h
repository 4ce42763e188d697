/* Allocator of the send arena: a buddy allocator over powers of two from 256 B to 1 MiB.
 *
 * Its book-keeping lives in the client's private memory: the backend never sees it, and checks
 * every offset by itself. Each call takes at most one step per block order (13), whatever the
 * number of blocks. Not thread-safe: the caller holds its lock. */
#ifndef PF_SHM_ARENA_H
#define PF_SHM_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/layout.h"

#define PF_ARENA_MIN_ORDER 8
#define PF_ARENA_MAX_ORDER 20
#define PF_ARENA_ORDERS (PF_ARENA_MAX_ORDER - PF_ARENA_MIN_ORDER + 1)
#define PF_ARENA_NONE UINT32_MAX

struct pf_arena {
    uint32_t units; /* of 256 bytes */
    uint32_t fresh; /* from this unit to `fresh_end` nothing was ever allocated: largest blocks */
    uint32_t fresh_end;
    uint64_t free_bytes;
    uint64_t total_bytes;
    uint8_t *tag;   /* per unit: state of the block that starts there */
    uint32_t *next; /* per unit: free list links */
    uint32_t *prev;
    uint32_t free_list[PF_ARENA_ORDERS];
};

/* 0, or -ENOMEM, or -EINVAL when `bytes` is not a multiple of 64 KiB or is above 1 GiB. */
int pf_arena_init(struct pf_arena *arena, uint64_t bytes);
void pf_arena_destroy(struct pf_arena *arena);
/* Offset of a block of at least `bytes` (1 .. 1 MiB), or PF_ARENA_NONE when there is no room. */
uint32_t pf_arena_alloc(struct pf_arena *arena, uint32_t bytes);
/* What pf_arena_alloc really sets aside for `bytes`. */
uint32_t pf_arena_block_bytes(uint32_t bytes);
/* The same for an operation: what comes back when it ends. Client and backend count it alike. */
static inline uint32_t pf_send_block(uint8_t opcode, uint32_t length) {
    bool sends = opcode == PF_OP_WRITE || opcode == PF_OP_SENDTO;
    return sends && length > 0 && length <= PF_MAX_WRITE_BYTES ? pf_arena_block_bytes(length) : 0;
}
/* -EINVAL when no allocated block starts at `offset`. */
int pf_arena_free(struct pf_arena *arena, uint32_t offset);

/* Marks of an allocated block, for its owner; 0 at first. */
#define PF_ARENA_BUSY 0x20
#define PF_ARENA_LET_GO 0x10
uint8_t pf_arena_marks(const struct pf_arena *arena, uint32_t offset);
void pf_arena_mark(struct pf_arena *arena, uint32_t offset, uint8_t marks);

#endif
