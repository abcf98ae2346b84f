/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_MARKS_H
#define OBD_EXT4_MARKS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The names that the layer being applied has put into directories: a whiteout hides only what lower layers have. A name
 * is its directory's inode and itself, kept as a hash of 64 bits: 8 to 16 bytes an entry, whatever it is called.
 */
struct obd_marks;
int obd_marks_create(struct obd_marks **ret);
void obd_marks_destroy(struct obd_marks *marks);
/** The key of a name in a directory. */
uint64_t obd_marks_key(const struct obd_marks *marks, uint32_t dir, const char *name, size_t length);
/** 0 or -ENOMEM. */
int obd_marks_add(struct obd_marks *marks, uint64_t key);
void obd_marks_remove(struct obd_marks *marks, uint64_t key);
bool obd_marks_has(const struct obd_marks *marks, uint64_t key);

#endif
