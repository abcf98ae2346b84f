/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_H
#define OBD_H
/*
 * The one public header of the native core: what Python binds (overlaybd_tcmu/ffi/native.py, same order).
 *
 * Rules of the boundary
 *   - every function returns 0 (or a count) or -errno; where a struct obd_error is passed, it is filled on failure;
 *   - nothing here calls into Python, and nothing blocks without a way to be stopped;
 *   - offsets and counts are bytes unless the name says sector (512 bytes);
 *   - a handle may be used by any thread; creating and destroying it is the owner's business.
 */
#include <stddef.h>
#include <stdint.h>

#define OBD_PUBLIC __attribute__((visibility("default")))

/** Bumped with every change of a struct or a signature below; Python refuses another. */
#define OBD_ABI_VERSION 6u

OBD_PUBLIC uint32_t obd_abi(void);
/** sizeof a struct of this header by its name ("obd_error"), 0 when unknown. */
OBD_PUBLIC size_t obd_sizeof(const char *name);
/** Which CPU versions of the kernels were chosen, e.g. "crc32c=sse42x3 index=bucket"; static text. */
OBD_PUBLIC const char *obd_build_info(void);

/** Why something failed: a positive errno and one line naming file, field and offset. */
struct obd_error {
	int32_t code;
	char text[508];
};

/* ---- latencies: how long things took, in powers of two ---- */

enum { OBD_LATENCY_BUCKETS = 28 };

/** buckets[i] counts what took less than 1024 << i ns, and at least half of that unless i is 0; the last all the rest.
 */
struct obd_latency {
	uint64_t total_ns;
	uint64_t buckets[OBD_LATENCY_BUCKETS];
};

/* ---- events: what the data plane has to say, for the log and the audit log ---- */

enum obd_event_kind {
	OBD_EVENT_READ_ERROR = 1,  /**< a range could not be read; text says why */
	OBD_EVENT_SLOW_READ = 2,   /**< a read from a local layer file took >= 10 ms */
	OBD_EVENT_DEVICE = 3,	   /**< a front end has something to report */
	OBD_EVENT_WRITE_ERROR = 4, /**< something could not be written or synced; text says why */
};

struct obd_event {
	uint32_t kind;
	int32_t code;	 /**< positive errno, 0 when none */
	uint64_t offset; /**< in the image (READ_ERROR) or in the file (SLOW_READ) */
	uint64_t count;
	uint64_t latency_us;
	uint64_t dropped; /**< events lost before this one because the queue was full */
	char image[256];  /**< name given to obd_image_create */
	char text[512];	  /**< the layer file's path, or the cause */
};

struct obd_events;
OBD_PUBLIC int obd_events_create(struct obd_events **ret);
OBD_PUBLIC void obd_events_destroy(struct obd_events *events);
/** Waits up to timeout_ms (-1: no limit). 1: *ret filled, 0: timeout, -ESHUTDOWN: stopped and drained. */
OBD_PUBLIC int obd_events_next(struct obd_events *events, int timeout_ms, struct obd_event *ret);
OBD_PUBLIC void obd_events_stop(struct obd_events *events);

/* ---- blob: a file descriptor and a presence map ---- */

struct obd_blob;
#define OBD_BLOB_DIRECT 1u /**< also open an O_DIRECT descriptor; silently absent where the file system has none */

OBD_PUBLIC int obd_blob_open(const char *path, uint32_t flags, struct obd_blob **ret, struct obd_error *err);
OBD_PUBLIC void obd_blob_close(struct obd_blob *blob);

/* ---- misses: what readers want and do not find; one queue for all the files of a cache ---- */

enum obd_miss_kind {
	OBD_MISS_READ = 1,  /**< somebody waits for it, or will in a moment */
	OBD_MISS_AHEAD = 2, /**< a unit was read that obd_cachefile_mark had marked; nobody waits */
};

struct obd_miss {
	uint64_t file;	 /**< id given to obd_cachefile_open */
	uint64_t reader; /**< tells readers apart, and nothing else */
	uint64_t offset; /**< in the file; whole units, less at its end */
	uint64_t count;
	uint32_t kind; /**< enum obd_miss_kind */
	uint32_t reserved;
};

struct obd_misses;
/** unit: bytes fetched at once, a power of two of at least 4096. */
OBD_PUBLIC int obd_misses_create(uint32_t unit, struct obd_misses **ret);
/** Every file is closed. */
OBD_PUBLIC void obd_misses_destroy(struct obd_misses *misses);
/**
 * Waits until there is something to take, and takes up to max entries; each is then the caller's to end, with
 * obd_cachefile_settle or obd_cachefile_fail, and until then it is not reported again. Any number of threads. The
 * count; 0: called; -ETIMEDOUT: timeout_ms passed (-1: no limit); -ESHUTDOWN: stopped.
 */
OBD_PUBLIC int obd_misses_next(struct obd_misses *misses, int timeout_ms, struct obd_miss *ret, uint32_t max);
/** How many threads wait in obd_misses_next and were not called. */
OBD_PUBLIC uint32_t obd_misses_takers(struct obd_misses *misses);
/** Has one of them return, with a miss or without; if there is none, 0, whoever comes there next. */
OBD_PUBLIC int obd_misses_call(struct obd_misses *misses);
OBD_PUBLIC void obd_misses_stop(struct obd_misses *misses);
/** What obd_cachefile_heat shows of units read from now on; 31 bits. */
OBD_PUBLIC void obd_misses_set_epoch(struct obd_misses *misses, uint32_t epoch);
/** Readers that wait now. */
OBD_PUBLIC uint32_t obd_misses_parked(struct obd_misses *misses);

/* ---- cachefile: the local, sparse copy of a remote blob; ranges begin at multiples of 4096 ---- */

struct obd_cachefile;
/**
 * Opens or makes the file; nothing of it counts as present. An empty path: no file, everything goes to the spill.
 * id is what misses call it. misses outlives it.
 */
OBD_PUBLIC int obd_cachefile_open(struct obd_misses *misses, const char *path, uint64_t size, uint64_t id,
				  struct obd_cachefile **ret, struct obd_error *err);
/** Gives up the caller's hold; blobs keep theirs. */
OBD_PUBLIC void obd_cachefile_close(struct obd_cachefile *file);
/** A blob that reads through the file. Opening a layer from it waits for missing bytes, timeout_ms from now at most. */
OBD_PUBLIC int obd_blob_cached(struct obd_cachefile *file, int timeout_ms, struct obd_blob **ret,
			       struct obd_error *err);
/** Ends the waiting of whoever opens a layer from the blob: ECANCELED. */
OBD_PUBLIC void obd_blob_cancel(struct obd_blob *blob);
/**
 * Writes whole granules (4096 bytes, less at the file's end) and wakes those who wait for them. sums, unless NULL,
 * gets a checksum of each granule, never 0. -errno: the file did not take them.
 */
OBD_PUBLIC int obd_cachefile_fill(struct obd_cachefile *file, const void *buf, size_t count, uint64_t offset,
				  uint32_t *sums);
/** A range of a cache file that is received, and how far it has come: bytes of it, from its beginning on. */
struct obd_receive {
	void *buf;
	uint64_t size; /**< of buf: whole granules */
	uint64_t count, offset;
	uint32_t *sums;	     /**< of the range: gets a checksum of each granule that is filled */
	uint32_t fill;	     /**< whether the file is filled */
	uint32_t timeout_ms; /**< for the first bytes of a call */
	uint64_t received;
	uint64_t filled;    /**< the readers have them: whole granules, or all. The buffer begins with what follows */
	uint64_t waited_ns; /**< of the last call: for the socket, not for the file */
	int32_t refused;    /**< errno with which the file did not take what is in the buffer, or 0 */
	uint32_t reserved;
};
/**
 * Receives more of a range from a stream socket into its buffer, and whenever that is full, or somebody waits for what
 * is in there and no more comes at once, and at the range's end, fills the file. Until all is there, the buffer has no
 * room, the file refuses, or about a second has passed. What was filled before is not filled again.
 *
 * Bytes that were received; 0 at the stream's end. -EAGAIN: none came in time. -errno: of the socket.
 */
OBD_PUBLIC int64_t obd_cachefile_receive(struct obd_cachefile *file, int fd, struct obd_receive *range);
/**
 * Bytes at the beginning of the buffer to be filled now, when no more comes at once: all, when it is full or the range
 * at its end; what somebody waits for, else.
 */
OBD_PUBLIC uint64_t obd_cachefile_ready(struct obd_cachefile *file, const struct obd_receive *range);
/** A request for a range, and what the head of its answer has to say, besides the range, to be the usual one. */
struct obd_ask {
	const char *request; /**< all of it, as it is sent */
	uint64_t request_size;
	const char *digest; /**< what Docker-Content-Digest says, if it is there */
	const char *etag;   /**< and Etag, with its quotes */
	uint64_t blob_size; /**< bytes of the whole blob */
	uint64_t head;	    /**< set: bytes of the head, of a usual answer */
	uint64_t odd;	    /**< set: bytes in the buffer that came instead of such an answer, or of its beginning */
};
/**
 * As receive, from the request on: sends it, and takes what follows the head if that is the usual one of HTTP/1.1, a
 * whole 206 of exactly this range on a connection that stays open. Nothing of it has come before.
 *
 * Bytes of the range that were received; timeout_ms is for the head, what follows gets a second. Neither head nor odd:
 * the stream ended before anything came, or was reset in the head, or had something to say before it was asked.
 * -EAGAIN: no head in time. -errno: of the socket, and no head.
 */
OBD_PUBLIC int64_t obd_cachefile_ask(struct obd_cachefile *file, int fd, struct obd_receive *range,
				     struct obd_ask *ask);
/** Gives back the room that was made for what did not come of a range that was asked for. */
OBD_PUBLIC void obd_cachefile_unexpect(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** Makes a hole in any file, where its file system can. */
OBD_PUBLIC void obd_punch(int fd, uint64_t offset, uint64_t count);
/** As fill, into memory beside the file. */
OBD_PUBLIC int obd_cachefile_spill(struct obd_cachefile *file, const void *buf, size_t count, uint64_t offset);
/** Makes those granules present whose bytes in the file have the checksum given (0: none). Their number. */
OBD_PUBLIC int64_t obd_cachefile_recover(struct obd_cachefile *file, uint64_t offset, uint64_t count,
					 const uint32_t *sums);
/** A taken range is done with: what readers still miss of it is reported again. */
OBD_PUBLIC void obd_cachefile_settle(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** Everybody who waits for bytes of the range gets this errno. */
OBD_PUBLIC void obd_cachefile_fail(struct obd_cachefile *file, uint64_t offset, uint64_t count, int error);
/** As fail, for those alone who open a layer: reads of images wait on, and the range stays wanted. */
OBD_PUBLIC void obd_cachefile_refuse(struct obd_cachefile *file, uint64_t offset, uint64_t count, int error);
/** Gives the range's room back; a reader in the middle of it reads again. */
OBD_PUBLIC int obd_cachefile_evict(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** As evict, of what is in memory. */
OBD_PUBLIC int obd_cachefile_unspill(struct obd_cachefile *file, uint64_t offset, uint64_t count);
/** From now on the blob is read from the whole copy at path; readers notice nothing. */
OBD_PUBLIC int obd_cachefile_switch(struct obd_cachefile *file, const char *path, struct obd_error *err);
/** The next range at or after offset that the file does not have. 1 found, 0 none. */
OBD_PUBLIC int obd_cachefile_next_gap(const struct obd_cachefile *file, uint64_t offset, uint64_t *start,
				      uint64_t *end);
/**
 * The file in count (1 to 65536) parts of about the same size, in granules (4096 bytes): how many each has. Their sum,
 * or -EINVAL. ret may be NULL.
 */
OBD_PUBLIC int64_t obd_cachefile_present(const struct obd_cachefile *file, uint32_t count, uint32_t *ret);
/** Copies what is present from offset on, up to the first gap; bytes or -errno. */
OBD_PUBLIC int64_t obd_cachefile_copy(struct obd_cachefile *file, void *buf, size_t count, uint64_t offset);
/** The epoch of the last read of each of count units; 0: not since the file was opened. */
OBD_PUBLIC int obd_cachefile_heat(const struct obd_cachefile *file, uint64_t unit, uint32_t count, uint32_t *ret);
/** The next read of the unit at offset is reported, once, as OBD_MISS_AHEAD. */
OBD_PUBLIC int obd_cachefile_mark(struct obd_cachefile *file, uint64_t offset);

/* ---- layer: one read-only LSMT layer in a blob, however wrapped ---- */

struct obd_layer_info {
	uint64_t virtual_size; /**< bytes, 0 = inherits from below */
	uint64_t stream_size;  /**< bytes of the LSMT stream, unwrapped */
	uint64_t segments;     /**< entries without padding */
	uint64_t memory;       /**< bytes held for the segments and the ZFile index */
	uint32_t tar;	       /**< 1: wrapped in a tar member */
	uint32_t zfile;	       /**< 0 raw, 1 lz4, 2 zstd */
	uint32_t block_size;   /**< of the ZFile, 0 when raw */
	uint32_t verify;       /**< 1: ZFile blocks carry a CRC */
	uint32_t direct;       /**< 1: the blob has an O_DIRECT descriptor */
	uint32_t sparse;       /**< 1: the layer was a sparse writable one */
	char uuid[40];	       /**< text, "" when none or invalid */
	char parent_uuid[40];
	char message[260]; /**< commit message, NUL-terminated */
};

struct obd_layer;
/** Finds the wrapping by content, reads and checks the index. Owns blob from a successful return on. */
OBD_PUBLIC int obd_layer_open(struct obd_blob *blob, struct obd_layer **ret, struct obd_error *err);
/**
 * For a program that goes through the layer once, such as obd_commit: checked as well, but what it has is read when it
 * is needed, so that it takes little memory however large the index. for_image: 1: an image can be made of it, that is
 * gone through by obd_image_advance; a ZFile's jump table is held for that.
 */
OBD_PUBLIC int obd_layer_open_lean(struct obd_blob *blob, uint32_t for_image, struct obd_layer **ret,
				   struct obd_error *err);
OBD_PUBLIC void obd_layer_close(struct obd_layer *layer);
OBD_PUBLIC void obd_layer_info(const struct obd_layer *layer, struct obd_layer_info *ret);

/* ---- upper: a writable layer, a data file and, unless it is sparse, an index file ---- */

struct obd_upper_options {
	uint64_t virtual_size;	 /**< bytes, a multiple of 512; 0 = inherits from below */
	uint32_t sparse;	 /**< 1: the data file is laid out as the disk, the index file stays empty */
	uint32_t reserved;	 /**< 0 */
	const char *uuid;	 /**< text; NULL = a random one */
	const char *parent_uuid; /**< text; NULL = none */
};

struct obd_upper_info {
	uint64_t virtual_size; /**< bytes, 0 = inherits from below */
	uint64_t segments;     /**< what it has, zeroed ones included */
	uint64_t mapped;       /**< bytes with data */
	uint64_t memory;       /**< bytes held for the segments */
	uint64_t data_size;    /**< bytes of the data file */
	uint64_t dropped;      /**< index entries that were not believed when it was opened: never confirmed, or torn */
	uint32_t sparse;
	uint32_t read_only;
	char uuid[40]; /**< text, "" when none or invalid */
	char parent_uuid[40];
};

struct obd_upper;
#define OBD_UPPER_READ_ONLY 1u /**< for the tools: neither file is changed, and another reader is welcome; exact */
#define OBD_UPPER_EXACT                                                                                                \
	2u /**< to be sealed: segments stay what was written, so that it is as the original makes it                   \
	    */

#define OBD_UPPER_LEAN 4u /**< with OBD_UPPER_READ_ONLY: as obd_layer_open_lean */

/** Makes both files, whole or not at all. -EEXIST when there is one already; index_path is needed for both kinds. */
OBD_PUBLIC int obd_upper_create(const char *data_path, const char *index_path, const struct obd_upper_options *options,
				struct obd_error *err);
/**
 * index_path may be NULL or "" for a sparse one. What a crash has left is put right: a torn tail is cut, and after a
 * power cut what no flush has confirmed. -EBUSY while another process has it open for writing.
 */
OBD_PUBLIC int obd_upper_open(const char *data_path, const char *index_path, uint32_t flags, struct obd_upper **ret,
			      struct obd_error *err);
/** Flushes and closes; 0 or what the flush says. The handle is gone either way. */
OBD_PUBLIC int obd_upper_close(struct obd_upper *upper, struct obd_error *err);
OBD_PUBLIC void obd_upper_info(struct obd_upper *upper, struct obd_upper_info *ret);
/** Appends index and trailer to the data file, which then is a read-only layer. Nothing may be written any more. */
OBD_PUBLIC int obd_upper_seal(struct obd_upper *upper, struct obd_error *err);
/** States another virtual size in the headers, synced; what lies beyond a smaller one stays in the index. */
OBD_PUBLIC int obd_upper_resize(struct obd_upper *upper, uint64_t virtual_size, struct obd_error *err);

/* ---- image: a stack of layers, read as one disk ---- */

enum obd_engine { OBD_ENGINE_PSYNC = 0, OBD_ENGINE_LIBAIO = 1, OBD_ENGINE_POSIX_AIO = 2 };

struct obd_image_options {
	uint32_t engine;       /**< enum obd_engine */
	uint32_t helpers;      /**< threads beside the front end's own for data that is at hand; 0 = none */
	uint32_t depth;	       /**< reads in flight towards the disk, at most; 0 = 64 */
	uint32_t slow_read_us; /**< report reads slower than this; 0 = 10000 */
};

struct obd_image_info {
	uint64_t virtual_size; /**< bytes */
	uint64_t segments;     /**< of the merged index */
	uint64_t mapped;       /**< bytes that come from a layer (zeroed segments not counted) */
	uint64_t memory;       /**< bytes held for the merged index and its lookup table */
	uint32_t layers;       /**< without the writable one */
	uint32_t engine;
	uint32_t writable; /**< 1: it has a writable layer */
	uint32_t discard;  /**< 1: discarded ranges read as zeros */
};

/** Counters since creation; they only grow. */
struct obd_image_stats {
	uint64_t reads, read_bytes, zero_bytes; /**< requests, bytes asked for, of these never mapped */
	uint64_t errors;			/**< requests that failed */
	uint64_t inline_reads;			/**< requests served by the submitting thread alone */
	uint64_t disk_reads, disk_bytes;	/**< reads issued to layer files and their bytes */
	uint64_t hits;				/**< of these, answered by the page cache at once */
	uint64_t blocked;			/**< reads of layer files that had to wait for the disk */
	uint64_t inflight_max;			/**< most reads in flight towards the disk at one moment */
	uint64_t blocks_decoded, block_hits;	/**< ZFile blocks decoded; blocks found decoded */
	uint64_t slow_reads;
	uint64_t in_place; /**< reads of layer files that found the bytes in the page cache and copied nothing */
	uint64_t threads;  /**< helper threads alive now */
	uint64_t writes, write_bytes, discards, flushes;
	uint64_t in_place_bytes;
	/* reads, in place or not, that found their bytes in layers which are fetched as they are read */
	uint64_t cache_reads, cache_bytes;
	uint64_t misses; /**< pieces of requests that waited for bytes of those */
};

/** Where the time of requests goes that are not simply answered; in the order in which they meet them. */
enum obd_stage {
	OBD_STAGE_QUEUE = 0,  /**< a piece that must wait for the disk, until a thread that may wait takes it up */
	OBD_STAGE_LOOKUP = 1, /**< finding which layer has a range; one search in OBD_LOOKUP_SAMPLE is timed */
	OBD_STAGE_CACHE =
		2,	    /**< a read of the local copy of a layer that is fetched as it is read, if it had to wait */
	OBD_STAGE_DISK = 3, /**< a read of any other layer's file that had to wait */
	OBD_STAGE_WAIT = 4, /**< a piece of a request that bytes were missing for, until they were there */
	OBD_STAGE_DECODE = 5, /**< decoding a ZFile block; one in OBD_DECODE_SAMPLE is timed */
	OBD_STAGES = 6,
};
enum { OBD_DECODE_SAMPLE = 64, OBD_LOOKUP_SAMPLE = 64 };

struct obd_image;
/**
 * layers[0] is the lowest; upper, over them all, may be NULL, and needs no layers. Owns them from a successful return
 * on; on failure they stay the caller's. An upper without a size is given that of the layers. name is what log lines
 * call the image. events may be NULL.
 */
OBD_PUBLIC int obd_image_create(struct obd_layer **layers, uint32_t count, struct obd_upper *upper,
				const struct obd_image_options *options, struct obd_events *events, const char *name,
				struct obd_image **ret, struct obd_error *err);
/** No request may be in flight. Joins the helpers, closes the layers; a flush that fails then is only reported. */
OBD_PUBLIC void obd_image_destroy(struct obd_image *image);
OBD_PUBLIC void obd_image_info(const struct obd_image *image, struct obd_image_info *ret);
OBD_PUBLIC void obd_image_stats(const struct obd_image *image, struct obd_image_stats *ret);
/** What a stage took since creation; -EINVAL for one there is not. */
OBD_PUBLIC int obd_image_latency(const struct obd_image *image, uint32_t stage, struct obd_latency *ret);
/** Blocking read of any alignment. count or -errno; -EINVAL beyond the virtual size. */
OBD_PUBLIC int64_t obd_image_pread(struct obd_image *image, void *buf, size_t count, uint64_t offset);
/** Blocking write of whole sectors, count or -errno; in the page cache when it returns. -EROFS without an upper. */
OBD_PUBLIC int64_t obd_image_pwrite(struct obd_image *image, const void *buf, size_t count, uint64_t offset);
/** The range, whole sectors, reads as zeros from now on. */
OBD_PUBLIC int obd_image_discard(struct obd_image *image, uint64_t offset, uint64_t count);
/** What was written before is on the disk when it returns. */
OBD_PUBLIC int obd_image_flush(struct obd_image *image);
/**
 * The writable layer is sealed and becomes the topmost read-only one; next, which is new, takes its place. Reads go on,
 * writes wait meanwhile. Between the two, unless they are NULL, file config_from is renamed to config_to: whoever opens
 * the image after a crash finds a config that fits its files. Owns next from a successful return on; after a failure
 * the image goes on as it was.
 */
OBD_PUBLIC int obd_image_snapshot(struct obd_image *image, struct obd_upper *next, const char *config_from,
				  const char *config_to, struct obd_error *err);
/**
 * The disk grows: its writable layer states the size, synced, then requests may reach there. Reads go on, writes wait
 * meanwhile. Whoever dies when, the layer opens, with either size. -EROFS without an upper, -EINVAL for what is no
 * size, -EPERM for a smaller one: what is in use at the end could not be told.
 */
OBD_PUBLIC int obd_image_grow(struct obd_image *image, uint64_t virtual_size, struct obd_error *err);
/** The next mapped range at or after offset, [*start, *end), clamped to the virtual size. 1 found, 0 none. */
OBD_PUBLIC int obd_image_next_data(const struct obd_image *image, uint64_t offset, uint64_t *start, uint64_t *end);
/**
 * Of lean layers, and an upper that is lean, an image is made that knows a part of the disk at a time, none at first.
 * This makes it the next part, which ends at *end: the disk's size when it is the last. No request is under way.
 */
OBD_PUBLIC int obd_image_advance(struct obd_image *image, uint64_t *end, struct obd_error *err);
/** What reads have mapped of the page cache, for seconds, is no memory of this process any more. */
OBD_PUBLIC void obd_image_forget(struct obd_image *image);
/** Requests that wait for missing bytes end with this errno, now and from now on. */
OBD_PUBLIC void obd_image_cancel(struct obd_image *image, int error);
/** Those that have waited for age_ms end with this errno; their number. */
OBD_PUBLIC uint32_t obd_image_expire(struct obd_image *image, uint32_t age_ms, int error);
/** How many wait, and how long the oldest has. */
OBD_PUBLIC uint32_t obd_image_parked(const struct obd_image *image, uint64_t *oldest_ms);

/* ---- the TCMU front end: one per device ---- */

struct obd_tcmu_options {
	int32_t uio_fd;	     /**< non-blocking, libtcmu's; stays libtcmu's */
	uint32_t block_size; /**< bytes: 512 or 4096 (hw_block_size) */
	uint64_t map;	     /**< address of the shared mapping (mailbox, ring, data area) */
	uint64_t map_size;
	uint32_t max_transfer;	 /**< bytes a command may carry, for VPD B0; 0 = no limit reported */
	uint32_t read_only;	 /**< 1: writes fail as write-protected, as they do when the image has no upper */
	const char *serial_path; /**< configfs wwn/vpd_unit_serial, read at each INQUIRY; NULL = none */
	const char *cfgstring;	 /**< for the vendor-specific designator of VPD 83 */
};

struct obd_tcmu_stats {
	uint64_t wakeups, commands, reads, others, rejected, notifies;
	uint64_t inflight; /**< now */
	uint64_t writes;
	uint64_t read_errors, change_errors; /**< of the reads; of writes, discards and flushes */
};

/** Commands that are submitted to the image, by what they do. */
enum obd_tcmu_kind {
	OBD_TCMU_READ = 0,
	OBD_TCMU_WRITE = 1,
	OBD_TCMU_DISCARD = 2,
	OBD_TCMU_FLUSH = 3,
	OBD_TCMU_KINDS = 4
};

/** A command that was taken and is not answered. */
struct obd_tcmu_pending {
	uint64_t age_ns;
	uint64_t offset, count; /**< bytes */
	uint32_t kind;		/**< enum obd_tcmu_kind */
	uint32_t reserved;
};

struct obd_tcmu;
OBD_PUBLIC int obd_tcmu_create(struct obd_image *image, const struct obd_tcmu_options *options, struct obd_tcmu **ret,
			       struct obd_error *err);
/** Serves until obd_tcmu_stop (0) or the device is gone (-ENODEV). Returns when nothing is in flight any more. */
OBD_PUBLIC int obd_tcmu_run(struct obd_tcmu *tcmu);
OBD_PUBLIC void obd_tcmu_stop(struct obd_tcmu *tcmu);
OBD_PUBLIC void obd_tcmu_stats(const struct obd_tcmu *tcmu, struct obd_tcmu_stats *ret);
/** From a command of that kind taken to it answered; -EINVAL for a kind there is not. */
OBD_PUBLIC int obd_tcmu_latency(const struct obd_tcmu *tcmu, uint32_t kind, struct obd_latency *ret);
/** Up to max commands that are not answered, in no order; their number. Takes no lock: delays nobody. */
OBD_PUBLIC uint32_t obd_tcmu_pending(const struct obd_tcmu *tcmu, struct obd_tcmu_pending *ret, uint32_t max);
OBD_PUBLIC void obd_tcmu_destroy(struct obd_tcmu *tcmu);

/* ---- task: a long call, watched and stopped from another thread ---- */

struct obd_task;
OBD_PUBLIC int obd_task_create(struct obd_task **ret);
OBD_PUBLIC void obd_task_destroy(struct obd_task *task);
/** The call ends soon, with -ECANCELED. */
OBD_PUBLIC void obd_task_stop(struct obd_task *task);
/** Bytes of input behind the call, and in all; total is 0 while nobody knows. */
OBD_PUBLIC void obd_task_progress(const struct obd_task *task, uint64_t *done, uint64_t *total);

/* ---- files written by the tools: each is complete and durable when it gets its name, or it never gets it ---- */

struct obd_output_options {
	const char *path;
	uint32_t mode;	       /**< permissions, before the umask */
	uint32_t replace;      /**< 1: takes the place of what has the name, in one step; 0: -EEXIST */
	uint32_t tar;	       /**< 1: as the one member of a tar */
	uint32_t algo;	       /**< 0: as it is; else a ZFile of 1 lz4 or 2 zstd blocks */
	uint32_t block_size;   /**< of the ZFile: a power of two, 512 .. 65536 */
	uint32_t final_header; /**< 1: the ZFile's header repeats its trailer, and a reader need not look there */
	uint32_t threads;      /**< that compress or decode; 0: one for each CPU. The bytes do not depend on it */
};

struct obd_commit_options {
	const char *uuid;	 /**< 36 characters; NULL: the null UUID */
	const char *parent_uuid; /**< 36 characters; NULL: what the lowest layer states */
	const void *message;
	uint32_t message_size; /**< bytes, at most 256 */
	uint32_t reserved;     /**< 0 */
};

/**
 * Writes what layers, the lowest first, and upper on them show together as one committed layer; a single one is
 * compacted. upper may be NULL; with one, count may be 0. All stay the caller's, and nobody may write to upper.
 * -EFBIG when it would have more segments than can be read back.
 */
OBD_PUBLIC int obd_commit(struct obd_layer **layers, uint32_t count, struct obd_upper *upper,
			  const struct obd_commit_options *options, const struct obd_output_options *output,
			  struct obd_task *task, struct obd_error *err);
/** Writes what fd, which may be a pipe, has from its beginning on. */
OBD_PUBLIC int obd_zfile_compress(int fd, const struct obd_output_options *output, struct obd_task *task,
				  struct obd_error *err);
/** Writes what is in a ZFile in blob, which stays the caller's, as it is: algo is 0. -EMEDIUMTYPE: it is no ZFile. */
OBD_PUBLIC int obd_zfile_extract(struct obd_blob *blob, const struct obd_output_options *output, struct obd_task *task,
				 struct obd_error *err);
/** Checks every block of a ZFile in blob, which stays the caller's. -ENODATA: it carries no checksums. */
OBD_PUBLIC int obd_zfile_verify(struct obd_blob *blob, uint32_t threads, struct obd_task *task, struct obd_error *err);

#endif
