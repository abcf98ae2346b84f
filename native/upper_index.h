/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_UPPER_INDEX_H
#define OBD_UPPER_INDEX_H
#include "index.h"

/*
 * What a writable layer has, in memory: ascending, disjoint segments that change all the time. 16 bytes a segment, as
 * in the merged index, in leaves of one page. No locks: upper.h says who may call what when.
 */
struct obd_upper_leaf;

struct obd_upper_index {
	uint64_t *first; /**< the sector a leaf begins with; leaves are never empty */
	struct obd_upper_leaf **leaf;
	size_t leaves, capacity;
	struct obd_upper_leaf *spare; /**< what obd_upper_index_reserve has put aside */
	size_t spares;
	uint64_t segments;
	uint64_t mapped; /**< sectors with data, zeroed ones not counted */
	bool exact;	 /**< neighbours stay what they were set as */
};

/** Tells of data that nobody can reach any more: length sectors at msector of the data file. */
typedef void obd_upper_lost(void *opaque, uint64_t msector, uint64_t length);

void obd_upper_index_init(struct obd_upper_index *index, bool exact);
void obd_upper_index_deinit(struct obd_upper_index *index);
/** The next count calls of obd_upper_index_set cannot fail. 0 or -ENOMEM. */
int obd_upper_index_reserve(struct obd_upper_index *index, size_t count);
/** How many calls cannot fail as it is. */
size_t obd_upper_index_room(const struct obd_upper_index *index);
/**
 * [sector, sector + length), 1 to 16383 sectors, is mapped to map from now on, whatever was there. Neighbours that
 * continue each other, on the disk and in the file, become one, unless index->exact. lost may be NULL.
 */
void obd_upper_index_set(struct obd_upper_index *index, uint64_t sector, uint64_t length, uint64_t map,
			 obd_upper_lost *lost, void *opaque);
/** As if [sector, end) had never been written. obd_upper_index_reserve(1) must have been called. */
void obd_upper_index_unset(struct obd_upper_index *index, uint64_t sector, uint64_t end);
/** The first segments that end behind sector and begin before end, at most count of them; how many. */
unsigned obd_upper_index_find(const struct obd_upper_index *index, uint64_t sector, uint64_t end, uint64_t *keys,
			      uint64_t *maps, unsigned count);
/** Where the middle one of at least two segments begins. */
uint64_t obd_upper_index_middle(const struct obd_upper_index *index);
/** Bytes held. */
uint64_t obd_upper_index_memory(const struct obd_upper_index *index);

#endif
