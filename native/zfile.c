/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ZFile: a stream cut into blocks, each compressed on its own.
 *
 *     0                header, 512 bytes
 *     512              dictionary, dict_size bytes (nobody writes one)
 *     512 + dict_size  block 0 [crc] | block 1 [crc] | ...
 *     index_offset     stored length of each block, u32, CRC included
 *     size - 512       trailer, laid out like the header
 *
 *     offset  size  field of both records
 *          0    24  magic
 *         28     4  digest: CRC of the record with this field 0; right only when flags bit 4 is set
 *         32     8  flags: 0 header, 1 data file, 2 sealed, 3 header is final, 4 digest and index_crc are right
 *         40     8  index_offset
 *         48     8  index_size: number of lengths
 *         56     8  original size
 *         64     4  index_crc
 *         72     4  block_size
 *         76     1  algo
 *         84     4  dict_size
 *         88     1  verify
 *
 * Everything else is garbage in files of 2021 and must be ignored.
 */
#include "zfile.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "crc32c.h"
#include "error.h"
#include "little_endian.h"

enum {
	RECORD = OBD_ZFILE_RECORD,
	CRC = OBD_ZFILE_CRC,
	GROUP_SHIFT = 16,      /**< a group of blocks holds 64 KiB */
	GROUP_SUM_MAX = 65534, /**< bytes before the last block of a group, as upstream has it: fits delta */
	INDEX_CHUNK = 1024 * 1024,
	INDEX_SIZE_MAX = 1000000000,
	LENGTH_SLACK = 64, /**< what a compressor may add beyond n / 255 + 16: zstd's frame header */
};

/** What opening knows beside the ZFile itself. */
struct source {
	const struct obd_blob *blob;
	uint64_t base, size;
	struct obd_error *err;
	bool lean;
};

static const uint8_t magic[24] = {'Z', 'F', 'i', 'l', 'e', 0,	1,   0,	  't', 'u', 'j', 'i',
				  '.', 'y', 'y', 'f', '@', 'A', 'l', 'i', 'b', 'a', 'b', 'a'};

static bool has_magic(const uint8_t *raw)
{
	return !memcmp(raw, magic, sizeof(magic));
}

static struct obd_zfile_record parse(const uint8_t *raw)
{
	return (struct obd_zfile_record){
		.flags = obd_le64(raw, 32),
		.index_offset = obd_le64(raw, 40),
		.index_size = obd_le64(raw, 48),
		.original_size = obd_le64(raw, 56),
		.index_crc = obd_le32(raw, 64),
		.block_size = obd_le32(raw, 72),
		.dict_size = obd_le32(raw, 84),
		.algo = raw[76],
		.verify = raw[88],
	};
}

static bool digest_matches(const uint8_t *raw)
{
	static const uint8_t zeros[4];
	uint32_t crc = obd_crc32c(raw, 28, 0);

	crc = obd_crc32c(zeros, sizeof(zeros), crc);
	return obd_crc32c(raw + 32, RECORD - 32, crc) == obd_le32(raw, 28);
}

void obd_zfile_put_record(uint8_t raw[OBD_ZFILE_RECORD], const struct obd_zfile_record *record)
{
	memset(raw, 0, RECORD);
	memcpy(raw, magic, sizeof(magic));
	obd_put_le32(raw, 24, 96); // bytes in use
	obd_put_le64(raw, 32, record->flags);
	obd_put_le64(raw, 40, record->index_offset);
	obd_put_le64(raw, 48, record->index_size);
	obd_put_le64(raw, 56, record->original_size);
	obd_put_le32(raw, 64, record->index_crc);
	obd_put_le32(raw, 72, record->block_size);
	raw[76] = record->algo;
	obd_put_le32(raw, 84, record->dict_size);
	raw[88] = record->verify;
	obd_put_le32(raw, 28, obd_crc32c(raw, RECORD, 0));
}

static int read_record(const struct source *source, uint8_t *raw, uint64_t offset)
{
	int r = obd_blob_pread(source->blob, raw, RECORD, source->base + offset);

	if (r)
		return obd_fail(source->err, -r, "%s: reading the ZFile record at offset %llu: %s", source->blob->path,
				(unsigned long long)(source->base + offset), strerror(-r));
	return 0;
}

/** 1: raw is a good header, 0: no ZFile's. */
static int read_header(const struct source *source, uint8_t *raw)
{
	const char *path = source->blob->path;
	const unsigned long long base = source->base;
	int r;

	if (source->size < RECORD)
		return obd_fail(source->err, EINVAL, "%s: %llu bytes at offset %llu, a layer has at least 512", path,
				(unsigned long long)source->size, base);
	r = read_record(source, raw, 0);
	if (r)
		return r;
	if (!has_magic(raw))
		return 0;
	if (!(obd_le64(raw, 32) & OBD_ZFILE_HEADER))
		return obd_fail(source->err, EINVAL, "%s: ZFile flags at offset %llu: 0x%llx is not a header's", path,
				base + 32, (unsigned long long)obd_le64(raw, 32));
	if (obd_le64(raw, 32) & OBD_ZFILE_DIGEST && !digest_matches(raw))
		return obd_fail(source->err, EBADMSG,
				"%s: ZFile header at offset %llu: its digest 0x%08x does not match", path, base,
				obd_le32(raw, 28));
	return 1;
}

int obd_zfile_probe(const struct obd_blob *blob, uint64_t base, uint64_t size, struct obd_error *err)
{
	const struct source source = {blob, base, size, err, false};
	uint8_t raw[RECORD];

	return read_header(&source, raw);
}

/** The record whose fields count: the header when it is final, else the trailer. */
static int read_record_in_use(const struct source *source, struct obd_zfile_record *ret)
{
	const char *path = source->blob->path;
	unsigned long long at;
	uint8_t raw[RECORD];
	int r = read_header(source, raw);

	if (r < 0)
		return r;
	if (!r)
		return obd_fail(source->err, EINVAL, "%s: no ZFile magic at offset %llu", path,
				(unsigned long long)source->base);
	*ret = parse(raw);
	if (ret->flags & OBD_ZFILE_FINAL)
		return 0;
	if (!(ret->flags & OBD_ZFILE_DATA))
		return obd_fail(source->err, EINVAL, "%s: ZFile flags at offset %llu: 0x%llx is not a data file's",
				path, (unsigned long long)(source->base + 32), (unsigned long long)ret->flags);
	if (source->size < 2 * RECORD)
		return obd_fail(source->err, EINVAL, "%s: ZFile of %llu bytes at offset %llu has no trailer", path,
				(unsigned long long)source->size, (unsigned long long)source->base);
	r = read_record(source, raw, source->size - RECORD);
	if (r)
		return r;
	at = source->base + source->size - RECORD;
	*ret = parse(raw);
	if (!has_magic(raw))
		return obd_fail(source->err, EINVAL, "%s: no ZFile magic in the trailer at offset %llu", path, at);
	if ((ret->flags & (OBD_ZFILE_HEADER | OBD_ZFILE_DATA | OBD_ZFILE_SEALED)) !=
	    (OBD_ZFILE_DATA | OBD_ZFILE_SEALED))
		return obd_fail(source->err, EINVAL,
				"%s: ZFile flags at offset %llu: 0x%llx is not a sealed data file's trailer", path,
				at + 32, (unsigned long long)ret->flags);
	return 0;
}

static bool is_power_of_two(uint32_t value)
{
	return value && !(value & (value - 1));
}

/** Everything that can be said of the record without reading the index. */
static int check_record(const struct source *source, const struct obd_zfile_record *record)
{
	const char *path = source->blob->path;
	const uint64_t blocks = record->index_size, data = RECORD + (uint64_t)record->dict_size;
	const uint64_t limit = source->size - (record->flags & OBD_ZFILE_FINAL ? 0 : RECORD);
	uint64_t expected;

	if (blocks > INDEX_SIZE_MAX)
		return obd_fail(source->err, EFBIG, "%s: ZFile index_size: %llu, at most 1000000000", path,
				(unsigned long long)blocks);
	if (!is_power_of_two(record->block_size) || record->block_size < OBD_ZFILE_BLOCK_MIN ||
	    record->block_size > OBD_ZFILE_BLOCK_MAX)
		return obd_fail(source->err, EINVAL,
				"%s: ZFile block_size: %u is not a power of two between 512 and 65536", path,
				record->block_size);
	if (record->algo != OBD_LZ4 && record->algo != OBD_ZSTD)
		return obd_fail(source->err, EINVAL, "%s: ZFile algo: %u is neither 1 (lz4) nor 2 (zstd)", path,
				record->algo);
	// The trailer of a file with a final header may be missing; then the index may reach to the end.
	if (record->index_offset > limit || 4 * blocks > limit - record->index_offset)
		return obd_fail(source->err, EINVAL,
				"%s: ZFile index_offset %llu and index_size %llu reach beyond offset %llu", path,
				(unsigned long long)record->index_offset, (unsigned long long)blocks,
				(unsigned long long)limit);
	if (record->index_offset < data)
		return obd_fail(source->err, EINVAL,
				"%s: ZFile index_offset %llu lies before the data at offset %llu (dict_size %u)", path,
				(unsigned long long)record->index_offset, (unsigned long long)data, record->dict_size);
	expected = record->original_size / record->block_size + (record->original_size % record->block_size != 0);
	if (expected != blocks)
		return obd_fail(source->err, EINVAL, "%s: ZFile index_size: %llu, but %llu bytes are %llu blocks of %u",
				path, (unsigned long long)blocks, (unsigned long long)record->original_size,
				(unsigned long long)expected, record->block_size);
	// At least a byte each: so what is allocated below is bounded by what is stored.
	if (blocks > record->index_offset - data)
		return obd_fail(source->err, EIO, "%s: ZFile index_size: %llu blocks in %llu bytes", path,
				(unsigned long long)blocks, (unsigned long long)(record->index_offset - data));
	return 0;
}

/** Blocks from one that base knows to the next. */
static uint64_t known_blocks(const struct obd_zfile *zfile, bool lean)
{
	return lean ? OBD_ZFILE_STRIDE : UINT64_C(1) << zfile->group_shift;
}

static int table_init(struct obd_zfile *zfile, bool lean)
{
	const uint64_t known = zfile->blocks / known_blocks(zfile, lean) + 2;

	zfile->base = malloc((size_t)known * sizeof(*zfile->base));
	if (!lean)
		zfile->delta = malloc((size_t)(zfile->blocks + 1) * sizeof(*zfile->delta));
	return zfile->base && (lean || zfile->delta) ? 0 : -ENOMEM;
}

/**
 * Appends blocks [first, first + count) with these lengths to the table; zfile->end is where the first one begins,
 * group where its group does.
 */
static int table_append(struct obd_zfile *zfile, const struct source *source, uint64_t *group, uint64_t first,
			const uint8_t *lengths, uint64_t count)
{
	const uint32_t crc = zfile->verify ? CRC : 0;
	const uint32_t longest = zfile->block_size + zfile->block_size / 255 + 16 + LENGTH_SLACK + crc;
	const uint64_t group_mask = (UINT64_C(1) << zfile->group_shift) - 1, limit = zfile->index_offset;
	const uint64_t known = known_blocks(zfile, source->lean);
	const char *path = source->blob->path;

	for (uint64_t i = 0; i < count; i++) {
		const unsigned long long block = first + i;
		const uint32_t length = obd_le32(lengths, (size_t)i * 4);
		uint64_t before;

		if (!(block & group_mask))
			*group = zfile->end;
		if (!(block & (known - 1)))
			zfile->base[block / known] = zfile->end;
		before = zfile->end - *group;
		if (length <= crc)
			return obd_fail(source->err, EIO, "%s: ZFile index: block %llu has a stored length of %u", path,
					block, length);
		if (length > longest)
			return obd_fail(source->err, ERANGE,
					"%s: ZFile index: block %llu has a stored length of %u, at most %u", path,
					block, length, longest);
		if (before > GROUP_SUM_MAX)
			return obd_fail(source->err, ERANGE,
					"%s: ZFile index: block %llu begins %llu bytes after its group, at most %d",
					path, block, (unsigned long long)before, GROUP_SUM_MAX);
		if (length > limit - zfile->end)
			return obd_fail(source->err, EIO,
					"%s: ZFile index: block %llu ends beyond the data, which ends at offset %llu",
					path, block, (unsigned long long)limit);
		if (zfile->delta)
			zfile->delta[block] = (uint16_t)before;
		zfile->end += length;
		if (length > zfile->stored_max)
			zfile->stored_max = length;
	}
	return 0;
}

/**
 * Reads the index through buffer. The CRC is looked at before what the lengths say: when both are wrong, the index is
 * damaged, and that is the better message.
 */
static int read_index(struct obd_zfile *zfile, const struct source *source, const struct obd_zfile_record *record,
		      uint8_t *buffer)
{
	const uint64_t known = known_blocks(zfile, source->lean);
	uint64_t group = 0;
	int r, bad = 0;
	uint32_t crc = 0;

	for (uint64_t first = 0, count; first < zfile->blocks; first += count) {
		const uint64_t at = source->base + record->index_offset + first * 4;

		count = zfile->blocks - first < INDEX_CHUNK / 4 ? zfile->blocks - first : INDEX_CHUNK / 4;
		r = obd_blob_pread(source->blob, buffer, (size_t)count * 4, at);
		if (r)
			return obd_fail(source->err, -r, "%s: reading the ZFile index at offset %llu: %s",
					source->blob->path, (unsigned long long)at, strerror(-r));
		if (record->flags & OBD_ZFILE_DIGEST)
			crc = obd_crc32c(buffer, (size_t)count * 4, crc);
		else if (bad)
			return bad;
		if (!bad)
			bad = table_append(zfile, source, &group, first, buffer, count);
	}
	if (record->flags & OBD_ZFILE_DIGEST && crc != record->index_crc)
		return obd_fail(source->err, EBADMSG,
				"%s: ZFile index at offset %llu: its CRC is 0x%08x, index_crc says 0x%08x",
				source->blob->path, (unsigned long long)(source->base + record->index_offset), crc,
				record->index_crc);
	zfile->base[(zfile->blocks + known - 1) / known] = zfile->end;
	return bad;
}

static int zfile_init(struct obd_zfile *zfile, const struct source *source)
{
	struct obd_zfile_record record;
	uint8_t *buffer;
	int r = read_record_in_use(source, &record);

	if (r)
		return r;
	r = check_record(source, &record);
	if (r)
		return r;
	zfile->original_size = record.original_size;
	zfile->blocks = record.index_size;
	zfile->block_size = record.block_size;
	zfile->block_shift = (uint32_t)__builtin_ctz(record.block_size);
	zfile->group_shift = GROUP_SHIFT - zfile->block_shift;
	zfile->stored_max = 1;
	zfile->algo = record.algo;
	zfile->verify = record.verify != 0;
	zfile->end = RECORD + (uint64_t)record.dict_size;
	zfile->index_offset = record.index_offset;
	buffer = malloc(zfile->blocks < INDEX_CHUNK / 4 ? (size_t)zfile->blocks * 4 + 1 : INDEX_CHUNK);
	if (!buffer || table_init(zfile, source->lean))
		r = obd_fail(source->err, ENOMEM, "%s: no memory for the ZFile index of %llu blocks",
			     source->blob->path, (unsigned long long)zfile->blocks);
	else
		r = read_index(zfile, source, &record, buffer);
	free(buffer);
	return r;
}

int obd_zfile_open(const struct obd_blob *blob, uint64_t base, uint64_t size, bool lean, struct obd_zfile **ret,
		   struct obd_error *err)
{
	const struct source source = {blob, base, size, err, lean};
	struct obd_zfile *zfile = calloc(1, sizeof(*zfile));
	int r;

	if (!zfile)
		return obd_fail(err, ENOMEM, "%s: no memory", blob->path);
	r = zfile_init(zfile, &source);
	if (r) {
		obd_zfile_close(zfile);
		return r;
	}
	*ret = zfile;
	return 0;
}

void obd_zfile_close(struct obd_zfile *zfile)
{
	if (!zfile)
		return;
	free(zfile->base);
	free(zfile->delta);
	free(zfile);
}

uint64_t obd_zfile_memory(const struct obd_zfile *zfile)
{
	const bool lean = !zfile->delta;

	return sizeof(*zfile) + (zfile->blocks / known_blocks(zfile, lean) + 2) * sizeof(*zfile->base) +
	       (lean ? 0 : (zfile->blocks + 1) * sizeof(*zfile->delta));
}

int obd_zfile_read_stride(const struct obd_zfile *zfile, const struct obd_blob *blob, uint64_t base, uint64_t stride,
			  uint32_t offsets[OBD_ZFILE_STRIDE + 1])
{
	const uint64_t first = stride * OBD_ZFILE_STRIDE, left = zfile->blocks - first;
	const size_t count = left < OBD_ZFILE_STRIDE ? (size_t)left : OBD_ZFILE_STRIDE;
	int r = obd_blob_pread(blob, offsets, count * sizeof(*offsets), base + zfile->index_offset + first * 4);
	uint32_t at = 0;

	if (r)
		return r;
	for (size_t i = 0; i < count; i++) {
		const uint32_t length = obd_le32((const uint8_t *)offsets, i * sizeof(*offsets));

		if (!length || length > zfile->stored_max)
			return -EIO;
		offsets[i] = at;
		at += length;
	}
	offsets[count] = at;
	return at == zfile->base[stride + 1] - zfile->base[stride] ? 0 : -EIO;
}

/* ---- decoding ---- */

struct obd_codec {
	ZSTD_DCtx *zstd;
};

int obd_codec_create(struct obd_codec **ret)
{
	struct obd_codec *codec = calloc(1, sizeof(*codec));

	if (!codec)
		return -ENOMEM;
	codec->zstd = ZSTD_createDCtx();
	if (!codec->zstd) {
		free(codec);
		return -ENOMEM;
	}
	*ret = codec;
	return 0;
}

void obd_codec_destroy(struct obd_codec *codec)
{
	if (!codec)
		return;
	ZSTD_freeDCtx(codec->zstd);
	free(codec);
}

static int decode_lz4(const uint8_t *payload, size_t count, void *dst, size_t capacity, uint32_t length, uint32_t need)
{
	int r;

	if (need < length) {
		// Older versions of LZ4 go on beyond need, up to the capacity they are told.
		r = LZ4_decompress_safe_partial((const char *)payload, dst, (int)count, (int)need, (int)length);
		return r < (int)need ? -EIO : r;
	}
	if (capacity > OBD_ZFILE_BLOCK_MAX)
		capacity = OBD_ZFILE_BLOCK_MAX;
	r = LZ4_decompress_safe((const char *)payload, dst, (int)count, (int)capacity);
	return r != (int)length ? -EIO : r;
}

static int decode_zstd(ZSTD_DCtx *context, const uint8_t *payload, size_t count, void *dst, size_t capacity,
		       uint32_t length)
{
	// One frame of today's format: behind other magics the library keeps decoders of old formats, which allocate.
	if (count < 4 || obd_le32(payload, 0) != ZSTD_MAGICNUMBER ||
	    ZSTD_findFrameCompressedSize(payload, count) != count)
		return -EIO;
	// An error is a value near SIZE_MAX, never a length.
	return ZSTD_decompressDCtx(context, dst, capacity, payload, count) != length ? -EIO : (int)length;
}

int obd_zfile_decode(const struct obd_zfile *zfile, struct obd_codec *codec, uint64_t block, const void *stored,
		     size_t stored_count, void *dst, size_t capacity, size_t need)
{
	const uint32_t length = obd_zfile_block_length(zfile, block);
	const size_t crc = zfile->verify ? CRC : 0;
	const uint8_t *payload = stored;
	size_t count;

	if (stored_count <= crc || stored_count > zfile->stored_max || capacity < length)
		return -EIO;
	count = stored_count - crc;
	if (zfile->verify && obd_crc32c(payload, count, OBD_ZFILE_SEED) != obd_le32(payload, count))
		return -EUCLEAN;
	if (zfile->algo == OBD_LZ4)
		return decode_lz4(payload, count, dst, capacity, length, (uint32_t)need);
	return decode_zstd(codec->zstd, payload, count, dst, capacity, length);
}
