/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_LAYER_H
#define OBD_EXT4_LAYER_H
#include "tar.h"
#include "tree.h"

/** What applying one layer works with. */
struct obd_layering {
	struct obd_fs *fs;
	struct obd_tree *tree;
	struct obd_tar *tar;
	struct obd_ext4_progress *progress;
};

/** Puts one entry of the archive into the file system, or carries out the whiteout that it is. */
int obd_layer_entry(struct obd_layering *layering, const struct obd_tar_entry *entry);

#endif
