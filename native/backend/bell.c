/* The bell: one descriptor by which a client waits for the completions of all its sockets, beside
 * others, in an event loop.
 *
 * A UNIX stream pair and not an eventfd: with a file description that the client has too it could
 * make our writes block, and this one hangs up when the backend dies. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/internal.h"

int pf_session_bell(struct pf_backend *backend, uint64_t session, int32_t *fd) {
    int pair[2];
    struct pf_command *command = calloc(1, sizeof(*command));
    if (!command) {
        return -ENOMEM;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
        int number = errno;
        free(command);
        return -number;
    }
    command->kind = PF_COMMAND_BELL;
    command->id = session;
    command->fds[0] = pair[1];
    *fd = pair[0];
    pf_command_send(backend, command);
    return 0;
}

static void ring(const struct pf_session *session) {
    /* EAGAIN: it is full of rings that nobody heard, and so readable. */
    (void)send(session->bell_fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void pf_bell_attach(struct pf_session *session, int fd) {
    pf_bell_close(session);
    session->bell_fd = fd;
    session->bell_answer = pf_load_acquire(&session->c2b_control->bell_arm);
    ring(session); /* for what was published before, and for an arming that this one answers */
}

void pf_bell_ring(struct pf_session *session) {
    if (session->bell_fd < 0) {
        return;
    }
    uint32_t armed = pf_load_relaxed(&session->c2b_control->bell_arm);
    if (armed != session->bell_answer) {
        session->bell_answer = armed;
        ring(session);
    }
}

void pf_bell_close(struct pf_session *session) {
    if (session->bell_fd >= 0) {
        (void)close(session->bell_fd);
        session->bell_fd = -1;
    }
}
