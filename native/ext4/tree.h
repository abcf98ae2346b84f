/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_TREE_H
#define OBD_EXT4_TREE_H
#include "dir.h"
#include "marks.h"

/*
 * Paths, as a process chrooted into the image would see them: symlinks lead where they lead inside, ".." ends at the
 * root. And whole trees that go, however deep they are.
 */
struct obd_tree;
int obd_tree_create(struct obd_fs *fs, struct obd_tree **ret);
void obd_tree_destroy(struct obd_tree *tree);

/**
 * The directory that path leads to; symlinks are followed, its last component's too. With create what is missing is
 * made (0755, root's, of 1970), else it is -ENOENT. 0, or -errno: -ENOTDIR, -ELOOP, -ENAMETOOLONG have their text, too.
 */
int obd_tree_walk(struct obd_tree *tree, const char *path, size_t length, bool create, struct obd_inode *ret);
/** The layer has put name into the directory walked to last; all the way there is the layer's now. */
int obd_tree_mark(struct obd_tree *tree, const struct obd_inode *dir, const char *name, size_t length);
/** Something changed that may lead paths elsewhere. */
void obd_tree_changed(struct obd_tree *tree);

/** Makes name, which is not there, a directory; inode is taken, and has its mode, owner and times. */
int obd_tree_add_dir(struct obd_tree *tree, struct obd_inode *parent, const char *name, size_t length,
		     struct obd_inode *inode);
/** Removes the entry, and all below it. */
int obd_tree_remove(struct obd_tree *tree, struct obd_inode *dir, const char *name, size_t length,
		    const struct obd_entry *entry);
/** Removes an entry that lower layers have. What this layer has put there stays; of a directory, its own part. */
int obd_tree_white_out(struct obd_tree *tree, struct obd_inode *dir, const char *name, size_t length,
		       const struct obd_entry *entry);
/** Removes what lower layers have in the directory. */
int obd_tree_clear(struct obd_tree *tree, ext2_ino_t dir);

/** The target of a symlink, NUL-terminated, into target. */
enum { OBD_LINK_MAX = 4095 };
int obd_tree_read_link(struct obd_fs *fs, struct obd_inode *inode, char target[OBD_LINK_MAX + 1], size_t *length);

#endif
