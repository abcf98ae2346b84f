/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_RING_H
#define OBD_RING_H
#include <stdbool.h>
#include <sys/uio.h>

#include "obd.h"

/*
 * The memory that the kernel's TCMU shares with us (linux/target_core_user.h, mailbox version 2):
 *
 *     0           mailbox: where the ring is, cmd_head (the kernel's), cmd_tail (ours)
 *     cmdr_off    ring of entries of varying length
 *     behind it   data area: what the iovecs of commands point into
 *
 *                 tail               taken              head
 *     ...done ......|== in our hands ====|== not yet seen =|.....
 *
 * An answer is always written into the entry at the tail, whichever command it belongs to: the kernel finds the command
 * by its id. So everything of an entry must have been copied when the next one is taken.
 */
struct obd_ring {
	uint8_t *map;
	uint64_t map_size;
	uint32_t offset, size; /**< of the ring within the map */
	uint32_t taken;	       /**< where the next entry to take is; the taker's own */
	bool read_length;      /**< the kernel understands residuals */
};

/** A command as it stands in the ring: to be copied before the next call. */
struct obd_ring_entry {
	uint16_t id;
	uint32_t iov_count;
	const uint8_t *iov; /**< iov_count pairs of u64: offset in the map, bytes */
	const uint8_t *cdb;
	uint32_t cdb_room; /**< readable bytes at cdb, at most 16 */
};

/** 0, or -ENOTSUP, -EINVAL for a mailbox that is not what we know. */
int obd_ring_init(struct obd_ring *ring, uint64_t map, uint64_t map_size, struct obd_error *err);

/* For the one thread that takes. */

/** 1: *ret is a command; 0: nothing new; -EPROTO: the ring holds nonsense, nothing more can be taken. */
int obd_ring_next(struct obd_ring *ring, struct obd_ring_entry *ret);
/** Puts the entry back that obd_ring_next has just returned. */
void obd_ring_untake(struct obd_ring *ring, const struct obd_ring_entry *entry);
/** Copies an entry's iovec as pointers; sums up its bytes. -EPROTO when it leaves the map. */
int obd_ring_iovec(const struct obd_ring *ring, const struct obd_ring_entry *entry, struct iovec *iov,
		   unsigned *iov_count, uint64_t *bytes);

/* Under one lock of the caller's. */

struct obd_ring_answer {
	uint8_t status;
	const uint8_t *sense; /**< NULL: none */
	uint32_t sense_count;
	uint32_t read_count; /**< 0: all, or not a read */
};
void obd_ring_complete(struct obd_ring *ring, uint16_t id, const struct obd_ring_answer *answer);
/** Moves the tail past entries that want no answer, up to taken. */
void obd_ring_skip(struct obd_ring *ring, uint32_t taken);

#endif
