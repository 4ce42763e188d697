/* A wire in virtual time, from the stack to itself: what is sent to the far address comes back from
 * it, so that both ends of a connection are endpoints of this stack, and lwIP sees every packet as
 * one from a network. Addresses are swapped, which no checksum notices.
 *
 * The clock of the whole program is here (pf_now_ns): hours pass in seconds, and a seed decides
 * everything. */
#ifndef PF_TESTS_WIRE_SIM_H
#define PF_TESTS_WIRE_SIM_H

#include <stdbool.h>
#include <string.h>

#include "check.h"

#include "backend/stack.h"
#include "futex/futex.h"
#include "lwip/ip.h"
#include "lwip/nd6.h"
#include "lwip/netif.h"
#include "lwip/pbuf.h"

#define MS UINT64_C(1000000)
#define SECOND (1000 * MS)

enum { WIRE_MTU = 1500, WIRE_FRAMES = 8192, WIRE_RECENT = 64 };

/* Of a million frames each. */
struct wire_faults {
    uint32_t loss;
    uint32_t twice;
    uint32_t late; /* by up to ten times the delay: others overtake it */
    uint32_t bit;  /* one of its bits is another */
    uint32_t cut;  /* its end is missing */
};

struct wire_frame {
    uint64_t due_ns;
    uint64_t number; /* among those of one time, as they were sent */
    uint16_t length;
    uint8_t data[WIRE_MTU];
};

static struct {
    uint64_t now_ns;
    uint64_t delay_ns;
    struct wire_faults faults;
    struct netif netif;
    struct wire_frame *frames[WIRE_FRAMES]; /* under way: a heap, the next one first */
    uint32_t count;
    uint64_t sent;
    uint64_t overrun;                                 /* the wire was full */
    bool (*lose)(const uint8_t *ip, uint16_t length); /* a test's own faults; NULL: none */
    /* What was delivered last, for whoever wants to make frames like them. */
    struct wire_frame recent[WIRE_RECENT];
    uint64_t delivered;
} wire = {.now_ns = SECOND, .delay_ns = MS};

uint64_t pf_now_ns(void) { return wire.now_ns; }

/* In the place of the system's: ports and sequence numbers are of the seed, too. */
ssize_t getrandom(void *buffer, size_t length, unsigned flags) {
    (void)flags;
    for (size_t i = 0; i < length; i++) {
        ((uint8_t *)buffer)[i] = (uint8_t)check_random(256);
    }
    return (ssize_t)length;
}

static inline bool wire_happens(uint32_t per_million) {
    return per_million && check_random(1000000) < per_million;
}

static inline bool wire_before(const struct wire_frame *a, const struct wire_frame *b) {
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->number < b->number;
}

static inline void wire_swap(uint32_t i, uint32_t j) {
    struct wire_frame *frame = wire.frames[i];
    wire.frames[i] = wire.frames[j];
    wire.frames[j] = frame;
}

static inline void wire_put(const uint8_t *data, uint16_t length, uint64_t due_ns) {
    if (wire.count == WIRE_FRAMES) {
        wire.overrun++;
        return;
    }
    struct wire_frame *frame = malloc(sizeof(*frame));
    CHECK(frame != NULL);
    frame->due_ns = due_ns;
    frame->number = wire.sent++;
    frame->length = length;
    memcpy(frame->data, data, length);
    uint32_t at = wire.count++;
    wire.frames[at] = frame;
    for (; at > 0 && wire_before(wire.frames[at], wire.frames[(at - 1) / 2]); at = (at - 1) / 2) {
        wire_swap(at, (at - 1) / 2);
    }
}

static inline struct wire_frame *wire_take(void) {
    struct wire_frame *first = wire.frames[0];
    wire.frames[0] = wire.frames[--wire.count];
    for (uint32_t at = 0;;) {
        uint32_t least = at;
        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < wire.count; child++) {
            least = wire_before(wire.frames[child], wire.frames[least]) ? child : least;
        }
        if (least == at) {
            return first;
        }
        wire_swap(at, least);
        at = least;
    }
}

/* Into the stack, in a block of its own size: a byte too far is seen. */
static inline void wire_deliver(struct netif *netif, const uint8_t *data, uint16_t length) {
    struct pbuf *p = pbuf_alloc(PBUF_RAW, length, PBUF_RAM);
    CHECK(p != NULL);
    CHECK(pbuf_take(p, data, length) == ERR_OK);
    if (netif->input(p, netif) != ERR_OK) {
        (void)pbuf_free(p);
    }
}

static inline void wire_send(struct pbuf *p) {
    uint8_t data[WIRE_MTU];
    CHECK(p->tot_len <= sizeof(data));
    uint16_t length = pbuf_copy_partial(p, data, p->tot_len, 0);
    bool four = data[0] >> 4 == 4;
    uint8_t *source = data + (four ? 12 : 8);
    uint8_t *destination = data + (four ? 16 : 24);
    size_t bytes = four ? 4 : 16;
    if (destination[0] == 0xff || (four && destination[0] >= 224)) {
        return; /* nobody else is there */
    }
    uint8_t kept[16];
    memcpy(kept, source, bytes);
    memcpy(source, destination, bytes);
    memcpy(destination, kept, bytes);
    uint64_t due = wire.now_ns + wire.delay_ns;
    if (wire_happens(wire.faults.loss) || (wire.lose && wire.lose(data, length))) {
        return;
    }
    if (wire_happens(wire.faults.twice)) {
        wire_put(data, length, due + check_random((uint32_t)wire.delay_ns));
    }
    if (wire_happens(wire.faults.late)) {
        due += check_random(10 * (uint32_t)wire.delay_ns);
    }
    if (wire_happens(wire.faults.bit)) {
        data[check_random(length)] ^= (uint8_t)(1U << check_random(8));
    }
    if (wire_happens(wire.faults.cut)) {
        length = (uint16_t)(1 + check_random(length));
    }
    wire_put(data, length, due);
}

static inline err_t wire_output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *to) {
    (void)netif;
    (void)to;
    wire_send(p);
    return ERR_OK;
}

static inline err_t wire_output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *to) {
    (void)netif;
    (void)to;
    wire_send(p);
    return ERR_OK;
}

static inline err_t wire_netif(struct netif *netif) {
    netif->name[0] = 'w';
    netif->name[1] = 'i';
    netif->mtu = WIRE_MTU;
    netif->mtu6 = WIRE_MTU;
    netif->output = wire_output4;
    netif->output_ip6 = wire_output6;
    NETIF_SET_CHECKSUM_CTRL(netif, NETIF_CHECKSUM_ENABLE_ALL);
    return ERR_OK;
}

static inline void wire_open(const struct stk_events *events) {
    ip4_addr_t own;
    ip4_addr_t mask;
    ip4_addr_t far;
    ip6_addr_t own6;
    IP4_ADDR(&own, 10, 1, 0, 1);
    IP4_ADDR(&mask, 255, 255, 255, 0);
    IP4_ADDR(&far, 10, 1, 0, 2);
    CHECK(stk_init(events) == 0);
    CHECK(netif_add(&wire.netif, &own, &mask, &far, NULL, wire_netif, ip_input) != NULL);
    netif_set_default(&wire.netif);
    netif_set_link_up(&wire.netif);
    netif_set_up(&wire.netif);
    IP6_ADDR(&own6, PP_HTONL(0xfd000000), 0, 0, PP_HTONL(1));
    ip6_addr_assign_zone(&own6, IP6_UNICAST, &wire.netif);
    netif_ip6_addr_set(&wire.netif, 0, &own6);
    netif_ip6_addr_set_state(&wire.netif, 0, IP6_ADDR_PREFERRED);
}

static inline struct pf_addr wire_addr(bool six, bool far, uint16_t port) {
    struct pf_addr addr = {.family = six ? PF_FAMILY_IPV6 : PF_FAMILY_IPV4, .port = port};
    static const uint8_t four_bytes[4] = {10, 1, 0, 1};
    memcpy(addr.ip, four_bytes, sizeof(four_bytes));
    if (six) {
        memset(addr.ip, 0, sizeof(addr.ip));
        addr.ip[0] = 0xfd;
    }
    addr.ip[six ? 15 : 3] = far ? 2 : 1;
    return addr;
}

/* Delivers the next frame, or lets time pass to the next timer, but not past `until_ns`. */
static inline void wire_step(uint64_t until_ns) {
    uint32_t ms = stk_next_timer_ms();
    uint64_t timer_ns = ms < 1000000 ? wire.now_ns + ms * MS : UINT64_MAX;
    uint64_t next_ns = timer_ns < until_ns ? timer_ns : until_ns;
    if (wire.count && wire.frames[0]->due_ns <= next_ns) {
        struct wire_frame *frame = wire_take();
        wire.now_ns = frame->due_ns > wire.now_ns ? frame->due_ns : wire.now_ns;
        wire.recent[wire.delivered++ % WIRE_RECENT] = *frame;
        wire_deliver(&wire.netif, frame->data, frame->length);
        free(frame);
    } else {
        wire.now_ns = next_ns > wire.now_ns ? next_ns : wire.now_ns;
        stk_timers();
    }
}

/* Nothing is left of what the stack had. */
static inline void wire_check_empty(void) {
    struct stk_counts counts;
    stk_count(&counts);
    CHECK_EQ(counts.pcbs, 0);
    CHECK_EQ(counts.segments, 0);
    CHECK_EQ(counts.pbufs, 0);
    CHECK_EQ(counts.held_bytes, 0);
    CHECK_EQ(counts.promised_bytes, 0);
}

#endif
