/* lwIP's error codes as errno values. */
#ifndef PF_LWIP_ERRMAP_H
#define PF_LWIP_ERRMAP_H

#include "lwip/err.h"

/* 0 for ERR_OK, else a positive errno; total over all of err_t. */
int pf_errno_of(err_t error);

#endif
