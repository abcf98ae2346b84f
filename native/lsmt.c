/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LSMT, the read-only kinds: committed, sealed and merged layers. The trailer counts, the header only names the kind.
 *
 *     0             header, 4096 bytes
 *     4096          data, addressed in sectors from the start of the stream
 *     index_offset  entries of 16 bytes; they need not reach to the trailer
 *     size - 4096   trailer, laid out like the header
 *
 *     offset  size  field of both records            entry    bits  field
 *          0    24  magic                            word 0   0-49  sector (2^50 - 1: padding)
 *         28     4  flags: 0 header, 1 data file,            50-63  length in sectors
 *                   2 sealed, 4 was sparse           word 1   0-54  sector in the stream
 *         32     8  index_offset                                55  zeroed
 *         40     8  index_size: entries                      56-63  tag, of no meaning here
 *         48     8  virtual_size
 *         56    37  uuid, text
 *         93    37  uuid of the layer below
 *        134   256  commit message
 */
#include "lsmt.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "little_endian.h"

enum {
	RECORD = 4096,
	ENTRY = 16,
	SECTOR = 512,
	ENTRIES_MAX = 1000000, /**< padding included */
	INDEX_CHUNK = 64 * 1024,
	UUID_LENGTH = 36,
	MESSAGE = 256,
	DATA_SECTOR = RECORD / SECTOR, /**< where data begins */
};

enum { FLAG_HEADER = 1, FLAG_DATA = 2, FLAG_SEALED = 4, FLAG_SPARSE = 16 };

#define SECTORS_MAX (UINT64_C(1) << 50)
#define PADDING_SECTOR (SECTORS_MAX - 1)

static int read_stream(const struct obd_stream *stream, void *buf, size_t count, uint64_t offset, const char *what,
		       struct obd_error *err)
{
	int r = stream->pread(stream->opaque, buf, count, offset);

	if (r)
		return obd_fail(err, -r, "%s: reading the LSMT %s at offset %llu: %s", stream->name, what,
				(unsigned long long)offset, strerror(-r));
	return 0;
}

static bool has_magic(const uint8_t *record)
{
	static const uint8_t magic[24] = {'L',	'S',  'M',  'T',  0,	1,    2,    0,	  0x65, 0x7E, 0x63, 0xD2,
					  0x94, 0x44, 0x08, 0x4C, 0xA2, 0xD2, 0xC8, 0xEC, 0x4F, 0xCF, 0xAE, 0x8A};

	return !memcmp(record, magic, sizeof(magic));
}

/** A record whose flags under mask are wanted. */
static int read_record(const struct obd_stream *stream, uint8_t *record, uint64_t offset, const char *what,
		       uint32_t mask, uint32_t wanted, struct obd_error *err)
{
	int r = read_stream(stream, record, RECORD, offset, what, err);

	if (r)
		return r;
	if (!has_magic(record))
		return obd_fail(err, EINVAL, "%s: no LSMT magic in the %s at offset %llu", stream->name, what,
				(unsigned long long)offset);
	if ((obd_le32(record, 28) & mask) != wanted)
		return obd_fail(err, EINVAL,
				"%s: LSMT flags at offset %llu: 0x%x are not those of a read-only layer's %s",
				stream->name, (unsigned long long)(offset + 28), obd_le32(record, 28), what);
	return 0;
}

/** Leaves ret "" for the null uuid and for what is none. A digit where a dash belongs passes, as it does upstream. */
static void parse_uuid(const uint8_t *text, char *ret)
{
	bool any = false;

	for (size_t i = 0; i < UUID_LENGTH; i++) {
		bool dash = text[i] == '-' && (i == 8 || i == 13 || i == 18 || i == 23);

		if (!dash && !isxdigit(text[i]))
			return;
		any |= !dash && text[i] != '0';
	}
	if (any)
		memcpy(ret, text, UUID_LENGTH);
}

static int parse_trailer(const struct obd_stream *stream, const uint8_t *trailer, struct obd_lsmt *ret,
			 struct obd_error *err)
{
	const uint64_t limit = stream->size - RECORD;
	const uint64_t index_offset = obd_le64(trailer, 32), entries = obd_le64(trailer, 40);

	ret->virtual_size = obd_le64(trailer, 48);
	ret->sparse = (obd_le32(trailer, 28) & FLAG_SPARSE) != 0;
	parse_uuid(trailer + 56, ret->uuid);
	parse_uuid(trailer + 93, ret->parent_uuid);
	memcpy(ret->message, trailer + 134, MESSAGE);
	if (entries > ENTRIES_MAX)
		return obd_fail(err, EFBIG, "%s: LSMT index_size: %llu entries, at most %d", stream->name,
				(unsigned long long)entries, ENTRIES_MAX);
	if (index_offset < RECORD || index_offset > limit || entries * ENTRY > limit - index_offset)
		return obd_fail(
			err, EINVAL,
			"%s: LSMT index_offset %llu and index_size %llu do not lie between offsets 4096 and %llu",
			stream->name, (unsigned long long)index_offset, (unsigned long long)entries,
			(unsigned long long)limit);
	if (ret->virtual_size % SECTOR)
		return obd_fail(err, EINVAL, "%s: LSMT virtual_size: %llu is not a multiple of 512", stream->name,
				(unsigned long long)ret->virtual_size);
	if (ret->virtual_size / SECTOR > SECTORS_MAX)
		return obd_fail(err, EINVAL, "%s: LSMT virtual_size: %llu is more than an index can address",
				stream->name, (unsigned long long)ret->virtual_size);
	return 0;
}

/** Why the segment [sector, sector + length) at place cannot be; NULL when it can. data_end: sectors. */
static const char *entry_fault(uint64_t sector, uint64_t length, uint64_t place, bool zeroed, uint64_t data_end)
{
	if (sector + length > SECTORS_MAX)
		return "ends beyond sector 2^50";
	if (place < DATA_SECTOR || place > data_end || (!zeroed && length > data_end - place))
		return "is mapped outside the layer's data";
	return NULL;
}

/** Appends the entries that say something. at: stream offset of the first, for messages. */
static int append_entries(const struct obd_stream *stream, const uint8_t *raw, size_t count, uint64_t at,
			  uint64_t data_end, struct obd_segments *segments, struct obd_error *err)
{
	uint64_t behind = segments->count ? obd_key_end(segments->key[segments->count - 1]) : 0;

	for (size_t i = 0; i < count; i++, at += ENTRY) {
		const uint64_t word0 = obd_le64(raw, i * ENTRY), word1 = obd_le64(raw, i * ENTRY + 8);
		const uint64_t sector = word0 & (SECTORS_MAX - 1), length = word0 >> 50;
		const uint64_t map = word1 & (OBD_MSECTOR_MASK | OBD_ZEROED);
		const char *fault;

		// Upstream appends an entry of length 0 for a write of nothing; it covers nothing.
		if (sector == PADDING_SECTOR || !length)
			continue;
		fault = entry_fault(sector, length, obd_map_msector(map), obd_map_zeroed(map), data_end);
		if (sector < behind)
			fault = "begins before the one in front of it ends";
		if (fault)
			return obd_fail(err, EINVAL,
					"%s: LSMT index entry at offset %llu (sector %llu, length %llu, place %llu) %s",
					stream->name, (unsigned long long)at, (unsigned long long)sector,
					(unsigned long long)length, (unsigned long long)obd_map_msector(map), fault);
		segments->key[segments->count] = obd_key(sector, length);
		segments->map[segments->count++] = map;
		behind = sector + length;
	}
	return 0;
}

/** Gives back what padding entries would have taken. */
static void shrink(uint64_t **words, size_t count)
{
	uint64_t *less = realloc(*words, (count ? count : 1) * sizeof(**words));

	if (less)
		*words = less;
}

static int read_index(const struct obd_stream *stream, uint64_t offset, uint64_t entries, uint8_t *buffer,
		      struct obd_segments *segments, struct obd_error *err)
{
	const uint64_t data_end = offset / SECTOR;

	segments->key = malloc((size_t)(entries + 1) * sizeof(*segments->key));
	segments->map = malloc((size_t)(entries + 1) * sizeof(*segments->map));
	if (!segments->key || !segments->map)
		return obd_fail(err, ENOMEM, "%s: no memory for %llu segments", stream->name,
				(unsigned long long)entries);
	while (entries) {
		const size_t count = entries < INDEX_CHUNK / ENTRY ? (size_t)entries : INDEX_CHUNK / ENTRY;
		int r = read_stream(stream, buffer, count * ENTRY, offset, "index", err);

		if (!r)
			r = append_entries(stream, buffer, count, offset, data_end, segments, err);
		if (r)
			return r;
		entries -= count;
		offset += count * ENTRY;
	}
	shrink(&segments->key, segments->count);
	shrink(&segments->map, segments->count);
	return 0;
}

static int lsmt_init(const struct obd_stream *stream, uint8_t *buffer, struct obd_lsmt *ret, struct obd_error *err)
{
	int r;

	if (stream->size < 2 * RECORD)
		return obd_fail(err, EINVAL, "%s: LSMT stream of %llu bytes, a layer has at least 8192", stream->name,
				(unsigned long long)stream->size);
	// A sealed layer keeps the header of the writable one it was, so sealed is not asked of the header.
	r = read_record(stream, buffer, 0, "header", FLAG_HEADER | FLAG_DATA, FLAG_HEADER | FLAG_DATA, err);
	if (r)
		return r;
	r = read_record(stream, buffer, stream->size - RECORD, "trailer", FLAG_HEADER | FLAG_DATA | FLAG_SEALED,
			FLAG_DATA | FLAG_SEALED, err);
	if (r)
		return r;
	r = parse_trailer(stream, buffer, ret, err);
	if (r)
		return r;
	return read_index(stream, obd_le64(buffer, 32), obd_le64(buffer, 40), buffer, &ret->segments, err);
}

int obd_lsmt_open(const struct obd_stream *stream, struct obd_lsmt *ret, struct obd_error *err)
{
	uint8_t *buffer = malloc(INDEX_CHUNK);
	int r;

	memset(ret, 0, sizeof(*ret));
	if (!buffer)
		return obd_fail(err, ENOMEM, "%s: no memory", stream->name);
	r = lsmt_init(stream, buffer, ret, err);
	free(buffer);
	if (r)
		obd_lsmt_deinit(ret);
	return r;
}

void obd_lsmt_deinit(struct obd_lsmt *lsmt)
{
	obd_segments_deinit(&lsmt->segments);
}
