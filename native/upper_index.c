/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two levels: an array of leaves, and in each leaf up to LEAF segments.
 *
 *     first    0        96       4096          the sector each leaf begins with: what a search touches first
 *     leaf     [aab..]  [ccdd.]  [eeeeeeee]    one page each: keys, then maps
 *
 * A change moves at most half a page, and the top array once in a hundred changes: at a million segments that is 50
 * KiB. Deeper trees would save nothing below a hundred million segments, which is more than the format allows.
 */
#include "upper_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lsmt_record.h"

enum {
	LEAF = 255,
	THIN = LEAF / 4,      /* a leaf with fewer tries to join a neighbour */
	JOINED = LEAF * 3 / 4 /* ... unless the two together have more: they would be split again soon */
};

struct obd_upper_leaf {
	uint64_t count; /* of a spare one: where the next is */
	uint64_t key[LEAF], map[LEAF];
};

/* Where a segment is, or would be. */
struct place {
	size_t leaf, at;
};

void obd_upper_index_init(struct obd_upper_index *index, bool exact)
{
	*index = (struct obd_upper_index){.exact = exact};
}

static struct obd_upper_leaf *take_spare(struct obd_upper_index *index)
{
	struct obd_upper_leaf *leaf = index->spare;

	memcpy(&index->spare, leaf->key, sizeof(index->spare));
	index->spares--;
	leaf->count = 0;
	return leaf;
}

static void put_spare(struct obd_upper_index *index, struct obd_upper_leaf *leaf)
{
	memcpy(leaf->key, &index->spare, sizeof(index->spare));
	index->spare = leaf;
	index->spares++;
}

void obd_upper_index_deinit(struct obd_upper_index *index)
{
	for (size_t i = 0; i < index->leaves; i++)
		free(index->leaf[i]);
	while (index->spares)
		free(take_spare(index));
	free(index->first);
	free(index->leaf);
	memset(index, 0, sizeof(*index));
}

int obd_upper_index_reserve(struct obd_upper_index *index, size_t count)
{
	/* a segment set in the middle of another one adds two, and each may split a leaf */
	const size_t leaves = 2 * count;

	if (index->leaves + leaves > index->capacity) {
		const size_t capacity = (index->leaves + leaves) * 2;
		uint64_t *first = realloc(index->first, capacity * sizeof(*first));
		struct obd_upper_leaf **leaf;

		if (!first)
			return -ENOMEM;
		index->first = first;
		leaf = realloc(index->leaf, capacity * sizeof(struct obd_upper_leaf *));
		if (!leaf)
			return -ENOMEM;
		index->leaf = leaf;
		index->capacity = capacity;
	}
	while (index->spares < leaves) {
		struct obd_upper_leaf *leaf = malloc(sizeof(*leaf));

		if (!leaf)
			return -ENOMEM;
		put_spare(index, leaf);
	}
	return 0;
}

size_t obd_upper_index_room(const struct obd_upper_index *index)
{
	const size_t spares = index->spares, slots = index->capacity - index->leaves;

	return (spares < slots ? spares : slots) / 2;
}

uint64_t obd_upper_index_memory(const struct obd_upper_index *index)
{
	return (index->leaves + index->spares) * sizeof(struct obd_upper_leaf) +
	       index->capacity * (sizeof(*index->first) + sizeof(*index->leaf));
}

uint64_t obd_upper_index_middle(const struct obd_upper_index *index)
{
	return index->leaves > 1 ? index->first[index->leaves / 2]
				 : obd_key_sector(index->leaf[0]->key[index->leaf[0]->count / 2]);
}

/* ---- leaves ---- */

static void leaves_insert(struct obd_upper_index *index, size_t at, struct obd_upper_leaf *leaf)
{
	memmove(index->first + at + 1, index->first + at, (index->leaves - at) * sizeof(*index->first));
	memmove(index->leaf + at + 1, index->leaf + at, (index->leaves - at) * sizeof(*index->leaf));
	index->leaf[at] = leaf;
	index->leaves++;
}

/* Takes out empty leaves [from, to). */
static void leaves_remove(struct obd_upper_index *index, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		free(index->leaf[i]);
	memmove(index->first + from, index->first + to, (index->leaves - to) * sizeof(*index->first));
	memmove(index->leaf + from, index->leaf + to, (index->leaves - to) * sizeof(*index->leaf));
	index->leaves -= to - from;
}

static void refresh_first(struct obd_upper_index *index, size_t leaf)
{
	index->first[leaf] = obd_key_sector(index->leaf[leaf]->key[0]);
}

static void leaf_remove(struct obd_upper_leaf *leaf, size_t from, size_t to)
{
	memmove(leaf->key + from, leaf->key + to, (leaf->count - to) * sizeof(*leaf->key));
	memmove(leaf->map + from, leaf->map + to, (leaf->count - to) * sizeof(*leaf->map));
	leaf->count -= to - from;
}

static void leaf_append(struct obd_upper_leaf *leaf, const struct obd_upper_leaf *more, size_t from)
{
	memcpy(leaf->key + leaf->count, more->key + from, (more->count - from) * sizeof(*leaf->key));
	memcpy(leaf->map + leaf->count, more->map + from, (more->count - from) * sizeof(*leaf->map));
	leaf->count += more->count - from;
}

/* A full leaf becomes two; place goes along. Who appends at the very end gets a new leaf and leaves a full one. */
static void split_leaf(struct obd_upper_index *index, struct place *place)
{
	struct obd_upper_leaf *leaf = index->leaf[place->leaf], *right = take_spare(index);
	const bool appending = place->at == LEAF && place->leaf + 1 == index->leaves;
	const size_t keep = appending ? LEAF : LEAF / 2;

	leaf_append(right, leaf, keep);
	leaf->count = keep;
	leaves_insert(index, place->leaf + 1, right);
	if (!appending)
		refresh_first(index, place->leaf + 1);
	if (place->at > keep || appending) {
		place->leaf++;
		place->at -= keep;
	}
}

/* A thin leaf joins a neighbour, so that memory follows what is mapped. */
static void join_thin(struct obd_upper_index *index, size_t at)
{
	if (at >= index->leaves || index->leaf[at]->count >= THIN)
		return;
	if (at && index->leaf[at - 1]->count + index->leaf[at]->count <= JOINED)
		at--;
	else if (at + 1 == index->leaves || index->leaf[at]->count + index->leaf[at + 1]->count > JOINED)
		return;
	leaf_append(index->leaf[at], index->leaf[at + 1], 0);
	leaves_remove(index, at + 1, at + 2);
}

/* ---- places ---- */

/* Of the first segment that ends behind sector; {leaves, 0} when there is none. */
static struct place find(const struct obd_upper_index *index, uint64_t sector)
{
	size_t low = 0, high = index->leaves;
	const struct obd_upper_leaf *leaf;
	struct place place;

	while (low < high) { /* the first leaf that begins behind sector */
		size_t middle = low + (high - low) / 2;

		if (index->first[middle] <= sector)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return (struct place){0, 0};
	place.leaf = low - 1;
	leaf = index->leaf[place.leaf];
	low = 0;
	high = leaf->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (obd_key_end(leaf->key[middle]) <= sector)
			low = middle + 1;
		else
			high = middle;
	}
	place.at = low;
	if (low == leaf->count)
		place = (struct place){place.leaf + 1, 0};
	return place;
}

/* Puts a segment in front of the one at place, which becomes its own. */
static void insert(struct obd_upper_index *index, struct place *place, uint64_t key, uint64_t map)
{
	struct obd_upper_leaf *leaf;

	if (!index->leaves) {
		leaves_insert(index, 0, take_spare(index));
		*place = (struct place){0, 0};
	} else if (place->leaf && !place->at) {
		/* rather at the end of the leaf before: sequences then fill leaves */
		place->leaf--;
		place->at = index->leaf[place->leaf]->count;
	}
	if (index->leaf[place->leaf]->count == LEAF)
		split_leaf(index, place);
	leaf = index->leaf[place->leaf];
	memmove(leaf->key + place->at + 1, leaf->key + place->at, (leaf->count - place->at) * sizeof(*leaf->key));
	memmove(leaf->map + place->at + 1, leaf->map + place->at, (leaf->count - place->at) * sizeof(*leaf->map));
	leaf->key[place->at] = key;
	leaf->map[place->at] = map;
	leaf->count++;
	index->segments++;
	if (!obd_map_zeroed(map))
		index->mapped += obd_key_length(key);
	if (!place->at)
		refresh_first(index, place->leaf);
}

/* Where map leads, sectors further on; a zeroed segment's place stands for no data and stays. */
static uint64_t map_at(uint64_t map, uint64_t sectors)
{
	return obd_map_zeroed(map) ? map : map + sectors;
}

static void give_up(struct obd_upper_index *index, uint64_t map, uint64_t length, obd_upper_lost *lost, void *opaque)
{
	if (obd_map_zeroed(map))
		return;
	index->mapped -= length;
	if (lost)
		lost(opaque, obd_map_msector(map), length);
}

/* ---- changes ---- */

/* [sector, end) lies inside the segment at place, and more of it remains behind. */
static struct place carve_middle(struct obd_upper_index *index, struct place place, uint64_t sector, uint64_t end,
				 obd_upper_lost *lost, void *opaque)
{
	struct obd_upper_leaf *leaf = index->leaf[place.leaf];
	const uint64_t key = leaf->key[place.at], map = leaf->map[place.at];
	const uint64_t start = obd_key_sector(key);
	struct place right = place;

	give_up(index, map_at(map, sector - start), end - sector, lost, opaque);
	leaf->key[place.at] = obd_key(start, sector - start);
	right.at++;
	if (!obd_map_zeroed(map)) /* insert counts it again */
		index->mapped -= obd_key_end(key) - end;
	insert(index, &right, obd_key(end, obd_key_end(key) - end), map_at(map, end - start));
	return right;
}

/* Drops the segments of one leaf from place on that end at or before end. */
static void carve_whole(struct obd_upper_index *index, struct place place, uint64_t end, obd_upper_lost *lost,
			void *opaque)
{
	struct obd_upper_leaf *leaf = index->leaf[place.leaf];
	size_t to = place.at;

	for (; to < leaf->count && obd_key_end(leaf->key[to]) <= end; to++)
		give_up(index, leaf->map[to], obd_key_length(leaf->key[to]), lost, opaque);
	index->segments -= to - place.at;
	leaf_remove(leaf, place.at, to);
}

/* Leaves nothing in [sector, end). Returns the place where it would begin. */
static struct place carve(struct obd_upper_index *index, uint64_t sector, uint64_t end, obd_upper_lost *lost,
			  void *opaque)
{
	struct place place = find(index, sector);
	size_t empty = SIZE_MAX;

	while (place.leaf < index->leaves) {
		struct obd_upper_leaf *leaf = index->leaf[place.leaf];
		uint64_t *key = &leaf->key[place.at], *map = &leaf->map[place.at];
		const uint64_t start = obd_key_sector(*key), stop = obd_key_end(*key);

		if (start >= end)
			break;
		if (start < sector) {
			if (stop > end)
				return carve_middle(index, place, sector, end, lost, opaque);
			give_up(index, map_at(*map, sector - start), stop - sector, lost, opaque);
			*key = obd_key(start, sector - start);
			place.at++;
		} else if (stop <= end) {
			carve_whole(index, place, end, lost, opaque);
			if (leaf->count && !place.at)
				refresh_first(index, place.leaf);
			if (!leaf->count && empty == SIZE_MAX)
				empty = place.leaf;
		} else {
			give_up(index, *map, end - start, lost, opaque);
			*map = map_at(*map, end - start);
			*key = obd_key(end, stop - end);
			if (!place.at)
				refresh_first(index, place.leaf);
			break;
		}
		if (place.at == leaf->count)
			place = (struct place){place.leaf + 1, 0};
	}
	if (empty == SIZE_MAX)
		return place;
	/* leaves from empty on, up to the one place is in, have lost all they had */
	leaves_remove(index, empty, place.leaf);
	return (struct place){empty, place.at};
}

static bool continues(uint64_t key, uint64_t map, uint64_t next_key, uint64_t next_map)
{
	return obd_key_end(key) == obd_key_sector(next_key) && obd_map_zeroed(map) == obd_map_zeroed(next_map) &&
	       obd_key_length(key) + obd_key_length(next_key) <= OBD_LSMT_LENGTH_MAX &&
	       (obd_map_zeroed(map) || obd_map_msector(map) + obd_key_length(key) == obd_map_msector(next_map));
}

/* The place before, if there is one. */
static bool step_back(const struct obd_upper_index *index, struct place *place)
{
	if (place->at) {
		place->at--;
		return true;
	}
	if (!place->leaf)
		return false;
	place->leaf--;
	place->at = index->leaf[place->leaf]->count - 1;
	return true;
}

/* The segment at place, if it continues the one at left, becomes a part of it. */
static void absorb(struct obd_upper_index *index, struct place left, struct place place)
{
	struct obd_upper_leaf *to = index->leaf[left.leaf], *from;

	if (place.leaf == index->leaves)
		return;
	from = index->leaf[place.leaf];
	if (!continues(to->key[left.at], to->map[left.at], from->key[place.at], from->map[place.at]))
		return;
	to->key[left.at] += obd_key_length(from->key[place.at]);
	leaf_remove(from, place.at, place.at + 1);
	index->segments--;
	if (!from->count)
		leaves_remove(index, place.leaf, place.leaf + 1);
	else if (!place.at)
		refresh_first(index, place.leaf);
}

/* Lengthens the segment in front of place, if the new one continues it. */
static bool extend_left(struct obd_upper_index *index, struct place place, uint64_t key, uint64_t map)
{
	struct place left = place;
	struct obd_upper_leaf *leaf;

	if (!step_back(index, &left))
		return false;
	leaf = index->leaf[left.leaf];
	if (!continues(leaf->key[left.at], leaf->map[left.at], key, map))
		return false;
	leaf->key[left.at] += obd_key_length(key);
	if (!obd_map_zeroed(map))
		index->mapped += obd_key_length(key);
	absorb(index, left, place);
	return true;
}

static bool extend_right(struct obd_upper_index *index, struct place place, uint64_t key, uint64_t map)
{
	struct obd_upper_leaf *leaf;

	if (place.leaf == index->leaves)
		return false;
	leaf = index->leaf[place.leaf];
	if (!continues(key, map, leaf->key[place.at], leaf->map[place.at]))
		return false;
	leaf->key[place.at] = obd_key(obd_key_sector(key), obd_key_length(key) + obd_key_length(leaf->key[place.at]));
	leaf->map[place.at] = map;
	if (!place.at)
		refresh_first(index, place.leaf);
	if (!obd_map_zeroed(map))
		index->mapped += obd_key_length(key);
	return true;
}

void obd_upper_index_set(struct obd_upper_index *index, uint64_t sector, uint64_t length, uint64_t map,
			 obd_upper_lost *lost, void *opaque)
{
	const uint64_t key = obd_key(sector, length);
	struct place place = carve(index, sector, sector + length, lost, opaque);

	if (index->exact || (!extend_left(index, place, key, map) && !extend_right(index, place, key, map)))
		insert(index, &place, key, map);
	join_thin(index, place.leaf);
}

void obd_upper_index_unset(struct obd_upper_index *index, uint64_t sector, uint64_t end)
{
	struct place place = carve(index, sector, end, NULL, NULL);

	join_thin(index, place.leaf);
}

unsigned obd_upper_index_find(const struct obd_upper_index *index, uint64_t sector, uint64_t end, uint64_t *keys,
			      uint64_t *maps, unsigned count)
{
	struct place place = find(index, sector);
	unsigned found = 0;

	while (found < count && place.leaf < index->leaves) {
		const struct obd_upper_leaf *leaf = index->leaf[place.leaf];

		if (obd_key_sector(leaf->key[place.at]) >= end)
			break;
		keys[found] = leaf->key[place.at];
		maps[found++] = leaf->map[place.at];
		if (++place.at == leaf->count)
			place = (struct place){place.leaf + 1, 0};
	}
	return found;
}
