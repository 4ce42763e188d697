/* What one application has of what others need, too, and what all applications of its user have. */
#ifndef PF_LWIP_ACCOUNT_H
#define PF_LWIP_ACCOUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/stack.h"

struct pf_tally {
    uint64_t promised;  /* what peers may send, with what was received and not read */
    uint64_t datagrams; /* bytes of them that are not read */
    uint32_t queued;    /* buffers with bytes to send */
    uint32_t waiting;   /* connections that came in and have no owner yet */
    uint32_t half_open; /* those whose handshake is under way */
    uint32_t sockets;
    uint32_t listeners;
    uint32_t raw[2];                /* IPv4, IPv6 */
    uint32_t groups[2];             /* multicast, the same */
    uint32_t staged[PF_PRIORITIES]; /* received datagrams that wait to be processed, in bytes */
};

struct pf_user {
    uint32_t number;
    uint32_t accounts;
    struct pf_tally has; /* all of its applications together */
    struct pf_user *next;
};

struct stk_account {
    struct pf_tally has;
    struct pf_user *user;
    uint32_t holders; /* connections, datagrams, and whoever made it */
};

#define PF_ACCOUNT_ADD(account, what, more)                                                        \
    do {                                                                                           \
        struct stk_account *counted_ = (account);                                                  \
        counted_->has.what += (more);                                                              \
        counted_->user->has.what += (more);                                                        \
    } while (0)

/* For whatever is nobody's: as an application of a user of its own. */
struct stk_account *pf_account_or_nobody(struct stk_account *account);
struct stk_account *pf_account_hold(struct stk_account *account);

/* Of `most`, all together have `of_all` and a user `of_user`: so much is left to that user, if a
 * `part`-th of what it could have is kept for others. */
static inline uint64_t pf_account_left(uint64_t of_user, uint64_t of_all, uint64_t most,
                                       uint32_t part) {
    uint64_t others = of_all > of_user ? of_all - of_user : 0;
    uint64_t free = most > others ? most - others : 0;
    uint64_t share = free - free / part;
    return share > of_user ? share - of_user : 0;
}

/* Whether an application that has `theirs` may have more. False is counted. */
bool pf_account_may(uint64_t theirs, uint64_t of_user, uint64_t of_all, uint64_t most);
/* Something else was refused because a share was used up. */
void pf_account_refused(void);
uint64_t pf_account_refusals(void);
/* Limits of bytes that are kept: of one application, of one user. */
uint64_t pf_account_held_most(void);
uint64_t pf_account_user_held_most(void);

/* With `coming` that will be sockets soon. */
bool pf_account_has_room(const struct stk_account *account, uint32_t coming);
bool pf_account_may_listen(const struct stk_account *account);
void pf_account_listens(struct stk_account *account, bool yes);
/* A group of which no other endpoint is a member. */
bool pf_account_may_join(const struct stk_account *account, bool six);
/* Whether a received datagram may wait to be processed, beside `of_all` bytes of its priority. */
bool pf_account_may_stage(const struct stk_account *account, int priority, uint32_t bytes,
                          uint32_t of_all, uint32_t most);

#endif
