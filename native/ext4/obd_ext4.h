/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_H
#define OBD_EXT4_H
/*
 * The one public header of libobd_ext4.so: ext4 in user space, for the tools (overlaybd_tcmu/ffi/ext4.py binds it, in
 * this order). A library of its own, so that the daemon never links libext2fs.
 *
 * The rules of obd.h hold. A disk is a table of functions: the tools fill it with those of libobd.so that read and
 * write an image, or with those of a plain file. A disk must not be written by anybody else meanwhile.
 */
#include "../obd.h"

/** Bumped with every change of a struct or a signature below; Python refuses another. */
#define OBD_EXT4_ABI_VERSION 1u

OBD_PUBLIC uint32_t obd_ext4_abi(void);
/** sizeof a struct of this header by its name ("obd_ext4_disk"), 0 when unknown. */
OBD_PUBLIC size_t obd_ext4_sizeof(const char *name);

/** What a file system lies on. Functions return a count or 0, or -errno, and may be called by one thread at a time. */
struct obd_ext4_disk {
	void *handle; /**< first argument of each */
	int64_t (*pread)(void *handle, void *buf, size_t count, uint64_t offset);
	int64_t (*pwrite)(void *handle, const void *buf, size_t count, uint64_t offset);
	int (*flush)(void *handle);				       /**< what was written is durable */
	int (*discard)(void *handle, uint64_t offset, uint64_t count); /**< reads as zeros from now on */
	uint64_t size;						       /**< bytes */
};

/** The disk that an open regular file or block device is. fd stays the caller's and must outlive the disk. */
OBD_PUBLIC int obd_ext4_disk_of_fd(int fd, struct obd_ext4_disk *ret, struct obd_error *err);

/** Discards the whole disk and makes an ext4 of it: without a journal, 4 KiB blocks, the same bytes every time. */
OBD_PUBLIC int obd_ext4_mkfs(const struct obd_ext4_disk *disk, struct obd_error *err);

/** What happens while obd_ext4_apply runs; another thread may look at the counters, and set stop. Zero it first. */
struct obd_ext4_progress {
	uint64_t input;	   /**< bytes read of the input, as it is stored */
	uint64_t archive;  /**< bytes of the archive, uncompressed */
	uint64_t entries;  /**< applied */
	uint64_t warnings; /**< things left out; warning is the first */
	char warning[504];
	char sha256[72]; /**< of the uncompressed archive, hexadecimal, when it was asked for */
	uint32_t stop;	 /**< 1: come to an end soon, with -ECANCELED */
	uint32_t reserved;
};

struct obd_ext4_apply_options {
	int32_t input;	      /**< descriptor of a tar stream: plain, gzip or zstd, told apart by content */
	uint32_t digest;      /**< 1: sha256 of the uncompressed stream is wanted; obd_ext4_digest always wants it */
	const char *expected; /**< the sha256 it must have, hexadecimal; NULL = any */
};

/**
 * Applies an OCI layer to the ext4 on disk, entry by entry. On failure what was applied before stays, in a file
 * system that is whole; err names the entry and its offset in the uncompressed archive.
 */
OBD_PUBLIC int obd_ext4_apply(const struct obd_ext4_disk *disk, const struct obd_ext4_apply_options *options,
			      struct obd_ext4_progress *progress, struct obd_error *err);

/** Reads the whole input like obd_ext4_apply, for nothing but its digest. */
OBD_PUBLIC int obd_ext4_digest(const struct obd_ext4_apply_options *options, struct obd_ext4_progress *progress,
			       struct obd_error *err);

#endif
