/* Who may have how much of what there is once for all: sockets, listeners, raw endpoints, multicast
 * groups, places at a port, room for datagrams that wait.
 *
 * A user leaves a sixteenth of what others do not have, and an application takes at most four times
 * what its user has left. So whatever is taken, the next application finds some, and the next user
 * as well; and one application alone has three quarters of all. */
#include "lwip/account.h"

#include <stdlib.h>

#include "lwip/memp.h"
#include "lwip/opt.h"
#include "lwip/stats.h"

enum { USER_LEAVES = 16, APPLICATION_TIMES = 4 };

static struct pf_user *users;
static uint32_t sockets_of_all;
static uint32_t listeners_of_all;
static uint32_t sockets_most = MEMP_NUM_TCP_PCB;
static uint64_t held_most = UINT64_MAX;
static uint64_t user_held_most = UINT64_MAX;
static uint64_t refusals;

static struct pf_user no_user = {.accounts = 1};
static struct stk_account nobody = {.user = &no_user, .holders = 1};

struct stk_account *pf_account_or_nobody(struct stk_account *account) {
    return account ? account : &nobody;
}

static struct pf_user *find_user(uint32_t number) {
    struct pf_user *user = users;
    while (user && user->number != number) {
        user = user->next;
    }
    if (!user && (user = calloc(1, sizeof(*user)))) {
        user->number = number;
        user->next = users;
        users = user;
    }
    return user;
}

static void leave_user(struct pf_user *user) {
    struct pf_user **link = &users;
    if (--user->accounts > 0) {
        return;
    }
    while (*link != user) {
        link = &(*link)->next;
    }
    *link = user->next;
    free(user);
}

struct stk_account *stk_account_new(uint32_t number) {
    struct stk_account *account = calloc(1, sizeof(*account));
    struct pf_user *user = account ? find_user(number) : NULL;
    if (!user) {
        free(account);
        return NULL;
    }
    user->accounts++;
    account->user = user;
    account->holders = 1;
    return account;
}

struct stk_account *pf_account_hold(struct stk_account *account) {
    account->holders++;
    return account;
}

void stk_account_free(struct stk_account *account) {
    if (account && --account->holders == 0) {
        leave_user(account->user);
        free(account);
    }
}

void stk_limit(uint32_t sockets, uint64_t held, uint64_t held_of_user) {
    sockets_most = sockets;
    held_most = held;
    user_held_most = held_of_user;
}

uint64_t pf_account_held_most(void) { return held_most; }

uint64_t pf_account_user_held_most(void) { return user_held_most; }

void pf_account_refused(void) { refusals++; }

uint64_t pf_account_refusals(void) { return refusals; }

static bool counted(bool may) {
    refusals += !may;
    return may;
}

static bool has_share(uint64_t theirs, uint64_t of_user, uint64_t of_all, uint64_t most) {
    return theirs < APPLICATION_TIMES * pf_account_left(of_user, of_all, most, USER_LEAVES);
}

bool pf_account_may(uint64_t theirs, uint64_t of_user, uint64_t of_all, uint64_t most) {
    return counted(has_share(theirs, of_user, of_all, most));
}

/* ---- sockets ---- */

void stk_account_socket(struct stk_account *account, bool more) {
    uint32_t change = more ? 1U : UINT32_MAX;
    PF_ACCOUNT_ADD(account, sockets, change);
    sockets_of_all += change;
}

/* What waits to be accepted counts as well: whoever could take sockets for it meanwhile would have
 * the user's share twice. */
bool pf_account_has_room(const struct stk_account *account, uint32_t coming) {
    const struct pf_tally *user = &account->user->has;
    uint32_t soon = user->waiting - account->has.waiting + coming;
    return pf_account_may(account->has.sockets + coming, user->sockets + soon,
                          sockets_of_all + soon, sockets_most);
}

bool stk_account_has_room(const struct stk_account *account) {
    return pf_account_has_room(account, account->has.waiting);
}

bool pf_account_may_listen(const struct stk_account *account) {
    return pf_account_may(account->has.listeners, account->user->has.listeners, listeners_of_all,
                          MEMP_NUM_TCP_PCB_LISTEN);
}

void pf_account_listens(struct stk_account *account, bool yes) {
    uint32_t change = yes ? 1U : UINT32_MAX;
    PF_ACCOUNT_ADD(account, listeners, change);
    listeners_of_all += change;
}

/* ---- datagrams ---- */

_Static_assert(MEMP_NUM_IGMP_GROUP == MEMP_NUM_MLD6_GROUP, "as many of each family");

bool pf_account_may_join(const struct stk_account *account, bool six) {
    const struct stats_mem *pool = lwip_stats.memp[six ? MEMP_MLD6_GROUP : MEMP_IGMP_GROUP];
    return pf_account_may(account->has.groups[six], account->user->has.groups[six],
                          (uint32_t)pool->used, MEMP_NUM_IGMP_GROUP);
}

bool pf_account_may_stage(const struct stk_account *account, int priority, uint32_t bytes,
                          uint32_t of_all, uint32_t most) {
    /* As if it was there already: so it fits into what is left. */
    return pf_account_may(account->has.staged[priority],
                          account->user->has.staged[priority] + bytes, of_all + bytes, most);
}
