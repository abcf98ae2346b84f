/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_PRESENCE_H
#define OBD_PRESENCE_H
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/*
 * Which granules (4 KiB) of a file hold their bytes. Readers take no lock:
 *
 *     reader    sequence  ->  bits  ->  pread  ->  sequence again: the same, or what was read does not count
 *     filler    pwrite  ->  set bits
 *     evictor   clear bits, sequence + 1  ->  punch the hole
 *
 * A set bit means: the granule's bytes are in the file, and stay there until the sequence has moved. So whoever saw the
 * bits set and finds the sequence unmoved has read the right bytes, whatever happened in between.
 *
 * Only one thread at a time may fill or evict: that is the owner's lock.
 */
enum { OBD_GRANULE_SHIFT = 12, OBD_GRANULE = 1 << OBD_GRANULE_SHIFT, OBD_CACHE_LINE = 64 };

/** Zeroed memory at the start of a cache line; free() frees it. */
static inline void *obd_line_calloc(size_t size)
{
	void *memory = aligned_alloc(OBD_CACHE_LINE, (size + OBD_CACHE_LINE - 1) & ~(size_t)(OBD_CACHE_LINE - 1));

	return memory ? memset(memory, 0, size) : NULL;
}

struct obd_presence {
	uint64_t *words;   /**< a bit a granule, atomic */
	uint64_t granules; /**< the last one may be short */
	unsigned sequence; /**< atomic */
};

/** Nothing is present. size: bytes of the file. 0 or -ENOMEM. */
int obd_presence_init(struct obd_presence *presence, uint64_t size);
void obd_presence_deinit(struct obd_presence *presence);

/* Ranges are bytes, inside the file; a granule that is touched counts as a whole. */
void obd_presence_set(struct obd_presence *presence, uint64_t offset, uint64_t count);
/** Moves the sequence; when it returns, no reader that has not yet looked at the bits will use the range. */
void obd_presence_clear(struct obd_presence *presence, uint64_t offset, uint64_t count);
/** How many of the count bytes from offset on are there before the first that are not; 0 to count. */
uint64_t obd_presence_run(const struct obd_presence *presence, uint64_t offset, uint64_t count);
/** How many of the granules [first, stop) are there. */
uint64_t obd_presence_count(const struct obd_presence *presence, uint64_t first, uint64_t stop);
/** As obd_presence_run, for bytes that are not there. */
uint64_t obd_presence_gap(const struct obd_presence *presence, uint64_t offset, uint64_t count);

/* ThreadSanitizer knows no fences; nothing it can see needs these. */

/** Bits are cleared and the sequence has moved before what follows, a system call, changes the file. */
static inline void obd_presence_cleared(void)
{
#ifndef __SANITIZE_THREAD__
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/** What was read of the file was read before what follows. Loads alone: the bytes' way out need not be waited for. */
static inline void obd_presence_read(void)
{
#ifndef __SANITIZE_THREAD__
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/** All of the range is there. count > 0. */
static inline bool obd_presence_all(const struct obd_presence *presence, uint64_t offset, uint64_t count)
{
	const uint64_t first = offset >> OBD_GRANULE_SHIFT, last = (offset + count - 1) >> OBD_GRANULE_SHIFT;
	uint64_t mask;

	if (first / 64 != last / 64)
		return obd_presence_run(presence, offset, count) == count;
	mask = ~UINT64_C(0) >> (63 - (last - first)) << first % 64;
	return (__atomic_load_n(&presence->words[first / 64], __ATOMIC_ACQUIRE) & mask) == mask;
}

static inline unsigned obd_presence_begin(const struct obd_presence *presence)
{
	return __atomic_load_n(&presence->sequence, __ATOMIC_ACQUIRE);
}

/** Whether what was read since obd_presence_begin counts. */
static inline bool obd_presence_holds(const struct obd_presence *presence, unsigned begun)
{
	obd_presence_read();
	return __atomic_load_n(&presence->sequence, __ATOMIC_RELAXED) == begun;
}

#endif
