/* Received bytes that nobody has read yet.
 *
 * They come in the buffers of a driver, which all applications share. What is not read at once is
 * copied to memory of its own by pf_rx_settle, so that whoever does not read holds none of them. */
#ifndef PF_LWIP_RX_QUEUE_H
#define PF_LWIP_RX_QUEUE_H

#include <stdint.h>

#include "lwip/pbuf.h"

struct pf_rx_list {
    struct pbuf *first; /* linked by `next` alone; its first `offset` bytes are read */
    struct pbuf *last;
    uint32_t offset;
};

struct pf_rx_queue {
    struct pf_rx_list own;
    struct pf_rx_list fresh; /* behind them, as they came */
    uint32_t spare;          /* room in the last one of `own` for small segments */
    uint32_t bytes;          /* in both */
};

/* Takes over the segment. */
void pf_rx_append(struct pf_rx_queue *queue, struct pbuf *segment);
/* Gives back the buffers of what came and was not read; without memory they are kept. */
void pf_rx_settle(struct pf_rx_queue *queue);
/* Puts bytes in front of all others. 0 or -ENOMEM. */
int pf_rx_put_back(struct pf_rx_queue *queue, const uint8_t *data, uint32_t length);
/* Copies and drops up to `limit` bytes. */
uint32_t pf_rx_take(struct pf_rx_queue *queue, uint8_t *buffer, uint32_t limit);
void pf_rx_drop(struct pf_rx_queue *queue);

#endif
