#include "lwip/rx_queue.h"

#include <string.h>

enum { BLOCK_BYTES = 4096 };

void pf_rx_drop(struct pf_rx_queue *queue) {
    if (queue->first) {
        pbuf_free(queue->first);
    }
    memset(queue, 0, sizeof(*queue));
}

static void put_last(struct pf_rx_queue *queue, struct pbuf *p) {
    if (queue->first) {
        queue->last->next = p;
    } else {
        queue->first = p;
    }
    while (p->next) {
        p = p->next;
    }
    queue->last = p;
    queue->spare = 0;
}

/* Small segments behind others are copied together: else a window full of single bytes, which
 * nobody reads, would hold a frame for each. */
void pf_rx_append(struct pf_rx_queue *queue, struct pbuf *segment) {
    u16_t bytes = segment->tot_len;
    queue->bytes += bytes;
    if (queue->first && bytes <= BLOCK_BYTES / 4 && queue->spare < bytes) {
        struct pbuf *block = pbuf_alloc(PBUF_RAW, BLOCK_BYTES, PBUF_RAM);
        if (block) {
            block->len = 0;
            put_last(queue, block);
            queue->spare = BLOCK_BYTES;
        }
    }
    if (queue->spare < bytes) {
        put_last(queue, segment);
        return;
    }
    struct pbuf *last = queue->last;
    (void)pbuf_copy_partial(segment, (uint8_t *)last->payload + last->len, bytes, 0);
    last->len = (u16_t)(last->len + bytes);
    queue->spare -= bytes;
    pbuf_free(segment);
}

uint32_t pf_rx_take(struct pf_rx_queue *queue, uint8_t *buffer, uint32_t limit) {
    uint32_t done = 0;
    while (queue->first && done < limit) {
        struct pbuf *first = queue->first;
        uint32_t left = first->len - queue->offset;
        uint32_t piece = left < limit - done ? left : limit - done;
        memcpy(buffer + done, (const uint8_t *)first->payload + queue->offset, piece);
        done += piece;
        queue->offset += piece;
        if (queue->offset == first->len) {
            queue->first = first->next;
            first->next = NULL;
            pbuf_free(first);
            queue->offset = 0;
            if (!queue->first) {
                queue->last = NULL;
                queue->spare = 0;
            }
        }
    }
    queue->bytes -= done;
    return done;
}
