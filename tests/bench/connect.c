/*
 * connect PORT FILE: connects to 127.0.0.1:PORT the instant it is executed and appends a line with
 * the outcome, `ok` or `refused`, to FILE. Exit status 0 if it got through, else 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: connect PORT FILE\n");
		return 2;
	}
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(atoi(argv[1])),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return 2;
	/* Dropped packets show as a refusal after two seconds. */
	struct timeval patience = { .tv_sec = 2 };
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	int refused = connect(s, (struct sockaddr *)&to, sizeof to);
	const char *outcome = refused ? "refused\n" : "ok\n";
	int f = open(argv[2], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
	if (f < 0 || write(f, outcome, strlen(outcome)) < 0)
		return 2;
	return refused != 0;
}
