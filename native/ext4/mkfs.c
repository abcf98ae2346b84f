/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ext4 of a fresh image: no journal, no checksums, nothing that depends on the clock or on chance. Layers on top
 * are small because little of it changes.
 */
#include <errno.h>
#include <string.h>

#include "../error.h"
#include "dir.h"
#include "fs.h"

enum {
	BLOCK = 4096,
	BYTES_PER_INODE = 16384,
	INODE_SIZE = 256,
	RESERVED_PERCENT = 5,
	LOST_AND_FOUND_BLOCKS = 4, /**< ready for e2fsck, which cannot take blocks where the bitmaps are in doubt */
};

static const uint8_t UUID[16] = {0xbd, 0xf7, 0xbb, 0x2e, 0xc2, 0x31, 0x43, 0xce,
				 0x87, 0xc2, 0x29, 0x97, 0x92, 0x45, 0x8e, 0xf5};

static void parameters(uint64_t size, struct ext2_super_block *ret)
{
	const uint64_t blocks = size / BLOCK, inodes = size / BYTES_PER_INODE;

	memset(ret, 0, sizeof(*ret));
	ret->s_rev_level = EXT2_DYNAMIC_REV;
	ret->s_log_block_size = 2;
	ret->s_log_cluster_size = 2;
	ret->s_inode_size = INODE_SIZE;
	ret->s_inodes_count = inodes > UINT32_MAX ? UINT32_MAX : (uint32_t)inodes;
	ext2fs_blocks_count_set(ret, blocks);
	ext2fs_r_blocks_count_set(ret, blocks * RESERVED_PERCENT / 100);
	ret->s_backup_bgs[0] = 1;
	ret->s_backup_bgs[1] = UINT32_MAX; // the last one
	ret->s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR | EXT2_FEATURE_COMPAT_RESIZE_INODE |
				EXT2_FEATURE_COMPAT_DIR_INDEX | EXT4_FEATURE_COMPAT_SPARSE_SUPER2;
	ret->s_feature_incompat = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS |
				  EXT4_FEATURE_INCOMPAT_64BIT | EXT4_FEATURE_INCOMPAT_FLEX_BG;
	ret->s_feature_ro_compat = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
				   EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
				   EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE;
}

static void identity(struct ext2_super_block *super)
{
	memcpy(super->s_uuid, UUID, sizeof(UUID));
	super->s_def_hash_version = EXT2_HASH_HALF_MD4;
	super->s_max_mnt_count = -1;
	super->s_mkfs_time = 0;
	super->s_lastcheck = 0;
	super->s_kbytes_written = 1;
}

static int make_directory(struct obd_fs *fs, struct obd_inode *inode, ext2_ino_t parent, uint16_t mode)
{
	inode->raw.i_mode = (uint16_t)(LINUX_S_IFDIR | mode);
	return obd_dir_init(fs, inode, parent);
}

static int make_root(struct obd_fs *fs)
{
	struct obd_inode inode = {.ino = EXT2_ROOT_INO};

	inode.raw.i_extra_isize = sizeof(inode.raw) - EXT2_GOOD_OLD_INODE_SIZE;
	ext2fs_inode_alloc_stats2(fs->e2, EXT2_ROOT_INO, +1, 1);
	return make_directory(fs, &inode, EXT2_ROOT_INO, 0755);
}

static int make_lost_and_found(struct obd_fs *fs)
{
	static const char name[] = "lost+found";
	struct obd_inode root, inode;
	uint32_t block;
	int r;

	r = obd_inode_read(fs, EXT2_ROOT_INO, &root);
	if (!r)
		r = obd_inode_take(fs, LINUX_S_IFDIR, &inode);
	if (!r)
		r = make_directory(fs, &inode, EXT2_ROOT_INO, 0700);
	for (int i = 1; !r && i < LOST_AND_FOUND_BLOCKS; i++)
		r = obd_dir_append_empty(fs, &inode, &block);
	if (!r)
		r = obd_dir_add(fs, &root, name, sizeof(name) - 1, inode.ino, EXT2_FT_DIR);
	if (!r)
		r = obd_dir_count_child(fs, &root, +1);
	return r;
}

/** Everything but root and lost+found: what libext2fs makes. */
static errcode_t make_frame(ext2_filsys e2)
{
	errcode_t code = ext2fs_allocate_tables(e2);

	for (ext2_ino_t ino = EXT2_ROOT_INO + 1; ino < EXT2_FIRST_INODE(e2->super); ino++)
		ext2fs_inode_alloc_stats2(e2, ino, +1, 0);
	ext2fs_inode_alloc_stats2(e2, EXT2_BAD_INO, +1, 0);
	if (!code)
		code = ext2fs_update_bb_inode(e2, NULL);
	if (!code && ext2fs_has_feature_resize_inode(e2->super))
		code = ext2fs_create_resize_inode(e2);
	return code;
}

static int make(struct obd_fs *fs)
{
	errcode_t code;
	int r;

	identity(fs->e2->super);
	code = make_frame(fs->e2);
	if (code)
		return obd_fs_fail(fs, code, "mkfs");
	r = make_root(fs);
	if (!r)
		r = make_lost_and_found(fs);
	return r ? r : obd_fs_flush(fs);
}

int obd_ext4_mkfs(const struct obd_ext4_disk *disk, struct obd_error *err)
{
	struct ext2_super_block super;
	struct obd_pages *pages = NULL;
	char name[OBD_IO_NAME];
	struct obd_fs *fs;
	ext2_filsys e2;
	errcode_t code;
	int r;

	if (!disk->size)
		return obd_fail(err, EINVAL, "mkfs: the disk's size is zero");
	r = disk->discard(disk->handle, 0, disk->size);
	if (r)
		return obd_fail(err, -r, "mkfs: discarding the disk: %s", strerror(-r));
	obd_fs_texts();
	if (obd_pages_create(disk, &pages))
		return obd_fail(err, ENOMEM, "no memory");
	obd_io_name(pages, name);
	parameters(disk->size, &super);
	code = ext2fs_initialize(name, EXT2_FLAG_64BITS, &super, &obd_io_manager, &e2);
	if (code) {
		r = obd_fail(err, obd_fs_errno(code), "mkfs: a disk of %llu bytes: %s", (unsigned long long)disk->size,
			     error_message(code));
		obd_pages_destroy(pages);
		return r;
	}
	r = obd_fs_wrap(e2, pages, disk, &fs, err);
	if (r) {
		ext2fs_free(e2);
		obd_pages_destroy(pages);
		return r;
	}
	r = make(fs);
	obd_fs_destroy(fs);
	return r;
}
