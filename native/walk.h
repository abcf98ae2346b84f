/* SPDX-License-Identifier: Apache-2.0 */
/* Where a read stands: what it is for, how far it has come, and where its next byte goes. read.c walks. */
#ifndef OBD_WALK_H
#define OBD_WALK_H

#include <stdbool.h>
#include <string.h>

#include "image_private.h"

/* A read that finds bytes missing goes on as a probe: so all that the piece lacks is asked for at once. */
enum walk_mode { WALK_NOW, WALK_PLAN, WALK_FINISH, WALK_PROBE };

struct walk {
	struct obd_worker *worker;
	enum walk_mode mode;
	const struct obd_piece *piece; /**< NULL unless reading now */
	/* where the next byte goes; unused while planning or probing */
	const struct iovec *iov;
	size_t skip;
	uint64_t done;	/**< bytes of the piece behind us */
	bool in_place;	/**< pages may be touched */
	bool streaming; /**< what follows the piece will be wanted next, on this thread */
	/* planned reads */
	struct obd_slot *slot;
	unsigned io;
};

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline bool delivers(const struct walk *walk)
{
	return walk->mode == WALK_NOW || walk->mode == WALK_FINISH;
}

static inline void out_seek(struct walk *walk, const struct obd_request *request, uint64_t offset)
{
	walk->iov = request->iov;
	while (offset && offset >= walk->iov->iov_len) {
		offset -= walk->iov->iov_len;
		walk->iov++;
	}
	walk->skip = offset;
}

static inline void *out_pointer(const struct walk *walk)
{
	return (uint8_t *)walk->iov->iov_base + walk->skip;
}

static inline size_t out_room(const struct walk *walk)
{
	return walk->iov->iov_len - walk->skip;
}

static inline void out_advance(struct walk *walk, uint64_t count)
{
	walk->done += count;
	if (!delivers(walk))
		return;
	while (count && count >= out_room(walk)) {
		count -= out_room(walk);
		walk->iov++;
		walk->skip = 0;
	}
	walk->skip += count;
}

static inline void out_copy(struct walk *walk, const uint8_t *from, uint64_t count)
{
	while (count) {
		size_t part = out_room(walk) < count ? out_room(walk) : (size_t)count;

		memcpy(out_pointer(walk), from, part);
		out_advance(walk, part);
		from += part;
		count -= part;
	}
}

static inline void out_zero(struct walk *walk, uint64_t count)
{
	if (!delivers(walk)) {
		walk->done += count;
		return;
	}
	while (count) {
		size_t part = out_room(walk) < count ? out_room(walk) : (size_t)count;

		memset(out_pointer(walk), 0, part);
		out_advance(walk, part);
		count -= part;
	}
}

/* The next count bytes of the output as a list in worker->iov; *covered is what fits in the list. */
static inline int out_list(struct walk *walk, uint64_t count, uint64_t *covered)
{
	struct iovec *list = walk->worker->iov;
	const struct iovec *iov = walk->iov;
	size_t skip = walk->skip;
	int used = 0;

	for (*covered = 0; *covered < count && used < OBD_WORKER_IOV; iov++, skip = 0) {
		size_t part = iov->iov_len - skip;

		if (!part)
			continue;
		if (part > count - *covered)
			part = (size_t)(count - *covered);
		list[used++] = (struct iovec){(uint8_t *)iov->iov_base + skip, part};
		*covered += part;
	}
	return used;
}

#endif
