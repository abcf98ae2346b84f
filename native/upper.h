/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_UPPER_H
#define OBD_UPPER_H
#include <pthread.h>
#include <sys/uio.h>

#include "layer.h"
#include "task.h"
#include "upper_checkpoint.h"
#include "upper_index.h"

/*
 * A writable layer: where it lies, what it has, and how it changes.
 *
 *     append-only    data: header, then sectors in the order they were written; index: header, then an entry a write
 *     sparse         data: header, then the disk itself, holes where nothing was written; no index
 *
 * A write of the append-only kind takes a place at the end of the data file, fills it, then appends its entry to the
 * index file and puts it into the map. Only then is it complete: so a process that is killed loses nothing, for the
 * kernel has both files' pages. A flush makes it last:
 *
 *     sync data  ->  write a checkpoint into the index file's header  ->  sync index
 *
 * What lies behind the last checkpoint is not believed after a power cut (upper_load.c): entries may have reached the
 * disk and their data not.
 *
 * Locks, in the order they are taken:
 *
 *     flush_lock    one flush at a time. Held across syncs: who waits for it wants the same, and mostly finds it done
 *     append_lock   the ends of both files, the order of changes, garbage. Held while an entry goes to the page cache
 *     map_lock      the map. Readers share it for one search; a writer has it for one change
 *     timer_lock    the thread that flushes when nobody asks for it; nothing is taken under it
 */
struct obd_upper {
	struct obd_layer layer; /**< the data file as read.c sees any layer: raw, from offset 0 */
	int data_fd, index_fd;	/**< for writing; -1: read-only, or no index */
	char *index_path;
	bool sparse, read_only;
	bool lean; /**< the map stays empty: obd_feed reads what it would have */
	char uuid[40], parent_uuid[40];
	uint64_t virtual_size; /**< atomic, bytes; 0 = inherits from below */
	uint64_t unit;	       /**< bytes: what a file system allocates at once; sparse */
	uint64_t dropped;      /**< entries of the index file that were not believed */
	uint64_t believed;     /**< bytes of the index file: entries in front of it are looked at */
	uint64_t data_size;    /**< bytes of the data file when it was opened */

	pthread_rwlock_t map_lock; /**< guards map */
	struct obd_upper_index map;

	pthread_mutex_t append_lock; /**< guards the next eight */
	uint64_t data_end;	     /**< bytes: where the next write goes */
	uint64_t data_used;	     /**< bytes: end of the data that entries lead to */
	uint64_t index_end;	     /**< bytes: where the next entry goes */
	uint64_t index_padded;	     /**< bytes: up to here the file is filled with padding entries */
	uint64_t compact_at;	     /**< entries: with fewer it is not tried again */
	struct obd_upper_run *garbage;
	size_t garbage_count;
	uint64_t garbage_sectors; /**< since garbage was last given back */

	uint64_t changes; /**< atomic: completed changes */
	int failed;	  /**< atomic: errno of a flush that failed; nothing is written any more */

	pthread_mutex_t flush_lock;	    /**< guards the next six */
	uint64_t flushed;		    /**< changes that the last flush covered */
	uint64_t sequence;		    /**< of the last checkpoint, 0 when there is none */
	uint64_t confirmed, confirmed_data; /**< its index_end and data_end */
	uint8_t boot[16];
	struct obd_upper_run *flushed_garbage;

	/** Returns when no reader is left that has looked into the map before; NULL: there are none. */
	void (*readers_gone)(void *readers);
	void *readers;

	bool dirty; /**< atomic: changed since the last flush began */
	pthread_mutex_t timer_lock;
	pthread_cond_t timer_wake;
	pthread_t timer;
	bool timer_runs, timer_joinable, timer_stop;
};

/** A run of the data file that nobody can reach any more. */
struct obd_upper_run {
	uint64_t sector, sectors;
};

/** One write: whole sectors from an iovec that holds at least as much behind skip bytes. */
struct obd_upper_write {
	uint64_t sector, sectors;
	const struct iovec *iov;
	size_t skip;
};

enum { OBD_UPPER_WRITES = 16 };

/** As obd_upper_index_find, under the lock. */
unsigned obd_upper_find(struct obd_upper *upper, uint64_t sector, uint64_t end, uint64_t *keys, uint64_t *maps,
			unsigned count);
/** Reads the data file: count bytes at offset, which is 512 times an msector. 0 or -errno. */
int obd_upper_pread(const struct obd_upper *upper, void *buf, size_t count, uint64_t offset);

/* ---- changes; all 0 or -errno, and complete when they return ---- */

/** At most OBD_UPPER_WRITES writes. With an error none of them may be relied upon, and none has harmed what was. */
int obd_upper_write(struct obd_upper *upper, const struct obd_upper_write *writes, unsigned count);
/** [sector, end) reads as zeros from now on and hides what is below. */
int obd_upper_zero(struct obd_upper *upper, uint64_t sector, uint64_t end);
/** Whether every change that is complete is on the disk already. */
bool obd_upper_is_flushed(const struct obd_upper *upper);
/** The disk is full: flushes, if that gives space back. true: it did. */
bool obd_upper_reclaim(struct obd_upper *upper);
/** Takes back what obd_upper_seal has appended: the layer is written to again. */
void obd_upper_unseal(struct obd_upper *upper);
/** Every change that was complete before is on the disk when this returns. */
int obd_upper_flush(struct obd_upper *upper);

/* upper_load.c: what the files say, into a fresh struct; neither file is changed */
struct obd_upper_found {
	uint64_t data_size, index_size; /**< bytes of the files as they are */
	bool sizes_differ;		/**< the headers state different virtual sizes */
};
int obd_upper_load(struct obd_upper *upper, struct obd_upper_found *found, struct obd_error *err);
/** 0 or -errno with err filled. */
typedef int obd_upper_entry_seen(void *opaque, uint64_t sector, uint64_t length, uint64_t map, struct obd_error *err);
/** All entries of an append-only layer's index file that are believed, in the order in which they were written. */
int obd_upper_replay(struct obd_upper *upper, obd_upper_entry_seen *seen, void *opaque, struct obd_task *task,
		     struct obd_error *err);
/** The next extent of a sparse layer's data from byte *begin of its file on: 1, 0 when there is none, or -errno. */
int obd_upper_extent(const struct obd_upper *upper, uint64_t *begin, uint64_t *end, struct obd_error *err);

/* upper_write.c */
struct obd_upper_entry {
	uint64_t sector, length, map;
};
/** Entries go into the index file and the map; append_lock is held. keep: leave room in the file for discards. */
int obd_upper_append(struct obd_upper *upper, const struct obd_upper_entry *entries, unsigned count, bool keep);
/** The sectors of writes, one after another, to offset of a file. */
int obd_upper_put(int fd, const struct obd_upper_write *writes, unsigned count, uint64_t offset);
/** A change is complete: whoever flushes from now on covers it. */
void obd_upper_changed(struct obd_upper *upper);

/* upper_sparse.c */
int obd_upper_sparse_write(struct obd_upper *upper, const struct obd_upper_write *write);
/** As if the range had never been written. -EOPNOTSUPP: only until the layer is opened again. */
int obd_upper_sparse_unset(struct obd_upper *upper, uint64_t sector, uint64_t end);

/* upper_flush.c */
/** The first flush of a session: both files end where they should, and the checkpoint says that somebody writes. */
int obd_upper_begin(struct obd_upper *upper, const struct obd_upper_found *found, struct obd_error *err);
/** The last one. */
int obd_upper_end(struct obd_upper *upper, struct obd_error *err);
/** Sees to it that what was just changed is flushed before long. */
void obd_upper_timer_kick(struct obd_upper *upper);
void obd_upper_timer_stop(struct obd_upper *upper);

/* upper_compact.c: flush_lock and append_lock are held, and the data that entries lead to is synced */
/** Whether most entries of the index file say nothing any more. */
bool obd_upper_is_long(const struct obd_upper *upper);
/** Writes the index file anew, if it can. -errno: the disk may go on having the old one, which then is wrong. */
int obd_upper_compact(struct obd_upper *upper);

/* upper_garbage.c: append_lock is held for the first */
enum { OBD_UPPER_GARBAGE = 16384 };
void obd_upper_lose(void *upper, uint64_t msector, uint64_t length);
/**
 * Gives runs back to the file system; nobody reads them any more, and a flush has confirmed that. Returns how many, now
 * the first ones of runs, are too small so far.
 */
size_t obd_upper_punch(struct obd_upper *upper, struct obd_upper_run *runs, size_t count);

#endif
