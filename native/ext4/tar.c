/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A header is a block of 512 bytes; an entry's data follows it, filled up to whole blocks.
 *
 *     offset  size  field                          offset  size  field
 *          0   100  name                              257     6  magic: "ustar\0", GNU's "ustar ", or nothing
 *        100     8  mode                              329     8  major
 *        108     8  uid                               337     8  minor
 *        116     8  gid                               345   155  prefix of the name, after "ustar\0";
 *        124    12  size                                         131 when "tar\0" is at 508 (star)
 *        136    12  mtime                          GNU, sparse:
 *        148     8  checksum, counted as spaces       386    96  four regions
 *        156     1  type                              482     1  more of them follow in blocks of their own
 *        157   100  link's target                     483    12  size of the file
 *
 * Headers of type x (pax), L and K (GNU's long names) come before the entry that they are about, and win over it.
 */
#include "tar.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../error.h"

enum {
	BLOCK = 512,
	EXTENSION_MAX = 1024 * 1024, /**< bytes of an extension header */
	NAME = 100,
	PREFIX = 155,
};

struct obd_tar {
	struct obd_input *input;
	struct obd_error *err;
	struct obd_tar_entry entry;
	struct obd_pax pax;
	char *pax_payload, *long_path, *long_link;
	struct obd_sparse sparse;
	char path[PREFIX + 1 + NAME + 1], link[NAME + 1];
	uint8_t block[BLOCK];
	bool again;		  /**< block has been read ahead */
	bool extended;		  /**< extension headers wait for their entry */
	uint64_t stored, padding; /**< bytes of the entry that have not been read */
};

int obd_tar_create(struct obd_input *input, struct obd_error *err, struct obd_tar **ret)
{
	struct obd_tar *tar = calloc(1, sizeof(*tar));

	if (!tar)
		return obd_fail(err, ENOMEM, "no memory");
	tar->input = input;
	tar->err = err;
	*ret = tar;
	return 0;
}

static void forget_entry(struct obd_tar *tar)
{
	obd_pax_reset(&tar->pax);
	obd_sparse_reset(&tar->sparse);
	free(tar->pax_payload);
	free(tar->long_path);
	free(tar->long_link);
	tar->pax_payload = tar->long_path = tar->long_link = NULL;
	tar->entry = (struct obd_tar_entry){0};
	tar->extended = false;
}

void obd_tar_destroy(struct obd_tar *tar)
{
	if (!tar)
		return;
	forget_entry(tar);
	free(tar);
}

__attribute__((format(printf, 3, 4))) static int fail(struct obd_tar *tar, int code, const char *format, ...)
{
	char what[256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(what, sizeof(what), format, arguments);
	va_end(arguments);
	return obd_fail(tar->err, code, "at offset %llu of the archive: %s",
			(unsigned long long)obd_input_offset(tar->input) - (tar->again ? BLOCK : 0), what);
}

/** All of count bytes, or what there is: their number. */
static int64_t read_bytes(struct obd_tar *tar, void *buf, size_t count)
{
	size_t done = 0;

	while (done < count) {
		const uint8_t *data;
		const int64_t n = obd_input_next(tar->input, count - done, &data);

		if (n < 0)
			return n;
		if (!n)
			break;
		if (buf)
			memcpy((uint8_t *)buf + done, data, (size_t)n);
		done += (size_t)n;
	}
	return (int64_t)done;
}

static int truncated(struct obd_tar *tar, const char *where)
{
	return fail(tar, EINVAL, "the archive ends in %s", where);
}

/** The next block, read ahead or not: 1, or 0 at the end of the archive. */
static int read_block(struct obd_tar *tar)
{
	int64_t n;

	if (tar->again) {
		tar->again = false;
		return 1;
	}
	n = read_bytes(tar, tar->block, BLOCK);
	if (n > 0 && n < BLOCK)
		return truncated(tar, "the middle of a header");
	return n < 0 ? (int)n : n > 0;
}

static bool is_zero(const uint8_t block[BLOCK])
{
	return !block[0] && !memcmp(block, block + 1, BLOCK - 1);
}

static bool is_header(const uint8_t block[BLOCK])
{
	int64_t said, plus = 0, both = 0;

	if (!obd_number_field(block + 148, 8, &said))
		return false;
	for (size_t i = 0; i < BLOCK; i++) {
		const uint8_t byte = i >= 148 && i < 156 ? ' ' : block[i];

		plus += byte;
		both += (int8_t)byte; // old tars summed signed characters
	}
	return said == plus || said == both;
}

/** Passes over what the caller has not read of the last entry. */
static int skip_rest(struct obd_tar *tar)
{
	while (tar->stored) {
		const uint8_t *data;
		const int64_t n = obd_tar_data(tar, (size_t)BLOCK * 1024, &data);

		if (n < 0)
			return (int)n;
	}
	while (tar->padding) {
		const int64_t n = read_bytes(tar, NULL, (size_t)tar->padding);

		if (n < 0)
			return (int)n;
		// Nothing is lost when the last block was not filled up.
		tar->padding = 0;
	}
	return 0;
}

int64_t obd_tar_data(struct obd_tar *tar, size_t max, const uint8_t **data)
{
	int64_t n;

	if (!tar->stored)
		return 0;
	n = obd_input_next(tar->input, tar->stored < max ? (size_t)tar->stored : max, data);
	if (n < 0)
		return n;
	if (!n) {
		fail(tar, EINVAL, "the archive ends, %llu bytes of the entry are missing",
		     (unsigned long long)tar->stored);
		return -EINVAL;
	}
	tar->stored -= (uint64_t)n;
	return n;
}

static int field(struct obd_tar *tar, size_t offset, size_t size, const char *name, int64_t *ret)
{
	if (obd_number_field(tar->block + offset, size, ret))
		return 0;
	return obd_fail(tar->err, EINVAL, "at offset %llu of the archive: %s is no number",
			(unsigned long long)(obd_input_offset(tar->input) - BLOCK + offset), name);
}

static int size_of(struct obd_tar *tar, uint64_t *ret)
{
	int64_t size;
	const int r = field(tar, 124, 12, "the size", &size);

	if (r)
		return r;
	if (size < 0)
		return fail(tar, EINVAL, "the size is negative");
	*ret = (uint64_t)size;
	return 0;
}

static uint64_t padding_of(uint64_t size)
{
	return -size % BLOCK;
}

/** The payload of an extension header, with a NUL behind it; NULL if it is not wanted. */
static int read_extension(struct obd_tar *tar, char **ret, size_t *count)
{
	uint64_t size = 0;
	int64_t n;
	int r = size_of(tar, &size);

	if (r)
		return r;
	if (size > EXTENSION_MAX)
		return fail(tar, EINVAL, "an extended header of %llu bytes, more than %d", (unsigned long long)size,
			    EXTENSION_MAX);
	free(*ret);
	*ret = malloc((size_t)size + 1);
	if (!*ret)
		return fail(tar, ENOMEM, "no memory");
	n = read_bytes(tar, *ret, (size_t)size);
	if (n >= 0 && (uint64_t)n < size)
		return truncated(tar, "an extended header");
	(*ret)[size] = 0;
	*count = (size_t)size;
	tar->padding = padding_of(size);
	return n < 0 ? (int)n : skip_rest(tar);
}

static int read_pax(struct obd_tar *tar)
{
	struct obd_error why;
	char *payload = NULL;
	size_t count = 0;
	int r = read_extension(tar, &payload, &count);

	if (r) {
		free(payload);
		return r;
	}
	// A second one replaces the first.
	obd_pax_reset(&tar->pax);
	free(tar->pax_payload);
	tar->pax_payload = payload;
	r = obd_pax_parse(&tar->pax, payload, count, &why);
	return r ? fail(tar, -r, "%s", why.text) : 0;
}

/** Global headers say nothing that a layer needs: readers of layers have always passed over them. */
static int skip_global(struct obd_tar *tar)
{
	char *payload = NULL;
	size_t count;
	const int r = read_extension(tar, &payload, &count);

	free(payload);
	return r;
}

static int read_extensions(struct obd_tar *tar, bool *was)
{
	size_t count;

	*was = true;
	switch (tar->block[156]) {
	case 'x':
		tar->extended = true;
		return read_pax(tar);
	case 'L':
		tar->extended = true;
		return read_extension(tar, &tar->long_path, &count);
	case 'K':
		tar->extended = true;
		return read_extension(tar, &tar->long_link, &count);
	case 'g':
		return skip_global(tar);
	default:
		*was = false;
		return 0;
	}
}

/** Text that ends with its field or with a NUL before. */
static size_t text(char *to, const uint8_t *field, size_t size)
{
	const size_t length = strnlen((const char *)field, size);

	memcpy(to, field, length);
	to[length] = 0;
	return length;
}

static void names(struct obd_tar *tar)
{
	const uint8_t *block = tar->block;
	const bool ustar = !memcmp(block + 257, "ustar", 6), star = ustar && !memcmp(block + 508, "tar", 4);
	size_t length = 0;

	if (ustar && block[345]) {
		length = text(tar->path, block + 345, star ? 131 : PREFIX);
		tar->path[length++] = '/';
	}
	text(tar->path + length, block, NAME);
	text(tar->link, block + 157, NAME);
	tar->entry.path = tar->long_path ? tar->long_path : tar->path;
	tar->entry.link = tar->long_link ? tar->long_link : tar->link;
	if (tar->pax.path)
		tar->entry.path = tar->pax.path;
	if (tar->pax.link)
		tar->entry.link = tar->pax.link;
	if (tar->pax.sparse_name)
		tar->entry.path = tar->pax.sparse_name;
}

static int owner(struct obd_tar *tar, size_t offset, const struct obd_pax_number *pax, const char *name, uint32_t *ret)
{
	int64_t value = (int64_t)pax->value;
	const int r = pax->set ? 0 : field(tar, offset, 8, name, &value);

	if (r)
		return r;
	if (value < 0 || value >= UINT32_MAX)
		return fail(tar, EINVAL, "%s is %lld", name, (long long)value);
	*ret = (uint32_t)value;
	return 0;
}

static int attributes(struct obd_tar *tar)
{
	struct obd_tar_entry *entry = &tar->entry;
	int64_t mode, mtime;
	int r = field(tar, 100, 8, "the mode", &mode);

	if (!r)
		r = owner(tar, 108, &tar->pax.uid, "the uid", &entry->uid);
	if (!r)
		r = owner(tar, 116, &tar->pax.gid, "the gid", &entry->gid);
	if (!r)
		r = field(tar, 136, 12, "the mtime", &mtime);
	if (r)
		return r;
	entry->mode = (uint32_t)mode & 07777;
	entry->mtime = tar->pax.mtime.set ? tar->pax.mtime : (struct obd_time){.s = mtime, .set = true};
	entry->atime = tar->pax.atime;
	entry->xattrs = tar->pax.xattrs;
	entry->xattr_count = tar->pax.xattr_count;
	return 0;
}

static int device(struct obd_tar *tar)
{
	// What Linux, and ext4, can say.
	static const int64_t major_max = 0xfff, minor_max = 0xfffff;
	int64_t major, minor;
	int r = field(tar, 329, 8, "the major number", &major);

	if (!r)
		r = field(tar, 337, 8, "the minor number", &minor);
	if (r)
		return r;
	if (major < 0 || major > major_max || minor < 0 || minor > minor_max)
		return fail(tar, EINVAL, "there is no device %lld:%lld", (long long)major, (long long)minor);
	tar->entry.major = (uint32_t)major;
	tar->entry.minor = (uint32_t)minor;
	return 0;
}

static int bad_map(struct obd_tar *tar, int code)
{
	return fail(tar, -code,
		    code == -E2BIG ? "a sparse file with too many regions" : "the map of a sparse file makes no sense");
}

/** The map in front of the data; it takes up whole blocks of what is stored. */
static int read_map_text(struct obd_tar *tar)
{
	struct obd_sparse_text state = {0};
	int r = 0;

	while (!r) {
		const uint64_t ahead = tar->stored < BLOCK ? tar->stored : BLOCK;
		int64_t n = read_bytes(tar, tar->block, (size_t)ahead);

		if (n < 0)
			return (int)n;
		if ((uint64_t)n < BLOCK)
			return truncated(tar, "the map of a sparse file");
		tar->stored -= BLOCK;
		for (size_t i = 0; !r && i < BLOCK; i++)
			r = obd_sparse_of_text(&tar->sparse, &state, tar->block[i]);
	}
	return r < 0 ? bad_map(tar, r) : 0;
}

static int read_map_blocks(struct obd_tar *tar)
{
	int64_t size;
	bool more = tar->block[482] != 0;
	int r = field(tar, 483, 12, "the size of a sparse file", &size), used = 1;

	if (r)
		return r;
	if (size < 0)
		return fail(tar, EINVAL, "the size of a sparse file is negative");
	tar->sparse.size = (uint64_t)size;
	for (int i = 0; used > 0 && i < 4; i++)
		used = obd_sparse_of_field(&tar->sparse, tar->block + 386 + 24 * i);
	while (used >= 0 && more) {
		const int64_t n = read_bytes(tar, tar->block, BLOCK);

		if (n < BLOCK)
			return n < 0 ? (int)n : truncated(tar, "the map of a sparse file");
		used = 1;
		for (int i = 0; used > 0 && i < 21; i++)
			used = obd_sparse_of_field(&tar->sparse, tar->block + 24 * i);
		more = tar->block[504] != 0;
	}
	return used < 0 ? bad_map(tar, used) : 0;
}

/** How GNU tar says that a file is sparse: one way in the header, three in its extension. */
static int sparse(struct obd_tar *tar, uint8_t type)
{
	const struct obd_pax *pax = &tar->pax;
	int r = 0;

	if (type == 'S') {
		r = read_map_blocks(tar);
	} else if (pax->sparse_major.set && pax->sparse_major.value) {
		if (pax->sparse_major.value != 1 || pax->sparse_minor.value)
			return fail(tar, EOPNOTSUPP, "a sparse file of format %llu.%llu",
				    (unsigned long long)pax->sparse_major.value,
				    (unsigned long long)pax->sparse_minor.value);
		tar->sparse.size = pax->sparse_real_size.value;
		r = read_map_text(tar);
	} else if (pax->sparse_map || pax->pair_count || pax->sparse_size.set) {
		r = obd_sparse_of_pax(&tar->sparse, pax);
		if (r)
			return bad_map(tar, r);
	} else {
		return 0;
	}
	if (r)
		return r;
	if (!obd_sparse_fits(&tar->sparse, tar->stored))
		return bad_map(tar, -EINVAL);
	tar->entry.sparse = &tar->sparse;
	tar->entry.size = tar->sparse.size;
	return 0;
}

/**
 * Links, directories and devices have no data. Some write a size all the same, and of those some write the data, too:
 * only a look at the next block can tell.
 */
static int skip_payload(struct obd_tar *tar)
{
	int r;

	if (!tar->stored)
		return 0;
	r = read_block(tar);
	if (r < 0)
		return r;
	if (!r || is_zero(tar->block) || is_header(tar->block)) {
		tar->again = r > 0;
		tar->stored = tar->padding = 0;
		return 0;
	}
	if (tar->stored > BLOCK) {
		tar->stored -= BLOCK;
	} else {
		tar->stored = tar->padding = 0;
	}
	return 0;
}

static int type_of(struct obd_tar *tar, uint8_t byte)
{
	switch (byte) {
	case 0: {
		const size_t length = strlen(tar->entry.path);

		// before there were types, a slash made a directory
		tar->entry.type = length && tar->entry.path[length - 1] == '/' ? OBD_TAR_DIR : OBD_TAR_FILE;
		return 0;
	}
	case '0':
	case '7':
	case 'S':
		tar->entry.type = OBD_TAR_FILE;
		return 0;
	case '1':
	case '2':
	case '3':
	case '4':
	case '5':
	case '6':
		tar->entry.type = (enum obd_tar_type)byte;
		return 0;
	default:
		return fail(tar, EOPNOTSUPP, "entry '%.100s' has type 0x%02x ('%c'), which no file system holds",
			    tar->entry.path, byte, isgraph(byte) ? byte : '?');
	}
}

/** The block is the header of an entry, not of an extension. */
static int read_entry(struct obd_tar *tar)
{
	const uint8_t type = tar->block[156];
	struct obd_tar_entry *entry = &tar->entry;
	int r;

	names(tar);
	r = type_of(tar, type);
	if (!r)
		r = attributes(tar);
	if (!r)
		r = size_of(tar, &tar->stored);
	if (r)
		return r;
	if (tar->pax.size.set)
		tar->stored = tar->pax.size.value;
	tar->padding = padding_of(tar->stored);
	entry->size = tar->stored;
	switch (entry->type) {
	case OBD_TAR_FILE:
		return sparse(tar, type);
	case OBD_TAR_CHAR:
	case OBD_TAR_BLOCK:
		r = device(tar);
		return r ? r : skip_payload(tar);
	default:
		return skip_payload(tar);
	}
}

int obd_tar_next(struct obd_tar *tar, const struct obd_tar_entry **ret)
{
	uint64_t start = 0;
	bool zero = false;
	int r = skip_rest(tar);

	forget_entry(tar);
	while (!r) {
		bool extension;

		r = read_block(tar);
		if (r < 0)
			return r;
		if (!r)
			return tar->extended ? truncated(tar, "an entry, behind its extended header") : 0;
		if (is_zero(tar->block)) {
			if (tar->extended)
				return fail(tar, EINVAL, "an extended header without an entry");
			if (zero)
				return 0;
			zero = true;
			r = 0;
			continue;
		}
		zero = false;
		if (!is_header(tar->block))
			return obd_fail(tar->err, EINVAL,
					"at offset %llu of the archive: no tar header (wrong checksum)",
					(unsigned long long)obd_input_offset(tar->input) - BLOCK);
		if (!tar->extended)
			start = obd_input_offset(tar->input) - BLOCK;
		r = read_extensions(tar, &extension);
		if (r || extension)
			continue;
		tar->entry.offset = start;
		r = read_entry(tar);
		if (!r) {
			*ret = &tar->entry;
			return 1;
		}
	}
	return r;
}
