/* One socket at a time: round trips, floods, bulk; and the kernel's sockets for comparison. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/samples.h"
#include "futex/futex.h"

enum { STUCK_S = 10, MESSAGE_BYTES_MAX = 65536 };

#define STUCK_NS (STUCK_S * INT64_C(1000000000))

/* ---- samples ---- */

void pf_bench_samples_init(struct pf_bench_samples *samples, uint32_t *stored_ns,
                           uint32_t capacity) {
    *samples = (struct pf_bench_samples){
        .stored_ns = stored_ns, .capacity = capacity, .stride = 1, .min_ns = UINT64_MAX};
}

void pf_bench_samples_halve(struct pf_bench_samples *samples) {
    for (uint32_t i = 0; 2 * i < samples->count; i++) {
        samples->stored_ns[i] = samples->stored_ns[2 * i];
    }
    samples->count = (samples->count + 1) / 2;
    samples->stride *= 2;
}

/* ---- NOPs ---- */

int pf_bench_nop(struct pf_client *client, uint32_t slot, uint64_t end_ns,
                 struct pf_bench_samples *samples) {
    struct pf_done done;
    uint64_t now;
    do {
        uint64_t start = pf_now_ns();
        int64_t op = pf_nop(client, slot);
        if (op < 0) {
            return (int)op;
        }
        int got = pf_wait(client, slot, STUCK_NS, &done);
        if (got != 1) {
            return got ? got : -ETIMEDOUT;
        }
        now = pf_now_ns();
        pf_bench_add(samples, now - start);
    } while (now < end_ns);
    return 0;
}

struct flood {
    struct pf_client *client;
    uint32_t slot;
    uint32_t write_bytes;
    uint8_t *message;
};

/* 0, or -errno; -EAGAIN and -ENOBUFS: not now. */
static int flood_submit(const struct flood *flood) {
    int64_t op;
    if (flood->write_bytes) {
        uint64_t now = pf_now_ns();
        memcpy(flood->message, &now, sizeof(now));
        op = pf_write(flood->client, flood->slot, flood->message, flood->write_bytes,
                      PF_DELIVER_QUEUE);
    } else {
        op = pf_nop(flood->client, flood->slot);
    }
    return op < 0 ? (int)op : 0;
}

static int flood_taken(const struct pf_done *done, struct pf_bench_samples *taken,
                       struct pf_bench_samples *served) {
    if (done->result < 0) {
        return done->result;
    }
    pf_bench_add(taken, pf_now_ns() - done->submitted_ns);
    uint64_t completed = done->completed_ns;
    pf_bench_add(served, completed > done->submitted_ns ? completed - done->submitted_ns : 0);
    return 0;
}

static int flood_run(const struct flood *flood, uint32_t in_flight, uint64_t end_ns,
                     struct pf_bench_samples *taken, struct pf_bench_samples *served) {
    struct pf_done done;
    uint32_t flying = 0;
    bool more = true;
    while (more || flying) {
        while (more && flying < in_flight) {
            int result = flood_submit(flood);
            if (flying && (result == -EAGAIN || result == -ENOBUFS)) {
                break;
            }
            if (result < 0) {
                return result;
            }
            flying++;
        }
        int got = pf_wait(flood->client, flood->slot, STUCK_NS, &done);
        while (got == 1) {
            int result = flood_taken(&done, taken, served);
            if (result < 0) {
                return result;
            }
            flying--;
            got = flying ? pf_poll(flood->client, flood->slot, &done) : 0;
            if (got != 1) {
                more = more && pf_now_ns() < end_ns;
                got = 2;
            }
        }
        if (got != 2) {
            return got ? got : -ETIMEDOUT;
        }
    }
    return 0;
}

int pf_bench_flood(struct pf_client *client, uint32_t slot, uint32_t write_bytes,
                   uint32_t in_flight, uint64_t end_ns, struct pf_bench_samples *taken,
                   struct pf_bench_samples *served) {
    if (in_flight == 0 || (write_bytes && write_bytes < sizeof(uint64_t)) ||
        write_bytes > MESSAGE_BYTES_MAX) {
        return -EINVAL;
    }
    struct flood flood = {client, slot, write_bytes, calloc(1, write_bytes + 1)};
    if (!flood.message) {
        return -ENOMEM;
    }
    int result = flood_run(&flood, in_flight, end_ns, taken, served);
    free(flood.message);
    return result;
}

/* ---- a connection ---- */

static int receive_all(struct pf_client *client, uint32_t slot, uint8_t *buffer, uint32_t bytes) {
    for (uint32_t got = 0; got < bytes;) {
        int64_t result = pf_recv(client, slot, buffer, bytes - got, 0, STUCK_NS);
        if (result <= 0) {
            return result ? (int)result : -EPIPE;
        }
        got += (uint32_t)result;
    }
    return 0;
}

static int send_all(struct pf_client *client, uint32_t slot, const uint8_t *data, uint32_t bytes) {
    for (uint32_t sent = 0; sent < bytes;) {
        int64_t result = pf_send(client, slot, data + sent, bytes - sent, STUCK_NS);
        if (result < 0) {
            return (int)result;
        }
        sent += (uint32_t)result;
    }
    return 0;
}

int pf_bench_echo(struct pf_client *client, uint32_t slot, uint32_t bytes, uint64_t end_ns,
                  struct pf_bench_samples *samples) {
    uint8_t message[4096] = "pifus";
    if (bytes == 0 || bytes > sizeof(message)) {
        return -EINVAL;
    }
    uint64_t start = pf_now_ns();
    do {
        int result = send_all(client, slot, message, bytes);
        result = result ? result : receive_all(client, slot, message, bytes);
        if (result) {
            return result;
        }
        uint64_t now = pf_now_ns();
        pf_bench_add(samples, now - start);
        start = now;
    } while (start < end_ns);
    return 0;
}

int64_t pf_bench_send(struct pf_client *client, uint32_t slot, uint32_t chunk, uint64_t limit,
                      uint64_t end_ns) {
    uint8_t *data = calloc(1, chunk ? chunk : 1);
    if (!data) {
        return -ENOMEM;
    }
    uint64_t sent = 0;
    int64_t result = 0;
    while (result >= 0 && sent < limit && pf_now_ns() < end_ns) {
        uint64_t left = limit - sent;
        result = pf_send(client, slot, data, left < chunk ? (uint32_t)left : chunk, STUCK_NS);
        sent += result > 0 ? (uint64_t)result : 0;
    }
    free(data);
    return result < 0 ? result : (int64_t)sent;
}

int64_t pf_bench_receive(struct pf_client *client, uint32_t slot, uint32_t chunk, uint64_t limit,
                         uint64_t end_ns) {
    uint8_t *data = malloc(chunk ? chunk : 1);
    if (!data) {
        return -ENOMEM;
    }
    uint64_t got = 0;
    int64_t result = 1;
    while (result > 0 && got < limit && pf_now_ns() < end_ns) {
        result = pf_recv(client, slot, data, chunk, 0, STUCK_NS);
        got += result > 0 ? (uint64_t)result : 0;
    }
    free(data);
    return result < 0 ? result : (int64_t)got;
}

/* ---- the kernel's sockets ---- */

/* Positive: bytes; 0: the end of the stream. */
static ssize_t kernel_receive(int fd, uint8_t *buffer, size_t bytes) {
    ssize_t got;
    do {
        got = recv(fd, buffer, bytes, MSG_WAITALL);
    } while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

static int kernel_send(int fd, const uint8_t *data, size_t bytes) {
    while (bytes) {
        ssize_t sent = send(fd, data, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR) {
            return -errno;
        }
        data += sent > 0 ? sent : 0;
        bytes -= sent > 0 ? (size_t)sent : 0;
    }
    return 0;
}

int pf_bench_kernel_echo_peer(int fd) {
    uint8_t buffer[4096];
    for (;;) {
        ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 && errno != ECONNRESET ? -errno : 0;
        }
        int result = kernel_send(fd, buffer, (size_t)got);
        if (result) {
            return result == -EPIPE || result == -ECONNRESET ? 0 : result;
        }
    }
}

int pf_bench_kernel_echo(int fd, uint32_t bytes, uint64_t end_ns,
                         struct pf_bench_samples *samples) {
    uint8_t message[4096] = "pifus";
    if (bytes == 0 || bytes > sizeof(message)) {
        return -EINVAL;
    }
    uint64_t start = pf_now_ns();
    do {
        int result = kernel_send(fd, message, bytes);
        if (result) {
            return result;
        }
        ssize_t got = kernel_receive(fd, message, bytes);
        if (got != (ssize_t)bytes) {
            return got < 0 ? (int)got : -EPIPE;
        }
        uint64_t now = pf_now_ns();
        pf_bench_add(samples, now - start);
        start = now;
    } while (start < end_ns);
    return 0;
}

int pf_bench_kernel_reader(int fd, uint32_t bytes, struct pf_bench_samples *samples) {
    uint8_t *buffer = malloc(bytes + sizeof(uint64_t));
    if (!buffer) {
        return -ENOMEM;
    }
    ssize_t got;
    while ((got = kernel_receive(fd, buffer, bytes)) == (ssize_t)bytes) {
        uint64_t submitted;
        memcpy(&submitted, buffer, sizeof(submitted));
        pf_bench_add(samples, pf_now_ns() - submitted);
    }
    free(buffer);
    return got < 0 && got != -ECONNRESET ? (int)got : 0;
}

int pf_bench_end_with_parent(int parent) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) {
        return -errno;
    }
    return getppid() == parent ? 0 : -ESRCH;
}
