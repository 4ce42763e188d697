/* SIGBUS. Regions are sealed against shrinking, so a fault means that the kernel could not give a
 * page (memory limit, bad memory). The page is replaced by zeros and the client it belongs to is
 * ended; the backend goes on. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/internal.h"

enum { GUARD_MAX = 4096, GUARD_PAGE = 4096 };

/* Read by the signal handler, in the thread that faulted, which is never inside add or remove of
 * the same session. */
static struct {
    uintptr_t start;
    uintptr_t end;
    struct pf_session *session;
} guarded[GUARD_MAX];

static pthread_mutex_t guard_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;

static void on_sigbus(int signal_number, siginfo_t *info, void *context) {
    uintptr_t fault = (uintptr_t)info->si_addr;
    for (int i = 0; i < GUARD_MAX; i++) {
        if (fault >= guarded[i].start && fault < guarded[i].end) {
            void *page = (void *)(fault & ~(uintptr_t)(GUARD_PAGE - 1));
            if (mmap(page, GUARD_PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
                pf_store_release(&guarded[i].session->faulted, 1);
                return;
            }
        }
    }
    (void)signal_number;
    (void)context;
    /* Not ours: as if we had never been there. */
    (void)sigaction(SIGBUS, &previous, NULL);
}

int pf_guard_install(void) {
    static bool installed; /* twice, and what was there before would be this handler itself */
    struct sigaction action;
    if (installed) {
        return 0;
    }
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    installed = sigaction(SIGBUS, &action, &previous) == 0;
    return installed ? 0 : -errno;
}

static void guard_set(struct pf_session *session, uintptr_t start, uint64_t bytes) {
    for (int i = 0; i < GUARD_MAX; i++) {
        if (!guarded[i].session) {
            guarded[i].session = session;
            guarded[i].start = start;
            guarded[i].end = start + bytes;
            return;
        }
    }
}

void pf_guard_add(struct pf_session *session) {
    (void)pthread_mutex_lock(&guard_lock);
    guard_set(session, (uintptr_t)session->c2b, session->layout.c2b_bytes);
    guard_set(session, (uintptr_t)session->b2c, session->layout.b2c_bytes);
    (void)pthread_mutex_unlock(&guard_lock);
}

void pf_guard_remove(struct pf_session *session) {
    (void)pthread_mutex_lock(&guard_lock);
    for (int i = 0; i < GUARD_MAX; i++) {
        if (guarded[i].session == session) {
            guarded[i].end = 0;
            guarded[i].start = 0;
            guarded[i].session = NULL;
        }
    }
    (void)pthread_mutex_unlock(&guard_lock);
}
