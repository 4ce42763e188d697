/* Waiting by descriptor, for completions and for what can be read. */
#include <errno.h>

#include "client/internal.h"

int pf_bell_arm(struct pf_client *client) {
    if (pf_client_ended(client)) {
        return -EPIPE;
    }
    pf_lock(client);
    bool news = false;
    /* Announce, fence, look: the backend publishes, fences, and looks whether this changed. */
    pf_store_fence(&client->c2b_control->bell_arm, ++client->bell_arm);
    for (int p = 0; p < PF_PRIORITIES; p++) {
        news |= client->ready_first[p] != PF_NO_SLOT || pf_hint_waiting(&client->events[p]);
    }
    pf_unlock(client);
    return news;
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
