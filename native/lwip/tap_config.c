#include "tap_config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static bool prefix_parse(int family, const char *text, struct pf_prefix *prefix) {
    char address[INET6_ADDRSTRLEN];
    const char *slash = strchr(text, '/');
    if (slash == NULL || (size_t)(slash - text) >= sizeof(address)) {
        return false;
    }
    memcpy(address, text, (size_t)(slash - text));
    address[slash - text] = '\0';
    char *end = NULL;
    unsigned long bits = slash[1] >= '0' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : 999;
    if (end == NULL || *end != '\0' || bits == 0 || bits > (family == AF_INET ? 32U : 128U)) {
        return false;
    }
    prefix->bits = (uint8_t)bits;
    return inet_pton(family, address, prefix->address) == 1;
}

static bool invalid(char *error, size_t error_bytes, const char *option, const char *value,
                    const char *reason) {
    snprintf(error, error_bytes, "%s '%s': %s", option, value, reason);
    errno = EINVAL;
    return false;
}

static bool check_name(const char *name, char *error, size_t error_bytes) {
    size_t length = name == NULL ? 0 : strlen(name);
    /* '%' would make the kernel invent a number, and we would not know the name. */
    if (length == 0 || length >= IFNAMSIZ || strpbrk(name, "/%: \t\n\r\v\f") != NULL ||
        strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return invalid(error, error_bytes, "interface", name == NULL ? "" : name,
                       "a network interface name has 1 to 15 characters without '/', '%', ':' or "
                       "space");
    }
    return true;
}

static bool is_unicast(int family, const uint8_t address[16]) {
    static const uint8_t zero[16];
    if (family == AF_INET) {
        return address[0] != 0 && address[0] != 127 && address[0] < 224;
    }
    static const uint8_t loopback6[16] = {[15] = 1};
    return address[0] != 0xFF && memcmp(address, zero, 16) != 0 &&
           memcmp(address, loopback6, 16) != 0;
}

static bool parse_prefix(int family, const char *option, const char *text, bool *present,
                         struct pf_prefix *prefix, char *error, size_t error_bytes) {
    *present = text != NULL;
    if (text == NULL) {
        return true;
    }
    if (!prefix_parse(family, text, prefix)) {
        return invalid(error, error_bytes, option, text,
                       family == AF_INET ? "expected an IPv4 address with prefix length, such as "
                                           "10.0.0.2/24"
                                         : "expected an IPv6 address with prefix length, such as "
                                           "fd00::2/64");
    }
    if (!is_unicast(family, prefix->address)) {
        return invalid(error, error_bytes, option, text, "not a unicast address for an interface");
    }
    return true;
}

static bool parse_gateway(int family, const char *option, const char *text, bool *present,
                          uint8_t *address, char *error, size_t error_bytes) {
    *present = text != NULL;
    if (text != NULL && (inet_pton(family, text, address) != 1 || !is_unicast(family, address))) {
        return invalid(error, error_bytes, option, text,
                       family == AF_INET ? "expected an IPv4 address, such as 10.0.0.1"
                                         : "expected an IPv6 address, such as fd00::1");
    }
    return true;
}

static bool check_consistency(const struct pf_tap_config *config, const struct pf_tap_addresses *a,
                              char *error, size_t error_bytes) {
    if (a->has_ipv4 && a->has_host_ipv4 && memcmp(a->ipv4.address, a->host_ipv4.address, 4) == 0) {
        return invalid(error, error_bytes, "ipv4", config->ipv4,
                       "the host's end has the same address");
    }
    if (a->has_ipv6 && a->has_host_ipv6 && memcmp(a->ipv6.address, a->host_ipv6.address, 16) == 0) {
        return invalid(error, error_bytes, "ipv6", config->ipv6,
                       "the host's end has the same address");
    }
    if (a->has_ipv6 && a->ipv6.bits != 64) {
        return invalid(error, error_bytes, "ipv6", config->ipv6,
                       "the stack's own IPv6 prefix must be /64");
    }
    if (a->has_gateway4) {
        uint32_t own = 0;
        uint32_t gateway = 0;
        memcpy(&own, a->ipv4.address, 4);
        memcpy(&gateway, a->gateway4, 4);
        if (!a->has_ipv4 || (lwip_ntohl(own) ^ lwip_ntohl(gateway)) >> (32U - a->ipv4.bits) != 0) {
            return invalid(error, error_bytes, "gateway4", config->gateway4,
                           "not in the network of our own ipv4 address");
        }
    }
    bool wants_ipv6 = a->has_ipv6 || a->has_gateway6 || a->has_host_ipv6;
    if (config->mtu != 0 && config->mtu < PF_TAP_MTU_MIN_IPV6 && wants_ipv6) {
        char mtu[8];
        snprintf(mtu, sizeof(mtu), "%u", config->mtu);
        return invalid(error, error_bytes, "mtu", mtu, "IPv6 needs at least 1280");
    }
    return true;
}

bool pf_tap_config_parse(const struct pf_tap_config *config, struct pf_tap_addresses *a,
                         char *error, size_t error_bytes) {
    memset(a, 0, sizeof(*a));
    if (!check_name(config->interface, error, error_bytes)) {
        return false;
    }
    if (config->mtu != 0 && (config->mtu < PF_TAP_MTU_MIN || config->mtu > PF_TAP_MTU_MAX)) {
        char mtu[8];
        snprintf(mtu, sizeof(mtu), "%u", config->mtu);
        return invalid(error, error_bytes, "mtu", mtu, "expected 576 to 65521");
    }
    if ((config->mac[0] & 1U) != 0) {
        char mac[18];
        snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", config->mac[0], config->mac[1],
                 config->mac[2], config->mac[3], config->mac[4], config->mac[5]);
        return invalid(error, error_bytes, "mac", mac, "a multicast address cannot be ours");
    }
    return parse_prefix(AF_INET, "ipv4", config->ipv4, &a->has_ipv4, &a->ipv4, error,
                        error_bytes) &&
           parse_prefix(AF_INET6, "ipv6", config->ipv6, &a->has_ipv6, &a->ipv6, error,
                        error_bytes) &&
           parse_prefix(AF_INET, "host_ipv4", config->host_ipv4, &a->has_host_ipv4, &a->host_ipv4,
                        error, error_bytes) &&
           parse_prefix(AF_INET6, "host_ipv6", config->host_ipv6, &a->has_host_ipv6, &a->host_ipv6,
                        error, error_bytes) &&
           parse_gateway(AF_INET, "gateway4", config->gateway4, &a->has_gateway4, a->gateway4,
                         error, error_bytes) &&
           parse_gateway(AF_INET6, "gateway6", config->gateway6, &a->has_gateway6, a->gateway6,
                         error, error_bytes) &&
           check_consistency(config, a, error, error_bytes);
}
