/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_XATTR_H
#define OBD_EXT4_XATTR_H
#include "fs.h"
#include "pax.h"

/** Can ext4 hold an attribute of that name? */
bool obd_xattr_known(const char *name);
/** Sets attributes of an inode that is on the disk, and reads it again; unknown ones are left out. */
int obd_xattr_set(struct obd_fs *fs, struct obd_inode *inode, const struct obd_pax_xattr *xattrs, size_t count);

#endif
