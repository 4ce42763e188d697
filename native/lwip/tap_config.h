/* The textual addresses of a TAP link's configuration, parsed and checked against each other. */
#ifndef PF_LWIP_TAP_CONFIG_H
#define PF_LWIP_TAP_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver.h"

#define PF_TAP_MTU_MIN 576U
#define PF_TAP_MTU_MIN_IPV6 1280U
#define PF_TAP_MTU_MAX 65521U /* the kernel's limit: with the Ethernet header it fills 16 bits */

struct pf_prefix {
    uint8_t address[16]; /* as on the wire; IPv4: the first four bytes */
    uint8_t bits;
};

struct pf_tap_addresses {
    bool has_ipv4, has_ipv6, has_host_ipv4, has_host_ipv6, has_gateway4, has_gateway6;
    struct pf_prefix ipv4, ipv6, host_ipv4, host_ipv6;
    uint8_t gateway4[16];
    uint8_t gateway6[16];
};

/* On false, `error` names the option and its value, and errno is EINVAL. */
bool pf_tap_config_parse(const struct pf_tap_config *config, struct pf_tap_addresses *addresses,
                         char *error, size_t error_bytes);

#endif
