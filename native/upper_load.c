/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading a writable layer's files, whatever was done to them. What is believed of an index file:
 *
 *     our last checkpoint says     entries it confirms    entries behind it
 *     closed                       all                    all: the original has written since
 *     open, in this boot           all                    all: the page cache had them when the writer was killed
 *     open, in another one         all                    none: a power cut may have kept them and lost their data
 *     failed                       all                    none: the disk has refused their data
 *     nothing: there is none       -                      all: the original's file
 *
 * Of those "all", entries at the end whose data is not in the file are what a power cut leaves of the original's
 * writes: they are left out. An entry that makes no sense in front of ones that do is damage, and refused.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "feed.h"
#include "full_io.h"
#include "little_endian.h"
#include "lsmt_record.h"
#include "upper.h"
#include "upper_checkpoint.h"

enum { CHUNK = 64 * 1024, ENTRIES_MAX = 128000000, UNIT = 4096, UNIT_MAX = 1024 * 1024 };

/* ---- headers ---- */

static int read_header(int fd, const char *path, uint8_t *header, uint32_t mask, uint32_t wanted, struct obd_error *err)
{
	int r = obd_pread_full(fd, header, OBD_LSMT_RECORD, 0);

	if (r)
		return obd_fail(err, r == -EIO ? EINVAL : -r, "%s: reading the LSMT header: %s", path,
				r == -EIO ? "the file is shorter than 4096 bytes" : strerror(-r));
	if (!obd_lsmt_has_magic(header))
		return obd_fail(err, EINVAL, "%s: no LSMT magic in the header at offset 0", path);
	if ((obd_le32(header, 28) & mask) != wanted)
		return obd_fail(err, EINVAL, "%s: LSMT flags at offset 28: 0x%x are not those of a writable layer's %s",
				path, obd_le32(header, 28), mask == OBD_LSMT_HEADER ? "data file" : "index file");
	return 0;
}

static int take_size(struct obd_upper *upper, const char *path, const uint8_t *header, struct obd_upper_found *found,
		     struct obd_error *err)
{
	const uint64_t size = obd_le64(header, 48);
	const char *fault = obd_lsmt_size_fault(size);

	if (fault)
		return obd_fail(err, EINVAL, "%s: LSMT virtual_size: %llu %s", path, (unsigned long long)size, fault);
	/* a crash may have come between the two headers when the size was stated; the index file's counts, if it has
	 * one */
	found->sizes_differ = size != upper->virtual_size;
	if (size)
		upper->virtual_size = size;
	return 0;
}

/* ---- entries ---- */

struct replay {
	struct obd_upper *upper;
	obd_upper_entry_seen *seen; /* NULL: they are only checked */
	void *opaque;
	struct obd_task *task;
	uint64_t behind; /* behind the last entry that was believed */
	uint64_t bad_at; /* where the first one that was not is, 0: none */
	uint64_t bad;
	const char *fault;
};

static int damaged(const struct replay *replay, struct obd_error *err)
{
	return obd_fail(err, EINVAL,
			"%s: LSMT index entry at offset %llu %s, and this is not the end of the file's content",
			replay->upper->index_path, (unsigned long long)replay->bad_at, replay->fault);
}

static int replay_entry(struct replay *replay, const uint8_t *entry, uint64_t at, struct obd_error *err)
{
	const uint64_t word0 = obd_le64(entry, 0), word1 = obd_le64(entry, 8);
	const uint64_t sector = word0 & (OBD_LSMT_SECTORS_MAX - 1), length = word0 >> 50;
	const uint64_t map = word1 & (OBD_MSECTOR_MASK | OBD_ZEROED);
	const struct obd_upper *upper = replay->upper;
	const char *fault;
	int r;

	/* no entry: padding, a page that a power cut has lost, or the original's note of a write of nothing */
	if (sector == OBD_LSMT_PADDING || !length)
		return 0;
	fault = obd_lsmt_entry_fault(sector, length, obd_map_msector(map), obd_map_zeroed(map),
				     upper->data_size / OBD_SECTOR);
	if (fault) {
		if (!replay->bad++) {
			replay->bad_at = at;
			replay->fault = fault;
		}
		return at < upper->confirmed ? damaged(replay, err) : 0;
	}
	if (replay->bad)
		return damaged(replay, err);
	r = replay->seen ? replay->seen(replay->opaque, sector, length, map, err) : 0;
	replay->behind = at + OBD_LSMT_ENTRY;
	return r;
}

static int replay_all(struct replay *replay, struct obd_error *err)
{
	const uint64_t to = replay->upper->believed;
	uint8_t *buffer = malloc(CHUNK);
	int r = 0;

	if (!buffer)
		return obd_fail(err, ENOMEM, "%s: no memory", replay->upper->index_path);
	for (uint64_t from = OBD_LSMT_RECORD; from < to && !r; from += CHUNK) {
		const size_t count = to - from < CHUNK ? (size_t)(to - from) : CHUNK;

		r = obd_pread_full(replay->upper->index_fd, buffer, count, from);
		if (r)
			obd_fail(err, -r, "%s: reading %zu bytes at offset %llu: %s", replay->upper->index_path, count,
				 (unsigned long long)from, strerror(-r));
		else if (obd_task_stopped(replay->task))
			r = obd_fail(err, ECANCELED, "stopped");
		for (size_t i = 0; i < count && !r; i += OBD_LSMT_ENTRY)
			r = replay_entry(replay, buffer + i, from + i, err);
	}
	free(buffer);
	return r;
}

int obd_upper_replay(struct obd_upper *upper, obd_upper_entry_seen *seen, void *opaque, struct obd_task *task,
		     struct obd_error *err)
{
	struct replay replay = {.upper = upper, .seen = seen, .opaque = opaque, .task = task};

	return replay_all(&replay, err);
}

static int into_map(void *opaque, uint64_t sector, uint64_t length, uint64_t map, struct obd_error *err)
{
	struct obd_upper *upper = opaque;

	if (obd_upper_index_reserve(&upper->map, 1))
		return obd_fail(err, ENOMEM, "%s: no memory for the segments", upper->layer.blob->path);
	obd_upper_index_set(&upper->map, sector, length, map, NULL, NULL);
	return 0;
}

/*
 * The map of a layer that is opened to be sealed, whose index file is longer than what is held of one: it is replayed
 * strip by strip. No sealed layer has more segments than the map may have here.
 */
static int load_in_order(struct obd_upper *upper, struct obd_error *err)
{
	struct obd_feed feed;
	int r;

	upper->lean = true;
	r = obd_feed_init(&feed, &upper->layer, upper, obd_feed_budget(), NULL, err);
	while (!r) {
		r = obd_feed_fill(&feed, err);
		for (; !r && feed.at < feed.segments.count; feed.at++) {
			const uint64_t key = feed.segments.key[feed.at], map = feed.segments.map[feed.at];

			r = into_map(upper, obd_key_sector(key), obd_key_length(key), map, err);
			if (!r && upper->map.segments > OBD_LSMT_ENTRIES_MAX)
				r = obd_fail(err, EFBIG,
					     "%s: more than %d segments, a sealed layer has no more; commit it instead",
					     upper->layer.blob->path, OBD_LSMT_ENTRIES_MAX);
		}
		if (feed.ended)
			break;
	}
	obd_feed_deinit(&feed);
	upper->lean = false;
	return r;
}

/* For the log only: what cannot be read is not counted. */
static uint64_t count_entries(const struct obd_upper *upper, uint64_t from, uint64_t to)
{
	uint8_t *buffer = malloc(CHUNK);
	uint64_t found = 0;

	for (; buffer && from < to; from += CHUNK) {
		const size_t count = to - from < CHUNK ? (size_t)(to - from) : CHUNK;

		if (obd_pread_full(upper->index_fd, buffer, count, from))
			break;
		for (size_t i = 0; i < count; i += OBD_LSMT_ENTRY)
			found += obd_le64(buffer, i) >> 50 != 0;
	}
	free(buffer);
	return found;
}

/* ---- append-only ---- */

/* Up to where entries are believed. */
static int believe(struct obd_upper *upper, const uint8_t *header, struct obd_upper_found *found, struct obd_error *err)
{
	struct obd_checkpoint checkpoint;
	const uint64_t whole = found->index_size - (found->index_size - OBD_LSMT_RECORD) % OBD_LSMT_ENTRY;
	const char *path = upper->layer.blob->path;
	int r = obd_checkpoint_latest(header, upper->index_fd, &checkpoint);

	if (r < 0)
		return obd_fail(err, -r, "%s: reading what was confirmed: %s", upper->index_path, strerror(-r));
	upper->believed = whole;
	upper->confirmed = upper->confirmed_data = OBD_LSMT_RECORD;
	if (!r)
		return 0;
	upper->sequence = checkpoint.sequence;
	upper->confirmed = checkpoint.index_end;
	upper->confirmed_data = checkpoint.data_end;
	if (checkpoint.data_end > found->data_size)
		return obd_fail(err, EINVAL, "%s: ends at offset %llu, but data up to offset %llu was confirmed", path,
				(unsigned long long)found->data_size, (unsigned long long)checkpoint.data_end);
	if (checkpoint.state == OBD_CHECKPOINT_CLOSED ||
	    (checkpoint.state == OBD_CHECKPOINT_OPEN && obd_checkpoint_same_boot(&checkpoint)))
		return 0;
	upper->believed = checkpoint.index_end;
	upper->data_end = checkpoint.data_end;
	upper->dropped = count_entries(upper, upper->believed, whole);
	return 0;
}

static int load_append(struct obd_upper *upper, uint8_t *header, struct obd_upper_found *found, struct obd_error *err)
{
	struct replay replay = {.upper = upper, .opaque = upper, .behind = OBD_LSMT_RECORD};
	const bool to_seal = upper->map.exact && !upper->read_only;
	bool in_order = false;
	int r = read_header(upper->index_fd, upper->index_path, header,
			    OBD_LSMT_HEADER | OBD_LSMT_DATA | OBD_LSMT_SEALED, OBD_LSMT_HEADER, err);

	if (r)
		return r;
	if (obd_le64(header, 32) != OBD_LSMT_RECORD)
		return obd_fail(err, EINVAL, "%s: LSMT index_offset: %llu, in an index file it is 4096",
				upper->index_path, (unsigned long long)obd_le64(header, 32));
	memset(upper->uuid, 0, sizeof(upper->uuid));
	obd_uuid_parse(header + 56, upper->uuid);
	r = take_size(upper, upper->index_path, header, found, err);
	if (r)
		return r;
	if ((found->index_size - OBD_LSMT_RECORD) / OBD_LSMT_ENTRY > ENTRIES_MAX)
		return obd_fail(err, EFBIG, "%s: %llu entries, at most %d", upper->index_path,
				(unsigned long long)(found->index_size - OBD_LSMT_RECORD) / OBD_LSMT_ENTRY,
				ENTRIES_MAX);
	upper->data_end = (found->data_size + OBD_SECTOR - 1) / OBD_SECTOR * OBD_SECTOR;
	r = believe(upper, header, found, err);
	if (r)
		return r;
	in_order = to_seal && (upper->believed - OBD_LSMT_RECORD) / OBD_LSMT_ENTRY > obd_feed_budget();
	replay.seen = upper->lean || in_order ? NULL : into_map;
	r = replay_all(&replay, err);
	if (!r && in_order)
		r = load_in_order(upper, err);
	if (r)
		return r;
	upper->dropped += replay.bad;
	/* a confirmed end that is padding stays: the checkpoint's sum covers it */
	upper->index_end = replay.behind > upper->confirmed ? replay.behind : upper->confirmed;
	return 0;
}

/* ---- sparse ---- */

static int load_extent(struct obd_upper *upper, uint64_t begin, uint64_t end, struct obd_error *err)
{
	uint64_t sector = (begin - OBD_LSMT_RECORD) / OBD_SECTOR, stop = (end - OBD_LSMT_RECORD) / OBD_SECTOR;
	int r = 0;

	while (sector < stop && !r) {
		uint64_t length = stop - sector < OBD_LSMT_LENGTH_MAX ? stop - sector : OBD_LSMT_LENGTH_MAX;

		r = into_map(upper, sector, length, sector + OBD_LSMT_DATA_SECTOR, err);
		sector += length;
	}
	return r;
}

int obd_upper_extent(const struct obd_upper *upper, uint64_t *begin, uint64_t *end, struct obd_error *err)
{
	const int fd = upper->layer.blob->fd;
	const uint64_t size = upper->data_size - upper->data_size % OBD_SECTOR, from = *begin;
	off_t data, hole;

	if (from >= size)
		return 0;
	data = lseek(fd, (off_t)from, SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
	if (hole < 0)
		return obd_fail(err, errno, "%s: looking for data from offset %llu on: %s", upper->layer.blob->path,
				(unsigned long long)from, strerror(errno));
	*begin = (uint64_t)data - (uint64_t)data % OBD_SECTOR;
	*end = ((uint64_t)hole + OBD_SECTOR - 1) / OBD_SECTOR * OBD_SECTOR;
	*end = *end < size ? *end : size;
	return 1;
}

/* The file system knows what was written: every extent with data is a segment. */
static int load_sparse(struct obd_upper *upper, struct obd_error *err)
{
	uint64_t begin = OBD_LSMT_RECORD, end = 0;
	int r;

	for (; (r = obd_upper_extent(upper, &begin, &end, err)) > 0; begin = end) {
		r = load_extent(upper, begin, end, err);
		if (r)
			break;
	}
	return r;
}

/* ---- both ---- */

static int file_size(int fd, const char *path, uint64_t *ret, uint64_t *unit, struct obd_error *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return obd_fail(err, errno, "%s: fstat: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return obd_fail(err, EINVAL, "%s: is not a regular file", path);
	*ret = (uint64_t)st.st_size;
	*unit = (uint64_t)st.st_blksize;
	if (*unit < OBD_SECTOR || *unit > UNIT_MAX || *unit & (*unit - 1))
		*unit = UNIT;
	return 0;
}

int obd_upper_load(struct obd_upper *upper, struct obd_upper_found *found, struct obd_error *err)
{
	const struct obd_blob *blob = upper->layer.blob;
	uint8_t header[OBD_LSMT_RECORD];
	int r = file_size(blob->fd, blob->path, &found->data_size, &upper->unit, err);

	if (!r)
		r = read_header(blob->fd, blob->path, header, OBD_LSMT_HEADER, OBD_LSMT_HEADER, err);
	if (!r)
		r = take_size(upper, blob->path, header, found, err);
	if (r)
		return r;
	upper->data_size = found->data_size;
	upper->sparse = (obd_le32(header, 28) & OBD_LSMT_SPARSE) != 0;
	obd_uuid_parse(header + 56, upper->uuid);
	obd_uuid_parse(header + 93, upper->parent_uuid);
	found->sizes_differ = false;
	if (upper->sparse)
		return upper->lean ? 0 : load_sparse(upper, err);
	if (upper->index_fd < 0)
		return obd_fail(err, EINVAL, "%s: an append-only layer, and no index file is named", blob->path);
	r = file_size(upper->index_fd, upper->index_path, &found->index_size, &upper->unit, err);
	return r ? r : load_append(upper, header, found, err);
}
