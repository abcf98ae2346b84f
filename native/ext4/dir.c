/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of directory entries:
 *
 *     offset  size  field of an entry
 *          0     4  inode, 0 = unused
 *          4     2  length of the entry up to the next one, a multiple of 4
 *          6     1  length of the name
 *          7     1  type
 *          8        name
 *
 * Entries fill the block; with metadata_csum its last 12 bytes look like an unused entry and hold a checksum. Nothing
 * read here is trusted: lengths are checked before they are followed.
 */
#include "dir.h"

#include <errno.h>
#include <string.h>

enum { ENTRY = 8 /**< bytes of an entry before its name */, CHECKSUM = 12, LINKS_MAX = 65000 };

uint32_t obd_dir_room(const struct obd_fs *fs)
{
	return fs->block_size - (ext2fs_has_feature_metadata_csum(fs->e2->super) ? CHECKSUM : 0);
}

uint32_t obd_dir_blocks(const struct obd_fs *fs, const struct obd_inode *dir)
{
	const uint64_t blocks = obd_inode_size(dir) / fs->block_size;

	return blocks > EXT4_DX_BLOCK_MASK ? EXT4_DX_BLOCK_MASK : (uint32_t)blocks;
}

/** Where extents in the inode itself say that a block is; 0 when it takes more to find out. */
static blk64_t place_in_inode(const struct obd_inode *dir, uint32_t block)
{
	const struct ext3_extent_header *header = (const void *)dir->raw.i_block;
	const struct ext3_extent *extents = (const void *)(header + 1);
	const uint16_t entries = ext2fs_le16_to_cpu(header->eh_entries);

	if (!(dir->raw.i_flags & EXT4_EXTENTS_FL) || header->eh_magic != ext2fs_cpu_to_le16(EXT3_EXT_MAGIC) ||
	    header->eh_depth || entries > 4)
		return 0;
	for (uint16_t i = 0; i < entries; i++) {
		const uint32_t first = ext2fs_le32_to_cpu(extents[i].ee_block);
		const uint16_t length = ext2fs_le16_to_cpu(extents[i].ee_len);

		if (block >= first && block - first < length && length <= EXT_INIT_MAX_LEN)
			return ((blk64_t)ext2fs_le16_to_cpu(extents[i].ee_start_hi) << 32 |
				ext2fs_le32_to_cpu(extents[i].ee_start)) +
			       block - first;
	}
	return 0;
}

static int place_of(struct obd_fs *fs, struct obd_inode *dir, uint32_t block, blk64_t *ret)
{
	errcode_t code;

	if (!obd_inode_is_dir(dir))
		return obd_fs_corrupt(fs, "inode %u should be a directory", dir->ino);
	if (block >= obd_dir_blocks(fs, dir))
		return obd_fs_corrupt(fs, "directory inode %u has no block %u", dir->ino, block);
	*ret = place_in_inode(dir, block);
	if (!*ret) {
		code = ext2fs_bmap2(fs->e2, dir->ino, obd_inode_small(dir), NULL, 0, block, NULL, ret);
		if (code)
			return obd_fs_fail(fs, code, "finding block %u of directory inode %u", block, dir->ino);
	}
	if (*ret < fs->e2->super->s_first_data_block || *ret >= ext2fs_blocks_count(fs->e2->super))
		return obd_fs_corrupt(fs, "block %u of directory inode %u is nowhere", block, dir->ino);
	return 0;
}

int obd_dir_read(struct obd_fs *fs, struct obd_inode *dir, uint32_t block, uint8_t *buffer)
{
	errcode_t code;
	blk64_t place;
	int r;

	r = place_of(fs, dir, block, &place);
	if (r)
		return r;
	code = ext2fs_read_dir_block4(fs->e2, place, buffer, 0, dir->ino);
	return code ? obd_fs_fail(fs, code, "reading block %u of directory inode %u", block, dir->ino) : 0;
}

int obd_dir_write(struct obd_fs *fs, struct obd_inode *dir, uint32_t block, uint8_t *buffer)
{
	errcode_t code;
	blk64_t place;
	int r;

	r = place_of(fs, dir, block, &place);
	if (r)
		return r;
	code = ext2fs_write_dir_block4(fs->e2, place, buffer, 0, dir->ino);
	return code ? obd_fs_fail(fs, code, "writing block %u of directory inode %u", block, dir->ino) : 0;
}

int obd_dir_set_length(struct obd_fs *fs, struct ext2_dir_entry *entry, uint32_t length)
{
	const errcode_t code = ext2fs_set_rec_len(fs->e2, length, entry);

	return code ? obd_fs_fail(fs, code, "a directory entry of %u bytes", length) : 0;
}

int obd_dir_block_init(struct obd_fs *fs, uint8_t *buffer)
{
	const uint32_t room = obd_dir_room(fs);

	memset(buffer, 0, fs->block_size);
	if (room < fs->block_size)
		ext2fs_initialize_dirent_tail(fs->e2, (struct ext2_dir_entry_tail *)(void *)(buffer + room));
	return obd_dir_set_length(fs, (struct ext2_dir_entry *)(void *)buffer, room);
}

int obd_dir_entry(struct obd_fs *fs, const struct obd_inode *dir, const uint8_t *buffer, uint32_t offset,
		  struct ext2_dir_entry **ret, uint32_t *length)
{
	struct ext2_dir_entry *entry = (struct ext2_dir_entry *)(uintptr_t)(buffer + offset);
	const uint32_t left = fs->block_size - offset;
	unsigned taken;

	if (left < ENTRY || ext2fs_get_rec_len(fs->e2, entry, &taken) || taken < ENTRY || taken % 4 || taken > left)
		return obd_fs_corrupt(fs, "an entry of directory inode %u is longer than its block", dir->ino);
	if (entry->inode && (!ext2fs_dirent_name_len(entry) || (unsigned)ext2fs_dirent_name_len(entry) + ENTRY > taken))
		return obd_fs_corrupt(fs, "a name of directory inode %u does not fit its entry", dir->ino);
	*ret = entry;
	*length = taken;
	return 0;
}

int obd_dir_find_in(struct obd_fs *fs, const struct obd_inode *dir, uint8_t *buffer, const char *name, size_t length,
		    struct obd_entry *ret)
{
	struct ext2_dir_entry *entry;
	uint32_t taken;

	for (uint32_t offset = 0; offset < obd_dir_room(fs); offset += taken) {
		const int r = obd_dir_entry(fs, dir, buffer, offset, &entry, &taken);

		if (r)
			return r;
		if (entry->inode && (size_t)ext2fs_dirent_name_len(entry) == length &&
		    !memcmp(entry->name, name, length)) {
			ret->ino = entry->inode;
			ret->type = (uint8_t)ext2fs_dirent_file_type(entry);
			ret->offset = offset;
			return 1;
		}
	}
	return 0;
}

int obd_dir_find(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, struct obd_entry *ret)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	const uint32_t blocks = obd_dir_blocks(fs, dir);
	int r = 0;

	if (obd_htree_used(fs, dir))
		return obd_htree_find(fs, dir, name, length, ret);
	for (ret->block = 0; !r && ret->block < blocks; ret->block++) {
		r = obd_dir_read(fs, dir, ret->block, buffer);
		if (!r)
			r = obd_dir_find_in(fs, dir, buffer, name, length, ret);
		if (r)
			break;
	}
	return r;
}

int obd_dir_add_in(struct obd_fs *fs, const struct obd_inode *dir, uint8_t *buffer, const char *name, size_t length,
		   ext2_ino_t ino, uint8_t type)
{
	const uint32_t need = obd_dir_need(length);
	struct ext2_dir_entry *entry;
	uint32_t taken;
	int r;

	for (uint32_t offset = 0; offset < obd_dir_room(fs); offset += taken) {
		uint32_t used;

		r = obd_dir_entry(fs, dir, buffer, offset, &entry, &taken);
		if (r)
			return r;
		used = entry->inode ? obd_dir_need((size_t)ext2fs_dirent_name_len(entry)) : 0;
		if (taken < used + need)
			continue;
		if (used) {
			r = obd_dir_set_length(fs, entry, used);
			entry = (struct ext2_dir_entry *)(void *)(buffer + offset + used);
			if (!r)
				r = obd_dir_set_length(fs, entry, taken - used);
			if (r)
				return r;
		}
		entry->inode = ino;
		ext2fs_dirent_set_name_len(entry, (int)length);
		ext2fs_dirent_set_file_type(entry, ext2fs_has_feature_filetype(fs->e2->super) ? type : 0);
		memcpy(entry->name, name, length);
		return 1;
	}
	return 0;
}

int obd_dir_append_empty(struct obd_fs *fs, struct obd_inode *dir, uint32_t *block)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	blk64_t place = 0;
	errcode_t code;
	int r;

	*block = obd_dir_blocks(fs, dir);
	code = ext2fs_bmap2(fs->e2, dir->ino, obd_inode_small(dir), NULL, BMAP_ALLOC, *block, NULL, &place);
	if (code)
		return obd_fs_fail(fs, code, "adding block %u to directory inode %u", *block, dir->ino);
	r = obd_inode_set_size(fs, dir, (uint64_t)(*block + 1) * fs->block_size);
	if (!r)
		r = obd_inode_write(fs, dir);
	if (!r)
		r = obd_dir_block_init(fs, buffer);
	if (!r)
		r = obd_dir_write(fs, dir, *block, buffer);
	return r;
}

/** To the first block with room: 1 added, 0 none has. The last block looked at is left in the buffer. */
static int add_linear(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, ext2_ino_t ino,
		      uint8_t type)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	const uint32_t blocks = obd_dir_blocks(fs, dir);

	for (uint32_t block = 0; block < blocks; block++) {
		int r = obd_dir_read(fs, dir, block, buffer);

		if (!r)
			r = obd_dir_add_in(fs, dir, buffer, name, length, ino, type);
		if (r > 0)
			r = obd_dir_write(fs, dir, block, buffer) ?: 1;
		if (r)
			return r;
	}
	return 0;
}

int obd_dir_add(struct obd_fs *fs, struct obd_inode *dir, const char *name, size_t length, ext2_ino_t ino, uint8_t type)
{
	uint32_t block;
	int r;

	if (obd_htree_used(fs, dir))
		return obd_htree_add(fs, dir, name, length, ino, type);
	if (dir->raw.i_flags & EXT2_INDEX_FL) {
		// the file system has no such feature any more, and the root of the index is about to be overwritten
		dir->raw.i_flags &= ~(uint32_t)EXT2_INDEX_FL;
		r = obd_inode_write(fs, dir);
		if (r)
			return r;
	}
	r = add_linear(fs, dir, name, length, ino, type);
	if (r)
		return r < 0 ? r : 0;
	if (obd_dir_blocks(fs, dir) == 1 && ext2fs_has_feature_dir_index(fs->e2->super)) {
		r = obd_htree_make(fs, dir, obd_fs_scratch(fs, OBD_SCRATCH_DIR));
		return r ? r : obd_htree_add(fs, dir, name, length, ino, type);
	}
	r = obd_dir_append_empty(fs, dir, &block);
	if (!r)
		r = add_linear(fs, dir, name, length, ino, type);
	return r < 0 ? r : 0;
}

int obd_dir_remove(struct obd_fs *fs, struct obd_inode *dir, const struct obd_entry *found)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	struct ext2_dir_entry *entry, *before = NULL;
	uint32_t taken, taken_before = 0;
	int r;

	r = obd_dir_read(fs, dir, found->block, buffer);
	for (uint32_t offset = 0; !r && offset <= found->offset; offset += taken) {
		r = obd_dir_entry(fs, dir, buffer, offset, &entry, &taken);
		if (r || offset == found->offset)
			break;
		before = entry;
		taken_before = taken;
	}
	if (r)
		return r;
	if (entry->inode != found->ino)
		return obd_fs_corrupt(fs, "directory inode %u changed behind our back", dir->ino);
	entry->inode = 0;
	if (before)
		r = obd_dir_set_length(fs, before, taken_before + taken);
	return r ? r : obd_dir_write(fs, dir, found->block, buffer);
}

int obd_dir_count_child(struct obd_fs *fs, struct obd_inode *dir, int change)
{
	uint16_t *links = &dir->raw.i_links_count;

	// 1 says "too many to count", and stays
	if (*links == 1)
		return 0;
	if (change < 0 && *links > 2)
		(*links)--;
	if (change > 0 && *links >= LINKS_MAX - 1) {
		if (!ext2fs_has_feature_dir_nlink(fs->e2->super) || !obd_htree_used(fs, dir))
			return obd_fs_fail(fs, EMLINK, "directory inode %u", dir->ino);
		*links = 1;
	} else if (change > 0) {
		(*links)++;
	}
	return obd_inode_write(fs, dir);
}

static bool is_dots(const char *name, size_t length)
{
	return name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'));
}

int obd_dir_next(struct obd_fs *fs, struct obd_inode *dir, struct obd_dir_position *at, struct obd_entry *ret,
		 const char **name, size_t *length)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_WALK);
	struct ext2_dir_entry *entry;
	uint32_t taken;
	int r;

	for (; at->block < obd_dir_blocks(fs, dir); at->block++, at->offset = 0) {
		r = obd_dir_read(fs, dir, at->block, buffer);
		if (r)
			return r;
		while (at->offset < obd_dir_room(fs)) {
			r = obd_dir_entry(fs, dir, buffer, at->offset, &entry, &taken);
			if (r)
				return r;
			*ret = (struct obd_entry){entry->inode, (uint8_t)ext2fs_dirent_file_type(entry), at->block,
						  at->offset};
			*name = entry->name;
			*length = (size_t)ext2fs_dirent_name_len(entry);
			at->offset += taken;
			if (entry->inode && *length && !is_dots(*name, *length))
				return 1;
		}
	}
	return 0;
}

int obd_dir_parent(struct obd_fs *fs, struct obd_inode *dir, ext2_ino_t *ret)
{
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	struct obd_entry entry;
	int r = obd_dir_read(fs, dir, 0, buffer);

	if (!r)
		r = obd_dir_find_in(fs, dir, buffer, "..", 2, &entry);
	if (!r)
		return obd_fs_corrupt(fs, "directory inode %u has no ..", dir->ino);
	*ret = entry.ino;
	return r < 0 ? r : 0;
}

int obd_dir_init(struct obd_fs *fs, struct obd_inode *dir, ext2_ino_t parent)
{
	struct ext3_extent_header *header = (void *)dir->raw.i_block;
	uint8_t *buffer = obd_fs_scratch(fs, OBD_SCRATCH_DIR);
	uint32_t block;
	int r;

	dir->raw.i_links_count = 2;
	dir->raw.i_flags = EXT4_EXTENTS_FL;
	header->eh_magic = ext2fs_cpu_to_le16(EXT3_EXT_MAGIC);
	header->eh_max = ext2fs_cpu_to_le16(4);
	r = obd_inode_write_new(fs, dir);
	if (!r)
		r = obd_dir_append_empty(fs, dir, &block);
	if (!r)
		r = obd_dir_block_init(fs, buffer);
	if (!r)
		r = obd_dir_add_in(fs, dir, buffer, ".", 1, dir->ino, EXT2_FT_DIR);
	if (r > 0)
		r = obd_dir_add_in(fs, dir, buffer, "..", 2, parent, EXT2_FT_DIR);
	return r < 0 ? r : obd_dir_write(fs, dir, 0, buffer);
}
