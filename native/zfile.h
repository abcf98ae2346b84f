/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_ZFILE_H
#define OBD_ZFILE_H
#include "blob.h"

enum obd_zfile_algo { OBD_LZ4 = 1, OBD_ZSTD = 2 };

enum {
	OBD_ZFILE_RECORD = 512,	   /**< bytes of header and trailer */
	OBD_ZFILE_CRC = 4,	   /**< bytes of the CRC behind a block's payload */
	OBD_ZFILE_SEED = 100007,   /**< of that CRC */
	OBD_ZFILE_BLOCK_MIN = 512, /**< block sizes, powers of two */
	OBD_ZFILE_BLOCK_MAX = 65536,
};

enum obd_zfile_flag {
	OBD_ZFILE_HEADER = 1,
	OBD_ZFILE_DATA = 2,
	OBD_ZFILE_SEALED = 4,
	OBD_ZFILE_FINAL = 8,   /**< the header says what the trailer says */
	OBD_ZFILE_DIGEST = 16, /**< digest and index_crc are right */
};

/** Header or trailer, as far as it matters. */
struct obd_zfile_record {
	uint64_t flags; /**< of enum obd_zfile_flag; other bits are to be ignored */
	uint64_t index_offset, index_size, original_size;
	uint32_t index_crc, block_size, dict_size;
	uint8_t algo, verify;
};

/** Writes all of raw, the digest too. */
void obd_zfile_put_record(uint8_t raw[OBD_ZFILE_RECORD], const struct obd_zfile_record *record);

/*
 * An opened ZFile. The jump table maps a block number to where its stored bytes begin:
 *
 *     group g = block / group_blocks       base[g] (u64, relative to the ZFile's start) + delta[block] (u16)
 *
 * 2.5 bytes a block at 4 KiB. Read-only after open; any number of threads decode from it.
 *
 * A lean one, of a program that goes through it once, has no delta, and base only for every OBD_ZFILE_STRIDE-th block:
 * obd_zfile_read_stride reads what lies between.
 */
enum { OBD_ZFILE_STRIDE = 4096 };

struct obd_zfile {
	uint64_t original_size; /**< bytes when decoded */
	uint64_t blocks;
	uint32_t block_size; /**< power of two, 512 .. 65536 */
	uint32_t block_shift;
	uint32_t group_shift; /**< log2 of group_blocks = 65536 / block_size */
	uint32_t stored_max;  /**< largest stored length in this file, CRC included */
	uint8_t algo;	      /**< enum obd_zfile_algo */
	bool verify;	      /**< every stored block ends in its CRC */
	uint64_t *
		base; /**< one more than there are groups; when the last group is full, base[last] is the end of data */
	uint16_t *delta;
	uint64_t end; /**< where the last stored block ends, relative to the ZFile's start */
	uint64_t index_offset;
};

/** 1: a ZFile with a good header; 0: something else; -errno: unreadable, or a ZFile whose header is damaged. */
int obd_zfile_probe(const struct obd_blob *blob, uint64_t base, uint64_t size, struct obd_error *err);
/** The ZFile occupies [base, base + size) of blob. */
int obd_zfile_open(const struct obd_blob *blob, uint64_t base, uint64_t size, bool lean, struct obd_zfile **ret,
		   struct obd_error *err);
/**
 * Where the blocks of a stride begin, and the last of them ends, relative to where the first begins; of a lean ZFile,
 * opened at base of blob. -EIO when that is not what it was when it was opened.
 */
int obd_zfile_read_stride(const struct obd_zfile *zfile, const struct obd_blob *blob, uint64_t base, uint64_t stride,
			  uint32_t offsets[OBD_ZFILE_STRIDE + 1]);
void obd_zfile_close(struct obd_zfile *zfile);
uint64_t obd_zfile_memory(const struct obd_zfile *zfile);

/** Where block's stored bytes begin, relative to the ZFile's start; block == blocks gives the end. Not of a lean one.
 */
static inline uint64_t obd_zfile_at(const struct obd_zfile *z, uint64_t block)
{
	if (__builtin_expect(block >= z->blocks, 0))
		return z->end;
	return z->base[block >> z->group_shift] + z->delta[block];
}

/** Decoded bytes of block: block_size, or the remainder for the last one. */
static inline uint32_t obd_zfile_block_length(const struct obd_zfile *z, uint64_t block)
{
	uint64_t left = z->original_size - (block << z->block_shift);

	return left < z->block_size ? (uint32_t)left : z->block_size;
}

/** Decoding contexts and nothing else; one per thread, reused for ever. */
struct obd_codec;
int obd_codec_create(struct obd_codec **ret);
void obd_codec_destroy(struct obd_codec *codec);

/**
 * Checks and decodes one block from its stored bytes (payload and CRC) into dst.
 * need: decode at least dst[0, need) (1 .. block length); what lies behind it in dst, up to capacity, is scratch.
 * capacity: room in dst, at least the block's length.
 * Returns how many bytes of dst are right (>= need), -EUCLEAN for a bad CRC, -EIO when the payload does not decode to
 * the block's length.
 */
int obd_zfile_decode(const struct obd_zfile *zfile, struct obd_codec *codec, uint64_t block, const void *stored,
		     size_t stored_count, void *dst, size_t capacity, size_t need);

#endif
