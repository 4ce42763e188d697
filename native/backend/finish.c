/* The end of an application, in pieces: it may have thousands of sockets, and nobody else is to
 * wait for all of them. */
#include <stdlib.h>

#include "backend/identity.h"
#include "backend/internal.h"

enum phase {
    LAST_WORDS = 1, /* what the client had submitted still counts, as with the kernel */
    CLOSING,
};

static void enlist(struct pf_session *session) {
    struct pf_backend *backend = session->backend;
    if (!session->finishing) {
        session->next_finishing = backend->finishing;
        backend->finishing = session;
    }
}

static void start_closing(struct pf_session *session) {
    session->finishing = CLOSING;
    session->finish_slot = 0;
    session->dying = true;
    session->backend->any_dying = true;
    /* First: a client that finds its sockets gone must find out why. */
    pf_store_release(&session->b2c_control->ended, (uint32_t)session->reason);
}

void pf_session_finish(struct pf_session *session, int reason) {
    bool kill = reason != PF_ENDED_CLOSED;
    if (!kill && (session->finishing || session->dying)) {
        return;
    }
    enlist(session);
    session->finish_kill = kill;
    session->reason = reason;
    session->finishing = LAST_WORDS;
    session->finish_slot = 0;
    session->finish_left = session->layout.sq_depth;
    if (kill) {
        start_closing(session);
    }
}

/* One slot further. False: it took a submission, or cannot go on: enough for now. */
static bool hear(struct pf_session *session) {
    if (session->doomed) {
        return false; /* broke the protocol in its last words: the loop sees to it */
    }
    if (session->finish_slot >= pf_session_slots(session)) {
        start_closing(session);
        return true;
    }
    if (session->finish_left > 0 &&
        pf_dispatch_one(pf_session_slot(session, session->finish_slot))) {
        session->finish_left--;
        return false;
    }
    session->finish_slot++;
    session->finish_left = session->layout.sq_depth;
    return true;
}

static void close_one(struct pf_bsock *sock, bool kill) {
    sock->close_op.op_id = 0;          /* nobody reads completions any more */
    if (sock->phase == PF_SOCK_NONE) { /* the open failed, or never came */
        pf_ready_remove(sock);
        pf_deadline_disarm(sock);
    }
    if (sock->phase != PF_SOCK_NONE && (kill || sock->phase != PF_SOCK_CLOSING)) {
        if (sock->phase == PF_SOCK_CLOSING) {
            sock->work |= PF_WORK_ABORT;
        } else if (!pf_identity_keep(sock, kill)) {
            pf_sock_begin_close(sock, kill);
        }
        pf_sock_check_close(sock);
    }
    if (pf_load_relaxed(&sock->c2b->waiting)) {
        pf_wake(sock);
    }
}

void pf_session_finish_sock(struct pf_bsock *sock) {
    pf_session_give_back(sock->session, sock, PF_MAX_UNADOPTED);
    close_one(sock, sock->session->finish_kill);
}

static void finished(struct pf_session *session) {
    struct pf_session **link = &session->backend->finishing;
    while (*link != session) {
        link = &(*link)->next_finishing;
    }
    *link = session->next_finishing;
    session->finishing = 0;
    /* Everybody who sleeps on anything of this session. */
    (void)pf_event_ring(&session->b2c_control->event, &session->c2b_control->waiting);
    pf_bell_close(session);
    if (!session->ended) {
        session->ended = true;
        pf_notice_send(session->backend, session->id, session->reason, NULL);
    }
}

bool pf_session_finish_piece(struct pf_backend *backend) {
    struct pf_session *session = backend->finishing;
    for (int i = 0; session && i < PF_FINISH_PIECE; i++) {
        if (session->finishing == LAST_WORDS) {
            if (!hear(session)) {
                break;
            }
        } else if (session->unadopted_count > 0) {
            pf_session_give_back(session, NULL, 1);
        } else if (session->finish_slot < pf_session_slots(session)) {
            /* pf_session_reap() relies on each one having been here. */
            uint32_t slot = session->finish_slot++;
            close_one(pf_session_slot(session, slot), session->finish_kill);
        } else {
            finished(session);
            session = backend->finishing;
        }
    }
    return backend->finishing != NULL;
}
