/* lwIP's operating-system layer over POSIX threads: the types. */
#ifndef NETCONN_BENCH_SYS_ARCH_H
#define NETCONN_BENCH_SYS_ARCH_H

#include <pthread.h>
#include <stdint.h>

struct bench_semaphore;
struct bench_mailbox;
struct bench_mutex;

typedef struct bench_semaphore *sys_sem_t;
typedef struct bench_mailbox *sys_mbox_t;
typedef struct bench_mutex *sys_mutex_t;
typedef pthread_t sys_thread_t;
typedef int sys_prot_t;

#define sys_sem_valid(sem) (*(sem) != NULL)
#define sys_sem_set_invalid(sem) (*(sem) = NULL)
#define sys_mbox_valid(mbox) (*(mbox) != NULL)
#define sys_mbox_set_invalid(mbox) (*(mbox) = NULL)
#define sys_mutex_valid(mutex) (*(mutex) != NULL)
#define sys_mutex_set_invalid(mutex) (*(mutex) = NULL)

#endif
