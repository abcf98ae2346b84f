/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where segments come from, in order:
 *
 *     read-only       its index, which is in order on the disk
 *     sparse          the file system's extents
 *     append-only     its index file, which is in the order of time: it is replayed for a strip of the disk that has no
 *                     more segments than the budget, then for the strip behind that, and so on
 *
 * Nobody knows beforehand how wide a strip may be. So each begins as wide as the rest of the disk, and whenever there
 * are too many segments the upper half of them goes and the strip ends there.
 *
 *     |  done  |  strip: begin ......... stop  |    later    |
 *
 * The map of a strip has one sector more, the one at stop: so it can be told whether a segment goes on behind it, and
 * then what comes out is that segment in one piece, wherever strips end.
 */
#include "feed.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "lsmt_record.h"
#include "obd_test.h"

enum { FOUND = 512, BUDGET = 2000000 };

static size_t budget_demanded;

size_t obd_feed_budget(void)
{
	return budget_demanded ? budget_demanded : BUDGET;
}

void obd_test_feed_budget(size_t segments)
{
	budget_demanded = segments;
}

/* ---- read-only layers ---- */

static int unwrap_pread(void *opaque, void *buf, size_t count, uint64_t offset)
{
	const struct obd_feed *feed = opaque;

	return obd_unwrap_await(feed->unwrap, feed->layer, buf, count, offset, feed->task, NULL);
}

static int more_entries(struct obd_feed *feed, struct obd_error *err)
{
	const struct obd_stream stream = {obd_unwrap_size(feed->layer), feed->layer->blob->path, unwrap_pread, feed};
	const struct obd_lsmt *lsmt = &feed->layer->lsmt;
	int r = 0;

	while (!r && feed->next < lsmt->entries && feed->segments.count < feed->room) {
		const uint64_t left = lsmt->entries - feed->next;
		size_t count = feed->room - feed->segments.count;

		if (count > OBD_LSMT_CHUNK)
			count = OBD_LSMT_CHUNK;
		if (count > left)
			count = (size_t)left;
		r = obd_lsmt_read(&stream, lsmt, feed->next, count, feed->buffer, &feed->behind, &feed->segments, err);
		feed->next += count;
		if (!r && obd_task_stopped(feed->task))
			r = obd_fail(err, ECANCELED, "stopped");
	}
	feed->ended = feed->next >= lsmt->entries;
	return r;
}

static int init_entries(struct obd_feed *feed)
{
	feed->more = more_entries;
	feed->buffer = malloc(OBD_LSMT_CHUNK * OBD_LSMT_ENTRY);
	return feed->buffer ? obd_unwrap_create(&feed->unwrap) : -ENOMEM;
}

/* ---- sparse layers ---- */

static int more_extents(struct obd_feed *feed, struct obd_error *err)
{
	struct obd_segments *segments = &feed->segments;

	while (segments->count < feed->room) {
		uint64_t sector, length;

		if (feed->next >= feed->stop) {
			int r = obd_upper_extent(feed->upper, &feed->next, &feed->stop, err);

			if (!r && obd_task_stopped(feed->task))
				r = obd_fail(err, ECANCELED, "stopped");
			feed->ended = !r;
			if (r <= 0)
				return r;
		}
		sector = (feed->next - OBD_LSMT_RECORD) / OBD_SECTOR;
		length = (feed->stop - feed->next) / OBD_SECTOR;
		if (length > OBD_LSMT_LENGTH_MAX)
			length = OBD_LSMT_LENGTH_MAX;
		segments->key[segments->count] = obd_key(sector, length);
		segments->map[segments->count++] = sector + OBD_LSMT_DATA_SECTOR;
		feed->next += length * OBD_SECTOR;
	}
	return 0;
}

/* ---- append-only layers ---- */

static int into_strip(void *opaque, uint64_t sector, uint64_t length, uint64_t map, struct obd_error *err)
{
	struct obd_feed *feed = opaque;
	const uint64_t begin = feed->strip_begin;
	uint64_t end = sector + length;

	if (end <= begin || sector > feed->stop)
		return 0;
	if (sector < begin) {
		map += obd_map_zeroed(map) ? 0 : begin - sector;
		sector = begin;
	}
	if (end > feed->stop + 1)
		end = feed->stop + 1;
	if (obd_upper_index_reserve(&feed->strip, 2))
		return obd_fail(err, ENOMEM, "%s: no memory for %zu segments", feed->upper->layer.blob->path,
				feed->budget);
	obd_upper_index_set(&feed->strip, sector, end - sector, map, NULL, NULL);
	if (feed->strip.segments > feed->budget) {
		feed->stop = obd_upper_index_middle(&feed->strip);
		obd_upper_index_unset(&feed->strip, feed->stop + 1, OBD_LSMT_SECTORS_MAX);
	}
	return 0;
}

static int next_strip(struct obd_feed *feed, struct obd_error *err)
{
	obd_upper_index_deinit(&feed->strip);
	// Which thread comes here changes, and each would keep what it has freed.
	malloc_trim(0);
	obd_upper_index_init(&feed->strip, true);
	feed->strip_begin = feed->next;
	feed->stop = OBD_LSMT_SECTORS_MAX;
	return obd_upper_replay(feed->upper, into_strip, feed, feed->task, err);
}

/** Appends what the map says of one segment, in front of stop. */
static int take_found(struct obd_feed *feed, uint64_t key, uint64_t map, struct obd_error *err)
{
	struct obd_segments *segments = &feed->segments;
	const uint64_t sector = obd_key_sector(key);
	const uint64_t end = obd_key_end(key) < feed->stop ? obd_key_end(key) : feed->stop;

	if (!feed->cut) {
		segments->key[segments->count] = obd_key(sector, end - sector);
		segments->map[segments->count++] = map;
	} else {
		const uint64_t last = segments->key[segments->count - 1];

		if (obd_key_end(last) != sector)
			return obd_fail(err, EIO, "%s: has changed while it was read", feed->upper->layer.blob->path);
		segments->key[segments->count - 1] = last + (end - sector);
	}
	feed->cut = obd_key_end(key) > feed->stop;
	feed->next = end;
	return 0;
}

static unsigned find(const struct obd_feed *feed, uint64_t *keys, uint64_t *maps, unsigned count)
{
	if (feed->next >= feed->stop)
		return 0;
	if (feed->upper->lean)
		return obd_upper_index_find(&feed->strip, feed->next, feed->stop, keys, maps, count);
	return obd_upper_find(feed->upper, feed->next, feed->stop, keys, maps, count);
}

static int more_found(struct obd_feed *feed, struct obd_error *err)
{
	uint64_t keys[FOUND], maps[FOUND];

	while (feed->segments.count < feed->room || feed->cut) {
		const size_t left = feed->cut ? 1 : feed->room - feed->segments.count;
		const unsigned wanted = left < FOUND ? (unsigned)left : FOUND, found = find(feed, keys, maps, wanted);
		int r = 0;

		for (unsigned i = 0; i < found && !r; i++)
			r = take_found(feed, keys[i], maps[i], err);
		if (!r && found < wanted) {
			feed->ended = feed->stop == OBD_LSMT_SECTORS_MAX;
			if (feed->ended)
				return 0;
			feed->next = feed->stop;
			r = next_strip(feed, err);
		}
		if (r)
			return r;
	}
	return 0;
}

/* ---- any ---- */

void obd_feed_rewind(struct obd_feed *feed)
{
	feed->at = 0;
	if (feed->borrowed)
		return;
	feed->segments.count = 0;
	feed->ended = feed->cut = false;
	feed->behind = 0;
	feed->next = 0;
	if (!feed->upper)
		return;
	if (feed->more == more_extents)
		feed->next = feed->stop = OBD_LSMT_RECORD;
	else if (feed->upper->lean && (feed->strip_begin || feed->stop != OBD_LSMT_SECTORS_MAX))
		feed->stop = 0; // the first strip has to be made again
}

static int feed_init(struct obd_feed *feed)
{
	int r = 0;

	feed->stop = OBD_LSMT_SECTORS_MAX;
	if (!feed->upper && !feed->layer->lsmt.lean) {
		feed->segments = feed->layer->lsmt.segments;
		feed->borrowed = feed->ended = true;
		return 0;
	}
	if (!feed->upper)
		r = init_entries(feed);
	else if (feed->upper->sparse && feed->upper->lean)
		feed->more = more_extents;
	else
		feed->more = more_found;
	if (feed->upper && feed->upper->lean)
		feed->strip_begin = 1; // there is no strip yet
	feed->segments.key = malloc(feed->room * sizeof(*feed->segments.key));
	feed->segments.map = malloc(feed->room * sizeof(*feed->segments.map));
	obd_feed_rewind(feed);
	return feed->segments.key && feed->segments.map ? r : -ENOMEM;
}

int obd_feed_init(struct obd_feed *feed, struct obd_layer *layer, struct obd_upper *upper, size_t room,
		  struct obd_task *task, struct obd_error *err)
{
	*feed = (struct obd_feed){.layer = layer, .upper = upper, .room = room, .task = task};
	feed->budget = obd_feed_budget();
	return feed_init(feed) ? obd_fail(err, ENOMEM, "%s: no memory for its segments", layer->blob->path) : 0;
}

void obd_feed_deinit(struct obd_feed *feed)
{
	if (!feed->borrowed)
		obd_segments_deinit(&feed->segments);
	obd_upper_index_deinit(&feed->strip);
	obd_unwrap_destroy(feed->unwrap);
	free(feed->buffer);
}

int obd_feed_fill(struct obd_feed *feed, struct obd_error *err)
{
	struct obd_segments *segments = &feed->segments;

	if (feed->ended)
		return 0;
	if (feed->at) {
		segments->count -= feed->at;
		memmove(segments->key, segments->key + feed->at, segments->count * sizeof(*segments->key));
		memmove(segments->map, segments->map + feed->at, segments->count * sizeof(*segments->map));
		feed->at = 0;
	}
	return feed->more(feed, err);
}
