/* Coalescing for segmentation offload, checked against a software segmenter: whatever goes in as
 * separate segments must come out of segmenting the super-frames again, byte for byte. */
#include "../../native/lwip/tap_offload.h"

#include "check.h"

#define FRAME_MAX (PF_OFFLOAD_HEADER_MAX + 9000U)
#define STREAM_MAX 400U

struct frame {
    uint32_t bytes;
    uint8_t data[FRAME_MAX];
};

/* What a stream of segments looks like; each field may change from segment to segment. */
struct shape {
    uint8_t ip_version;
    uint8_t ip_options; /* bytes, multiple of 4 */
    uint8_t tcp_options;
    uint8_t flags;
    uint8_t tos;
    uint16_t id;
    uint16_t window;
    uint16_t urgent;
    uint16_t remote_port;
    uint32_t sequence;
    uint32_t acknowledgement;
    uint16_t payload;
};

static const struct shape plain4 = {.ip_version = 4,
                                    .flags = 0x10,
                                    .id = 7,
                                    .window = 500,
                                    .remote_port = 80,
                                    .sequence = 1000,
                                    .acknowledgement = 2000,
                                    .payload = 1460};

static struct frame expected[STREAM_MAX];
static uint32_t expected_count;
static struct frame produced[STREAM_MAX];
static uint32_t produced_count;
static uint32_t written; /* frames that went to the "device" */

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value & 0xFFFFU);
}

static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }

static uint32_t sum(const uint8_t *data, size_t bytes, uint32_t start) {
    uint64_t total = start;
    for (size_t i = 0; i < bytes; ++i) {
        total += i % 2 == 0 ? (uint32_t)data[i] << 8 : data[i];
    }
    while (total >> 16 != 0) {
        total = (total & 0xFFFFU) + (total >> 16);
    }
    return (uint32_t)total;
}

/* Sets the IPv4 header checksum and the whole TCP checksum. */
static void complete(uint8_t *frame, uint32_t bytes, uint32_t transport) {
    uint8_t *ip = frame + 14;
    uint32_t tcp_bytes = bytes - transport;
    uint32_t pseudo = 0;
    if (ip[0] >> 4 == 4) {
        put16(ip + 10, 0);
        put16(ip + 10, ~sum(ip, transport - 14, 0) & 0xFFFFU);
        pseudo = sum(ip + 12, 8, 6 + tcp_bytes);
    } else {
        pseudo = sum(ip + 8, 32, 6 + tcp_bytes);
    }
    put16(frame + transport + 16, 0);
    put16(frame + transport + 16, ~sum(frame + transport, tcp_bytes, pseudo) & 0xFFFFU);
}

static void build(struct frame *frame, const struct shape *shape) {
    uint32_t ip_header = shape->ip_version == 4 ? 20U + shape->ip_options : 40U;
    uint32_t transport = 14U + ip_header;
    uint32_t headers = transport + 20U + shape->tcp_options;
    memset(frame->data, 0, headers);
    frame->bytes = headers + shape->payload;
    memset(frame->data, 0x42, 12);
    uint8_t *ip = frame->data + 14;
    if (shape->ip_version == 4) {
        put16(frame->data + 12, 0x0800);
        ip[0] = (uint8_t)(0x40U | ip_header / 4U);
        ip[1] = shape->tos;
        put16(ip + 2, frame->bytes - 14U);
        put16(ip + 4, shape->id);
        ip[8] = 64;
        ip[9] = 6;
        put32(ip + 12, 0x0A000001);
        put32(ip + 16, 0x0A000002);
        memset(ip + 20, 1, shape->ip_options);
    } else {
        put16(frame->data + 12, 0x86DD);
        put32(ip, 0x60000000U | (uint32_t)shape->tos << 20);
        put16(ip + 4, frame->bytes - transport);
        ip[6] = 6;
        ip[7] = 64;
        memset(ip + 8, 0xFD, 16);
        memset(ip + 24, 0xFE, 16);
    }
    uint8_t *tcp = frame->data + transport;
    put16(tcp, 4000);
    put16(tcp + 2, shape->remote_port);
    put32(tcp + 4, shape->sequence);
    put32(tcp + 8, shape->acknowledgement);
    tcp[12] = (uint8_t)((20U + shape->tcp_options) / 4U << 4);
    tcp[13] = shape->flags;
    put16(tcp + 14, shape->window);
    put16(tcp + 18, shape->urgent);
    memset(tcp + 20, 1, shape->tcp_options);
    for (uint32_t i = headers; i < frame->bytes; ++i) {
        frame->data[i] = (uint8_t)((shape->sequence + i - headers) * 2654435761U >> 13);
    }
    complete(frame->data, frame->bytes, transport);
}

/* ---- the device: segments a super-frame as the kernel's tcp_gso_segment does ---- */

static uint8_t payload[65536];
static struct pf_super_frame super;

static void check_virtio(const struct virtio_net_hdr *virtio) {
    uint32_t ip_header = super.first.ip_version == 4 ? (super.header.frame[14] & 15U) * 4U : 40U;
    CHECK_EQ(virtio->flags, VIRTIO_NET_HDR_F_NEEDS_CSUM);
    CHECK_EQ(virtio->csum_start, 14 + ip_header);
    CHECK_EQ(virtio->csum_offset, 16);
    if (super.segments == 1) {
        CHECK_EQ(virtio->gso_type, VIRTIO_NET_HDR_GSO_NONE);
        CHECK_EQ(virtio->gso_size, 0);
        return;
    }
    CHECK_EQ(virtio->gso_type,
             super.first.ip_version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6);
    CHECK_EQ(virtio->hdr_len, super.first.header_bytes);
    CHECK(virtio->gso_size > 0);
    CHECK_EQ((super.payload_bytes + virtio->gso_size - 1) / virtio->gso_size, super.segments);
}

/* The kernel verifies the super-frame's own header before it segments, or instead of it. */
static void check_super_header(const uint8_t *frame, uint32_t header_bytes, uint32_t transport) {
    const uint8_t *ip = frame + 14;
    uint32_t tcp_bytes = header_bytes - transport + super.payload_bytes;
    uint32_t pseudo = 0;
    if (ip[0] >> 4 == 4) {
        CHECK_EQ(get16(ip + 2), transport - 14 + tcp_bytes);
        CHECK_EQ(sum(ip, transport - 14, 0), 0xFFFF);
        pseudo = sum(ip + 12, 8, 6 + tcp_bytes);
    } else {
        CHECK_EQ(get16(ip + 4), tcp_bytes);
        pseudo = sum(ip + 8, 32, 6 + tcp_bytes);
    }
    CHECK_EQ(get16(frame + transport + 16), pseudo);
    CHECK(transport - 14 + tcp_bytes <= PF_OFFLOAD_MAX_BYTES || super.segments == 1);
}

static void write_out(void) {
    if (super.segments == 0) {
        return;
    }
    size_t header = pf_super_frame_finish(&super) - PF_VIRTIO_HEADER_BYTES;
    struct virtio_net_hdr virtio = super.header.virtio;
    check_virtio(&virtio);
    uint32_t transport = virtio.csum_start;
    const uint8_t *frame = super.header.frame;
    check_super_header(frame, (uint32_t)header, transport);
    uint32_t unit = super.segments > 1 ? virtio.gso_size : super.payload_bytes;
    uint32_t done = 0;
    uint32_t index = 0;
    do {
        uint32_t part = super.payload_bytes - done < unit ? super.payload_bytes - done : unit;
        CHECK(produced_count < STREAM_MAX);
        struct frame *out = &produced[produced_count++];
        out->bytes = (uint32_t)header + part;
        memcpy(out->data, frame, header);
        memcpy(out->data + header, payload + done, part);
        uint8_t *ip = out->data + 14;
        if (ip[0] >> 4 == 4) {
            put16(ip + 2, out->bytes - 14U);
            put16(ip + 4, get16(ip + 4) + index);
        } else {
            put16(ip + 4, out->bytes - transport);
        }
        uint8_t *tcp = out->data + transport;
        put32(tcp + 4, get32(tcp + 4) + done);
        done += part;
        tcp[13] = (uint8_t)(done < super.payload_bytes ? tcp[13] & ~0x09U : tcp[13]);
        complete(out->data, out->bytes, transport);
        ++index;
    } while (done < super.payload_bytes);
    ++written;
    super.segments = 0;
}

/* What tap_transmit.c does with the pure functions. */
static void send_frame(const struct shape *shape) {
    CHECK(expected_count < STREAM_MAX);
    struct frame *frame = &expected[expected_count++];
    build(frame, shape);
    struct pf_tcp_frame parsed;
    size_t headers = frame->bytes - shape->payload;
    /* Exactly the headers are contiguous, in memory that ends there. */
    uint8_t *contiguous = malloc(headers);
    memcpy(contiguous, frame->data, headers);
    CHECK(pf_tcp_frame_parse(contiguous, headers, frame->bytes, &parsed));
    CHECK_EQ(parsed.header_bytes, headers);
    CHECK_EQ(parsed.payload_bytes, shape->payload);
    if (pf_super_frame_accepts(&super, contiguous, &parsed)) {
        memcpy(payload + super.payload_bytes, frame->data + headers, shape->payload);
        pf_super_frame_append(&super, &parsed);
    } else {
        write_out();
        pf_super_frame_begin(&super, contiguous, &parsed);
        memcpy(payload, frame->data + headers, shape->payload);
    }
    free(contiguous);
}

static void begin_stream(void) {
    memset(&super, 0, sizeof(super));
    expected_count = produced_count = written = 0;
}

static void end_stream(void) {
    write_out();
    CHECK_EQ(produced_count, expected_count);
    for (uint32_t i = 0; i < expected_count; ++i) {
        CHECK_EQ(produced[i].bytes, expected[i].bytes);
        CHECK(memcmp(produced[i].data, expected[i].data, expected[i].bytes) == 0);
    }
}

static void advance(struct shape *shape) {
    shape->sequence += shape->payload;
    ++shape->id;
}

/* ---- tests ---- */

static void bulk_becomes_one_frame(uint8_t ip_version, uint8_t tcp_options) {
    struct shape shape = plain4;
    shape.ip_version = ip_version;
    shape.tcp_options = tcp_options;
    shape.sequence = 0xFFFFF000U; /* wraps inside the super-frame */
    shape.id = 0xFFF8;
    begin_stream();
    for (int i = 0; i < 30; ++i) {
        shape.payload = i == 29 ? 77 : 1460;
        shape.flags = i == 29 ? 0x19 : 0x10;
        send_frame(&shape);
        advance(&shape);
    }
    CHECK(!pf_super_frame_open(&super));
    end_stream();
    CHECK_EQ(written, 1);
}

static void test_bulk_becomes_one_frame(void) {
    bulk_becomes_one_frame(4, 0);
    bulk_becomes_one_frame(4, 12);
    bulk_becomes_one_frame(6, 0);
    bulk_becomes_one_frame(6, 12);
}

static void test_total_stays_under_the_limit(void) {
    struct shape shape = plain4;
    begin_stream();
    for (int i = 0; i < 100; ++i) {
        send_frame(&shape);
        advance(&shape);
    }
    end_stream();
    CHECK_EQ(written, 3); /* 41 segments of 1460 fit into 60000 bytes */
    shape.payload = 8;
    begin_stream();
    for (int i = 0; i < 300; ++i) {
        send_frame(&shape);
        advance(&shape);
    }
    end_stream();
    CHECK_EQ(written, 3); /* PF_OFFLOAD_MAX_SEGMENTS */
}

static void test_ipv4_options_are_repeated(void) {
    struct shape shape = plain4;
    shape.ip_options = 40;
    shape.tcp_options = 40;
    begin_stream();
    for (int i = 0; i < 4; ++i) {
        send_frame(&shape);
        advance(&shape);
    }
    end_stream();
    CHECK_EQ(written, 1);
}

/* Sends two segments, the second changed by `change`; returns the number of frames written. */
static uint32_t pair(uint8_t ip_version, void (*change)(struct shape *shape)) {
    struct shape shape = plain4;
    shape.ip_version = ip_version;
    begin_stream();
    send_frame(&shape);
    advance(&shape);
    change(&shape);
    send_frame(&shape);
    end_stream();
    return written;
}

static void change_nothing(struct shape *shape) { (void)shape; }
static void change_sequence(struct shape *shape) { shape->sequence += 1; }
static void change_retransmit(struct shape *shape) { shape->sequence -= shape->payload; }
static void change_ack(struct shape *shape) { shape->acknowledgement += 1; }
static void change_window(struct shape *shape) { shape->window += 1; }
static void change_tos(struct shape *shape) { shape->tos = 4; }
static void change_id(struct shape *shape) { shape->id += 1; }
static void change_port(struct shape *shape) { shape->remote_port += 1; }
static void change_options(struct shape *shape) { shape->tcp_options = 12; }
static void change_longer(struct shape *shape) { shape->payload += 1; }
static void change_empty(struct shape *shape) { shape->payload = 0; }
static void change_syn(struct shape *shape) { shape->flags |= 0x02; }
static void change_rst(struct shape *shape) { shape->flags |= 0x04; }
static void change_cwr(struct shape *shape) { shape->flags |= 0x80; }
static void change_urgent(struct shape *shape) {
    shape->flags |= 0x20;
    shape->urgent = 3;
}
static void change_shorter(struct shape *shape) { shape->payload -= 1; }
static void change_push(struct shape *shape) { shape->flags |= 0x08; }
static void change_fin(struct shape *shape) { shape->flags |= 0x01; }
static void change_version(struct shape *shape) { shape->ip_version = 10 - shape->ip_version; }

static void test_what_may_differ(void) {
    void (*const together[])(struct shape *) = {change_nothing, change_shorter, change_push,
                                                change_fin};
    void (*const apart[])(struct shape *) = {
        change_sequence, change_retransmit, change_ack,     change_window, change_tos,
        change_port,     change_empty,      change_options, change_longer, change_syn,
        change_rst,      change_cwr,        change_urgent,  change_version};
    for (uint8_t version = 4; version <= 6; version += 2) {
        for (size_t i = 0; i < sizeof(together) / sizeof(together[0]); ++i) {
            CHECK_EQ(pair(version, together[i]), 1);
        }
        for (size_t i = 0; i < sizeof(apart) / sizeof(apart[0]); ++i) {
            CHECK_EQ(pair(version, apart[i]), 2);
        }
    }
    CHECK_EQ(pair(4, change_id), 2);
    CHECK_EQ(pair(6, change_id), 1); /* IPv6 has none */
}

static void test_nothing_follows_the_last_segment(void) {
    void (*const last[])(struct shape *) = {change_shorter, change_push, change_fin, change_syn};
    for (size_t i = 0; i < sizeof(last) / sizeof(last[0]); ++i) {
        struct shape shape = plain4;
        begin_stream();
        for (int k = 0; k < 3; ++k) {
            struct shape sent = shape;
            if (k == 1) {
                last[i](&sent);
            }
            send_frame(&sent);
            shape.sequence += sent.payload;
            ++shape.id;
        }
        end_stream();
        CHECK(written >= 2);
    }
}

static void test_any_stream_survives(void) {
    for (int round = 0; round < 3000; ++round) {
        struct shape shape = plain4;
        shape.ip_version = check_random(2) != 0 ? 4 : 6;
        shape.sequence = (uint32_t)check_random(0xFFFFFFFFU);
        shape.id = (uint16_t)check_random(65536);
        shape.payload = (uint16_t)(1 + check_random(check_random(4) == 0 ? 8900 : 1460));
        void (*const changes[])(struct shape *) = {
            change_sequence, change_retransmit, change_ack, change_window, change_tos,
            change_port,     change_options,    change_id,  change_empty,  change_longer};
        begin_stream();
        uint32_t count = 1 + check_random(60);
        for (uint32_t i = 0; i < count; ++i) {
            struct shape sent = shape;
            uint32_t dice = check_random(24);
            if (dice < sizeof(changes) / sizeof(changes[0])) {
                changes[dice](&sent);
            } else if (dice == 11) {
                sent.flags = (uint8_t)check_random(256);
            } else if (dice == 12) {
                sent.payload = (uint16_t)check_random(shape.payload + 1U);
            }
            send_frame(&sent);
            shape.sequence = sent.sequence + sent.payload;
            shape.id = (uint16_t)(sent.id + 1);
        }
        end_stream();
    }
}

static void test_fragments_and_others_are_refused(void) {
    struct frame frame;
    struct pf_tcp_frame parsed;
    build(&frame, &plain4);
    CHECK(pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes, &parsed));
    frame.data[14 + 6] = 0x20; /* more fragments */
    CHECK(!pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes, &parsed));
    frame.data[14 + 6] = 0x00;
    frame.data[14 + 7] = 0x01; /* a later fragment */
    CHECK(!pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes, &parsed));
    frame.data[14 + 6] = 0x40; /* do not fragment */
    frame.data[14 + 7] = 0x00;
    CHECK(pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes, &parsed));
    CHECK(!pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes + 1U, &parsed));
    CHECK(!pf_tcp_frame_parse(frame.data, frame.bytes - 1U, frame.bytes - 1U, &parsed));
    frame.data[14 + 9] = 17;
    CHECK(!pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes, &parsed));
    frame.data[14 + 9] = 6;
    frame.data[13] = 0x06; /* ARP */
    CHECK(!pf_tcp_frame_parse(frame.data, frame.bytes, frame.bytes, &parsed));
}

/* Under ASan: each input ends where its allocation ends. */
static void test_malformed_input_stays_inside(void) {
    static struct frame frame;
    for (int round = 0; round < 200000; ++round) {
        struct shape shape = plain4;
        shape.ip_version = check_random(2) != 0 ? 4 : 6;
        shape.payload = 20;
        build(&frame, &shape);
        for (uint32_t i = check_random(6); i > 0; --i) {
            frame.data[12 + check_random(48)] = (uint8_t)check_random(256);
        }
        size_t bytes = check_random(frame.bytes + 1U);
        uint8_t *exact = malloc(bytes + 1U);
        memcpy(exact + 1, frame.data, bytes);
        struct pf_tcp_frame parsed;
        if (pf_tcp_frame_parse(exact + 1, bytes, check_random(2) != 0 ? bytes : frame.bytes,
                               &parsed)) {
            CHECK(parsed.header_bytes <= bytes);
            CHECK(parsed.header_bytes <= PF_OFFLOAD_HEADER_MAX);
            if (pf_super_frame_accepts(&super, exact + 1, &parsed)) {
                pf_super_frame_append(&super, &parsed);
            } else {
                pf_super_frame_begin(&super, exact + 1, &parsed);
            }
            struct pf_super_frame copy = super;
            CHECK_EQ(pf_super_frame_finish(&copy),
                     PF_VIRTIO_HEADER_BYTES + super.first.header_bytes);
        }
        free(exact);
    }
}

int main(void) {
    check_random_init();
    check_watchdog(120);
    RUN(test_bulk_becomes_one_frame);
    RUN(test_total_stays_under_the_limit);
    RUN(test_ipv4_options_are_repeated);
    RUN(test_what_may_differ);
    RUN(test_nothing_follows_the_last_segment);
    RUN(test_any_stream_survives);
    RUN(test_fragments_and_others_are_refused);
    RUN(test_malformed_input_stays_inside);
    return 0;
}
