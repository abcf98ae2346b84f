/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_FS_H
#define OBD_EXT4_FS_H
#include <stdbool.h>
#include "io.h"

/*
 * One open file system: libext2fs's handle, and what is ours beside it. Functions return 0 (or a count) or -errno and
 * leave the reason in fs->err. Times never come from a clock: the same input gives the same bytes.
 */
struct obd_fs {
	ext2_filsys e2;
	struct obd_pages *pages;
	const struct obd_ext4_disk *disk;
	struct obd_error *err;
	uint32_t block_size;
	blk64_t block_goal; /**< where the search for free blocks goes on: what is written together lies together */
	blk64_t area_at, area_end; /**< the same for blocks of metadata */
	ext2_ino_t inode_goal;	   /**< the same for inodes: the last one taken */
	uint8_t *scratch;	   /**< OBD_SCRATCH_BLOCKS blocks for whoever runs, see obd_fs_scratch */
};

/** Who uses which block of scratch: a caller and what it calls never the same. */
enum obd_scratch {
	OBD_SCRATCH_DIR,			   /**< dir.c: the block looked at */
	OBD_SCRATCH_SPLIT,			   /**< htree.c: the two halves of a leaf */
	OBD_SCRATCH_INDEX = OBD_SCRATCH_SPLIT + 2, /**< htree.c: the way down, a block a level */
	OBD_SCRATCH_NODE = OBD_SCRATCH_INDEX + 4,  /**< htree.c: a new index block */
	OBD_SCRATCH_WALK,  /**< whoever goes through a directory's entries while it changes others */
	OBD_SCRATCH_INODE, /**< inode.c: an inode with all that follows it */
	OBD_SCRATCH_BLOCKS,
};

static inline uint8_t *obd_fs_scratch(const struct obd_fs *fs, unsigned which)
{
	return fs->scratch + (size_t)which * fs->block_size;
}

/** An inode in memory: the part of it that we understand. */
struct obd_inode {
	ext2_ino_t ino;
	struct ext2_inode_large raw;
};

int obd_fs_open(const struct obd_ext4_disk *disk, struct obd_fs **ret, struct obd_error *err);
/** Wraps a handle of libext2fs that mkfs.c made; owns pages and, from a successful return on, e2. */
int obd_fs_wrap(ext2_filsys e2, struct obd_pages *pages, const struct obd_ext4_disk *disk, struct obd_fs **ret,
		struct obd_error *err);
/** Everything is on the disk, and durable. */
int obd_fs_flush(struct obd_fs *fs);
/** What has not been flushed is lost. */
void obd_fs_destroy(struct obd_fs *fs);

/** Lets error_message know libext2fs's errors; whoever opens or makes a file system calls it first. */
void obd_fs_texts(void);
/** errno for an error of libext2fs, positive. */
int obd_fs_errno(errcode_t code);
/** Says that libext2fs failed with code while doing what; returns -errno. */
__attribute__((format(printf, 3, 4))) int obd_fs_fail(struct obd_fs *fs, errcode_t code, const char *format, ...);
/** The disk holds what no ext4 has; returns -EUCLEAN. */
__attribute__((format(printf, 2, 3))) int obd_fs_corrupt(struct obd_fs *fs, const char *format, ...);

/* ---- inodes: inode.c ---- */

int obd_inode_read(struct obd_fs *fs, ext2_ino_t ino, struct obd_inode *ret);
int obd_inode_write(struct obd_fs *fs, struct obd_inode *inode);
/** Takes a number for a new inode; nothing is written before obd_inode_write_new. */
int obd_inode_take(struct obd_fs *fs, uint16_t mode, struct obd_inode *ret);
/** Writes all of the inode, whatever was on its place. */
int obd_inode_write_new(struct obd_fs *fs, struct obd_inode *inode);
/** Gives back the number of an inode that nothing leads to and that has no blocks. */
void obd_inode_untake(struct obd_fs *fs, struct obd_inode *inode);
/** One link less; without any the inode and its blocks are free. A directory must be empty. */
int obd_inode_unlink(struct obd_fs *fs, struct obd_inode *inode);
/** Frees the inode and all that is its own. */
int obd_inode_free(struct obd_fs *fs, struct obd_inode *inode);

static inline struct ext2_inode *obd_inode_small(struct obd_inode *inode)
{
	return (struct ext2_inode *)(void *)&inode->raw;
}
static inline bool obd_inode_is_dir(const struct obd_inode *inode)
{
	return LINUX_S_ISDIR(inode->raw.i_mode);
}
uint64_t obd_inode_size(const struct obd_inode *inode);
int obd_inode_set_size(struct obd_fs *fs, struct obd_inode *inode, uint64_t size);
void obd_inode_set_owner(struct obd_inode *inode, uint32_t uid, uint32_t gid);
/** atime and mtime in seconds and nanoseconds; ctime becomes mtime. What ext4 cannot say becomes what is nearest. */
void obd_inode_set_times(struct obd_fs *fs, struct obd_inode *inode, int64_t atime_s, uint32_t atime_ns,
			 int64_t mtime_s, uint32_t mtime_ns);
/** The tag of mode in a directory entry. */
uint8_t obd_inode_type(uint16_t mode);

/* ---- blocks: blocks.c ---- */

/** Takes the next free run, of want blocks at most. */
int obd_blocks_take(struct obd_fs *fs, uint64_t want, blk64_t *start, uint32_t *count);
void obd_blocks_give(struct obd_fs *fs, blk64_t start, uint32_t count);
/** For libext2fs's own needs (extent nodes, attributes): from the same place. */
errcode_t obd_blocks_one(ext2_filsys e2, blk64_t goal, blk64_t *ret);

#endif
