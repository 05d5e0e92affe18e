/* The hot loop of the load generator: many readers, marked messages, every delivery counted.
 *
 * hotloop.py compiles it as a shared library and calls the functions named load_*. What goes before (dialling,
 * handshakes, joining) is done in Python and differs from server to server; here a reader is a socket from which
 * WebSocket frames, HTTP answers or server-sent events come, whatever is in them.
 *
 * Each message carries a mark: '!', nineteen digits of CLOCK_MONOTONIC in nanoseconds, '!'. It is the time of sending,
 * and as one room has one publisher, it also gives the order: a mark that isn't higher than the reader's last one is
 * counted as disordered (doubled or out of order).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DIGITS = 19, CAPTURES = 4, CAPTURED = 1024, BUCKETS = 4096, CHUNK = 1 << 18, BATCH = 512 };
enum kind { WEBSOCKET, POLL, EVENTS, SINK };

/* What is counted. hotloop.py has the same structure: keep both alike. */
struct counts {
    int64_t published, delivered, answers, empty_answers, disordered, refused, gone, bytes;
    int64_t begun, last;                /* ns: begin of counting, last delivery */
    int64_t latency[4][BUCKETS];        /* by the reader's kind */
};

struct capture {
    char before[64], end[8];
};

struct reader {
    int fd, room;
    enum kind kind;
    bool gone;
    int64_t mark;                       /* the last one seen */
    unsigned char *carry;               /* what came of an incomplete frame or answer */
    size_t carried, capacity;
    char *request;                      /* of a poll; a byte 1 to 4 stands for a capture */
    char captured[CAPTURES][CAPTURED];
};

struct room {
    int members, fd;                    /* fd: its publisher, or -1 */
    int64_t published, delivered;
    unsigned char *message, mask[4];
    size_t size, mark_at, payload_at;
    bool due;
};

struct load {
    struct counts counts;               /* first: Python reads it there */
    int epoll, readers, most, rooms, captures, in_flight, dues;
    struct reader *reader;
    struct room *room;
    int *due;                           /* rooms that may publish one more */
    struct capture capture[CAPTURES];
    unsigned char *chunk;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* 64 buckets for each power of two: 1.6 % wide. hotloop.py knows the way back. */
static int bucket_of(int64_t ns)
{
    if (ns < 128)
        return ns < 0 ? 0 : (int)ns;
    int shift = 57 - __builtin_clzll((unsigned long long)ns);
    return (shift << 6) + (int)(ns >> shift);
}

/* Sending */

static bool send_all(int fd, const unsigned char *data, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            data += sent;
            size -= (size_t)sent;
            continue;
        }
        struct pollfd writable = {.fd = fd, .events = POLLOUT};
        if (errno != EAGAIN || poll(&writable, 1, 2000) != 1)
            return false;
    }
    return true;
}

static void write_mark(struct room *room)
{
    int64_t t = now_ns();
    for (size_t at = room->mark_at + DIGITS; at > room->mark_at; at--, t /= 10)
        room->message[at - 1] = (unsigned char)('0' + t % 10) ^ room->mask[(at - 1 - room->payload_at) & 3];
}

static void publish(struct load *load, struct room *room)
{
    write_mark(room);
    if (!send_all(room->fd, room->message, room->size))
        load->counts.refused++;
    room->published++;
    load->counts.published++;
}

static bool window_open(const struct load *load, const struct room *room)
{
    return (room->published - load->in_flight) * room->members + room->members <= room->delivered;
}

static void publish_due(struct load *load)
{
    for (int i = 0; i < load->dues; i++) {
        struct room *room = &load->room[load->due[i]];
        room->due = false;
        while (window_open(load, room))
            publish(load, room);
    }
    load->dues = 0;
}

static void make_due(struct load *load, int index)
{
    struct room *room = &load->room[index];
    if (!room->due && room->fd >= 0 && window_open(load, room)) {
        room->due = true;
        load->due[load->dues++] = index;
    }
}

/* Counting */

static int64_t read_mark(const unsigned char *digits)
{
    int64_t mark = 0;
    for (int i = 0; i < DIGITS; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return -1;
        mark = mark * 10 + (digits[i] - '0');
    }
    return digits[DIGITS] == '!' ? mark : -1;
}

static void deliver(struct load *load, struct reader *reader, int64_t mark, int64_t now)
{
    struct counts *counts = &load->counts;
    if (mark < counts->begun)
        return;                         /* of an earlier measurement */
    if (mark <= reader->mark)
        counts->disordered++;
    reader->mark = mark;
    counts->delivered++;
    counts->last = now;
    counts->latency[reader->kind][bucket_of(now - mark)]++;
    load->room[reader->room].delivered++;
}

/* Count the marks in a payload; answer how many there were. */
static int count_marks(struct load *load, struct reader *reader, const unsigned char *at, size_t size, int64_t now)
{
    const unsigned char *end = at + size;
    int found = 0;
    while (end - at > DIGITS + 1 && (at = memchr(at, '!', (size_t)(end - at - DIGITS - 1)))) {
        int64_t mark = read_mark(++at);
        if (mark < 0)
            continue;
        deliver(load, reader, mark, now);
        at += DIGITS + 1;
        found++;
    }
    if (found && load->in_flight)
        make_due(load, reader->room);
    return found;
}

static void lose(struct load *load, struct reader *reader)
{
    if (reader->gone)
        return;
    reader->gone = true;
    load->counts.gone++;
    epoll_ctl(load->epoll, EPOLL_CTL_DEL, reader->fd, NULL);
}

/* WebSocket frames */

static void answer_control(struct load *load, struct reader *reader, int opcode, const unsigned char *data, size_t size)
{
    unsigned char pong[6 + 125] = {0x8a, (unsigned char)(0x80 | size)};
    if (opcode == 8)
        lose(load, reader);
    if (opcode != 9 || size > 125)
        return;
    memcpy(pong + 6, data, size);
    send_all(reader->fd, pong, 6 + size);
}

/* Engine.IO, under socket.io, has pings of its own: "2", to be answered "3". */
static void answer_engine_ping(const struct reader *reader)
{
    static const unsigned char pong[] = {0x81, 0x81, 0, 0, 0, 0, '3'};
    send_all(reader->fd, pong, sizeof pong);
}

static void take_frame(struct load *load, struct reader *reader, int opcode, const unsigned char *data, size_t size, int64_t now)
{
    if (opcode >= 8)
        answer_control(load, reader, opcode, data, size);
    else if (size == 1 && data[0] == '2')
        answer_engine_ping(reader);
    else
        count_marks(load, reader, data, size, now);
}

/* The size of a frame's head, and its payload's size; 0 where too little of it is there. */
static size_t read_head(const unsigned char *at, size_t size, size_t *payload)
{
    if (size < 2)
        return 0;
    size_t head = 2;
    *payload = at[1] & 127;
    if (*payload >= 126) {
        head = *payload == 126 ? 4 : 10;
        if (size < head)
            return 0;
        *payload = 0;
        for (size_t i = 2; i < head; i++)
            *payload = *payload << 8 | at[i];
    }
    return head;
}

/* Take all whole frames; answer how many bytes they were. */
static size_t take_frames(struct load *load, struct reader *reader, const unsigned char *data, size_t size, int64_t now)
{
    size_t at = 0, payload, head;
    while ((head = read_head(data + at, size - at, &payload)) && size - at >= head + payload) {
        take_frame(load, reader, data[at] & 15, data + at + head, payload, now);
        at += head + payload;
    }
    return at;
}

/* HTTP answers */

static void ask(struct load *load, struct reader *reader)
{
    unsigned char request[8192];
    size_t size = 0;
    for (const char *at = reader->request; *at && size < sizeof request - CAPTURED; at++) {
        if (*at < 1 || *at > CAPTURES) {
            request[size++] = (unsigned char)*at;
            continue;
        }
        size_t length = strlen(reader->captured[*at - 1]);
        memcpy(request + size, reader->captured[*at - 1], length);
        size += length;
    }
    if (!send_all(reader->fd, request, size))
        lose(load, reader);
}

static void capture(struct load *load, struct reader *reader, const char *answer)
{
    for (int i = 0; i < load->captures; i++) {
        const struct capture *wanted = &load->capture[i];
        const char *found = NULL, *at = answer;
        while ((at = strstr(at, wanted->before)))
            found = at += strlen(wanted->before);
        if (!found)
            continue;
        size_t size = strcspn(found, wanted->end);
        if (size < CAPTURED) {
            memcpy(reader->captured[i], found, size);
            reader->captured[i][size] = 0;
        }
    }
}

/* The size of the body after a head that ends at `body`; -1 where it isn't all there. */
static ssize_t body_size(const char *answer, const char *body, size_t size)
{
    const char *length = strcasestr(answer, "\ncontent-length:"), *end = answer + size;
    if (length && length < body) {
        ssize_t wanted = strtol(length + 16, NULL, 10);
        return end - body >= wanted ? wanted : -1;
    }
    const char *chunked = strcasestr(answer, "transfer-encoding: chunked");
    if (!chunked || chunked > body)
        return 0;
    const char *last = memmem(body - 2, (size_t)(end - body + 2), "\r\n0\r\n\r\n", 7);
    return last ? last + 7 - body : -1;
}

static void take_answer(struct load *load, struct reader *reader, char *answer, const char *body, size_t size, int64_t now)
{
    char *end = (char *)body + size, after = *end;
    *end = 0;
    if (answer[9] != '2' && strncmp(answer + 9, "304", 3) && strncmp(answer + 9, "408", 3))
        load->counts.refused++;
    capture(load, reader, answer);
    load->counts.answers++;
    if (!count_marks(load, reader, (const unsigned char *)body, size, now))
        load->counts.empty_answers++;
    *end = after;
    ask(load, reader);
}

static size_t take_answers(struct load *load, struct reader *reader, unsigned char *data, size_t size, int64_t now)
{
    size_t at = 0;
    data[size] = 0;
    for (;;) {
        char *answer = (char *)data + at, *body = memmem(answer, size - at, "\r\n\r\n", 4);
        ssize_t length = body ? body_size(answer, body += 4, size - at) : -1;
        if (length < 0)
            return at;
        take_answer(load, reader, answer, body, (size_t)length, now);
        at = (size_t)(body - (char *)data) + (size_t)length;
    }
}

/* Server-sent events: blocks that end with an empty line; the heads of HTTP chunks may stand between them. */
static size_t take_blocks(struct load *load, struct reader *reader, const unsigned char *data, size_t size, int64_t now)
{
    size_t end = size;
    while (end > 1 && (data[end - 1] != '\n' || data[end - 2] != '\n'))
        end--;
    if (end < 2)
        return 0;
    count_marks(load, reader, data, end, now);
    return end;
}

/* Receiving */

static void keep(struct reader *reader, const unsigned char *data, size_t size)
{
    if (reader->capacity < size + 1) {
        reader->capacity = size * 2 + 1;
        reader->carry = realloc(reader->carry, reader->capacity);
    }
    memmove(reader->carry, data, size);
    reader->carried = size;
}

static void append(struct reader *reader, const unsigned char *data, size_t size)
{
    if (reader->capacity < reader->carried + size + 1) {
        reader->capacity = (reader->carried + size) * 2 + 1;
        reader->carry = realloc(reader->carry, reader->capacity);
    }
    memcpy(reader->carry + reader->carried, data, size);
    reader->carried += size;
}

static void take_sink(struct load *load, const struct reader *reader, const unsigned char *data, size_t size)
{
    if (size == 3 && !memcmp(data, "\x81\x01" "2", 3))
        answer_engine_ping(reader);
    if (size > 12 && !memcmp(data, "HTTP/1.1 ", 9) && data[9] != '2')
        load->counts.refused++;
}

static void take(struct load *load, struct reader *reader, unsigned char *data, size_t size)
{
    int64_t now = now_ns();
    if (reader->kind == SINK) {
        take_sink(load, reader, data, size);
        return;
    }
    if (reader->carried) {
        append(reader, data, size);
        data = reader->carry;
        size = reader->carried;
    }
    size_t taken = reader->kind == POLL     ? take_answers(load, reader, data, size, now)
                   : reader->kind == EVENTS ? take_blocks(load, reader, data, size, now)
                                            : take_frames(load, reader, data, size, now);
    if (taken < size || reader->carried)
        keep(reader, data + taken, size - taken);
}

static void receive(struct load *load, struct reader *reader)
{
    if (reader->gone)
        return;
    ssize_t size = recv(reader->fd, load->chunk, CHUNK - 1, MSG_DONTWAIT);
    if (size > 0) {
        load->counts.bytes += size;
        take(load, reader, load->chunk, (size_t)size);
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR))
        lose(load, reader);
}

/* What Python calls */

struct load *load_new(int readers, int rooms)
{
    struct load *load = calloc(1, sizeof *load);
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->most = readers;
    load->rooms = rooms;
    load->reader = calloc((size_t)readers, sizeof *load->reader);
    load->room = calloc((size_t)rooms, sizeof *load->room);
    load->due = calloc((size_t)rooms, sizeof *load->due);
    load->chunk = malloc(CHUNK);
    for (int i = 0; i < rooms; i++)
        load->room[i].fd = -1;
    return load;
}

/* What follows `before` in a poll's answer, up to one of the characters in `end`, is put into the next request. */
void load_capture(struct load *load, const char *before, const char *end)
{
    struct capture *capture = &load->capture[load->captures++];
    strncpy(capture->before, before, sizeof capture->before - 1);
    strncpy(capture->end, end, sizeof capture->end - 1);
}

/* Add a socket to read from; `came` is what came already and isn't counted yet. A SINK is read and thrown away. */
int load_reader(struct load *load, int fd, int room, int kind, unsigned char *came, size_t size)
{
    struct reader *reader = &load->reader[load->readers];
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)load->readers};
    reader->fd = fd;
    reader->room = room;
    reader->kind = (enum kind)kind;
    if (kind != SINK)
        load->room[room].members++;
    if (size)
        take(load, reader, came, size);
    epoll_ctl(load->epoll, EPOLL_CTL_ADD, fd, &event);
    return load->readers++;
}

/* Send a reader's first poll, with what was captured before: CAPTURES texts, each ended by a zero byte. */
void load_ask(struct load *load, int index, const char *request, const char *captured)
{
    struct reader *reader = &load->reader[index];
    reader->request = strdup(request);
    for (int i = 0; i < CAPTURES; i++, captured += strlen(captured) + 1)
        strncpy(reader->captured[i], captured, CAPTURED - 1);
    ask(load, reader);
}

void load_publisher(struct load *load, int index, int fd, const unsigned char *message, size_t size, size_t mark_at,
                    size_t payload_at, const unsigned char *mask)
{
    struct room *room = &load->room[index];
    free(room->message);
    room->fd = fd;
    room->message = malloc(size);
    memcpy(room->message, message, size);
    memcpy(room->mask, mask, 4);
    room->size = size;
    room->mark_at = mark_at;
    room->payload_at = payload_at;
}

/* Begin a measurement: all counts from 0. */
void load_begin(struct load *load)
{
    memset(&load->counts, 0, sizeof load->counts);
    load->counts.begun = load->counts.last = now_ns();
    load->in_flight = load->dues = 0;
    for (int i = 0; i < load->rooms; i++) {
        load->room[i].published = load->room[i].delivered = 0;
        load->room[i].due = false;
    }
}

/* Receive what is there, or comes within so many milliseconds. */
void load_pump(struct load *load, int milliseconds)
{
    struct epoll_event events[BATCH];
    int ready = epoll_wait(load->epoll, events, BATCH, milliseconds);
    for (int i = 0; i < ready; i++)
        receive(load, &load->reader[events[i].data.u32]);
    publish_due(load);
}

/* Keep `in_flight` messages on their way in every room: one more is published when one has reached all members.
 * Ends early when nothing is delivered for `patience` seconds. */
void load_keep(struct load *load, int in_flight, double seconds, double patience)
{
    int64_t end = now_ns() + (int64_t)(seconds * 1e9), still = (int64_t)(patience * 1e9);
    load->in_flight = in_flight;
    for (int i = 0; i < load->rooms; i++)
        make_due(load, i);
    publish_due(load);
    for (int64_t now; (now = now_ns()) < end && now - load->counts.last < still;)
        load_pump(load, 20);
    load->in_flight = 0;
}

/* Publish `rate` messages a second to the first room, whatever is delivered. */
void load_pace(struct load *load, double rate, double seconds)
{
    int64_t begun = now_ns(), step = (int64_t)(1e9 / rate), next = begun;
    while (next < begun + (int64_t)(seconds * 1e9)) {
        int64_t now = now_ns();
        if (now >= next) {
            publish(load, &load->room[0]);
            next += step;
        } else
            load_pump(load, (int)((next - now + 999999) / 1000000));
    }
}

/* Publish `count` messages to the first room, all at once. */
void load_burst(struct load *load, int count)
{
    while (count-- > 0)
        publish(load, &load->room[0]);
}

/* Receive till so many were delivered, or none for `patience` seconds. */
void load_wait(struct load *load, int64_t wanted, double patience)
{
    int64_t since = now_ns(), still = (int64_t)(patience * 1e9), seen = load->counts.delivered;
    while (load->counts.delivered < wanted && now_ns() - since < still) {
        load_pump(load, 20);
        if (load->counts.delivered != seen) {
            seen = load->counts.delivered;
            since = now_ns();
        }
    }
}

/* Readers of one kind that are still there, over all rooms. */
int load_alive(const struct load *load, int kind)
{
    int alive = 0;
    for (int i = 0; i < load->readers; i++)
        alive += load->reader[i].kind == (enum kind)kind && !load->reader[i].gone;
    return alive;
}

void load_free(struct load *load)
{
    for (int i = 0; i < load->readers; i++) {
        free(load->reader[i].carry);
        free(load->reader[i].request);
    }
    for (int i = 0; i < load->rooms; i++)
        free(load->room[i].message);
    close(load->epoll);
    free(load->reader);
    free(load->room);
    free(load->due);
    free(load->chunk);
    free(load);
}
