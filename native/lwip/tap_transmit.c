#include "tap_transmit.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* What a driver says when the interface is down (EIO) or deleted (the others). */
static bool is_link_error(int code) {
    return code == EIO || code == EBADFD || code == EBADF || code == ENODEV || code == ENXIO;
}

static void write_frame(struct pf_tap_transmit *transmit, uint32_t segments) {
    ssize_t written = -1;
    if (transmit->link_error == 0) {
        do {
            written = writev(transmit->driver->fd, transmit->vectors, (int)transmit->vector_count);
        } while (written < 0 && errno == EINTR);
        if (written < 0 && is_link_error(errno)) {
            transmit->link_error = errno;
        }
    }
    if (written < 0) {
        transmit->driver->frames_dropped += segments;
    } else {
        transmit->driver->frames_out += segments;
    }
    transmit->vector_count = 0;
}

static void set_header(struct pf_tap_transmit *transmit, void *header, size_t bytes) {
    transmit->vectors[0] = (struct iovec){.iov_base = header, .iov_len = bytes};
    if (transmit->vector_count == 0) {
        transmit->vector_count = 1;
    }
}

/* Adds the frame without its first `skip` bytes; false, and nothing changed, when it has too many
 * pieces. Consecutive segments of one tcp_write() are adjacent in memory and share a vector. */
static bool add_pieces(struct pf_tap_transmit *transmit, const struct pbuf *p, size_t skip) {
    struct iovec *last = &transmit->vectors[transmit->vector_count - 1U];
    uint32_t old_count = transmit->vector_count;
    size_t old_length = last->iov_len;
    for (const struct pbuf *q = p; q != NULL; q = q->next) {
        if (skip >= q->len) {
            skip -= q->len;
            continue;
        }
        uint8_t *base = (uint8_t *)q->payload + skip;
        size_t bytes = q->len - skip;
        skip = 0;
        if (last != transmit->vectors && (uint8_t *)last->iov_base + last->iov_len == base) {
            last->iov_len += bytes;
            continue;
        }
        if (transmit->vector_count == PF_TAP_VECTORS) {
            transmit->vector_count = old_count;
            transmit->vectors[old_count - 1U].iov_len = old_length;
            return false;
        }
        last = &transmit->vectors[transmit->vector_count++];
        *last = (struct iovec){.iov_base = base, .iov_len = bytes};
    }
    return true;
}

/* As add_pieces(), for a frame that is written before anything else uses the flat buffer. */
static void add_pieces_now(struct pf_tap_transmit *transmit, const struct pbuf *p, size_t skip) {
    if (!add_pieces(transmit, p, skip)) {
        uint16_t bytes = (uint16_t)(p->tot_len - skip);
        pbuf_copy_partial(p, transmit->flat, bytes, (uint16_t)skip);
        transmit->vectors[transmit->vector_count++] =
            (struct iovec){.iov_base = transmit->flat, .iov_len = bytes};
    }
}

void pf_tap_transmit_flush(struct pf_tap_transmit *transmit) {
    uint32_t segments = transmit->super.segments;
    if (segments == 0) {
        return;
    }
    size_t bytes = pf_super_frame_finish(&transmit->super);
    set_header(transmit, &transmit->super.header, bytes);
    write_frame(transmit, segments);
    transmit->super.segments = 0;
    for (uint32_t i = 0; i < segments; ++i) {
        pbuf_free(transmit->held[i]);
    }
}

/* A frame that lwIP has completed, checksums included. */
static void transmit_plain(struct pf_tap_transmit *transmit, struct pbuf *p) {
    static struct virtio_net_hdr no_offload; /* all zero; writev() wants it writable */
    set_header(transmit, &no_offload, transmit->offload ? PF_VIRTIO_HEADER_BYTES : 0);
    add_pieces_now(transmit, p, 0);
    write_frame(transmit, 1);
}

/* With offload nobody has computed this frame's TCP checksum, and the device could not either. */
static bool is_unsummed_tcp(const uint8_t *frame, size_t contiguous) {
    if (contiguous < PF_ETHERNET_HEADER_BYTES + 40U) {
        return false;
    }
    const uint8_t *ip = frame + PF_ETHERNET_HEADER_BYTES;
    bool ipv4 = frame[12] == 0x08 && frame[13] == 0x00;
    bool ipv6 = frame[12] == 0x86 && frame[13] == 0xDD;
    bool fragment6 = ipv6 && ip[6] == 44 && contiguous > PF_ETHERNET_HEADER_BYTES + 40U;
    return (ipv4 && ip[9] == 6) || (ipv6 && ip[6] == 6) || (fragment6 && ip[40] == 6);
}

static void transmit_tcp(struct pf_tap_transmit *transmit, struct pbuf *p, const uint8_t *frame,
                         const struct pf_tcp_frame *parsed) {
    struct pf_super_frame *super = &transmit->super;
    uint32_t segments = super->segments;
    if (pf_super_frame_accepts(super, frame, parsed) &&
        add_pieces(transmit, p, parsed->header_bytes)) {
        pf_super_frame_append(super, parsed);
        pbuf_ref(p);
        transmit->held[segments] = p;
        return;
    }
    pf_tap_transmit_flush(transmit);
    pf_super_frame_begin(super, frame, parsed);
    set_header(transmit, &super->header, 0);
    if (pf_super_frame_open(super) && add_pieces(transmit, p, parsed->header_bytes)) {
        pbuf_ref(p);
        transmit->held[0] = p;
        return;
    }
    add_pieces_now(transmit, p, parsed->header_bytes);
    set_header(transmit, &super->header, pf_super_frame_finish(super));
    super->segments = 0;
    write_frame(transmit, 1);
}

void pf_tap_transmit(struct pf_tap_transmit *transmit, struct pbuf *p) {
    uint8_t scratch[PF_OFFLOAD_HEADER_MAX];
    struct pf_tcp_frame parsed;
    const uint8_t *frame = p->payload;
    size_t contiguous = p->len;
    bool tcp = false;
    if (transmit->offload) {
        tcp = pf_tcp_frame_parse(frame, contiguous, p->tot_len, &parsed);
        if (!tcp && p->next != NULL && contiguous < sizeof(scratch)) {
            contiguous = pbuf_copy_partial(p, scratch, sizeof(scratch), 0);
            frame = scratch;
            tcp = pf_tcp_frame_parse(frame, contiguous, p->tot_len, &parsed);
        }
    }
    if (tcp) {
        transmit_tcp(transmit, p, frame, &parsed);
        return;
    }
    pf_tap_transmit_flush(transmit);
    if (transmit->offload && is_unsummed_tcp(frame, contiguous)) {
        ++transmit->driver->frames_dropped;
        return;
    }
    transmit_plain(transmit, p);
}
