/* SPDX-License-Identifier: Apache-2.0 */
/* All blocks of a file are taken before its data comes: it lies in one run where there is one. */
#include "file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { IN_INODE = 4 /**< extents that the inode itself has room for */ };

static int add_run(struct obd_file *file, uint64_t logical, blk64_t place, uint32_t count)
{
	struct obd_run *last = file->count ? &file->runs[file->count - 1] : NULL;

	if (last && last->logical + last->count == logical && last->place + last->count == place &&
	    last->count + count <= EXT_INIT_MAX_LEN) {
		last->count += count;
	} else {
		if (file->count == file->capacity) {
			const size_t capacity = file->capacity ? 2 * file->capacity : 16;
			struct obd_run *runs = realloc(file->runs, capacity * sizeof(*runs));

			if (!runs)
				return obd_fs_fail(file->fs, ENOMEM, "the blocks of a file");
			file->runs = runs;
			file->capacity = capacity;
		}
		file->runs[file->count++] = (struct obd_run){logical, place, count};
	}
	file->blocks += count;
	return 0;
}

int obd_file_reserve(struct obd_file *file, uint64_t offset, uint64_t count)
{
	struct obd_fs *fs = file->fs;
	const struct obd_run *last = file->count ? &file->runs[file->count - 1] : NULL;
	uint64_t first = offset / fs->block_size, behind;

	if (!count)
		return 0;
	behind = (offset + count - 1) / fs->block_size + 1;
	if (behind > UINT32_MAX)
		return obd_fs_fail(fs, EFBIG, "a file of %llu blocks", (unsigned long long)behind);
	if (last && first < last->logical + last->count)
		first = last->logical + last->count;
	if (behind - first > ext2fs_free_blocks_count(fs->e2->super) && behind > first)
		return obd_fs_fail(fs, ENOSPC, "a file of %llu bytes (%llu blocks of %u bytes are free)",
				   (unsigned long long)count,
				   (unsigned long long)ext2fs_free_blocks_count(fs->e2->super), fs->block_size);
	while (first < behind) {
		uint32_t taken;
		blk64_t place;
		int r = obd_blocks_take(fs, behind - first, &place, &taken);

		if (r)
			return r;
		r = add_run(file, first, place, taken);
		if (r) {
			obd_blocks_give(fs, place, taken);
			return r;
		}
		first += taken;
	}
	return 0;
}

/** The reserved range that begins at the position: *place in bytes, and how far it goes; false when none does. */
static bool here(struct obd_file *file, uint64_t *place, uint64_t *count)
{
	const uint32_t size = file->fs->block_size;

	for (; file->at < file->count; file->at++) {
		const struct obd_run *run = &file->runs[file->at];
		const uint64_t start = run->logical * size, end = start + (uint64_t)run->count * size;

		if (file->position < start)
			return false;
		if (file->position >= end)
			continue;
		*place = run->place * size + (file->position - start);
		*count = end - file->position;
		return true;
	}
	return false;
}

static int put(struct obd_file *file, const void *data, size_t count, uint64_t place)
{
	const int r = obd_pages_stream(file->fs->pages, data, count, place);

	if (r)
		return obd_fs_fail(file->fs, -r, "writing data");
	file->position += count;
	return 0;
}

int obd_file_write(struct obd_file *file, const void *data, size_t count)
{
	uint64_t place, room;
	int r = 0;

	for (const uint8_t *from = data; !r && count;) {
		size_t part;

		if (!here(file, &place, &room))
			return obd_fs_fail(file->fs, EFBIG, "data behind the end of a file");
		part = room < count ? (size_t)room : count;
		r = put(file, from, part, place);
		from += part;
		count -= part;
	}
	return r;
}

int obd_file_seek(struct obd_file *file, uint64_t offset)
{
	static const uint8_t zeros[4096];
	uint64_t place, room;
	int r = 0;

	while (!r && file->position < offset) {
		const uint64_t left = offset - file->position;

		if (here(file, &place, &room)) {
			uint64_t part = left < room ? left : room;

			if (part > sizeof(zeros))
				part = sizeof(zeros);
			r = put(file, zeros, (size_t)part, place);
		} else if (file->at < file->count && file->runs[file->at].logical * file->fs->block_size < offset) {
			file->position = file->runs[file->at].logical * file->fs->block_size;
		} else {
			file->position = offset;
		}
	}
	return r;
}

/** Extents in the inode itself, at most IN_INODE. */
static void small_tree(const struct obd_file *file, struct obd_inode *inode)
{
	struct ext3_extent_header *header = (void *)inode->raw.i_block;
	struct ext3_extent *extents = (void *)(header + 1);

	memset(inode->raw.i_block, 0, sizeof(inode->raw.i_block));
	header->eh_magic = ext2fs_cpu_to_le16(EXT3_EXT_MAGIC);
	header->eh_entries = ext2fs_cpu_to_le16((uint16_t)file->count);
	header->eh_max = ext2fs_cpu_to_le16(IN_INODE);
	for (size_t i = 0; i < file->count; i++) {
		const struct obd_run *run = &file->runs[i];

		extents[i].ee_block = ext2fs_cpu_to_le32((uint32_t)run->logical);
		extents[i].ee_len = ext2fs_cpu_to_le16((uint16_t)run->count);
		extents[i].ee_start = ext2fs_cpu_to_le32((uint32_t)run->place);
		extents[i].ee_start_hi = ext2fs_cpu_to_le16((uint16_t)(run->place >> 32));
	}
}

/** A tree of more blocks, which libext2fs counts in i_blocks. *done runs are the inode's, also when it fails. */
static errcode_t large_tree(const struct obd_file *file, struct obd_inode *inode, size_t *done)
{
	ext2_extent_handle_t handle;
	errcode_t code = ext2fs_extent_open2(file->fs->e2, inode->ino, obd_inode_small(inode), &handle);

	*done = 0;
	if (code)
		return code;
	while (!code && *done < file->count) {
		const struct obd_run *run = &file->runs[*done];
		struct ext2fs_extent extent = {.e_lblk = run->logical, .e_pblk = run->place, .e_len = run->count};

		code = ext2fs_extent_insert(handle, EXT2_EXTENT_INSERT_AFTER, &extent);
		if (!code)
			(*done)++;
	}
	if (!code)
		code = ext2fs_extent_fix_parents(handle);
	ext2fs_extent_free(handle);
	return code;
}

static int build_tree(struct obd_file *file, struct obd_inode *inode)
{
	struct obd_fs *fs = file->fs;
	const struct obd_file none = {0};
	errcode_t code = 0;
	size_t done = 0;
	int r;

	inode->raw.i_flags |= EXT4_EXTENTS_FL;
	small_tree(file->count <= IN_INODE ? file : &none, inode);
	if (file->count > IN_INODE) {
		// it is written block by block, and the inode with it
		r = obd_inode_write_new(fs, inode);
		if (r)
			return r;
		code = large_tree(file, inode, &done);
	}
	if (!code)
		code = ext2fs_iblk_add_blocks(fs->e2, obd_inode_small(inode), file->blocks);
	if (!code)
		return 0;
	r = obd_fs_fail(fs, code, "a tree of %zu extents", file->count);
	if (done && !ext2fs_punch(fs->e2, inode->ino, obd_inode_small(inode), NULL, 0, ~UINT64_C(0))) {
		file->count -= done;
		memmove(file->runs, file->runs + done, file->count * sizeof(*file->runs));
	}
	return r;
}

int obd_file_finish(struct obd_file *file, struct obd_inode *inode, uint64_t size)
{
	struct obd_fs *fs = file->fs;
	const uint64_t blocks = size / fs->block_size + (size % fs->block_size != 0);
	int r;

	if (blocks > UINT32_MAX)
		return obd_fs_fail(fs, EFBIG, "a file of %llu bytes", (unsigned long long)size);
	r = obd_file_seek(file, blocks * fs->block_size);
	if (!r)
		r = obd_inode_set_size(fs, inode, size);
	if (!r)
		r = build_tree(file, inode);
	if (!r)
		file->count = 0;
	return r;
}

void obd_file_deinit(struct obd_file *file)
{
	for (size_t i = 0; i < file->count; i++)
		obd_blocks_give(file->fs, file->runs[i].place, file->runs[i].count);
	free(file->runs);
	*file = (struct obd_file){0};
}
