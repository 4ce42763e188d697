#include "lwip/rx_queue.h"

#include <errno.h>
#include <string.h>

enum { BLOCK_BYTES = 4096, PIECE_BYTES = 32768 };

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

/* The first pbuf is partly read: from here on it begins with its first unread byte. */
static void trim_first(struct pf_rx_queue *queue) {
    if (queue->first && queue->offset) {
        struct pbuf *first = queue->first;
        first->payload = (uint8_t *)first->payload + queue->offset;
        first->len = (u16_t)(first->len - queue->offset);
        queue->offset = 0;
    }
}

int pf_rx_put_back(struct pf_rx_queue *queue, const uint8_t *data, uint32_t length) {
    struct pbuf *first = NULL;
    struct pbuf *last = NULL;
    for (uint32_t done = 0; done < length;) {
        u16_t piece = (u16_t)(length - done < PIECE_BYTES ? length - done : PIECE_BYTES);
        struct pbuf *p = pbuf_alloc(PBUF_RAW, piece, PBUF_RAM);
        if (!p) {
            while (first) {
                struct pbuf *next = first->next;
                first->next = NULL;
                pbuf_free(first);
                first = next;
            }
            return -ENOMEM;
        }
        memcpy(p->payload, data + done, piece);
        done += piece;
        if (last) {
            last->next = p;
        } else {
            first = p;
        }
        last = p;
    }
    if (!first) {
        return 0;
    }
    trim_first(queue);
    last->next = queue->first;
    if (!queue->first) {
        queue->last = last;
        queue->spare = 0;
    }
    queue->first = first;
    queue->bytes += length;
    return 0;
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
