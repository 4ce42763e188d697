#include "tap_offload.h"

#include <string.h>

#define ETHERTYPE_IPV4 0x0800U
#define ETHERTYPE_IPV6 0x86DDU
#define PROTOCOL_TCP 6U
#define TCP_HEADER_MIN 20U
#define TCP_CHECKSUM_OFFSET 16U

#define FLAG_FIN 0x01U
#define FLAG_PSH 0x08U
#define FLAG_ACK 0x10U
/* FIN and PSH belong to the last segment of a super-frame; any other flag keeps a segment alone. */
#define FLAGS_LAST_ONLY (FLAG_FIN | FLAG_PSH)

static uint16_t load16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

static uint32_t load32(const uint8_t *at) { return (uint32_t)load16(at) << 16 | load16(at + 2); }

static void store16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t add_words(const uint8_t *data, size_t bytes, uint32_t sum) {
    for (size_t i = 0; i + 1 < bytes; i += 2) {
        sum += load16(data + i);
    }
    return sum;
}

static uint16_t fold(uint32_t sum) {
    while (sum >> 16 != 0) {
        sum = (sum & 0xFFFFU) + (sum >> 16);
    }
    return (uint16_t)sum;
}

/* Offset of the transport header, or 0; *ip_bytes is the IP packet's own length. */
static size_t parse_ipv4(const uint8_t *ip, size_t contiguous, size_t *ip_bytes) {
    if (contiguous < 20 || ip[0] >> 4 != 4) {
        return 0;
    }
    size_t header = (size_t)(ip[0] & 0x0FU) * 4U;
    bool fragment = (load16(ip + 6) & 0x3FFFU) != 0;
    if (header < 20 || fragment || ip[9] != PROTOCOL_TCP) {
        return 0;
    }
    *ip_bytes = load16(ip + 2);
    return header;
}

static size_t parse_ipv6(const uint8_t *ip, size_t contiguous, size_t *ip_bytes) {
    if (contiguous < 40 || ip[0] >> 4 != 6 || ip[6] != PROTOCOL_TCP) {
        return 0;
    }
    *ip_bytes = 40U + (size_t)load16(ip + 4);
    return 40U;
}

bool pf_tcp_frame_parse(const uint8_t *frame, size_t contiguous, size_t frame_bytes,
                        struct pf_tcp_frame *parsed) {
    if (contiguous < PF_ETHERNET_HEADER_BYTES || contiguous > frame_bytes) {
        return false;
    }
    const uint8_t *ip = frame + PF_ETHERNET_HEADER_BYTES;
    size_t ip_contiguous = contiguous - PF_ETHERNET_HEADER_BYTES;
    uint16_t type = load16(frame + 12);
    size_t ip_bytes = 0;
    size_t ip_header = 0;
    if (type == ETHERTYPE_IPV4) {
        ip_header = parse_ipv4(ip, ip_contiguous, &ip_bytes);
    } else if (type == ETHERTYPE_IPV6) {
        ip_header = parse_ipv6(ip, ip_contiguous, &ip_bytes);
    }
    if (ip_header == 0 || ip_bytes > 0xFFFFU ||
        ip_bytes != frame_bytes - PF_ETHERNET_HEADER_BYTES ||
        ip_contiguous < ip_header + TCP_HEADER_MIN) {
        return false;
    }
    const uint8_t *tcp = ip + ip_header;
    size_t tcp_header = (size_t)(tcp[12] >> 4) * 4U;
    if (tcp_header < TCP_HEADER_MIN || ip_contiguous < ip_header + tcp_header) {
        return false;
    }
    size_t transport_offset = PF_ETHERNET_HEADER_BYTES + ip_header;
    parsed->ip_version = type == ETHERTYPE_IPV4 ? 4 : 6;
    parsed->transport_offset = (uint8_t)transport_offset;
    parsed->header_bytes = (uint8_t)(transport_offset + tcp_header);
    parsed->tcp_flags = tcp[13];
    parsed->payload_bytes = (uint16_t)(frame_bytes - parsed->header_bytes);
    parsed->sequence = load32(tcp + 4);
    return true;
}

static bool coalescable_flags(uint8_t flags) { return (flags & ~FLAGS_LAST_ONLY) == FLAG_ACK; }

void pf_super_frame_begin(struct pf_super_frame *super, const uint8_t *frame,
                          const struct pf_tcp_frame *parsed) {
    super->first = *parsed;
    super->segments = 1;
    super->payload_bytes = parsed->payload_bytes;
    super->last_flags = parsed->tcp_flags;
    super->closed = parsed->payload_bytes == 0 || !coalescable_flags(parsed->tcp_flags) ||
                    (parsed->tcp_flags & FLAGS_LAST_ONLY) != 0;
    memcpy(super->header.frame, frame, parsed->header_bytes);
}

bool pf_super_frame_open(const struct pf_super_frame *super) {
    return super->segments != 0 && !super->closed;
}

/* All of the two headers that segmentation would repeat or count is equal. */
static bool same_headers(const struct pf_super_frame *super, const uint8_t *frame) {
    const uint8_t *first = super->header.frame;
    const uint8_t *ip = frame + PF_ETHERNET_HEADER_BYTES;
    const uint8_t *first_ip = first + PF_ETHERNET_HEADER_BYTES;
    size_t options = super->first.header_bytes - super->first.transport_offset - TCP_HEADER_MIN;
    const uint8_t *tcp = frame + super->first.transport_offset;
    const uint8_t *first_tcp = first + super->first.transport_offset;
    if (memcmp(first, frame, PF_ETHERNET_HEADER_BYTES) != 0) {
        return false;
    }
    if (super->first.ip_version == 4) {
        size_t ip_options = super->first.transport_offset - PF_ETHERNET_HEADER_BYTES - 20U;
        uint16_t expected_id = (uint16_t)(load16(first_ip + 4) + super->segments);
        /* Version, TOS; fragment bits, TTL, protocol; addresses and options. Length and checksum
         * are computed anew. */
        if (memcmp(first_ip, ip, 2) != 0 || load16(ip + 4) != expected_id ||
            memcmp(first_ip + 6, ip + 6, 4) != 0 ||
            memcmp(first_ip + 12, ip + 12, 8 + ip_options) != 0) {
            return false;
        }
    } else if (memcmp(first_ip, ip, 4) != 0 || memcmp(first_ip + 6, ip + 6, 34) != 0) {
        return false;
    }
    /* Ports; acknowledgement and data offset; window; urgent pointer and options. */
    return memcmp(first_tcp, tcp, 4) == 0 && memcmp(first_tcp + 8, tcp + 8, 5) == 0 &&
           memcmp(first_tcp + 14, tcp + 14, 2) == 0 &&
           memcmp(first_tcp + 18, tcp + 18, 2 + options) == 0;
}

bool pf_super_frame_accepts(const struct pf_super_frame *super, const uint8_t *frame,
                            const struct pf_tcp_frame *parsed) {
    const struct pf_tcp_frame *first = &super->first;
    if (!pf_super_frame_open(super) || super->segments >= PF_OFFLOAD_MAX_SEGMENTS) {
        return false;
    }
    size_t ip_bytes = (size_t)first->header_bytes - PF_ETHERNET_HEADER_BYTES +
                      super->payload_bytes + parsed->payload_bytes;
    return ip_bytes <= PF_OFFLOAD_MAX_BYTES && parsed->payload_bytes != 0 &&
           parsed->payload_bytes <= first->payload_bytes && coalescable_flags(parsed->tcp_flags) &&
           parsed->ip_version == first->ip_version &&
           parsed->transport_offset == first->transport_offset &&
           parsed->header_bytes == first->header_bytes &&
           parsed->sequence == first->sequence + super->payload_bytes && same_headers(super, frame);
}

void pf_super_frame_append(struct pf_super_frame *super, const struct pf_tcp_frame *parsed) {
    ++super->segments;
    super->payload_bytes += parsed->payload_bytes;
    super->last_flags = parsed->tcp_flags;
    super->closed = parsed->payload_bytes < super->first.payload_bytes ||
                    (parsed->tcp_flags & FLAGS_LAST_ONLY) != 0;
}

static uint32_t finish_ip(uint8_t *ip, const struct pf_tcp_frame *first, uint32_t payload_bytes) {
    uint32_t ip_header = first->transport_offset - PF_ETHERNET_HEADER_BYTES;
    uint32_t tcp_bytes = first->header_bytes - first->transport_offset + payload_bytes;
    if (first->ip_version == 4) {
        store16(ip + 2, ip_header + tcp_bytes);
        store16(ip + 10, 0);
        store16(ip + 10, (uint16_t)~fold(add_words(ip, ip_header, 0)));
        return add_words(ip + 12, 8, PROTOCOL_TCP + tcp_bytes);
    }
    store16(ip + 4, tcp_bytes);
    return add_words(ip + 8, 32, PROTOCOL_TCP + tcp_bytes);
}

size_t pf_super_frame_finish(struct pf_super_frame *super) {
    const struct pf_tcp_frame *first = &super->first;
    uint8_t *frame = super->header.frame;
    uint8_t *tcp = frame + first->transport_offset;
    tcp[13] = first->tcp_flags | super->last_flags;
    uint32_t pseudo = finish_ip(frame + PF_ETHERNET_HEADER_BYTES, first, super->payload_bytes);
    /* The sum over the pseudo header, not complemented: the kernel adds the rest and complements.
     */
    store16(tcp + TCP_CHECKSUM_OFFSET, fold(pseudo));
    struct virtio_net_hdr virtio = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = VIRTIO_NET_HDR_GSO_NONE,
        .csum_start = first->transport_offset,
        .csum_offset = TCP_CHECKSUM_OFFSET,
    };
    if (super->segments > 1) {
        virtio.gso_type =
            first->ip_version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
        virtio.gso_size = first->payload_bytes;
        virtio.hdr_len = first->header_bytes;
    }
    super->header.virtio = virtio;
    return PF_VIRTIO_HEADER_BYTES + first->header_bytes;
}
