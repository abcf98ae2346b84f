/* SPDX-License-Identifier: Apache-2.0 */
#include "miss.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "error.h"
#include "image_private.h"
#include "task.h"

/* Hints that may wait in the queue; beyond it one is dropped, and read-ahead ends until the next miss. */
enum { HINTS_MAX = 1024 };

/** Units of one file, side by side, that one reader asked for. */
struct want {
	struct want *next;
	struct obd_cachefile *file;
	const void *reader;
	uint64_t unit, units;
	enum obd_miss_kind kind;
};

/* ---- the queue ---- */

int obd_misses_create(uint32_t unit, struct obd_misses **ret)
{
	struct obd_misses *misses;

	if (unit < OBD_GRANULE || unit & (unit - 1))
		return -EINVAL;
	misses = obd_line_calloc(sizeof(*misses));
	if (!misses)
		return -ENOMEM;
	misses->unit_shift = (uint32_t)__builtin_ctz(unit);
	misses->tail = &misses->head;
	pthread_mutex_init(&misses->lock, NULL);
	obd_cond_init(&misses->queued);
	*ret = misses;
	return 0;
}

void obd_misses_destroy(struct obd_misses *misses)
{
	if (!misses)
		return;
	pthread_cond_destroy(&misses->queued);
	pthread_mutex_destroy(&misses->lock);
	free(misses); // the queue is empty: every file is closed
}

void obd_misses_stop(struct obd_misses *misses)
{
	pthread_mutex_lock(&misses->lock);
	misses->stopped = true;
	pthread_cond_broadcast(&misses->queued);
	pthread_mutex_unlock(&misses->lock);
}

void obd_misses_set_epoch(struct obd_misses *misses, uint32_t epoch)
{
	__atomic_store_n(&misses->seen.epoch, epoch & ~OBD_HEAT_MARK, __ATOMIC_RELAXED);
}

uint32_t obd_misses_parked(struct obd_misses *misses)
{
	uint32_t parked;

	pthread_mutex_lock(&misses->lock);
	parked = misses->parked;
	pthread_mutex_unlock(&misses->lock);
	return parked;
}

static void pop(struct obd_misses *misses, struct obd_miss *ret)
{
	struct want *want = misses->head;
	const uint64_t offset = want->unit << misses->unit_shift, left = want->file->size - offset;
	const uint64_t count = want->units << misses->unit_shift;

	*ret = (struct obd_miss){
		.file = want->file->id,
		.reader = (uint64_t)(uintptr_t)want->reader,
		.offset = offset,
		.count = count < left ? count : left,
		.kind = want->kind,
	};
	misses->head = want->next;
	if (!misses->head)
		misses->tail = &misses->head;
	misses->count--;
	free(want);
}

int obd_misses_next(struct obd_misses *misses, int timeout_ms, struct obd_miss *ret, uint32_t max)
{
	const uint64_t deadline = obd_deadline_ns(timeout_ms);
	int taken = 0, r = 0;

	pthread_mutex_lock(&misses->lock);
	misses->takers++;
	while (!misses->head && !misses->stopped && !misses->called && r != ETIMEDOUT)
		r = obd_cond_wait_until(&misses->queued, &misses->lock, deadline);
	misses->takers--;
	if (misses->stopped)
		taken = -ESHUTDOWN;
	else if (!misses->head && !misses->called)
		taken = -ETIMEDOUT;
	else if (!misses->head || misses->called > misses->takers)
		misses->called--; // who has a miss comes, too, but does not answer another's call
	while (!misses->stopped && misses->head && (uint32_t)taken < max)
		pop(misses, &ret[taken++]);
	pthread_mutex_unlock(&misses->lock);
	return taken;
}

uint32_t obd_misses_takers(struct obd_misses *misses)
{
	uint32_t takers;

	pthread_mutex_lock(&misses->lock);
	takers = misses->takers > misses->called ? misses->takers - misses->called : 0;
	pthread_mutex_unlock(&misses->lock);
	return takers;
}

int obd_misses_call(struct obd_misses *misses)
{
	int waits;

	pthread_mutex_lock(&misses->lock);
	waits = misses->takers > misses->called;
	if (misses->called <= misses->takers) // one more than there are: who is about to wait does not
		misses->called++;
	pthread_cond_signal(&misses->queued);
	pthread_mutex_unlock(&misses->lock);
	return waits;
}

/** Appends one unit; to the last entry when it continues that. The lock is held. */
static int push(struct obd_cachefile *file, uint64_t unit, const void *reader, enum obd_miss_kind kind)
{
	struct obd_misses *misses = file->misses;
	struct want *want;

	if (misses->count) {
		want = (struct want *)((char *)misses->tail - offsetof(struct want, next));
		if (want->file == file && want->reader == reader && want->kind == kind &&
		    want->unit + want->units == unit) {
			want->units++;
			return 0;
		}
	}
	want = malloc(sizeof(*want));
	if (!want)
		return -ENOMEM;
	*want = (struct want){.file = file, .reader = reader, .unit = unit, .units = 1, .kind = kind};
	*misses->tail = want;
	misses->tail = &want->next;
	misses->count++;
	pthread_cond_signal(&misses->queued);
	return 0;
}

/** Queues the units of the range that nobody has asked for. The lock is held. */
static int want_range(struct obd_cachefile *file, uint64_t offset, uint64_t count, const void *reader)
{
	const uint32_t shift = file->misses->unit_shift;

	for (uint64_t unit = offset >> shift; unit << shift < offset + count; unit++) {
		uint64_t at = unit << shift, size = UINT64_C(1) << shift;
		const uint64_t bit = UINT64_C(1) << (unit & 63);

		if (size > file->size - at)
			size = file->size - at;
		if (file->wanted[unit / 64] & bit || !obd_cachefile_missing(file, &at, &size))
			continue;
		if (push(file, unit, reader, OBD_MISS_READ))
			return -ENOMEM;
		file->wanted[unit / 64] |= bit;
	}
	return 0;
}

void obd_miss_want(struct obd_cachefile *file, uint64_t offset, uint64_t count, const void *reader)
{
	if (!obd_cachefile_missing(file, &offset, &count))
		return;
	pthread_mutex_lock(&file->misses->lock);
	(void)want_range(file, offset, count, reader); // whoever parks asks again, and is told
	pthread_mutex_unlock(&file->misses->lock);
}

void obd_miss_ahead(struct obd_cachefile *file, uint64_t unit)
{
	pthread_mutex_lock(&file->misses->lock);
	if (file->misses->count < HINTS_MAX)
		(void)push(file, unit, NULL, OBD_MISS_AHEAD);
	pthread_mutex_unlock(&file->misses->lock);
}

static void unwant(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	const uint32_t shift = file->misses->unit_shift;

	for (uint64_t unit = offset >> shift; unit << shift < offset + count; unit++)
		file->wanted[unit / 64] &= ~(UINT64_C(1) << (unit & 63));
}

void obd_miss_forget(struct obd_cachefile *file)
{
	struct obd_misses *misses = file->misses;

	pthread_mutex_lock(&misses->lock);
	misses->tail = &misses->head;
	for (struct want *want = misses->head, *next; want; want = next) {
		next = want->next;
		if (want->file == file) {
			misses->count--;
			free(want);
			continue;
		}
		*misses->tail = want;
		misses->tail = &want->next;
	}
	*misses->tail = NULL;
	pthread_mutex_unlock(&misses->lock);
}

/* ---- those who wait; the lock is held ---- */

static void park(struct obd_cachefile *file, struct obd_waiter *waiter)
{
	waiter->next = file->waiters;
	file->waiters = waiter;
	file->misses->parked++;
}

static struct obd_waiter *unpark(struct obd_cachefile *file, struct obd_waiter **link)
{
	struct obd_waiter *waiter = *link;

	*link = waiter->next;
	file->misses->parked--;
	return waiter;
}

/** Ends a thread's wait, or puts the piece on the list of those to be dealt with once the lock is free. */
static void let_go(struct obd_waiter *waiter, int result, struct obd_waiter **list)
{
	if (waiter->wake) {
		waiter->result = result;
		waiter->over = true;
		pthread_cond_signal(waiter->wake);
	} else {
		waiter->next = *list;
		*list = waiter;
	}
}

/* ---- pieces ---- */

/* When the last of an image's pieces is let go its front end may destroy it: nothing of it is touched afterwards. */

static void resume_all(struct obd_waiter *list)
{
	while (list) {
		struct obd_waiter *next = list->next;

		obd_work_resume(list->image, &list->piece);
		list = next;
	}
}

static void fail_piece(struct obd_image *image, const struct obd_piece *piece, int error, const char *path)
{
	struct obd_worker *worker = obd_image_lend(image);

	if (worker) {
		obd_fail(&worker->error, error, "%s: not to be had from the registry: %s", path, strerror(error));
		obd_count(&worker->counters.errors, 1);
		obd_report_error(worker, piece->request->op, piece->request->offset + piece->offset, piece->count,
				 error);
		obd_image_return(worker);
	}
	obd_piece_done(NULL, piece, -error);
}

static void fail_all(struct obd_waiter *list, int error, const char *path)
{
	while (list) {
		struct obd_waiter *next = list->next;

		if (path)
			fail_piece(list->image, &list->piece, error, path);
		else
			obd_piece_done(NULL, &list->piece, -error);
		free(list);
		list = next;
	}
}

void obd_miss_park(struct obd_worker *worker, const struct obd_piece *piece)
{
	struct obd_image *image = worker->image;
	struct obd_cachefile *file = worker->miss.file;
	struct obd_waiter *waiter = calloc(1, sizeof(*waiter));
	int error = ENOMEM;
	bool missing = false;

	if (waiter) {
		waiter->piece = *piece;
		waiter->image = image;
		waiter->offset = worker->miss.offset;
		waiter->count = worker->miss.count;
		if (!piece->since) {
			waiter->piece.since = obd_now_ns();
			obd_count(&worker->counters.misses, 1);
		}
		if (worker->rejected.layer) {
			waiter->piece.rejected_layer = worker->rejected.layer;
			waiter->piece.rejected_block = worker->rejected.block;
		}
		pthread_mutex_lock(&file->misses->lock);
		error = image->cancelled;
		missing = !error && obd_cachefile_missing(file, &waiter->offset, &waiter->count);
		if (missing && want_range(file, waiter->offset, waiter->count, image))
			error = ENOMEM;
		else if (missing)
			park(file, waiter);
		pthread_mutex_unlock(&file->misses->lock);
	}
	if (error) {
		free(waiter);
		obd_piece_done(NULL, piece, -error);
	} else if (!missing) {
		obd_work_resume(image, &waiter->piece);
	}
}

void obd_miss_arrived(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	struct obd_waiter *list = NULL;

	pthread_mutex_lock(&file->misses->lock);
	for (struct obd_waiter **link = &file->waiters; *link;) {
		struct obd_waiter *waiter = *link;
		uint64_t at = waiter->offset, size = waiter->count;

		if (at >= offset + count || offset >= at + size || obd_cachefile_missing(file, &at, &size))
			link = &waiter->next;
		else
			let_go(unpark(file, link), 0, &list);
	}
	pthread_mutex_unlock(&file->misses->lock);
	resume_all(list);
}

bool obd_miss_awaited(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	const struct obd_waiter *waiter;

	pthread_mutex_lock(&file->misses->lock);
	for (waiter = file->waiters; waiter; waiter = waiter->next) {
		const uint64_t end = waiter->offset + waiter->count;

		if (offset < end && end <= offset + count)
			break;
	}
	pthread_mutex_unlock(&file->misses->lock);
	return waiter != NULL;
}

void obd_cachefile_settle(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	struct obd_waiter *list = NULL;

	pthread_mutex_lock(&file->misses->lock);
	unwant(file, offset, count);
	for (struct obd_waiter **link = &file->waiters; *link;) {
		struct obd_waiter *waiter = *link;
		uint64_t at = waiter->offset, size = waiter->count;

		if (obd_cachefile_missing(file, &at, &size) && !want_range(file, at, size, waiter->image))
			link = &waiter->next;
		else
			let_go(unpark(file, link), 0, &list); // it looks again for itself
	}
	pthread_mutex_unlock(&file->misses->lock);
	resume_all(list);
}

/** Lets those go who lack bytes of the range; their pieces are returned. The lock is held. */
static struct obd_waiter *fail_range(struct obd_cachefile *file, uint64_t offset, uint64_t count, int error,
				     bool threads_only)
{
	struct obd_waiter *list = NULL;

	for (struct obd_waiter **link = &file->waiters; *link;) {
		if ((*link)->offset >= offset + count || offset >= (*link)->offset + (*link)->count ||
		    (threads_only && !(*link)->wake))
			link = &(*link)->next;
		else
			let_go(unpark(file, link), -error, &list);
	}
	return list;
}

void obd_cachefile_fail(struct obd_cachefile *file, uint64_t offset, uint64_t count, int error)
{
	struct obd_waiter *list;

	pthread_mutex_lock(&file->misses->lock);
	unwant(file, offset, count);
	list = fail_range(file, offset, count, error, false);
	pthread_mutex_unlock(&file->misses->lock);
	fail_all(list, error, file->path);
}

void obd_cachefile_refuse(struct obd_cachefile *file, uint64_t offset, uint64_t count, int error)
{
	pthread_mutex_lock(&file->misses->lock);
	fail_range(file, offset, count, error, true);
	pthread_mutex_unlock(&file->misses->lock);
}

/* ---- images ---- */

/** Takes the image's pieces that have waited since before then off the file's list. */
static struct obd_waiter *take_image(struct obd_cachefile *file, const struct obd_image *image, uint64_t then)
{
	struct obd_waiter *list = NULL;

	pthread_mutex_lock(&file->misses->lock);
	for (struct obd_waiter **link = &file->waiters; *link;) {
		if ((*link)->image != image || (*link)->piece.since > then)
			link = &(*link)->next;
		else
			let_go(unpark(file, link), 0, &list);
	}
	pthread_mutex_unlock(&file->misses->lock);
	return list;
}

/** Keeps a snapshot from adding a layer meanwhile. */
static void hold_layers(const struct obd_image *image)
{
	pthread_rwlock_rdlock(&((struct obd_image *)image)->change_lock);
}

static void let_layers_go(const struct obd_image *image)
{
	pthread_rwlock_unlock(&((struct obd_image *)image)->change_lock);
}

/* As soon as its last piece is let go the image may be destroyed: so all are collected first. */
static struct obd_waiter *take_all(const struct obd_image *image, uint64_t then)
{
	struct obd_waiter *all = NULL;

	hold_layers(image);
	for (uint32_t i = 0; i < image->info.layers; i++) {
		struct obd_cachefile *file = image->layers[i]->blob->cache;
		struct obd_waiter *list = file ? take_image(file, image, then) : NULL;

		while (list) {
			struct obd_waiter *next = list->next;

			list->next = all;
			all = list;
			list = next;
		}
	}
	let_layers_go(image);
	return all;
}

void obd_image_cancel(struct obd_image *image, int error)
{
	if (image->strips)
		obd_task_stop(image->strips);
	hold_layers(image);
	for (uint32_t i = 0; i < image->info.layers; i++) {
		struct obd_cachefile *file = image->layers[i]->blob->cache;

		if (!file)
			continue;
		pthread_mutex_lock(&file->misses->lock);
		image->cancelled = error;
		pthread_mutex_unlock(&file->misses->lock);
	}
	let_layers_go(image);
	fail_all(take_all(image, UINT64_MAX), error, NULL);
}

uint32_t obd_image_expire(struct obd_image *image, uint32_t age_ms, int error)
{
	const uint64_t now = obd_now_ns(), age = age_ms * UINT64_C(1000000);
	struct obd_waiter *list = take_all(image, age < now ? now - age : 0);
	uint32_t count = 0;

	for (const struct obd_waiter *waiter = list; waiter; waiter = waiter->next)
		count++;
	fail_all(list, error, image->name);
	return count;
}

uint32_t obd_image_parked(const struct obd_image *image, uint64_t *oldest_ms)
{
	const uint64_t now = obd_now_ns();
	uint64_t oldest = now;
	uint32_t count = 0;

	hold_layers(image);
	for (uint32_t i = 0; i < image->info.layers; i++) {
		struct obd_cachefile *file = image->layers[i]->blob->cache;

		if (!file)
			continue;
		pthread_mutex_lock(&file->misses->lock);
		for (const struct obd_waiter *waiter = file->waiters; waiter; waiter = waiter->next) {
			if (waiter->image != image)
				continue;
			count++;
			oldest = waiter->piece.since < oldest ? waiter->piece.since : oldest;
		}
		pthread_mutex_unlock(&file->misses->lock);
	}
	let_layers_go(image);
	*oldest_ms = (now - oldest) / UINT64_C(1000000);
	return count;
}

/* ---- threads that open a layer ---- */

static int wait_for(const struct obd_blob *blob, uint64_t offset, uint64_t count)
{
	struct obd_cachefile *file = blob->cache;
	struct obd_misses *misses = file->misses;
	pthread_cond_t wake;
	struct obd_waiter waiter = {.offset = offset, .count = count, .wake = &wake};
	int r = 0;

	obd_cond_init(&wake);
	pthread_mutex_lock(&misses->lock);
	if (!obd_cachefile_missing(file, &waiter.offset, &waiter.count)) {
		waiter.over = true;
	} else if (want_range(file, waiter.offset, waiter.count, blob)) {
		waiter.result = -ENOMEM;
		waiter.over = true;
	} else {
		park(file, &waiter);
	}
	while (!waiter.over && !r) {
		if (__atomic_load_n(&blob->cancelled, __ATOMIC_RELAXED))
			r = ECANCELED;
		else
			r = obd_cond_wait_until(&wake, &misses->lock,
						__atomic_load_n(&blob->deadline, __ATOMIC_RELAXED));
	}
	for (struct obd_waiter **link = &file->waiters; !waiter.over && *link; link = &(*link)->next) {
		if (*link != &waiter)
			continue;
		unpark(file, link);
		break;
	}
	pthread_mutex_unlock(&misses->lock);
	pthread_cond_destroy(&wake);
	return waiter.over ? waiter.result : -r;
}

int obd_miss_pread(const struct obd_blob *blob, void *buf, size_t count, uint64_t offset)
{
	const struct iovec list = {buf, count};
	int r;

	while ((r = obd_cachefile_preadv(blob->cache, &list, 1, count, offset, true)) == OBD_MISSING) {
		r = wait_for(blob, offset, count);
		if (r)
			return r;
	}
	return r;
}

void obd_blob_cancel(struct obd_blob *blob)
{
	if (!blob->cache)
		return;
	pthread_mutex_lock(&blob->cache->misses->lock);
	__atomic_store_n(&blob->cancelled, true, __ATOMIC_RELAXED);
	for (struct obd_waiter *waiter = blob->cache->waiters; waiter; waiter = waiter->next)
		if (waiter->wake)
			pthread_cond_signal(waiter->wake);
	pthread_mutex_unlock(&blob->cache->misses->lock);
}
