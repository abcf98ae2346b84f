/* SPDX-License-Identifier: Apache-2.0 */
/* What a lazily fetched image is measured by, without Python in the way: a bare HTTP client, and a loop of reads. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 20, HEAD = 4096 };

struct fetch {
	struct sockaddr_in address;
	const char *path;
	const uint64_t *offsets, *counts;
	size_t n, next; /* next: atomic */
	bool failed;	/* atomic */
	int file;	/* -1: the bytes go nowhere */
};

static double at(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double now(void)
{
	return at(CLOCK_MONOTONIC);
}

static bool keep(const struct fetch *fetch, const char *from, size_t count, uint64_t offset)
{
	return fetch->file < 0 || pwrite(fetch->file, from, count, (off_t)offset) == (ssize_t)count;
}

/* One range over a connection that is kept. */
static bool get(const struct fetch *fetch, int fd, size_t i, char *buffer)
{
	const uint64_t last = fetch->offsets[i] + fetch->counts[i] - 1;
	size_t have = 0;
	char *end = NULL, request[HEAD];
	int length = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: bench\r\nRange: bytes=%llu-%llu\r\n\r\n",
			      fetch->path, (unsigned long long)fetch->offsets[i], (unsigned long long)last);
	uint64_t left = fetch->counts[i];

	if (send(fd, request, (size_t)length, MSG_NOSIGNAL) != length)
		return false;
	while (!end) {
		ssize_t r = recv(fd, buffer + have, BUFFER - 1 - have, 0);

		if (r <= 0)
			return false;
		have += (size_t)r;
		buffer[have] = 0;
		end = strstr(buffer, "\r\n\r\n");
	}
	if (strncmp(buffer, "HTTP/1.1 206", 12))
		return false;
	have -= (size_t)(end + 4 - buffer);
	if (!keep(fetch, end + 4, have, last + 1 - left))
		return false;
	left -= have;
	while (left) {
		ssize_t r = recv(fd, buffer, left < BUFFER ? left : BUFFER, 0);

		if (r <= 0 || !keep(fetch, buffer, (size_t)r, last + 1 - left))
			return false;
		left -= (uint64_t)r;
	}
	return true;
}

static void *fetch_main(void *argument)
{
	struct fetch *fetch = argument;
	char *buffer = malloc(BUFFER);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	bool good = !connect(fd, (struct sockaddr *)&fetch->address, sizeof(fetch->address));
	size_t i;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (good && (i = __atomic_fetch_add(&fetch->next, 1, __ATOMIC_RELAXED)) < fetch->n)
		good = get(fetch, fd, i, buffer);
	if (!good)
		__atomic_store_n(&fetch->failed, true, __ATOMIC_RELAXED);
	close(fd);
	free(buffer);
	return NULL;
}

/**
 * Seconds that fetching all ranges of a path takes over so many connections; negative when it failed. file: keeps them
 * at their places in there; -1: nowhere.
 */
double obd_bench_fetch(int port, const char *path, const uint64_t *offsets, const uint64_t *counts, size_t n,
		       unsigned connections, int file)
{
	struct fetch fetch = {.path = path, .offsets = offsets, .counts = counts, .n = n, .file = file};
	pthread_t threads[64];
	double start = now();

	fetch.address.sin_family = AF_INET;
	fetch.address.sin_port = htons((uint16_t)port);
	fetch.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (unsigned i = 0; i < connections; i++)
		if (pthread_create(&threads[i], NULL, fetch_main, &fetch))
			abort();
	for (unsigned i = 0; i < connections; i++)
		pthread_join(threads[i], NULL);
	return fetch.failed ? -1 : now() - start;
}

/** Reads each range, of at most a buffer's size, one after another; false when all could be read. */
int obd_bench_replay(int64_t (*pread)(void *image, void *buffer, size_t count, uint64_t offset), void *image,
		     const uint64_t *offsets, const uint64_t *counts, size_t n)
{
	void *buffer = malloc(BUFFER);
	int failed = 0;

	for (size_t i = 0; i < n; i++)
		failed |= counts[i] > BUFFER || pread(image, buffer, counts[i], offsets[i]) != (int64_t)counts[i];
	free(buffer);
	return failed;
}

/** Seconds, or of this thread's CPU time, that reading at each offset takes; negative when a read failed. */
double obd_bench_reads(int64_t (*pread)(void *image, void *buffer, size_t count, uint64_t offset), void *image,
		       size_t count, const uint64_t *offsets, size_t n, int cpu)
{
	const clockid_t clock = cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
	void *buffer = malloc(count);
	double start = at(clock);

	for (size_t i = 0; i < n; i++)
		if (pread(image, buffer, count, offsets[i]) != (int64_t)count)
			start = 1e18;
	free(buffer);
	return at(clock) - start;
}
