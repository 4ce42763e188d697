/* Packets as a peer, a router or an attacker could send them: right but for a few mutations, so
 * that they get as far as the code behind the checks, and no further than an honest one. */
#ifndef PF_TESTS_FRAME_MAKE_H
#define PF_TESTS_FRAME_MAKE_H

#include "wire_sim.h"

#include "lwip/priv/tcp_priv.h"
#include "lwip/prot/tcp.h"

enum { PACKET_MAX = 3000, IP4_BYTES = 20, IP6_BYTES = 40 };

struct packet {
    uint32_t length;
    uint8_t data[PACKET_MAX]; /* from the IP header on */
};

static inline void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

static inline uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static inline bool packet_six(const struct packet *p) { return p->data[0] >> 4 == 6; }

static inline uint32_t header_bytes(bool six) { return six ? IP6_BYTES : IP4_BYTES; }

/* One that is likely to be the first wrong one. */
static inline uint32_t edge(void) {
    static const uint32_t edges[] = {
        0,    1,      2,      3,      4,      5,      7,      8,      9,      12,    15,   16,
        19,   20,     21,     23,     24,     39,     40,     41,     48,     59,    60,   63,
        64,   127,    128,    254,    255,    256,    536,    576,    1279,   1280,  1460, 1499,
        1500, 0x1fff, 0x2000, 0x3fff, 0x7fff, 0x8000, 0xfff0, 0xfff8, 0xfffe, 0xffff};
    return check_random(4) ? edges[check_random(sizeof(edges) / sizeof(edges[0]))]
                           : check_random(65536);
}

static inline uint32_t edge32(void) {
    static const uint32_t edges[] = {0, 1, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    return check_random(3) ? edges[check_random(6)] : edge() << check_random(17);
}

static inline void append(struct packet *p, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes && p->length < PACKET_MAX - 8; i++) {
        p->data[p->length++] = (uint8_t)check_random(256);
    }
}

/* ---- addresses ---- */

static inline void some_address(bool six, bool own, uint8_t *at) {
    static const uint8_t groups6[][16] = {
        {0xff, 2, [15] = 1}, {0xff, 2, [11] = 1, 0xff, [15] = 1}, {0xff, 0x15, [15] = 9}};
    struct pf_addr addr = wire_addr(six, !own, 0);
    uint32_t kind = check_random(24);
    if (kind < 4) { /* those of the Ethernet */
        addr.ip[1] = 2;
    } else if (kind == 4 && six) {
        memset(addr.ip, 0, 8);
        addr.ip[0] = 0xfe;
        addr.ip[1] = 0x80;
    } else if (kind == 5) {
        memset(addr.ip, 0, sizeof(addr.ip));
    } else if (kind == 6 && six) {
        memcpy(addr.ip, groups6[check_random(3)], sizeof(addr.ip));
    } else if (kind == 6) {
        put32(addr.ip, check_random(2) ? 0xe0000001 : 0xef010101);
    } else if (kind == 7) {
        addr.ip[six ? 15 : 3] = check_random(2) ? 255 : (uint8_t)check_random(256);
    } else if (kind == 8 && !six) {
        put32(addr.ip, check_random(2) ? 0xffffffff : 0x7f000001);
    }
    memcpy(at, addr.ip, six ? 16 : 4);
}

static inline void begin_ip(struct packet *p, bool six, uint8_t protocol) {
    memset(p->data, 0, IP6_BYTES);
    p->length = header_bytes(six);
    if (six) {
        p->data[0] = 0x60;
        p->data[6] = protocol;
        p->data[7] = check_random(4) ? 255 : (uint8_t)check_random(256);
    } else {
        p->data[0] = 0x45;
        put16(p->data + 4, check_random(64));
        p->data[8] = check_random(4) ? 255 : (uint8_t)check_random(256);
        p->data[9] = protocol;
    }
    some_address(six, false, p->data + (six ? 8 : 12));
    some_address(six, true, p->data + (six ? 24 : 16));
}

static inline void set_length(struct packet *p) {
    if (packet_six(p)) {
        put16(p->data + 4, p->length - IP6_BYTES);
    } else {
        put16(p->data + 2, p->length);
    }
}

/* ---- checksums ---- */

static inline uint32_t sum_of(const uint8_t *at, uint32_t bytes, uint32_t sum) {
    for (uint32_t i = 0; i < bytes; i++) {
        sum += i & 1 ? at[i] : (uint32_t)at[i] << 8;
    }
    return sum;
}

static inline uint32_t folded(uint32_t sum) {
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return ~sum & 0xffff;
}

/* Where the payload begins, and of what protocol; false: there is none, or only a part of it. */
static inline bool find_payload(const struct packet *p, uint32_t *at, uint8_t *protocol) {
    if (!packet_six(p)) {
        *at = (p->data[0] & 15U) * 4U;
        *protocol = p->data[9];
        return *at >= IP4_BYTES && *at <= p->length && (get16(p->data + 6) & 0x3fff) == 0;
    }
    *at = IP6_BYTES;
    *protocol = p->data[6];
    while (*protocol == 0 || *protocol == 43 || *protocol == 60) {
        if (*at + 8 > p->length) {
            return false;
        }
        *protocol = p->data[*at];
        *at += 8 + p->data[*at + 1] * 8U;
    }
    return *at <= p->length;
}

static inline void fix_checksums(struct packet *p) {
    uint32_t at;
    uint8_t protocol;
    bool six = packet_six(p);
    if (!six && p->length >= IP4_BYTES) {
        uint32_t header = (p->data[0] & 15U) * 4U;
        put16(p->data + 10, 0);
        put16(p->data + 10, folded(sum_of(p->data, header < p->length ? header : p->length, 0)));
    }
    if (p->length < header_bytes(six) || !find_payload(p, &at, &protocol)) {
        return;
    }
    uint32_t end = six ? get16(p->data + 4) + IP6_BYTES : get16(p->data + 2);
    end = end < p->length ? end : p->length;
    uint32_t field = protocol == 6                                      ? 16
                     : protocol == 17                                   ? 6
                     : protocol == 1 || protocol == 2 || protocol == 58 ? 2
                                                                        : UINT32_MAX;
    if (field == UINT32_MAX || end < at || end - at < field + 2) {
        return;
    }
    uint32_t sum = 0;
    if (protocol == 6 || protocol == 17 || protocol == 58) {
        sum = sum_of(p->data + (six ? 8 : 12), six ? 32 : 8, protocol + end - at);
    }
    put16(p->data + at + field, 0);
    put16(p->data + at + field, folded(sum_of(p->data + at, end - at, sum)));
}

/* ---- TCP ---- */

static inline uint32_t near(uint32_t number, uint32_t window) {
    switch (check_random(12)) {
    case 0:
        return number + 1;
    case 1:
        return number - 1;
    case 2:
        return number + check_random(3000);
    case 3:
        return number - check_random(3000);
    case 4:
        return number + window - check_random(3);
    case 5:
        return number - window + check_random(3);
    case 6:
        return check_random(4) ? number + check_random(window + 1) : number + edge32();
    default:
        return number;
    }
}

static inline void add_options(struct packet *p, uint32_t tcp, uint32_t number) {
    static const uint8_t kinds[] = {0, 1, 2, 2, 3, 4, 5, 5, 8, 30};
    static const uint8_t lengths[] = {0, 1, 4, 4, 3, 2, 10, 18, 10, 6};
    uint32_t begin = p->length;
    for (uint32_t i = check_random(5); i > 0 && p->length - begin <= 36; i--) {
        uint32_t which = check_random(10);
        uint8_t *at = p->data + p->length;
        if (kinds[which] < 2) {
            p->data[p->length++] = kinds[which];
            continue;
        }
        append(p, lengths[which]);
        at[0] = kinds[which];
        at[1] = check_random(12) ? lengths[which] : (uint8_t)edge();
        if (at[0] == 2 && check_random(2)) {
            put16(at + 2, edge());
        } else if (at[0] == 5) {
            put32(at + 2, near(number, 20000));
        }
    }
    while ((p->length - begin) % 4 || (p->length - begin < 36 && check_random(20) == 0)) {
        p->data[p->length++] = 1;
    }
    if (p->length - begin > 40) {
        p->length = begin + 40;
    }
    p->data[tcp + 12] = (uint8_t)((5 + (p->length - begin) / 4) << 4);
}

static inline uint8_t some_flags(const struct tcp_pcb *pcb) {
    static const uint8_t often[] = {TCP_ACK,           TCP_ACK,           TCP_ACK,
                                    TCP_ACK | TCP_PSH, TCP_ACK | TCP_PSH, TCP_ACK | TCP_FIN,
                                    TCP_ACK | TCP_URG};
    static const uint8_t rarely[] = {TCP_SYN, TCP_SYN | TCP_ACK, TCP_RST, TCP_RST | TCP_ACK,
                                     TCP_FIN, TCP_PSH,           0};
    if (pcb && pcb->state == SYN_SENT && check_random(3)) {
        return TCP_SYN | TCP_ACK;
    }
    uint32_t kind = check_random(32);
    return kind == 0  ? (uint8_t)check_random(256)
           : kind < 4 ? rarely[check_random(sizeof(rarely))]
                      : often[check_random(sizeof(often))];
}

static inline struct tcp_pcb *some_pcb(void) {
    struct tcp_pcb *pcb = check_random(8) ? tcp_active_pcbs : tcp_tw_pcbs;
    for (uint32_t skip = check_random(8); pcb && pcb->next && skip > 0; skip--) {
        pcb = pcb->next;
    }
    return pcb;
}

/* Of a connection, or a SYN to somebody who listens. */
static inline void make_tcp(struct packet *p, bool six, uint16_t listening) {
    const struct tcp_pcb *pcb = check_random(8) ? some_pcb() : NULL;
    six = pcb ? IP_IS_V6_VAL(pcb->remote_ip) : six;
    begin_ip(p, six, 6);
    uint32_t tcp = p->length;
    uint8_t *header = p->data + tcp;
    p->length += 20;
    memset(header, 0, 20);
    if (pcb) {
        uint32_t bytes = six ? 16 : 4;
        memcpy(p->data + (six ? 8 : 12), &pcb->remote_ip, bytes);
        memcpy(p->data + (six ? 24 : 16), &pcb->local_ip, bytes);
        put16(header, pcb->remote_port);
        put16(header + 2, pcb->local_port);
        put32(header + 4, near(pcb->rcv_nxt, pcb->rcv_wnd));
        put32(header + 8, near(check_random(2) ? pcb->snd_nxt : pcb->lastack, pcb->snd_wnd));
        header[13] = some_flags(pcb);
    } else {
        put16(header, 1024 + check_random(64));
        put16(header + 2, listening);
        put32(header + 4, edge32());
        header[13] = check_random(4) ? TCP_SYN : some_flags(NULL);
    }
    put16(header + 14, check_random(2) ? 0xffff : edge());
    put16(header + 18, check_random(2) ? 0 : edge());
    if (header[13] & TCP_SYN || check_random(4) == 0) {
        add_options(p, tcp, pcb ? pcb->snd_nxt : 0);
    } else {
        header[12] = 5 << 4;
    }
    if (check_random(2)) {
        append(p, check_random(4) ? check_random(40) : check_random(1400));
    }
    set_length(p);
}

/* ---- the others ---- */

static inline void make_udp(struct packet *p, bool six, uint16_t port) {
    begin_ip(p, six, 17);
    uint32_t udp = p->length;
    p->length += 8;
    append(p, check_random(4) ? check_random(64) : check_random(1472));
    put16(p->data + udp, port ^ check_random(2));
    put16(p->data + udp + 2, port);
    put16(p->data + udp + 4, p->length - udp);
    put16(p->data + udp + 6, 0);
    set_length(p);
}

/* What somebody says of a packet that we sent: `seen` is how it came back from the far address. */
static inline void make_error(struct packet *p, const struct packet *seen) {
    static const uint8_t types4[] = {3, 3, 3, 4, 5, 11, 12, 0, 8};
    static const uint8_t types6[] = {1, 1, 2, 2, 3, 4, 128, 129};
    bool six = packet_six(seen);
    uint32_t bytes = six ? 16 : 4;
    begin_ip(p, six, six ? 58 : 1);
    uint8_t *icmp = p->data + p->length;
    uint8_t *quoted = icmp + 8;
    uint32_t most = check_random(2) ? seen->length : header_bytes(six) + 8 + check_random(3) - 1;
    most = most < seen->length ? most : seen->length;
    most = most < 1400 ? most : 1400;
    icmp[0] = six ? types6[check_random(sizeof(types6))] : types4[check_random(sizeof(types4))];
    icmp[1] = (uint8_t)check_random(16);
    put16(icmp + 2, 0);
    put32(icmp + 4, check_random(2) ? edge() : edge32());
    memcpy(quoted, seen->data, most);
    if (seen->length >= header_bytes(six) && most >= header_bytes(six)) {
        memcpy(quoted + (six ? 8 : 12), seen->data + (six ? 24 : 16), bytes);
        memcpy(quoted + (six ? 24 : 16), seen->data + (six ? 8 : 12), bytes);
    }
    p->length += 8 + most;
    set_length(p);
}

static inline void make_echo(struct packet *p, bool six) {
    begin_ip(p, six, six ? 58 : 1);
    uint8_t *icmp = p->data + p->length;
    append(p, 8 + check_random(check_random(4) ? 64 : 1400));
    icmp[0] = six ? (uint8_t)(128 + check_random(2)) : (uint8_t)(8 * check_random(2));
    icmp[1] = 0;
    put16(icmp + 4, 7200 + check_random(4));
    set_length(p);
}

/* Neighbors and routers; MLD. */
static inline void make_nd(struct packet *p) {
    static const uint8_t types[] = {130, 131, 132, 133, 134, 134, 135,
                                    135, 136, 136, 136, 137, 143};
    static const uint8_t fixed[] = {24, 24, 24, 8, 16, 16, 24, 24, 24, 24, 24, 40, 28};
    static const uint8_t options[] = {1, 2, 3, 4, 5, 14, 24, 25, 31};
    static const uint8_t sizes[] = {1, 1, 4, 1, 1, 1, 3, 3, 2};
    uint32_t which = check_random(sizeof(types));
    begin_ip(p, true, 58);
    uint8_t *icmp = p->data + p->length;
    append(p, fixed[which]);
    icmp[0] = types[which];
    icmp[1] = 0;
    if (types[which] == 134) {
        put16(icmp + 6, edge());
    } else if (fixed[which] >= 24) {
        some_address(true, check_random(2), icmp + 8);
    }
    for (uint32_t i = check_random(4); i > 0; i--) {
        uint32_t kind = check_random(sizeof(options));
        uint8_t *option = p->data + p->length;
        append(p, sizes[kind] * 8U);
        option[0] = options[kind];
        option[1] = check_random(8) ? sizes[kind] : (uint8_t)edge();
        if (option[0] == 3) {
            option[2] = 64;
            put32(option + 4, edge32());
            put32(option + 8, edge32());
            memset(option + 16, 0, 16);
            option[16] = 0xfd;
            option[17] = (uint8_t)check_random(4);
        } else if (option[0] == 5) {
            put32(option + 4, check_random(2) ? edge() : edge32());
        }
    }
    set_length(p);
}

static inline void make_igmp(struct packet *p) {
    static const uint8_t types[] = {0x11, 0x11, 0x12, 0x16, 0x17, 0x22};
    begin_ip(p, false, 2);
    if (check_random(2)) { /* the router alert */
        p->data[0] = 0x46;
        put32(p->data + p->length, 0x94040000);
        p->length += 4;
    }
    uint8_t *igmp = p->data + p->length;
    append(p, check_random(3) ? 8 : 8 + check_random(24));
    igmp[0] = types[check_random(sizeof(types))];
    put32(igmp + 4, check_random(2) ? 0 : 0xef010101);
    set_length(p);
}

/* ---- more headers ---- */

static inline void insert(struct packet *p, uint32_t at, uint32_t bytes) {
    if (at <= p->length && p->length + bytes < PACKET_MAX - 8) {
        memmove(p->data + at + bytes, p->data + at, p->length - at);
        for (uint32_t i = 0; i < bytes; i++) {
            p->data[at + i] = (uint8_t)check_random(256);
        }
        p->length += bytes;
    }
}

static inline void add_extension(struct packet *p) {
    static const uint8_t kinds[] = {0, 43, 60, 60, 44, 59, 50, 51};
    uint32_t bytes = 8 * (1 + check_random(4));
    if (!packet_six(p) || p->length < IP6_BYTES || p->length + bytes > PACKET_MAX - 16) {
        return;
    }
    uint8_t kind = kinds[check_random(sizeof(kinds))];
    bytes = kind == 44 ? 8 : bytes;
    insert(p, IP6_BYTES, bytes);
    uint8_t *header = p->data + IP6_BYTES;
    header[0] = p->data[6];
    p->data[6] = kind;
    if (kind == 44) {
        put16(header + 2, check_random(3) ? 0 : edge());
        put32(header + 4, check_random(8));
    } else {
        header[1] = (uint8_t)(bytes / 8 - 1);
        if (check_random(2)) { /* a PadN over all of it */
            memset(header + 2, 0, bytes - 2);
            header[2] = 1;
            header[3] = (uint8_t)(bytes - 4);
        }
    }
    set_length(p);
}

/* ---- mutations ---- */

static inline void mutate_once(struct packet *p) {
    uint32_t header = header_bytes(packet_six(p));
    /* Mostly where fields are. */
    uint32_t span = check_random(4) && p->length > header + 40 ? header + 40 : p->length;
    uint32_t at = check_random(span + 1);
    switch (check_random(11)) {
    case 0:
        p->data[at] ^= (uint8_t)(1U << check_random(8));
        return;
    case 1:
        p->data[at] = (uint8_t)edge();
        return;
    case 2:
        put16(p->data + (at & ~1U), edge());
        return;
    case 3:
        put32(p->data + (at & ~3U), edge32());
        return;
    case 4:
        p->length = 1 + check_random(p->length);
        break;
    case 5:
        append(p, 1 + check_random(64));
        break;
    case 6:
        insert(p, at, 4 * (1 + check_random(3)));
        break;
    case 7:
        p->length -= check_random(p->length < 4 ? p->length : 4);
        break;
    case 8: /* how long it says that it is */
        put16(p->data + (packet_six(p) ? 4 : 2),
              check_random(2) ? edge() : p->length + check_random(9) - 4);
        return;
    case 9:
        if (packet_six(p)) {
            add_extension(p);
        } else {
            put16(p->data + 6, check_random(2) ? edge() : 0x2000 + check_random(32));
        }
        return;
    default:
        some_address(packet_six(p), check_random(2),
                     p->data + (packet_six(p) ? 8 : 12) + (check_random(2) ? 16 : 0));
        return;
    }
    if (check_random(2) && p->length >= header) {
        set_length(p);
    }
}

static inline void mutate(struct packet *p, uint32_t times) {
    while (times-- > 0) {
        mutate_once(p);
    }
    if (check_random(16)) {
        fix_checksums(p);
    }
}

#endif
