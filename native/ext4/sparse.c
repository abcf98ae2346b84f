/* SPDX-License-Identifier: Apache-2.0 */
#include "sparse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { REGIONS_MAX = 1024 * 1024 /**< 16 MiB of memory; GNU tar writes as many as a file has holes */ };

void obd_sparse_reset(struct obd_sparse *sparse)
{
	free(sparse->regions);
	*sparse = (struct obd_sparse){0};
}

int obd_sparse_add(struct obd_sparse *sparse, uint64_t offset, uint64_t count)
{
	const struct obd_region *last = sparse->count ? &sparse->regions[sparse->count - 1] : NULL;
	uint64_t end;

	if (__builtin_add_overflow(offset, count, &end) || end > INT64_MAX)
		return -EINVAL;
	if (last && offset < last->offset + last->count)
		return -EINVAL;
	if (sparse->count == REGIONS_MAX)
		return -E2BIG;
	if (sparse->count == sparse->capacity) {
		const size_t capacity = sparse->capacity ? 2 * sparse->capacity : 32;
		struct obd_region *regions = realloc(sparse->regions, capacity * sizeof(*regions));

		if (!regions)
			return -ENOMEM;
		sparse->regions = regions;
		sparse->capacity = capacity;
	}
	sparse->regions[sparse->count++] = (struct obd_region){offset, count};
	return 0;
}

bool obd_sparse_fits(const struct obd_sparse *sparse, uint64_t stored)
{
	const struct obd_region *last = sparse->count ? &sparse->regions[sparse->count - 1] : NULL;
	uint64_t sum = 0;

	for (size_t i = 0; i < sparse->count; i++)
		sum += sparse->regions[i].count; // regions follow each other below 2^63, so does their sum
	return sum == stored && (!last || last->offset + last->count <= sparse->size);
}

static int of_map(struct obd_sparse *sparse, const char *map)
{
	uint64_t offset, count;

	while (*map) {
		const size_t first = strcspn(map, ",");
		const char *rest = map + first + (map[first] == ',');
		const size_t second = strcspn(rest, ",");
		int r;

		if (!obd_number_decimal(map, first, &offset) || !obd_number_decimal(rest, second, &count))
			return -EINVAL;
		r = obd_sparse_add(sparse, offset, count);
		if (r)
			return r;
		map = rest + second + (rest[second] == ',');
	}
	return 0;
}

int obd_sparse_of_pax(struct obd_sparse *sparse, const struct obd_pax *pax)
{
	int r = 0;

	sparse->size = pax->sparse_size.set ? pax->sparse_size.value : pax->sparse_real_size.value;
	if (pax->pair_count % 2)
		return -EINVAL;
	if (pax->sparse_map)
		return of_map(sparse, pax->sparse_map);
	for (size_t i = 0; !r && i < pax->pair_count; i += 2)
		r = obd_sparse_add(sparse, pax->pairs[i], pax->pairs[i + 1]);
	return r;
}

int obd_sparse_of_field(struct obd_sparse *sparse, const uint8_t field[24])
{
	int64_t offset, count;
	int r;

	if (!field[0])
		return 0;
	if (!obd_number_field(field, 12, &offset) || !obd_number_field(field + 12, 12, &count) || offset < 0 ||
	    count < 0)
		return -EINVAL;
	r = obd_sparse_add(sparse, (uint64_t)offset, (uint64_t)count);
	return r ? r : 1;
}

int obd_sparse_of_text(struct obd_sparse *sparse, struct obd_sparse_text *state, uint8_t byte)
{
	int r = 0;

	if (byte != '\n') {
		const unsigned digit = (unsigned)byte - '0';

		if (digit > 9 || state->digits++ == 19 || state->number > ((uint64_t)INT64_MAX - digit) / 10)
			return -EINVAL;
		state->number = state->number * 10 + digit;
		return 0;
	}
	if (!state->digits)
		return -EINVAL;
	if (!state->seen) {
		if (state->number > REGIONS_MAX)
			return -E2BIG;
		state->wanted = 1 + 2 * state->number;
	} else if (state->seen % 2) {
		state->offset = state->number;
	} else {
		r = obd_sparse_add(sparse, state->offset, state->number);
	}
	state->seen++;
	state->number = 0;
	state->digits = 0;
	return r ? r : state->seen == state->wanted;
}
