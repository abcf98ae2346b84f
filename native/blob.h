/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_BLOB_H
#define OBD_BLOB_H
#include <stdbool.h>
#include "obd.h"

/*
 * A blob is where the planes meet: a file descriptor and a presence map. A local layer file is wholly present and has
 * no map; a lazily fetched one gets its map with the registry.
 */
struct obd_blob {
	int fd;
	int direct_fd;		 /**< -1 when not asked for or not possible */
	uint64_t size;		 /**< bytes */
	bool nowait;		 /**< preadv2(RWF_NOWAIT) works on fd */
	bool memory;		 /**< the file lives in memory (tmpfs, ramfs): a plain read never waits */
	char *path;		 /**< for messages */
	struct obd_pages *pages; /**< NULL: not read in place */
};

/** Blocking read of exactly count bytes. 0 or -errno; -EIO when the file is shorter than it was at open. */
int obd_blob_pread(const struct obd_blob *blob, void *buf, size_t count, uint64_t offset);

#endif
