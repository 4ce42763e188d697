/* Regions: how big they are, how they are made, sealed, mapped, and checked at attach. */
#ifndef PF_SHM_REGION_H
#define PF_SHM_REGION_H

#include <stddef.h>
#include <stdint.h>

#include "shm/layout.h"

struct pf_region_request {
    uint32_t max_sockets; /* 1 .. PF_MAX_SOCKETS_LIMIT */
    uint32_t queue_depth; /* power of two, PF_MIN_QUEUE_DEPTH .. PF_MAX_QUEUE_DEPTH */
    uint32_t rx_bytes;    /* power of two, PF_MIN_RX_BYTES .. PF_MAX_RX_BYTES */
    uint64_t arena_bytes; /* multiple of 64 KiB, PF_MIN_ARENA_BYTES .. PF_MAX_ARENA_BYTES */
};

/* Fills in sizes and offsets. 0, or -EINVAL with the reason in `error`. */
int pf_region_plan(const struct pf_region_request *request, struct pf_b2c_header *header,
                   char *error, size_t error_bytes);

/* Backend: a sparse memfd of `bytes`, mapped for writing here (NULL mapping when `map_write` is 0),
 * sealed against shrinking and growing, and, with `seal_writes`, against any later write mapping.
 * Returns the descriptor, or -errno. */
int pf_region_create(const char *label, uint64_t bytes, int seal_writes, void **mapping);

/* Maps a region of exactly `bytes`. NULL and errno when it cannot be. */
void *pf_region_map(int fd, uint64_t bytes, int writable);
/* Private memory, zero, of which a page is taken when it is touched: whatever the allocator thinks.
 * NULL: no memory. */
void *pf_region_private(uint64_t bytes);
void pf_region_unmap(void *mapping, uint64_t bytes);

/* Client: is this header what this build of pifus understands? 0, or -EPROTO with the reason. */
int pf_region_check(const struct pf_b2c_header *header, uint64_t c2b_bytes, uint64_t b2c_bytes,
                    char *error, size_t error_bytes);

#endif
