/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk keeps where it is as a list of directories from the root on, and what is left of the path in a buffer that a
 * symlink's target is put in front of. Names that are not there are remembered until the end: ".." may take them back.
 * The list stays: files of one directory follow each other, and walk once.
 */
#include "tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	NAME_MAX_BYTES = 255,
	LINKS_MAX = 255,      /**< symlinks in one walk, as containerd allows */
	REST_MAX = 64 * 1024, /**< bytes of path in front of a walk */
};

struct step {
	ext2_ino_t dir;
	uint64_t key; /**< of its name in the directory before */
};

struct obd_tree {
	struct obd_fs *fs;
	struct obd_marks *marks;
	struct step *steps;
	size_t depth, capacity;
	char rest[REST_MAX + 1]; /**< the path still to go is at its end */
	size_t rest_at;
	char missing[REST_MAX + 1]; /**< names, each with a NUL behind it */
	size_t missing_count;	    /**< bytes */
	char *walked;		    /**< the path of the last walk, while steps are still true */
	size_t walked_length;
	bool marked; /**< the steps are marked */
};

int obd_tree_create(struct obd_fs *fs, struct obd_tree **ret)
{
	struct obd_tree *tree = calloc(1, sizeof(*tree));

	if (!tree || obd_marks_create(&tree->marks)) {
		free(tree);
		return obd_fs_fail(fs, ENOMEM, "opening the tree");
	}
	tree->fs = fs;
	*ret = tree;
	return 0;
}

void obd_tree_destroy(struct obd_tree *tree)
{
	if (!tree)
		return;
	obd_marks_destroy(tree->marks);
	free(tree->walked);
	free(tree->steps);
	free(tree);
}

void obd_tree_changed(struct obd_tree *tree)
{
	free(tree->walked);
	tree->walked = NULL;
}

static int push(struct obd_tree *tree, ext2_ino_t dir, uint64_t key)
{
	if (tree->depth == tree->capacity) {
		const size_t capacity = tree->capacity ? 2 * tree->capacity : 64;
		struct step *steps = realloc(tree->steps, capacity * sizeof(*steps));

		if (!steps)
			return obd_fs_fail(tree->fs, ENOMEM, "a path");
		tree->steps = steps;
		tree->capacity = capacity;
	}
	tree->steps[tree->depth++] = (struct step){dir, key};
	return 0;
}

int obd_tree_read_link(struct obd_fs *fs, struct obd_inode *inode, char target[OBD_LINK_MAX + 1], size_t *length)
{
	const uint64_t size = obd_inode_size(inode);
	errcode_t code;
	blk64_t place;
	int r;

	if (!size || size > OBD_LINK_MAX || size >= fs->block_size)
		return obd_fs_corrupt(fs, "symlink inode %u has %llu bytes", inode->ino, (unsigned long long)size);
	*length = (size_t)size;
	target[size] = 0;
	if (size < sizeof(inode->raw.i_block) && !(inode->raw.i_flags & EXT4_EXTENTS_FL)) {
		memcpy(target, inode->raw.i_block, (size_t)size);
		return 0;
	}
	code = ext2fs_bmap2(fs->e2, inode->ino, obd_inode_small(inode), NULL, 0, 0, NULL, &place);
	if (code)
		return obd_fs_fail(fs, code, "the block of symlink inode %u", inode->ino);
	if (!place || place >= ext2fs_blocks_count(fs->e2->super))
		return obd_fs_corrupt(fs, "the block of symlink inode %u is nowhere", inode->ino);
	r = obd_pages_read(fs->pages, target, (size_t)size, place * fs->block_size);
	return r ? obd_fs_fail(fs, -r, "reading symlink inode %u", inode->ino) : 0;
}

/** In front of the rest of the path, with a slash between. */
static int prepend(struct obd_tree *tree, const char *path, size_t length)
{
	if (length + 1 > tree->rest_at)
		return obd_fs_fail(tree->fs, ENAMETOOLONG, "a path through symlinks");
	tree->rest[--tree->rest_at] = '/';
	tree->rest_at -= length;
	memcpy(tree->rest + tree->rest_at, path, length);
	return 0;
}

/** The next component of the rest; false when none is left. */
static bool next_name(struct obd_tree *tree, const char **name, size_t *length)
{
	while (tree->rest_at < REST_MAX && tree->rest[tree->rest_at] == '/')
		tree->rest_at++;
	*name = tree->rest + tree->rest_at;
	*length = 0;
	while (tree->rest_at < REST_MAX && tree->rest[tree->rest_at] != '/') {
		tree->rest_at++;
		(*length)++;
	}
	return *length > 0;
}

static int follow(struct obd_tree *tree, struct obd_inode *link, unsigned *links)
{
	char target[OBD_LINK_MAX + 1];
	size_t length;
	int r;

	if (++*links > LINKS_MAX)
		return obd_fs_fail(tree->fs, ELOOP, "a path through symlinks");
	r = obd_tree_read_link(tree->fs, link, target, &length);
	if (r)
		return r;
	if (target[0] == '/')
		tree->depth = 1;
	return prepend(tree, target, length);
}

static void miss(struct obd_tree *tree, const char *name, size_t length)
{
	// There is room: what is missing is a part of what was in the rest.
	memcpy(tree->missing + tree->missing_count, name, length);
	tree->missing_count += length;
	tree->missing[tree->missing_count++] = 0;
}

static void up(struct obd_tree *tree)
{
	if (tree->missing_count) {
		tree->missing_count--;
		while (tree->missing_count && tree->missing[tree->missing_count - 1])
			tree->missing_count--;
	} else if (tree->depth > 1) {
		tree->depth--;
	}
}

/** One component down. */
static int down(struct obd_tree *tree, const char *name, size_t length, bool create, unsigned *links)
{
	struct obd_fs *fs = tree->fs;
	const ext2_ino_t at = tree->steps[tree->depth - 1].dir;
	struct obd_inode inode;
	struct obd_entry entry;
	int r;

	if (length > NAME_MAX_BYTES)
		return obd_fs_fail(fs, ENAMETOOLONG, "a name of %zu bytes", length);
	if (tree->missing_count) {
		miss(tree, name, length);
		return 0;
	}
	r = obd_inode_read(fs, at, &inode);
	if (!r)
		r = obd_dir_find(fs, &inode, name, length, &entry);
	if (r < 0)
		return r;
	if (!r && !create)
		return -ENOENT;
	if (!r) {
		miss(tree, name, length);
		return 0;
	}
	r = obd_inode_read(fs, entry.ino, &inode);
	if (r)
		return r;
	if (obd_inode_is_dir(&inode))
		return push(tree, inode.ino, obd_marks_key(tree->marks, at, name, length));
	if (LINUX_S_ISLNK(inode.raw.i_mode))
		return follow(tree, &inode, links);
	return obd_fs_fail(fs, ENOTDIR, "'%.*s' on the way there", (int)length, name);
}

static int make_missing(struct obd_tree *tree)
{
	struct obd_fs *fs = tree->fs;
	int r = 0;

	for (size_t at = 0; !r && at < tree->missing_count;) {
		const ext2_ino_t parent_ino = tree->steps[tree->depth - 1].dir;
		const char *name = tree->missing + at;
		const size_t length = strlen(name);
		struct obd_inode parent, inode;

		r = obd_inode_read(fs, parent_ino, &parent);
		if (!r)
			r = obd_inode_take(fs, LINUX_S_IFDIR | 0755, &inode);
		if (!r)
			r = obd_tree_add_dir(tree, &parent, name, length, &inode);
		if (!r)
			r = push(tree, inode.ino, obd_marks_key(tree->marks, parent_ino, name, length));
		at += length + 1;
	}
	tree->missing_count = 0;
	return r;
}

static int walk(struct obd_tree *tree, const char *path, size_t length, bool create)
{
	unsigned links = 0;
	const char *name;
	size_t count;
	int r;

	tree->depth = 0;
	tree->missing_count = 0;
	tree->rest_at = REST_MAX;
	r = push(tree, EXT2_ROOT_INO, 0);
	if (!r)
		r = prepend(tree, path, length);
	while (!r && next_name(tree, &name, &count)) {
		if (count == 2 && name[0] == '.' && name[1] == '.')
			up(tree);
		else if (count != 1 || name[0] != '.')
			r = down(tree, name, count, create, &links);
	}
	return r ? r : make_missing(tree);
}

int obd_tree_walk(struct obd_tree *tree, const char *path, size_t length, bool create, struct obd_inode *ret)
{
	const bool known = tree->walked && tree->walked_length == length && !memcmp(tree->walked, path, length);
	int r;

	if (!known) {
		obd_tree_changed(tree);
		r = walk(tree, path, length, create);
		if (r)
			return r;
		tree->marked = false;
		tree->walked = malloc(length + 1);
		if (!tree->walked)
			return obd_fs_fail(tree->fs, ENOMEM, "a path");
		memcpy(tree->walked, path, length);
		tree->walked_length = length;
	}
	return obd_inode_read(tree->fs, tree->steps[tree->depth - 1].dir, ret);
}

int obd_tree_mark(struct obd_tree *tree, const struct obd_inode *dir, const char *name, size_t length)
{
	int r = obd_marks_add(tree->marks, obd_marks_key(tree->marks, dir->ino, name, length));

	for (size_t i = 1; !r && !tree->marked && i < tree->depth; i++)
		r = obd_marks_add(tree->marks, tree->steps[i].key);
	tree->marked = true;
	return r ? obd_fs_fail(tree->fs, ENOMEM, "remembering the layer's names") : 0;
}

int obd_tree_add_dir(struct obd_tree *tree, struct obd_inode *parent, const char *name, size_t length,
		     struct obd_inode *inode)
{
	struct obd_fs *fs = tree->fs;
	int r = obd_dir_init(fs, inode, parent->ino);

	if (!r)
		r = obd_dir_add(fs, parent, name, length, inode->ino, EXT2_FT_DIR);
	if (r) {
		struct obd_error why = *fs->err; // the first failure counts

		obd_inode_free(fs, inode);
		*fs->err = why;
		return r;
	}
	return obd_dir_count_child(fs, parent, +1);
}

/* ---- removing */

/** The directories on the way down, and how far each has been looked through. */
struct descent {
	struct frame {
		ext2_ino_t dir;
		struct obd_dir_position at;
	} * frames;
	size_t count, capacity;
};

/** A directory found in another one: it must say so itself, or it could be a loop. */
static int descend(struct obd_fs *fs, struct descent *descent, struct obd_inode *dir, ext2_ino_t above)
{
	if (above) {
		ext2_ino_t parent;
		int r = obd_dir_parent(fs, dir, &parent);

		if (r)
			return r;
		if (parent != above || dir->ino == EXT2_ROOT_INO)
			return obd_fs_corrupt(fs, "directory inode %u is in %u, but says %u", dir->ino, above, parent);
	}
	if (descent->count == descent->capacity) {
		const size_t capacity = descent->capacity ? 2 * descent->capacity : 64;
		struct frame *frames = realloc(descent->frames, capacity * sizeof(*frames));

		if (!frames)
			return obd_fs_fail(fs, ENOMEM, "removing a tree");
		descent->frames = frames;
		descent->capacity = capacity;
	}
	descent->frames[descent->count++] = (struct frame){.dir = dir->ino};
	return 0;
}

/** Frees a directory's inode and all below it. Entries go with their blocks: none is removed one by one. */
static int purge(struct obd_tree *tree, struct obd_inode *top, ext2_ino_t above)
{
	struct obd_fs *fs = tree->fs;
	struct descent descent = {0};
	int r = descend(fs, &descent, top, above);

	while (!r && descent.count) {
		struct frame *frame = &descent.frames[descent.count - 1];
		struct obd_inode dir, child;
		struct obd_entry entry;
		const char *name;
		size_t length;

		r = obd_inode_read(fs, frame->dir, &dir);
		if (!r)
			r = obd_dir_next(fs, &dir, &frame->at, &entry, &name, &length);
		if (r < 0)
			break;
		if (!r) {
			descent.count--;
			r = obd_inode_free(fs, &dir);
			continue;
		}
		obd_marks_remove(tree->marks, obd_marks_key(tree->marks, dir.ino, name, length));
		r = obd_inode_read(fs, entry.ino, &child);
		if (!r)
			r = obd_inode_is_dir(&child) ? descend(fs, &descent, &child, dir.ino)
						     : obd_inode_unlink(fs, &child);
	}
	free(descent.frames);
	return r;
}

int obd_tree_remove(struct obd_tree *tree, struct obd_inode *dir, const char *name, size_t length,
		    const struct obd_entry *entry)
{
	struct obd_fs *fs = tree->fs;
	struct obd_inode child;
	bool is_dir;
	int r = obd_inode_read(fs, entry->ino, &child);

	if (r)
		return r;
	is_dir = obd_inode_is_dir(&child);
	if (is_dir || LINUX_S_ISLNK(child.raw.i_mode))
		obd_tree_changed(tree);
	obd_marks_remove(tree->marks, obd_marks_key(tree->marks, dir->ino, name, length));
	r = obd_dir_remove(fs, dir, entry);
	if (!r)
		r = is_dir ? purge(tree, &child, dir->ino) : obd_inode_unlink(fs, &child);
	if (!r && is_dir)
		r = obd_dir_count_child(fs, dir, -1);
	return r;
}

/** e2fsck's own directory is no layer's. */
static bool is_lost_and_found(const struct obd_inode *dir, const char *name, size_t length)
{
	return dir->ino == EXT2_ROOT_INO && length == 10 && !memcmp(name, "lost+found", 10);
}

int obd_tree_clear(struct obd_tree *tree, ext2_ino_t top)
{
	struct obd_fs *fs = tree->fs;
	struct descent descent = {0};
	struct obd_inode dir, child;
	int r = obd_inode_read(fs, top, &dir);

	if (!r)
		r = descend(fs, &descent, &dir, 0);
	while (!r && descent.count) {
		struct frame *frame = &descent.frames[descent.count - 1];
		char name[NAME_MAX_BYTES];
		struct obd_entry entry;
		const char *found;
		size_t length;

		r = obd_inode_read(fs, frame->dir, &dir);
		if (!r)
			r = obd_dir_next(fs, &dir, &frame->at, &entry, &found, &length);
		if (r < 0)
			break;
		if (!r) {
			descent.count--;
			continue;
		}
		r = 0;
		memcpy(name, found, length);
		if (is_lost_and_found(&dir, name, length))
			continue;
		if (!obd_marks_has(tree->marks, obd_marks_key(tree->marks, dir.ino, name, length))) {
			r = obd_tree_remove(tree, &dir, name, length, &entry);
			continue;
		}
		r = obd_inode_read(fs, entry.ino, &child);
		if (!r && obd_inode_is_dir(&child))
			r = descend(fs, &descent, &child, dir.ino);
	}
	free(descent.frames);
	return r;
}

int obd_tree_white_out(struct obd_tree *tree, struct obd_inode *dir, const char *name, size_t length,
		       const struct obd_entry *entry)
{
	struct obd_inode child;
	int r;

	if (!obd_marks_has(tree->marks, obd_marks_key(tree->marks, dir->ino, name, length)))
		return obd_tree_remove(tree, dir, name, length, entry);
	r = obd_inode_read(tree->fs, entry->ino, &child);
	if (r || !obd_inode_is_dir(&child))
		return r;
	return obd_tree_clear(tree, entry->ino);
}
