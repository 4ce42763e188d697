/* The flow table against a plain list, and the parser on well-formed and malformed packets. */
#include "../../native/lwip/flow.h"

#include <stdbool.h>

#include "check.h"

#define FALLBACK 9

static struct pf_flow_table *table;

static struct pf_flow_key key4(uint16_t local, uint16_t remote, uint32_t address) {
    struct pf_flow_key key = {.local_port = local, .remote_port = remote, .ip_version = 4};
    for (int i = 0; i < 4; ++i) {
        key.remote[i] = (uint8_t)(address >> (24 - 8 * i));
    }
    return key;
}

static struct pf_flow_key key6(uint16_t local, uint16_t remote, uint8_t fill) {
    struct pf_flow_key key = {.local_port = local, .remote_port = remote, .ip_version = 6};
    memset(key.remote, fill, 16);
    return key;
}

/* A received packet of the flow; returns the bytes up to and including the ports. */
static size_t packet_of(const struct pf_flow_key *key, uint8_t *packet, uint8_t options) {
    size_t header = key->ip_version == 4 ? 20U + options : 40U;
    memset(packet, 0, header + 4);
    if (key->ip_version == 4) {
        packet[0] = (uint8_t)(0x40U | header / 4U);
        packet[9] = 6;
        memcpy(packet + 12, key->remote, 4);
        memset(packet + 16, 0x77, 4 + options);
    } else {
        packet[0] = 0x60;
        packet[6] = 6;
        memcpy(packet + 8, key->remote, 16);
        memset(packet + 24, 0x77, 16);
    }
    packet[header] = (uint8_t)(key->remote_port >> 8);
    packet[header + 1] = (uint8_t)key->remote_port;
    packet[header + 2] = (uint8_t)(key->local_port >> 8);
    packet[header + 3] = (uint8_t)key->local_port;
    return header + 4;
}

static uint8_t classify(const struct pf_flow_key *key) {
    uint8_t packet[64];
    return pf_flow_classify_ip(table, packet, packet_of(key, packet, 0), FALLBACK);
}

static void begin(void) {
    table = pf_flow_table_open();
    CHECK(table != NULL);
}

static void test_connection_before_listener(void) {
    begin();
    struct pf_flow_key known = key4(80, 5000, 0x0A000001);
    struct pf_flow_key other = key4(80, 5001, 0x0A000001);
    struct pf_flow_key known6 = key6(80, 5000, 0xFD);
    CHECK_EQ(classify(&known), FALLBACK);
    pf_flow_listener_set(table, 80, 2);
    CHECK_EQ(classify(&known), 2);
    CHECK_EQ(classify(&known6), 2);
    CHECK(pf_flow_set(table, &known, 0));
    CHECK(pf_flow_set(table, &known6, 1));
    CHECK_EQ(classify(&known), 0);
    CHECK_EQ(classify(&known6), 1);
    CHECK_EQ(classify(&other), 2);
    CHECK(pf_flow_set(table, &known, 1));
    CHECK_EQ(classify(&known), 1);
    CHECK_EQ(pf_flow_count(table), 2);
    CHECK(pf_flow_remove(table, &known));
    CHECK(!pf_flow_remove(table, &known));
    CHECK_EQ(classify(&known), 2);
    pf_flow_listener_set(table, 80, 0);
    pf_flow_listener_remove(table, 80);
    CHECK_EQ(classify(&known), 0);
    pf_flow_listener_update(table, 80, 1);
    CHECK_EQ(classify(&known), 1);
    pf_flow_listener_remove(table, 80);
    pf_flow_listener_remove(table, 80);
    CHECK_EQ(classify(&known), FALLBACK);
    pf_flow_table_close(table);
}

static void test_every_part_of_the_key_counts(void) {
    begin();
    struct pf_flow_key key = key4(80, 5000, 0x0A000001);
    CHECK(pf_flow_set(table, &key, 0));
    struct pf_flow_key changed[] = {key4(81, 5000, 0x0A000001), key4(80, 5001, 0x0A000001),
                                    key4(80, 5000, 0x0A000002), key4(5000, 80, 0x0A000001),
                                    key6(80, 5000, 0)};
    memcpy(changed[4].remote, key.remote, 4);
    for (size_t i = 0; i < sizeof(changed) / sizeof(changed[0]); ++i) {
        CHECK_EQ(classify(&changed[i]), FALLBACK);
    }
    /* Bytes beyond an IPv4 address do not count. */
    struct pf_flow_key dirty = key;
    memset(dirty.remote + 4, 0xAA, 12);
    CHECK(pf_flow_remove(table, &dirty));
    struct pf_flow_key neither = key;
    neither.ip_version = 5;
    CHECK(!pf_flow_set(table, &neither, 0));
    CHECK(!pf_flow_remove(table, &neither));
    pf_flow_table_close(table);
}

static void test_full_table_refuses_and_recovers(void) {
    begin();
    for (uint32_t i = 0; i < PF_FLOW_MAX; ++i) {
        struct pf_flow_key key = key4((uint16_t)(i & 0xFF), (uint16_t)(i >> 8), 0x0A000001);
        CHECK(pf_flow_set(table, &key, (uint8_t)(i % 3)));
    }
    struct pf_flow_key more = key4(1, 1, 0x0B000001);
    CHECK(!pf_flow_set(table, &more, 0));
    struct pf_flow_key old = key4(7, 9, 0x0A000001);
    CHECK(pf_flow_set(table, &old, 2)); /* changing one is no growth */
    for (uint32_t i = 0; i < PF_FLOW_MAX; ++i) {
        struct pf_flow_key key = key4((uint16_t)(i & 0xFF), (uint16_t)(i >> 8), 0x0A000001);
        CHECK(pf_flow_remove(table, &key));
        CHECK_EQ(classify(&key), FALLBACK);
    }
    CHECK_EQ(pf_flow_count(table), 0);
    CHECK(pf_flow_set(table, &more, 0));
    CHECK_EQ(classify(&more), 0);
    pf_flow_table_close(table);
}

/* More flows than the table takes, coming and going: long runs that overlap, and refusals. */
static void test_same_answers_as_a_list(void) {
    enum { FLOWS = 40000 };
    static uint8_t model[FLOWS]; /* 0: absent, else priority + 1 */
    begin();
    memset(model, 0, sizeof(model));
    uint32_t present = 0;
    for (int step = 0; step < 600000; ++step) {
        uint32_t i = check_random(FLOWS);
        struct pf_flow_key key = i % 2 == 0 ? key4((uint16_t)i, 80, 0x0A000000U + i / 7)
                                            : key6((uint16_t)i, 80, (uint8_t)(i / 7));
        uint32_t dice = check_random(8);
        uint8_t priority = (uint8_t)check_random(3);
        if (dice < 3) {
            bool room = model[i] != 0 || present < PF_FLOW_MAX;
            CHECK_EQ(pf_flow_set(table, &key, priority), room);
            present += room && model[i] == 0;
            model[i] = room ? priority + 1 : 0;
        } else if (dice < 5) {
            CHECK_EQ(pf_flow_remove(table, &key), model[i] != 0);
            present -= model[i] != 0;
            model[i] = 0;
        } else {
            CHECK_EQ(classify(&key), model[i] != 0 ? model[i] - 1 : FALLBACK);
        }
        CHECK_EQ(pf_flow_count(table), present);
    }
    pf_flow_table_close(table);
}

static void test_parser_falls_back(void) {
    begin();
    for (uint32_t port = 0; port < 65536; ++port) {
        pf_flow_listener_set(table, (uint16_t)port, 1);
    }
    uint8_t packet[128];
    struct pf_flow_key key = key4(80, 5000, 0x0A000001);
    size_t bytes = packet_of(&key, packet, 40);
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), 1);
    for (size_t cut = 0; cut < bytes; ++cut) {
        uint8_t *exact = malloc(cut + 1U);
        memcpy(exact + 1, packet, cut);
        CHECK_EQ(pf_flow_classify_ip(table, exact + 1, cut, FALLBACK), FALLBACK);
        free(exact);
    }
    packet[6] = 0x20;
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
    packet[6] = 0x40;
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), 1);
    packet[7] = 1;
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
    packet[7] = 0;
    packet[9] = 17;
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
    packet[9] = 6;
    packet[0] = 0x44;
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
    struct pf_flow_key six = key6(80, 5000, 0xFD);
    bytes = packet_of(&six, packet, 0);
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), 1);
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes - 1, FALLBACK), FALLBACK);
    packet[6] = 44;
    CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
    pf_flow_table_close(table);
}

static void test_frames(void) {
    begin();
    pf_flow_listener_set(table, 80, 1);
    for (uint8_t version = 4; version <= 6; version += 2) {
        uint8_t frame[128] = {0};
        struct pf_flow_key key = version == 4 ? key4(80, 1, 2) : key6(80, 1, 2);
        size_t bytes = 14 + packet_of(&key, frame + 14, 0);
        uint8_t type[2][2] = {{0x08, 0x00}, {0x86, 0xDD}};
        memcpy(frame + 12, type[version == 6], 2);
        CHECK_EQ(pf_flow_classify_frame(table, frame, bytes, FALLBACK), 1);
        for (size_t cut = 0; cut < bytes; ++cut) {
            uint8_t *exact = malloc(cut + 1U);
            memcpy(exact + 1, frame, cut);
            CHECK_EQ(pf_flow_classify_frame(table, exact + 1, cut, FALLBACK), FALLBACK);
            free(exact);
        }
        memcpy(frame + 12, type[version == 4], 2); /* the type says the other version */
        CHECK_EQ(pf_flow_classify_frame(table, frame, bytes, FALLBACK), FALLBACK);
        frame[12] = 0x08;
        frame[13] = 0x06;
        CHECK_EQ(pf_flow_classify_frame(table, frame, bytes, FALLBACK), FALLBACK);
    }
    pf_flow_table_close(table);
}

static void test_datagrams_by_port(void) {
    uint8_t packet[64];
    struct pf_flow_key four = key4(53, 5000, 0x0A000001);
    struct pf_flow_key six = key6(53, 5000, 3);
    begin();
    for (int i = 0; i < 2; ++i) {
        const struct pf_flow_key *key = i ? &six : &four;
        size_t bytes = packet_of(key, packet, 0);
        packet[i ? 6 : 9] = 17;
        CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
        pf_flow_udp_port(table, 53, 2);
        CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), 2);
        CHECK_EQ(pf_flow_classify_ip(table, packet, bytes - 1, FALLBACK), FALLBACK);
        CHECK_EQ(classify(key), FALLBACK); /* TCP's port 53 is another one */
        pf_flow_udp_port(table, 53, 0);
        CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), 0);
        pf_flow_listener_set(table, 53, 1);
        CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), 0);
        pf_flow_listener_remove(table, 53);
        pf_flow_udp_port(table, 53, -1);
        CHECK_EQ(pf_flow_classify_ip(table, packet, bytes, FALLBACK), FALLBACK);
    }
    pf_flow_table_close(table);
}

static void test_random_bytes_stay_inside(void) {
    begin();
    for (int round = 0; round < 300000; ++round) {
        size_t bytes = check_random(90);
        uint8_t *exact = malloc(bytes + 1U);
        for (size_t i = 0; i < bytes; ++i) {
            exact[1 + i] = (uint8_t)check_random(256);
        }
        if (bytes > 20) {
            exact[1] = (uint8_t)(check_random(2) != 0 ? 0x60U : 0x40U | check_random(16));
            exact[1 + 6] = check_random(2) != 0 ? 6 : 0;
            exact[1 + 7] = 0;
            exact[1 + 9] = 6;
        }
        CHECK_EQ(pf_flow_classify_ip(table, exact + 1, bytes, FALLBACK), FALLBACK);
        free(exact);
    }
    pf_flow_table_close(table);
}

int main(void) {
    check_random_init();
    check_watchdog(120);
    RUN(test_connection_before_listener);
    RUN(test_every_part_of_the_key_counts);
    RUN(test_full_table_refuses_and_recovers);
    RUN(test_same_answers_as_a_list);
    RUN(test_parser_falls_back);
    RUN(test_frames);
    RUN(test_datagrams_by_port);
    RUN(test_random_bytes_stay_inside);
    return 0;
}
