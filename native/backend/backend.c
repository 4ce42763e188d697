/* The control plane's side of the backend core: configuration, start and stop, sessions. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "backend/internal.h"

#define OTHER_EVENT UINT64_MAX

static int fail(char *error, size_t error_bytes, const char *what, int number) {
    (void)snprintf(error, error_bytes, "%s: %s", what, strerror(number));
    errno = number;
    return -number;
}

static int check_config(const struct pf_backend_config *config, char *error, size_t error_bytes) {
    const char *wrong = NULL;
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    if (config->max_pcbs < 1 || config->max_pcbs > 20000) {
        wrong = "max_pcbs must be 1 to 20000";
    } else if (config->min_share_medium > 50 || config->min_share_low > 50) {
        wrong = "a minimum share must be 0 to 50 percent";
    } else if (config->cpu < -1 || config->cpu >= cpus) {
        wrong = "cpu must be -1 (any) or the number of a processor of this machine";
    } else if (config->realtime_priority < 0 || config->realtime_priority > 99) {
        wrong = "realtime_priority must be 0 (off) or 1 to 99";
    }
    if (wrong) {
        (void)snprintf(error, error_bytes, "%s", wrong);
        errno = EINVAL;
        return -EINVAL;
    }
    return 0;
}

static int open_descriptors(struct pf_backend *backend) {
    void *mapping = NULL;
    backend->public_fd = pf_region_create("pifus-public", 4096, 1, &mapping);
    if (backend->public_fd < 0) {
        return backend->public_fd;
    }
    backend->public_region = mapping;
    backend->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    backend->command_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    backend->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    backend->orphan_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    backend->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = OTHER_EVENT};
    struct epoll_event level = {.events = EPOLLIN, .data.u64 = OTHER_EVENT};
    if (backend->epoll_fd < 0 || backend->command_fd < 0 || backend->event_fd < 0 ||
        backend->timer_fd < 0 || backend->orphan_epoll_fd < 0 ||
        epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, backend->command_fd, &event) != 0 ||
        epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, backend->timer_fd, &event) != 0 ||
        epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, backend->orphan_epoll_fd, &level) != 0 ||
        getrandom(&backend->random_state, sizeof(backend->random_state), 0) !=
            sizeof(backend->random_state)) {
        return -errno;
    }
    backend->random_state |= 1; /* xorshift must not start at 0 */
    return 0;
}

struct pf_backend *pf_backend_new(const struct pf_backend_config *config, char *error,
                                  size_t error_bytes) {
    if (check_config(config, error, error_bytes) != 0) {
        return NULL;
    }
    struct pf_backend *backend = calloc(1, sizeof(*backend));
    if (!backend) {
        (void)fail(error, error_bytes, "cannot start", ENOMEM);
        return NULL;
    }
    backend->config = *config;
    backend->next_deadline_ns = UINT64_MAX;
    backend->public_fd = -1;
    backend->epoll_fd = -1;
    backend->command_fd = -1;
    backend->event_fd = -1;
    backend->timer_fd = -1;
    backend->orphan_epoll_fd = -1;
    (void)pthread_mutex_init(&backend->lock, NULL);
    int bad = open_descriptors(backend);
    bad = bad ? bad : pf_guard_install();
    bad = bad ? bad : stk_init(&pf_stack_events);
    backend->has_stack = !bad;
    if (bad) {
        (void)fail(error, error_bytes, "cannot start", -bad);
        pf_backend_free(backend);
        return NULL;
    }
    stk_limit(config->max_pcbs, config->max_held_bytes ? config->max_held_bytes : UINT64_MAX,
              config->max_held_bytes_per_user ? config->max_held_bytes_per_user : UINT64_MAX);
    stk_inject_loss(config->loss_per_million, config->fault_seed);
    backend->public_region->magic = PF_MAGIC;
    backend->public_region->abi_version = PF_ABI_VERSION;
    backend->public_region->pid = (uint32_t)getpid();
    backend->public_region->started_ns = pf_now_ns();
    backend->spin_ns = config->spin_ns;
    backend->public_region->spin_ns = config->client_spin_ns;
    return backend;
}

int pf_backend_add_loopback(struct pf_backend *backend, char *error, size_t error_bytes) {
    (void)backend;
    return stk_add_loopback(error, error_bytes);
}

int pf_backend_add_tap(struct pf_backend *backend, const struct pf_tap_options *options,
                       char *error, size_t error_bytes) {
    (void)backend;
    return stk_add_tap(options, error, error_bytes);
}

static int start_thread(struct pf_backend *backend) {
    pthread_attr_t attributes;
    sigset_t all;
    sigset_t before;
    (void)pthread_attr_init(&attributes);
    if (backend->config.cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET((unsigned)backend->config.cpu, &cpus);
        (void)pthread_attr_setaffinity_np(&attributes, sizeof(cpus), &cpus);
    }
    if (backend->config.realtime_priority > 0) {
        struct sched_param parameter = {.sched_priority = backend->config.realtime_priority};
        (void)pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
        (void)pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
        (void)pthread_attr_setschedparam(&attributes, &parameter);
        backend->rest.needed = true;
        backend->rest.awake_ns = pf_now_ns();
    }
    /* Signals are the control thread's; SIGBUS is delivered to whoever faults all the same. */
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGBUS);
    (void)sigdelset(&all, SIGSEGV);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int bad = pthread_create(&backend->thread, &attributes, pf_loop, backend);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return bad;
}

int pf_backend_start(struct pf_backend *backend, char *error, size_t error_bytes) {
    unsigned cursor = 0;
    int fd;
    if (backend->config.lock_memory && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
        return fail(error, error_bytes,
                    "cannot lock memory (needs CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK)", errno);
    }
    while ((fd = stk_next_fd(&cursor)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = OTHER_EVENT};
        if (epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
            return fail(error, error_bytes, "cannot watch the driver", errno);
        }
    }
    int bad = start_thread(backend);
    if (bad == EPERM) {
        return fail(error, error_bytes,
                    "cannot start the stack thread with real-time priority (needs CAP_SYS_NICE or "
                    "RLIMIT_RTPRIO)",
                    bad);
    }
    if (bad) {
        return fail(error, error_bytes, "cannot start the stack thread", bad);
    }
    backend->started = true;
    return 0;
}

static void end_all_sessions(struct pf_backend *backend) {
    /* The stack thread has stopped: this thread is the only one now. */
    stk_adopt_thread();
    pf_commands_run(backend);
    for (uint32_t i = 0; i < backend->session_count; i++) {
        pf_session_finish(backend->sessions[i], PF_ENDED_BACKEND);
    }
    while (pf_session_finish_piece(backend)) {
    }
    stk_flush();
    pf_post_flush(backend);
    while (backend->session_count > 0) {
        pf_session_reap(backend->sessions[0]);
    }
    uint64_t id;
    int32_t reason;
    int32_t freed;
    while (pf_backend_next_ended(backend, &id, &reason, &freed)) {
    }
}

void pf_backend_free(struct pf_backend *backend) {
    if (backend->started) {
        uint64_t one = 1;
        pf_store_release(&backend->stop, 1);
        ssize_t written = write(backend->command_fd, &one, sizeof(one));
        (void)written;
        (void)pthread_join(backend->thread, NULL);
    }
    if (backend->public_region) {
        if (backend->has_stack) {
            end_all_sessions(backend);
            stk_shutdown();
        }
        pf_region_unmap(backend->public_region, 4096);
    }
    int descriptors[] = {backend->public_fd, backend->epoll_fd, backend->command_fd,
                         backend->event_fd,  backend->timer_fd, backend->orphan_epoll_fd};
    for (unsigned i = 0; i < sizeof(descriptors) / sizeof(descriptors[0]); i++) {
        if (descriptors[i] >= 0) {
            (void)close(descriptors[i]);
        }
    }
    free(backend->sessions);
    free(backend->timers);
    (void)pthread_mutex_destroy(&backend->lock);
    free(backend);
}

int64_t pf_session_create(struct pf_backend *backend, const struct pf_session_request *request,
                          struct pf_session_fds *fds, char *error, size_t error_bytes) {
    struct pf_command *command = calloc(1, sizeof(*command));
    struct pf_session *session =
        command ? pf_session_make(backend, request, fds, error, error_bytes) : NULL;
    if (!session) {
        free(command);
        return errno ? -errno : -ENOMEM;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = session->id};
    if (epoll_ctl(backend->epoll_fd, EPOLL_CTL_ADD, session->doorbell_fd, &event) != 0) {
        int number = errno;
        (void)close(fds->c2b);
        (void)close(fds->b2c);
        (void)close(fds->public_region);
        (void)close(fds->doorbell);
        pf_session_destroy(session);
        free(command);
        return fail(error, error_bytes, "cannot watch the doorbell of the client", number);
    }
    pf_guard_add(session);
    command->kind = PF_COMMAND_ADD;
    command->session = session;
    int64_t id = (int64_t)session->id;
    pf_command_send(backend, command);
    return id;
}

int pf_session_end(struct pf_backend *backend, uint64_t session, int reason) {
    struct pf_command *command = calloc(1, sizeof(*command));
    if (!command) {
        return -ENOMEM;
    }
    command->kind = PF_COMMAND_END;
    command->id = session;
    command->reason = reason;
    pf_command_send(backend, command);
    return 0;
}

int pf_backend_event_fd(struct pf_backend *backend) { return backend->event_fd; }

int pf_backend_next_ended(struct pf_backend *backend, uint64_t *session, int32_t *reason,
                          int32_t *freed) {
    uint64_t rings;
    ssize_t got = read(backend->event_fd, &rings, sizeof(rings));
    (void)got; /* EAGAIN: nobody rang since the last look */
    (void)pthread_mutex_lock(&backend->lock);
    struct pf_notice *notice = backend->notice_first;
    if (notice) {
        backend->notice_first = notice->next;
        if (!notice->next) {
            backend->notice_last = NULL;
        }
    }
    (void)pthread_mutex_unlock(&backend->lock);
    if (!notice) {
        return 0;
    }
    *session = notice->id;
    *reason = notice->reason;
    *freed = notice->freed;
    if (notice->session) {
        pf_session_destroy(notice->session);
    }
    free(notice);
    return 1;
}

const struct pf_public *pf_backend_public(const struct pf_backend *backend) {
    return backend->public_region;
}
