/* What a link driver gives the stack: frames in, frames out, a descriptor to sleep on.
 *
 * All of it runs in the stack thread. A driver owns its struct netif; its linkoutput gathers frames
 * and flush() writes them, so that one system call can carry many TCP segments. */
#ifndef PF_LWIP_DRIVER_H
#define PF_LWIP_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lwip/netif.h"
#include "lwip/pbuf.h"

/* In pbuf.flags of a received frame: the link vouches for the TCP/UDP checksum (lwIP uses
 * 0x01-0x20). */
#define PF_PBUF_CHECKSUM_GOOD 0x40U

struct pf_driver;

struct pf_driver_ops {
    const char *name;
    /* The next received frame, or NULL when there is none now. Never blocks. */
    struct pbuf *(*receive)(struct pf_driver *driver);
    /* Writes every frame that linkoutput gathered. Never blocks: what the link refuses is dropped
     * and counted, as a full NIC queue would. */
    void (*flush)(struct pf_driver *driver);
    void (*close)(struct pf_driver *driver);
};

struct pf_driver {
    const struct pf_driver_ops *ops;
    struct netif netif;
    char device[16];  /* for SO_BINDTODEVICE */
    uint32_t ifindex; /* the kernel's number of the device */
    int fd;           /* readable when receive() has something; -1: only pending() tells */
    /* For a driver without a descriptor: true while receive() would return a frame. */
    bool (*pending)(struct pf_driver *driver);
    uint64_t frames_in;
    uint64_t frames_out;
    uint64_t frames_dropped;
    struct pf_driver *next;
};

struct pf_tap_config {
    const char *interface; /* name of the TAP device, created if absent and allowed */
    uint8_t mac[6];        /* our own address on it; all zero: derived from the name */
    uint16_t mtu;          /* bytes, 576..65535; 0: 1500 */
    bool offload;          /* virtio-net header: checksum and TCP segmentation offload both ways */
    const char
        *host_ipv4; /* "a.b.c.d/n" that the kernel's end gets when it has none; NULL: leave */
    const char *host_ipv6; /* the same for IPv6 */
    const char *ipv4;      /* our own "a.b.c.d/n"; NULL: none */
    const char *ipv6;      /* our own "x::y/n"; NULL: link-local only */
    const char *gateway4;  /* NULL: none */
    const char *gateway6;  /* NULL: none */
};

/* Each returns a driver whose netif is added, up and addressed, or NULL with a sentence in `error`
 * that names what was wrong, and with errno set. */
struct pf_driver *pf_tap_open(const struct pf_tap_config *config, char *error, size_t error_bytes);
struct pf_driver *pf_loopback_open(char *error, size_t error_bytes);

#endif
