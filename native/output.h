/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_OUTPUT_H
#define OBD_OUTPUT_H
#include <stdbool.h>

#include "obd.h"

/*
 * A file that appears under its name when it is complete and on the disk, or never. It is written from its beginning to
 * its end by one caller at a time, and its memory does not depend on its size.
 */
struct obd_output;

int obd_output_create(const struct obd_output_options *options, struct obd_output **ret, struct obd_error *err);
/** Appends. A failure may be that of an earlier call: a thread writes behind the caller. */
int obd_output_write(struct obd_output *output, const void *buf, size_t count, struct obd_error *err);
/**
 * Room for count bytes at the end of what has been written; NULL when there is none in one
 * piece. What is put there is written when obd_output_advance says how much of it.
 */
void *obd_output_room(struct obd_output *output, size_t count);
int obd_output_advance(struct obd_output *output, size_t count, struct obd_error *err);
/** Replaces the first count bytes written, at most OBD_OUTPUT_HEAD, when the file is published. */
void obd_output_head(struct obd_output *output, const void *buf, size_t count);
/** Bytes written so far. */
uint64_t obd_output_size(const struct obd_output *output);
/** A descriptor of a file without a name beside the output, for what has to wait; the caller closes it. */
int obd_output_scratch(const struct obd_output *output, struct obd_error *err);
/** Makes it durable, then gives it its name. Afterwards there is only obd_output_destroy. */
int obd_output_publish(struct obd_output *output, struct obd_error *err);
/** What was not published leaves nothing behind. */
void obd_output_destroy(struct obd_output *output);

enum { OBD_OUTPUT_HEAD = 512 };

#endif
