/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_FILE_H
#define OBD_EXT4_FILE_H
#include "fs.h"

/** Blocks of a file that lie together. */
struct obd_run {
	uint64_t logical; /**< first block, in the file */
	blk64_t place;
	uint32_t count;
};

/** The content of a new regular file, written front to back. All zeros is a file without blocks. */
struct obd_file {
	struct obd_fs *fs;
	struct obd_run *runs;
	size_t count, capacity;
	size_t at;	   /**< the run that position is in, or comes next */
	uint64_t position; /**< bytes: what lies before is settled */
	uint64_t blocks;   /**< of all runs */
};

/** Takes blocks for bytes [offset, offset + count), which lies behind all that were reserved before. */
int obd_file_reserve(struct obd_file *file, uint64_t offset, uint64_t count);
/** Goes forward to offset; what lies between and has blocks becomes zeros. */
int obd_file_seek(struct obd_file *file, uint64_t offset);
/** Writes at the position; blocks are reserved. */
int obd_file_write(struct obd_file *file, const void *data, size_t count);
/** Gives all to inode, whose size becomes size. On failure nothing is the inode's. */
int obd_file_finish(struct obd_file *file, struct obd_inode *inode, uint64_t size);
/** Frees memory; and the blocks, unless finish has given them away. */
void obd_file_deinit(struct obd_file *file);

#endif
