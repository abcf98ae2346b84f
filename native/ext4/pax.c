/* SPDX-License-Identifier: Apache-2.0 */
#include "pax.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../error.h"

static const char XATTR[] = "SCHILY.xattr.";

void obd_pax_reset(struct obd_pax *pax)
{
	free(pax->xattrs);
	free(pax->pairs);
	*pax = (struct obd_pax){0};
}

/** NULL for an empty value; false when there is a NUL in it. */
static bool as_text(const char *value, size_t length, const char **ret)
{
	*ret = length ? value : NULL;
	return !memchr(value, 0, length);
}

static bool as_number(const char *value, size_t length, struct obd_pax_number *ret)
{
	ret->set = length > 0;
	return !length || obd_number_decimal(value, length, &ret->value);
}

static bool as_time(const char *value, size_t length, struct obd_time *ret)
{
	ret->set = false;
	return !length || obd_number_time(value, length, ret);
}

/** One more in an array of elements; NULL without memory. */
static void *more(void *array, size_t count, size_t *capacity, size_t size)
{
	void *grown;

	if (count < *capacity)
		return array;
	grown = realloc(array, (*capacity ? 2 * *capacity : 8) * size);
	if (grown)
		*capacity = *capacity ? 2 * *capacity : 8;
	return grown;
}

static int add_xattr(struct obd_pax *pax, const char *name, const char *value, size_t length)
{
	struct obd_pax_xattr *xattrs;
	size_t i = 0;

	while (i < pax->xattr_count && strcmp(pax->xattrs[i].name, name))
		i++;
	xattrs = more(pax->xattrs, i, &pax->xattr_capacity, sizeof(*xattrs));
	if (!xattrs)
		return -ENOMEM;
	pax->xattrs = xattrs;
	xattrs[i] = (struct obd_pax_xattr){name, (const uint8_t *)value, length};
	if (i == pax->xattr_count)
		pax->xattr_count++;
	return 0;
}

/** Old sparse records, whose order counts; which of a pair this is must be as expected. */
static int add_pair(struct obd_pax *pax, const char *value, size_t length, bool second)
{
	struct obd_pax_number number;
	uint64_t *pairs;

	if (pax->pair_count % 2 != second || !length || !as_number(value, length, &number))
		return -EINVAL;
	pairs = more(pax->pairs, pax->pair_count, &pax->pair_capacity, sizeof(*pairs));
	if (!pairs)
		return -ENOMEM;
	pax->pairs = pairs;
	pairs[pax->pair_count++] = number.value;
	return 0;
}

/** A record's value has a NUL behind it. */
static int take(struct obd_pax *pax, const char *key, const char *value, size_t length)
{
	const struct {
		const char *key;
		const char **text;
		struct obd_pax_number *number;
		struct obd_time *time;
	} fields[] = {
		{"path", &pax->path, NULL, NULL},
		{"linkpath", &pax->link, NULL, NULL},
		{"size", NULL, &pax->size, NULL},
		{"uid", NULL, &pax->uid, NULL},
		{"gid", NULL, &pax->gid, NULL},
		{"mtime", NULL, NULL, &pax->mtime},
		{"atime", NULL, NULL, &pax->atime},
		{"GNU.sparse.major", NULL, &pax->sparse_major, NULL},
		{"GNU.sparse.minor", NULL, &pax->sparse_minor, NULL},
		{"GNU.sparse.name", &pax->sparse_name, NULL, NULL},
		{"GNU.sparse.map", &pax->sparse_map, NULL, NULL},
		{"GNU.sparse.size", NULL, &pax->sparse_size, NULL},
		{"GNU.sparse.realsize", NULL, &pax->sparse_real_size, NULL},
	};
	bool good = true;

	if (!strncmp(key, XATTR, sizeof(XATTR) - 1))
		return add_xattr(pax, key + sizeof(XATTR) - 1, value, length);
	if (!strcmp(key, "GNU.sparse.offset") || !strcmp(key, "GNU.sparse.numbytes"))
		return add_pair(pax, value, length, !strcmp(key, "GNU.sparse.numbytes"));
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strcmp(key, fields[i].key))
			continue;
		if (fields[i].text)
			good = as_text(value, length, fields[i].text);
		else if (fields[i].number)
			good = as_number(value, length, fields[i].number);
		else
			good = as_time(value, length, fields[i].time);
	}
	return good ? 0 : -EINVAL;
}

/** The record at text: its length, key and value; false when it is none. */
static bool split(char *text, size_t left, size_t *length, char **key, char **value)
{
	char *const space = memchr(text, ' ', left < 20 ? left : 20);
	uint64_t count;

	if (!space || !obd_number_decimal(text, (size_t)(space - text), &count))
		return false;
	if (count > left || count < (size_t)(space - text) + 3 || text[count - 1] != '\n')
		return false;
	*length = (size_t)count;
	*key = space + 1;
	*value = memchr(*key, '=', (size_t)(text + count - *key));
	if (!*value || *value == *key || memchr(*key, 0, (size_t)(*value - *key)))
		return false;
	*(*value)++ = 0;
	text[count - 1] = 0;
	return true;
}

int obd_pax_parse(struct obd_pax *pax, char *payload, size_t count, struct obd_error *err)
{
	size_t length;

	for (size_t at = 0; at < count; at += length) {
		char *key, *value;
		int r;

		if (!split(payload + at, count - at, &length, &key, &value))
			return obd_fail(err, EINVAL, "malformed pax record at byte %zu of the extended header", at);
		r = take(pax, key, value, (size_t)(payload + at + length - 1 - value));
		if (r)
			return obd_fail(err, -r, "pax record %.100s: %s", key,
					r == -ENOMEM ? "no memory" : "the value makes no sense");
	}
	return 0;
}
