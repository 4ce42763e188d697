/* Waiting by descriptor, for completions and for what can be read. */
#include <errno.h>

#include "client/internal.h"

/* The other side is often an event loop in Python, too, which takes longer to answer than a waiting
 * thread: so many times the budget of a wait. */
#define BELL_SPINS 4

/* Caller holds the lock. */
static bool news(const struct pf_client *client) {
    bool any = false;
    for (int p = 0; p < PF_PRIORITIES; p++) {
        any |= client->ready_first[p] != PF_NO_SLOT || pf_hint_waiting(&client->events[p]);
    }
    return any;
}

int pf_bell_arm(struct pf_client *client) {
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    pf_lock(client);
    /* Announce, fence, look: the backend publishes, fences, and looks whether this changed. */
    pf_store_fence(&client->c2b_control->bell_arm, ++client->bell_arm);
    bool any = news(client);
    pf_unlock(client);
    return any;
}

int pf_bell_spin(struct pf_client *client, int64_t most_ns) {
    int64_t budget = BELL_SPINS * pf_spin_budget(client);
    budget = most_ns < budget ? most_ns : budget;
    if (budget <= 0 || !pf_spin_worthwhile(&client->bell_spin)) {
        return 0;
    }
    const uint32_t *event = &client->b2c_control->event;
    uint32_t seen = pf_load_acquire(event);
    pf_lock(client);
    bool found = news(client);
    pf_unlock(client);
    uint64_t start = pf_now_ns();
    while (!found) {
        for (int look = 0; look < PF_SPIN_LOOKS && !found; look++) {
            found = pf_load_acquire(event) != seen;
            pf_spin_relax(look);
        }
        uint64_t now = pf_now_ns();
        if (now - start >= (uint64_t)budget || !pf_spin_pause(now, now - start)) {
            break;
        }
    }
    pf_spin_result(&client->bell_spin, found);
    return found;
}

int pf_watch(struct pf_client *client, uint32_t slot) {
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    pf_lock(client);
    struct pf_sock *sock = pf_sock_get(client, slot);
    int result = sock && sock->mirror_fd < 0 ? sock->open_error : -EBADF;
    if (result == 0) {
        /* Ask, fence, look: as of a mirror (mirror.c), with a hint for the answer. */
        pf_store_fence(&sock->c2b->read_arm, sock->c2b->read_arm + 1);
        sock->watched = true;
        result = pf_sock_readable(sock);
    }
    pf_unlock(client);
    return result;
}
