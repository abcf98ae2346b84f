/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_FEED_H
#define OBD_FEED_H
#include "unwrap.h"
#include "upper.h"

/*
 * The segments of one layer in the order of the disk, some of them at a time: for who goes through all of them, and has
 * not the memory for that.
 */
struct obd_feed {
	struct obd_segments segments; /**< whole ones; those before at have been used by the owner */
	size_t at;
	bool ended; /**< there are none behind these */

	/* feed.c's */
	struct obd_layer *layer;
	struct obd_upper *upper; /**< NULL: layer is a read-only one */
	struct obd_task *task;
	size_t room, budget;
	bool borrowed; /**< segments are the layer's own */
	int (*more)(struct obd_feed *feed, struct obd_error *err);
	uint64_t next; /**< read-only: entry; sparse: byte of the file; else sector */
	uint64_t stop; /**< sparse: where the extent ends; else up to which sector the map counts */

	struct obd_unwrap *unwrap; /**< of a lean read-only layer */
	uint8_t *buffer;
	uint64_t behind;

	struct obd_upper_index strip; /**< of a lean append-only layer: what it has in a part of the disk */
	uint64_t strip_begin;
	bool cut; /**< the last of segments goes on behind stop */
};

/** upper: the writable layer that layer is a part of, or NULL. room: segments at a time. */
int obd_feed_init(struct obd_feed *feed, struct obd_layer *layer, struct obd_upper *upper, size_t room,
		  struct obd_task *task, struct obd_error *err);
void obd_feed_deinit(struct obd_feed *feed);
/** Drops what was used, then takes more until room is filled, or all has been seen. */
int obd_feed_fill(struct obd_feed *feed, struct obd_error *err);
/** From the beginning again. */
void obd_feed_rewind(struct obd_feed *feed);

/** How many segments of a writable layer's index are held: what it has, a part of the disk after the other. */
size_t obd_feed_budget(void);
enum { OBD_FEED_ROOM_MIN = 4 };

#endif
