/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_READ_H
#define OBD_READ_H
#include "image.h"
#include "latency.h"
#include "layer.h"
#include "pages.h"

/*
 * How one piece of a request becomes bytes in its iovec. Three ways through the same walk over the merged index:
 *
 *     obd_read_piece                 now, by preadv; a worker that must not wait gets -EAGAIN where it would have to
 *     obd_read_plan, obd_read_finish for engines that read behind our back: first collect the reads, then, when they
 *                                    are done, walk again and take the bytes from the slot's buffer
 */

/** A part of a request, small enough that a thread busy with it does not keep others waiting. */
struct obd_piece {
	struct obd_request *request;
	uint64_t offset; /**< within the request, bytes */
	uint64_t count;
	uint64_t left; /**< monotonic ns: when it was left to a thread that may wait */
	bool followed; /**< the same thread reads on where it ends */
	struct obd_piece *next;
	uint64_t since; /**< when it first had to wait for the registry, monotonic ns; 0: never */
	const struct obd_layer *rejected_layer; /**< whose block did not decode and was fetched anew */
	uint64_t rejected_block;
};

/** Counters of one worker: written by it alone, read by anybody. */
struct obd_counters {
	uint64_t reads, read_bytes, zero_bytes, errors, inline_reads, disk_reads, disk_bytes, hits, blocked,
		blocks_decoded, block_hits, slow_reads, writes, write_bytes, discards, flushes, in_place,
		in_place_bytes, cache_reads, cache_bytes, misses, lookups;
	struct obd_latency stages[OBD_STAGES];
};

static inline void obd_count(uint64_t *counter, uint64_t more)
{
	__atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

static inline void obd_count_cached(struct obd_counters *counters, uint64_t count)
{
	obd_count(&counters->cache_reads, 1);
	obd_count(&counters->cache_bytes, count);
}

/** A read of count bytes of a layer file; cached: of one that is fetched as it is read. */
static inline void obd_count_disk(struct obd_counters *counters, uint64_t count, bool cached)
{
	obd_count(&counters->disk_reads, 1);
	obd_count(&counters->disk_bytes, count);
	if (cached)
		obd_count_cached(counters, count);
}

/** The same, where it lies in the page cache. */
static inline void obd_count_in_place(struct obd_counters *counters, uint64_t count, bool cached)
{
	obd_count(&counters->in_place, 1);
	obd_count(&counters->in_place_bytes, count);
	if (cached)
		obd_count_cached(counters, count);
}

/** A decoded ZFile block that is kept because the next read often wants its other half. */
struct obd_decoded {
	const struct obd_layer *layer; /**< NULL: empty */
	uint64_t block;
	uint32_t valid; /**< decoded bytes from its start */
	uint8_t *bytes;
};

enum { OBD_DECODED_SLOTS = 2, OBD_WORKER_IOV = 64, OBD_STORED_SLACK = 64 };

struct obd_worker {
	struct obd_image *image;
	bool may_block; /**< false: the front end's own thread, a wait for the disk would hold up its ring */
	struct obd_codec *codec;
	uint8_t *stored; /**< compressed bytes on their way to the decoder */
	size_t stored_size;
	struct obd_decoded decoded[OBD_DECODED_SLOTS];
	unsigned victim;
	uint64_t expected; /**< where in the image its last piece ended: one that begins there makes a stream */
	struct iovec iov[OBD_WORKER_IOV];
	uint64_t epoch, reads; /**< reads since the image's epoch began */
	struct obd_guard guard;
	struct obd_error error; /**< why the last piece failed */
	struct {
		struct obd_cachefile *file; /**< NULL: nothing */
		uint64_t offset, count;
	} miss; /**< what the last piece lacks first */
	struct {
		const struct obd_layer *layer; /**< NULL: none */
		uint64_t block;
	} rejected;			  /**< the block of the last piece that is to be fetched anew */
	const struct obd_piece *changing; /**< the change that reads what is below it */
	struct obd_counters counters;
	struct obd_worker *next; /**< all workers of the image, for the counters */
	struct obd_worker *idle; /**< workers that obd_image_pread lends out */
};

/** One read towards the disk, planned for a slot. */
struct obd_io {
	struct obd_slot *slot; /**< atomic, set last */
	const struct obd_layer *layer;
	uint64_t offset;      /**< of the wanted bytes in the blob */
	uint32_t count;	      /**< wanted bytes */
	uint32_t blocks;      /**< ZFile blocks they hold, 0 when raw */
	uint64_t read_offset; /**< what is really read: aligned outwards for O_DIRECT */
	uint32_t read_count;
	uint8_t *buffer; /**< of read_count bytes */
	int64_t result;	 /**< bytes or -errno */
};

enum { OBD_SLOT_IOS = 16, OBD_SLOT_BUFFER = 256 * 1024 };

/** A piece that is waiting for planned reads, and the room they need. */
struct obd_slot {
	struct obd_image *image;
	struct obd_piece piece;
	uint64_t done, planned; /**< bytes of the piece: delivered; covered by the planned reads */
	unsigned count, outstanding;
	uint64_t since; /**< monotonic ns of submission */
	struct obd_io io[OBD_SLOT_IOS];
	uint8_t *buffer;
	size_t used;
	struct obd_slot *next;
	void *engine; /**< the engine's own control blocks for io[] */
};

/** 0, -errno, -EAGAIN, or OBD_MISSING: then all that the piece lacks is asked for, and worker->miss says what to await.
 */
int obd_read_piece(struct obd_worker *worker, const struct obd_piece *piece);
/** Fills slot->io from slot->done on; 0 reads mean that nothing has to be read for [done, planned). */
int obd_read_plan(struct obd_worker *worker, struct obd_slot *slot);
/** Delivers [done, planned) from the finished reads. */
int obd_read_finish(struct obd_worker *worker, struct obd_slot *slot);

/* ---- locate.c ---- */

/** The piece will be read next: its first bytes may come closer meanwhile. */
void obd_read_prefetch(const struct obd_worker *worker, const struct obd_piece *piece);
/** Where a piece that wants to end near offset + count should end, so that no ZFile block is decoded twice. */
uint64_t obd_read_cut(const struct obd_image *image, uint64_t offset, uint64_t count);
/** Bytes from offset to the end of a ZFile block that begins before it; 0 when none does. */
uint64_t obd_read_head(const struct obd_image *image, uint64_t offset);

#endif
