/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an image keeps only while it is busy: threads (work.c sees to them), the memory that an engine has read into,
 * and pages of layer files that are mapped, which also have to be asked for anew from time to time (pages.h):
 *
 *     epoch     |  few reads: by system calls  |  more: in place      |  few reads: by system calls  | ...
 *               '--------------- idle_ms -----------------------------'-- all pages are forgotten ----'
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "error.h"
#include "image_private.h"
#include "miss.h"

enum {
	IDLE_MS = 5000,
	BUSY_READS = 4096,     /* in an epoch: milliseconds of its seconds */
	LONG_READ = 16 * 1024, /* bytes that count for one read more */
};

/* For tests: when to read in place, how long to keep things. */
int obd_rest_init(struct obd_image *image, struct obd_error *err)
{
	const char *in_place = getenv("OVERLAYBD_IN_PLACE"), *idle = getenv("OVERLAYBD_IDLE_MS");

	image->busy_reads = BUSY_READS;
	if (in_place && !strcmp(in_place, "always"))
		image->busy_reads = 0;
	else if (in_place && !strcmp(in_place, "never"))
		image->busy_reads = UINT64_MAX;
	else if (in_place && *in_place)
		return obd_fail(err, EINVAL, "OVERLAYBD_IN_PLACE: '%s' is neither always nor never", in_place);
	image->idle_ms = IDLE_MS;
	if (idle && *idle)
		image->idle_ms = (unsigned)strtoul(idle, NULL, 10);
	if (!image->idle_ms)
		return obd_fail(err, EINVAL, "OVERLAYBD_IDLE_MS: '%s' is no number of milliseconds", idle);
	return 0;
}

void obd_rest_map(struct obd_image *image)
{
	// A writable image's layers are not the same for ever: a snapshot adds one.
	if (image->engine || image->writable || image->busy_reads == UINT64_MAX)
		return;
	for (uint32_t i = 0; i < image->info.layers; i++) {
		struct obd_blob *blob = image->layers[i]->blob;

		// A layer that cannot be mapped is read by system calls: nothing to report.
		if (blob->cache && (!image->misses || image->misses == blob->cache->misses)) {
			image->misses = blob->cache->misses;
			blob->pages = obd_cachefile_map(blob->cache);
		} else if (!blob->pages && !blob->cache && (blob->nowait || blob->memory)) {
			obd_pages_create(blob->fd, blob->size, &blob->pages);
		}
		image->in_place |= blob->pages != NULL;
	}
}

/* ---- pages ---- */

void obd_image_forget(struct obd_image *image)
{
	for (uint32_t i = 0; image->in_place && i < image->info.layers; i++)
		if (image->layers[i]->blob->pages)
			obd_pages_forget(image->layers[i]->blob->pages);
}

/* When the pages are forgotten next, ns of obd_recent_ns; a new value means that they just were. */
static uint64_t epoch_of(struct obd_image *image)
{
	const uint64_t now = obd_recent_ns(), next = now + image->idle_ms * UINT64_C(1000000);
	uint64_t end = __atomic_load_n(&image->epoch, __ATOMIC_RELAXED);

	if (__builtin_expect(now < end, 1) ||
	    !__atomic_compare_exchange_n(&image->epoch, &end, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return end;
	obd_image_forget(image);
	return next;
}

bool obd_rest_busy(struct obd_worker *worker, uint64_t count)
{
	const uint64_t epoch = epoch_of(worker->image);

	if (worker->epoch != epoch) {
		worker->epoch = epoch;
		worker->reads = 0;
	}
	worker->reads += 1 + count / LONG_READ;
	return worker->reads > worker->image->busy_reads;
}

/* ms until the pages may be forgotten; -1: there are none. */
static int rest_pages(struct obd_image *image, uint64_t now)
{
	const uint64_t end = __atomic_load_n(&image->epoch, __ATOMIC_RELAXED);
	bool any = false;

	for (uint32_t i = 0; image->in_place && i < image->info.layers; i++)
		any |= image->layers[i]->blob->pages && obd_pages_any(image->layers[i]->blob->pages);
	if (!any)
		return -1;
	if (now < end)
		return (int)((end - now) / 1000000) + 1;
	obd_image_forget(image);
	return -1;
}

/* ---- an engine's memory ---- */

/* The same for what slots have read into. */
static int rest_slots(struct obd_image *image, uint64_t now)
{
	const uint64_t idle_ns = image->idle_ms * UINT64_C(1000000);
	struct obd_work *work = &image->work;
	int ms = -1;

	if (!image->slot_memory)
		return -1;
	pthread_mutex_lock(&work->lock);
	if (work->slots_used || work->slots_taken != image->rest_slots_taken) {
		image->rest_slots_taken = work->slots_taken;
		image->rest_since = now;
	}
	if (work->slots_taken && now - image->rest_since < idle_ns) {
		ms = (int)((idle_ns - (now - image->rest_since)) / 1000000) + 1;
	} else if (work->slots_taken) {
		madvise(image->slot_memory, image->options.depth * (size_t)OBD_SLOT_BUFFER, MADV_DONTNEED);
		work->slots_taken = 0;
	}
	pthread_mutex_unlock(&work->lock);
	return ms;
}

int obd_image_rest(struct obd_image *image)
{
	const uint64_t now = obd_recent_ns();
	const int pages = rest_pages(image, now), slots = rest_slots(image, now);

	return pages < 0 || (slots >= 0 && slots < pages) ? slots : pages;
}
