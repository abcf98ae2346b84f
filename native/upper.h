/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_UPPER_H
#define OBD_UPPER_H
#include <pthread.h>

#include "layer.h"
#include "upper_index.h"

/*
 * A writable layer: where it lies, what it has, and how it changes.
 *
 *     append-only    data: header, then sectors in the order they were written; index: header, then an entry a write
 *     sparse         data: header, then the disk itself, holes where nothing was written; no index
 *
 * Who reads looks into the map under map_lock (obd_upper_find does) and reads the data file without a lock.
 */
struct obd_upper {
	struct obd_layer layer; /**< the data file as read.c sees any layer: raw, from offset 0 */
	int data_fd, index_fd;	/**< for writing; -1: read-only, or no index */
	char *index_path;
	bool sparse, read_only;
	char uuid[40], parent_uuid[40];
	uint64_t virtual_size; /**< bytes; 0 = inherits from below */

	pthread_rwlock_t map_lock; /**< guards map */
	struct obd_upper_index map;

	uint64_t data_end;  /**< bytes: where the next write goes; append-only */
	uint64_t index_end; /**< bytes: where the next entry goes; append-only */
	uint64_t sequence;  /**< of the last checkpoint, 0 when there is none */
	uint64_t confirmed; /**< index_end of that checkpoint */
	uint64_t dropped;   /**< entries of the index file that were not believed */
};

/** As obd_upper_index_find, under the lock. */
unsigned obd_upper_find(struct obd_upper *upper, uint64_t sector, uint64_t end, uint64_t *keys, uint64_t *maps,
			unsigned count);
/** Reads the data file: count bytes at offset, which is 512 times an msector. 0 or -errno. */
int obd_upper_pread(const struct obd_upper *upper, void *buf, size_t count, uint64_t offset);

/* upper_load.c: what the files say, into a fresh struct; neither file is changed */
struct obd_upper_found {
	uint64_t data_size, index_size; /**< bytes of the files as they are */
	bool cut;			/**< what no flush has confirmed was left out */
};
int obd_upper_load(struct obd_upper *upper, struct obd_upper_found *found, struct obd_error *err);

#endif
