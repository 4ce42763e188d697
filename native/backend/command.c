/* Between the control thread and the stack thread: commands one way, notices the other. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/internal.h"

static void ring(int fd) {
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof(one));
    (void)written; /* EAGAIN: it has been rung more often than anybody can count */
}

static void run(struct pf_backend *backend, struct pf_command *command) {
    struct pf_session *session;
    switch (command->kind) {
    case PF_COMMAND_ADD:
        pf_session_admit(backend, command->session);
        break;
    case PF_COMMAND_END:
        session = pf_session_find(backend, command->id);
        if (session) {
            session->doomed = command->reason;
            backend->any_doomed = true;
        }
        break;
    case PF_COMMAND_CLAIM:
        session = pf_session_find(backend, command->id);
        if (session && !session->dying) {
            pf_session_add_ticket(session, command->ticket, command->numbers[0]);
        }
        break;
    case PF_COMMAND_BELL:
        session = pf_session_find(backend, command->id);
        if (session && !session->ended) {
            pf_bell_attach(session, command->fds[0]);
        } else {
            (void)close(command->fds[0]);
        }
        break;
    case PF_COMMAND_MIRRORS:
        session = pf_session_find(backend, command->id);
        if (session) {
            pf_session_add_mirrors(session, command);
        } else {
            for (uint32_t i = 0; i < command->count; i++) {
                (void)close(command->fds[i]);
            }
        }
        break;
    }
}

void pf_commands_run(struct pf_backend *backend) {
    if (!pf_exchange(&backend->commands_pending, 0)) {
        return;
    }
    (void)pthread_mutex_lock(&backend->lock);
    struct pf_command *command = backend->command_first;
    backend->command_first = NULL;
    backend->command_last = NULL;
    (void)pthread_mutex_unlock(&backend->lock);
    while (command) {
        struct pf_command *next = command->next;
        run(backend, command);
        free(command);
        command = next;
    }
}

void pf_command_send(struct pf_backend *backend, struct pf_command *command) {
    (void)pthread_mutex_lock(&backend->lock);
    if (backend->command_last) {
        backend->command_last->next = command;
    } else {
        backend->command_first = command;
    }
    backend->command_last = command;
    (void)pthread_mutex_unlock(&backend->lock);
    (void)pf_exchange(&backend->commands_pending, 1);
    ring(backend->command_fd);
}

void pf_notice_send(struct pf_backend *backend, uint64_t id, int reason, struct pf_session *freed) {
    struct pf_notice *notice = calloc(1, sizeof(*notice));
    if (!notice) {
        return; /* the session stays mapped; its client is gone all the same */
    }
    notice->id = id;
    notice->reason = reason;
    notice->freed = freed != NULL;
    notice->session = freed;
    (void)pthread_mutex_lock(&backend->lock);
    if (backend->notice_last) {
        backend->notice_last->next = notice;
    } else {
        backend->notice_first = notice;
    }
    backend->notice_last = notice;
    (void)pthread_mutex_unlock(&backend->lock);
    ring(backend->event_fd);
}
