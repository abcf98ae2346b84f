/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The merged index: segments of many layers reduced to one ascending, disjoint run of them, and the search in it.
 *
 * Merging is associative ("upper hides lower" does not care in which order neighbours are combined), so a stack is
 * reduced as a balanced tree: total segments times log2(layers), whatever the layers look like. Walking it from the top
 * one by one would cost total times layers for the stack of small changes over a big base that images are.
 */
#include "index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS_MAX 255u
#define SEGMENTS_MAX 128000000u
#define LAYER_MASK (UINT64_MAX << OBD_LAYER_SHIFT)

/* ---- segments ---- */

/*
 * The search ends by comparing a fixed number of keys, whatever that leads beyond: so the last key is followed by as
 * many that sort behind every sector. Measured on Zen 4: 4 is faster than 8 and 16, for even and for skewed images.
 */
#define WINDOW 4u

void obd_segments_deinit(struct obd_segments *segments)
{
	free(segments->key);
	free(segments->map);
	memset(segments, 0, sizeof(*segments));
}

int obd_segments_init(struct obd_segments *segments, size_t capacity)
{
	size_t keys, bytes;

	memset(segments, 0, sizeof(*segments));
	if (__builtin_add_overflow(capacity, WINDOW, &keys) || __builtin_mul_overflow(keys, sizeof(uint64_t), &bytes))
		return -ENOMEM;
	segments->key = malloc(bytes);
	segments->map = malloc(bytes);
	if (segments->key != NULL && segments->map != NULL)
		return 0;
	obd_segments_deinit(segments);
	return -ENOMEM;
}

/** Gives back what obd_segments_init took too much, and ends the keys for the search. */
static void segments_finish(struct obd_segments *segments)
{
	uint64_t *key = realloc(segments->key, (segments->count + WINDOW) * sizeof(*key));
	uint64_t *map = realloc(segments->map, (segments->count + 1) * sizeof(*map));

	// A failed shrink leaves the old block as it was, only larger than need be.
	if (key != NULL)
		segments->key = key;
	if (map != NULL)
		segments->map = map;
	for (size_t i = 0; i < WINDOW; i++)
		segments->key[segments->count + i] = UINT64_MAX;
}

/* ---- merging ---- */

/** Segments on their way up the tree: a layer of the caller's, or the result of a merge below, which is ours. */
struct run {
	struct obd_segments segments;
	bool owned;
	uint64_t keep, tag; /**< what a map word keeps and gets: a layer's number is put in when it is first copied */
};

static void run_deinit(struct run *run)
{
	if (run->owned)
		obd_segments_deinit(&run->segments);
}

/** The next segment of a run, or what is left of it. */
struct cursor {
	const struct run *run;
	size_t at;
	uint64_t sector, end, map;
};

static bool cursor_valid(const struct cursor *cursor)
{
	return cursor->at < cursor->run->segments.count;
}

static void cursor_load(struct cursor *cursor)
{
	const struct run *run = cursor->run;

	if (!cursor_valid(cursor))
		return;
	cursor->sector = obd_key_sector(run->segments.key[cursor->at]);
	cursor->end = obd_key_end(run->segments.key[cursor->at]);
	cursor->map = (run->segments.map[cursor->at] & run->keep) | run->tag;
}

static void cursor_next(struct cursor *cursor)
{
	cursor->at++;
	cursor_load(cursor);
}

static void emit(struct obd_segments *out, const struct cursor *cursor, uint64_t end)
{
	out->key[out->count] = obd_key(cursor->sector, end - cursor->sector);
	out->map[out->count++] = cursor->map;
}

/** Drops what cursor has before sector. */
static void cursor_drop(struct cursor *cursor, uint64_t sector)
{
	while (cursor_valid(cursor) && cursor->end <= sector)
		cursor_next(cursor);
	if (!cursor_valid(cursor) || cursor->sector >= sector)
		return;
	// A zeroed segment's place in its file stands for no data and stays.
	if (!obd_map_zeroed(cursor->map))
		cursor->map += sector - cursor->sector;
	cursor->sector = sector;
}

/** Emits what cursor has before sector. */
static void cursor_emit(struct cursor *cursor, uint64_t sector, struct obd_segments *out)
{
	while (cursor_valid(cursor) && cursor->end <= sector) {
		emit(out, cursor, cursor->end);
		cursor_next(cursor);
	}
	if (cursor_valid(cursor) && cursor->sector < sector) {
		emit(out, cursor, sector);
		cursor_drop(cursor, sector);
	}
}

/** Consumes both. Each segment of upper splits at most one of lower: 2 * upper + lower is room enough. */
static int run_merge(struct run *upper, struct run *lower, struct run *ret)
{
	struct cursor above = {.run = upper}, below = {.run = lower};
	size_t room = 0;
	int rc;

	if (__builtin_mul_overflow(upper->segments.count, 2, &room) ||
	    __builtin_add_overflow(room, lower->segments.count, &room))
		rc = -ENOMEM;
	else
		rc = obd_segments_init(&ret->segments, room);
	if (rc == 0) {
		ret->owned = true;
		ret->keep = UINT64_MAX;
		ret->tag = 0;
		cursor_load(&below);
		for (cursor_load(&above); cursor_valid(&above); cursor_next(&above)) {
			cursor_emit(&below, above.sector, &ret->segments);
			cursor_drop(&below, above.end);
			emit(&ret->segments, &above, above.end);
		}
		cursor_emit(&below, UINT64_MAX, &ret->segments);
		segments_finish(&ret->segments);
	}
	run_deinit(upper);
	run_deinit(lower);
	return rc;
}

/** Merges layers[first, last); the depth of the recursion is log2(LAYERS_MAX). */
static int reduce(const struct obd_segments *const *layers, unsigned first, unsigned last, struct run *ret)
{
	unsigned middle = first + (last - first) / 2;
	struct run lower, upper;
	int rc;

	if (last - first == 1) {
		*ret = (struct run){*layers[first], false, ~LAYER_MASK, (uint64_t)first << OBD_LAYER_SHIFT};
		return 0;
	}
	rc = reduce(layers, first, middle, &lower);
	if (rc < 0)
		return rc;
	rc = reduce(layers, middle, last, &upper);
	if (rc < 0) {
		run_deinit(&lower);
		return rc;
	}
	return run_merge(&upper, &lower, ret);
}

int obd_segments_merge(const struct obd_segments *const *layers, unsigned count, struct obd_segments *ret)
{
	struct run empty = {.owned = false}, merged;
	int rc = reduce(layers, 0, count, &merged);

	// A single layer comes back as the caller's own; merged with nothing it becomes ours.
	if (rc == 0 && !merged.owned) {
		struct run single = merged;

		rc = run_merge(&empty, &single, &merged);
	}
	if (rc == 0)
		*ret = merged.segments;
	return rc;
}

/* ---- the table ---- */

/*
 * The disk is cut into slots of equal size, and each slot into buckets of equal size: the more, the more segments begin
 * in it. So an image whose data lies in a few places (ext4: metadata everywhere, files in the first groups) is searched
 * as fast as one that is evenly filled.
 *
 *     slot     |        0        |        1        |   ...   slot[i] = its first bucket, slot[i + 1] = the next one's
 *     bucket   |0|1|2|3|4|5|6|7|8|        9        |   ...   bucket[b] = last segment beginning at or before it
 *     key      aaabbbbbbbb   ccdd             eeee
 *
 * Buckets are in the order of their sectors across slots; the segment sought is one of bucket[b] .. bucket[b + 1].
 */
#define TABLE_MEMORY_MAX (512u * 1024)
#define SLOTS_MAX 4096u
#define SLOTS_PER_SEGMENT 1u
#define BUCKETS_PER_SEGMENT 1u /* more would only cost cache */

static unsigned ceil_log2(uint64_t value)
{
	return value <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(value - 1);
}

/** Turns how many segments begin in each slot into where its buckets begin. Returns the number of buckets. */
static size_t slots_allot(struct obd_index *index, size_t slots)
{
	size_t count = index->segments.count;
	size_t spare = TABLE_MEMORY_MAX / sizeof(uint32_t) - (slots + 1) - (slots + 1);
	uint32_t first = 0;

	if (spare / BUCKETS_PER_SEGMENT > count)
		spare = count * BUCKETS_PER_SEGMENT;
	for (size_t i = 0; i < slots; i++) {
		uint32_t buckets = 1 + (uint32_t)((uint64_t)index->slot[i] * spare / count);

		index->slot[i] = first;
		first += buckets;
	}
	index->slot[slots] = first;
	return first;
}

static void buckets_fill(struct obd_index *index, size_t slots)
{
	const uint64_t *key = index->segments.key;
	size_t at = 0;

	for (size_t i = 0; i < slots; i++) {
		uint32_t *bucket = &index->bucket[index->slot[i]];
		uint64_t buckets = index->slot[i + 1] - index->slot[i];

		for (uint64_t b = 0; b < buckets; b++) {
			// The first sector that obd_index_find maps to b.
			uint64_t in_slot = ((b << index->slot_shift) + buckets - 1) / buckets;
			uint64_t sector = ((uint64_t)i << index->slot_shift) + in_slot;

			while (at + 1 < index->segments.count && obd_key_sector(key[at + 1]) <= sector)
				at++;
			bucket[b] = (uint32_t)at;
		}
	}
	index->bucket[index->slot[slots]] = (uint32_t)(index->segments.count - 1);
}

static int table_create(struct obd_index *index)
{
	const struct obd_segments *segments = &index->segments;
	unsigned disk_bits = ceil_log2(index->last + 1), slot_bits = ceil_log2(SLOTS_MAX);
	size_t slots, buckets;

	if (segments->count < SLOTS_MAX / SLOTS_PER_SEGMENT)
		slot_bits = ceil_log2(segments->count * SLOTS_PER_SEGMENT);
	index->slot_shift = disk_bits > slot_bits ? disk_bits - slot_bits : 0;
	index->slot_mask = (UINT64_C(1) << index->slot_shift) - 1;
	slots = (size_t)(index->last >> index->slot_shift) + 1;

	index->slot = calloc(slots + 1, sizeof(*index->slot));
	if (index->slot == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < segments->count; i++)
		index->slot[obd_key_sector(segments->key[i]) >> index->slot_shift]++;
	buckets = slots_allot(index, slots);

	index->bucket = malloc((buckets + 1) * sizeof(*index->bucket));
	if (index->bucket == NULL)
		return -ENOMEM;
	index->table_memory = (slots + 1) * sizeof(*index->slot) + (buckets + 1) * sizeof(*index->bucket);
	buckets_fill(index, slots);
	return 0;
}

/* ---- the index ---- */

static const struct {
	const char *name;
	enum obd_index_version version;
} versions[] = {{"plain", OBD_INDEX_PLAIN}, {"bucket", OBD_INDEX_BUCKET}};

/** Position in versions, or -EINVAL. */
static int version_chosen(void)
{
	const char *demanded = getenv("OVERLAYBD_INDEX");

	if (demanded == NULL || *demanded == '\0')
		return OBD_INDEX_BUCKET;
	for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++)
		if (strcmp(demanded, versions[i].name) == 0)
			return (int)i;
	return -EINVAL;
}

const char *obd_index_version_name(void)
{
	int chosen = version_chosen();

	return chosen < 0 ? "none" : versions[chosen].name;
}

/** Takes segments over, even when it fails. */
static int index_init(struct obd_index *index, struct obd_segments *segments, int version)
{
	const size_t count = segments->count;

	index->segments = *segments;
	if (count > SEGMENTS_MAX)
		return -EFBIG;
	if (!count)
		return 0;
	index->last = obd_key_sector(index->segments.key[count - 1]);
	index->end = obd_key_end(index->segments.key[count - 1]);
	index->version = versions[version].version;
	return index->version == OBD_INDEX_BUCKET ? table_create(index) : 0;
}

int obd_index_create(const struct obd_segments *const *layers, unsigned count, struct obd_index **ret)
{
	struct obd_segments merged;
	struct obd_index *index;
	int chosen = version_chosen(), rc;

	if (count == 0 || count > LAYERS_MAX || chosen < 0)
		return -EINVAL;
	index = calloc(1, sizeof(*index));
	if (index == NULL)
		return -ENOMEM;
	rc = obd_segments_merge(layers, count, &merged);
	if (rc == 0)
		rc = index_init(index, &merged, chosen);
	if (rc < 0) {
		obd_index_destroy(index);
		return rc;
	}
	*ret = index;
	return 0;
}

int obd_index_wrap(struct obd_segments *segments, struct obd_index **ret)
{
	struct obd_index *index = calloc(1, sizeof(*index));
	int chosen = version_chosen(), rc;

	if (index == NULL || chosen < 0) {
		obd_segments_deinit(segments);
		free(index);
		return index == NULL ? -ENOMEM : chosen;
	}
	segments_finish(segments);
	rc = index_init(index, segments, chosen);
	if (rc < 0) {
		obd_index_destroy(index);
		return rc;
	}
	*ret = index;
	return 0;
}

void obd_index_destroy(struct obd_index *index)
{
	if (index == NULL)
		return;
	obd_segments_deinit(&index->segments);
	free(index->slot);
	free(index->bucket);
	free(index);
}

uint64_t obd_index_memory(const struct obd_index *index)
{
	return index->segments.count * 2 * sizeof(uint64_t) + index->table_memory;
}

/* ---- finding ---- */

size_t obd_index_find_plain(const struct obd_index *index, uint64_t sector)
{
	size_t low = 0, high = index->segments.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (obd_key_end(index->segments.key[middle]) <= sector)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

size_t obd_index_find(const struct obd_index *index, uint64_t sector)
{
	const uint64_t *key = index->segments.key;
	const uint32_t *slot, *bucket;
	unsigned shift = index->slot_shift;
	uint64_t target;
	size_t left, at;

	// From here on sector is at most 2^50 - 2: shifting loses nothing, and no key behind the last one counts.
	if (sector >= index->last)
		return index->segments.count - (sector < index->end);
	if (__builtin_expect(index->version == OBD_INDEX_PLAIN, 0))
		return obd_index_find_plain(index, sector);

	// Else clang loads the low byte only, into a register the last call's result is still being computed in: one
	// search waits for the other, and three times the time goes by.
	__asm__("" : "+r"(shift));
	slot = &index->slot[sector >> shift];
	bucket = &index->bucket[slot[0] + ((sector & index->slot_mask) * (slot[1] - slot[0]) >> shift)];
	at = bucket[0];
	left = bucket[1] - at;

	// Branches on what is read could not be predicted, so there are none: a crowded bucket is halved with a mask,
	// and the last few keys are all compared; those beyond the bucket begin beyond sector and count nothing.
	target = obd_key(sector, OBD_LENGTH_MASK);
	while (left > WINDOW) {
		size_t half = left / 2;

		size_t beyond = key[at + half] <= target;

		__asm__("" : "+r"(beyond)); // keeps compilers from making a branch of it
		at += half & -beyond;
		left -= half;
	}
	key += at;
	at = (size_t)(key[1] <= target) + (key[2] <= target) + (key[3] <= target) + (key[4] <= target);
	return (size_t)(key - index->segments.key) + at + (obd_key_end(key[at]) <= sector);
}
