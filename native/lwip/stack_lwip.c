/* lwIP as the backend's stack: set-up, frames, timers. */
#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "backend/backend_api.h"
#include "futex/futex.h"
#include "lwip/account.h"
#include "lwip/conn.h"
#include "lwip/datagram.h"
#include "lwip/driver.h"
#include "lwip/init.h"
#include "lwip/internal.h"
#include "lwip/priv/tcp_priv.h"
#include "lwip/prot/ethernet.h"
#include "lwip/prot/ip.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include "lwip/stats.h"
#include "lwip/tcp.h"
#include "lwip/timeouts.h"

enum { STAGED_MAX = 32768 };
/* Datagrams that wait, by priority: no window bounds them, so without this a flood to a socket of
 * low priority would take every buffer of the driver. Each counts as its bytes and this much more.
 * Each application has its share of that: a flood to one leaves room for the datagrams of others.
 */
enum { STAGED_DATAGRAM_BYTES = 16 << 20, DATAGRAM_OVERHEAD = 2048 };

struct staged_frame {
    struct pbuf *pbuf;
    struct pf_driver *driver;
    struct stk_account *account; /* of a datagram */
    uint32_t datagram;           /* what it counts as; 0: it is none */
};

/* Frames that were received and classified, by priority. */
static struct stage {
    struct staged_frame frames[STAGED_MAX];
    uint32_t head;
    uint32_t tail;
    uint32_t datagrams; /* what all of them count as */
} stages[PF_PRIORITIES];

static struct pf_driver *drivers;
static uint64_t frames_dropped;
const struct stk_events *pf_events;
struct pf_flow_table *pf_flows;

/* ---- what lwIP asks of its platform ---- */

static pthread_t stack_thread;
static uint64_t assertions_failed;
static uint64_t isn_key[2];

void stk_adopt_thread(void) { stack_thread = pthread_self(); }

void pf_lwip_check_thread(void) {
    if (!pthread_equal(stack_thread, pthread_self())) {
        pf_lwip_assert_failed("lwIP used outside of the stack thread", __FILE__, __LINE__);
    }
}

void pf_lwip_assert_failed(const char *message, const char *file, int line) {
    assertions_failed++;
    (void)fprintf(stderr, "pifus: lwIP assertion \"%s\" failed at %s:%d\n", message, file, line);
#ifdef PIFUS_SANITIZE
    abort();
#endif
}

u32_t sys_now(void) { return (u32_t)(pf_now_ns() / 1000000U); }

static uint64_t rotate(uint64_t value, int bits) {
    return (value << bits) | (value >> (64 - bits));
}

static uint64_t mix(uint64_t hash, uint64_t word) {
    /* One SipHash-like round over two keyed lanes; enough against guessing from outside. */
    uint64_t a = hash ^ isn_key[0];
    uint64_t b = word ^ isn_key[1];
    for (int round = 0; round < 4; round++) {
        a += b;
        b = rotate(b, 13) ^ a;
        a = rotate(a, 32);
        b = rotate(b, 17) + a;
        a ^= rotate(b, 21);
    }
    return a ^ b;
}

uint32_t pf_lwip_random(void) {
    static uint64_t counter;
    return (uint32_t)mix(++counter, UINT64_C(0x9e3779b97f4a7c15));
}

uint32_t pf_tcp_isn(const void *local_ip, uint16_t local_port, const void *remote_ip,
                    uint16_t remote_port) {
    uint64_t words[2 * ((sizeof(ip_addr_t) + 7) / 8)] = {0};
    size_t half = sizeof(words) / 2;
    memcpy(words, local_ip, sizeof(ip_addr_t));
    memcpy((uint8_t *)words + half, remote_ip, sizeof(ip_addr_t));
    uint64_t hash = ((uint64_t)local_port << 16) | remote_port;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        hash = mix(hash, words[i]);
    }
    /* RFC 6528: the hash of the 4-tuple, plus a clock. Of 64 ns as on Linux, not of 4 us: it has to
     * run ahead of the bytes of the former connection between the same ports. */
    return (uint32_t)hash + (uint32_t)(pf_now_ns() / 64U);
}

/* ---- set-up ---- */

int stk_init(const struct stk_events *events) {
    static bool initialised;
    if (initialised) {
        return -EALREADY; /* lwIP's state is global: one stack per process */
    }
    if (getrandom(isn_key, sizeof(isn_key), 0) != sizeof(isn_key)) {
        return -errno;
    }
    pf_flows = pf_flow_table_open();
    if (!pf_flows) {
        return -ENOMEM;
    }
    initialised = true;
    stk_adopt_thread();
    pf_events = events;
    lwip_init();
    return pf_udp_listen();
}

static int add_driver(struct pf_driver *driver, const char *device) {
    if (!driver) {
        return errno ? -errno : -EIO;
    }
    (void)snprintf(driver->device, sizeof(driver->device), "%s", device);
    driver->ifindex = if_nametoindex(driver->device);
    driver->next = drivers;
    drivers = driver;
    return 0;
}

int stk_add_loopback(char *error, size_t error_bytes) {
    return add_driver(pf_loopback_open(error, error_bytes), "lo");
}

int stk_add_tap(const struct pf_tap_options *options, char *error, size_t error_bytes) {
    struct pf_tap_config config = {
        .interface = options->interface,
        .mtu = (uint16_t)options->mtu,
        .offload = options->offload != 0,
        .host_ipv4 = options->host_ipv4,
        .host_ipv6 = options->host_ipv6,
        .ipv4 = options->ipv4,
        .ipv6 = options->ipv6,
        .gateway4 = options->gateway4,
        .gateway6 = options->gateway6,
    };
    if (options->mtu > UINT16_MAX) {
        (void)snprintf(error, error_bytes, "mtu is %u; allowed is 576 to 65535", options->mtu);
        errno = EINVAL;
        return -EINVAL;
    }
    return add_driver(pf_tap_open(&config, error, error_bytes), options->interface);
}

int pf_device_index(const char name[16]) {
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        if (strncmp(driver->device, name, sizeof(driver->device)) == 0) {
            return netif_get_index(&driver->netif);
        }
    }
    return 0;
}

struct netif *pf_netif_of(uint32_t ifindex) {
    for (struct pf_driver *driver = drivers; driver && ifindex; driver = driver->next) {
        if (driver->ifindex == ifindex) {
            return &driver->netif;
        }
    }
    return NULL;
}

uint32_t pf_ifindex_of(const struct netif *netif) {
    for (const struct pf_driver *driver = drivers; driver; driver = driver->next) {
        if (&driver->netif == netif) {
            return driver->ifindex;
        }
    }
    return 0;
}

static struct staged_frame take_from_stage(int priority) {
    struct stage *stage = &stages[priority];
    struct staged_frame frame = stage->frames[stage->head++ % STAGED_MAX];
    if (frame.datagram) {
        PF_ACCOUNT_ADD(frame.account, staged[priority], 0U - frame.datagram);
        stk_account_free(frame.account);
        stage->datagrams -= frame.datagram;
    }
    return frame;
}

/* ---- the end ---- */

static void say_nothing(void *owner) { (void)owner; }
static void count_nothing(void *owner, uint32_t bytes) {
    (void)owner;
    (void)bytes;
}
static void blame_nobody(void *owner, int error) {
    (void)owner;
    (void)error;
}
static void drop_datagram(void *owner, const struct stk_packet *packet) {
    (void)owner;
    (void)packet;
}

static const struct stk_events nobody = {.connected = say_nothing,
                                         .acceptable = say_nothing,
                                         .readable = say_nothing,
                                         .acknowledged = count_nothing,
                                         .failed = blame_nobody,
                                         .datagram = drop_datagram,
                                         .datagram_failed = blame_nobody};

void stk_shutdown(void) {
    /* The owners have gone; with its link lwIP aborts what has an address of it. */
    pf_events = &nobody;
    while (stk_tcp_reset_some(STAGED_MAX)) {
    }
    for (int p = 0; p < PF_PRIORITIES; p++) {
        while (stk_frame_waiting(p)) {
            pbuf_free(take_from_stage(p).pbuf);
        }
    }
    while (drivers) {
        struct pf_driver *driver = drivers;
        drivers = driver->next;
        driver->ops->close(driver);
    }
    pf_flow_table_close(pf_flows);
    pf_flows = NULL;
}

/* ---- frames ---- */

static uint32_t loss_per_million;
static uint64_t loss_state;

void stk_inject_loss(uint32_t per_million, uint64_t seed) {
    loss_per_million = per_million;
    loss_state = seed | 1;
}

/* A seeded generator, so that a failing run can be repeated. */
static bool lose_this(void) {
    if (loss_per_million == 0) {
        return false;
    }
    loss_state ^= loss_state << 13;
    loss_state ^= loss_state >> 7;
    loss_state ^= loss_state << 17;
    return loss_state % 1000000U < loss_per_million;
}

static int classify(const struct pf_driver *driver, const struct pbuf *frame) {
    /* ARP, ICMP and whatever is not a connection of ours: between the bulk and the urgent. */
    if (driver->netif.flags & NETIF_FLAG_ETHERNET) {
        return pf_flow_classify_frame(pf_flows, frame->payload, frame->len, PF_PRIORITY_MEDIUM);
    }
    return pf_flow_classify_ip(pf_flows, frame->payload, frame->len, PF_PRIORITY_MEDIUM);
}

/* What the frame counts as, if it is a datagram, and for whom; 0: it is none. */
static uint32_t datagram_cost(const struct pf_driver *driver, const struct pbuf *frame,
                              struct stk_account **account) {
    size_t skip = driver->netif.flags & NETIF_FLAG_ETHERNET ? SIZEOF_ETH_HDR : 0;
    const uint8_t *ip = (const uint8_t *)frame->payload + skip;
    if (frame->len < skip + IP_HLEN) {
        return 0;
    }
    /* Only TCP has windows; and whatever IPv6 has in front of its payload is no TCP of ours. */
    if ((ip[0] >> 4 == 4 ? ip[9] : ip[6]) == IP_PROTO_TCP) {
        return 0;
    }
    *account = pf_account_or_nobody(pf_dgram_account(ip, frame->len - skip));
    return (uint32_t)frame->tot_len + DATAGRAM_OVERHEAD;
}

/* False: there is no room for it. */
static bool put_on_stage(int priority, const struct staged_frame *frame) {
    struct stage *stage = &stages[priority];
    uint32_t bytes = frame->datagram;
    if (stage->tail - stage->head == STAGED_MAX) {
        return false;
    }
    if (bytes) {
        if (!pf_account_may_stage(frame->account, priority, bytes, stage->datagrams,
                                  STAGED_DATAGRAM_BYTES)) {
            return false;
        }
        PF_ACCOUNT_ADD(pf_account_hold(frame->account), staged[priority], bytes);
        stage->datagrams += bytes;
    }
    stage->frames[stage->tail++ % STAGED_MAX] = *frame;
    return true;
}

/* Returns whether the driver may have more than these. */
static bool collect(struct pf_driver *driver, int most) {
    int taken = 0;
    for (; taken < most; taken++) {
        struct pbuf *frame = driver->ops->receive(driver);
        if (!frame) {
            break;
        }
        if (lose_this()) {
            pbuf_free(frame);
            frames_dropped++;
            continue;
        }
        struct staged_frame staged = {.pbuf = frame, .driver = driver};
        staged.datagram = datagram_cost(driver, frame, &staged.account);
        if (!put_on_stage(classify(driver, frame), &staged)) {
            /* As a full NIC queue: to wait for room would hide better frames behind this one. */
            pbuf_free(frame);
            frames_dropped++;
        }
    }
    return taken == most;
}

bool stk_collect_frames(int most) {
    bool more = false;
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        more |= collect(driver, most);
    }
    return more;
}

void stk_collect_own_frames(void) {
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        if (driver->pending && driver->pending(driver)) {
            (void)collect(driver, INT_MAX);
        }
    }
}

bool stk_frame_waiting(int priority) { return stages[priority].head != stages[priority].tail; }

void stk_process_frame(int priority) {
    if (!stk_frame_waiting(priority)) {
        return;
    }
    struct staged_frame staged = take_from_stage(priority);
    struct netif *netif = &staged.driver->netif;
    struct pbuf *frame = staged.pbuf;
    u16_t before = netif->chksum_flags;
    if (frame->flags & PF_PBUF_CHECKSUM_GOOD) {
        /* Offloaded: the sum in the frame is only partial, but the link vouches for it. */
        frame->flags &= (u8_t)~PF_PBUF_CHECKSUM_GOOD;
        netif->chksum_flags &= (u16_t) ~(NETIF_CHECKSUM_CHECK_TCP | NETIF_CHECKSUM_CHECK_UDP);
    }
    if (netif->input(frame, netif) != ERR_OK) {
        pbuf_free(frame);
        frames_dropped++;
    }
    netif->chksum_flags = before;
}

void stk_flush(void) {
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        driver->ops->flush(driver);
    }
}

void stk_timers(void) { sys_check_timeouts(); }

uint32_t stk_next_timer_ms(void) { return sys_timeouts_sleeptime(); }

int stk_next_fd(unsigned *cursor) {
    unsigned index = 0;
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        if (driver->fd >= 0 && index++ == *cursor) {
            (*cursor)++;
            return driver->fd;
        }
    }
    return -1;
}

bool stk_frames_pending(void) {
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        if (driver->pending && driver->pending(driver)) {
            return true;
        }
    }
    return false;
}

void stk_count(struct stk_counts *counts) {
    memset(counts, 0, sizeof(*counts));
    counts->frames_dropped = frames_dropped;
    for (struct pf_driver *driver = drivers; driver; driver = driver->next) {
        counts->frames_in += driver->frames_in;
        counts->frames_out += driver->frames_out;
        counts->frames_dropped += driver->frames_dropped;
    }
    counts->pcbs = lwip_stats.memp[MEMP_TCP_PCB]->used +
                   lwip_stats.memp[MEMP_TCP_PCB_LISTEN]->used + pf_dgram_count();
    counts->time_wait = tcp_pcb_index_tw_count();
    counts->pbufs = lwip_stats.memp[MEMP_PBUF]->used + lwip_stats.memp[MEMP_PBUF_POOL]->used;
    counts->held_bytes = pf_share_held();
    counts->promised_bytes = pf_share_promised();
    counts->mss_raised = lwip_stats.tcp.opterr;
    counts->refused = pf_account_refusals();
    counts->segments = lwip_stats.memp[MEMP_TCP_SEG]->used;
    counts->assertions = assertions_failed;
}
