/* Sockets that several processes hold: what identity.c and sharing.c are for the other files. */
#ifndef PF_BACKEND_IDENTITY_H
#define PF_BACKEND_IDENTITY_H

#include "backend/internal.h"

/* identity.c: which socket a mirror descriptor stands for, whoever holds it. */
struct pf_identity {
    uint64_t number; /* the kernel's cookie of the clients' end: unique, and nobody can choose it */
    int fd;          /* the backend's end */
    bool watched;    /* by orphan_epoll_fd */
    bool arrived;    /* listener: a connection came that the mirror has not told of */
    struct pf_bsock *first; /* where the socket is; a shared listener: all who accept from it */
    struct pf_identity *next;
};
/* The mirror `fd` stands for the socket. 0 or -ENOMEM. */
int pf_identity_attach(struct pf_bsock *sock, uint64_t number, int fd);
/* The slot has nothing to do with its mirror any more. */
void pf_identity_leave(struct pf_bsock *sock);
/* The connection ended with an error: the mirror shows that for ever. Claims still find the slot.
 */
void pf_identity_hang_up(struct pf_bsock *sock);
/* The client let go of the socket, or is gone. True: another process holds it, so it stays. `kill`:
 * not what the client had until now. */
bool pf_identity_keep(struct pf_bsock *sock, bool kill);
/* Brings the socket of a ticket into the slot, in which a socket was just started. 0 or -errno; 1:
 * `op` completes when the connect under way does. */
int pf_identity_adopt(struct pf_bsock *sock, uint64_t ticket, const struct pf_op *op);
/* Closes the orphans whose mirrors nobody holds any more. */
void pf_identity_look(struct pf_backend *backend);
/* Puts right what the mirror shows, by the socket that it stands for. */
void pf_identity_refresh(struct pf_backend *backend, uint64_t number);
/* Other slots have the listener, too. */
bool pf_identity_has_others(const struct pf_bsock *sock);
bool pf_identity_is_shared(const struct pf_bsock *sock);
void pf_identity_report(struct pf_bsock *sock);
/* The oldest slot whose writes the connection still has: it is done with them. */
struct pf_bsock *pf_drains_pop(struct pf_bsock *sock);
void pf_drains_fail(struct pf_bsock *sock, int error);

/* sharing.c: a listener that others accept from, too, from now on. */
void pf_sharing_begin(struct pf_bsock *sock);
/* The claim by which the socket came to the listener is done when all that it may take is there. */
void pf_sharing_claimed(struct pf_session *session, struct pf_bsock *sock, const struct pf_op *op);
/* A bounded piece. False: nothing is left to do. */
bool pf_sharing_piece(struct pf_backend *backend);
/* The session ends: its connections go back by that. */
void pf_sharing_forget(struct pf_session *session);

#endif
