#include "flow.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "siphash.h"

#define SLOT_MASK (PF_FLOW_SLOTS - 1U)
#define ETHERNET_HEADER_BYTES 14U
#define PROTOCOL_TCP 6U
#define PROTOCOL_UDP 17U

struct slot {
    uint8_t remote[16];
    uint32_t ports;
    uint8_t ip_version; /* 0: free */
    uint8_t priority;
};

struct listener {
    uint16_t holders;
    uint8_t priority;
};

struct pf_flow_table {
    uint64_t key[2];
    uint32_t count;
    struct slot slots[PF_FLOW_SLOTS];
    struct listener listeners[65536];
    uint8_t udp_ports[65536]; /* priority + 1; 0: nobody */
};

/* Keyed: the peer chooses address and port, and must not be able to aim many connections at one
 * slot. */
static uint32_t hash(const struct pf_flow_table *table, const struct slot *flow) {
    uint64_t words[3];
    memcpy(words, flow->remote, 16);
    words[2] = (uint64_t)flow->ip_version << 32 | flow->ports;
    return (uint32_t)pf_siphash(table->key, words, 3) & SLOT_MASK;
}

static bool same_flow(const struct slot *a, const struct slot *b) {
    return a->ports == b->ports && a->ip_version == b->ip_version &&
           memcmp(a->remote, b->remote, sizeof(a->remote)) == 0;
}

/* The slot that holds the flow, or the free one where it would go: one exists, as the table is
 * never filled beyond PF_FLOW_MAX. */
static uint32_t find(const struct pf_flow_table *table, const struct slot *flow) {
    uint32_t at = hash(table, flow);
    while (table->slots[at].ip_version != 0 && !same_flow(&table->slots[at], flow)) {
        at = (at + 1U) & SLOT_MASK;
    }
    return at;
}

static struct slot slot_from_key(const struct pf_flow_key *key, uint8_t priority) {
    struct slot flow = {.ports = (uint32_t)key->local_port << 16 | key->remote_port,
                        .ip_version = key->ip_version,
                        .priority = priority};
    memcpy(flow.remote, key->remote, key->ip_version == 4 ? 4 : 16);
    return flow;
}

struct pf_flow_table *pf_flow_table_open(void) {
    struct pf_flow_table *table = calloc(1, sizeof(*table));
    if (table != NULL &&
        getrandom(table->key, sizeof(table->key), 0) != (ssize_t)sizeof(table->key)) {
        free(table);
        return NULL;
    }
    return table;
}

void pf_flow_table_close(struct pf_flow_table *table) { free(table); }

uint32_t pf_flow_count(const struct pf_flow_table *table) { return table->count; }

bool pf_flow_set(struct pf_flow_table *table, const struct pf_flow_key *key, uint8_t priority) {
    if (key->ip_version != 4 && key->ip_version != 6) {
        return false;
    }
    struct slot flow = slot_from_key(key, priority);
    uint32_t at = find(table, &flow);
    if (table->slots[at].ip_version == 0) {
        if (table->count >= PF_FLOW_MAX) {
            return false;
        }
        ++table->count;
    }
    table->slots[at] = flow;
    return true;
}

bool pf_flow_remove(struct pf_flow_table *table, const struct pf_flow_key *key) {
    if (key->ip_version != 4 && key->ip_version != 6) {
        return false;
    }
    struct slot flow = slot_from_key(key, 0);
    uint32_t hole = find(table, &flow);
    if (table->slots[hole].ip_version == 0) {
        return false;
    }
    --table->count;
    /* Moves later entries of the run back instead of leaving a tombstone, so that probes stay as
     * short after a million connections as after one. An entry may move into the hole unless its
     * home lies cyclically behind the hole. */
    for (uint32_t at = (hole + 1U) & SLOT_MASK; table->slots[at].ip_version != 0;
         at = (at + 1U) & SLOT_MASK) {
        uint32_t home = hash(table, &table->slots[at]);
        if (((at - home) & SLOT_MASK) >= ((at - hole) & SLOT_MASK)) {
            table->slots[hole] = table->slots[at];
            hole = at;
        }
    }
    table->slots[hole] = (struct slot){.ip_version = 0};
    return true;
}

void pf_flow_listener_set(struct pf_flow_table *table, uint16_t port, uint8_t priority) {
    if (table->listeners[port].holders < UINT16_MAX) {
        ++table->listeners[port].holders;
    }
    table->listeners[port].priority = priority;
}

void pf_flow_listener_update(struct pf_flow_table *table, uint16_t port, uint8_t priority) {
    table->listeners[port].priority = priority;
}

void pf_flow_listener_remove(struct pf_flow_table *table, uint16_t port) {
    if (table->listeners[port].holders > 0) {
        --table->listeners[port].holders;
    }
}

void pf_flow_udp_port(struct pf_flow_table *table, uint16_t port, int priority) {
    table->udp_ports[port] = (uint8_t)(priority + 1);
}

static uint16_t load16(const uint8_t *at) { return (uint16_t)(at[0] << 8 | at[1]); }

uint8_t pf_flow_classify_ip(const struct pf_flow_table *table, const uint8_t *packet,
                            size_t contiguous, uint8_t fallback) {
    if (contiguous < 20) {
        return fallback;
    }
    struct slot flow = {.ip_version = packet[0] >> 4};
    size_t header = 0;
    uint8_t protocol = 0;
    if (flow.ip_version == 4) {
        header = (size_t)(packet[0] & 0x0FU) * 4U;
        bool fragment = (load16(packet + 6) & 0x3FFFU) != 0;
        protocol = packet[9];
        if (header < 20 || fragment) {
            return fallback;
        }
        memcpy(flow.remote, packet + 12, 4);
    } else if (flow.ip_version == 6) {
        header = 40;
        if (contiguous < header) {
            return fallback;
        }
        protocol = packet[6];
        memcpy(flow.remote, packet + 8, 16);
    } else {
        return fallback;
    }
    bool ours = protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP;
    if (!ours || contiguous < header + 4U) {
        return fallback;
    }
    uint16_t remote_port = load16(packet + header);
    uint16_t local_port = load16(packet + header + 2U);
    if (protocol == PROTOCOL_UDP) {
        uint8_t known = table->udp_ports[local_port];
        return known != 0 ? (uint8_t)(known - 1) : fallback;
    }
    flow.ports = (uint32_t)local_port << 16 | remote_port;
    const struct slot *slot = &table->slots[find(table, &flow)];
    if (slot->ip_version != 0) {
        return slot->priority;
    }
    const struct listener *listener = &table->listeners[local_port];
    return listener->holders != 0 ? listener->priority : fallback;
}

uint8_t pf_flow_classify_frame(const struct pf_flow_table *table, const uint8_t *frame,
                               size_t contiguous, uint8_t fallback) {
    if (contiguous < ETHERNET_HEADER_BYTES) {
        return fallback;
    }
    uint16_t type = load16(frame + 12);
    const uint8_t *packet = frame + ETHERNET_HEADER_BYTES;
    size_t packet_bytes = contiguous - ETHERNET_HEADER_BYTES;
    bool consistent = packet_bytes > 0 && ((type == 0x0800U && packet[0] >> 4 == 4) ||
                                           (type == 0x86DDU && packet[0] >> 4 == 6));
    return consistent ? pf_flow_classify_ip(table, packet, packet_bytes, fallback) : fallback;
}
