#include "lwip/errmap.h"

#include <errno.h>

int pf_errno_of(err_t error) {
    switch (error) {
    case ERR_OK:
        return 0;
    case ERR_MEM:
        return ENOMEM;
    case ERR_BUF: /* what lwIP says when no ephemeral port is free */
        return EADDRNOTAVAIL;
    case ERR_TIMEOUT:
        return ETIMEDOUT;
    case ERR_RTE:
        return ENETUNREACH;
    case ERR_INPROGRESS:
        return EINPROGRESS;
    case ERR_VAL:
    case ERR_ARG:
        return EINVAL;
    case ERR_WOULDBLOCK:
        return EAGAIN;
    case ERR_USE:
        return EADDRINUSE;
    case ERR_ALREADY:
        return EALREADY;
    case ERR_ISCONN:
        return EISCONN;
    case ERR_CONN:
        return ENOTCONN;
    case ERR_IF:
        return ENETDOWN;
    case ERR_ABRT: /* lwIP gave up: retransmissions or the connect timed out */
        return ETIMEDOUT;
    case ERR_RST:
        return ECONNRESET;
    case ERR_CLSD:
        return EPIPE;
    default:
        return EIO;
    }
}
