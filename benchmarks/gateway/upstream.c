/*
 * A mock of an OpenAI-wire model server, fast enough never to be what is measured: one thread, epoll.
 *
 *     upstream PORT
 *
 * POST .../chat/completions  200, server-sent events: 50 chunks of text, one with the finish reason, one with the usage,
 *                            [DONE]; about 14 KB. Each event is one write and one HTTP chunk, as a model server makes
 *                            them. "pace=N" anywhere in the request's body puts N milliseconds between two events.
 * GET  .../models            a list of one model
 * GET  /stats                {"served":...,"hung_up":...,"active":...}: whole answers, answers whose reader left, answers
 *                            under way
 * GET  /health               200
 *
 * Connections are kept alive. A reader that is slow is waited for (EPOLLOUT); nothing is buffered here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define TOKENS 50
#define PIECES (TOKENS + 5) /* head, tokens, finish, usage, [DONE], end of the chunked body */
#define MOST_CONNECTIONS 8192
#define MODEL "mistralai/mistral-7b-instruct"
#define TICK_NS 500000 /* how exactly events are paced */

struct piece {
    char *bytes;
    size_t length;
};

struct connection {
    int fd;
    bool active;      /* an answer is under way */
    bool close_after; /* the request asked for it */
    bool blocked;     /* the reader's buffer is full: EPOLLOUT will tell */
    int next;         /* piece to write */
    size_t offset;    /* of it already written */
    long long pace;   /* ns between two events; 0 is none */
    long long due;    /* when the next event may go */
    size_t length;    /* of the request read so far */
    char request[1 << 16];
};

static struct piece answer[PIECES];
static struct connection *connections[MOST_CONNECTIONS];
static int highest = 0; /* connections above this index are empty */
static int poller;
static long long served = 0, hung_up = 0, active = 0;

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* Appends one piece of the answer; an event is framed as one HTTP chunk. */
static void add(int *count, const char *text, bool is_event) {
    struct piece *made = &answer[(*count)++];
    int length = is_event ? asprintf(&made->bytes, "%zx\r\n%s\n\n\r\n", strlen(text) + 2, text)
                          : asprintf(&made->bytes, "%s", text);
    if (length < 0) die("asprintf");
    made->length = (size_t)length;
}

static void make_answer(void) {
    static const char *start = "data: {\"id\":\"gen-1763680000-benchmark\",\"object\":\"chat.completion.chunk\","
                               "\"created\":1763680000,\"model\":\"" MODEL "\",\"system_fingerprint\":null,";
    char event[1024];
    int count = 0;
    add(&count,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
        "Transfer-Encoding: chunked\r\n\r\n",
        false);
    for (int token = 0; token < TOKENS; token++) {
        snprintf(event, sizeof event,
                 "%s\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"%s%d \"},"
                 "\"logprobs\":null,\"finish_reason\":null}]}",
                 start, token % 3 ? "token" : "你好", token);
        add(&count, event, true);
    }
    snprintf(event, sizeof event, "%s\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}", start);
    add(&count, event, true);
    snprintf(event, sizeof event,
             "%s\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%d,\"total_tokens\":%d}}", start,
             TOKENS, TOKENS + 10);
    add(&count, event, true);
    add(&count, "data: [DONE]", true);
    add(&count, "0\r\n\r\n", false);
}

static void drop(struct connection *it) {
    if (it->active) {
        hung_up++;
        active--;
    }
    connections[it->fd] = NULL;
    close(it->fd); /* leaves the poller by itself */
    free(it);
}

static void watch(struct connection *it, bool writable) {
    struct epoll_event event = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.fd = it->fd};
    it->blocked = writable;
    if (epoll_ctl(poller, EPOLL_CTL_MOD, it->fd, &event)) die("epoll_ctl");
}

/* Writes what is due. May free the connection. */
static void write_on(struct connection *it, long long time) {
    while (it->next < PIECES) {
        struct piece *piece = &answer[it->next];
        if (it->pace && it->offset == 0 && it->next > 1 && it->next < PIECES - 1) {
            if (time < it->due) return;
            it->due += it->pace;
        }
        ssize_t written = send(it->fd, piece->bytes + it->offset, piece->length - it->offset, MSG_NOSIGNAL);
        if (written < 0 && errno == EAGAIN) {
            if (it->pace && it->offset == 0) it->due = time; /* the wait is the reader's, not the pace's */
            if (!it->blocked) watch(it, true);
            return;
        }
        if (written < 0) {
            drop(it);
            return;
        }
        it->offset += (size_t)written;
        if (it->offset == piece->length) {
            it->next++;
            it->offset = 0;
        }
    }
    if (it->blocked) watch(it, false);
    it->active = false;
    active--;
    served++;
    if (it->close_after) drop(it);
}

static void answer_plainly(struct connection *it, const char *status, const char *body) {
    char text[1024];
    int length = snprintf(text, sizeof text,
                          "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", status,
                          strlen(body), body);
    /* small and the only thing in the socket's buffer: it fits */
    if (send(it->fd, text, (size_t)length, MSG_NOSIGNAL) != length || it->close_after) drop(it);
}

/* Whether the path of the request line ends in `end`. */
static bool path_ends(const char *request, const char *end) {
    const char *path = strchr(request, ' ') + 1;
    size_t length = strcspn(path, " ?"), wanted = strlen(end);
    return length >= wanted && !memcmp(path + length - wanted, end, wanted);
}

static void handle(struct connection *it, const char *body, long long time) {
    char text[512];
    if (!strncmp(it->request, "POST ", 5) && path_ends(it->request, "/chat/completions")) {
        const char *pace = strstr(body, "pace=");
        it->pace = pace ? atoi(pace + 5) * 1000000LL : 0;
        it->next = 0;
        it->offset = 0;
        it->due = time + it->pace;
        it->active = true;
        active++;
        write_on(it, time);
    } else if (path_ends(it->request, "/models")) {
        answer_plainly(it, "200 OK",
                       "{\"data\":[{\"id\":\"" MODEL "\",\"canonical_slug\":\"" MODEL "\",\"object\":\"model\","
                       "\"name\":\"Mistral: Mistral 7B Instruct\",\"created\":1695859200,\"description\":\"\","
                       "\"context_length\":32768,\"pricing\":{\"prompt\":\"0\",\"completion\":\"0\"}}]}");
    } else if (path_ends(it->request, "/stats")) {
        snprintf(text, sizeof text, "{\"served\":%lld,\"hung_up\":%lld,\"active\":%lld}", served, hung_up, active);
        answer_plainly(it, "200 OK", text);
    } else if (path_ends(it->request, "/health")) {
        answer_plainly(it, "200 OK", "{}");
    } else {
        answer_plainly(it, "404 Not Found", "{\"error\":{\"code\":404,\"message\":\"no such path\"}}");
    }
}

static void read_on(struct connection *it) {
    size_t room = sizeof it->request - 1 - it->length;
    ssize_t got = recv(it->fd, it->request + it->length, room, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 || it->active) { /* who writes into a running answer is no client of ours */
        drop(it);
        return;
    }
    it->length += (size_t)got;
    it->request[it->length] = 0;
    char *end = strstr(it->request, "\r\n\r\n");
    if (!end) return;
    char *body = end + 4;
    *end = 0; /* the search for headers stops before the body */
    const char *length = strcasestr(it->request, "\r\ncontent-length:");
    bool chunked = strcasestr(it->request, "\r\ntransfer-encoding: chunked") != NULL;
    it->close_after = strcasestr(it->request, "\r\nconnection: close") != NULL;
    *end = '\r';
    size_t have = it->length - (size_t)(body - it->request);
    if (chunked ? !strstr(body, "0\r\n\r\n") : length && have < (size_t)atol(length + 17)) {
        if (it->length == sizeof it->request - 1) drop(it);
        return;
    }
    it->length = 0;
    handle(it, body, now());
}

static void welcome(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *made = fd < MOST_CONNECTIONS ? calloc(1, sizeof *made) : NULL;
        if (!made) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        made->fd = fd;
        connections[fd] = made;
        if (fd > highest) highest = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

/* Writes the events whose time has come; returns whether there are paced answers left. */
static bool pace_on(void) {
    long long time = now();
    bool any = false;
    for (int fd = 0; fd <= highest; fd++) {
        struct connection *it = connections[fd];
        if (!it || !it->active || !it->pace) continue;
        if (!it->blocked && time >= it->due) write_on(it, time);
        any = true;
    }
    return any;
}

int main(int count, char **arguments) {
    if (count != 2) {
        fprintf(stderr, "usage: upstream PORT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    make_answer();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((unsigned short)atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    int ticker = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.fd = ticker;
    epoll_ctl(poller, EPOLL_CTL_ADD, ticker, &event);
    const struct itimerspec ticking = {{0, TICK_NS}, {0, TICK_NS}}, still = {{0, 0}, {0, 0}};
    bool is_ticking = false;
    for (;;) {
        struct epoll_event events[512];
        int ready = epoll_wait(poller, events, 512, -1);
        for (int each = 0; each < ready; each++) {
            int fd = events[each].data.fd;
            unsigned long long ticks;
            if (fd == listener) {
                welcome(listener);
            } else if (fd == ticker) {
                if (read(ticker, &ticks, sizeof ticks) < 0) continue;
            } else {
                if (connections[fd] && events[each].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) read_on(connections[fd]);
                if (connections[fd] && connections[fd]->active && events[each].events & EPOLLOUT) {
                    watch(connections[fd], false);
                    write_on(connections[fd], now());
                }
            }
        }
        bool any = pace_on();
        if (any != is_ticking) {
            timerfd_settime(ticker, 0, any ? &ticking : &still, NULL);
            is_ticking = any;
        }
    }
}
