/* SPDX-License-Identifier: Apache-2.0 */
#include "obd_test.h"
#include "upper_index.h"

#include <errno.h>
#include <stdlib.h>

struct lost {
	uint64_t *runs;
	unsigned room, count;
};

static void note(void *opaque, uint64_t msector, uint64_t length)
{
	struct lost *lost = opaque;

	if (lost->count < lost->room) {
		lost->runs[2 * lost->count] = msector;
		lost->runs[2 * lost->count + 1] = length;
	}
	lost->count++;
}

int obd_test_upper_index_create(int exact, struct obd_upper_index **ret)
{
	*ret = malloc(sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	obd_upper_index_init(*ret, exact != 0);
	return 0;
}

void obd_test_upper_index_destroy(struct obd_upper_index *index)
{
	obd_upper_index_deinit(index);
	free(index);
}

int obd_test_upper_index_set(struct obd_upper_index *index, uint64_t sector, uint64_t length, uint64_t map,
			     uint64_t *lost, unsigned room)
{
	struct lost notes = {lost, room, 0};
	int r = obd_upper_index_room(index) ? 0 : obd_upper_index_reserve(index, 1);

	if (r)
		return r;
	obd_upper_index_set(index, sector, length, map, note, &notes);
	return (int)notes.count;
}

int obd_test_upper_index_unset(struct obd_upper_index *index, uint64_t sector, uint64_t end)
{
	int r = obd_upper_index_reserve(index, 1);

	if (!r)
		obd_upper_index_unset(index, sector, end);
	return r;
}

unsigned obd_test_upper_index_find(const struct obd_upper_index *index, uint64_t sector, uint64_t end, uint64_t *keys,
				   uint64_t *maps, unsigned count)
{
	return obd_upper_index_find(index, sector, end, keys, maps, count);
}

void obd_test_upper_index_totals(const struct obd_upper_index *index, uint64_t *segments, uint64_t *mapped,
				 uint64_t *memory)
{
	*segments = index->segments;
	*mapped = index->mapped;
	*memory = obd_upper_index_memory(index);
}
