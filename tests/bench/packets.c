/*
 * packets ROUNDS PACKETS NETNS...: what one packet costs in each network namespace: nanoseconds of processor
 * time per UDP sendto() on loopback, whether it is refused or not, as the median of ROUNDS rounds of PACKETS
 * packets. The rounds take turns, so that what else the machine does falls on all alike. NETNS is a file such as /proc/PID/ns/net. The sockets
 * belong to the cgroup that this process is in. Prints one number for each namespace.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
	double d = *(double *)a - *(double *)b;
	return (d > 0) - (d < 0);
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: packets ROUNDS PACKETS NETNS...\n");
		return 2;
	}
	int rounds = atoi(argv[1]), packets = atoi(argv[2]), places = argc - 3, small = 1;
	int sender[places];
	double *cost[places];
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(7001),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	for (int i = 0; i < places; i++) {
		int netns = open(argv[3 + i], O_RDONLY | O_CLOEXEC);
		if (netns < 0 || setns(netns, CLONE_NEWNET))
			die(argv[3 + i]);
		/* A receiver that drops what it has no room for. */
		int sink = socket(AF_INET, SOCK_DGRAM, 0);
		setsockopt(sink, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
		if (bind(sink, (struct sockaddr *)&to, sizeof to))
			die("bind");
		sender[i] = socket(AF_INET, SOCK_DGRAM, 0);
		cost[i] = calloc(rounds, sizeof(double));
	}
	for (int round = -1; round < rounds; round++) {
		for (int i = 0; i < places; i++) {
			double began = now();
			for (int n = 0; n < packets; n++)
				if (sendto(sender[i], "x", 1, 0, (struct sockaddr *)&to, sizeof to) != 1 &&
				    errno != EPERM)
					die("sendto");
			if (round >= 0)
				cost[i][round] = (now() - began) / packets;
		}
	}
	for (int i = 0; i < places; i++) {
		qsort(cost[i], rounds, sizeof(double), ascending);
		printf("%.0f%c", cost[i][rounds / 2], i + 1 < places ? ' ' : '\n');
	}
	return 0;
}
