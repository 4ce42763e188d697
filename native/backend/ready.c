/* Who has work: per priority a ring of sessions, per session a ring of sockets. Round robin over
 * applications, then over their sockets. */
#include "backend/internal.h"

static void session_link(struct pf_session *session, int p) {
    struct pf_backend *backend = session->backend;
    struct pf_session *first = backend->ready[p];
    if (session->ready_listed[p]) {
        return;
    }
    session->ready_listed[p] = true;
    if (!first) {
        session->ready_next[p] = session;
        session->ready_prev[p] = session;
        backend->ready[p] = session;
        return;
    }
    session->ready_next[p] = first;
    session->ready_prev[p] = first->ready_prev[p];
    first->ready_prev[p]->ready_next[p] = session;
    first->ready_prev[p] = session;
}

static void session_unlink(struct pf_session *session, int p) {
    struct pf_backend *backend = session->backend;
    if (!session->ready_listed[p]) {
        return;
    }
    session->ready_listed[p] = false;
    if (session->ready_next[p] == session) {
        backend->ready[p] = NULL;
        return;
    }
    session->ready_prev[p]->ready_next[p] = session->ready_next[p];
    session->ready_next[p]->ready_prev[p] = session->ready_prev[p];
    if (backend->ready[p] == session) {
        backend->ready[p] = session->ready_next[p];
    }
}

void pf_ready_add(struct pf_bsock *sock, uint32_t work) {
    sock->work |= work;
    if (sock->ready) {
        return;
    }
    struct pf_session *session = sock->session;
    struct pf_bsock *first = session->ready[sock->priority].first;
    sock->ready = true;
    if (!first) {
        sock->ready_next = sock;
        sock->ready_prev = sock;
        session->ready[sock->priority].first = sock;
        session_link(session, sock->priority);
        return;
    }
    sock->ready_next = first;
    sock->ready_prev = first->ready_prev;
    first->ready_prev->ready_next = sock;
    first->ready_prev = sock;
}

void pf_ready_remove(struct pf_bsock *sock) {
    if (!sock->ready) {
        return;
    }
    struct pf_session *session = sock->session;
    sock->ready = false;
    if (sock->ready_next == sock) {
        session->ready[sock->priority].first = NULL;
        session_unlink(session, sock->priority);
        return;
    }
    sock->ready_prev->ready_next = sock->ready_next;
    sock->ready_next->ready_prev = sock->ready_prev;
    if (session->ready[sock->priority].first == sock) {
        session->ready[sock->priority].first = sock->ready_next;
    }
}

struct pf_bsock *pf_ready_take(struct pf_backend *backend, int priority) {
    struct pf_session *session = backend->ready[priority];
    if (!session) {
        return NULL;
    }
    struct pf_bsock *sock = session->ready[priority].first;
    backend->ready[priority] = session->ready_next[priority];
    session->ready[priority].first = sock->ready_next;
    return sock;
}
