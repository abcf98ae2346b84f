/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tar wrapper: one member, so that a layer is a valid tar blob. Two shapes exist, and no other is read:
 *
 *     0: member header   512: payload
 *     0: pax header      512: pax records, one block    1024: member header    1536: payload
 *
 *     offset  size  field of a header
 *        124    12  size, octal text
 *        148     8  sum of the header's bytes, these 8 counted as spaces, octal text
 *        156     1  type
 *        257     5  "ustar"     (GNU's own format says "ustar  ": not a wrapper, but data)
 *        263     2  "00"
 */
#include "tar.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "error.h"

enum { BLOCK = 512 };

/** Octal text as scanf's %o takes it: leading spaces, then digits up to the first other character or the end. */
static uint64_t octal(const uint8_t *field, size_t size)
{
	uint64_t value = 0;
	size_t i = 0;

	while (i < size && field[i] == ' ')
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
		value = value << 3 | (uint64_t)(field[i] - '0');
	return value;
}

static bool is_header(const uint8_t *block)
{
	uint64_t sum = octal(block + 148, 8);
	int64_t plus = 0, both = 0;

	if (memcmp(block + 257, "ustar", 5) || memcmp(block + 263, "00", 2))
		return false;
	for (size_t i = 0; i < BLOCK; i++) {
		uint8_t byte = i >= 148 && i < 156 ? ' ' : block[i];

		plus += byte;
		both += (int8_t)byte; // old tars summed signed characters
	}
	return sum == (uint64_t)plus || (both >= 0 && sum == (uint64_t)both);
}

/** Decimal digits at text[*at]; false without any, or beyond 2^63. */
static bool decimal(const uint8_t *text, size_t end, size_t *at, uint64_t *ret)
{
	const size_t start = *at;

	for (*ret = 0; *at < end && text[*at] >= '0' && text[*at] <= '9'; (*at)++) {
		if (*ret > (INT64_MAX - 9) / 10)
			return false;
		*ret = *ret * 10 + (uint64_t)(text[*at] - '0');
	}
	return *at > start;
}

/** The records are "<length> <key>=<value>\n". *size stays as it is when there is no record of that name. */
static bool pax_size(const uint8_t *text, size_t count, uint64_t *size)
{
	static const char key[] = "size=";

	for (size_t start = 0; start < count;) {
		size_t at = start, end;
		uint64_t length, value;

		if (!decimal(text, count, &at, &length) || length > count - start)
			return false;
		end = start + (size_t)length;
		if (at + 1 >= end || text[at++] != ' ' || text[end - 1] != '\n')
			return false;
		if (end - at > sizeof(key) - 1 && !memcmp(text + at, key, sizeof(key) - 1)) {
			at += sizeof(key) - 1;
			if (!decimal(text, end, &at, &value) || at != end - 1)
				return false;
			*size = value;
		}
		start = end;
	}
	return true;
}

static int read_block(const struct obd_blob *blob, uint8_t *block, uint64_t offset, struct obd_error *err)
{
	int r;

	if (blob->size < offset + BLOCK)
		return obd_fail(err, EINVAL, "%s: tar ends at offset %llu, within its headers", blob->path,
				(unsigned long long)blob->size);
	r = obd_blob_pread(blob, block, BLOCK, offset);
	if (r)
		return obd_fail(err, -r, "%s: reading the tar header at offset %llu: %s", blob->path,
				(unsigned long long)offset, strerror(-r));
	return 0;
}

/** Reads past the pax header in block: block is the member's header then, *size what the records say. */
static int skip_pax(const struct obd_blob *blob, uint8_t *block, uint64_t *size, struct obd_error *err)
{
	const uint64_t count = octal(block + 124, 12);
	int r;

	if (block[124] & 0x80 || !count || count > BLOCK)
		return obd_fail(err, EINVAL,
				"%s: tar: pax records of %llu bytes, 1 to 512 are understood (header at offset 0)",
				blob->path, (unsigned long long)count);
	r = read_block(blob, block, BLOCK, err);
	if (r)
		return r;
	if (!pax_size(block, (size_t)count, size))
		return obd_fail(err, EINVAL, "%s: tar: malformed pax record in the block at offset 512", blob->path);
	r = read_block(blob, block, 2 * BLOCK, err);
	if (r)
		return r;
	if (!is_header(block))
		return obd_fail(err, EINVAL, "%s: tar: no valid member header at offset 1024, behind the pax records",
				blob->path);
	return 0;
}

int obd_tar_probe(const struct obd_blob *blob, uint64_t *base, uint64_t *size, struct obd_error *err)
{
	uint8_t block[BLOCK];
	uint64_t at = 0, count = 0;
	int r;

	if (blob->size < BLOCK)
		return 0;
	r = read_block(blob, block, 0, err);
	if (r)
		return r;
	if (!is_header(block))
		return 0;
	if (block[156] == 'x' || block[156] == 'g') {
		r = skip_pax(blob, block, &count, err);
		if (r)
			return r;
		at = 2 * BLOCK;
	}
	// '0', the old NUL, and '7' are files; a second pax header or a long name would move the payload.
	if (block[156] != '0' && block[156] != 0 && block[156] != '7')
		return obd_fail(err, EINVAL, "%s: tar: type 0x%02x at offset %llu is not a regular file's", blob->path,
				block[156], (unsigned long long)(at + 156));
	if (!count && block[124] & 0x80)
		return obd_fail(err, EINVAL, "%s: tar: the size at offset %llu is binary, a pax record is expected",
				blob->path, (unsigned long long)(at + 124));
	if (!count)
		count = octal(block + 124, 12);
	at += BLOCK;
	if (count > blob->size - at)
		return obd_fail(err, EINVAL,
				"%s: tar: member of %llu bytes at offset %llu, but the file has %llu bytes", blob->path,
				(unsigned long long)count, (unsigned long long)at, (unsigned long long)blob->size);
	*base = at;
	*size = count;
	return 1;
}

/* ---- writing: the second shape, byte for byte as upstream has it ---- */

/** value as octal text, right-aligned in spaces, in a field of size bytes that ends in a space, and a NUL if short. */
static void put_octal(uint8_t *field, size_t size, uint64_t value)
{
	char text[32];

	snprintf(text, sizeof(text), size == 8 ? "%6llo " : "%11llo ", (unsigned long long)value);
	memcpy(field, text, strlen(text));
}

static void put_text(uint8_t *field, const char *text)
{
	memcpy(field, text, strlen(text));
}

/** Completes a header whose other fields are set. */
static void seal_header(uint8_t *block, uint8_t type)
{
	uint64_t sum = 0;

	block[156] = type;
	put_text(block + 257, "ustar");
	put_text(block + 263, "00");
	memset(block + 148, ' ', 8);
	for (size_t i = 0; i < BLOCK; i++)
		sum += block[i];
	put_octal(block + 148, 8, sum);
	block[155] = 0;
}

/** The record "<length> size=<size>\n", whose length counts its own digits; returns that length. */
static uint64_t put_pax_size(uint8_t *block, uint64_t size)
{
	int length = 0, before;
	char text[64];

	do {
		before = length;
		length = snprintf(text, sizeof(text), "%d size=%llu\n", before, (unsigned long long)size);
	} while (length != before);
	put_text(block, text);
	return (uint64_t)length;
}

void obd_tar_headers(uint8_t headers[OBD_TAR_HEADERS], uint64_t size)
{
	uint8_t *member = headers + 2 * BLOCK;

	memset(headers, 0, OBD_TAR_HEADERS);
	put_text(headers, "overlaybd.pax");
	put_octal(headers + 124, 12, put_pax_size(headers + BLOCK, size));
	seal_header(headers, 'x');
	put_text(member, "overlaybd.commit");
	// Whatever the file's own mode and owner are: the same layer is the same blob on every machine.
	put_octal(member + 100, 8, 0100644);
	put_octal(member + 108, 8, 0);
	put_octal(member + 116, 8, 0);
	put_octal(member + 124, 12, 0); // the pax record says it
	put_octal(member + 136, 12, 0);
	put_text(member + 265, "root");
	put_text(member + 297, "root");
	seal_header(member, '0');
}

uint64_t obd_tar_size(uint64_t size)
{
	return ((OBD_TAR_HEADERS + size + BLOCK - 1) & ~(uint64_t)(BLOCK - 1)) + 2 * BLOCK;
}
