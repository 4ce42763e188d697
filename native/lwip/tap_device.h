/* The kernel's side of a TAP link: opening the device and, if we created it, setting it up. */
#ifndef PF_LWIP_TAP_DEVICE_H
#define PF_LWIP_TAP_DEVICE_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver.h"
#include "tap_config.h"

/* The kernel's limit for a super-frame it hands us: with its Ethernet header it must stay below
 * 65535, which lwIP's 16-bit lengths can hold. */
#define PF_TAP_GSO_MAX_BYTES 60000U

struct pf_tap_device {
    int fd;
    unsigned index;
    uint16_t mtu;
    bool created; /* by this call: it is ours to set up, and vanishes with the descriptor */
};

/* On false, `error` says what failed and how to put it right, errno is set and nothing is left
 * open. The addresses of the host's end are set only on a device that this call creates. */
bool pf_tap_device_open(const struct pf_tap_config *config,
                        const struct pf_tap_addresses *addresses, struct pf_tap_device *device,
                        char *error, size_t error_bytes);
/* Whether the interface still exists and is up; true as well when that cannot be found out. */
bool pf_tap_device_is_up(const char *interface);

#endif
