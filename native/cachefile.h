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
	struct obd_misses *misses;
	uint64_t id;   /**< the control plane's name for it */
	uint64_t size; /**< of the blob, bytes */
	char *path;
	int fd; /**< one number for ever; what it leads to is exchanged by dup3 when a local copy is there */
	bool nowait, memory; /**< atomic; as in struct obd_blob */
	bool complete;	     /**< atomic */
	unsigned refs;	     /**< atomic: the control plane's and each blob's */
	struct obd_presence present;
	struct obd_spill *spill; /**< atomic, set once */
	/*
	 * Fills, evictions and the exchange of the file, one at a time: else a hole could be punched into what was
	 * written a moment ago. Held across a write, a recovery's read or a punch; no reader takes it.
	 */
	pthread_mutex_t content_lock;
	uint32_t *heat; /**< atomic, a word a unit: the epoch of its last read, and OBD_HEAT_MARK */
	/* guarded by misses->lock */
	uint64_t *wanted; /**< a bit a unit: asked for, and neither settled nor failed yet */
	struct obd_waiter *waiters;
};

#define OBD_HEAT_MARK UINT32_C(0x80000000) /**< whoever reads this unit shall say so: the read-ahead's trip wire */

/** Part of the range is not here. No errno: the kernel has a use for each of those. */
enum { OBD_MISSING = -4096 };

/**
 * Reads exactly count bytes at offset, inside the file. 0, OBD_MISSING or -errno; without wait, -EAGAIN where it would
 * have to wait for the disk. A present range that cannot be read any more counts as missing.
 */
int obd_cachefile_preadv(struct obd_cachefile *file, const struct iovec *iov, int used, uint64_t count, uint64_t offset,
			 bool wait);
/** Narrows the range to its first and last granule that are missing. false: nothing is. */
bool obd_cachefile_missing(const struct obd_cachefile *file, uint64_t *offset, uint64_t *count);
/** Forgets what turned out to be damaged. false: the file is a whole local copy, which nobody can fetch anew. */
bool obd_cachefile_reject(struct obd_cachefile *file, uint64_t offset, uint64_t count);

#endif
