/* Sends one message again and again over SMTP, from many sessions in one thread, and notes how long each took.
 *
 *   load -p PORT -F FILE [-s SESSIONS] [-m MESSAGES] [-d] [-R RATE] [-P] [-a TOKEN] [-S] [-T SECONDS] [-f FROM] [-t TO]
 *
 *   -d        keep the connection for many messages; without it each message has a connection of its own
 *   -R RATE   messages a second on a timetable, however slow the answers are; each is timed from its planned moment
 *   -P        MAIL, RCPT and DATA in one write
 *   -a TOKEN  AUTH PLAIN with this initial response (base64)
 *   -S        STARTTLS, a full handshake for each connection; needs a build with -DWITH_TLS -lssl -lcrypto
 *   -T        give up after so many seconds
 *
 * The file has LF line ends; CR and the dots of RFC 5321, section 4.5.2 are added.  Only 127.0.0.0/8 is driven.
 * Prints one JSON object.  A message takes from connect (with -d: from MAIL; with -R: from its planned moment) to 250.
 *
 *   cc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#endif

enum step { IDLE, CONNECT, GREETING, EHLO, STARTTLS, HANDSHAKE, AUTH, MAIL, RCPT, DATA, BODY, VERDICT, QUIT };

struct session {
    int fd;
    enum step step;
    int ready;      /* greeted and signed in: MAIL may come */
    int busy;       /* a message is under way, since `begun` */
    uint64_t begun;
    size_t sent;    /* octets of the message */
    int writing;    /* waits for room to write */
    size_t have;    /* octets in `in` */
    char in[8192];
#ifdef WITH_TLS
    SSL *tls;
#endif
};

static const char *from = "bounce@shop.example", *to = "rcpt@customer.example", *file, *token;
static int port, sessions = 50, keep, pipelining, starttls, limit = 60;
static long total = 1000;
static double rate;

static int events;
static struct sockaddr_in server;
static char *message, mail[512], rcpt[512], auth[1024];
static size_t length;
static uint64_t epoch;
static long started, finished, good;
static int codes[1000];
static uint32_t *taken; /* microseconds of each good message */
#ifdef WITH_TLS
static SSL_CTX *context;
#endif

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static void watch(struct session *s, int writing) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = s};
    if (writing != s->writing) epoll_ctl(events, EPOLL_CTL_MOD, s->fd, &event);
    s->writing = writing;
}

/* Octets moved; 0: not now; -1: it is over. */
static ssize_t moved(ssize_t count) {
    if (count > 0) return count;
    return count < 0 && errno == EAGAIN ? 0 : -1;
}

#ifdef WITH_TLS
static ssize_t moved_tls(struct session *s, int count) {
    if (count > 0) return count;
    int why = SSL_get_error(s->tls, count);
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}
#endif

static ssize_t give(struct session *s, const char *octets, size_t count) {
#ifdef WITH_TLS
    if (s->tls) return moved_tls(s, SSL_write(s->tls, octets, count));
#endif
    return moved(send(s->fd, octets, count, MSG_NOSIGNAL));
}

static ssize_t take(struct session *s, char *octets, size_t count) {
#ifdef WITH_TLS
    if (s->tls) return moved_tls(s, SSL_read(s->tls, octets, count));
#endif
    return moved(recv(s->fd, octets, count, 0));
}

static void hang_up(struct session *s) {
#ifdef WITH_TLS
    if (s->tls) SSL_free(s->tls);
    s->tls = NULL;
#endif
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    s->step = IDLE;
    s->ready = s->writing = 0;
    s->have = 0;
}

static void fail(struct session *s) {
    if (s->busy) finished++;
    s->busy = 0;
    hang_up(s);
}

/* A command; it is short, and the peer has answered all before it, so that there is room. */
static void say(struct session *s, const char *text, enum step step) {
    s->step = step;
    if (give(s, text, strlen(text)) != (ssize_t)strlen(text)) fail(s);
}

static void dial(struct session *s) {
    int one = 1;
    if ((s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) < 0) die("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(s->fd, (void *)&server, sizeof server) < 0 && errno != EINPROGRESS) {
        fail(s);
        return;
    }
    s->step = CONNECT;
    s->writing = 1;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = s};
    epoll_ctl(events, EPOLL_CTL_ADD, s->fd, &event);
}

static void envelope(struct session *s) {
    char all[1100];
    snprintf(all, sizeof all, "%s%sDATA\r\n", mail, rcpt);
    say(s, pipelining ? all : mail, MAIL);
}

static uint64_t planned(long number) { return epoch + (uint64_t)(number * 1e9 / rate); }

/* Begin messages until one is under way; none when the next is not due. */
static void next(struct session *s) {
    while (s->step == IDLE && started < total) {
        uint64_t begun = now();
        if (rate > 0 && planned(started) > begun) return;
        s->begun = rate > 0 ? planned(started) : begun;
        s->busy = 1;
        started++;
        if (s->ready) envelope(s);
        else dial(s);
    }
}

static void write_message(struct session *s) {
    while (s->sent < length) {
        ssize_t count = give(s, message + s->sent, length - s->sent);
        if (count < 0) {
            fail(s);
            return;
        }
        if (count == 0) {
            watch(s, 1);
            return;
        }
        s->sent += count;
    }
    watch(s, 0);
    s->step = VERDICT;
}

static void shake_hands(struct session *s) {
#ifdef WITH_TLS
    int count = SSL_connect(s->tls);
    if (count == 1) {
        watch(s, 0);
        say(s, "EHLO load.example\r\n", EHLO);
    } else if (moved_tls(s, count) < 0)
        fail(s);
    else
        watch(s, SSL_want_write(s->tls));
#else
    fail(s);
#endif
}

static void secure(struct session *s) {
    s->step = HANDSHAKE;
#ifdef WITH_TLS
    s->tls = SSL_new(context);
    SSL_set_fd(s->tls, s->fd);
    SSL_set_connect_state(s->tls);
#endif
    shake_hands(s);
}

static int is_secure(struct session *s) {
#ifdef WITH_TLS
    return s->tls != NULL;
#else
    (void)s;
    return 0;
#endif
}

static void sign_in(struct session *s) {
    if (starttls && !is_secure(s)) say(s, "STARTTLS\r\n", STARTTLS);
    else if (token) say(s, auth, AUTH);
    else {
        s->ready = 1;
        envelope(s);
    }
}

static void verdict(struct session *s) {
    taken[good++] = (now() - s->begun) / 1000;
    finished++;
    s->busy = 0;
    if (keep) s->step = IDLE;
    else say(s, "QUIT\r\n", QUIT);
}

/* What each step expects, and what follows it. */
static void reply(struct session *s, int code) {
    static const int expected[] = {
        [GREETING] = 220, [EHLO] = 250, [STARTTLS] = 220, [AUTH] = 235,
        [MAIL] = 250, [RCPT] = 250, [DATA] = 354, [VERDICT] = 250, [QUIT] = 221,
    };
    if (code >= 400 && code < 1000) codes[code]++;
    if (code != expected[s->step]) {
        fail(s);
        return;
    }
    switch (s->step) {
    case GREETING: say(s, "EHLO load.example\r\n", EHLO); break;
    case EHLO: sign_in(s); break;
    case STARTTLS: secure(s); break;
    case AUTH: s->ready = 1; envelope(s); break;
    case MAIL:
        if (pipelining) s->step = RCPT;
        else say(s, rcpt, RCPT);
        break;
    case RCPT:
        if (pipelining) s->step = DATA;
        else say(s, "DATA\r\n", DATA);
        break;
    case DATA: s->step = BODY; s->sent = 0; write_message(s); break;
    case VERDICT: verdict(s); break;
    default: hang_up(s);
    }
}

static void read_replies(struct session *s) {
    while (s->fd >= 0 && s->step != HANDSHAKE) {
        ssize_t count = take(s, s->in + s->have, sizeof s->in - s->have);
        if (count == 0) return;
        if (count < 0 || s->have + count == sizeof s->in) {
            fail(s);
            return;
        }
        s->have += count;
        char *line = s->in, *end;
        while (s->fd >= 0 && (end = memchr(line, '\n', s->in + s->have - line))) {
            int last = end - line >= 3 && line[3] != '-', code = atoi(line);
            line = end + 1;
            if (last) reply(s, code);
        }
        if (s->fd < 0) return;
        s->have -= line - s->in;
        memmove(s->in, line, s->have);
    }
}

static void connected(struct session *s) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail(s);
        return;
    }
    s->step = GREETING;
    watch(s, 0);
}

static void happened(struct session *s, uint32_t what) {
    if (s->fd >= 0 && s->step == CONNECT) connected(s);
    if (s->fd >= 0 && s->step == HANDSHAKE) shake_hands(s);
    if (s->fd >= 0 && s->step == BODY && (what & EPOLLOUT)) write_message(s);
    if (s->fd >= 0 && (what & (EPOLLIN | EPOLLHUP | EPOLLERR))) read_replies(s);
    if (rate == 0) next(s);
}

static void read_message(void) {
    FILE *input = fopen(file, "rb");
    if (!input) die(file);
    fseek(input, 0, SEEK_END);
    long count = ftell(input);
    rewind(input);
    char *raw = malloc(count + 1);
    if (fread(raw, 1, count, input) != (size_t)count) die(file);
    fclose(input);
    message = malloc(count * 3 + 16);
    for (long i = 0; i < count; i++) {
        int first = i == 0 || raw[i - 1] == '\n';
        if (first && raw[i] == '.') message[length++] = '.';
        if (raw[i] == '\n') message[length++] = '\r';
        message[length++] = raw[i];
    }
    if (count && raw[count - 1] != '\n') length += sprintf(message + length, "\r\n");
    length += sprintf(message + length, ".\r\n");
    free(raw);
}

static void options(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "p:F:s:m:dR:Pa:ST:f:t:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'F': file = optarg; break;
        case 's': sessions = atoi(optarg); break;
        case 'm': total = atol(optarg); break;
        case 'd': keep = 1; break;
        case 'R': rate = atof(optarg); break;
        case 'P': pipelining = 1; break;
        case 'a': token = optarg; break;
        case 'S': starttls = 1; break;
        case 'T': limit = atoi(optarg); break;
        case 'f': from = optarg; break;
        case 't': to = optarg; break;
        default: exit(2);
    }
    if (!port || !file || sessions < 1 || total < 1) {
        fprintf(stderr, "load: -p PORT and -F FILE are needed; its source tells the rest\n");
        exit(2);
    }
#ifndef WITH_TLS
    if (starttls) {
        fprintf(stderr, "load: was built without TLS\n");
        exit(2);
    }
#endif
}

static void prepare(void) {
    server.sin_family = AF_INET;
    server.sin_port = htons(port);
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(mail, sizeof mail, "MAIL FROM:<%s>\r\n", from);
    snprintf(rcpt, sizeof rcpt, "RCPT TO:<%s>\r\n", to);
    if (token) snprintf(auth, sizeof auth, "AUTH PLAIN %s\r\n", token);
    read_message();
    taken = malloc(sizeof *taken * total);
    events = epoll_create1(0);
#ifdef WITH_TLS
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
#endif
}

/* With -R: the timer that wakes us when a message is due. */
static void set_alarm(int timer) {
    uint64_t at = planned(started), soon = now() + 200000;
    if (at < soon) at = soon; /* it is due, and all sessions are busy: look again soon */
    struct itimerspec alarm = {.it_value = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &alarm, NULL);
}

static int ascending(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

static double percentile(double part) {
    long index = part * good;
    return good ? taken[index < good ? index : good - 1] / 1000.0 : 0;
}

static void print(double seconds) {
    qsort(taken, good, sizeof *taken, ascending);
    printf("{\"asked\":%ld,\"ok\":%ld,\"failed\":%ld,\"unfinished\":%ld,\"seconds\":%.3f,\"p50\":%.3f,\"p99\":%.3f,\"max\":%.3f,",
           total, good, finished - good, total - finished, seconds, percentile(.5), percentile(.99), percentile(1));
    printf("\"codes\":{");
    for (int code = 400, first = 1; code < 1000; code++)
        if (codes[code]) {
            printf("%s\"%d\":%d", first ? "" : ",", code, codes[code]);
            first = 0;
        }
    printf("}}\n");
}

int main(int argc, char **argv) {
    options(argc, argv);
    prepare();
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event alarm = {.events = EPOLLIN, .data.ptr = NULL}, ready[256];
    epoll_ctl(events, EPOLL_CTL_ADD, timer, &alarm);
    struct session *all = calloc(sessions, sizeof *all);
    epoch = now();
    for (int i = 0; i < sessions; i++) all[i].fd = -1;
    for (int i = 0; i < sessions; i++) next(&all[i]);
    while (finished < total && now() < epoch + limit * 1000000000ull) {
        if (rate > 0 && started < total) set_alarm(timer);
        int count = epoll_wait(events, ready, 256, 1000);
        for (int i = 0; i < count; i++) {
            uint64_t expirations;
            if (ready[i].data.ptr) happened(ready[i].data.ptr, ready[i].events);
            else if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN) die("timer");
        }
        for (int i = 0; rate > 0 && i < sessions && started < total && planned(started) <= now(); i++) next(&all[i]);
    }
    double seconds = (now() - epoch) / 1e9;
    for (int i = 0; i < sessions; i++)
        if (all[i].fd >= 0 && all[i].ready && !all[i].busy && keep) say(&all[i], "QUIT\r\n", QUIT);
    print(seconds);
    return good == total ? 0 : 1;
}
