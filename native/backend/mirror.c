/* Mirror descriptors, the control thread's side: made in batches, and recognised when a client
 * shows one. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/internal.h"

/* The kernel's number of a socket: never used twice, and the same in every process. 0: none. */
static uint64_t cookie(int fd) {
    uint64_t number = 0;
    socklen_t bytes = sizeof(number);
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &number, &bytes) == 0 ? number : 0;
}

/* Gives the backend's end a name, which whoever holds the other end can ask for: so a process that
 * was handed the descriptor finds the backend. The random part only makes it unique. */
static int name_end(const struct pf_backend *backend, int fd) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    for (int attempt = 0; attempt < 8; attempt++) {
        uint64_t random;
        if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
            return -errno;
        }
        size_t room = sizeof(name.sun_path) - 1;
        int length =
            snprintf(name.sun_path + 1, room, PF_MIRROR_NAME "%016llx", (unsigned long long)random);
        size_t path = strlen(backend->config.address);
        if (path && (size_t)length + 1 + path < room) {
            length += snprintf(name.sun_path + 1 + length, room - (size_t)length, ":%s",
                               backend->config.address);
        }
        socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
        if (bind(fd, (const struct sockaddr *)&name, bytes) == 0) {
            return 0;
        }
        if (errno != EADDRINUSE) {
            break;
        }
    }
    return -errno;
}

static int make_mirror(const struct pf_backend *backend, int *theirs, int *ours, uint64_t *number) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return -errno;
    }
    int least = 1; /* the kernel raises it to its minimum: full after few bytes */
    (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
    /* Never read: see readiness.c. */
    (void)send(pair[0], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    *number = cookie(pair[0]);
    int bad = *number ? name_end(backend, pair[1]) : -ENOPROTOOPT;
    if (bad) {
        (void)close(pair[0]);
        (void)close(pair[1]);
        return bad;
    }
    *theirs = pair[0];
    *ours = pair[1];
    return 0;
}

int pf_session_mirrors(struct pf_backend *backend, uint64_t session, uint32_t count, int32_t *fds,
                       uint64_t *first_id) {
    struct pf_command *command = calloc(1, sizeof(*command));
    if (!command || count < 1 || count > sizeof(command->fds) / sizeof(command->fds[0])) {
        free(command);
        return command ? -EINVAL : -ENOMEM;
    }
    command->kind = PF_COMMAND_MIRRORS;
    command->id = session;
    for (uint32_t i = 0; i < count; i++) {
        int bad = make_mirror(backend, &fds[i], &command->fds[i], &command->numbers[i]);
        if (bad) {
            for (uint32_t j = 0; j < i; j++) {
                (void)close(command->fds[j]);
                (void)close(fds[j]);
            }
            free(command);
            return bad;
        }
    }
    *first_id = backend->next_mirror + 1;
    backend->next_mirror += count;
    command->count = count;
    command->first_mirror = *first_id;
    pf_command_send(backend, command);
    return 0;
}

int pf_session_show(struct pf_backend *backend, uint64_t session, int32_t fd, uint64_t *ticket) {
    int domain = 0;
    socklen_t bytes = sizeof(domain);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) != 0) {
        return -errno;
    }
    uint64_t number = domain == AF_UNIX ? cookie(fd) : 0;
    struct pf_command *command = number ? calloc(1, sizeof(*command)) : NULL;
    if (!command) {
        return number ? -ENOMEM : -EINVAL;
    }
    command->kind = PF_COMMAND_CLAIM;
    command->id = session;
    command->ticket = ++backend->next_ticket;
    command->numbers[0] = number;
    *ticket = command->ticket;
    pf_command_send(backend, command);
    return 0;
}
