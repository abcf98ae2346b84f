/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_PAGES_H
#define OBD_EXT4_PAGES_H
#include "obd_ext4.h"

/*
 * The write-back cache between a file system and its disk. Metadata goes through pages: a write that changes nothing
 * leaves no trace, so that a layer holds what really differs from the layers below. File data goes past them, gathered
 * to long writes. Not thread-safe. Offsets and counts are bytes; results are 0 or -errno, and obd_pages_cause says
 * more.
 */
struct obd_pages;
int obd_pages_create(const struct obd_ext4_disk *disk, struct obd_pages **ret);
void obd_pages_destroy(struct obd_pages *pages);

int obd_pages_read(struct obd_pages *pages, void *buf, size_t count, uint64_t offset);
int obd_pages_write(struct obd_pages *pages, const void *buf, size_t count, uint64_t offset);
/** From now on even whole pages are compared with the disk before they are written: bitmaps come, mostly unchanged. */
void obd_pages_compare(struct obd_pages *pages);
/** File data: what was there before does not matter. */
int obd_pages_stream(struct obd_pages *pages, const void *buf, size_t count, uint64_t offset);
/** Everything is on the disk; it is not flushed. */
int obd_pages_write_back(struct obd_pages *pages);
/** The first read or write that failed: one line, "" when none did. */
const char *obd_pages_cause(const struct obd_pages *pages);

#endif
