/* The floor: what it costs to send a message to many sockets with a bare loop of send().
 *
 * It answers any GET as a WebSocket, without checking, and sends each text frame that comes (up to 125 bytes, as
 * the benchmark's are) to everybody who came by the same path, its sender included; on /echo, back to its sender.
 * Nothing is queued: who is full is waited for.
 *
 *   floor PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, CHUNK = 65536, ROOMS = 16384, NAME = 64 };

static const char SWITCH[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct room {
    char name[NAME];
    int *joined, members, space;
};

static struct room rooms[ROOMS], *room_of[MOST]; /* without a room: an echo */
static int events;
static unsigned char open_[MOST], rest[MOST][256];
static size_t rests[MOST];

static void send_all(int fd, const unsigned char *data, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN || poll(&writable, 1, 5000) != 1)
                return;
            continue;
        }
        data += sent;
        size -= (size_t)sent;
    }
}

static struct room *find_room(const char *name)
{
    unsigned at = 5381;
    for (const char *c = name; *c; c++)
        at = at * 33 + (unsigned char)*c;
    for (at %= ROOMS; rooms[at].name[0] && strcmp(rooms[at].name, name); at = (at + 1) % ROOMS)
        ;
    strcpy(rooms[at].name, name);
    return &rooms[at];
}

static void join(int fd, const char *request)
{
    char name[NAME] = "";
    sscanf(request, "GET %63s", name);
    struct room *room = room_of[fd] = strcmp(name, "/echo") ? find_room(name) : NULL;
    if (!room)
        return;
    if (room->members == room->space) {
        room->space = room->space ? 2 * room->space : 16;
        room->joined = realloc(room->joined, (size_t)room->space * sizeof *room->joined);
    }
    room->joined[room->members++] = fd;
}

static void broadcast(int fd, const unsigned char *masked, size_t size)
{
    unsigned char frame[2 + 125] = {0x81, (unsigned char)size};
    for (size_t i = 0; i < size; i++)
        frame[2 + i] = masked[4 + i] ^ masked[i & 3];
    struct room *room = room_of[fd];
    if (!room)
        send_all(fd, frame, 2 + size);
    for (int i = 0; room && i < room->members; i++)
        send_all(room->joined[i], frame, 2 + size);
}

static void take(int fd, unsigned char *data, size_t size)
{
    size_t at = 0;
    while (size - at >= 6 && size - at >= 6u + (data[at + 1] & 127)) {
        size_t payload = data[at + 1] & 127;
        if ((data[at] & 15) == 1)
            broadcast(fd, data + at + 2, payload);
        at += 6 + payload;
    }
    rests[fd] = size - at;
    memcpy(rest[fd], data + at, size - at);
}

static void leave(int fd)
{
    struct room *room = room_of[fd];
    for (int i = 0; room && i < room->members; i++)
        if (room->joined[i] == fd)
            room->joined[i--] = room->joined[--room->members];
    open_[fd] = 0;
    rests[fd] = 0;
    close(fd);
}

static void receive(int fd)
{
    static unsigned char data[CHUNK + 256];
    memcpy(data, rest[fd], rests[fd]);
    ssize_t size = recv(fd, data + rests[fd], CHUNK, 0);
    if (size <= 0) {
        leave(fd);
    } else if (open_[fd]) {
        take(fd, data, rests[fd] + (size_t)size);
    } else {
        open_[fd] = 1;
        data[rests[fd] + (size_t)size] = 0;
        join(fd, (const char *)data);
        send_all(fd, (const unsigned char *)SWITCH, sizeof SWITCH - 1);
    }
}

static void admit(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
    }
}

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 1024)) {
        perror("floor");
        exit(1);
    }
    return fd;
}

int main(int count, char **arguments)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST ? files.rlim_max : MOST;
    setrlimit(RLIMIT_NOFILE, &files);
    events = epoll_create1(0);
    int listener = listen_on(count > 1 ? atoi(arguments[1]) : 8080);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[512];
    epoll_ctl(events, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int some = epoll_wait(events, ready, 512, -1);
        for (int i = 0; i < some; i++)
            if (ready[i].data.fd == listener)
                admit(listener);
            else
                receive(ready[i].data.fd);
    }
}
