/* The floor: what it costs to send a message to many sockets with a bare loop of send().
 *
 * It answers any GET as a WebSocket, without checking, and sends each text frame that comes (up to 125 bytes, as
 * the benchmark's are) to everybody, itself included. Nothing is queued: who is full is waited for.
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

enum { MOST = 65536, CHUNK = 65536 };

static const char SWITCH[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static int joined[MOST], members, events;
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

static void broadcast(const unsigned char *masked, size_t size)
{
    unsigned char frame[2 + 125] = {0x81, (unsigned char)size};
    for (size_t i = 0; i < size; i++)
        frame[2 + i] = masked[4 + i] ^ masked[i & 3];
    for (int i = 0; i < members; i++)
        send_all(joined[i], frame, 2 + size);
}

static void take(int fd, unsigned char *data, size_t size)
{
    size_t at = 0;
    while (size - at >= 6 && size - at >= 6u + (data[at + 1] & 127)) {
        size_t payload = data[at + 1] & 127;
        if ((data[at] & 15) == 1)
            broadcast(data + at + 2, payload);
        at += 6 + payload;
    }
    rests[fd] = size - at;
    memcpy(rest[fd], data + at, size - at);
}

static void leave(int fd)
{
    for (int i = 0; i < members; i++)
        if (joined[i] == fd)
            joined[i--] = joined[--members];
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
        joined[members++] = fd;
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
