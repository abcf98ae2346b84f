/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_UNWRAP_H
#define OBD_UNWRAP_H
#include "layer.h"
#include "task.h"

/**
 * What one thread needs to read the unwrapped streams of layers, front to back or anywhere: a decoder, room for stored
 * bytes, and the last block that was wanted in part. Images are read another way (read.h): there nothing may wait.
 */
struct obd_unwrap;
int obd_unwrap_create(struct obd_unwrap **ret);
void obd_unwrap_destroy(struct obd_unwrap *unwrap);

/** Bytes of a layer's stream when it is unwrapped. */
uint64_t obd_unwrap_size(const struct obd_layer *layer);
/** Blocking read of exactly count bytes inside the stream. 0 or -errno; err, which may be NULL, names file and place.
 */
int obd_unwrap_pread(struct obd_unwrap *unwrap, const struct obd_layer *layer, void *buf, size_t count, uint64_t offset,
		     struct obd_error *err);
/** The same; a layer that is fetched as it is read is waited for, a moment at a time, so that the task can be stopped.
 */
int obd_unwrap_await(struct obd_unwrap *unwrap, const struct obd_layer *layer, void *buf, size_t count, uint64_t offset,
		     struct obd_task *task, struct obd_error *err);

#endif
