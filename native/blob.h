/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_BLOB_H
#define OBD_BLOB_H
#include <stdbool.h>
#include "obd.h"

struct iovec;

/*
 * A blob is where the planes meet: a file descriptor and a presence map. A local layer file is wholly present and has
 * no map; the map of a lazily fetched one is its cachefile's, which other blobs may share.
 */
struct obd_blob {
	int fd;
	int direct_fd;		     /**< -1 when not asked for or not possible */
	uint64_t size;		     /**< bytes */
	bool nowait;		     /**< preadv2(RWF_NOWAIT) works on fd */
	bool memory;		     /**< the file lives in memory (tmpfs, ramfs): a plain read never waits */
	char *path;		     /**< for messages */
	struct obd_pages *pages;     /**< NULL: not read in place. The cachefile's, if there is one */
	struct obd_cachefile *cache; /**< NULL: a local file. Else fd is the cachefile's, and nowait and memory too */
	uint64_t deadline; /**< atomic; of a cached blob, monotonic ns: when obd_blob_pread gives up waiting */
	bool cancelled;	   /**< atomic: obd_blob_pread shall not wait any more */
};

/** Blocking read of exactly count bytes. 0 or -errno; -EIO when the file is shorter than it was at open. */
int obd_blob_pread(const struct obd_blob *blob, void *buf, size_t count, uint64_t offset);
/** How long obd_blob_pread of a cached blob waits from now on for what is missing. Any thread may say so. */
void obd_blob_wait(struct obd_blob *blob, int timeout_ms);
/** Blocking read of count bytes into the list, which it uses up. Fewer bytes at the file's end, or -errno. */
int64_t obd_preadv_all(int fd, struct iovec *list, int used, uint64_t count, uint64_t offset);
/** nowait and memory of struct obd_blob for fd. */
void obd_blob_probe(int fd, bool *nowait, bool *memory);

#endif
