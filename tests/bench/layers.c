/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the layers of the benchmark, 256 MiB of them in seconds: the writers of overlaybd_tcmu/formats are plain, and
 * a quarter of an hour slower. Whether they are right is seen when the core opens them.
 */
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "../../native/crc32c.h"
#include "probe.h"

enum { SECTOR = 512, SEGMENT_MAX = 16320, ENTRIES_ALIGN = 256, BLOCK_SEED = 100007 };

struct bytes {
	uint8_t *at;
	size_t count, room;
};

static void *append(struct bytes *bytes, size_t count)
{
	uint8_t *here;

	while (bytes->count + count > bytes->room) {
		bytes->room = bytes->room ? bytes->room * 2 : 1 << 20;
		bytes->at = realloc(bytes->at, bytes->room);
		if (!bytes->at)
			die("no memory");
	}
	here = bytes->at + bytes->count;
	bytes->count += count;
	return memset(here, 0, count);
}

static void put(void *record, size_t offset, uint64_t value, size_t size)
{
	memcpy((uint8_t *)record + offset, &value, size); /* little-endian, like every machine this runs on */
}

/* ---- LSMT */

static void lsmt_record(uint8_t *record, unsigned flags, uint64_t index_offset, uint64_t entries, uint64_t size)
{
	static const uint8_t magic[24] = {'L',	'S',  'M',  'T',  0,	1,    2,    0,	  0x65, 0x7E, 0x63, 0xD2,
					  0x94, 0x44, 0x08, 0x4C, 0xA2, 0xD2, 0xC8, 0xEC, 0x4F, 0xCF, 0xAE, 0x8A};
	static const char null_uuid[] = "00000000-0000-0000-0000-000000000000";

	memcpy(record, magic, sizeof(magic));
	put(record, 24, 390, 4);
	put(record, 28, flags, 4);
	put(record, 32, index_offset, 8);
	put(record, 40, entries, 8);
	put(record, 48, size, 8);
	memcpy(record + 56, null_uuid, sizeof(null_uuid));
	memcpy(record + 93, null_uuid, sizeof(null_uuid));
	put(record, 132, 0x0101, 2);
}

static void lsmt_data(struct bytes *stream, struct bytes *index, const struct disk *disk, uint64_t offset,
		      uint64_t count, bool inverted)
{
	uint64_t sector = offset / SECTOR, length = count / SECTOR, place = stream->count / SECTOR;
	uint8_t *entry = append(index, 16), *data = append(stream, count);

	put(entry, 0, sector | length << 50, 8);
	put(entry, 8, place, 8);
	for (uint64_t i = 0; i < count; i++)
		data[i] = (uint8_t)(disk->data[offset + i] ^ (inverted ? 0xFF : 0));
}

static struct bytes lsmt_write(const struct disk *disk, unsigned layer)
{
	struct bytes stream = {0}, index = {0};
	uint64_t step = layer ? CHUNK : SEGMENT_MAX * SECTOR, offset;

	lsmt_record(append(&stream, STREAM_HEADER), 7, 0, 0, disk->size);
	for (offset = 0; offset < disk->size; offset += step) {
		uint64_t left = disk->size - offset;

		if (!layer || chunk_layer(offset / CHUNK) == layer)
			lsmt_data(&stream, &index, disk, offset, left < step ? left : step, layer > 0);
	}
	while (index.count / 16 % ENTRIES_ALIGN)
		put(append(&index, 16), 0, (UINT64_C(1) << 50) - 1, 8);
	offset = stream.count;
	memcpy(append(&stream, index.count), index.at, index.count);
	lsmt_record(append(&stream, STREAM_HEADER), 6, offset, index.count / 16, disk->size);
	free(index.at);
	return stream;
}

/* ---- ZFile */

static void zfile_record(uint8_t *record, const struct format *format, unsigned flags, uint64_t index_offset,
			 const struct bytes *index, uint64_t size)
{
	memcpy(record, "ZFile\0\1\0tuji.yyf@Alibaba", 24);
	put(record, 24, 96, 4);
	put(record, 32, flags, 8);
	put(record, 40, index_offset, 8);
	put(record, 48, index->count / 4, 8);
	put(record, 56, size, 8);
	put(record, 64, obd_crc32c(index->at, index->count, 0), 4);
	put(record, 72, format->block_size, 4);
	put(record, 76, format->algo, 1);
	put(record, 88, 1, 1);
	put(record, 28, obd_crc32c(record, 512, 0), 4);
}

static size_t compress_block(ZSTD_CCtx *zstd, const struct format *format, const uint8_t *from, size_t count,
			     uint8_t *to, size_t room)
{
	size_t stored;

	if (format->algo == 1)
		return (size_t)LZ4_compress_default((const char *)from, (char *)to, (int)count, (int)room);
	stored = ZSTD_compressCCtx(zstd, to, room, from, count, 3);
	if (ZSTD_isError(stored))
		die("zstd: %s", ZSTD_getErrorName(stored));
	return stored;
}

static struct bytes zfile_write(const struct format *format, const struct bytes *stream)
{
	struct bytes file = {0}, index = {0};
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	uint64_t end;

	append(&file, 512);
	for (size_t at = 0; at < stream->count; at += format->block_size) {
		size_t left = stream->count - at, room = 2 * (size_t)format->block_size, begin = file.count;
		size_t count = left < format->block_size ? left : format->block_size, stored;

		append(&file, room);
		stored = compress_block(zstd, format, stream->at + at, count, file.at + begin, room);
		put(file.at, begin + stored, obd_crc32c(file.at + begin, stored, BLOCK_SEED), 4);
		file.count = begin + stored + 4;
		put(append(&index, 4), 0, stored + 4, 4);
	}
	ZSTD_freeCCtx(zstd);
	end = file.count;
	memcpy(append(&file, index.count), index.at, index.count);
	zfile_record(append(&file, 512), format, 0x16, end, &index, stream->count);
	zfile_record(file.at, format, 0x1B, end, &index, stream->count);
	free(index.at);
	return file;
}

void layers_write(const struct disk *disk)
{
	for (unsigned layer = 0; layer < LAYERS; layer++) {
		struct bytes stream = lsmt_write(disk, layer), file = stream;
		char path[4096];
		FILE *out;

		if (disk->format->algo)
			file = zfile_write(disk->format, &stream);
		layer_path(disk, layer, path, sizeof(path));
		out = fopen(path, "wb");
		if (!out || fwrite(file.at, 1, file.count, out) != file.count || fclose(out))
			die("%s: cannot be written", path);
		if (file.at != stream.at)
			free(file.at);
		free(stream.at);
	}
}
