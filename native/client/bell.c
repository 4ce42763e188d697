/* Waiting for completions by descriptor. */
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
