/* The loopback link: a bounded queue of IP packets from the stack to itself.
 *
 * lwIP's own netif_poll() drains until the queue is empty, which with two endpoints in one stack
 * may be never; here the main loop takes one packet at a time. Packets are copied on output,
 * because zero-copy payload belongs to a client that may free it as soon as the connection is gone.
 */
#include "netif_loopback.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "driver.h"
#include "frame_pool.h"
#include "lwip/ip.h"

#define LOOPBACK_MTU 65535U
#define QUEUE_MAX_FRAMES 32768U
#define QUEUE_MAX_BYTES (32U * 1024U * 1024U)
/* Queued packets and what lwIP still holds of received ones. */
#define POOL_CACHE_BYTES (8U * 1024U * 1024U)
/* The NETIF_CHECKSUM_GEN_* half of netif->chksum_flags; the other half is NETIF_CHECKSUM_CHECK_*.
 */
#define GENERATE_FLAGS 0x00FFU
/* Raw sockets see, and make, the checksums of ICMP. */
#define ICMP_FLAGS                                                                                 \
    (NETIF_CHECKSUM_GEN_ICMP | NETIF_CHECKSUM_GEN_ICMP6 | NETIF_CHECKSUM_CHECK_ICMP |              \
     NETIF_CHECKSUM_CHECK_ICMP6)

struct loopback {
    struct pf_driver driver; /* first: ops and netif->state hand back this pointer */
    struct pf_frame_pool *pool;
    struct pf_frame *head;
    struct pf_frame *tail;
    uint32_t queued_frames;
    uint32_t queued_bytes;
};

/* One per stack, as lwIP's state is. */
static struct loopback *loopback;
enum pf_loop pf_loop_several;
bool pf_from_ourselves;

static err_t enqueue(struct loopback *link, struct pbuf *p, uint8_t origin_index) {
    struct pf_frame *frame = NULL;
    if (link->queued_frames < QUEUE_MAX_FRAMES &&
        link->queued_bytes + p->tot_len <= QUEUE_MAX_BYTES) {
        frame = pf_frame_take(link->pool, p->tot_len);
    }
    if (frame == NULL) {
        ++link->driver.frames_dropped;
        return ERR_OK; /* as a full NIC queue: the sender's retransmission repairs it */
    }
    struct pbuf *copy = pf_frame_wrap(frame, 0, p->tot_len);
    pbuf_copy_partial(p, frame->data, p->tot_len, 0);
    copy->if_idx = origin_index;
    if (link->tail != NULL) {
        link->tail->next = frame;
    } else {
        link->head = frame;
    }
    link->tail = frame;
    ++link->queued_frames;
    link->queued_bytes += p->tot_len;
    ++link->driver.frames_out;
    return ERR_OK;
}

static err_t output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *destination) {
    if (ip4_addr_ismulticast(destination) && pf_loop_several == PF_LOOP_NEVER) {
        return ERR_OK;
    }
    return enqueue(netif->state, p, netif_get_index(netif));
}

static err_t output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *destination) {
    if (ip6_addr_ismulticast(destination) && pf_loop_several == PF_LOOP_NEVER) {
        return ERR_OK;
    }
    return enqueue(netif->state, p, netif_get_index(netif));
}

/* A diverted packet must come in by the netif that owns its address: link-local IPv6 addresses are
 * only valid there. Nothing on this link can corrupt a packet, so no checksum is looked at, but
 * those of ICMP: clients make them. */
static err_t input_by_origin(struct pbuf *p, struct netif *netif) {
    struct netif *origin = netif_get_by_index(p->if_idx);
    if (origin == NULL || origin == netif) {
        return ip_input(p, netif);
    }
    u16_t checksum_flags = origin->chksum_flags;
    NETIF_SET_CHECKSUM_CTRL(origin, checksum_flags & (GENERATE_FLAGS | ICMP_FLAGS));
    err_t result = ip_input(p, origin);
    NETIF_SET_CHECKSUM_CTRL(origin, checksum_flags);
    return result;
}

static err_t input(struct pbuf *p, struct netif *netif) {
    pf_from_ourselves = true;
    err_t result = input_by_origin(p, netif);
    pf_from_ourselves = false;
    return result;
}

static struct pbuf *receive(struct pf_driver *driver) {
    struct loopback *link = (struct loopback *)driver;
    struct pf_frame *frame = link->head;
    if (frame == NULL) {
        return NULL;
    }
    link->head = frame->next;
    if (link->head == NULL) {
        link->tail = NULL;
    }
    frame->next = NULL;
    --link->queued_frames;
    link->queued_bytes -= frame->custom.pbuf.tot_len;
    ++driver->frames_in;
    return &frame->custom.pbuf;
}

static bool pending(struct pf_driver *driver) { return ((struct loopback *)driver)->head != NULL; }

static void flush(struct pf_driver *driver) { (void)driver; }

static void close_link(struct pf_driver *driver) {
    struct loopback *link = (struct loopback *)driver;
    netif_remove(&driver->netif);
    for (struct pbuf *p = receive(driver); p != NULL; p = receive(driver)) {
        pbuf_free(p);
    }
    if (loopback == link) {
        loopback = NULL;
    }
    pf_frame_pool_close(link->pool);
    free(link);
}

static const struct pf_driver_ops loopback_ops = {
    .name = "loopback", .receive = receive, .flush = flush, .close = close_link};

static err_t init_netif(struct netif *netif) {
    netif->name[0] = 'l';
    netif->name[1] = 'o';
    netif->mtu = LOOPBACK_MTU;
    netif->mtu6 = LOOPBACK_MTU;
    netif->output = output4;
    netif->output_ip6 = output6;
    netif->flags |= NETIF_FLAG_IGMP | NETIF_FLAG_MLD6;
    NETIF_SET_CHECKSUM_CTRL(netif, ICMP_FLAGS);
    return ERR_OK;
}

struct pf_driver *pf_loopback_open(char *error, size_t error_bytes) {
    if (loopback != NULL) {
        snprintf(error, error_bytes, "the stack already has its loopback link");
        errno = EEXIST;
        return NULL;
    }
    struct loopback *link = calloc(1, sizeof(*link));
    struct pf_frame_pool *pool = pf_frame_pool_open(PF_FRAME_POOL_BYTES, POOL_CACHE_BYTES);
    if (link == NULL || pool == NULL) {
        snprintf(error, error_bytes, "no memory for the loopback link");
        free(link);
        if (pool != NULL) {
            pf_frame_pool_close(pool);
        }
        errno = ENOMEM;
        return NULL;
    }
    link->pool = pool;
    link->driver.ops = &loopback_ops;
    link->driver.fd = -1;
    link->driver.pending = pending;
    struct netif *netif = &link->driver.netif;
    ip4_addr_t address, mask, gateway;
    IP4_ADDR(&address, 127, 0, 0, 1);
    IP4_ADDR(&mask, 255, 0, 0, 0);
    ip4_addr_set_zero(&gateway);
    netif_add(netif, &address, &mask, &gateway, link, init_netif, input);
    ip6_addr_t address6;
    IP6_ADDR(&address6, 0, 0, 0, PP_HTONL(1));
    ip6_addr_clear_zone(&address6);
    netif_ip6_addr_set(netif, 0, &address6);
    netif_ip6_addr_set_state(netif, 0, IP6_ADDR_PREFERRED);
    netif_set_up(netif);
    netif_set_link_up(netif);
    loopback = link;
    return &link->driver;
}

bool pf_loopback_is_own4(const ip4_addr_t *destination) {
    struct netif *netif;
    NETIF_FOREACH(netif) {
        if (netif_is_up(netif) && !ip4_addr_isany_val(*netif_ip4_addr(netif)) &&
            ip4_addr_eq(destination, netif_ip4_addr(netif))) {
            return true;
        }
    }
    return false;
}

bool pf_loopback_is_own6(const ip6_addr_t *destination) {
    struct netif *netif;
    NETIF_FOREACH(netif) {
        for (int i = 0; i < LWIP_IPV6_NUM_ADDRESSES; ++i) {
            if (netif_is_up(netif) && ip6_addr_isvalid(netif_ip6_addr_state(netif, i)) &&
                ip6_addr_eq(destination, netif_ip6_addr(netif, i))) {
                return true;
            }
        }
    }
    return false;
}

err_t pf_loopback_divert(struct netif *origin, struct pbuf *p) {
    return loopback == NULL ? ERR_IF : enqueue(loopback, p, netif_get_index(origin));
}

bool pf_loopback_several(struct netif *origin, struct pbuf *p, bool several) {
    bool only = pf_loop_several == PF_LOOP_ONLY;
    if (!several || !(only || pf_loop_several == PF_LOOP_COPY)) {
        return false;
    }
    (void)pf_loopback_divert(origin, p);
    return only;
}
