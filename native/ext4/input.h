/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_INPUT_H
#define OBD_EXT4_INPUT_H
#include <stdbool.h>
#include "obd_ext4.h"

/*
 * A stream that may be compressed, as it was before. A thread of its own reads, decompresses and hashes, so that all
 * this happens beside the work on the data. One thread consumes.
 */
struct obd_input;
/** Reads fd from where it is; progress->input follows. Both must outlive the input. */
int obd_input_create(int fd, bool digest, struct obd_ext4_progress *progress, struct obd_input **ret,
		     struct obd_error *err);
/** Also in the middle: does not wait for whoever feeds fd. */
void obd_input_destroy(struct obd_input *input);

/** The next bytes, max at most, valid until the next call: their count, 0 at the end, or -errno (err filled). */
int64_t obd_input_next(struct obd_input *input, size_t max, const uint8_t **data);
/** Uncompressed bytes handed out so far. */
uint64_t obd_input_offset(const struct obd_input *input);
/** SHA-256 of all of it, hexadecimal, once next has said 0. */
void obd_input_sha256(const struct obd_input *input, char hex[65]);

#endif
