/* SPDX-License-Identifier: Apache-2.0 */
/* libext2fs puts attributes into the inode, then into one block; POSIX ACLs are stored shorter than they come. */
#include "xattr.h"

#include <errno.h>
#include <string.h>

enum { NAME_MAX_BYTES = 255, VALUE_MAX = 64 * 1024 };

bool obd_xattr_known(const char *name)
{
	static const char *const prefixes[] = {"gnu.", "security.", "trusted.", "user.", "system."};

	if (!strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default") ||
	    !strcmp(name, "system.richacl"))
		return true;
	// What is left of system. would be taken for one of those above; and system.data is ext4's own.
	if (!strncmp(name, "system.posix_acl_", 17) || !strncmp(name, "system.richacl", 14) ||
	    !strcmp(name, "system.data"))
		return false;
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
		const size_t length = strlen(prefixes[i]);

		if (!strncmp(name, prefixes[i], length))
			return name[length] && strlen(name + length) <= NAME_MAX_BYTES;
	}
	return false;
}

int obd_xattr_set(struct obd_fs *fs, struct obd_inode *inode, const struct obd_pax_xattr *xattrs, size_t count)
{
	struct ext2_xattr_handle *handle = NULL;
	errcode_t code;
	int r = 0;

	if (!count)
		return 0;
	code = ext2fs_xattrs_open(fs->e2, inode->ino, &handle);
	if (!code)
		code = ext2fs_xattrs_read(handle);
	if (code)
		r = obd_fs_fail(fs, code, "reading the attributes of inode %u", inode->ino);
	for (size_t i = 0; !r && i < count; i++) {
		if (!obd_xattr_known(xattrs[i].name))
			continue;
		code = xattrs[i].length > VALUE_MAX
			       ? EXT2_ET_EA_NO_SPACE
			       : ext2fs_xattr_set(handle, xattrs[i].name, xattrs[i].value, xattrs[i].length);
		if (code)
			r = obd_fs_fail(fs, code, "attribute %.100s of %zu bytes", xattrs[i].name, xattrs[i].length);
	}
	if (handle)
		ext2fs_xattrs_close(&handle);
	return r ? r : obd_inode_read(fs, inode->ino, inode);
}
