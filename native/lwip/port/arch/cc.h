/* How lwIP reaches this platform. */
#ifndef PF_LWIP_ARCH_CC_H
#define PF_LWIP_ARCH_CC_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#define LWIP_ERRNO_INCLUDE <errno.h>
#define LWIP_TIMEVAL_PRIVATE 0
/* <arpa/inet.h> has htons and the like; lwIP's macros of the same names would clash with it. */
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS

/* getrandom-seeded generator: ports, IP-IDs, transaction numbers must not be guessable. */
uint32_t pf_lwip_random(void);
#define LWIP_RAND() pf_lwip_random()

/* A failed lwIP assertion can be provoked from the network: fatal in tests, counted in production.
 */
void pf_lwip_assert_failed(const char *message, const char *file, int line);
#define LWIP_PLATFORM_ASSERT(message) pf_lwip_assert_failed(message, __FILE__, __LINE__)
#define LWIP_PLATFORM_DIAG(message)                                                                \
    do {                                                                                           \
    } while (0)

#endif
