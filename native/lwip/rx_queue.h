/* Received bytes that nobody has read yet. */
#ifndef PF_LWIP_RX_QUEUE_H
#define PF_LWIP_RX_QUEUE_H

#include <stdint.h>

#include "lwip/pbuf.h"

struct pf_rx_queue {
    struct pbuf *first; /* linked by `next` alone; its first `offset` bytes are read */
    struct pbuf *last;
    uint32_t offset;
    uint32_t spare; /* room in `last` for small segments */
    uint32_t bytes;
};

/* Takes over the segment. */
void pf_rx_append(struct pf_rx_queue *queue, struct pbuf *segment);
/* Copies and drops up to `limit` bytes. */
/* Puts bytes in front of all others. 0 or -ENOMEM. */
int pf_rx_put_back(struct pf_rx_queue *queue, const uint8_t *data, uint32_t length);
uint32_t pf_rx_take(struct pf_rx_queue *queue, uint8_t *buffer, uint32_t limit);
void pf_rx_drop(struct pf_rx_queue *queue);

#endif
