/* The transmit side of a TAP link: gathers TCP segments of one flow into super-frames. */
#ifndef PF_LWIP_TAP_TRANSMIT_H
#define PF_LWIP_TAP_TRANSMIT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "driver.h"
#include "tap_offload.h"

/* Header, and two pieces of payload per segment; adjacent pieces share one. */
#define PF_TAP_VECTORS (1U + 2U * PF_OFFLOAD_MAX_SEGMENTS)

struct pf_tap_transmit {
    struct pf_driver *driver; /* its fd and counters */
    bool offload;
    int link_error; /* errno of a write that says that the device is down or gone; 0: none */
    struct pf_super_frame super;
    /* One reference per gathered segment: lwIP may drop the segment before the flush. */
    struct pbuf *held[PF_OFFLOAD_MAX_SEGMENTS];
    uint32_t vector_count;
    struct iovec vectors[PF_TAP_VECTORS];
    uint8_t flat[65536]; /* for a frame in more pieces than there are vectors */
};

/* Takes a frame from lwIP: gathered, or written at once after what was gathered before it. */
void pf_tap_transmit(struct pf_tap_transmit *transmit, struct pbuf *p);
void pf_tap_transmit_flush(struct pf_tap_transmit *transmit);

#endif
