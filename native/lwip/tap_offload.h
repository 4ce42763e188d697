/* Which TCP segments may leave as one virtio-net super-frame, and the headers of that frame.
 *
 * Pure functions over bytes, without lwIP and without a device, so that they can be tested against
 * a software segmenter. Header rules are those of TCP segmentation offload: the kernel (or a NIC)
 * repeats the header for every gso_size bytes, counts sequence number and IPv4 identification up,
 * and keeps FIN and PSH for the last segment. */
#ifndef PF_LWIP_TAP_OFFLOAD_H
#define PF_LWIP_TAP_OFFLOAD_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PF_ETHERNET_HEADER_BYTES 14U
#define PF_VIRTIO_HEADER_BYTES 10U
/* Ethernet, IPv4 with all options, TCP with all options. */
#define PF_OFFLOAD_HEADER_MAX (PF_ETHERNET_HEADER_BYTES + 60U + 60U)
/* IP length of the largest super-frame: clear of every 16-bit length on the way. */
#define PF_OFFLOAD_MAX_BYTES 60000U
#define PF_OFFLOAD_MAX_SEGMENTS 128U

/* An unfragmented TCP packet in an Ethernet frame. */
struct pf_tcp_frame {
    uint8_t ip_version;
    uint8_t transport_offset; /* of the TCP header from the frame's start */
    uint8_t header_bytes;     /* all headers, Ethernet to TCP options */
    uint8_t tcp_flags;
    uint16_t payload_bytes;
    uint32_t sequence;
};

/* A super-frame in the making; its payload stays with the caller. */
struct pf_super_frame {
    struct pf_tcp_frame first;
    uint32_t segments; /* 0: nothing pending */
    uint32_t payload_bytes;
    bool closed; /* the last segment was short or carried FIN or PSH: nothing may follow */
    uint8_t last_flags;
    /* The virtio-net header directly before the frame, so that both go out as one buffer. */
    struct {
        struct virtio_net_hdr virtio;
        uint8_t frame[PF_OFFLOAD_HEADER_MAX];
    } __attribute__((packed)) header;
};

/* False when the frame is not TCP, is a fragment, or its lengths disagree. `contiguous` bytes of
 * the frame are readable at `frame`; `frame_bytes` is its whole length. */
bool pf_tcp_frame_parse(const uint8_t *frame, size_t contiguous, size_t frame_bytes,
                        struct pf_tcp_frame *parsed);

/* Starts a super-frame with this segment (any TCP frame: pure ACKs and SYN go out alone). */
void pf_super_frame_begin(struct pf_super_frame *super, const uint8_t *frame,
                          const struct pf_tcp_frame *parsed);
/* Whether a begun super-frame could ever take another segment; if not, it may as well go now. */
bool pf_super_frame_open(const struct pf_super_frame *super);
/* Whether segmenting the super-frame with this segment at its end would give every segment back
 * byte for byte. False when nothing is pending. */
bool pf_super_frame_accepts(const struct pf_super_frame *super, const uint8_t *frame,
                            const struct pf_tcp_frame *parsed);
/* Appends a segment that was accepted. */
void pf_super_frame_append(struct pf_super_frame *super, const struct pf_tcp_frame *parsed);
/* Fixes lengths, flags and checksums for what was gathered. Returns the bytes of super->header to
 * write in front of the payload. */
size_t pf_super_frame_finish(struct pf_super_frame *super);

#endif
