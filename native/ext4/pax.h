/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_PAX_H
#define OBD_EXT4_PAX_H
#include "number.h"
#include "obd_ext4.h"

/** An extended attribute of an entry. */
struct obd_pax_xattr {
	const char *name; /**< "security.capability", NUL-terminated */
	const uint8_t *value;
	size_t length;
};

struct obd_pax_number {
	uint64_t value;
	bool set;
};

/**
 * What the extended header of an entry says. Texts point into its payload and end with a NUL; NULL: not there.
 */
struct obd_pax {
	const char *path, *link, *sparse_name, *sparse_map;
	struct obd_pax_number size, uid, gid;
	struct obd_pax_number sparse_major, sparse_minor, sparse_size, sparse_real_size;
	struct obd_time mtime, atime;
	struct obd_pax_xattr *xattrs;
	size_t xattr_count, xattr_capacity;
	uint64_t *pairs;		  /**< GNU.sparse.offset and .numbytes in turn */
	size_t pair_count, pair_capacity; /**< numbers */
};

/**
 * Reads the records "<length> <key>=<value>\n" of a payload, which is changed (NULs for the line ends) and must outlive
 * pax. A later record of a key replaces an earlier one, an empty value takes it back.
 */
int obd_pax_parse(struct obd_pax *pax, char *payload, size_t count, struct obd_error *err);
/** Back to all zeros. */
void obd_pax_reset(struct obd_pax *pax);

#endif
