/* SPDX-License-Identifier: Apache-2.0 */
#include "index.h"
#include "obd_test.h"

#include <errno.h>
#include <string.h>

int obd_test_index_create(const uint64_t *keys, const uint64_t *maps, const size_t *counts, unsigned layers,
			  struct obd_index **ret)
{
	// One more than is allowed, so that a test sees the refusal.
	struct obd_segments segments[256];
	const struct obd_segments *pointers[256];

	if (layers > 256)
		return -ENOSYS;
	for (unsigned i = 0; i < layers; i++) {
		segments[i] = (struct obd_segments){(uint64_t *)(uintptr_t)keys, (uint64_t *)(uintptr_t)maps,
						    counts[i]};
		pointers[i] = &segments[i];
		keys += counts[i];
		maps += counts[i];
	}
	return obd_index_create(pointers, layers, ret);
}

void obd_test_index_destroy(struct obd_index *index)
{
	obd_index_destroy(index);
}

size_t obd_test_index_count(const struct obd_index *index)
{
	return index->segments.count;
}

uint64_t obd_test_index_memory(const struct obd_index *index)
{
	return obd_index_memory(index);
}

void obd_test_index_copy(const struct obd_index *index, uint64_t *keys, uint64_t *maps)
{
	memcpy(keys, index->segments.key, index->segments.count * sizeof(*keys));
	memcpy(maps, index->segments.map, index->segments.count * sizeof(*maps));
}

void obd_test_index_find(const struct obd_index *index, const uint64_t *sectors, size_t count, uint64_t *ret)
{
	for (size_t i = 0; i < count; i++)
		ret[i] = obd_index_find(index, sectors[i]);
}

void obd_test_index_find_plain(const struct obd_index *index, const uint64_t *sectors, size_t count, uint64_t *ret)
{
	for (size_t i = 0; i < count; i++)
		ret[i] = obd_index_find_plain(index, sectors[i]);
}

const char *obd_test_index_version(void)
{
	return obd_index_version_name();
}
