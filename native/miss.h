/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_MISS_H
#define OBD_MISS_H
#include "cachefile.h"
#include "read.h"

/*
 * What is wanted and not there: from the reader that finds a gap to the control plane that fills it, and back.
 *
 *     reader:  obd_miss_want()  a unit that is not wanted yet is queued      obd_misses_next() takes it to Python
 *              obd_miss_park()  the piece waits here, its thread goes on     ... fetched ...
 *                               resumed by obd_miss_arrived()                <- obd_cachefile_fill()
 *
 * A taken unit stays wanted until obd_cachefile_settle or _fail: so it is fetched once, however many wait. settle asks
 * again for what is still missed. Nothing is lost: a piece parks only after one more look under the lock, and whoever
 * fills looks at the parked ones under the same lock afterwards.
 */
struct obd_misses {
	/* guards all that follows, and wanted and waiters of every file; taken for a miss, never on a hit */
	pthread_mutex_t lock;
	pthread_cond_t queued;
	struct want *head, **tail;
	unsigned count;	 /**< in the queue */
	unsigned parked; /**< readers that wait */
	unsigned takers; /**< threads in obd_misses_next() */
	unsigned called; /**< of these: to come without a miss */
	bool stopped;
	uint32_t unit_shift;
	/* looked at by each hit, changed now and then */
	struct {
		uint32_t epoch;	 /**< atomic */
		unsigned clears; /**< atomic: +1 before bytes of any file that were present go */
	} __attribute__((aligned(OBD_CACHE_LINE))) seen;
};

/** Before and after reading in place: what was present in between is right. Pairs with obd_cachefile_in_place. */
static inline unsigned obd_misses_begin(const struct obd_misses *misses)
{
	return __atomic_load_n(&misses->seen.clears, __ATOMIC_ACQUIRE);
}
static inline bool obd_misses_hold(const struct obd_misses *misses, unsigned begun)
{
	obd_presence_read();
	return __atomic_load_n(&misses->seen.clears, __ATOMIC_RELAXED) == begun;
}

/** One reader that waits: a piece of an image's request, or a thread that opens a layer. */
struct obd_waiter {
	struct obd_piece piece; /**< first: it goes back to the image as this record */
	struct obd_waiter *next;
	struct obd_image *image; /**< NULL: a thread */
	uint64_t offset, count;	 /**< what it lacks, in the file */
	pthread_cond_t *wake;	 /**< the thread's, which owns this record */
	bool over;
	int result;
};

/** Asks for what of the range is missing. reader: whoever reads, for fairness between them; any number. */
void obd_miss_want(struct obd_cachefile *file, uint64_t offset, uint64_t count, const void *reader);
/** Lets the piece wait for worker->miss; it is served, failed or cancelled later, on another thread. */
void obd_miss_park(struct obd_worker *worker, const struct obd_piece *piece);
/** Whether what somebody waits for ends in the range. */
bool obd_miss_awaited(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** Resumes whoever waits for nothing but this range. */
void obd_miss_arrived(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** A marked unit was reached. */
void obd_miss_ahead(struct obd_cachefile *file, uint64_t unit);
/** obd_blob_pread for a lazily fetched blob. */
int obd_miss_pread(const struct obd_blob *blob, void *buf, size_t count, uint64_t offset);
/** The file is about to be freed. */
void obd_miss_forget(struct obd_cachefile *file);

#endif
