/* SPDX-License-Identifier: Apache-2.0 */
/* Which file systems we touch, and how one is opened and left. */
#include "fs.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../error.h"

/* What we understand; any other feature could be broken by writing. Bits of ext4's superblock. */
static const uint32_t INCOMPAT_KNOWN = EXT2_FEATURE_INCOMPAT_FILETYPE | EXT2_FEATURE_INCOMPAT_META_BG |
				       EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT |
				       EXT4_FEATURE_INCOMPAT_FLEX_BG | EXT4_FEATURE_INCOMPAT_CSUM_SEED |
				       EXT4_FEATURE_INCOMPAT_LARGEDIR;
static const uint32_t RO_COMPAT_KNOWN = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
					EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM |
					EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE |
					EXT4_FEATURE_RO_COMPAT_METADATA_CSUM;
static const uint32_t ORPHAN_PRESENT = 0x10000; // EXT4_FEATURE_RO_COMPAT_ORPHAN_PRESENT, since e2fsprogs 1.47

// Bit arrays find free runs fastest and have one size, whatever the disk looks like; a PiB would be too much of it.
static const uint64_t BIT_ARRAY_MAX = UINT64_C(1) << 40;

void obd_fs_texts(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, initialize_ext2_error_table);
}

int obd_fs_errno(errcode_t code)
{
	switch (code) {
	case EXT2_ET_BLOCK_ALLOC_FAIL:
	case EXT2_ET_INODE_ALLOC_FAIL:
	case EXT2_ET_DIR_NO_SPACE:
	case EXT2_ET_EA_NO_SPACE:
	case EXT2_ET_CANT_INSERT_EXTENT:
		return ENOSPC;
	case EXT2_ET_NO_MEMORY:
		return ENOMEM;
	case EXT2_ET_UNSUPP_FEATURE:
	case EXT2_ET_RO_UNSUPP_FEATURE:
		return EOPNOTSUPP;
	case EXT2_ET_INVALID_ARGUMENT:
	case EXT2_ET_TOOSMALL:
	case EXT2_ET_BAD_MAGIC:
		return EINVAL;
	default:
		return code > 0 && code < 4096 ? (int)code : EUCLEAN;
	}
}

int obd_fs_fail(struct obd_fs *fs, errcode_t code, const char *format, ...)
{
	const char *cause = obd_pages_cause(fs->pages);
	char what[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	return obd_fail(fs->err, obd_fs_errno(code), "%s: %s", what, cause[0] ? cause : error_message(code));
}

int obd_fs_corrupt(struct obd_fs *fs, const char *format, ...)
{
	char what[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	return obd_fail(fs->err, EUCLEAN, "the file system is damaged: %s", what);
}

static int refuse(struct obd_error *err, const char *why)
{
	return obd_fail(err, EOPNOTSUPP, "%s", why);
}

static int check(const struct ext2_super_block *super, const struct obd_ext4_disk *disk, struct obd_error *err)
{
	const uint32_t incompat = super->s_feature_incompat, ro_compat = super->s_feature_ro_compat;
	const uint64_t blocks = ext2fs_blocks_count((struct ext2_super_block *)super);

	if (incompat & EXT3_FEATURE_INCOMPAT_RECOVER || ro_compat & ORPHAN_PRESENT || super->s_last_orphan)
		return refuse(err, "the file system was not unmounted: mount it once, or run e2fsck");
	if (super->s_state & EXT2_ERROR_FS)
		return refuse(err, "the file system is marked as having errors: run e2fsck");
	if (!(incompat & EXT3_FEATURE_INCOMPAT_EXTENTS))
		return refuse(err, "the file system has no extents: it is ext2 or ext3, and ext4 is needed");
	if (incompat & ~INCOMPAT_KNOWN || ro_compat & ~RO_COMPAT_KNOWN)
		return obd_fail(err, EOPNOTSUPP,
				"the file system has features that cannot be written here: "
				"incompatible 0x%x, read-only compatible 0x%x",
				incompat & ~INCOMPAT_KNOWN, ro_compat & ~RO_COMPAT_KNOWN);
	if (blocks > disk->size >> (10 + super->s_log_block_size))
		return obd_fail(err, EINVAL, "the file system has %llu blocks of %u bytes, but the disk %llu bytes",
				(unsigned long long)blocks, 1024u << super->s_log_block_size,
				(unsigned long long)disk->size);
	return 0;
}

int obd_fs_wrap(ext2_filsys e2, struct obd_pages *pages, const struct obd_ext4_disk *disk, struct obd_fs **ret,
		struct obd_error *err)
{
	struct obd_fs *fs = calloc(1, sizeof(*fs));

	if (!fs)
		return obd_fail(err, ENOMEM, "no memory");
	fs->scratch = malloc((size_t)OBD_SCRATCH_BLOCKS * e2->blocksize);
	if (!fs->scratch) {
		free(fs);
		return obd_fail(err, ENOMEM, "no memory");
	}
	fs->e2 = e2;
	fs->pages = pages;
	fs->disk = disk;
	fs->err = err;
	fs->block_size = e2->blocksize;
	// libext2fs would ask the clock
	e2->now = e2->super->s_wtime ? e2->super->s_wtime : 1;
	e2->priv_data = fs;
	ext2fs_set_alloc_block_callback(e2, obd_blocks_one, NULL);
	*ret = fs;
	return 0;
}

/** The original forgets the superblock's counts; those of the groups are right, and what the kernel believes. */
static void count_free(ext2_filsys e2)
{
	uint64_t blocks = 0, inodes = 0;

	for (dgrp_t group = 0; group < e2->group_desc_count; group++) {
		blocks += ext2fs_bg_free_blocks_count(e2, group);
		inodes += ext2fs_bg_free_inodes_count(e2, group);
	}
	if (blocks == ext2fs_free_blocks_count(e2->super) && inodes == e2->super->s_free_inodes_count)
		return;
	ext2fs_free_blocks_count_set(e2->super, blocks);
	e2->super->s_free_inodes_count = (uint32_t)inodes;
	ext2fs_mark_super_dirty(e2);
}

static int open_e2(const struct obd_ext4_disk *disk, struct obd_pages *pages, ext2_filsys *ret, struct obd_error *err)
{
	char name[OBD_IO_NAME];
	errcode_t code;
	int r;

	obd_io_name(pages, name);
	code = ext2fs_open2(name, NULL, EXT2_FLAG_RW | EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, &obd_io_manager,
			    ret);
	if (code == EXT2_ET_BAD_MAGIC || code == EXT2_ET_SHORT_READ)
		return obd_fail(err, EINVAL,
				"there is no ext4 on the disk (no magic at offset 1080); is --mkfs missing?");
	if (code)
		return obd_fail(err, obd_fs_errno(code), "the file system cannot be opened: %s",
				obd_pages_cause(pages)[0] ? obd_pages_cause(pages) : error_message(code));
	r = check((*ret)->super, disk, err);
	if (!r) {
		if (ext2fs_blocks_count((*ret)->super) < BIT_ARRAY_MAX / (*ret)->blocksize)
			(*ret)->default_bitmap_type = EXT2FS_BMAP64_BITARRAY;
		code = ext2fs_read_bitmaps(*ret);
		if (code)
			r = obd_fail(err, obd_fs_errno(code), "the file system's bitmaps cannot be read: %s",
				     obd_pages_cause(pages)[0] ? obd_pages_cause(pages) : error_message(code));
	}
	if (r)
		ext2fs_free(*ret);
	else
		count_free(*ret);
	return r;
}

int obd_fs_open(const struct obd_ext4_disk *disk, struct obd_fs **ret, struct obd_error *err)
{
	struct obd_pages *pages;
	ext2_filsys e2;
	int r;

	obd_fs_texts();
	if (obd_pages_create(disk, &pages))
		return obd_fail(err, ENOMEM, "no memory");
	r = open_e2(disk, pages, &e2, err);
	if (r)
		goto no_file_system;
	r = obd_fs_wrap(e2, pages, disk, ret, err);
	if (!r)
		return 0;
	ext2fs_free(e2);
no_file_system:
	obd_pages_destroy(pages);
	return r;
}

int obd_fs_flush(struct obd_fs *fs)
{
	errcode_t code = 0;
	int r;

	obd_pages_compare(fs->pages);
	if (fs->e2->flags & (EXT2_FLAG_DIRTY | EXT2_FLAG_BB_DIRTY | EXT2_FLAG_IB_DIRTY))
		code = ext2fs_flush2(fs->e2, EXT2_FLAG_FLUSH_NO_SYNC);
	if (code)
		return obd_fs_fail(fs, code, "writing the bitmaps and descriptors");
	r = obd_pages_write_back(fs->pages);
	if (r)
		return obd_fs_fail(fs, -r, "writing the metadata");
	r = fs->disk->flush(fs->disk->handle);
	if (r)
		return obd_fail(fs->err, -r, "flushing the disk: %s", strerror(-r));
	return 0;
}

void obd_fs_destroy(struct obd_fs *fs)
{
	if (!fs)
		return;
	ext2fs_free(fs->e2);
	obd_pages_destroy(fs->pages);
	free(fs->scratch);
	free(fs);
}
