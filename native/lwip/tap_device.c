#include "tap_device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_MTU 1500U

/* ---- rtnetlink: one request, one acknowledgement ---- */

struct request {
    struct nlmsghdr header;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg address;
    } body;
    uint8_t attributes[128];
};

static void put_attribute(struct request *request, uint16_t type, const void *data, size_t bytes) {
    struct rtattr *attribute =
        (struct rtattr *)(void *)((uint8_t *)request + NLMSG_ALIGN(request->header.nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(bytes);
    memcpy(RTA_DATA(attribute), data, bytes);
    request->header.nlmsg_len =
        NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)RTA_ALIGN(attribute->rta_len);
}

/* 0 or a positive errno. */
static int transact(int netlink, struct request *request) {
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        uint8_t rest[512]; /* the kernel repeats the request and may explain */
    } reply;
    request->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    if (send(netlink, request, request->header.nlmsg_len, 0) < 0) {
        return errno;
    }
    ssize_t bytes = recv(netlink, &reply, sizeof(reply), 0);
    if (bytes < 0) {
        return errno;
    }
    if ((size_t)bytes < NLMSG_LENGTH(sizeof(struct nlmsgerr)) ||
        reply.header.nlmsg_type != NLMSG_ERROR) {
        return EPROTO;
    }
    return -reply.error.error;
}

static struct request link_request(unsigned index) {
    struct request request = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_NEWLINK}};
    request.body.link.ifi_index = (int)index;
    return request;
}

static int set_limits(int netlink, const struct pf_tap_device *device) {
    uint32_t gso_max = PF_TAP_GSO_MAX_BYTES;
    struct request request = link_request(device->index);
    put_attribute(&request, IFLA_GSO_MAX_SIZE, &gso_max, sizeof(gso_max));
    (void)transact(netlink, &request); /* without it, oversize frames are dropped and counted */
    uint32_t mtu = device->mtu;
    request = link_request(device->index);
    put_attribute(&request, IFLA_MTU, &mtu, sizeof(mtu));
    return transact(netlink, &request);
}

static int set_up(int netlink, const struct pf_tap_device *device) {
    struct request request = link_request(device->index);
    request.body.link.ifi_flags = IFF_UP;
    request.body.link.ifi_change = IFF_UP;
    return transact(netlink, &request);
}

static int add_address(int netlink, const struct pf_tap_device *device, int family,
                       const struct pf_prefix *prefix) {
    struct request request = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                                         .nlmsg_type = RTM_NEWADDR,
                                         .nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL}};
    size_t bytes = family == AF_INET ? 4 : 16;
    request.body.address.ifa_family = (uint8_t)family;
    request.body.address.ifa_prefixlen = prefix->bits;
    request.body.address.ifa_index = device->index;
    put_attribute(&request, IFA_LOCAL, prefix->address, bytes);
    put_attribute(&request, IFA_ADDRESS, prefix->address, bytes);
    if (family == AF_INET6) {
        /* Nobody else is on this link yet: duplicate detection would only delay its first use. */
        request.body.address.ifa_flags = IFA_F_NODAD;
    }
    return transact(netlink, &request);
}

/* ---- the device ---- */

static bool fail(char *error, size_t error_bytes, int code, const char *format, const char *what,
                 const char *detail) {
    snprintf(error, error_bytes, format, what, detail);
    errno = code;
    return false;
}

static bool set_up_host(const struct pf_tap_config *config,
                        const struct pf_tap_addresses *addresses,
                        const struct pf_tap_device *device, char *error, size_t error_bytes) {
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (netlink < 0) {
        return fail(error, error_bytes, errno, "cannot configure TAP device '%s': rtnetlink: %s",
                    config->interface, strerror(errno));
    }
    const char *step = "its MTU";
    int code = set_limits(netlink, device);
    if (code == 0 && addresses->has_host_ipv4) {
        step = config->host_ipv4;
        code = add_address(netlink, device, AF_INET, &addresses->host_ipv4);
    }
    if (code == 0) {
        step = "its state to up";
        code = set_up(netlink, device);
    }
    /* After `up`, as the kernel refuses IPv6 addresses where IPv6 has not been started. */
    if (code == 0 && addresses->has_host_ipv6) {
        step = config->host_ipv6;
        code = add_address(netlink, device, AF_INET6, &addresses->host_ipv6);
    }
    close(netlink);
    if (code != 0) {
        snprintf(error, error_bytes, "cannot set %s on the host's end of TAP device '%s': %s", step,
                 config->interface, strerror(code));
        errno = code;
        return false;
    }
    return true;
}

static bool open_failed(const char *interface, int code, char *error, size_t error_bytes) {
    if (code == ENOENT || code == ENODEV || code == ENXIO) {
        return fail(error, error_bytes, code,
                    "cannot open /dev/net/tun for TAP device '%s': the kernel's tun driver is "
                    "missing: load it with 'modprobe tun' (in a container, pass --device "
                    "/dev/net/tun): %s",
                    interface, strerror(code));
    }
    return fail(error, error_bytes, code,
                "cannot open /dev/net/tun for TAP device '%s': %s: run as root, or let an "
                "administrator run: chmod 0666 /dev/net/tun",
                interface, strerror(code));
}

static bool attach_failed(const struct pf_tap_config *config, bool exists, int code, char *error,
                          size_t error_bytes) {
    const char *name = config->interface;
    const char *host = config->host_ipv4 != NULL ? config->host_ipv4 : "ADDRESS/BITS";
    if (code == EBUSY) {
        return fail(error, error_bytes, code,
                    "TAP device '%s' is in use by another process: one backend per device%s", name,
                    "");
    }
    if (code == EINVAL && exists) {
        return fail(error, error_bytes, code,
                    "'%s' exists but is not a single-queue TAP device: choose another name%s", name,
                    "");
    }
    if (code != EPERM && code != EACCES) {
        return fail(error, error_bytes, code, "cannot attach to TAP device '%s': %s", name,
                    strerror(code));
    }
    const char *how = "run as root, or let an administrator run: ";
    if (exists) {
        snprintf(error, error_bytes,
                 "TAP device '%s' belongs to another user, so using it needs CAP_NET_ADMIN: %s"
                 "ip tuntap del dev %s mode tap && ip tuntap add dev %s mode tap user $USER && "
                 "ip addr add %s dev %s && ip link set %s up",
                 name, how, name, name, host, name, name);
    } else {
        snprintf(error, error_bytes,
                 "creating TAP device '%s' needs CAP_NET_ADMIN: %sip tuntap add dev %s mode tap "
                 "user $USER && ip addr add %s dev %s && ip link set %s up",
                 name, how, name, host, name, name);
    }
    errno = code;
    return false;
}

static int attach(const struct pf_tap_config *config, bool exists, int fd) {
    struct ifreq request = {0};
    memcpy(request.ifr_name, config->interface, strlen(config->interface));
    int flags = IFF_TAP | IFF_NO_PI;
    flags |= config->offload ? IFF_VNET_HDR : 0;
    flags |= exists ? 0 : IFF_TUN_EXCL; /* what appears between our look and now is not ours */
    request.ifr_flags = (short)flags;
    if (ioctl(fd, TUNSETIFF, &request) < 0) {
        return errno;
    }
    /* The flags outlive us on a persistent device: set or cleared, never as the last user left it.
     */
    unsigned offload = config->offload ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN : 0;
    if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)offload) < 0) {
        return errno;
    }
    int header_bytes = 10;
    if (config->offload && ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0) {
        return errno;
    }
    return 0;
}

static uint16_t device_mtu(const char *interface, uint16_t fallback) {
    struct ifreq request = {0};
    memcpy(request.ifr_name, interface, strlen(interface));
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool known = fd >= 0 && ioctl(fd, SIOCGIFMTU, &request) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return known && request.ifr_mtu > 0 && request.ifr_mtu < fallback ? (uint16_t)request.ifr_mtu
                                                                      : fallback;
}

bool pf_tap_device_is_up(const char *interface) {
    struct ifreq request = {0};
    memcpy(request.ifr_name, interface, strlen(interface));
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return true;
    }
    int result = ioctl(fd, SIOCGIFFLAGS, &request);
    close(fd);
    return result == 0 && (request.ifr_flags & IFF_UP) != 0;
}

bool pf_tap_device_open(const struct pf_tap_config *config,
                        const struct pf_tap_addresses *addresses, struct pf_tap_device *device,
                        char *error, size_t error_bytes) {
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return open_failed(config->interface, errno, error, error_bytes);
    }
    bool exists = if_nametoindex(config->interface) != 0;
    int code = attach(config, exists, fd);
    if (code != 0) {
        close(fd);
        return attach_failed(config, exists, code, error, error_bytes);
    }
    device->fd = fd;
    device->index = if_nametoindex(config->interface);
    device->created = !exists;
    device->mtu = config->mtu != 0 ? config->mtu : DEFAULT_MTU;
    if (exists) {
        device->mtu = device_mtu(config->interface, device->mtu);
        return true;
    }
    if (!set_up_host(config, addresses, device, error, error_bytes)) {
        code = errno;
        close(fd);
        errno = code;
        return false;
    }
    return true;
}
