/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "answer.h"
#include "cachefile.h"
#include "clock.h"
#include "miss.h"
#include "obd.h"
#include "presence.h"

/*
 * Bytes on their way from a registry's socket to the readers of a cache file. Whom to ask, and how, is for Python to
 * say, and so is what an answer means that is not the usual one; the usual one comes through here from its head to its
 * last byte, so that no reader waits for the interpreter in between.
 */
enum { HEAD_PART = 2048, LARGE = 1 << 20 }; /* of an answer's head, at once; ranges worth some preparation */
#define SLICE_NS UINT64_C(1000000000)	    /* after which the caller is told, whether it has everything or not */

/** Bytes; 0 at the stream's end, -EAGAIN when there are none now, or -errno. */
static ssize_t receive_now(int fd, void *buf, size_t count)
{
	for (;;) {
		ssize_t r = recv(fd, buf, count, MSG_DONTWAIT);

		if (r >= 0 || errno != EINTR)
			return r < 0 ? -errno : r;
	}
}

/** Until events may have come; -EAGAIN when they did not in time, or -errno. */
static int wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd one = {.fd = fd, .events = events};
	const uint64_t now = obd_now_ns();

	if (now >= deadline)
		return -EAGAIN;
	return poll(&one, 1, (int)((deadline - now) / 1000000) + 1) < 0 && errno != EINTR ? -errno : 0;
}

/** Where in the buffer the next ones go, and how many at most; what an earlier host gave is dropped. */
static size_t room(const struct obd_receive *range, size_t *at)
{
	const uint64_t before = range->filled > range->received ? range->filled - range->received : 0;
	const uint64_t left = before ? before : range->count - range->received;

	*at = before ? 0 : (size_t)(range->received - range->filled);
	return left < range->size - *at ? (size_t)left : (size_t)range->size - *at;
}

/** Bytes in the buffer. */
static uint64_t held(const struct obd_receive *range)
{
	return range->received > range->filled ? range->received - range->filled : 0;
}

/** Gives the readers the first count bytes in the buffer. */
static void fill_part(struct obd_cachefile *file, struct obd_receive *range, uint64_t count)
{
	const uint64_t left = held(range) - count;
	uint8_t *bytes = range->buf;
	int r;

	if (!count)
		return;
	r = obd_cachefile_fill(file, bytes, (size_t)count, range->offset + range->filled,
			       range->sums + range->filled / OBD_GRANULE);
	if (r) {
		range->refused = -r;
		return;
	}
	range->filled += count;
	memmove(bytes, bytes + count, (size_t)left);
}

/** In large pieces: for they are cheaper, and what the kernel keeps in large pages is read faster. */
static bool is_full(const struct obd_receive *range)
{
	return held(range) == range->size || range->received == range->count;
}

uint64_t obd_cachefile_ready(struct obd_cachefile *file, const struct obd_receive *range)
{
	const uint64_t whole = held(range) / OBD_GRANULE * OBD_GRANULE;

	if (is_full(range))
		return held(range);
	return whole && obd_miss_awaited(file, range->offset + range->filled, whole) ? whole : 0;
}

/** What follows what is there, until one of the reasons to return that obd.h names; bytes, 0 at the end, or -errno. */
static int64_t receive_range(struct obd_cachefile *file, int fd, struct obd_receive *range, uint64_t deadline)
{
	const uint64_t before = range->received, stop = obd_now_ns() + SLICE_NS;
	uint8_t *bytes = range->buf;
	uint64_t began;
	ssize_t r = 0;
	size_t at, most;

	while (range->received < range->count && !range->refused && (most = room(range, &at))) {
		r = receive_now(fd, bytes + at, most);
		if (r == -EAGAIN) {
			// Nobody waits for what is here already while nothing comes.
			fill_part(file, range, range->fill ? obd_cachefile_ready(file, range) : 0);
			if (range->refused)
				break;
			began = obd_now_ns();
			r = wait_for(fd, POLLIN, deadline);
			range->waited_ns += obd_now_ns() - began;
			if (!r)
				continue;
		}
		if (r <= 0)
			break;
		range->received += (uint64_t)r;
		if (range->fill && is_full(range))
			fill_part(file, range, held(range));
		deadline = stop; // of the first bytes it was another one; the others may come next time
	}
	return range->received == before ? r : (int64_t)(range->received - before); // an error will say so again
}

/** Begins a call; false: the range makes no sense. */
static bool begin(struct obd_receive *range)
{
	range->refused = 0;
	range->waited_ns = 0;
	return range->count <= UINT64_MAX - range->offset && range->received < range->count &&
	       range->filled <= range->count && (range->filled % OBD_GRANULE == 0 || range->filled == range->count) &&
	       range->size && range->size % OBD_GRANULE == 0 && range->received <= range->filled + range->size &&
	       range->timeout_ms <= INT_MAX;
}

int64_t obd_cachefile_receive(struct obd_cachefile *file, int fd, struct obd_receive *range)
{
	if (!begin(range))
		return -EINVAL;
	return receive_range(file, fd, range, obd_deadline_ns((int)range->timeout_ms));
}

/** 0 or -errno; -EAGAIN: not all of it went in time. */
static int send_all(int fd, const char *from, uint64_t count, uint64_t deadline)
{
	int r = 0;

	while (count && !r) {
		ssize_t sent = send(fd, from, count, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent >= 0) {
			from += sent;
			count -= (uint64_t)sent;
		} else if (errno == EAGAIN) {
			r = wait_for(fd, POLLOUT, deadline);
		} else if (errno != EINTR) {
			r = -errno;
		}
	}
	return r;
}

/** Takes the answer's head, and what came with it, into the buffer. Bytes of both; 0: the stream ended; -errno. */
static ssize_t receive_head(int fd, char *bytes, size_t size, uint64_t deadline, size_t *head)
{
	size_t have = 0;

	*head = 0;
	while (!*head && have < size) {
		// Little at a time: what it has of the body is moved to its place.
		const size_t most = size - have < HEAD_PART ? size - have : HEAD_PART;
		ssize_t r = receive_now(fd, bytes + have, most);

		if (r == -EAGAIN) {
			r = wait_for(fd, POLLIN, deadline);
			if (!r)
				continue;
		}
		if (r < 0)
			return r;
		if (!r)
			break;
		have += (size_t)r;
		*head = obd_answer_head(bytes, have);
	}
	return (ssize_t)have;
}

int64_t obd_cachefile_ask(struct obd_cachefile *file, int fd, struct obd_receive *range, struct obd_ask *ask)
{
	uint8_t *bytes = range->buf;
	uint64_t deadline;
	size_t head = 0;
	ssize_t r;

	if (!begin(range) || range->received || range->filled)
		return -EINVAL;
	deadline = obd_deadline_ns((int)range->timeout_ms);
	ask->head = ask->odd = 0;
	if (recv(fd, bytes, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN)
		return 0; // what was there before it was asked for is no answer
	r = send_all(fd, ask->request, ask->request_size, deadline);
	if (!r)
		r = receive_head(fd, range->buf, (size_t)range->size, deadline, &head);
	if (r <= 0)
		return r == -EPIPE || r == -ECONNRESET ? 0 : r;
	if (!head || (uint64_t)r - head > range->count ||
	    !obd_answer_is_range(range->buf, head, ask, range->offset, range->count)) {
		ask->odd = (uint64_t)r;
		return 0;
	}
	ask->head = head;
	if (range->fill && range->count >= LARGE)
		obd_cachefile_expect(file, range->offset, range->count);
	range->received = (uint64_t)r - head;
	memmove(bytes, bytes + head, (size_t)range->received);
	if (range->fill && is_full(range))
		fill_part(file, range, held(range));
	(void)receive_range(file, fd, range, obd_now_ns() + SLICE_NS); // nothing by then is receive's to wait for
	return (int64_t)range->received;
}
