/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_ENGINE_H
#define OBD_ENGINE_H
#include <stdbool.h>

#include "obd.h"

struct obd_image;
struct obd_slot;
struct obd_engine_state;

/**
 * An engine that reads behind our back. It is given slots whose io[] is planned, calls obd_io_done for each read from
 * any thread, and the slot is finished by whoever takes it from the ready list.
 */
struct obd_engine_ops {
	const char *name;
	bool direct; /**< reads through the O_DIRECT descriptor, aligned */
	int (*create)(struct obd_image *image, struct obd_engine_state **ret, struct obd_error *err);
	/** Nothing is in flight any more. */
	void (*destroy)(struct obd_engine_state *state);
	/** Starts every read of the slot; a read that cannot be started is done at once with its error. */
	void (*submit)(struct obd_engine_state *state, struct obd_slot *slot);
};

extern const struct obd_engine_ops obd_engine_libaio;
extern const struct obd_engine_ops obd_engine_posix;

struct obd_io;
/** The read is about to be given to the disk: the engine's last touch of io before obd_io_done. */
void obd_io_arm(struct obd_slot *slot, struct obd_io *io);
/** One read is over: result is a byte count or -errno. Returns its slot when it was the slot's last one, else NULL. */
struct obd_slot *obd_io_done(struct obd_io *io, int64_t result);

enum { OBD_DIRECT_ALIGN = 4096 };

#endif
