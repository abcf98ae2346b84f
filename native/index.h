/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_INDEX_H
#define OBD_INDEX_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A segment says where a run of sectors of the disk lives. 16 bytes, in two arrays of words:
 *
 *     key = sector << 14 | length             sector: 50 bits, length: 14 bits (1 .. 16383)
 *     map = msector | zeroed << 55 | layer << 56
 *
 * The key sorts by sector, so a search touches 8 bytes a segment and nothing else.
 */
#define OBD_LENGTH_BITS 14
#define OBD_LENGTH_MASK ((UINT64_C(1) << OBD_LENGTH_BITS) - 1)
#define OBD_MSECTOR_MASK ((UINT64_C(1) << 55) - 1)
#define OBD_ZEROED (UINT64_C(1) << 55)
#define OBD_LAYER_SHIFT 56

static inline uint64_t obd_key(uint64_t sector, uint64_t length)
{
	return sector << OBD_LENGTH_BITS | length;
}
static inline uint64_t obd_key_sector(uint64_t key)
{
	return key >> OBD_LENGTH_BITS;
}
static inline uint64_t obd_key_length(uint64_t key)
{
	return key & OBD_LENGTH_MASK;
}
static inline uint64_t obd_key_end(uint64_t key)
{
	return obd_key_sector(key) + obd_key_length(key);
}
static inline uint64_t obd_map_msector(uint64_t map)
{
	return map & OBD_MSECTOR_MASK;
}
static inline bool obd_map_zeroed(uint64_t map)
{
	return (map & OBD_ZEROED) != 0;
}
static inline unsigned obd_map_layer(uint64_t map)
{
	return (unsigned)(map >> OBD_LAYER_SHIFT);
}

/** Ascending and disjoint. */
struct obd_segments {
	uint64_t *key, *map;
	size_t count;
};
/** Room for so many. 0 or -ENOMEM. */
int obd_segments_init(struct obd_segments *segments, size_t capacity);
void obd_segments_deinit(struct obd_segments *segments);
/** As obd_index_create has them: for each sector the topmost layer's, its number in map. 0 or -ENOMEM. */
int obd_segments_merge(const struct obd_segments *const *layers, unsigned count, struct obd_segments *ret);

/** What obd_index_find was chosen to be; the environment's OVERLAYBD_INDEX demands one by name. */
enum obd_index_version { OBD_INDEX_PLAIN = 0, OBD_INDEX_BUCKET = 1 };

/**
 * The merged index of a stack: segments, and a table of at most 512 KiB that makes finding one a matter of three memory
 * accesses (index.c draws it). Immutable; any number of threads search it.
 */
struct obd_index {
	struct obd_segments segments;
	uint32_t *slot;	  /**< slot's first bucket; one more than there are slots */
	uint32_t *bucket; /**< last segment that begins at or before the bucket's first sector; one more than buckets */
	uint64_t slot_mask;  /**< the bits of a sector that say where in its slot it lies */
	uint64_t last, end;  /**< where the last segment begins and ends; 0 when there is none */
	size_t table_memory; /**< bytes of slot and bucket */
	unsigned slot_shift; /**< sectors a slot, log2 */
	enum obd_index_version version;
};

/**
 * layers[0] is the lowest; for each sector the topmost layer that has a segment for it wins, zeroed or not. map's layer
 * field of the result is the position in layers. Takes nothing over: the inputs stay the caller's.
 * 0, -ENOMEM, -EFBIG (more than 128,000,000 segments), -EINVAL (count 0 or above 255, or OVERLAYBD_INDEX names none).
 */
int obd_index_create(const struct obd_segments *const *layers, unsigned count, struct obd_index **ret);
/** The index of what is merged already: segments, made by obd_segments_init, are taken over. */
int obd_index_wrap(struct obd_segments *segments, struct obd_index **ret);
void obd_index_destroy(struct obd_index *index);
/** Bytes held: 16 a segment and the table. */
uint64_t obd_index_memory(const struct obd_index *index);

/** Position of the first segment whose end is beyond sector (it may begin after sector); count when there is none. */
size_t obd_index_find(const struct obd_index *index, uint64_t sector);

/** The plain version (id 0), the oracle of the fast one. */
size_t obd_index_find_plain(const struct obd_index *index, uint64_t sector);
/** "plain", "bucket", or "none" when the environment demands one that does not exist. */
const char *obd_index_version_name(void);

#endif
