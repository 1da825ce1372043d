/* A Modbus server by libmodbus, filled so that every register has its own number (the formula of
 * tests/foreign/memory.rs). Over TCP it answers every unit id with unit 1's numbers; on a line it is unit 1.
 *
 *     libmodbus_server PORT            (0: any free one; prints `listening PORT`)
 *     libmodbus_server PATH BAUD       (RTU, 8N1; prints `listening PATH`)
 *
 * Control, one command a line on stdin, each answered with one line on stdout (`ok` or `error`):
 *     set UNIT TABLE ADDRESS WORD...   overrides words; TABLE is coil, discrete, holding or input; UNIT is not looked at
 * It ends when stdin closes, so it never outlives the test that started it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ADDRESSES = 65536, MAX_CONNECTIONS = 16, LINE_BYTES = 4096, UNIT = 1 };

static unsigned word(unsigned function, unsigned unit, unsigned address) {
    return (address * 31153u + function * 8191u + unit * 257u + 4660u) & 0xFFFFu;
}

static void fill(modbus_mapping_t *memory) {
    for (unsigned at = 0; at < ADDRESSES; at++) {
        memory->tab_bits[at] = word(1, UNIT, at) >> 7 & 1;
        memory->tab_input_bits[at] = word(2, UNIT, at) >> 7 & 1;
        memory->tab_registers[at] = (uint16_t)word(3, UNIT, at);
        memory->tab_input_registers[at] = (uint16_t)word(4, UNIT, at);
    }
}

static int command(modbus_mapping_t *memory, char *line) {
    char *rest = NULL, *name = strtok_r(line, " \n", &rest);
    char *unit = strtok_r(NULL, " \n", &rest), *table = strtok_r(NULL, " \n", &rest);
    char *address = strtok_r(NULL, " \n", &rest);
    if (!name || strcmp(name, "set") != 0 || !unit || !table || !address) return -1;
    unsigned long at = strtoul(address, NULL, 0);
    for (char *value; (value = strtok_r(NULL, " \n", &rest)) != NULL; at++) {
        unsigned long number = strtoul(value, NULL, 0);
        if (at >= ADDRESSES) return -1;
        if (strcmp(table, "coil") == 0) memory->tab_bits[at] = number != 0;
        else if (strcmp(table, "discrete") == 0) memory->tab_input_bits[at] = number != 0;
        else if (strcmp(table, "holding") == 0) memory->tab_registers[at] = (uint16_t)number;
        else if (strcmp(table, "input") == 0) memory->tab_input_registers[at] = (uint16_t)number;
        else return -1;
    }
    return 0;
}

/* libmodbus binds the port it is given and does not tell which one 0 became, so the port is asked from the socket. */
static int port_of(int listener) {
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    if (getsockname(listener, (struct sockaddr *)&name, &length) != 0) return -1;
    return ntohs(name.sin_port);
}

static void serve(modbus_t *modbus, int connection, fd_set *open_ones, modbus_mapping_t *memory) {
    uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
    modbus_set_socket(modbus, connection);
    int length = modbus_receive(modbus, query);
    if (length > 0) {
        modbus_reply(modbus, query, length, memory);
    } else if (length == -1) {
        close(connection);
        FD_CLR(connection, open_ones);
    }
}

/* One command from stdin; 0 when there is none any more. */
static int obey(modbus_mapping_t *memory) {
    char line[LINE_BYTES];
    /* Unbuffered reading of one line: select knows nothing of stdio's buffer. */
    size_t used = 0;
    ssize_t got;
    while ((got = read(STDIN_FILENO, line + used, 1)) == 1 && line[used] != '\n' && used < LINE_BYTES - 2) used++;
    if (got != 1) return 0;
    line[used + 1] = '\0';
    puts(command(memory, line) == 0 ? "ok" : "error");
    fflush(stdout);
    return 1;
}

/* Frames that are damaged, cut off or for another unit are no reason to end; a line that is gone is. */
static int serve_line(const char *path, int baud) {
    modbus_t *modbus = modbus_new_rtu(path, baud, 'N', 8, 1);
    modbus_mapping_t *memory = modbus_mapping_new(ADDRESSES, ADDRESSES, ADDRESSES, ADDRESSES);
    if (!modbus || !memory || modbus_set_slave(modbus, UNIT) == -1 || modbus_connect(modbus) == -1) {
        fprintf(stderr, "libmodbus_server: %s\n", modbus_strerror(errno));
        return 1;
    }
    fill(memory);
    printf("listening %s\n", path);
    fflush(stdout);
    int line = modbus_get_socket(modbus);
    for (;;) {
        fd_set ready;
        FD_ZERO(&ready);
        FD_SET(STDIN_FILENO, &ready);
        FD_SET(line, &ready);
        if (select(line + 1, &ready, NULL, NULL, NULL) == -1) return 1;
        if (FD_ISSET(STDIN_FILENO, &ready) && !obey(memory)) return 0;
        if (!FD_ISSET(line, &ready)) continue;
        uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
        int length = modbus_receive(modbus, query);
        if (length > 0) modbus_reply(modbus, query, length, memory);
        if (length == -1 && (errno == EIO || errno == EBADF || errno == ECONNRESET)) return 1;
    }
}

int main(int argc, char **argv) {
    if (argc == 3) return serve_line(argv[1], atoi(argv[2]));
    if (argc != 2) {
        fprintf(stderr, "usage: libmodbus_server PORT | PATH BAUD\n");
        return 2;
    }
    /* libmodbus takes port 0 for its default port 502, so a free port is found first. */
    int port = atoi(argv[1]);
    if (port == 0) {
        struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int probe = socket(AF_INET, SOCK_STREAM, 0);
        if (bind(probe, (struct sockaddr *)&any, sizeof any) != 0) return 1;
        port = port_of(probe);
        close(probe);
    }
    modbus_t *modbus = modbus_new_tcp("127.0.0.1", port);
    modbus_mapping_t *memory = modbus_mapping_new(ADDRESSES, ADDRESSES, ADDRESSES, ADDRESSES);
    int listener = modbus && memory ? modbus_tcp_listen(modbus, MAX_CONNECTIONS) : -1;
    if (listener == -1) {
        fprintf(stderr, "libmodbus_server: %s\n", modbus_strerror(errno));
        return 1;
    }
    fill(memory);
    printf("listening %d\n", port_of(listener));
    fflush(stdout);

    fd_set open_ones;
    FD_ZERO(&open_ones);
    FD_SET(STDIN_FILENO, &open_ones);
    FD_SET(listener, &open_ones);
    int highest = listener;
    for (;;) {
        fd_set ready = open_ones;
        if (select(highest + 1, &ready, NULL, NULL, NULL) == -1) return 1;
        for (int fd = 0; fd <= highest; fd++) {
            if (!FD_ISSET(fd, &ready)) continue;
            if (fd == STDIN_FILENO) {
                if (!obey(memory)) return 0;
            } else if (fd == listener) {
                int connection = accept(listener, NULL, NULL);
                if (connection >= FD_SETSIZE) {
                    close(connection);
                } else if (connection >= 0) {
                    FD_SET(connection, &open_ones);
                    if (connection > highest) highest = connection;
                }
            } else {
                serve(modbus, fd, &open_ones, memory);
            }
        }
    }
}
