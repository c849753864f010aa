/*
 * A load generator for streamed answers: one thread, epoll, a closed loop (each client asks again when it has its answer).
 *
 *     load --port P --path /x --body FILE --clients N --answers M --expect TEXT [--expect TEXT ...]
 *          [--header "Name: value"] [--skip K] [--spread MS] [--cut SHARE --cut-within MS] [--limit S] [--seed N]
 *
 * An answer is good when its status is 200, its body ended as HTTP says, and every TEXT stands in the body. With --cut,
 * that share of the answers is cut by closing the connection at a moment drawn from the first MS milliseconds.
 * The first K answers are left out of the latencies; --spread lets the clients begin one after the other over MS
 * milliseconds, so that they do not ask in step. After S seconds what is under way counts as unfinished.
 *
 * Prints one JSON object. Latencies are in milliseconds, from the request's last byte sent to the first byte of the body
 * (first) and to its last (total), of good answers.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_BODY (1 << 18)
#define MOST_HEAD 8192
#define MOST_EXPECTED 8

enum framing { BY_LENGTH, BY_CHUNKS, BY_CLOSE };
enum chunk_state { SIZE, DATA, AFTER_DATA, TRAILER };
enum fed { MORE, WHOLE, BROKEN };

struct client {
    int fd; /* -1: none */
    bool waiting, reading_body, asked_to_close;
    long long due; /* when to begin or to cut; 0 is never */
    long long sent, first;
    int status;
    enum framing framing;
    enum chunk_state chunk;
    bool trailer_has_text;
    long left; /* of the body, or of the chunk */
    size_t head_length, body_length;
    char head[MOST_HEAD + 1];
    char *body;
};

static int port, poller;
static char request[1 << 16];
static size_t request_length;
static const char *expected[MOST_EXPECTED];
static int expected_count;
static long answers, begun, finished, good, bad, cut, skip, opened, latencies;
static double cut_share, cut_within_ms, *first_ms, *total_ms;
static long long bytes, frames;
static char first_bad[512];

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void hang_up(struct client *it) {
    if (it->fd >= 0) close(it->fd); /* with unread bytes the kernel sends RST, else FIN: servers meet both */
    it->fd = -1;
}

static bool dial(struct client *it) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    it->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (it->fd < 0) die("socket");
    setsockopt(it->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(it->fd, (void *)&address, sizeof address)) {
        hang_up(it);
        return false;
    }
    fcntl(it->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = it};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, it->fd, &event)) die("epoll_ctl");
    opened++;
    return true;
}

/* Keeps the first bad answer for the report, as plain ASCII that can stand in JSON. */
static void note_bad(struct client *it, const char *why) {
    bad++;
    if (first_bad[0]) return;
    snprintf(first_bad, sizeof first_bad, "%s; status %d; %.120s ... %.250s", why, it->status, it->head,
             it->body_length > 250 ? it->body + it->body_length - 250 : it->body);
    for (char *each = first_bad; *each; each++)
        if (*each < 32 || *each > 126 || *each == '"' || *each == '\\') *each = ' ';
}

static void begin(struct client *it);

static void ended(struct client *it) {
    finished++;
    it->waiting = false;
    it->due = 0;
    if (begun < answers) begin(it);
    else hang_up(it);
}

static void failed(struct client *it, const char *why) {
    note_bad(it, why);
    hang_up(it);
    ended(it);
}

/* Sends the next request, over a new connection where the old one is gone. */
static void begin(struct client *it) {
    begun++;
    it->waiting = true;
    it->reading_body = it->asked_to_close = it->trailer_has_text = false;
    it->head_length = it->body_length = 0;
    it->head[0] = it->body[0] = 0;
    it->status = 0;
    it->first = it->due = 0;
    if (it->fd < 0 && !dial(it)) {
        /* not failed(): begin() calling itself once an answer would be as deep as there are answers */
        note_bad(it, "cannot connect");
        finished++;
        it->waiting = false;
        it->due = begun < answers ? now() + 1000000 : 0;
        return;
    }
    ssize_t sent = send(it->fd, request, request_length, MSG_NOSIGNAL);
    it->sent = now();
    if (sent != (ssize_t)request_length) it->status = -1; /* the end of the connection will be read and counted */
    if (cut_share > 0 && drand48() < cut_share) it->due = it->sent + (long long)(drand48() * cut_within_ms * 1e6) + 1;
}

static bool is_good(struct client *it) {
    if (it->status != 200) return false;
    for (int each = 0; each < expected_count; each++)
        if (!memmem(it->body, it->body_length, expected[each], strlen(expected[each]))) return false;
    return true;
}

static void whole(struct client *it) {
    long long time = now();
    if (is_good(it)) {
        good++;
        bytes += (long long)it->body_length;
        char *end = it->body + it->body_length;
        for (char *at = it->body; (at = memmem(at, (size_t)(end - at), "data: ", 6)); at += 6) frames++;
        if (finished >= skip) {
            first_ms[latencies] = (double)(it->first - it->sent) / 1e6;
            total_ms[latencies++] = (double)(time - it->sent) / 1e6;
        }
    } else {
        note_bad(it, "not what was expected");
    }
    if (it->asked_to_close) hang_up(it);
    ended(it);
}

static bool keep(struct client *it, const char *data, size_t length) {
    if (it->body_length + length > MOST_BODY) return false;
    if (!it->first) it->first = now();
    memcpy(it->body + it->body_length, data, length);
    it->body_length += length;
    it->body[it->body_length] = 0;
    return true;
}

static int hex(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit |= 32;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

static enum fed feed_chunks(struct client *it, const char *data, size_t length) {
    const char *end = data + length;
    while (data < end) {
        if (it->chunk == DATA) {
            size_t take = (size_t)(end - data) < (size_t)it->left ? (size_t)(end - data) : (size_t)it->left;
            if (!keep(it, data, take)) return BROKEN;
            data += take;
            it->left -= (long)take;
            if (!it->left) it->chunk = AFTER_DATA;
            continue;
        }
        char each = *data++;
        if (it->chunk == SIZE && each == '\n') {
            it->chunk = it->left ? DATA : TRAILER;
            it->trailer_has_text = false;
        } else if (it->chunk == SIZE && each != '\r') {
            if (hex(each) < 0) return BROKEN; /* no server measured here sends chunk extensions */
            it->left = it->left * 16 + hex(each);
        } else if (it->chunk == AFTER_DATA && each == '\n') {
            it->chunk = SIZE;
            it->left = 0;
        } else if (it->chunk == TRAILER && each == '\n') {
            if (!it->trailer_has_text) return WHOLE;
            it->trailer_has_text = false;
        } else if (it->chunk == TRAILER && each != '\r') {
            it->trailer_has_text = true;
        }
    }
    return MORE;
}

static enum fed feed(struct client *it, const char *data, size_t length) {
    if (it->framing == BY_CHUNKS) return feed_chunks(it, data, length);
    if (length && !keep(it, data, length)) return BROKEN;
    if (it->framing == BY_CLOSE) return MORE;
    it->left -= (long)length;
    return it->left > 0 ? MORE : WHOLE;
}

/* Takes bytes of the head; returns how many, or -1 when the head is too long. */
static ssize_t feed_head(struct client *it, const char *data, size_t length) {
    size_t before = it->head_length, room = MOST_HEAD - before, take = length < room ? length : room;
    memcpy(it->head + before, data, take);
    it->head_length += take;
    it->head[it->head_length] = 0;
    char *end = strstr(it->head, "\r\n\r\n");
    if (!end) return take < length ? -1 : (ssize_t)take;
    it->head_length = (size_t)(end + 4 - it->head);
    it->head[it->head_length] = 0;
    it->status = atoi(it->head + 9);
    it->asked_to_close = strcasestr(it->head, "\r\nconnection: close") != NULL;
    char *found = strcasestr(it->head, "\r\ncontent-length:");
    it->framing = strcasestr(it->head, "\r\ntransfer-encoding: chunked") ? BY_CHUNKS : found ? BY_LENGTH : BY_CLOSE;
    it->left = it->framing == BY_LENGTH ? atol(found + 17) : 0;
    it->chunk = SIZE;
    it->reading_body = true;
    return (ssize_t)(it->head_length - before);
}

static void readable(struct client *it) {
    static char buffer[1 << 16];
    ssize_t got = recv(it->fd, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (!it->waiting) { /* nothing was asked: the server closed, or it said more than its answer */
        hang_up(it);
        return;
    }
    if (got <= 0) {
        if (it->reading_body && it->framing == BY_CLOSE && got == 0) {
            it->asked_to_close = true;
            whole(it);
        } else {
            failed(it, "the connection ended early");
        }
        return;
    }
    ssize_t taken = it->reading_body ? 0 : feed_head(it, buffer, (size_t)got);
    if (taken < 0) {
        failed(it, "the head is too long");
    } else if (it->reading_body) {
        enum fed fed = feed(it, buffer + taken, (size_t)(got - taken));
        if (fed == WHOLE) whole(it);
        if (fed == BROKEN) failed(it, "the body is not HTTP, or too long");
    }
}

/* Begins and cuts what is due. */
static void look_at_clock(struct client *clients, int count) {
    long long time = now();
    for (int each = 0; each < count; each++) {
        struct client *it = &clients[each];
        if (!it->due || time < it->due) continue;
        it->due = 0;
        if (it->waiting) {
            cut++;
            hang_up(it);
            ended(it);
        } else if (begun < answers) {
            begin(it);
        }
    }
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(double *sorted, double share) {
    return latencies ? sorted[(long)((double)(latencies - 1) * share)] : -1;
}

static void report(double seconds) {
    qsort(first_ms, (size_t)latencies, sizeof *first_ms, by_size);
    qsort(total_ms, (size_t)latencies, sizeof *total_ms, by_size);
    printf("{\"good\":%ld,\"bad\":%ld,\"cut\":%ld,\"unfinished\":%ld,\"seconds\":%.3f,\"per_second\":%.2f,"
           "\"first_p50\":%.4f,\"first_p99\":%.4f,\"total_p50\":%.4f,\"total_p99\":%.4f,\"bytes\":%.0f,\"frames\":%.2f,"
           "\"connections\":%ld,\"first_bad\":\"%s\"}\n",
           good, bad, cut, answers - finished, seconds, (double)good / seconds, percentile(first_ms, .5),
           percentile(first_ms, .99), percentile(total_ms, .5), percentile(total_ms, .99),
           good ? (double)bytes / (double)good : 0, good ? (double)frames / (double)good : 0, opened, first_bad);
}

static void make_request(const char *path, const char *body_file, const char *headers) {
    char body[1 << 15];
    FILE *file = fopen(body_file, "r");
    if (!file) die(body_file);
    size_t length = fread(body, 1, sizeof body, file);
    fclose(file);
    int head = snprintf(request, sizeof request - sizeof body,
                        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                        "Accept: text/event-stream\r\n%sContent-Length: %zu\r\n\r\n",
                        path, port, headers, length);
    memcpy(request + head, body, length);
    request_length = (size_t)head + length;
}

int main(int argument_count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, 0, 'p'},   {"path", 1, 0, 'u'},   {"body", 1, 0, 'b'},       {"header", 1, 0, 'h'},
        {"clients", 1, 0, 'c'}, {"answers", 1, 0, 'a'}, {"expect", 1, 0, 'e'},     {"skip", 1, 0, 'k'},
        {"spread", 1, 0, 's'}, {"cut", 1, 0, 'x'},    {"cut-within", 1, 0, 'w'}, {"limit", 1, 0, 'l'},
        {"seed", 1, 0, 'r'},   {0, 0, 0, 0}};
    const char *path = "/", *body = "/dev/null";
    char headers[4096] = "";
    int clients = 1, option;
    double spread_ms = 0, limit_s = 600;
    while ((option = getopt_long(argument_count, arguments, "", options, NULL)) != -1) {
        size_t used = strlen(headers);
        if (option == 'p') port = atoi(optarg);
        else if (option == 'u') path = optarg;
        else if (option == 'b') body = optarg;
        else if (option == 'h') snprintf(headers + used, sizeof headers - used, "%s\r\n", optarg);
        else if (option == 'c') clients = atoi(optarg);
        else if (option == 'a') answers = atol(optarg);
        else if (option == 'e' && expected_count < MOST_EXPECTED) expected[expected_count++] = optarg;
        else if (option == 'k') skip = atol(optarg);
        else if (option == 's') spread_ms = atof(optarg);
        else if (option == 'x') cut_share = atof(optarg);
        else if (option == 'w') cut_within_ms = atof(optarg);
        else if (option == 'l') limit_s = atof(optarg);
        else if (option == 'r') srand48(atol(optarg));
        else return 2;
    }
    if (!port || clients < 1 || answers < 1 || !expected_count) {
        fprintf(stderr, "--port, --clients, --answers and --expect are needed\n");
        return 2;
    }
    make_request(path, body, headers);
    poller = epoll_create1(EPOLL_CLOEXEC);
    first_ms = calloc((size_t)answers, sizeof *first_ms);
    total_ms = calloc((size_t)answers, sizeof *total_ms);
    struct client *all = calloc((size_t)clients, sizeof *all);
    long long start = now(), last = start + (long long)(limit_s * 1e9);
    for (int each = 0; each < clients; each++) {
        all[each].fd = -1;
        all[each].body = malloc(MOST_BODY + 1);
        all[each].due = start + (long long)(spread_ms * 1e6 * each / clients);
    }
    while (finished < answers && now() < last) {
        struct epoll_event events[512];
        look_at_clock(all, clients);
        bool clock_matters = cut_share > 0 || begun < clients || bad > 0;
        int ready = epoll_wait(poller, events, 512, clock_matters ? 1 : 100);
        for (int each = 0; each < ready; each++) {
            struct client *it = events[each].data.ptr;
            if (it->fd >= 0) readable(it);
        }
    }
    report((double)(now() - start) / 1e9);
    return 0;
}
