/* A TAP device as a link: Ethernet frames, with virtio-net checksum and segmentation offload. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "driver.h"
#include "frame_pool.h"
#include "lwip/etharp.h"
#include "lwip/ethip6.h"
#include "lwip/ip4_addr.h"
#include "lwip/ip6_addr.h"
#include "lwip/sys.h"
#include "lwip_hooks.h"
#include "netif/ethernet.h"
#include "netif_loopback.h"
#include "tap_config.h"
#include "tap_device.h"
#include "tap_transmit.h"

/* The shortest frame worth parsing, and what shorter ones are padded to, as a NIC would: lwIP reads
 * IP and ARP headers before it compares their length with the frame's. */
#define FRAME_MIN_BYTES 34U
#define FRAME_PADDED_BYTES 60U
#define FRAME_MAX_BYTES 65534U
/* Smaller frames are copied, so that a few bytes in a receive queue never hold a 64 KiB buffer; and
 * so are all frames while lwIP holds this many large buffers. */
#define COPY_MAX_BYTES 1600U
#define LARGE_MAX_HELD 512U
#define POOL_CACHE_BYTES (8U * 1024U * 1024U)
/* Unusable frames looked at in one receive(): the caller's turn must stay short. */
#define SKIP_MAX 32
#define LINK_PROBE_MS 1000U

struct tap {
    struct pf_driver driver; /* first: ops and netif->state hand back this pointer */
    char interface[IFNAMSIZ];
    bool offload;
    bool gone; /* the device was deleted: the descriptor is a quiet stand-in */
    bool down; /* the device is administratively down, looked at once a second */
    uint32_t last_probe_ms;
    bool has_gateway6;
    ip6_addr_t gateway6;
    struct pf_frame_pool *pool;
    struct pf_frame *spare; /* where the next read() goes; never NULL while open */
    struct pf_tap_transmit transmit;
};

/* ---- link state ---- */

/* A deleted device would report POLLERR for ever: the main loop keeps its descriptor number, but
 * something that is never readable stands behind it. */
static void silence_descriptor(struct tap *tap) {
    int quiet = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (quiet >= 0) {
        (void)dup2(quiet, tap->driver.fd);
        (void)fcntl(tap->driver.fd, F_SETFD, FD_CLOEXEC);
        close(quiet);
    }
}

/* Called between lwIP's own calls only: taking a link down rearranges lwIP's tables. */
static void link_failed(struct tap *tap, int code) {
    tap->transmit.link_error = code;
    if (code == EIO) {
        tap->down = true;
        tap->last_probe_ms = sys_now();
    } else {
        tap->gone = true;
        silence_descriptor(tap);
    }
    netif_set_link_down(&tap->driver.netif);
}

/* True when the link can be used. */
static bool check_link(struct tap *tap) {
    if (tap->gone) {
        return false;
    }
    if (tap->transmit.link_error != 0 && !tap->down) {
        link_failed(tap, tap->transmit.link_error);
        return !tap->gone;
    }
    if (tap->down && sys_now() - tap->last_probe_ms >= LINK_PROBE_MS) {
        tap->last_probe_ms = sys_now();
        if (pf_tap_device_is_up(tap->interface)) {
            tap->down = false;
            tap->transmit.link_error = 0;
            netif_set_link_up(&tap->driver.netif);
        }
    }
    return true;
}

/* ---- receiving ---- */

/* Addresses that no honest neighbour sends from: loopback, and our own. lwIP would accept both, and
 * an application that trusts 127.0.0.1 would trust the wire. */
static bool is_martian(const struct tap *tap, const uint8_t *frame, size_t bytes) {
    static const uint8_t loopback6[16] = {[15] = 1};
    const struct netif *netif = &tap->driver.netif;
    const uint8_t *ip = frame + PF_ETHERNET_HEADER_BYTES;
    if (frame[12] == 0x08 && frame[13] == 0x00) {
        uint32_t own = ip4_addr_get_u32(netif_ip4_addr(netif));
        return ip[12] == 127 || ip[16] == 127 || (own != 0 && memcmp(ip + 12, &own, 4) == 0);
    }
    if (frame[12] == 0x86 && frame[13] == 0xDD && bytes >= PF_ETHERNET_HEADER_BYTES + 40U) {
        if (memcmp(ip + 8, loopback6, 16) == 0 || memcmp(ip + 24, loopback6, 16) == 0) {
            return true;
        }
        for (int i = 0; i < LWIP_IPV6_NUM_ADDRESSES; ++i) {
            if (ip6_addr_isvalid(netif_ip6_addr_state(netif, i)) &&
                memcmp(ip + 8, netif_ip6_addr(netif, i)->addr, 16) == 0) {
                return true;
            }
        }
    }
    return false;
}

static bool is_fragment(const uint8_t *frame) {
    const uint8_t *ip = frame + PF_ETHERNET_HEADER_BYTES;
    bool fragment4 = frame[12] == 0x08 && ((ip[6] & 0x3FU) != 0 || ip[7] != 0);
    bool fragment6 = frame[12] == 0x86 && ip[6] != 6 && ip[6] != 17;
    return fragment4 || fragment6;
}

/* Does the virtio-net header vouch for the checksum? NEEDS_CSUM: the sender is this host and never
 * computed one. DATA_VALID: a NIC checked it, which says nothing about a reassembled datagram. */
static bool checksum_is_good(const struct tap *tap, const uint8_t *virtio, const uint8_t *frame) {
    if (!tap->offload) {
        return false;
    }
    return (virtio[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0 ||
           ((virtio[0] & VIRTIO_NET_HDR_F_DATA_VALID) != 0 && !is_fragment(frame));
}

/* The frame in a pbuf of its own; NULL when the pool's limit is reached. tap->spare stays set. */
static struct pbuf *wrap_frame(struct tap *tap, size_t bytes) {
    struct pf_frame *frame = tap->spare;
    size_t padded = bytes < FRAME_PADDED_BYTES ? FRAME_PADDED_BYTES : bytes;
    bool copy = bytes <= COPY_MAX_BYTES || pf_frame_pool_large_in_use(tap->pool) >= LARGE_MAX_HELD;
    struct pf_frame *other =
        pf_frame_take(tap->pool, copy ? PF_VIRTIO_HEADER_BYTES + padded : PF_FRAME_MAX_BYTES);
    if (other == NULL) {
        return NULL;
    }
    if (copy) {
        memcpy(other->data + PF_VIRTIO_HEADER_BYTES, frame->data + PF_VIRTIO_HEADER_BYTES, bytes);
        memset(other->data + PF_VIRTIO_HEADER_BYTES + bytes, 0, padded - bytes);
        frame = other;
    } else {
        tap->spare = other;
    }
    return pf_frame_wrap(frame, PF_VIRTIO_HEADER_BYTES, (uint16_t)padded);
}

/* Bytes of the frame at tap->spare->data + 10, or -1 when there is none now. The virtio-net header
 * has 10 bytes and Ethernet's 14, so the IP header is aligned; without offload its place stays
 * free. */
static ssize_t read_frame(struct tap *tap) {
    size_t header = tap->offload ? PF_VIRTIO_HEADER_BYTES : 0;
    uint8_t *to = tap->spare->data + PF_VIRTIO_HEADER_BYTES - header;
    ssize_t bytes;
    do {
        bytes = read(tap->driver.fd, to, PF_FRAME_MAX_BYTES - PF_VIRTIO_HEADER_BYTES);
    } while (bytes < 0 && errno == EINTR);
    if (bytes < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOMEM && errno != ENOBUFS) {
            link_failed(tap, errno);
        }
        return -1;
    }
    return bytes < (ssize_t)header ? 0 : bytes - (ssize_t)header;
}

static struct pbuf *receive(struct pf_driver *driver) {
    struct tap *tap = (struct tap *)driver;
    if (!check_link(tap)) {
        return NULL;
    }
    for (int i = 0; i < SKIP_MAX; ++i) {
        ssize_t bytes = read_frame(tap);
        if (bytes < 0) {
            return NULL;
        }
        const uint8_t *frame = tap->spare->data + PF_VIRTIO_HEADER_BYTES;
        if (bytes >= (ssize_t)FRAME_MIN_BYTES && bytes <= (ssize_t)FRAME_MAX_BYTES &&
            !is_martian(tap, frame, (size_t)bytes)) {
            bool good = checksum_is_good(tap, tap->spare->data, frame);
            struct pbuf *p = wrap_frame(tap, (size_t)bytes);
            if (p != NULL) {
                p->flags |= good ? PF_PBUF_CHECKSUM_GOOD : 0;
                ++driver->frames_in;
                return p;
            }
        }
        ++driver->frames_dropped;
    }
    return NULL;
}

/* ---- sending ---- */

static err_t linkoutput(struct netif *netif, struct pbuf *p) {
    pf_tap_transmit(&((struct tap *)netif->state)->transmit, p);
    return ERR_OK;
}

static err_t output4(struct netif *netif, struct pbuf *p, const ip4_addr_t *destination) {
    if (pf_loopback_is_own4(destination) && pf_loopback_divert(netif, p) == ERR_OK) {
        return ERR_OK;
    }
    bool several = ip4_addr_ismulticast(destination) || ip4_addr_isbroadcast(destination, netif);
    if (pf_loopback_several(netif, p, several)) {
        return ERR_OK;
    }
    return etharp_output(netif, p, destination);
}

static err_t output6(struct netif *netif, struct pbuf *p, const ip6_addr_t *destination) {
    if (pf_loopback_is_own6(destination) && pf_loopback_divert(netif, p) == ERR_OK) {
        return ERR_OK;
    }
    if (pf_loopback_several(netif, p, ip6_addr_ismulticast(destination))) {
        return ERR_OK;
    }
    return ethip6_output(netif, p, destination);
}

static void flush(struct pf_driver *driver) {
    struct tap *tap = (struct tap *)driver;
    pf_tap_transmit_flush(&tap->transmit);
    (void)check_link(tap);
}

const ip6_addr_t *pf_nd6_gateway(struct netif *netif, const ip6_addr_t *destination) {
    (void)destination;
    struct tap *tap = netif->state;
    return netif->output_ip6 == output6 && tap->has_gateway6 ? &tap->gateway6 : NULL;
}

/* ---- opening ---- */

static void close_tap(struct pf_driver *driver) {
    struct tap *tap = (struct tap *)driver;
    pf_tap_transmit_flush(&tap->transmit);
    netif_remove(&driver->netif);
    pf_tap_transmit_flush(&tap->transmit); /* resets of the connections that just ended */
    close(driver->fd);
    pf_frame_give(tap->spare);
    pf_frame_pool_close(tap->pool);
    free(tap);
}

static const struct pf_driver_ops tap_ops = {
    .name = "tap", .receive = receive, .flush = flush, .close = close_tap};

static err_t init_netif(struct netif *netif) {
    struct tap *tap = netif->state;
    netif->name[0] = 't';
    netif->name[1] = 'p';
    netif->output = output4;
    netif->output_ip6 = output6;
    netif->linkoutput = linkoutput;
    netif->hwaddr_len = ETH_HWADDR_LEN;
    netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET |
                   NETIF_FLAG_IGMP | NETIF_FLAG_MLD6;
    NETIF_SET_CHECKSUM_CTRL(netif, NETIF_CHECKSUM_ENABLE_ALL);
    if (tap->offload) {
        NETIF_SET_CHECKSUM_CTRL(netif, NETIF_CHECKSUM_ENABLE_ALL & ~NETIF_CHECKSUM_GEN_TCP);
    }
    return ERR_OK;
}

/* Locally administered, and the same whenever the same name comes back (FNV-1a). */
static void mac_from_name(const char *name, uint8_t mac[6]) {
    uint64_t hash = 0xcbf29ce484222325U;
    for (; *name != '\0'; ++name) {
        hash = (hash ^ (uint8_t)*name) * 0x100000001b3U;
    }
    mac[0] = 0x02;
    for (unsigned i = 1; i < 6; ++i) {
        mac[i] = (uint8_t)(hash >> (8U * i));
    }
}

static void address_netif(struct tap *tap, const struct pf_tap_addresses *addresses) {
    struct netif *netif = &tap->driver.netif;
    netif_create_ip6_linklocal_address(netif, 1);
    /* Preferred at once: waiting for duplicate detection would fail the first connections, and the
     * other end of this link is one kernel. */
    netif_ip6_addr_set_state(netif, 0, IP6_ADDR_PREFERRED);
    if (addresses->has_ipv6) {
        ip6_addr_t address = {.zone = IP6_NO_ZONE};
        memcpy(address.addr, addresses->ipv6.address, 16);
        ip6_addr_assign_zone(&address, IP6_UNICAST, netif);
        netif_ip6_addr_set(netif, 1, &address);
        netif_ip6_addr_set_state(netif, 1, IP6_ADDR_PREFERRED);
    }
    if (addresses->has_gateway6) {
        tap->has_gateway6 = true;
        memcpy(tap->gateway6.addr, addresses->gateway6, 16);
        ip6_addr_assign_zone(&tap->gateway6, IP6_UNICAST, netif);
    }
}

static void add_netif(struct tap *tap, const struct pf_tap_config *config,
                      const struct pf_tap_addresses *addresses, uint16_t mtu) {
    static const uint8_t no_mac[6];
    struct netif *netif = &tap->driver.netif;
    ip4_addr_t address = {0};
    ip4_addr_t mask = {0};
    ip4_addr_t gateway = {0};
    if (addresses->has_ipv4) {
        memcpy(&address.addr, addresses->ipv4.address, 4);
        mask.addr = lwip_htonl(0xFFFFFFFFU << (32U - addresses->ipv4.bits));
    }
    if (addresses->has_gateway4) {
        memcpy(&gateway.addr, addresses->gateway4, 4);
    }
    netif_add(netif, &address, &mask, &gateway, tap, init_netif, ethernet_input);
    netif->mtu = mtu;
    netif->mtu6 = mtu;
    if (memcmp(config->mac, no_mac, 6) == 0) {
        mac_from_name(config->interface, netif->hwaddr);
    } else {
        memcpy(netif->hwaddr, config->mac, 6);
    }
    netif_set_link_up(netif);
    netif_set_up(netif);
    if (mtu >= PF_TAP_MTU_MIN_IPV6) {
        address_netif(tap, addresses);
    }
    if (netif_default == NULL || addresses->has_gateway4 || addresses->has_gateway6) {
        netif_set_default(netif);
    }
}

static struct tap *allocate(void) {
    struct tap *tap = calloc(1, sizeof(*tap));
    struct pf_frame_pool *pool = pf_frame_pool_open(PF_FRAME_POOL_BYTES, POOL_CACHE_BYTES);
    struct pf_frame *spare = pool == NULL ? NULL : pf_frame_take(pool, PF_FRAME_MAX_BYTES);
    if (tap == NULL || spare == NULL) {
        free(tap);
        if (spare != NULL) {
            pf_frame_give(spare);
        }
        if (pool != NULL) {
            pf_frame_pool_close(pool);
        }
        errno = ENOMEM;
        return NULL;
    }
    tap->pool = pool;
    tap->spare = spare;
    return tap;
}

struct pf_driver *pf_tap_open(const struct pf_tap_config *config, char *error, size_t error_bytes) {
    struct pf_tap_addresses addresses;
    if (!pf_tap_config_parse(config, &addresses, error, error_bytes)) {
        return NULL;
    }
    struct tap *tap = allocate();
    if (tap == NULL) {
        snprintf(error, error_bytes, "no memory for TAP device '%s'", config->interface);
        return NULL;
    }
    struct pf_tap_device device;
    if (!pf_tap_device_open(config, &addresses, &device, error, error_bytes)) {
        int code = errno;
        pf_frame_give(tap->spare);
        pf_frame_pool_close(tap->pool);
        free(tap);
        errno = code;
        return NULL;
    }
    memcpy(tap->interface, config->interface, strlen(config->interface));
    tap->offload = config->offload;
    tap->driver.ops = &tap_ops;
    tap->driver.fd = device.fd;
    tap->transmit.driver = &tap->driver;
    tap->transmit.offload = config->offload;
    add_netif(tap, config, &addresses, device.mtu);
    return &tap->driver;
}
