/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Free blocks are taken from where the last ones were: a layer's data lies together, in the order of its archive, and
 * few bitmaps change. Directories and the like come from an area of their own, or the data of the files around them
 * would be written in pieces. The area is no more than an intention: what is not used of it stays free.
 */
#include "fs.h"

#include <errno.h>

enum { EXTENT_MAX = 32768 /**< blocks that one extent can hold */, AREA = 128 /**< blocks */ };

int obd_blocks_take(struct obd_fs *fs, uint64_t want, blk64_t *start, uint32_t *count)
{
	ext2_filsys e2 = fs->e2;
	blk64_t length;
	errcode_t code;

	if (want > EXTENT_MAX)
		want = EXTENT_MAX;
	code = ext2fs_new_range(e2, EXT2_NEWRANGE_MIN_LENGTH, fs->block_goal, want, e2->block_map, start, &length);
	if (code == EXT2_ET_BLOCK_ALLOC_FAIL)
		code = ext2fs_new_range(e2, 0, fs->block_goal, want, e2->block_map, start, &length);
	if (code)
		return obd_fs_fail(fs, code, "taking %llu blocks of %u bytes", (unsigned long long)want,
				   fs->block_size);
	*count = (uint32_t)(length < want ? length : want);
	ext2fs_block_alloc_stats_range(e2, *start, *count, +1);
	fs->block_goal = *start + *count;
	return 0;
}

void obd_blocks_give(struct obd_fs *fs, blk64_t start, uint32_t count)
{
	ext2fs_block_alloc_stats_range(fs->e2, start, count, -1);
}

static errcode_t new_area(struct obd_fs *fs)
{
	blk64_t count;
	const errcode_t code = ext2fs_new_range(fs->e2, EXT2_NEWRANGE_MIN_LENGTH, fs->block_goal, AREA,
						fs->e2->block_map, &fs->area_at, &count);

	if (!code) {
		fs->area_end = fs->area_at + AREA;
		fs->block_goal = fs->area_end;
	}
	return code;
}

errcode_t obd_blocks_one(ext2_filsys e2, blk64_t goal, blk64_t *ret)
{
	struct obd_fs *fs = e2->priv_data;
	errcode_t code;

	(void)goal;
	for (int i = 0; i < 2; i++) {
		if (fs->area_at < fs->area_end &&
		    !ext2fs_find_first_zero_block_bitmap2(e2->block_map, fs->area_at, fs->area_end - 1, ret)) {
			fs->area_at = *ret + 1;
			ext2fs_clear_block_uninit(e2, ext2fs_group_of_blk2(e2, *ret));
			return 0;
		}
		if (new_area(fs))
			break;
	}
	// The disk is nearly full: whatever is left.
	code = ext2fs_new_block2(e2, fs->block_goal, e2->block_map, ret);
	if (!code)
		fs->block_goal = *ret + 1;
	return code;
}
