/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disk is gone through in strips. Each feed holds what its layer has from the strip's beginning on, as far as it
 * has room for; the strip ends where the first of them knows no more. What they hold is merged as index.c merges whole
 * layers, and counts inside the strip.
 *
 *     layer 2      ---===--        -----            feed is full here: the strip ends
 *     layer 1   =====   ===============---- - -|    |
 *     layer 0      --==---=====----===---====--=====|===
 *               begin                          end
 *
 * A segment that is cut there goes on in the next strip, and comes out in one piece.
 */
#include "stack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "feed.h"
#include "lsmt_record.h"

enum { ROOM_ALL = 256 * 1024, ROOM_EACH = 4096 };

struct obd_stack {
	unsigned count;
	uint64_t begin, end;	    /**< sectors: the strip */
	struct obd_segments merged; /**< of the strip; of a single layer the feed's own */
	size_t at;
	bool cut;   /**< the last of merged goes on behind the strip */
	bool ended; /**< there is no strip behind this one */
	bool whole; /**< it is the only one */
	bool carries;
	uint64_t key, map; /**< then the segment that was cut */
	struct obd_feed feeds[];
};

static size_t room_of(unsigned count)
{
	const size_t room = ROOM_EACH + ROOM_ALL / count, budget = obd_feed_budget();

	if (budget >= room)
		return room;
	return budget < OBD_FEED_ROOM_MIN ? OBD_FEED_ROOM_MIN : budget;
}

int obd_stack_create(struct obd_layer *const *layers, unsigned count, struct obd_upper *upper, struct obd_task *task,
		     struct obd_stack **ret, struct obd_error *err)
{
	struct obd_stack *stack = calloc(1, sizeof(*stack) + count * sizeof(*stack->feeds));
	int r = stack ? 0 : obd_fail(err, ENOMEM, "no memory for %u layers", count);

	for (unsigned i = 0; i < count && !r; i++) {
		r = obd_feed_init(&stack->feeds[i], layers[i], i == count - 1 ? upper : NULL, room_of(count), task,
				  err);
		stack->count++;
	}
	if (r) {
		obd_stack_destroy(stack);
		return r;
	}
	*ret = stack;
	return 0;
}

void obd_stack_destroy(struct obd_stack *stack)
{
	if (!stack)
		return;
	if (stack->count > 1)
		obd_segments_deinit(&stack->merged);
	for (unsigned i = 0; i < stack->count; i++)
		obd_feed_deinit(&stack->feeds[i]);
	free(stack);
}

void obd_stack_rewind(struct obd_stack *stack)
{
	stack->at = 0;
	if (stack->whole)
		return;
	stack->begin = stack->end = 0;
	stack->cut = stack->ended = stack->carries = false;
	if (stack->count > 1)
		obd_segments_deinit(&stack->merged);
	stack->merged.count = 0;
	for (unsigned i = 0; i < stack->count; i++)
		obd_feed_rewind(&stack->feeds[i]);
}

/* ---- strips ---- */

/** Has every feed hold what its layer has of the next strip, and decides where that ends. */
static int fill_feeds(struct obd_stack *stack, struct obd_error *err)
{
	stack->begin = stack->end;
	stack->end = OBD_LSMT_SECTORS_MAX;
	for (unsigned i = 0; i < stack->count; i++) {
		struct obd_feed *feed = &stack->feeds[i];
		const struct obd_segments *segments = &feed->segments;
		int r;

		while (feed->at < segments->count && obd_key_end(segments->key[feed->at]) <= stack->begin)
			feed->at++;
		r = obd_feed_fill(feed, err);
		if (r)
			return r;
		// Full, so it has at least one that ends behind begin.
		if (!feed->ended && obd_key_end(segments->key[segments->count - 1]) < stack->end)
			stack->end = obd_key_end(segments->key[segments->count - 1]);
	}
	stack->ended = stack->end == OBD_LSMT_SECTORS_MAX;
	stack->whole = stack->ended && !stack->begin;
	return 0;
}

/** Those of a feed that begin inside the strip. */
static struct obd_segments inside(const struct obd_stack *stack, const struct obd_feed *feed)
{
	const uint64_t *key = feed->segments.key + feed->at;
	size_t low = 0, high = feed->segments.count - feed->at;

	while (low < high) {
		const size_t middle = low + (high - low) / 2;

		if (obd_key_sector(key[middle]) < stack->end)
			low = middle + 1;
		else
			high = middle;
	}
	return (struct obd_segments){feed->segments.key + feed->at, feed->segments.map + feed->at, low};
}

/** What is merged counts from begin to end only: what lies outside is cut off. */
static void clip(struct obd_stack *stack)
{
	struct obd_segments *merged = &stack->merged;
	uint64_t *key;

	while (stack->at < merged->count && obd_key_end(merged->key[stack->at]) <= stack->begin)
		stack->at++;
	while (merged->count > stack->at && obd_key_sector(merged->key[merged->count - 1]) >= stack->end)
		merged->count--;
	if (stack->at == merged->count)
		return;
	key = &merged->key[merged->count - 1];
	stack->cut = obd_key_end(*key) > stack->end;
	if (stack->cut)
		*key = obd_key(obd_key_sector(*key), stack->end - obd_key_sector(*key));
	key = &merged->key[stack->at];
	if (obd_key_sector(*key) < stack->begin) {
		if (!obd_map_zeroed(merged->map[stack->at]))
			merged->map[stack->at] += stack->begin - obd_key_sector(*key);
		*key = obd_key(stack->begin, obd_key_end(*key) - stack->begin);
	}
}

static int next_strip(struct obd_stack *stack, struct obd_error *err)
{
	struct obd_segments parts[OBD_STACK_LAYERS];
	const struct obd_segments *pointers[OBD_STACK_LAYERS];
	int r = fill_feeds(stack, err);

	if (r)
		return r;
	stack->at = 0;
	stack->cut = false;
	if (stack->count == 1) {
		// Whole ones, in order already: all of them are used up at once.
		stack->merged = inside(stack, &stack->feeds[0]);
		return 0;
	}
	obd_segments_deinit(&stack->merged);
	for (unsigned i = 0; i < stack->count; i++) {
		parts[i] = inside(stack, &stack->feeds[i]);
		pointers[i] = &parts[i];
	}
	r = obd_segments_merge(pointers, stack->count, &stack->merged);
	if (r)
		return obd_fail(err, -r, "merging the indexes of %u layers: %s", stack->count, strerror(-r));
	clip(stack);
	return 0;
}

/* ---- one after the other ---- */

/** The segment that was cut, made longer by the first of this strip when that is the rest of it. */
static void carry_on(struct obd_stack *stack, uint64_t key, uint64_t map)
{
	const uint64_t length = obd_key_length(stack->key);
	const uint64_t follows = obd_map_zeroed(stack->map) ? stack->map : stack->map + length;

	if (obd_key_end(stack->key) != obd_key_sector(key) || follows != map)
		return;
	stack->key += obd_key_length(key);
	stack->at++;
}

static int give(uint64_t *key, uint64_t *map, uint64_t its_key, uint64_t its_map)
{
	*key = its_key;
	*map = its_map;
	return 1;
}

int obd_stack_next(struct obd_stack *stack, uint64_t *key, uint64_t *map, struct obd_error *err)
{
	const struct obd_segments *merged = &stack->merged;

	for (;;) {
		if (stack->at == merged->count) {
			int r;

			if (stack->ended)
				break;
			r = next_strip(stack, err);
			if (r)
				return r;
			continue;
		}
		if (stack->carries) {
			carry_on(stack, merged->key[stack->at], merged->map[stack->at]);
			// The strip was no more than a part of it: it may go on still.
			if (stack->at == merged->count && stack->cut)
				continue;
			break;
		}
		stack->at++;
		if (!stack->cut || stack->at < merged->count)
			return give(key, map, merged->key[stack->at - 1], merged->map[stack->at - 1]);
		stack->key = merged->key[stack->at - 1];
		stack->map = merged->map[stack->at - 1];
		stack->carries = true;
	}
	if (!stack->carries)
		return 0;
	stack->carries = false;
	return give(key, map, stack->key, stack->map);
}
