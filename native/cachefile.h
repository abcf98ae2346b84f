/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_CACHEFILE_H
#define OBD_CACHEFILE_H
#include <pthread.h>
#include <sys/uio.h>

#include "blob.h"
#include "presence.h"

/*
 * The local, sparse copy of a remote blob, shared by all images that read it. Its bytes stand at the blob's own
 * offsets, in one of three places:
 *
 *     file       as far as `present` says
 *     spill      memory, for what the file could not take (disk full); made when first needed
 *     complete   file has become a whole local copy: `present` does not count any more, and nothing is evicted
 *
 * C reads, and says what is missing (miss.c). Python fetches, fills, evicts and switches: cache/store.py decides.
 */
struct obd_spill {
	int fd;
	struct obd_presence present;
};

struct obd_cachefile {
	/* what a hit looks at, in one cache line: large reads drive the others out */
	const uint32_t *epoch; /**< the misses', atomic */
	uint32_t *heat;	       /**< atomic, a word a unit: the epoch of its last read, and OBD_HEAT_MARK */
	struct obd_presence present;
	uint32_t unit_shift;
	int fd;		 /**< one number for ever; what it leads to is exchanged by dup3 when a local copy is there */
	bool complete;	 /**< atomic */
	bool pages_lost; /**< atomic: the pages could not follow the file to its whole copy */
	bool nowait, memory; /**< atomic; as in struct obd_blob */

	struct obd_misses *misses;
	uint64_t id;   /**< the control plane's name for it */
	uint64_t size; /**< of the blob, bytes */
	char *path;
	unsigned refs;		 /**< atomic: the control plane's and each blob's */
	struct obd_spill *spill; /**< atomic, set once */
	struct obd_pages *pages; /**< atomic, set once; NULL: not mapped */
	/*
	 * Fills, evictions and the exchange of the file, one at a time: else a hole could be punched into what was
	 * written a moment ago. Held across a write, a recovery's read or a punch; no reader takes it.
	 */
	pthread_mutex_t content_lock;
	/* guarded by misses->lock */
	uint64_t *wanted; /**< a bit a unit: asked for, and neither settled nor failed yet */
	struct obd_waiter *waiters;
} __attribute__((aligned(OBD_CACHE_LINE)));

#define OBD_HEAT_MARK UINT32_C(0x80000000) /**< whoever reads this unit shall say so: the read-ahead's trip wire */

/** Part of the range is not here. No errno: the kernel has a use for each of those. */
enum { OBD_MISSING = -4096 };

/**
 * Reads exactly count bytes at offset, inside the file. 0, OBD_MISSING or -errno; without wait, -EAGAIN where it would
 * have to wait for the disk. A present range that cannot be read any more counts as missing.
 */
int obd_cachefile_preadv(struct obd_cachefile *file, const struct iovec *iov, int used, uint64_t count, uint64_t offset,
			 bool wait);
/** The file's pages, for all blobs; NULL when it cannot be mapped. Stays the file's. */
struct obd_pages *obd_cachefile_map(struct obd_cachefile *file);
void obd_cachefile_heat_up(struct obd_cachefile *file, uint64_t unit, uint32_t old, uint32_t epoch);

static inline bool obd_cachefile_is_complete(const struct obd_cachefile *file)
{
	return __atomic_load_n(&file->complete, __ATOMIC_ACQUIRE);
}

/** Notes that the range is read. A store only once an epoch: the line stays shared between the readers' CPUs. */
static inline void obd_cachefile_touch(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	const uint64_t last = (offset + count - 1) >> file->unit_shift;
	const uint32_t epoch = __atomic_load_n(file->epoch, __ATOMIC_RELAXED);

	for (uint64_t unit = offset >> file->unit_shift; unit <= last; unit++) {
		const uint32_t old = __atomic_load_n(&file->heat[unit], __ATOMIC_RELAXED);

		if (old != epoch)
			obd_cachefile_heat_up(file, unit, old, epoch);
	}
}

/**
 * Whether the range may be read from the pages now. Afterwards obd_misses.clears must be what it was before, or what
 * was read does not count.
 */
static inline bool obd_cachefile_in_place(struct obd_cachefile *file, uint64_t offset, uint64_t count)
{
	obd_cachefile_touch(file, offset, count);
	if (obd_cachefile_is_complete(file))
		return !__atomic_load_n(&file->pages_lost, __ATOMIC_RELAXED);
	return obd_presence_all(&file->present, offset, count);
}
/** Has the disk make room for a range at once, which takes half as long as with each write; it may have none. */
void obd_cachefile_expect(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** Narrows the range to its first and last granule that are missing. false: nothing is. */
bool obd_cachefile_missing(const struct obd_cachefile *file, uint64_t *offset, uint64_t *count);
/** Forgets what turned out to be damaged. false: the file is a whole local copy, which nobody can fetch anew. */
bool obd_cachefile_reject(struct obd_cachefile *file, uint64_t offset, uint64_t count);

#endif
