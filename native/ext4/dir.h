/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_DIR_H
#define OBD_EXT4_DIR_H
#include "fs.h"

/*
 * Directories, linear and indexed. A directory that outgrows its first block gets an index, as with the kernel:
 * libext2fs would search and add in linear time, and drop the index.
 */

/** Where an entry is. */
struct obd_entry {
	ext2_ino_t ino;
	uint8_t type;	 /**< EXT2_FT_* */
	uint32_t block;	 /**< of the directory */
	uint32_t offset; /**< in that block */
};

/** Makes a taken inode an empty directory and writes it; its mode and owner are set. */
int obd_dir_init(struct obd_fs *fs, struct obd_inode *dir, ext2_ino_t parent);
/** 1 found, 0 not there. */
int obd_dir_find(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, struct obd_entry *ret);
/** Adds a name that is not there yet. */
int obd_dir_add(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, ext2_ino_t ino,
		uint8_t type);
/** Removes what obd_dir_find found; nothing else has changed the directory since. */
int obd_dir_remove(struct obd_fs *fs, struct obd_inode *dir, const struct obd_entry *entry);
/** A child directory came (+1) or went (-1). */
int obd_dir_count_child(struct obd_fs *fs, struct obd_inode *dir, int change);

/** Goes through the entries, "." and ".." left out, in the order they are stored. Start with all zeros. */
struct obd_dir_position {
	uint32_t block, offset;
};
/** 1: *entry and name (of *length bytes, valid until the next call) filled; 0: no more. */
int obd_dir_next(struct obd_fs *fs, struct obd_inode *dir, struct obd_dir_position *at, struct obd_entry *entry,
		 const char **name, size_t *length);

/** What ".." says. */
int obd_dir_parent(struct obd_fs *fs, struct obd_inode *dir, ext2_ino_t *ret);

/** One more block without entries, at the end. */
int obd_dir_append_empty(struct obd_fs *fs, struct obd_inode *dir, uint32_t *block);

/* ---- what htree.c shares with dir.c ---- */

/** Entries of a block end here: a checksum may follow. */
uint32_t obd_dir_room(const struct obd_fs *fs);
uint32_t obd_dir_blocks(const struct obd_fs *fs, const struct obd_inode *dir);
int obd_dir_read(struct obd_fs *fs, struct obd_inode *dir, uint32_t block, uint8_t *buffer);
int obd_dir_write(struct obd_fs *fs, struct obd_inode *dir, uint32_t block, uint8_t *buffer);
/** A block without entries, in memory. */
int obd_dir_block_init(struct obd_fs *fs, uint8_t *buffer);
/** The entry at offset of a block in memory, checked; *length is what it takes up. */
int obd_dir_entry(struct obd_fs *fs, const struct obd_inode *dir, const uint8_t *buffer, uint32_t offset,
		  struct ext2_dir_entry **ret, uint32_t *length);
/** The name in a block in memory; 1 found. */
int obd_dir_find_in(struct obd_fs *fs, const struct obd_inode *dir, uint8_t *buffer, const char *name, size_t length,
		    struct obd_entry *ret);
/** Adds to a block in memory; 1 added, 0 no room. */
int obd_dir_add_in(struct obd_fs *fs, const struct obd_inode *dir, uint8_t *buffer, const char *name, size_t length,
		   ext2_ino_t ino, uint8_t type);
int obd_dir_set_length(struct obd_fs *fs, struct ext2_dir_entry *entry, uint32_t length);
static inline uint32_t obd_dir_need(size_t name)
{
	return (uint32_t)(8 + (name + 3) / 4 * 4);
}

/* ---- indexed directories: htree.c ---- */

bool obd_htree_used(const struct obd_fs *fs, const struct obd_inode *dir);
int obd_htree_find(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, struct obd_entry *ret);
int obd_htree_add(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, ext2_ino_t ino,
		  uint8_t type);
/**
 * Takes away an index of one level that does not know all blocks; without it they are all read. The original makes its
 * lost+found so, and e2fsck does not like it.
 */
int obd_htree_mend(struct obd_fs *fs, struct obd_inode *dir);
/** Gives a directory of one full block, which is in buffer, an index. */
int obd_htree_make(struct obd_fs *fs, struct obd_inode *dir, uint8_t *buffer);

#endif
