/* lwIP's operating-system layer over POSIX threads: semaphores, mailboxes, mutexes, time. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lwip/err.h"
#include "lwip/opt.h"
#include "lwip/sys.h"

struct bench_mutex {
    pthread_mutex_t lock;
};

struct bench_semaphore {
    pthread_mutex_t lock;
    pthread_cond_t raised;
    uint32_t count;
};

struct bench_mailbox {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    uint32_t readers; /* that sleep: without one there is nobody to wake */
    uint32_t writers;
    uint32_t head;
    uint32_t count;
    uint32_t size;
    void *messages[];
};

static pthread_mutex_t protection;

_Noreturn void bench_fail(const char *message, const char *file, int line) {
    fprintf(stderr, "netconn: %s:%d: %s\n", file, line, message);
    _Exit(1);
}

static void *allocate(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) {
        bench_fail("out of memory", __FILE__, __LINE__);
    }
    return memory;
}

static void condition_init(pthread_cond_t *condition) {
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(condition, &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

static struct timespec now(void) {
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return time;
}

static struct timespec after_ms(u32_t timeout_ms) {
    struct timespec time = now();
    time.tv_sec += timeout_ms / 1000;
    time.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_nsec -= 1000000000;
        time.tv_sec += 1;
    }
    return time;
}

/* False: the time is over. No deadline: waits for ever, as lwIP's time-out of 0 says. */
static bool wait_until(pthread_cond_t *condition, pthread_mutex_t *lock,
                       const struct timespec *deadline) {
    if (!deadline) {
        return pthread_cond_wait(condition, lock) == 0;
    }
    return pthread_cond_timedwait(condition, lock, deadline) == 0;
}

void sys_init(void) {
    pthread_mutexattr_t attributes;
    (void)pthread_mutexattr_init(&attributes);
    (void)pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    (void)pthread_mutex_init(&protection, &attributes);
    (void)pthread_mutexattr_destroy(&attributes);
}

sys_prot_t sys_arch_protect(void) {
    (void)pthread_mutex_lock(&protection);
    return 0;
}

void sys_arch_unprotect(sys_prot_t previous) {
    (void)previous;
    (void)pthread_mutex_unlock(&protection);
}

u32_t sys_now(void) {
    struct timespec time = now();
    return (u32_t)((uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000);
}

u32_t sys_jiffies(void) { return sys_now(); }

/* ---- mutexes ---- */

err_t sys_mutex_new(sys_mutex_t *mutex) {
    *mutex = allocate(sizeof(**mutex));
    (void)pthread_mutex_init(&(*mutex)->lock, NULL);
    return ERR_OK;
}

void sys_mutex_lock(sys_mutex_t *mutex) { (void)pthread_mutex_lock(&(*mutex)->lock); }

void sys_mutex_unlock(sys_mutex_t *mutex) { (void)pthread_mutex_unlock(&(*mutex)->lock); }

void sys_mutex_free(sys_mutex_t *mutex) {
    (void)pthread_mutex_destroy(&(*mutex)->lock);
    free(*mutex);
}

/* ---- semaphores ---- */

err_t sys_sem_new(sys_sem_t *sem, u8_t count) {
    *sem = allocate(sizeof(**sem));
    (void)pthread_mutex_init(&(*sem)->lock, NULL);
    condition_init(&(*sem)->raised);
    (*sem)->count = count;
    return ERR_OK;
}

void sys_sem_signal(sys_sem_t *sem) {
    (void)pthread_mutex_lock(&(*sem)->lock);
    (*sem)->count++;
    /* Under the lock: the one who is woken may free the semaphore. */
    (void)pthread_cond_signal(&(*sem)->raised);
    (void)pthread_mutex_unlock(&(*sem)->lock);
}

u32_t sys_arch_sem_wait(sys_sem_t *sem, u32_t timeout) {
    struct timespec deadline = after_ms(timeout);
    (void)pthread_mutex_lock(&(*sem)->lock);
    while ((*sem)->count == 0 &&
           wait_until(&(*sem)->raised, &(*sem)->lock, timeout ? &deadline : NULL)) {
    }
    bool taken = (*sem)->count > 0;
    (*sem)->count -= taken;
    (void)pthread_mutex_unlock(&(*sem)->lock);
    return taken ? 0 : SYS_ARCH_TIMEOUT;
}

void sys_sem_free(sys_sem_t *sem) {
    (void)pthread_cond_destroy(&(*sem)->raised);
    (void)pthread_mutex_destroy(&(*sem)->lock);
    free(*sem);
}

/* ---- mailboxes ---- */

err_t sys_mbox_new(sys_mbox_t *mbox, int size) {
    uint32_t entries = size > 0 ? (uint32_t)size : 16;
    struct bench_mailbox *box = allocate(sizeof(*box) + entries * sizeof(box->messages[0]));
    (void)pthread_mutex_init(&box->lock, NULL);
    condition_init(&box->not_empty);
    condition_init(&box->not_full);
    box->size = entries;
    *mbox = box;
    return ERR_OK;
}

/* The caller holds the lock and has seen that there is room. */
static void put(struct bench_mailbox *box, void *message) {
    box->messages[(box->head + box->count) % box->size] = message;
    box->count++;
    if (box->readers > 0) {
        (void)pthread_cond_signal(&box->not_empty);
    }
}

void sys_mbox_post(sys_mbox_t *mbox, void *message) {
    struct bench_mailbox *box = *mbox;
    (void)pthread_mutex_lock(&box->lock);
    while (box->count == box->size) {
        box->writers++;
        (void)wait_until(&box->not_full, &box->lock, NULL);
        box->writers--;
    }
    put(box, message);
    (void)pthread_mutex_unlock(&box->lock);
}

err_t sys_mbox_trypost(sys_mbox_t *mbox, void *message) {
    struct bench_mailbox *box = *mbox;
    (void)pthread_mutex_lock(&box->lock);
    bool room = box->count < box->size;
    if (room) {
        put(box, message);
    }
    (void)pthread_mutex_unlock(&box->lock);
    return room ? ERR_OK : ERR_MEM;
}

err_t sys_mbox_trypost_fromisr(sys_mbox_t *mbox, void *message) {
    return sys_mbox_trypost(mbox, message);
}

/* The caller holds the lock. */
static bool take(struct bench_mailbox *box, void **message) {
    if (box->count == 0) {
        return false;
    }
    if (message) {
        *message = box->messages[box->head];
    }
    box->head = (box->head + 1) % box->size;
    box->count--;
    if (box->writers > 0) {
        (void)pthread_cond_signal(&box->not_full);
    }
    return true;
}

u32_t sys_arch_mbox_fetch(sys_mbox_t *mbox, void **message, u32_t timeout) {
    struct bench_mailbox *box = *mbox;
    struct timespec deadline = after_ms(timeout);
    (void)pthread_mutex_lock(&box->lock);
    bool in_time = true;
    while (box->count == 0 && in_time) {
        box->readers++;
        in_time = wait_until(&box->not_empty, &box->lock, timeout ? &deadline : NULL);
        box->readers--;
    }
    bool taken = take(box, message);
    (void)pthread_mutex_unlock(&box->lock);
    return taken ? 0 : SYS_ARCH_TIMEOUT;
}

u32_t sys_arch_mbox_tryfetch(sys_mbox_t *mbox, void **message) {
    struct bench_mailbox *box = *mbox;
    (void)pthread_mutex_lock(&box->lock);
    bool taken = take(box, message);
    (void)pthread_mutex_unlock(&box->lock);
    return taken ? 0 : SYS_MBOX_EMPTY;
}

void sys_mbox_free(sys_mbox_t *mbox) {
    struct bench_mailbox *box = *mbox;
    (void)pthread_cond_destroy(&box->not_empty);
    (void)pthread_cond_destroy(&box->not_full);
    (void)pthread_mutex_destroy(&box->lock);
    free(box);
}

/* ---- threads ---- */

struct thread_start {
    lwip_thread_fn run;
    void *argument;
};

static void *thread_main(void *argument) {
    struct thread_start start = *(struct thread_start *)argument;
    free(argument);
    start.run(start.argument);
    return NULL;
}

sys_thread_t sys_thread_new(const char *name, lwip_thread_fn run, void *argument, int stacksize,
                            int priority) {
    (void)name, (void)stacksize, (void)priority;
    pthread_t thread;
    struct thread_start *start = allocate(sizeof(*start));
    *start = (struct thread_start){run, argument};
    if (pthread_create(&thread, NULL, thread_main, start) != 0) {
        bench_fail("cannot create a thread", __FILE__, __LINE__);
    }
    return thread;
}
