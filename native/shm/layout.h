/* abi.h with a guard, and the promises about it that the compiler checks. */
#ifndef PF_SHM_LAYOUT_H
#define PF_SHM_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "shm/abi.h"

_Static_assert(sizeof(struct pf_addr) == 24, "pf_addr is 24 bytes");
_Static_assert(sizeof(struct pf_sqe) == 64, "a submission is one cache line");
_Static_assert(sizeof(struct pf_cqe) == 64, "a completion is one cache line");
_Static_assert(sizeof(struct pf_datagram) == 72, "a multiple of eight");
_Static_assert(sizeof(struct pf_c2b_control) == 2 * PF_CACHE_LINE, "two lines");
_Static_assert(offsetof(struct pf_c2b_control, event_head) == PF_CACHE_LINE, "own line");
_Static_assert(sizeof(struct pf_socket_c2b) == PF_CACHE_LINE, "one line");
_Static_assert(sizeof(struct pf_b2c_header) == 136, "granted layout");
_Static_assert(sizeof(struct pf_b2c_control) == 3 * PF_CACHE_LINE, "three lines");
_Static_assert(offsetof(struct pf_b2c_control, event_tail) == PF_CACHE_LINE, "own line");
_Static_assert(sizeof(struct pf_socket_b2c) == 2 * PF_CACHE_LINE, "two lines");
_Static_assert(offsetof(struct pf_socket_b2c, event) == PF_CACHE_LINE, "own line");
_Static_assert(offsetof(struct pf_public, sleeping) == PF_CACHE_LINE, "own line");
_Static_assert(offsetof(struct pf_public, started_ns) == 2 * PF_CACHE_LINE, "own line");
_Static_assert(PF_PRIORITY_LOW + 1 == PF_PRIORITIES, "arrays by priority");

#endif
