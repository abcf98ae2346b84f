/* SPDX-License-Identifier: Apache-2.0 */
#include "fs.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static int size_in_memory(const struct obd_fs *fs)
{
	const int size = EXT2_INODE_SIZE(fs->e2->super);

	return size < (int)sizeof(struct ext2_inode_large) ? size : (int)sizeof(struct ext2_inode_large);
}

int obd_inode_read(struct obd_fs *fs, ext2_ino_t ino, struct obd_inode *ret)
{
	errcode_t code;

	memset(ret, 0, sizeof(*ret));
	ret->ino = ino;
	code = ext2fs_read_inode_full(fs->e2, ino, obd_inode_small(ret), size_in_memory(fs));
	if (code)
		return obd_fs_fail(fs, code, "reading inode %u", ino);
	if (!ret->raw.i_links_count)
		return obd_fs_corrupt(fs, "inode %u is in use, but free", ino);
	return 0;
}

int obd_inode_write(struct obd_fs *fs, struct obd_inode *inode)
{
	const errcode_t code = ext2fs_write_inode_full(fs->e2, inode->ino, obd_inode_small(inode), size_in_memory(fs));

	return code ? obd_fs_fail(fs, code, "writing inode %u", inode->ino) : 0;
}

int obd_inode_take(struct obd_fs *fs, uint16_t mode, struct obd_inode *ret)
{
	errcode_t code;

	memset(ret, 0, sizeof(*ret));
	code = ext2fs_new_inode(fs->e2, fs->inode_goal, mode, fs->e2->inode_map, &ret->ino);
	if (code)
		return obd_fs_fail(fs, code, "taking an inode (%u of %u are free)", fs->e2->super->s_free_inodes_count,
				   fs->e2->super->s_inodes_count);
	ext2fs_inode_alloc_stats2(fs->e2, ret->ino, +1, LINUX_S_ISDIR(mode));
	fs->inode_goal = ret->ino;
	ret->raw.i_mode = mode;
	ret->raw.i_links_count = 1;
	if (EXT2_INODE_SIZE(fs->e2->super) > EXT2_GOOD_OLD_INODE_SIZE)
		ret->raw.i_extra_isize = sizeof(ret->raw) - EXT2_GOOD_OLD_INODE_SIZE;
	return 0;
}

static int write_whole(struct obd_fs *fs, struct obd_inode *inode)
{
	const int size = EXT2_INODE_SIZE(fs->e2->super);
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_INODE);
	errcode_t code;

	memset(buffer, 0, (size_t)size);
	memcpy(buffer, &inode->raw, (size_t)size_in_memory(fs));
	code = ext2fs_write_inode_full(fs->e2, inode->ino, (struct ext2_inode *)(void *)buffer, size);
	return code ? obd_fs_fail(fs, code, "writing inode %u", inode->ino) : 0;
}

int obd_inode_write_new(struct obd_fs *fs, struct obd_inode *inode)
{
	return write_whole(fs, inode);
}

void obd_inode_untake(struct obd_fs *fs, struct obd_inode *inode)
{
	const bool is_dir = obd_inode_is_dir(inode);

	memset(&inode->raw, 0, sizeof(inode->raw));
	write_whole(fs, inode);
	ext2fs_inode_alloc_stats2(fs->e2, inode->ino, -1, is_dir);
}

/** libext2fs guesses whether a symlink has blocks, and is wrong where an attribute block is all it has. */
static bool has_blocks(const struct obd_inode *inode)
{
	const uint16_t mode = inode->raw.i_mode;

	if (LINUX_S_ISLNK(mode))
		return inode->raw.i_flags & EXT4_EXTENTS_FL || obd_inode_size(inode) >= sizeof(inode->raw.i_block);
	return LINUX_S_ISREG(mode) || LINUX_S_ISDIR(mode);
}

int obd_inode_free(struct obd_fs *fs, struct obd_inode *inode)
{
	const bool is_dir = obd_inode_is_dir(inode);
	errcode_t code = 0;
	int r;

	if (inode->raw.i_flags & EXT4_INLINE_DATA_FL)
		return obd_fs_corrupt(fs, "inode %u has inline data, which the file system has not", inode->ino);
	if (ext2fs_file_acl_block(fs->e2, obd_inode_small(inode)))
		code = ext2fs_free_ext_attr(fs->e2, inode->ino, &inode->raw);
	if (!code && has_blocks(inode))
		code = ext2fs_punch(fs->e2, inode->ino, obd_inode_small(inode), NULL, 0, ~UINT64_C(0));
	if (code)
		return obd_fs_fail(fs, code, "freeing the blocks of inode %u", inode->ino);
	// All zeros: a deletion time would have to come from a clock, and e2fsck wants one only of what had a mode.
	memset(&inode->raw, 0, sizeof(inode->raw));
	r = write_whole(fs, inode);
	if (!r)
		ext2fs_inode_alloc_stats2(fs->e2, inode->ino, -1, is_dir);
	return r;
}

int obd_inode_unlink(struct obd_fs *fs, struct obd_inode *inode)
{
	if (obd_inode_is_dir(inode) || inode->raw.i_links_count == 1)
		return obd_inode_free(fs, inode);
	inode->raw.i_links_count--;
	return obd_inode_write(fs, inode);
}

uint64_t obd_inode_size(const struct obd_inode *inode)
{
	return (uint64_t)inode->raw.i_size_high << 32 | inode->raw.i_size;
}

int obd_inode_set_size(struct obd_fs *fs, struct obd_inode *inode, uint64_t size)
{
	const errcode_t code = ext2fs_inode_size_set(fs->e2, obd_inode_small(inode), (ext2_off64_t)size);

	return code ? obd_fs_fail(fs, code, "a size of %llu bytes", (unsigned long long)size) : 0;
}

void obd_inode_set_owner(struct obd_inode *inode, uint32_t uid, uint32_t gid)
{
	inode->raw.i_uid = (uint16_t)uid;
	inode->raw.osd2.linux2.l_i_uid_high = (uint16_t)(uid >> 16);
	inode->raw.i_gid = (uint16_t)gid;
	inode->raw.osd2.linux2.l_i_gid_high = (uint16_t)(gid >> 16);
}

/*
 * A time is 32 bits of signed seconds; where the inode has room for it, two more bits count epochs of 2^32 s, and 30
 * bits nanoseconds: from 1901 to 2446.
 */
static void set_time(uint32_t *seconds, uint32_t *extra, int64_t s, uint32_t ns)
{
	const int64_t min = INT32_MIN, max = extra ? (INT64_C(1) << 34) + INT32_MIN - 1 : INT32_MAX;

	if (s < min || s > max) {
		s = s < min ? min : max;
		ns = 0;
	}
	*seconds = (uint32_t)s;
	if (extra)
		*extra = (uint32_t)((s - (int32_t)s) >> 32 & 3) | ns << 2;
}

void obd_inode_set_times(struct obd_fs *fs, struct obd_inode *inode, int64_t atime_s, uint32_t atime_ns,
			 int64_t mtime_s, uint32_t mtime_ns)
{
	struct ext2_inode_large *raw = &inode->raw;
	const size_t need = offsetof(struct ext2_inode_large, i_atime_extra) + sizeof(raw->i_atime_extra);
	const bool room = EXT2_INODE_SIZE(fs->e2->super) > EXT2_GOOD_OLD_INODE_SIZE &&
			  EXT2_GOOD_OLD_INODE_SIZE + (size_t)raw->i_extra_isize >= need;

	set_time(&raw->i_atime, room ? &raw->i_atime_extra : NULL, atime_s, atime_ns);
	set_time(&raw->i_mtime, room ? &raw->i_mtime_extra : NULL, mtime_s, mtime_ns);
	set_time(&raw->i_ctime, room ? &raw->i_ctime_extra : NULL, mtime_s, mtime_ns);
}

uint8_t obd_inode_type(uint16_t mode)
{
	switch (mode & LINUX_S_IFMT) {
	case LINUX_S_IFDIR:
		return EXT2_FT_DIR;
	case LINUX_S_IFREG:
		return EXT2_FT_REG_FILE;
	case LINUX_S_IFLNK:
		return EXT2_FT_SYMLINK;
	case LINUX_S_IFCHR:
		return EXT2_FT_CHRDEV;
	case LINUX_S_IFBLK:
		return EXT2_FT_BLKDEV;
	case LINUX_S_IFIFO:
		return EXT2_FT_FIFO;
	case LINUX_S_IFSOCK:
		return EXT2_FT_SOCK;
	default:
		return EXT2_FT_UNKNOWN;
	}
}
