/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "clock.h"
#include "obd.h"
#include "presence.h"

/*
 * Bytes on their way from a registry's socket to the readers of a cache file. It is Python that asks, and that looks at
 * the answer's head; what follows comes through here, so that no reader waits for the interpreter between two pieces.
 */
#define SLICE_NS UINT64_C(1000000000) /* after which the caller is told, whether it has everything or not */

/** Bytes; 0 at the stream's end, -EAGAIN when none came in time, or -errno. */
static ssize_t receive_some(int fd, void *buf, size_t count, uint64_t deadline, uint64_t *waited_ns)
{
	for (;;) {
		struct pollfd one = {.fd = fd, .events = POLLIN};
		ssize_t r = recv(fd, buf, count, MSG_DONTWAIT);
		uint64_t now;
		int ready;

		if (r >= 0)
			return r;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		now = obd_now_ns();
		if (now >= deadline)
			return -EAGAIN;
		ready = poll(&one, 1, (int)((deadline - now) / 1000000) + 1);
		if (ready < 0 && errno != EINTR)
			return -errno;
		*waited_ns += obd_now_ns() - now;
	}
}

/** Where in the buffer, of size bytes, the next ones go, and how many at most; what an earlier host gave is dropped. */
static size_t room(const struct obd_receive *state, size_t size, uint64_t count, size_t *at)
{
	const uint64_t before = state->filled > state->received ? state->filled - state->received : 0;
	uint64_t left = before ? before : count - state->received;

	*at = before ? 0 : (size_t)(state->received - state->filled);
	return left < size - *at ? (size_t)left : size - *at;
}

/** Gives the readers what is in the buffer when that is full, or at the range's end. */
static void fill_part(struct obd_cachefile *file, const uint8_t *bytes, size_t size, uint64_t count, uint64_t offset,
		      struct obd_receive *state, uint32_t *sums)
{
	const uint64_t held = state->received > state->filled ? state->received - state->filled : 0;
	int r;

	if (!held || (held < size && state->received < count))
		return;
	r = obd_cachefile_fill(file, bytes, (size_t)held, offset + state->filled, sums + state->filled / OBD_GRANULE);
	if (r)
		state->refused = -r;
	else
		state->filled = state->received;
}

int64_t obd_cachefile_receive(struct obd_cachefile *file, int fd, void *buf, size_t size, uint64_t count,
			      uint64_t offset, int fill, int timeout_ms, struct obd_receive *state, uint32_t *sums)
{
	const uint64_t before = state->received, stop = obd_now_ns() + SLICE_NS;
	uint64_t deadline = obd_deadline_ns(timeout_ms); // of the first bytes; the others may come next time
	uint8_t *bytes = buf;
	size_t at, most;

	if (before >= count || state->filled > count || (state->filled % OBD_GRANULE && state->filled < count) ||
	    !size || size % OBD_GRANULE || before > state->filled + size || timeout_ms < 0)
		return -EINVAL;
	state->refused = 0;
	state->waited_ns = 0;
	while (state->received < count && !state->refused && (most = room(state, size, count, &at))) {
		ssize_t r = receive_some(fd, bytes + at, most, deadline, &state->waited_ns);

		if (r <= 0 && state->received == before)
			return r;
		if (r <= 0)
			break; // it will say so again
		state->received += (uint64_t)r;
		if (fill)
			fill_part(file, bytes, size, count, offset, state, sums);
		deadline = stop;
	}
	return (int64_t)(state->received - before);
}
