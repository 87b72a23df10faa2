/*
 * Measures, from outside, how a running scnpm follows cgroups. It makes cgroup directories below PARENT
 * and listens to the kernel's own announcements of elements put into sets named scnpm.* and of commits.
 *
 *   elements latency PARENT NAME COUNT
 *       COUNT times: make PARENT/NAME, wait until its element is committed, remove it, wait until the
 *       element is gone. Prints the microseconds from mkdir to commit, one number a line.
 *   elements burst PARENT PREFIX COUNT [SUFFIX]
 *       Makes PARENT/PREFIX0.service (or SUFFIX) to PARENT/PREFIX(COUNT-1).service as fast as it can. Prints how many
 *       of their ids were put in, the commits that it took, and the milliseconds from the first mkdir to
 *       the last one and to the last commit. (nft's own listing takes minutes for so many elements: it
 *       searches the whole hierarchy for each.)
 *
 * Exit status 1 if an element does not come within ten seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

/* What the announcements have said so far. */
static unsigned long added, removed, commits;
static unsigned long added_in_this_commit, commits_with_elements;
static double last_commit;
static unsigned long long *ids;
static unsigned long known_ids, room_for_ids;
static int news;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void subscribe(void)
{
	int group = NFNLGRP_NFTABLES, size = 64 << 20;
	struct sockaddr_nl self = { .nl_family = AF_NETLINK };
	news = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (news < 0)
		die("netlink socket");
	if (setsockopt(news, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
		die("receive buffer");
	if (bind(news, (struct sockaddr *)&self, sizeof self))
		die("bind");
	if (setsockopt(news, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group))
		die("group of nftables");
}

/* The attribute of a type in a run of attributes, or NULL. */
static struct nlattr *attribute(void *from, int length, int type)
{
	for (struct nlattr *a = from; length >= (int)NLA_HDRLEN && a->nla_len >= NLA_HDRLEN && a->nla_len <= length;) {
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return a;
		length -= NLA_ALIGN(a->nla_len);
		a = (void *)((char *)a + NLA_ALIGN(a->nla_len));
	}
	return NULL;
}

/* Remembers the cgroup's id that an element has for a key. */
static void remember(struct nlattr *element)
{
	struct nlattr *key = attribute((char *)element + NLA_HDRLEN, element->nla_len - NLA_HDRLEN, NFTA_SET_ELEM_KEY);
	if (!key)
		return;
	struct nlattr *value = attribute((char *)key + NLA_HDRLEN, key->nla_len - NLA_HDRLEN, NFTA_DATA_VALUE);
	if (!value || value->nla_len != NLA_HDRLEN + sizeof *ids)
		return;
	if (known_ids == room_for_ids) {
		room_for_ids = 2 * room_for_ids + 1024;
		ids = realloc(ids, room_for_ids * sizeof *ids);
	}
	memcpy(&ids[known_ids++], (char *)value + NLA_HDRLEN, sizeof *ids);
}

static int is_known(unsigned long long id)
{
	for (unsigned long i = 0; i < known_ids; i++)
		if (ids[i] == id)
			return 1;
	return 0;
}

/* How many elements of a set of ours a message is about. */
static unsigned long elements(struct nlmsghdr *message)
{
	char *start = (char *)NLMSG_DATA(message) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
	int length = message->nlmsg_len - (start - (char *)message);
	struct nlattr *set = attribute(start, length, NFTA_SET_ELEM_LIST_SET);
	struct nlattr *list = attribute(start, length, NFTA_SET_ELEM_LIST_ELEMENTS);
	if (!set || !list || strncmp((char *)set + NLA_HDRLEN, "scnpm.", 6))
		return 0;
	unsigned long count = 0;
	int left = list->nla_len - NLA_HDRLEN;
	for (struct nlattr *a = (void *)((char *)list + NLA_HDRLEN); left >= (int)NLA_HDRLEN && a->nla_len;) {
		count++;
		if (message->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM))
			remember(a);
		left -= NLA_ALIGN(a->nla_len);
		a = (void *)((char *)a + NLA_ALIGN(a->nla_len));
	}
	return count;
}

/* Reads one batch of announcements. */
static void listen_once(void)
{
	static char buffer[1 << 20];
	struct pollfd waiting = { .fd = news, .events = POLLIN };
	if (poll(&waiting, 1, 10000) <= 0) {
		fprintf(stderr, "nothing within ten seconds: %lu added, %lu removed\n", added, removed);
		exit(1);
	}
	int length = recv(news, buffer, sizeof buffer, 0);
	double at = now();
	if (length < 0)
		die("announcements lost");
	for (struct nlmsghdr *m = (void *)buffer; NLMSG_OK(m, (unsigned)length); m = NLMSG_NEXT(m, length)) {
		unsigned long count;
		switch (m->nlmsg_type) {
		case NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM:
			count = elements(m);
			added += count;
			added_in_this_commit += count;
			break;
		case NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELSETELEM:
			removed += elements(m);
			break;
		case NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN:
			commits++;
			commits_with_elements += added_in_this_commit > 0;
			added_in_this_commit = 0;
			last_commit = at;
			break;
		}
	}
}

/* Waits until a commit has brought a count to its goal. */
static void wait_for(unsigned long *count, unsigned long goal)
{
	unsigned long seen = commits;
	while (*count < goal || commits == seen)
		listen_once();
}

static void latency(const char *path, int count)
{
	/* The first ones fill caches. */
	for (int i = -20; i < count; i++) {
		double began = now();
		if (mkdir(path, 0755))
			die(path);
		wait_for(&added, added + 1);
		if (i >= 0)
			printf("%.0f\n", last_commit - began);
		if (rmdir(path))
			die(path);
		wait_for(&removed, removed + 1);
		usleep(2000);
	}
}

static void burst(const char *parent, const char *prefix, int count, const char *suffix)
{
	char path[4096];
	double began = now();
	for (int i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%s/%s%d%s", parent, prefix, i, suffix);
		if (mkdir(path, 0755))
			die(path);
	}
	double made = now();
	while (added < (unsigned long)count || added_in_this_commit > 0)
		listen_once();
	unsigned long found = 0;
	for (int i = 0; i < count; i++) {
		struct stat cgroup;
		snprintf(path, sizeof path, "%s/%s%d%s", parent, prefix, i, suffix);
		if (stat(path, &cgroup))
			die(path);
		found += is_known(cgroup.st_ino);
	}
	printf("%lu %lu %.0f %.0f\n", found, commits_with_elements, (made - began) / 1e3, (last_commit - began) / 1e3);
}

int main(int argc, char **argv)
{
	if (argc < 5 || argc > 6) {
		fprintf(stderr, "usage: elements latency|burst PARENT NAME COUNT [SUFFIX]\n");
		return 2;
	}
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", argv[2], argv[3]);
	subscribe();
	if (!strcmp(argv[1], "latency"))
		latency(path, atoi(argv[4]));
	else
		burst(argv[2], argv[3], atoi(argv[4]), argc > 5 ? argv[5] : ".service");
	return 0;
}
