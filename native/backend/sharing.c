/* A listener becomes shared: from now on its connections wait in its queue until somebody asks for
 * one. What was reported to its only client so far, and not adopted, goes back there.
 *
 * The client looks at the state after it has submitted an adoption: either it sees that the
 * listener is shared, or the adoption counts. So first all that it has submitted, at any of its
 * sockets, is taken. It may have thousands of them, and nobody else is to wait for that: it is done
 * in pieces. */
#include <errno.h>

#include "backend/identity.h"
#include "backend/internal.h"

static void append(struct pf_backend *backend, struct pf_session *session) {
    struct pf_session **link = &backend->sharing;
    while (*link) {
        link = &(*link)->next_sharing;
    }
    *link = session;
    session->next_sharing = NULL;
}

static void look_again(struct pf_session *session) {
    if (session->share_left == 0) {
        append(session->backend, session);
        session->share_slot = 0;
    }
    session->share_slots = pf_session_slots(session); /* after the fence: later ones see it */
    session->share_left = session->share_slots + 1;
    session->share_submissions = session->layout.sq_depth;
}

void pf_sharing_begin(struct pf_bsock *sock) {
    pf_sock_set_state(sock, PF_STATE_SHARED, PF_STATE_WANTS_HINT);
    sock->shared_order = sock->session->backend->unadopted_order;
    sock->multishot = false;
    pf_ops_fail(sock, &sock->accepts, PF_OP_ACCEPT, -ESTALE);
    pf_full_fence();
    look_again(sock->session);
}

void pf_sharing_claimed(struct pf_session *session, struct pf_bsock *sock, const struct pf_op *op) {
    sock->connect_op = *op;
    pf_list_add(&session->claimed, &sock->claimed);
}

/* False: none waits. */
static bool end_claim(struct pf_session *session) {
    struct pf_link *link = pf_list_first(&session->claimed);
    if (!link) {
        return false;
    }
    struct pf_bsock *sock = PF_LIST_SOCK(link, claimed);
    struct pf_op done = sock->connect_op;
    pf_list_remove(link);
    sock->connect_op.op_id = 0;
    if (done.op_id) {
        pf_post(sock, &done, PF_OP_ADOPT, 0);
    }
    return true;
}

void pf_sharing_forget(struct pf_session *session) {
    while (end_claim(session)) {
    }
    struct pf_session **link = &session->backend->sharing;
    while (*link && *link != session) {
        link = &(*link)->next_sharing;
    }
    if (*link) {
        *link = session->next_sharing;
    }
    session->share_left = 0;
}

/* True: took a submission; else it is one slot further. */
static bool look(struct pf_session *session) {
    if (session->share_submissions > 0 &&
        pf_dispatch_one(pf_session_slot(session, session->share_slot))) {
        session->share_submissions--;
        return true;
    }
    session->share_slot = (session->share_slot + 1) % session->share_slots;
    session->share_submissions = session->layout.sq_depth;
    session->share_left--;
    return false;
}

bool pf_sharing_piece(struct pf_backend *backend) {
    struct pf_session *session = backend->sharing; /* in turn, if there are several */
    if (!session) {
        return false;
    }
    backend->sharing = session->next_sharing;
    append(backend, session);
    for (int i = 0; i < PF_FINISH_PIECE; i++) {
        if (session->doomed || session->finishing || session->dying) {
            pf_sharing_forget(session);
            break;
        }
        if (session->share_left > 1) {
            if (look(session)) {
                break;
            }
        } else if (!pf_session_give_back_shared(session) && !end_claim(session)) {
            pf_sharing_forget(session);
            break;
        }
    }
    return backend->sharing != NULL;
}
