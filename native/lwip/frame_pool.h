/* Receive buffers that lwIP holds as custom pbufs: recycled by size class, bounded in bytes.
 *
 * One pool per driver, used by the stack thread only. The pool outlives its driver until the last
 * pbuf is back, because lwIP may keep out-of-order data longer than the link exists. */
#ifndef PF_LWIP_FRAME_POOL_H
#define PF_LWIP_FRAME_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "lwip/pbuf.h"

/* The largest class holds any packet a u16 length can describe, plus room in front of it. */
#define PF_FRAME_MAX_BYTES (65536U + 128U)
#define PF_FRAME_POOL_BYTES (256U * 1024U * 1024U)

struct pf_frame_pool;

struct pf_frame {
    struct pbuf_custom custom; /* first: lwIP hands back a struct pbuf pointer */
    struct pf_frame_pool *pool;
    struct pf_frame *next;
    uint32_t capacity;
    uint32_t size_class;
    _Alignas(16) uint8_t data[];
};

/* `limit_bytes` bounds what is handed out, `cache_bytes` what is kept for reuse. */
struct pf_frame_pool *pf_frame_pool_open(size_t limit_bytes, size_t cache_bytes);
/* Frees the cached buffers now and the rest as lwIP gives them back. */
void pf_frame_pool_close(struct pf_frame_pool *pool);

/* NULL when the limit is reached or there is no memory: the caller drops its packet. */
struct pf_frame *pf_frame_take(struct pf_frame_pool *pool, size_t bytes);
void pf_frame_give(struct pf_frame *frame);
/* The pbuf over data[offset .. offset + length); freeing it gives the frame back. */
struct pbuf *pf_frame_wrap(struct pf_frame *frame, size_t offset, uint16_t length);
/* What all pools together have handed out; one alone may hand out PF_FRAME_POOL_BYTES. */
size_t pf_frame_bytes_in_use(void);
/* Number of buffers of the largest class that are handed out. */
uint32_t pf_frame_pool_large_in_use(const struct pf_frame_pool *pool);

#endif
