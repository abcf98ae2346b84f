/* SPDX-License-Identifier: Apache-2.0 */
/* A whole layer: from a stream to a file system that is whole, whatever happens on the way. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "../error.h"
#include "layer.h"

enum { DRAIN = 1024 * 1024, NAME_SHOWN = 160 };

/** Says which entry failed. */
static int blame(struct obd_error *err, const struct obd_tar_entry *entry, int code)
{
	const struct obd_error why = *err;
	const char *more = strlen(entry->path) > NAME_SHOWN ? "..." : "";

	return obd_fail(err, -code, "entry '%.*s%s' at offset %llu: %.300s", NAME_SHOWN, entry->path, more,
			(unsigned long long)entry->offset, why.text);
}

/** Names in it may hold anything; it goes to a terminal, and is one line. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if (iscntrl((unsigned char)*text))
			*text = '?';
}

static int apply_entries(struct obd_layering *layering)
{
	const struct obd_tar_entry *entry;
	int r;

	for (;;) {
		r = obd_tar_next(layering->tar, &entry);
		if (r <= 0)
			return r;
		r = obd_layer_entry(layering, entry);
		if (r)
			return blame(layering->fs->err, entry, r);
		__atomic_store_n(&layering->progress->entries, layering->progress->entries + 1, __ATOMIC_RELAXED);
	}
}

/** To the end: a compressed stream may turn out to be damaged, and who feeds a pipe should not be cut off. */
static int drain(struct obd_input *input)
{
	const uint8_t *data;
	int64_t n;

	do
		n = obd_input_next(input, DRAIN, &data);
	while (n > 0);
	return (int)n;
}

static int check_digest(const struct obd_input *input, const struct obd_ext4_apply_options *options,
			struct obd_ext4_progress *progress, struct obd_error *err)
{
	obd_input_sha256(input, progress->sha256);
	if (options->expected && strcasecmp(options->expected, progress->sha256))
		return obd_fail(err, EBADMSG, "sha256 checksum mismatch, expect: %.64s, got: %s", options->expected,
				progress->sha256);
	return 0;
}

/** What the original leaves behind in every file system it makes. */
static int mend_lost_and_found(struct obd_fs *fs)
{
	struct obd_inode root, dir;
	struct obd_entry found;
	int r = obd_inode_read(fs, EXT2_ROOT_INO, &root);

	if (!r)
		r = obd_dir_find(fs, &root, "lost+found", 10, &found);
	if (r <= 0)
		return r;
	r = obd_inode_read(fs, found.ino, &dir);
	return r || !obd_inode_is_dir(&dir) ? r : obd_htree_mend(fs, &dir);
}

static int apply_to(struct obd_fs *fs, struct obd_input *input, const struct obd_ext4_apply_options *options,
		    struct obd_ext4_progress *progress)
{
	struct obd_layering layering = {.fs = fs, .progress = progress};
	int r = obd_tree_create(fs, &layering.tree);

	if (!r)
		r = mend_lost_and_found(fs);
	if (!r)
		r = obd_tar_create(input, fs->err, &layering.tar);
	if (!r)
		r = apply_entries(&layering);
	if (!r)
		r = drain(input);
	if (!r && options->digest)
		r = check_digest(input, options, progress, fs->err);
	obd_tar_destroy(layering.tar);
	obd_tree_destroy(layering.tree);
	return r;
}

int obd_ext4_apply(const struct obd_ext4_disk *disk, const struct obd_ext4_apply_options *options,
		   struct obd_ext4_progress *progress, struct obd_error *err)
{
	struct obd_input *input = NULL;
	struct obd_error why;
	struct obd_fs *fs;
	int r = obd_fs_open(disk, &fs, err);

	if (r)
		return r;
	r = obd_input_create(options->input, options->digest, progress, &input, err);
	if (!r)
		r = apply_to(fs, input, options, progress);
	if (r) {
		why = *err;
		obd_fs_flush(fs); // what has been applied is whole
		*err = why;
		make_printable(err->text);
	} else {
		r = obd_fs_flush(fs);
	}
	make_printable(progress->warning);
	obd_input_destroy(input);
	obd_fs_destroy(fs);
	return r;
}

int obd_ext4_digest(const struct obd_ext4_apply_options *options, struct obd_ext4_progress *progress,
		    struct obd_error *err)
{
	struct obd_input *input;
	int r = obd_input_create(options->input, true, progress, &input, err);

	if (r)
		return r;
	r = drain(input);
	if (!r)
		r = check_digest(input, options, progress, err);
	obd_input_destroy(input);
	return r;
}
