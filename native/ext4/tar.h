/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_TAR_H
#define OBD_EXT4_TAR_H
#include <stdbool.h>
#include <sys/types.h>
#include "input.h"
#include "pax.h"
#include "sparse.h"

/*
 * The entries of an archive, one after the other: v7, ustar, GNU and pax, as they come. Everything in an archive is
 * hostile. A failure has its text in the tar's obd_error.
 */
enum obd_tar_type {
	OBD_TAR_FILE = '0',
	OBD_TAR_HARD_LINK = '1',
	OBD_TAR_SYMLINK = '2',
	OBD_TAR_CHAR = '3',
	OBD_TAR_BLOCK = '4',
	OBD_TAR_DIR = '5',
	OBD_TAR_FIFO = '6',
};

/** Valid until the next entry is asked for. */
struct obd_tar_entry {
	uint64_t offset; /**< where it begins in the archive, extension headers included */
	enum obd_tar_type type;
	const char *path, *link; /**< as they are in the archive */
	uint32_t mode;		 /**< permissions, 12 bits */
	uint32_t uid, gid;
	uint32_t major, minor;
	struct obd_time mtime, atime;	 /**< atime.set only if the archive has one */
	uint64_t size;			 /**< of the file */
	const struct obd_sparse *sparse; /**< where its data belongs; NULL: all of it is there */
	const struct obd_pax_xattr *xattrs;
	size_t xattr_count;
};

struct obd_tar;
int obd_tar_create(struct obd_input *input, struct obd_error *err, struct obd_tar **ret);
void obd_tar_destroy(struct obd_tar *tar);
/** 1: *ret is the next entry; 0: the archive ends. */
int obd_tar_next(struct obd_tar *tar, const struct obd_tar_entry **ret);
/** The entry's next stored bytes, max at most: their count, 0 when it has no more. */
int64_t obd_tar_data(struct obd_tar *tar, size_t max, const uint8_t **data);

#endif
