/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LSMT, the read-only kinds: committed, sealed and merged layers. The trailer counts, the header only names the kind.
 *
 *     0             header, 4096 bytes
 *     4096          data, addressed in sectors from the start of the stream
 *     index_offset  entries of 16 bytes; they need not reach to the trailer
 *     size - 4096   trailer, laid out like the header
 *
 * The layout of records and entries: lsmt_record.h.
 */
#include "lsmt.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "little_endian.h"
#include "lsmt_record.h"

static int read_stream(const struct obd_stream *stream, void *buf, size_t count, uint64_t offset, const char *what,
		       struct obd_error *err)
{
	int r = stream->pread(stream->opaque, buf, count, offset);

	if (r)
		return obd_fail(err, -r, "%s: reading the LSMT %s at offset %llu: %s", stream->name, what,
				(unsigned long long)offset, strerror(-r));
	return 0;
}

/** A record whose flags under mask are wanted. */
static int read_record(const struct obd_stream *stream, uint8_t *record, uint64_t offset, const char *what,
		       uint32_t mask, uint32_t wanted, struct obd_error *err)
{
	int r = read_stream(stream, record, OBD_LSMT_RECORD, offset, what, err);

	if (r)
		return r;
	if (!obd_lsmt_has_magic(record))
		return obd_fail(err, EINVAL, "%s: no LSMT magic in the %s at offset %llu", stream->name, what,
				(unsigned long long)offset);
	if ((obd_le32(record, 28) & mask) != wanted)
		return obd_fail(err, EINVAL,
				"%s: LSMT flags at offset %llu: 0x%x are not those of a read-only layer's %s",
				stream->name, (unsigned long long)(offset + 28), obd_le32(record, 28), what);
	return 0;
}

static int parse_trailer(const struct obd_stream *stream, const uint8_t *trailer, struct obd_lsmt *ret,
			 struct obd_error *err)
{
	const uint64_t limit = stream->size - OBD_LSMT_RECORD;
	const uint64_t index_offset = obd_le64(trailer, 32), entries = obd_le64(trailer, 40);
	const char *fault;

	ret->virtual_size = obd_le64(trailer, 48);
	ret->sparse = (obd_le32(trailer, 28) & OBD_LSMT_SPARSE) != 0;
	obd_uuid_parse(trailer + 56, ret->uuid);
	obd_uuid_parse(trailer + 93, ret->parent_uuid);
	memcpy(ret->message, trailer + 134, OBD_LSMT_MESSAGE);
	ret->index_offset = index_offset;
	ret->entries = entries;
	if (entries > OBD_LSMT_ENTRIES_MAX)
		return obd_fail(err, EFBIG, "%s: LSMT index_size: %llu entries, at most %d", stream->name,
				(unsigned long long)entries, OBD_LSMT_ENTRIES_MAX);
	if (index_offset < OBD_LSMT_RECORD || index_offset > limit || entries * OBD_LSMT_ENTRY > limit - index_offset)
		return obd_fail(
			err, EINVAL,
			"%s: LSMT index_offset %llu and index_size %llu do not lie between offsets 4096 and %llu",
			stream->name, (unsigned long long)index_offset, (unsigned long long)entries,
			(unsigned long long)limit);
	fault = obd_lsmt_size_fault(ret->virtual_size);
	if (fault)
		return obd_fail(err, EINVAL, "%s: LSMT virtual_size: %llu %s", stream->name,
				(unsigned long long)ret->virtual_size, fault);
	return 0;
}

/** Appends the entries that say something. at: stream offset of the first, for messages. */
static int append_entries(const struct obd_stream *stream, const uint8_t *raw, size_t count, uint64_t at,
			  uint64_t data_end, uint64_t *behind, struct obd_segments *segments, struct obd_error *err)
{
	for (size_t i = 0; i < count; i++, at += OBD_LSMT_ENTRY) {
		const uint64_t word0 = obd_le64(raw, i * OBD_LSMT_ENTRY), word1 = obd_le64(raw, i * OBD_LSMT_ENTRY + 8);
		const uint64_t sector = word0 & (OBD_LSMT_SECTORS_MAX - 1), length = word0 >> 50;
		const uint64_t map = word1 & (OBD_MSECTOR_MASK | OBD_ZEROED);
		const char *fault;

		// Upstream appends an entry of length 0 for a write of nothing; it covers nothing.
		if (sector == OBD_LSMT_PADDING || !length)
			continue;
		fault = obd_lsmt_entry_fault(sector, length, obd_map_msector(map), obd_map_zeroed(map), data_end);
		if (sector < *behind)
			fault = "begins before the one in front of it ends";
		if (fault)
			return obd_fail(err, EINVAL,
					"%s: LSMT index entry at offset %llu (sector %llu, length %llu, place %llu) %s",
					stream->name, (unsigned long long)at, (unsigned long long)sector,
					(unsigned long long)length, (unsigned long long)obd_map_msector(map), fault);
		if (segments) {
			segments->key[segments->count] = obd_key(sector, length);
			segments->map[segments->count++] = map;
		}
		*behind = sector + length;
	}
	return 0;
}

int obd_lsmt_read(const struct obd_stream *stream, const struct obd_lsmt *lsmt, uint64_t first, size_t count,
		  uint8_t *buffer, uint64_t *behind, struct obd_segments *segments, struct obd_error *err)
{
	const uint64_t at = lsmt->index_offset + first * OBD_LSMT_ENTRY;
	int r = read_stream(stream, buffer, count * OBD_LSMT_ENTRY, at, "index", err);

	return r ? r
		 : append_entries(stream, buffer, count, at, lsmt->index_offset / OBD_SECTOR, behind, segments, err);
}

/** Gives back what padding entries would have taken. */
static void shrink(uint64_t **words, size_t count)
{
	uint64_t *less = realloc(*words, (count ? count : 1) * sizeof(**words));

	if (less)
		*words = less;
}

static int read_index(const struct obd_stream *stream, struct obd_lsmt *lsmt, uint8_t *buffer, struct obd_error *err)
{
	struct obd_segments *segments = lsmt->lean ? NULL : &lsmt->segments;
	const uint64_t entries = lsmt->entries;
	uint64_t behind = 0;

	if (segments) {
		segments->key = malloc((size_t)(entries + 1) * sizeof(*segments->key));
		segments->map = malloc((size_t)(entries + 1) * sizeof(*segments->map));
		if (!segments->key || !segments->map)
			return obd_fail(err, ENOMEM, "%s: no memory for %llu segments", stream->name,
					(unsigned long long)entries);
	}
	for (uint64_t first = 0, count; first < entries; first += count) {
		int r;

		count = entries - first < OBD_LSMT_CHUNK ? entries - first : OBD_LSMT_CHUNK;
		r = obd_lsmt_read(stream, lsmt, first, (size_t)count, buffer, &behind, segments, err);
		if (r)
			return r;
	}
	if (segments) {
		shrink(&segments->key, segments->count);
		shrink(&segments->map, segments->count);
	}
	return 0;
}

static int lsmt_init(const struct obd_stream *stream, uint8_t *buffer, struct obd_lsmt *ret, struct obd_error *err)
{
	int r;

	if (stream->size < 2 * OBD_LSMT_RECORD)
		return obd_fail(err, EINVAL, "%s: LSMT stream of %llu bytes, a layer has at least 8192", stream->name,
				(unsigned long long)stream->size);
	// A sealed layer keeps the header of the writable one it was, so sealed is not asked of the header.
	r = read_record(stream, buffer, 0, "header", OBD_LSMT_HEADER | OBD_LSMT_DATA, OBD_LSMT_HEADER | OBD_LSMT_DATA,
			err);
	if (r)
		return r;
	r = read_record(stream, buffer, stream->size - OBD_LSMT_RECORD, "trailer",
			OBD_LSMT_HEADER | OBD_LSMT_DATA | OBD_LSMT_SEALED, OBD_LSMT_DATA | OBD_LSMT_SEALED, err);
	if (r)
		return r;
	r = parse_trailer(stream, buffer, ret, err);
	if (r)
		return r;
	return read_index(stream, ret, buffer, err);
}

int obd_lsmt_open(const struct obd_stream *stream, bool lean, struct obd_lsmt *ret, struct obd_error *err)
{
	uint8_t *buffer = malloc(OBD_LSMT_CHUNK * OBD_LSMT_ENTRY);
	int r;

	memset(ret, 0, sizeof(*ret));
	ret->lean = lean;
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
