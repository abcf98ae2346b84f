/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One entry: what was there goes, unless both are directories; then content, attributes, name. A name appears when what
 * it stands for is complete.
 *
 *     .wh..wh..opq in a directory    what lower layers have in it is gone
 *     .wh.NAME                       what lower layers have as NAME is gone
 */
#include "layer.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../error.h"
#include "file.h"
#include "xattr.h"

enum { PATH_MAX_BYTES = 4095, NAME_MAX_BYTES = 255, LINKS_MAX = 65000, PIECE = 1024 * 1024 };

static const char WHITEOUT[] = ".wh.", OPAQUE[] = ".wh..wh..opq";

/** A path from the root, without ".", ".." and doubled slashes: the directory, and the name in it. */
struct place {
	char path[PATH_MAX_BYTES + 1];
	size_t dir; /**< length of the directory's path */
	const char *name;
	size_t length; /**< of the name; 0: the root is meant */
};

__attribute__((format(printf, 2, 3))) static void warn(struct obd_layering *layering, const char *format, ...)
{
	struct obd_ext4_progress *progress = layering->progress;
	va_list arguments;

	if (!progress->warnings++) {
		va_start(arguments, format);
		vsnprintf(progress->warning, sizeof(progress->warning), format, arguments);
		va_end(arguments);
	}
}

static int clean(struct obd_layering *layering, const char *path, struct place *ret)
{
	const size_t length = strlen(path);
	size_t end = 0;

	if (length > PATH_MAX_BYTES)
		return obd_fs_fail(layering->fs, ENAMETOOLONG, "a path of %zu bytes", length);
	for (size_t at = 0; at < length;) {
		const size_t count = strcspn(path + at, "/");

		if (count == 2 && path[at] == '.' && path[at + 1] == '.') {
			while (end && ret->path[--end] != '/')
				;
		} else if (count && (count > 1 || path[at] != '.')) {
			if (end)
				ret->path[end++] = '/';
			memcpy(ret->path + end, path + at, count);
			end += count;
		}
		at += count + 1;
	}
	ret->path[end] = 0;
	ret->dir = end;
	while (ret->dir && ret->path[ret->dir] != '/')
		ret->dir--;
	ret->name = ret->path + ret->dir + (ret->path[ret->dir] == '/');
	ret->length = strlen(ret->name);
	if (ret->length > NAME_MAX_BYTES)
		return obd_fs_fail(layering->fs, ENAMETOOLONG, "a name of %zu bytes", ret->length);
	return 0;
}

static void set_attributes(struct obd_layering *layering, struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	const struct obd_time *mtime = &entry->mtime, *atime = &entry->atime;

	// As containerd does: nothing is read before it was written.
	if (!atime->set || atime->s < mtime->s || (atime->s == mtime->s && atime->ns < mtime->ns))
		atime = mtime;
	obd_inode_set_owner(inode, entry->uid, entry->gid);
	obd_inode_set_times(layering->fs, inode, atime->s, atime->ns, mtime->s, mtime->ns);
	if (!LINUX_S_ISLNK(inode->raw.i_mode))
		inode->raw.i_mode = (uint16_t)((inode->raw.i_mode & LINUX_S_IFMT) | entry->mode);
}

static int set_xattrs(struct obd_layering *layering, struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	for (size_t i = 0; i < entry->xattr_count; i++)
		if (!obd_xattr_known(entry->xattrs[i].name))
			warn(layering, "%.200s: attribute %.200s is left out: no ext4 has such", entry->path,
			     entry->xattrs[i].name);
	return obd_xattr_set(layering->fs, inode, entry->xattrs, entry->xattr_count);
}

/* ---- content */

/** Stored bytes, as many as count, to the file's position. */
static int copy(struct obd_layering *layering, struct obd_file *file, uint64_t count)
{
	while (count) {
		const uint8_t *data;
		const int64_t n = obd_tar_data(layering->tar, count < PIECE ? (size_t)count : PIECE, &data);
		int r;

		if (n <= 0)
			return n < 0 ? (int)n : obd_fs_fail(layering->fs, EINVAL, "the data is shorter than its map");
		r = obd_file_write(file, data, (size_t)n);
		if (r)
			return r;
		count -= (uint64_t)n;
	}
	return 0;
}

static int fill_sparse(struct obd_layering *layering, struct obd_file *file, const struct obd_sparse *sparse)
{
	int r = 0;

	for (size_t i = 0; !r && i < sparse->count; i++)
		r = obd_file_reserve(file, sparse->regions[i].offset, sparse->regions[i].count);
	for (size_t i = 0; !r && i < sparse->count; i++) {
		r = obd_file_seek(file, sparse->regions[i].offset);
		if (!r)
			r = copy(layering, file, sparse->regions[i].count);
	}
	return r;
}

static int file_content(struct obd_layering *layering, struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	struct obd_file file = {.fs = layering->fs};
	int r;

	if (entry->sparse) {
		r = fill_sparse(layering, &file, entry->sparse);
	} else {
		r = obd_file_reserve(&file, 0, entry->size);
		if (!r)
			r = copy(layering, &file, entry->size);
	}
	if (!r)
		r = obd_file_finish(&file, inode, entry->size);
	obd_file_deinit(&file);
	return r;
}

/** Short targets lie in the inode, where others have their extents. */
static int link_content(struct obd_layering *layering, struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	const size_t length = strlen(entry->link);
	struct obd_file file = {.fs = layering->fs};
	int r;

	if (!length)
		return obd_fs_fail(layering->fs, EINVAL, "a symlink to nothing");
	if (length > OBD_LINK_MAX || length >= layering->fs->block_size)
		return obd_fs_fail(layering->fs, ENAMETOOLONG, "a symlink to %zu bytes", length);
	if (length < sizeof(inode->raw.i_block)) {
		memcpy(inode->raw.i_block, entry->link, length);
		return obd_inode_set_size(layering->fs, inode, length);
	}
	r = obd_file_reserve(&file, 0, length);
	if (!r)
		r = obd_file_write(&file, entry->link, length);
	if (!r)
		r = obd_file_finish(&file, inode, length);
	obd_file_deinit(&file);
	return r;
}

/** The kernel's two encodings: 8 bits each, or 12 and 20. */
static void device_content(struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	const uint32_t major = entry->major, minor = entry->minor;

	if (major < 256 && minor < 256)
		inode->raw.i_block[0] = major << 8 | minor;
	else
		inode->raw.i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static uint16_t format_of(enum obd_tar_type type)
{
	switch (type) {
	case OBD_TAR_SYMLINK:
		return LINUX_S_IFLNK;
	case OBD_TAR_CHAR:
		return LINUX_S_IFCHR;
	case OBD_TAR_BLOCK:
		return LINUX_S_IFBLK;
	case OBD_TAR_DIR:
		return LINUX_S_IFDIR;
	case OBD_TAR_FIFO:
		return LINUX_S_IFIFO;
	default:
		return LINUX_S_IFREG;
	}
}

static int content(struct obd_layering *layering, struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	switch (entry->type) {
	case OBD_TAR_FILE:
		return file_content(layering, inode, entry);
	case OBD_TAR_SYMLINK:
		return link_content(layering, inode, entry);
	case OBD_TAR_CHAR:
	case OBD_TAR_BLOCK:
		device_content(inode, entry);
		return 0;
	default:
		return 0;
	}
}

/* ---- names */

/** Gives up a half-made inode; the first failure stays the reason. */
static int give_up(struct obd_layering *layering, struct obd_inode *inode, int r)
{
	const struct obd_error why = *layering->fs->err;

	obd_inode_free(layering->fs, inode);
	*layering->fs->err = why;
	return r;
}

/** Everything that is neither directory nor hard link. The name is free. */
static int make(struct obd_layering *layering, struct obd_inode *parent, const struct place *place,
		const struct obd_tar_entry *entry)
{
	const uint16_t format = format_of(entry->type);
	struct obd_fs *fs = layering->fs;
	struct obd_inode inode;
	int r = obd_inode_take(fs, format | (LINUX_S_ISLNK(format) ? 0777 : 0), &inode);

	if (r)
		return r;
	set_attributes(layering, &inode, entry);
	r = content(layering, &inode, entry);
	if (!r)
		r = obd_inode_write_new(fs, &inode);
	if (!r)
		r = set_xattrs(layering, &inode, entry);
	if (!r)
		r = obd_dir_add(fs, parent, place->name, place->length, inode.ino, obd_inode_type(inode.raw.i_mode));
	return r ? give_up(layering, &inode, r) : 0;
}

static int make_dir(struct obd_layering *layering, struct obd_inode *parent, const struct place *place,
		    const struct obd_tar_entry *entry)
{
	struct obd_inode inode;
	int r = obd_inode_take(layering->fs, LINUX_S_IFDIR, &inode);

	if (r)
		return r;
	set_attributes(layering, &inode, entry);
	r = obd_tree_add_dir(layering->tree, parent, place->name, place->length, &inode);
	return r ? r : set_xattrs(layering, &inode, entry);
}

/** An inode that was there before gets the entry's attributes. */
static int change(struct obd_layering *layering, struct obd_inode *inode, const struct obd_tar_entry *entry)
{
	int r;

	set_attributes(layering, inode, entry);
	r = obd_inode_write(layering->fs, inode);
	return r ? r : set_xattrs(layering, inode, entry);
}

/** What is at the place now, if something is: 1, or 0. */
static int look(struct obd_layering *layering, struct obd_inode *parent, const struct place *place,
		struct obd_entry *found, struct obd_inode *inode)
{
	const int r = obd_dir_find(layering->fs, parent, place->name, place->length, found);

	if (r <= 0)
		return r;
	return obd_inode_read(layering->fs, found->ino, inode) ?: 1;
}

static int no_target(struct obd_layering *layering, const struct obd_tar_entry *entry)
{
	return obd_fs_fail(layering->fs, ENOENT, "the target of the hard link, '%.150s'", entry->link);
}

static int find_target(struct obd_layering *layering, const struct obd_tar_entry *entry, struct obd_inode *ret)
{
	struct obd_entry found;
	struct obd_inode dir;
	struct place place;
	int r = clean(layering, entry->link, &place);

	if (r)
		return r;
	if (!place.length)
		return obd_fs_fail(layering->fs, EINVAL, "a hard link to the root");
	r = obd_tree_walk(layering->tree, place.path, place.dir, false, &dir);
	if (!r)
		r = look(layering, &dir, &place, &found, ret);
	if (!r || r == -ENOENT)
		return no_target(layering, entry);
	if (r > 0 && obd_inode_is_dir(ret))
		return obd_fs_fail(layering->fs, EPERM, "a hard link to '%.150s', a directory", entry->link);
	if (r > 0 && ret->raw.i_links_count >= LINKS_MAX)
		return obd_fs_fail(layering->fs, EMLINK, "a hard link to '%.150s'", entry->link);
	return r < 0 ? r : 0;
}

static int hard_link(struct obd_layering *layering, const struct place *place, const struct obd_tar_entry *entry,
		     struct obd_inode *parent)
{
	struct obd_inode target, there;
	struct obd_entry found;
	int r = find_target(layering, entry, &target);

	if (!r)
		r = obd_tree_walk(layering->tree, place->path, place->dir, true, parent);
	if (!r)
		r = look(layering, parent, place, &found, &there);
	if (r < 0)
		return r;
	if (r && there.ino == target.ino)
		return change(layering, &target, entry);
	if (r) {
		r = obd_tree_remove(layering->tree, parent, place->name, place->length, &found);
		// The target may have been in there.
		if (!r)
			r = find_target(layering, entry, &target);
		if (!r)
			r = obd_tree_walk(layering->tree, place->path, place->dir, true, parent);
		if (r)
			return r;
	}
	r = obd_dir_add(layering->fs, parent, place->name, place->length, target.ino,
			obd_inode_type(target.raw.i_mode));
	target.raw.i_links_count++;
	return r ? r : change(layering, &target, entry);
}

static int put(struct obd_layering *layering, const struct place *place, const struct obd_tar_entry *entry,
	       struct obd_inode *parent)
{
	struct obd_entry found;
	struct obd_inode there;
	int r = obd_tree_walk(layering->tree, place->path, place->dir, true, parent);

	if (!r)
		r = look(layering, parent, place, &found, &there);
	if (r < 0)
		return r;
	if (r && entry->type == OBD_TAR_DIR && obd_inode_is_dir(&there))
		return change(layering, &there, entry);
	r = r ? obd_tree_remove(layering->tree, parent, place->name, place->length, &found) : 0;
	if (r)
		return r;
	return entry->type == OBD_TAR_DIR ? make_dir(layering, parent, place, entry)
					  : make(layering, parent, place, entry);
}

/* ---- whiteouts */

static int white_out(struct obd_layering *layering, const struct place *place)
{
	const char *name = place->name + sizeof(WHITEOUT) - 1;
	const size_t length = place->length - (sizeof(WHITEOUT) - 1);
	struct obd_entry found;
	struct obd_inode dir;
	int r;

	if (!length || !strcmp(name, ".") || !strcmp(name, ".."))
		return obd_fs_fail(layering->fs, EINVAL, "a whiteout of nothing");
	r = obd_tree_walk(layering->tree, place->path, place->dir, true, &dir);
	if (r)
		return r;
	if (!strcmp(place->name, OPAQUE))
		return obd_tree_clear(layering->tree, dir.ino);
	r = obd_dir_find(layering->fs, &dir, name, length, &found);
	return r <= 0 ? r : obd_tree_white_out(layering->tree, &dir, name, length, &found);
}

static int change_root(struct obd_layering *layering, const struct obd_tar_entry *entry)
{
	struct obd_inode root;
	int r;

	if (entry->type != OBD_TAR_DIR || entry->path[0] == '/' || !entry->path[0]) {
		warn(layering, "'%.200s' is left out: it is the root", entry->path);
		return 0;
	}
	r = obd_inode_read(layering->fs, EXT2_ROOT_INO, &root);
	return r ? r : change(layering, &root, entry);
}

int obd_layer_entry(struct obd_layering *layering, const struct obd_tar_entry *entry)
{
	struct obd_inode parent;
	struct place place;
	int r = clean(layering, entry->path, &place);

	if (r)
		return r;
	if (!place.length)
		return change_root(layering, entry);
	if (!strncmp(place.name, WHITEOUT, sizeof(WHITEOUT) - 1))
		return white_out(layering, &place);
	r = entry->type == OBD_TAR_HARD_LINK ? hard_link(layering, &place, entry, &parent)
					     : put(layering, &place, entry, &parent);
	return r ? r : obd_tree_mark(layering->tree, &parent, place.name, place.length);
}
