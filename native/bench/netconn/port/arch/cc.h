/* How lwIP reaches this platform, for the benchmark. */
#ifndef NETCONN_BENCH_ARCH_CC_H
#define NETCONN_BENCH_ARCH_CC_H

#include <stdint.h>
#include <stdlib.h>

#define LWIP_ERRNO_STDINCLUDE 1
#define LWIP_TIMEVAL_PRIVATE 0
#define LWIP_RAND() ((uint32_t)random())

_Noreturn void bench_fail(const char *message, const char *file, int line);
#define LWIP_PLATFORM_ASSERT(message) bench_fail(message, __FILE__, __LINE__)
#define LWIP_PLATFORM_DIAG(message)                                                                \
    do {                                                                                           \
    } while (0)

#endif
