/* SPDX-License-Identifier: Apache-2.0 */
#ifndef OBD_EXT4_NUMBER_H
#define OBD_EXT4_NUMBER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** A field of a tar header: octal text between spaces and NULs (nothing is 0), or base-256 after a first bit of 1. */
bool obd_number_field(const uint8_t *field, size_t size, int64_t *ret);
/** All of text as a decimal number without a sign, below 2^63. */
bool obd_number_decimal(const char *text, size_t length, uint64_t *ret);

/** Seconds since 1970 and what is to be added in nanoseconds. */
struct obd_time {
	int64_t s;
	uint32_t ns;
	bool set;
};
/** Decimal seconds, with a sign and a fraction if it likes. */
bool obd_number_time(const char *text, size_t length, struct obd_time *ret);

#endif
