#include "lwip/rx_queue.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { FIRST_BYTES = 256, BLOCK_BYTES = 4096, PIECE_BYTES = 32768 };

void pf_rx_drop(struct pf_rx_queue *queue) {
    if (queue->own.first) {
        pbuf_free(queue->own.first);
    }
    if (queue->fresh.first) {
        pbuf_free(queue->fresh.first);
    }
    memset(queue, 0, sizeof(*queue));
}

static void put_last(struct pf_rx_list *list, struct pbuf *p) {
    if (list->first) {
        list->last->next = p;
    } else {
        list->first = p;
    }
    while (p->next) {
        p = p->next;
    }
    list->last = p;
}

static uint32_t take(struct pf_rx_list *list, uint8_t *buffer, uint32_t limit) {
    uint32_t done = 0;
    while (list->first && done < limit) {
        struct pbuf *first = list->first;
        uint32_t left = first->len - list->offset;
        uint32_t piece = left < limit - done ? left : limit - done;
        memcpy(buffer + done, (const uint8_t *)first->payload + list->offset, piece);
        done += piece;
        list->offset += piece;
        if (list->offset == first->len) {
            list->first = first->next;
            list->last = first->next ? list->last : NULL;
            list->offset = 0;
            first->next = NULL;
            pbuf_free(first);
        }
    }
    return done;
}

void pf_rx_append(struct pf_rx_queue *queue, struct pbuf *segment) {
    queue->bytes += segment->tot_len;
    put_last(&queue->fresh, segment);
}

static uint32_t bytes_of(const struct pf_rx_list *list, uint32_t limit) {
    uint32_t bytes = 0;
    for (const struct pbuf *p = list->first; p && bytes < limit + list->offset; p = p->next) {
        bytes += p->len;
    }
    return bytes - list->offset < limit ? bytes - list->offset : limit;
}

/* Room for so many bytes behind the last one. Small ones share a block: else a window full of
 * single bytes, which nobody reads, would need one for each. */
static bool make_room(struct pf_rx_queue *queue, uint32_t bytes) {
    if (queue->spare >= bytes) {
        return true;
    }
    uint32_t small = queue->own.first ? BLOCK_BYTES : FIRST_BYTES;
    uint32_t room = bytes <= small / 4 ? small : bytes;
    struct pbuf *block = pbuf_alloc(PBUF_RAW, (u16_t)room, PBUF_RAM);
    if (!block) {
        return false;
    }
    block->len = 0;
    put_last(&queue->own, block);
    queue->spare = room;
    return true;
}

void pf_rx_settle(struct pf_rx_queue *queue) {
    while (queue->fresh.first) {
        uint32_t bytes = bytes_of(&queue->fresh, PIECE_BYTES);
        if (bytes == 0) { /* what is left was headers */
            pbuf_free(queue->fresh.first);
            memset(&queue->fresh, 0, sizeof(queue->fresh));
            return;
        }
        if (!make_room(queue, bytes)) {
            return;
        }
        struct pbuf *last = queue->own.last;
        (void)take(&queue->fresh, (uint8_t *)last->payload + last->len, bytes);
        last->len = (u16_t)(last->len + bytes);
        queue->spare -= bytes;
    }
}

/* The first pbuf is partly read: from here on it begins with its first unread byte. */
static void trim_first(struct pf_rx_list *list) {
    if (list->first && list->offset) {
        struct pbuf *first = list->first;
        first->payload = (uint8_t *)first->payload + list->offset;
        first->len = (u16_t)(first->len - list->offset);
        list->offset = 0;
    }
}

int pf_rx_put_back(struct pf_rx_queue *queue, const uint8_t *data, uint32_t length) {
    struct pf_rx_list back = {0};
    for (uint32_t done = 0; done < length;) {
        u16_t piece = (u16_t)(length - done < PIECE_BYTES ? length - done : PIECE_BYTES);
        struct pbuf *p = pbuf_alloc(PBUF_RAW, piece, PBUF_RAM);
        if (!p) {
            if (back.first) {
                pbuf_free(back.first);
            }
            return -ENOMEM;
        }
        memcpy(p->payload, data + done, piece);
        done += piece;
        put_last(&back, p);
    }
    if (!back.first) {
        return 0;
    }
    trim_first(&queue->own);
    back.last->next = queue->own.first;
    if (!queue->own.first) {
        queue->own.last = back.last;
        queue->spare = 0;
    }
    queue->own.first = back.first;
    queue->bytes += length;
    return 0;
}

uint32_t pf_rx_take(struct pf_rx_queue *queue, uint8_t *buffer, uint32_t limit) {
    uint32_t done = take(&queue->own, buffer, limit);
    if (!queue->own.first) {
        queue->spare = 0;
        done += take(&queue->fresh, buffer + done, limit - done);
    }
    queue->bytes -= done;
    return done;
}
