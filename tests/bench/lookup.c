/* SPDX-License-Identifier: Apache-2.0 */
/* Finding a segment, against a plain binary search of an array of 16-byte entries, as they are on disk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/index.h"
#include "probe.h"

enum { PROBES = 1 << 18, SECTORS_A_GIB = 1 << 21, DISK_GIB = 64, GROUP = 128 << 11, SEGMENT_SECTORS_MAX = 64 };

struct entry {
	uint64_t key; /* sector | length << 50 */
	uint64_t map;
};

struct lookup {
	struct obd_index *index;
	struct entry *entries;
	size_t count;
	uint64_t *probes;
};

/* The first entry whose end is beyond sector, as std::lower_bound finds it. */
__attribute__((noinline)) static size_t bisect(const struct entry *entries, size_t count, uint64_t sector)
{
	size_t first = 0;

	while (count > 0) {
		size_t half = count / 2;
		const struct entry *middle = &entries[first + half];

		if ((middle->key & ((UINT64_C(1) << 50) - 1)) + (middle->key >> 50) <= sector) {
			first += half + 1;
			count -= half + 1;
		} else {
			count = half;
		}
	}
	return first;
}

static uint64_t draw_even(uint64_t *random, uint64_t segments)
{
	return next_random(random) % (segments * SEGMENT_SECTORS_MAX);
}

/* ext4 on 64 GiB: metadata in each block group, nearly all files in the first 2 GiB. */
static uint64_t draw_ext4(uint64_t *random, uint64_t segments)
{
	uint64_t drawn = next_random(random);

	(void)segments;
	if (drawn % 50 == 0)
		return next_random(random) % (DISK_GIB * UINT64_C(8)) * GROUP + drawn / 50 % 64 * 8;
	return next_random(random) % (2 * SECTORS_A_GIB);
}

static int ascending(const void *left, const void *right)
{
	const uint64_t *a = left, *b = right;

	return *a < *b ? -1 : *a > *b;
}

static struct lookup lookup_open(uint64_t segments, uint64_t (*draw)(uint64_t *, uint64_t))
{
	struct obd_segments layer = {malloc(segments * 8), malloc(segments * 8), 0};
	const struct obd_segments *layers[] = {&layer};
	struct lookup lookup = {0};
	uint64_t *sectors = malloc(segments * 8), random = segments;

	lookup.entries = malloc(segments * sizeof(*lookup.entries));
	lookup.probes = malloc(PROBES * sizeof(*lookup.probes));
	if (!layer.key || !layer.map || !sectors || !lookup.entries || !lookup.probes)
		die("no memory");
	for (uint64_t i = 0; i < segments; i++)
		sectors[i] = draw(&random, segments);
	qsort(sectors, segments, sizeof(*sectors), ascending);
	for (uint64_t i = 0; i < segments; i++) {
		uint64_t room = i + 1 < segments ? sectors[i + 1] - sectors[i] : 1;
		uint64_t length = 1 + next_random(&random) % SEGMENT_SECTORS_MAX;

		if (room == 0)
			continue;
		length = length < room ? length : room;
		layer.key[layer.count] = obd_key(sectors[i], length);
		layer.map[layer.count] = 8;
		lookup.entries[layer.count++] = (struct entry){sectors[i] | length << 50, 8};
	}
	lookup.count = layer.count;
	if (obd_index_create(layers, 1, &lookup.index) < 0)
		die("index");
	for (size_t i = 0; i < PROBES; i++) {
		uint64_t key = layer.key[next_random(&random) % layer.count];

		lookup.probes[i] = obd_key_sector(key) + next_random(&random) % obd_key_length(key);
	}
	obd_segments_deinit(&layer);
	free(sectors);
	return lookup;
}

static struct speed run(const struct lookup *lookup, bool ours, double seconds, uint64_t *sum)
{
	struct stopwatch since = stopwatch_start();
	uint64_t done = 0;

	*sum = 0;
	do {
		for (size_t i = 0; i < PROBES; i++)
			*sum += ours ? obd_index_find(lookup->index, lookup->probes[i])
				     : bisect(lookup->entries, lookup->count, lookup->probes[i]);
		done += PROBES;
	} while (seconds_now() - since.wall < seconds);
	*sum /= done / PROBES;
	return stopwatch_speed(&since, done);
}

void lookup_rounds(uint64_t segments, const char *shape, double seconds, unsigned rounds)
{
	struct lookup lookup = lookup_open(segments, strcmp(shape, "ext4") == 0 ? draw_ext4 : draw_even);

	for (unsigned i = 0; i < rounds; i++) {
		uint64_t expected, found;
		struct speed limit = run(&lookup, false, seconds, &expected),
			     ours = run(&lookup, true, seconds, &found);

		if (expected != found)
			die("lookup: found something else");
		printf("{");
		print_speed("limit", limit, ", ");
		print_speed("ours", ours, "}\n");
	}
	obd_index_destroy(lookup.index);
	free(lookup.entries);
	free(lookup.probes);
}
