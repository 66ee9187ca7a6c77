/* The platform of the measurement: takes every message whose API key is right, and counts.
 *
 *   sink PORT KEY
 *
 *   POST /api/transactional/send   reads the whole body, then 200; 401 unless X-Auth-APIKey is KEY; 400 without a body
 *   GET  /api/ping                 200, or 401
 *   GET  /count                    {"ok": N, "unauthorized": N, "bad": N, "octets": N}: the answers to POSTs so far
 *   GET  /keep                     keep the body of the next POST that is taken
 *   GET  /last                     that body
 *
 * One thread; HTTP/1.1 with Content-Length, kept alive; loopback only.
 *
 *   cc -O2 -o sink sink.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LARGEST (128u << 20)

struct connection {
    int fd;
    char *octets; /* what has come and is not answered */
    size_t have, room;
    size_t head;  /* its head's length, when the head is complete */
    long body;    /* its body's length, -1: not told */
    int authorized, close;
};

static const char *key;
static long ok, unauthorized, bad, octets;
static char *last;
static size_t last_length;
static int keeping;

static void die(const char *what) {
    perror(what);
    exit(2);
}

static void end(struct connection *c) {
    close(c->fd);
    free(c->octets);
    free(c);
}

/* The whole answer; only that of /last may have to wait for room. */
static void answer(struct connection *c, const char *status, const char *body, size_t length) {
    char head[256];
    int count = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                         status, length);
    char *whole = malloc(count + length);
    memcpy(whole, head, count);
    memcpy(whole + count, body, length);
    for (size_t sent = 0; sent < count + length;) {
        ssize_t written = send(c->fd, whole + sent, count + length - sent, MSG_NOSIGNAL);
        struct pollfd room = {.fd = c->fd, .events = POLLOUT};
        if (written > 0) sent += written;
        else if (written < 0 && errno == EAGAIN) poll(&room, 1, 1000);
        else {
            c->close = 1;
            break;
        }
    }
    free(whole);
}

static void say(struct connection *c, const char *status, const char *body) { answer(c, status, body, strlen(body)); }

static void submission(struct connection *c, const char *body) {
    if (c->body <= 0) {
        bad++;
        say(c, "400 Bad Request", "{\"title\":\"error\",\"description\":\"no body\"}");
    } else if (!c->authorized) {
        unauthorized++;
        say(c, "401 Unauthorized", "{}");
    } else {
        ok++;
        octets += c->body;
        if (keeping) {
            last = realloc(last, c->body);
            memcpy(last, body, last_length = c->body);
            keeping = 0;
        }
        say(c, "200 OK", "{\"tag\":\"welcome\",\"to\":\"x\",\"result\":\"ok\"}");
    }
}

static void counts(struct connection *c) {
    char text[200];
    snprintf(text, sizeof text, "{\"ok\":%ld,\"unauthorized\":%ld,\"bad\":%ld,\"octets\":%ld}", ok, unauthorized, bad, octets);
    say(c, "200 OK", text);
}

static int is(const char *request, const char *wanted) { return strncmp(request, wanted, strlen(wanted)) == 0; }

static void request(struct connection *c) {
    const char *line = c->octets;
    if (is(line, "POST /api/transactional/send ")) submission(c, line + c->head);
    else if (is(line, "GET /api/ping ") && c->authorized) say(c, "200 OK", "[{\"name\":\"Benchmark\"}]");
    else if (is(line, "GET /api/ping ")) say(c, "401 Unauthorized", "{}");
    else if (is(line, "GET /count ")) counts(c);
    else if (is(line, "GET /last ")) answer(c, "200 OK", last ? last : "", last_length);
    else if (is(line, "GET /keep ")) {
        keeping = 1;
        last_length = 0;
        say(c, "200 OK", "{}");
    } else {
        bad++;
        say(c, "404 Not Found", "{}");
        c->close = 1; /* it may have a body that was not understood */
    }
}

/* The value of a header line if its name is `name` (with the colon), else NULL. */
static const char *value(const char *line, const char *name) {
    size_t length = strlen(name);
    if (strncasecmp(line, name, length)) return NULL;
    return line + length + strspn(line + length, " \t");
}

static void headers(struct connection *c) {
    const char *limit = c->octets + c->head - 2, *line = c->octets, *found;
    c->body = -1;
    c->authorized = c->close = 0;
    while ((line = memmem(line, limit - line, "\r\n", 2)) && (line += 2) < limit) {
        if ((found = value(line, "content-length:"))) c->body = atol(found);
        else if ((found = value(line, "x-auth-apikey:"))) {
            size_t length = strcspn(found, "\r");
            c->authorized = length == strlen(key) && !memcmp(found, key, length);
        } else if ((found = value(line, "connection:"))) c->close = !strncasecmp(found, "close", 5);
    }
}

/* Answer each complete request in the buffer; 0 when the connection is over. */
static int requests(struct connection *c) {
    while (c->have) {
        if (!c->head) {
            char *blank = memmem(c->octets, c->have, "\r\n\r\n", 4);
            if (!blank) return c->have < 65536;
            c->head = blank + 4 - c->octets;
            headers(c);
        }
        size_t whole = c->head + (c->body > 0 ? c->body : 0);
        if (whole > LARGEST) return 0;
        if (c->have < whole) return 1;
        request(c);
        c->have -= whole;
        memmove(c->octets, c->octets + whole, c->have);
        c->head = 0;
        if (c->close) return 0;
    }
    return 1;
}

static void readable(struct connection *c) {
    for (;;) {
        if (c->room - c->have < 65536) c->octets = realloc(c->octets, (c->room = c->room * 2 + 131072) + 1);
        ssize_t count = recv(c->fd, c->octets + c->have, c->room - c->have, 0);
        if (count < 0 && errno == EAGAIN) return;
        if (count <= 0) {
            end(c);
            return;
        }
        c->have += count;
        c->octets[c->have] = 0;
        int short_read = c->have < c->room;
        if (!requests(c)) {
            end(c);
            return;
        }
        if (short_read) return;
    }
}

static void accept_all(int listener, int events) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: sink PORT KEY\n");
        return 2;
    }
    key = argv[2];
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, events = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) die("sink");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, ready[256];
    epoll_ctl(events, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(events, ready, 256, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.ptr) readable(ready[i].data.ptr);
            else accept_all(listener, events);
        }
    }
}
