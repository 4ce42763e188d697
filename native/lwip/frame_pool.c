#include "frame_pool.h"

#include <stdbool.h>
#include <stdlib.h>

/* An ACK, an Ethernet frame, a loopback segment (TCP_MSS 16000), a coalesced super-frame. */
static const uint32_t class_capacity[] = {256U, 2048U, 16384U, PF_FRAME_MAX_BYTES};
#define CLASS_COUNT (sizeof(class_capacity) / sizeof(class_capacity[0]))
#define LARGE_CLASS (CLASS_COUNT - 1U)

struct pf_frame_pool {
    struct pf_frame *cached[CLASS_COUNT];
    size_t limit_bytes;
    size_t used_bytes;
    size_t cache_limit_bytes;
    size_t cached_bytes;
    uint32_t frames_in_use;
    uint32_t large_in_use;
    bool closed;
};

static size_t bytes_in_use;

struct pf_frame_pool *pf_frame_pool_open(size_t limit_bytes, size_t cache_bytes) {
    struct pf_frame_pool *pool = calloc(1, sizeof(*pool));
    if (pool != NULL) {
        pool->limit_bytes = limit_bytes;
        pool->cache_limit_bytes = cache_bytes;
    }
    return pool;
}

void pf_frame_pool_close(struct pf_frame_pool *pool) {
    for (size_t i = 0; i < CLASS_COUNT; ++i) {
        while (pool->cached[i] != NULL) {
            struct pf_frame *frame = pool->cached[i];
            pool->cached[i] = frame->next;
            free(frame);
        }
    }
    pool->cached_bytes = 0;
    pool->closed = true;
    if (pool->frames_in_use == 0) {
        free(pool);
    }
}

static uint32_t class_for(size_t bytes) {
    uint32_t size_class = 0;
    while (size_class < LARGE_CLASS && bytes > class_capacity[size_class]) {
        ++size_class;
    }
    return size_class;
}

struct pf_frame *pf_frame_take(struct pf_frame_pool *pool, size_t bytes) {
    if (bytes > PF_FRAME_MAX_BYTES) {
        return NULL;
    }
    uint32_t size_class = class_for(bytes);
    uint32_t capacity = class_capacity[size_class];
#ifdef PIFUS_SANITIZE
    capacity = (uint32_t)bytes; /* so that a read one byte past the packet meets a red zone */
#endif
    if (pool->used_bytes + capacity > pool->limit_bytes) {
        return NULL;
    }
    struct pf_frame *frame = pool->cached[size_class];
    if (frame != NULL) {
        pool->cached[size_class] = frame->next;
        pool->cached_bytes -= frame->capacity;
    } else {
        frame = malloc(sizeof(*frame) + capacity);
        if (frame == NULL) {
            return NULL;
        }
        frame->pool = pool;
        frame->capacity = capacity;
        frame->size_class = size_class;
    }
    frame->next = NULL;
    pool->used_bytes += frame->capacity;
    bytes_in_use += frame->capacity;
    ++pool->frames_in_use;
    pool->large_in_use += size_class == LARGE_CLASS;
    return frame;
}

void pf_frame_give(struct pf_frame *frame) {
    struct pf_frame_pool *pool = frame->pool;
    pool->used_bytes -= frame->capacity;
    bytes_in_use -= frame->capacity;
    --pool->frames_in_use;
    pool->large_in_use -= frame->size_class == LARGE_CLASS;
    bool keep = !pool->closed && pool->cached_bytes + frame->capacity <= pool->cache_limit_bytes;
#ifdef PIFUS_SANITIZE
    keep = false;
#endif
    if (keep) {
        /* Last in, first out: the buffer that is still in the CPU's cache goes out next. */
        frame->next = pool->cached[frame->size_class];
        pool->cached[frame->size_class] = frame;
        pool->cached_bytes += frame->capacity;
        return;
    }
    free(frame);
    if (pool->closed && pool->frames_in_use == 0) {
        free(pool);
    }
}

static void free_pbuf(struct pbuf *p) { pf_frame_give((struct pf_frame *)(void *)p); }

struct pbuf *pf_frame_wrap(struct pf_frame *frame, size_t offset, uint16_t length) {
    frame->custom.custom_free_function = free_pbuf;
    /* PBUF_REF: lwIP must not believe that it can grow a header into the struct in front. */
    return pbuf_alloced_custom(PBUF_RAW, length, PBUF_REF, &frame->custom, frame->data + offset,
                               length);
}

size_t pf_frame_bytes_in_use(void) { return bytes_in_use; }

uint32_t pf_frame_pool_large_in_use(const struct pf_frame_pool *pool) { return pool->large_in_use; }
