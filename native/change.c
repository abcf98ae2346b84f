/* SPDX-License-Identifier: Apache-2.0 */
#include "change.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "image_private.h"
#include "lsmt_record.h"
#include "miss.h"
#include "upper.h"

enum {
	INLINE = 256 * 1024,   /* bytes of one batch that the front end's thread copies itself */
	SLOW_NS = 8 * 1000000, /* writes that took longer have waited for the disk */
	AVOID = 10,	       /* ... and for so many times as long the next ones are left to threads that may */
	FOUND = 16,
	ZERO_PAGES = 32,
	PAGE = 4096,
};

/* ---- what there is ---- */

static uint64_t lower_data(const struct obd_index *index, uint64_t sector, uint64_t end, uint64_t *stop)
{
	const struct obd_segments *segments = &index->segments;
	size_t i = obd_index_find(index, sector);
	uint64_t start;

	while (i < segments->count && obd_key_sector(segments->key[i]) < end && obd_map_zeroed(segments->map[i]))
		i++;
	if (i == segments->count || obd_key_sector(segments->key[i]) >= end)
		return end;
	start = obd_key_sector(segments->key[i]);
	*stop = obd_key_end(segments->key[i]) < end ? obd_key_end(segments->key[i]) : end;
	return start > sector ? start : sector;
}

uint64_t obd_change_next_data(const struct obd_image *image, uint64_t sector, uint64_t end, uint64_t *stop)
{
	struct obd_upper *upper = obd_image_upper(image);
	const struct obd_index *index = obd_image_index(image);
	unsigned found = FOUND;

	while (sector < end && found == FOUND && upper) {
		uint64_t keys[FOUND], maps[FOUND];

		found = obd_upper_find(upper, sector, end, keys, maps, FOUND);
		for (unsigned i = 0; i < found; i++) {
			const uint64_t start = obd_key_sector(keys[i]), behind = obd_key_end(keys[i]);

			if (start > sector) {
				const uint64_t at = lower_data(index, sector, start, stop);

				if (at < start)
					return at;
				sector = start;
			}
			if (!obd_map_zeroed(maps[i])) {
				*stop = behind < end ? behind : end;
				return sector;
			}
			sector = behind;
		}
	}
	return sector < end ? lower_data(index, sector, end, stop) : end;
}

/* ---- writes ---- */

static struct obd_upper_write write_of(const struct obd_piece *piece)
{
	const struct obd_request *request = piece->request;
	struct obd_upper_write write = {
		.sector = (request->offset + piece->offset) / OBD_SECTOR,
		.sectors = piece->count / OBD_SECTOR,
		.iov = request->iov,
	};
	uint64_t skip = piece->offset;

	while (skip >= write.iov->iov_len) {
		skip -= write.iov->iov_len;
		write.iov++;
	}
	write.skip = (size_t)skip;
	return write;
}

/* ---- a sparse layer over others ---- */

/*
 * Its file system knows whole blocks only: what of the block at sector is not the layer's own yet becomes so. What is
 * below may be missing yet: then the whole change waits for it, and is made again.
 */
static int fill_block(struct obd_worker *worker, struct obd_upper *upper, uint64_t sector)
{
	const uint64_t size = obd_image_size(worker->image), offset = sector * OBD_SECTOR;
	const uint64_t count = size - offset < upper->unit ? size - offset : upper->unit;
	struct iovec iov = {malloc(count), (size_t)count};
	struct obd_request request = {.op = OBD_READ, .offset = offset, .count = count, .iov = &iov, .iov_count = 1};
	const struct obd_piece piece = {
		.request = &request,
		.count = count,
		.rejected_layer = worker->changing->rejected_layer,
		.rejected_block = worker->changing->rejected_block,
	};
	const struct obd_upper_write write = {.sector = sector, .sectors = count / OBD_SECTOR, .iov = &iov};
	int r = iov.iov_base ? obd_read_piece(worker, &piece) : -ENOMEM;

	if (!r)
		r = obd_upper_write(upper, &write, 1);
	free(iov.iov_base);
	return r;
}

static int write_partly(struct obd_worker *worker, struct obd_upper *upper, const struct obd_upper_write *write)
{
	const uint64_t unit = upper->unit / OBD_SECTOR, end = write->sector + write->sectors;
	const uint64_t first = write->sector / unit * unit, last = (end - 1) / unit * unit;
	int r = 0;

	if (first != write->sector || (first == last && end % unit))
		r = fill_block(worker, upper, first);
	if (!r && end % unit && last != first)
		r = fill_block(worker, upper, last);
	return r ? r : obd_upper_write(upper, write, 1);
}

/* One write; whole blocks side by side, else alone: a filled block must not hide what is just written into it. */
static int write_sparse(struct obd_worker *worker, struct obd_upper *upper, const struct obd_upper_write *write)
{
	struct obd_image *image = worker->image;
	const uint64_t unit = upper->unit / OBD_SECTOR, end = write->sector + write->sectors;
	const bool whole = write->sector % unit == 0 && (end % unit == 0 || end == obd_image_size(image) / OBD_SECTOR);
	int r;

	if (!obd_image_index(image)->segments.count)
		return obd_upper_write(upper, write, 1);
	if (!whole && !worker->may_block)
		return -EAGAIN;
	if (whole && worker->may_block)
		pthread_rwlock_rdlock(&image->fill_lock);
	else if (whole && pthread_rwlock_tryrdlock(&image->fill_lock))
		return -EAGAIN;
	else if (!whole)
		pthread_rwlock_wrlock(&image->fill_lock);
	r = whole ? obd_upper_write(upper, write, 1) : write_partly(worker, upper, write);
	pthread_rwlock_unlock(&image->fill_lock);
	return r;
}

static int write_zeros(struct obd_worker *worker, struct obd_upper *upper, uint64_t sector, uint64_t end)
{
	static uint8_t zeros[PAGE];
	struct iovec iov[ZERO_PAGES];
	int r = 0;

	for (unsigned i = 0; i < ZERO_PAGES; i++)
		iov[i] = (struct iovec){zeros, PAGE};
	while (sector < end && !r) {
		const uint64_t most = ZERO_PAGES * PAGE / OBD_SECTOR, left = end - sector;
		const struct obd_upper_write write = {
			.sector = sector, .sectors = left < most ? left : most, .iov = iov};

		r = write_sparse(worker, upper, &write);
		sector += write.sectors;
	}
	return r;
}

/* ---- discards ---- */

/* Holes need no entry: so a new file system's discard of the whole disk leaves nothing behind. */
static int discard_appending(const struct obd_image *image, struct obd_upper *upper, uint64_t sector, uint64_t end)
{
	int r = 0;

	while (!r) {
		uint64_t stop, next;

		sector = obd_change_next_data(image, sector, end, &stop);
		if (sector >= end)
			return 0;
		next = end - sector < OBD_LSMT_LENGTH_MAX ? end : sector + OBD_LSMT_LENGTH_MAX;
		r = obd_upper_zero(upper, sector, next);
		sector = next;
	}
	return r;
}

/* A hole of a sparse layer shows what is below: so where that has data, zeros are written. */
static int discard_sparse(struct obd_worker *worker, struct obd_upper *upper, uint64_t sector, uint64_t end)
{
	const struct obd_index *index = obd_image_index(worker->image);
	int r = 0;

	while (sector < end && !r) {
		uint64_t stop = end;
		const uint64_t hole_end = lower_data(index, sector, end, &stop);

		if (hole_end > sector)
			r = obd_upper_sparse_unset(upper, sector, hole_end);
		if (r == -EOPNOTSUPP)
			r = write_zeros(worker, upper, sector, hole_end);
		if (!r && hole_end < end)
			r = write_zeros(worker, upper, hole_end, stop);
		sector = stop;
	}
	return r;
}

/* ---- serving ---- */

static const char *const doing[] = {
	[OBD_READ] = "reading", [OBD_WRITE] = "writing", [OBD_FLUSH] = "syncing", [OBD_DISCARD] = "discarding"};

static int change_failed(struct obd_worker *worker, const struct obd_upper *upper, enum obd_op op, int r)
{
	return r && r != -EAGAIN && r != OBD_MISSING
		       ? obd_fail(&worker->error, -r, "%s: %s: %s", upper->layer.blob->path, doing[op], strerror(-r))
		       : r;
}

/* Keeps a snapshot from replacing the upper layer meanwhile. */
static struct obd_upper *begin_change(struct obd_worker *worker, int *ret)
{
	struct obd_image *image = worker->image;

	*ret = 0;
	if (!image->writable)
		*ret = obd_fail(&worker->error, EROFS, "the image has no writable layer");
	else if (worker->may_block)
		pthread_rwlock_rdlock(&image->change_lock);
	else if (pthread_rwlock_tryrdlock(&image->change_lock))
		*ret = -EAGAIN;
	return *ret ? NULL : obd_image_upper(image);
}

static void end_change(struct obd_worker *worker)
{
	pthread_rwlock_unlock(&worker->image->change_lock);
}

static int write_all(struct obd_worker *worker, struct obd_upper *upper, const struct obd_upper_write *writes,
		     unsigned count)
{
	int r = 0;

	if (!upper->sparse)
		return obd_upper_write(upper, writes, count);
	for (unsigned i = 0; i < count && !r; i++)
		r = write_sparse(worker, upper, &writes[i]);
	return r;
}

/* Up to OBD_UPPER_WRITES pieces as one write of an append-only layer. */
static int write_together(struct obd_worker *worker, const struct obd_piece *pieces, unsigned count)
{
	struct obd_upper_write writes[OBD_UPPER_WRITES];
	struct obd_image *image = worker->image;
	const uint64_t start = obd_now_ns();
	struct obd_upper *upper;
	int r;

	worker->changing = &pieces[0];
	if (!worker->may_block && start < __atomic_load_n(&image->avoid_until, __ATOMIC_RELAXED))
		return -EAGAIN;
	upper = begin_change(worker, &r);
	if (!upper)
		return r;
	for (unsigned i = 0; i < count; i++)
		writes[i] = write_of(&pieces[i]);
	r = write_all(worker, upper, writes, count);
	if (r == -ENOSPC && !worker->may_block)
		r = -EAGAIN;
	else if (r == -ENOSPC && obd_upper_reclaim(upper))
		r = write_all(worker, upper, writes, count);
	r = change_failed(worker, upper, OBD_WRITE, r);
	end_change(worker);
	if (!worker->may_block) {
		const uint64_t now = obd_now_ns();

		if (now - start > SLOW_NS)
			__atomic_store_n(&image->avoid_until, now + AVOID * (now - start), __ATOMIC_RELAXED);
	}
	return r;
}

/* A longer one, an entry's length at a time. */
static int write_piece(struct obd_worker *worker, const struct obd_piece *piece)
{
	const uint64_t most = OBD_LSMT_LENGTH_MAX / 8 * 8 * OBD_SECTOR;
	int r = 0;

	for (uint64_t done = 0; done < piece->count && !r; done += most) {
		struct obd_piece part = *piece;

		part.offset += done;
		part.count = piece->count - done < most ? piece->count - done : most;
		r = write_together(worker, &part, 1);
	}
	return r;
}

static struct obd_piece whole(struct obd_request *request)
{
	return (struct obd_piece){.request = request, .count = request->count};
}

static void finish(struct obd_worker *worker, const struct obd_piece *piece, int r)
{
	if (r == OBD_MISSING)
		obd_miss_park(worker, piece);
	else if (r == -EAGAIN && !worker->may_block)
		obd_work_blocked(worker->image, piece);
	else
		obd_piece_done(worker, piece, r);
}

/* Writes that were handed over as one. All but the first are finished here; the outcome of that is returned. */
static int write_group(struct obd_worker *worker, struct obd_request *first)
{
	struct obd_piece pieces[OBD_UPPER_WRITES];
	struct obd_request *request = first, *next;
	unsigned count = 0;
	int r;

	do {
		next = request->next;
		request->next = NULL;
		pieces[count++] = whole(request);
		request = next;
	} while (next);
	r = write_together(worker, pieces, count);
	/* one that is refused must not take the others along */
	for (unsigned i = 1; i < count; i++)
		finish(worker, &pieces[i], r ? write_piece(worker, &pieces[i]) : 0);
	return r ? write_piece(worker, &pieces[0]) : 0;
}

int obd_change_piece(struct obd_worker *worker, const struct obd_piece *piece)
{
	const struct obd_request *request = piece->request;
	const uint64_t sector = request->offset / OBD_SECTOR, end = sector + request->count / OBD_SECTOR;
	struct obd_upper *upper;
	int r;

	if (request->op != OBD_FLUSH && (request->offset % OBD_SECTOR || request->count % OBD_SECTOR))
		return obd_fail(&worker->error, EINVAL, "%s: not whole sectors", doing[request->op]);
	if (request->op == OBD_WRITE)
		return request->next ? write_group(worker, piece->request) : write_piece(worker, piece);
	if (!worker->may_block)
		return -EAGAIN;
	worker->changing = piece;
	upper = begin_change(worker, &r);
	if (!upper)
		return request->op == OBD_FLUSH ? 0 : r; /* nothing is ever unwritten */
	if (request->op == OBD_FLUSH)
		r = obd_upper_flush(upper);
	else if (upper->sparse)
		r = discard_sparse(worker, upper, sector, end);
	else
		r = discard_appending(worker->image, upper, sector, end);
	r = change_failed(worker, upper, request->op, r);
	end_change(worker);
	return r;
}

/* ---- a batch ---- */

static void count_change(struct obd_worker *worker, const struct obd_request *request)
{
	struct obd_counters *counters = &worker->counters;

	if (request->op == OBD_WRITE) {
		obd_count(&counters->writes, 1);
		obd_count(&counters->write_bytes, request->count);
	} else {
		obd_count(request->op == OBD_FLUSH ? &counters->flushes : &counters->discards, 1);
	}
}

static void serve_together(struct obd_worker *worker, const struct obd_piece *pieces, unsigned count)
{
	int r = write_together(worker, pieces, count);

	if (r == -EAGAIN && !worker->may_block) {
		for (unsigned i = 1; i < count; i++)
			pieces[i - 1].request->next = pieces[i].request;
		obd_work_blocked(worker->image, &pieces[0]);
		return;
	}
	for (unsigned i = 0; i < count; i++)
		finish(worker, &pieces[i], r && count > 1 ? write_piece(worker, &pieces[i]) : r);
}

/* Not even a snapshot in progress: that is a change whose flush is still to come, or has been. */
static bool nothing_to_flush(struct obd_image *image)
{
	bool clean;

	if (!image->writable)
		return true;
	if (pthread_rwlock_tryrdlock(&image->change_lock))
		return false;
	clean = obd_upper_is_flushed(obd_image_upper(image));
	pthread_rwlock_unlock(&image->change_lock);
	return clean;
}

static bool can_be_inline(const struct obd_request *request, uint64_t taken)
{
	return request->op == OBD_WRITE && taken + request->count <= INLINE && request->count % OBD_SECTOR == 0 &&
	       request->offset % OBD_SECTOR == 0;
}

unsigned obd_change_submit(struct obd_image *image, struct obd_worker *worker, struct obd_request **batch,
			   unsigned count)
{
	struct obd_piece pieces[OBD_UPPER_WRITES];
	unsigned reads = 0, together = 0;
	uint64_t taken = 0;

	for (unsigned i = 0; i < count; i++) {
		struct obd_request *request = batch[i];
		const struct obd_piece piece = whole(request);

		if (request->op == OBD_READ) {
			batch[reads++] = request;
			continue;
		}
		request->result = 0;
		request->next = NULL;
		__atomic_store_n(&request->pending, 1, __ATOMIC_RELAXED);
		count_change(worker, request);
		if (request->op == OBD_FLUSH && nothing_to_flush(image)) {
			obd_piece_done(worker, &piece, 0);
			continue;
		}
		if (!can_be_inline(request, taken)) {
			obd_work_blocked(image, &piece);
			continue;
		}
		taken += request->count;
		pieces[together++] = piece;
		if (together == OBD_UPPER_WRITES) {
			serve_together(worker, pieces, together);
			together = 0;
		}
	}
	if (together)
		serve_together(worker, pieces, together);
	return reads;
}
