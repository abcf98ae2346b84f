/* SPDX-License-Identifier: Apache-2.0 */
/* libext2fs asks for blocks, or with a negative count for bytes from the start of a block. */
#include "io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void obd_io_name(struct obd_pages *pages, char name[OBD_IO_NAME])
{
	snprintf(name, OBD_IO_NAME, "%" PRIxPTR, (uintptr_t)pages);
}

static errcode_t io_open(const char *name, int flags, io_channel *ret)
{
	io_channel channel = calloc(1, sizeof(*channel));

	(void)flags;
	if (!channel)
		return EXT2_ET_NO_MEMORY;
	channel->name = strdup(name);
	if (!channel->name) {
		free(channel);
		return EXT2_ET_NO_MEMORY;
	}
	channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
	channel->manager = &obd_io_manager;
	channel->block_size = 1024;
	channel->refcount = 1;
	channel->private_data = (void *)(uintptr_t)strtoull(name, NULL, 16);
	*ret = channel;
	return 0;
}

static errcode_t io_close(io_channel channel)
{
	if (--channel->refcount > 0)
		return 0;
	free(channel->name);
	free(channel);
	return 0;
}

static errcode_t io_set_blksize(io_channel channel, int size)
{
	channel->block_size = size;
	return 0;
}

/** The bytes meant by (block, count); false when they are beyond all disks. */
static int range_of(io_channel channel, unsigned long long block, int count, size_t *bytes, uint64_t *offset)
{
	*bytes = count < 0 ? (size_t) - (int64_t)count : (size_t)count * (size_t)channel->block_size;
	return !__builtin_mul_overflow(block, (uint64_t)channel->block_size, offset);
}

static errcode_t io_read_blk64(io_channel channel, unsigned long long block, int count, void *data)
{
	uint64_t offset;
	size_t bytes;

	if (!range_of(channel, block, count, &bytes, &offset))
		return EINVAL;
	return -obd_pages_read(channel->private_data, data, bytes, offset);
}

static errcode_t io_write_blk64(io_channel channel, unsigned long long block, int count, const void *data)
{
	uint64_t offset;
	size_t bytes;

	if (!range_of(channel, block, count, &bytes, &offset))
		return EINVAL;
	return -obd_pages_write(channel->private_data, data, bytes, offset);
}

static errcode_t io_read_blk(io_channel channel, unsigned long block, int count, void *data)
{
	return io_read_blk64(channel, block, count, data);
}

static errcode_t io_write_blk(io_channel channel, unsigned long block, int count, const void *data)
{
	return io_write_blk64(channel, block, count, data);
}

static errcode_t io_zeroout(io_channel channel, unsigned long long block, unsigned long long count)
{
	static const uint8_t zeros[4096];
	uint64_t offset, left;

	if (__builtin_mul_overflow(block, (uint64_t)channel->block_size, &offset) ||
	    __builtin_mul_overflow(count, (uint64_t)channel->block_size, &left))
		return EINVAL;
	while (left) {
		const size_t part = left < sizeof(zeros) ? (size_t)left : sizeof(zeros);
		const int r = obd_pages_write(channel->private_data, zeros, part, offset);

		if (r)
			return -r;
		offset += part;
		left -= part;
	}
	return 0;
}

/** When what libext2fs wrote has to reach the disk is for fs.c to say. */
static errcode_t io_flush(io_channel channel)
{
	(void)channel;
	return 0;
}

struct struct_io_manager obd_io_manager = {
	.magic = EXT2_ET_MAGIC_IO_MANAGER,
	.name = "overlaybd disk",
	.open = io_open,
	.close = io_close,
	.set_blksize = io_set_blksize,
	.read_blk = io_read_blk,
	.write_blk = io_write_blk,
	.flush = io_flush,
	.read_blk64 = io_read_blk64,
	.write_blk64 = io_write_blk64,
	.zeroout = io_zeroout,
};
