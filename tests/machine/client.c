/*
 * client FILE PORT: connects to PORT of the far side the instant it is executed and appends a line with the outcome to FILE:
 * `ok`, or what connect(2) said. Exit status 0.
 *
 * client --stream FILE PORT...: opens connections to the ports, one after the other, over and over, and keeps in FILE how many
 * were `ok`, `refused` by a rule that resets, `unreachable` for want of a route, and `other`. After each connection it sends a
 * packet of UDP to port 7301.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FAR "192.0.2.10"
#define NOBODYS_PORT 7301
/* Without an answer: dropped, or very slow. */
#define PATIENCE_MS 20000

static struct sockaddr_in far_side(int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	inet_pton(AF_INET, FAR, &to.sin_addr);
	return to;
}

/* 0, or an errno. */
static int try(int port)
{
	struct sockaddr_in to = far_side(port);
	int failed = 0;
	socklen_t size = sizeof failed;
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (s < 0)
		return errno;
	if (connect(s, (struct sockaddr *)&to, sizeof to) != 0 && (failed = errno) == EINPROGRESS) {
		struct pollfd answer = { .fd = s, .events = POLLOUT };
		failed = ETIMEDOUT;
		if (poll(&answer, 1, PATIENCE_MS) == 1)
			getsockopt(s, SOL_SOCKET, SO_ERROR, &failed, &size);
	}
	close(s);
	return failed;
}

static int open_file(const char *path)
{
	int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND, 0666);

	if (file < 0) {
		perror(path);
		exit(2);
	}
	return file;
}

static void stream(const char *path, char **ports)
{
	unsigned long ok = 0, refused = 0, unreachable = 0, other = 0;
	struct sockaddr_in nobodys = far_side(NOBODYS_PORT);
	int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_TRUNC, 0666);

	for (char **port = ports;; port = port[1] ? port + 1 : ports) {
		char text[200];
		switch (try(atoi(*port))) {
		case 0: ok++; break;
		case ECONNREFUSED: refused++; break;
		case ENETUNREACH: unreachable++; break;
		default: other++;
		}
		sendto(udp, "", 0, 0, (struct sockaddr *)&nobodys, sizeof nobodys);
		snprintf(text, sizeof text, "%-12lu%-12lu%-12lu%-12lu\n", ok, refused, unreachable, other);
		if (pwrite(file, text, strlen(text), 0) < 0)
			exit(2);
		usleep(10000);
	}
}

int main(int argc, char **argv)
{
	if (argc > 3 && strcmp(argv[1], "--stream") == 0)
		stream(argv[2], argv + 3);
	if (argc != 3) {
		fprintf(stderr, "usage: client FILE PORT\n       client --stream FILE PORT...\n");
		return 2;
	}
	int failed = try(atoi(argv[2]));
	const char *outcome = failed == 0 ? "ok" : failed == ECONNREFUSED ? "refused" : strerror(failed);
	int file = open_file(argv[1]);
	return dprintf(file, "%s\n", outcome) < 0 ? 2 : 0;
}
